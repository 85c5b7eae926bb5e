"""The page at `/`, its files, and the documentation of the API at `/docs`."""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from blacksheep.server.application import Application

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Api
from coinspace.endpoint.http.openapi import document
from coinspace.endpoint.http.problem import Problem

# the folder below assets/ is named by a digest of its content, so that the content never changes
IMMUTABLE = b"public, max-age=31536000, immutable"
REVALIDATE = b"no-cache"
mimetypes.add_type("text/javascript", ".js")

Given = TypeVar("Given")
Handler = Callable[[Request], Awaitable[Response]]


def install(app: Application, api: Api, context: Context) -> None:
    """Add the routes of the page, which are not part of the API's document."""
    described = functools.cache(lambda: orjson.dumps(document(api)))
    app.router.add_get("/openapi.json", _with(openapi, described))
    app.router.add_get("/", _with(page, context.dashboard))
    app.router.add_get("/docs", _with(docs, context.dashboard))
    app.router.add_get("/assets/{version}/{name}", _with(asset, context.dashboard))


def _with(answer: Callable[[Request, Given], Response], given: Given) -> Handler:
    # the router sets attributes of a handler, which methods and partial functions do not allow
    async def handle(request: Request) -> Response:
        return answer(request, given)

    return handle


def openapi(request: Request, described: Callable[[], bytes]) -> Response:
    """Answer with the document of the API, which the first request makes."""
    return _bytes(request, described(), b"application/json", REVALIDATE)


def page(request: Request, folder: Path) -> Response:
    """Answer with the page, or with instructions to build it."""
    return _file(request, folder, "index.html") or _plain(request, PAGE_MISSING)


def docs(request: Request, folder: Path) -> Response:
    """Answer with the API's documentation, or with instructions to build it."""
    return _file(request, folder, "docs.html") or _plain(request, DOCS_MISSING)


def asset(request: Request, folder: Path) -> Response:
    """Answer with a file of the page."""
    values = request.route_values or {}
    version, name = values.get("version") or "", values.get("name") or ""
    # the version is the name of a folder, never a path
    found = _file(request, folder / "assets" / version, name) if version.isalnum() else None
    if found is None:
        raise Problem("unknown-route", f"no file {name[:100]!r} in the page")
    return found


def _file(request: Request, folder: Path, name: str) -> Response | None:
    # one folder, no subfolders: a name with a separator is never a file here
    if not name or Path(name).name != name or name.startswith("."):
        return None
    try:
        body = (folder / name).read_bytes()
    except (OSError, ValueError):
        # ValueError: a name that a file cannot have
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
