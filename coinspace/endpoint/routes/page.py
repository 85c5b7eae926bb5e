"""The page at `/`, its files, and the API's documents: `/docs`, OpenAPI and AsyncAPI."""

from __future__ import annotations

import functools
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from blacksheep.server.application import Application

from coinspace.endpoint.http import asyncapi, openapi
from coinspace.endpoint.http.api import Operation, with_etag
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.routes.streams import EVENTS, REPLIES

# the folder below assets/ is named by a digest of its content, so that the content never changes
IMMUTABLE = b"public, max-age=31536000, immutable"
REVALIDATE = b"no-cache"
mimetypes.add_type("text/javascript", ".js")

Handler = Callable[[Request], Awaitable[Response]]


def install(app: Application, operations: list[Operation], folder: Path) -> None:
    """Add the routes of the page, which are not part of the API's document.

    Args: folder: of the built page.
    """
    described = functools.cache(lambda: orjson.dumps(openapi.document(operations)))
    streams = functools.cache(lambda: orjson.dumps(asyncapi.document(EVENTS, REPLIES)))
    app.router.add_get("/openapi.json", _with(machine_readable, described))
    app.router.add_get("/asyncapi.json", _with(machine_readable, streams))
    app.router.add_get("/", _with(page, folder))
    app.router.add_get("/docs", _with(docs, folder))
    app.router.add_get("/assets/{version}/{name}", _with(asset, folder))


def _with(answer: Callable[[Request, Any], Response], given: Any) -> Handler:
    # the router sets attributes of a handler, which methods and partial functions do not allow
    async def handle(request: Request) -> Response:
        return answer(request, given)

    return handle


def machine_readable(request: Request, described: Callable[[], bytes]) -> Response:
    """Answer with a document of the API, which the first request makes."""
    return with_etag(request, Content(b"application/json", described()), REVALIDATE)


def page(request: Request, folder: Path) -> Response:
    """Answer with the page, or with instructions to build it."""
    return _file(request, folder, "index.html") or _missing(request, "dashboard")


def docs(request: Request, folder: Path) -> Response:
    """Answer with the API's documentation, or with instructions to build it."""
    return _file(request, folder, "docs.html") or _missing(request, "documentation page")


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
    return with_etag(request, Content(kind.encode(), body), cache)


def _missing(request: Request, what: str) -> Response:
    content = Content(b"text/html; charset=utf-8", MISSING.format(what).encode())
    return with_etag(request, content, REVALIDATE)


MISSING = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>CoinSpace</title>'
    '<body style="font:16px/1.6 system-ui;margin:4rem auto;max-width:40rem;padding:0 1rem">'
    "<h1>CoinSpace</h1><p>The {} is not built yet. Build it with"
    " <code>python -m coinspace.endpoint.dashboard.build</code> and reload.</p>"
    '<p>The API is served: <a href="/v1/indices">/v1/indices</a>,'
    ' <a href="/v1/venues">/v1/venues</a>, <a href="/openapi.json">/openapi.json</a>.</p>'
)
