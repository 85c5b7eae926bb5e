"""The application: routes, errors as problem+json, compression, and the gate before them."""

from __future__ import annotations

import functools
import logging
from typing import Any

import structlog
from blacksheep.exceptions import HTTPException
from blacksheep.messages import Request, Response
from blacksheep.server.application import Application
from blacksheep.server.compression import GzipMiddleware, use_gzip_compression
from blacksheep.server.routing import Router

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import bound
from coinspace.endpoint.http.connection import App
from coinspace.endpoint.http.gate import Gate
from coinspace.endpoint.http.keys import keys_of
from coinspace.endpoint.http.problem import Problem, of_storage, unknown_route
from coinspace.endpoint.routes import (
    books,
    catalog,
    history,
    indices,
    market,
    page,
    platform,
    premium,
    rates,
    streams,
)
from coinspace.errors import DatabaseUnavailable, NoSuchColumn, NoSuchTable, QueryTimeout

# a smaller answer fits into one packet uncompressed
GZIP_MIN_BYTES = 1400
GZIP_LEVEL = 4
GZIP_TYPES = (b"json", b"text/", b"javascript", b"svg")
OPERATIONS = [
    operation
    for module in (indices, rates, history, premium, books, market, catalog, platform, streams)
    for operation in module.routes
]
# what a client can wait for; any other error of the database is internal
OF_STORAGE = (DatabaseUnavailable, QueryTimeout, NoSuchTable, NoSuchColumn)


def build(context: Context) -> tuple[Gate, Application]:
    """Return the gate, which is the ASGI application to serve, and the application behind it."""
    # the framework logs every handled error at info; they are counted instead
    logging.getLogger("blacksheep.server").disabled = True
    app = Application(router=Router())
    for operation in OPERATIONS:
        app.router.add_get(operation.path, bound(operation, context))
    page.install(app, OPERATIONS, context.dashboard)
    _handle_errors(app)
    use_gzip_compression(app, GzipMiddleware(GZIP_MIN_BYTES, GZIP_LEVEL, GZIP_TYPES))

    def known_path(path: str) -> bool:
        # not the router's own search, which finds the fallback route for any path
        raw = path.encode("utf-8", "replace").lower()
        return any(route.match_by_path(raw) for route in app.router.routes[b"GET"])

    ready = functools.partial(indices.at_hand, context)
    sockets: dict[str, App] = {streams.WEBSOCKET: functools.partial(streams.websocket, context)}
    keys = keys_of(context.settings)
    gate = Gate(app, context.settings.endpoint, keys, sockets, known_path, ready)
    return gate, app


def _handle_errors(app: Application) -> None:
    async def handle(_: Any, request: Request, error: Exception) -> Response:
        return _problem(request, error).response()

    async def fallback(request: Request) -> Response:
        return unknown_route(request.path).response()

    for kind in (Problem, HTTPException, *OF_STORAGE, 400, 404, 500):
        app.exceptions_handlers[kind] = handle
    app.router.fallback = fallback


def _problem(request: Request, error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, OF_STORAGE):
        return of_storage(error)
    if isinstance(error, HTTPException) and error.status == 404:
        return unknown_route(request.path)
    if isinstance(error, HTTPException) and error.status < 500:
        return Problem("invalid-request", str(error) or "the request cannot be read")
    cause = getattr(error, "source_error", None) or error
    structlog.get_logger("index-endpoint").error(
        "request failed", path=request.path[:200], error=repr(cause), exc_info=cause
    )
    return Problem("internal-error", "the error is logged; try again")
