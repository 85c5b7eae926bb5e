"""The page at `/`, its files, and the documentation of the API at `/docs`."""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from pathlib import Path

import orjson
from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from blacksheep.server.application import Application

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Api
from coinspace.endpoint.http.openapi import document
from coinspace.endpoint.http.problem import Problem

# the folder below assets/ is named by a digest of what it holds, so that never changes
IMMUTABLE = b"public, max-age=31536000, immutable"
REVALIDATE = b"no-cache"
mimetypes.add_type("text/javascript", ".js")


def add(api: Api, context: Context, app: Application) -> None:
    """Register the routes; call it last, the document describes the routes before it."""
    folder = context.dashboard

    @functools.cache
    def described() -> bytes:
        return orjson.dumps(document(api))

    async def openapi(request: Request) -> Response:
        return _bytes(request, described(), b"application/json", REVALIDATE)

    async def page(request: Request) -> Response:
        return _file(request, folder, "index.html") or _plain(request, PAGE_MISSING)

    async def docs(request: Request) -> Response:
        return _file(request, folder, "docs.html") or _plain(request, DOCS_MISSING)

    async def asset(request: Request) -> Response:
        values = request.route_values or {}
        version, name = values.get("version") or "", values.get("name") or ""
        # the version is a folder's name: nothing else can be in it
        found = _file(request, folder / "assets" / version, name) if version.isalnum() else None
        if found is None:
            raise Problem("unknown-route", f"no file {name[:100]!r} in the page")
        return found

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/", page)
    app.router.add_get("/docs", docs)
    app.router.add_get("/assets/{version}/{name}", asset)


def _file(request: Request, folder: Path, name: str) -> Response | None:
    # one folder, no subfolders: a name with a separator is never a file here
    if not name or Path(name).name != name or name.startswith("."):
        return None
    try:
        body = (folder / name).read_bytes()
    except (OSError, ValueError):
        # there is none, or the system has no file of such a name
        return None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    cache = IMMUTABLE if folder.parent.name == "assets" else REVALIDATE
    return _bytes(request, body, kind.encode(), cache)


def _bytes(request: Request, body: bytes, kind: bytes, cache: bytes) -> Response:
    tag = b'"%b"' % hashlib.sha256(body).hexdigest()[:20].encode()
    headers = [(b"etag", tag), (b"cache-control", cache)]
    if tag in (request.get_first_header(b"if-none-match") or b""):
        return Response(304, headers)
    return Response(200, headers, Content(kind, body))


def _plain(request: Request, text: str) -> Response:
    return _bytes(request, text.encode(), b"text/html; charset=utf-8", REVALIDATE)


_HEAD = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>CoinSpace</title>'
    "<style>body{font:16px/1.6 system-ui;margin:4rem auto;max-width:40rem;padding:0 1rem}</style>"
)
_API_LINKS = (
    '<p>The API is served: <a href="/v1/indices">/v1/indices</a>,'
    ' <a href="/v1/venues">/v1/venues</a>, <a href="/openapi.json">/openapi.json</a>.</p>'
)
PAGE_MISSING = (
    f"{_HEAD}<h1>CoinSpace</h1><p>The dashboard is not built yet. Build it with"
    f" <code>python -m coinspace.endpoint.dashboard.build</code> and reload.</p>{_API_LINKS}"
)
DOCS_MISSING = (
    f"{_HEAD}<h1>CoinSpace API</h1><p>The documentation page is not built yet. Build it with"
    f" <code>python -m coinspace.endpoint.dashboard.build</code> and reload.</p>{_API_LINKS}"
)
