"""Stored data without a running endpoint: the API's routes over the database, or any SELECT."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.http import keys as api_keys
from coinspace.endpoint.http.app import build
from coinspace.endpoint.http.keys import Keys
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import Live
from coinspace.errors import EndpointError
from coinspace.storage.read.pool import Database, readonly_address
from coinspace.storage.read.select import check_reader, pages_of
from coinspace.tasks import Tasks

# a person can stop a command that takes too long
TIMEOUT_S = 3600.0


@contextlib.asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[Database]:
    """Yield the database as its read-only user sees it."""
    found = Database(lambda: readonly_address(settings), size=2, timeout_s=TIMEOUT_S)
    try:
        yield found
    finally:
        await found.close()


async def answer(
    settings: Settings, path: str, parameters: dict[str, Any], accept: str
) -> AsyncIterator[bytes]:
    """Yield the body of a route part by part.

    Raises: EndpointError with the problem's text, or why the database cannot be read.
    """
    async with database(settings) as found:
        gate, app = build(_context(settings, found), Keys(api_keys.path(settings)))
        await app.start()  # type: ignore[no-untyped-call]
        # one part at a time, so that a long range is never whole in memory
        parts: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1)
        # a failure is raised below
        tasks = Tasks(lambda name, error: None)
        task = tasks.spawn("answer", _ask(gate.app, path, parameters, accept, parts), ends=True)
        try:
            status, problem = 200, b""
            while (message := await parts.get()) is not None:
                status = message.get("status", status)
                body = message.get("body", b"")
                if status >= 400:
                    problem += body
                elif body:
                    yield body
            await task
            if status >= 400:
                if found.error:
                    raise EndpointError(f"the database cannot be read: {found.error}")
                raise EndpointError(orjson.loads(problem)["detail"])
        finally:
            await tasks.cancel()
            await app.stop()  # type: ignore[no-untyped-call]


async def select(
    settings: Settings, text: str, media: str | None, limit: int
) -> AsyncIterator[bytes]:
    """Yield the rows of a SELECT in a format of `bulk`; without one at most `limit` rows as JSON.

    Raises: EndpointError with the database's reason.
    """
    check_reader(settings)
    async with database(settings) as found:
        pages = pages_of(found, text, bulk.PAGE_ROWS)
        if media is None:
            rows: bulk.Rows = []
            async for _, page in pages:
                rows += page
                if len(rows) > limit:
                    break
            await pages.aclose()  # type: ignore[attr-defined]
            yield orjson.dumps({"more": len(rows) > limit, "rows": rows[:limit]})
            return
        encoder: bulk.Encoder | None = None
        async for columns, page in pages:
            try:
                encoder = encoder or bulk.encoder(media, columns)
            except Problem as problem:
                raise EndpointError(problem.detail) from None
            yield encoder.rows(page)
        if encoder is not None:
            yield encoder.end()


def _context(settings: Settings, found: Database) -> Context:
    hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="local")
    return Context(settings, Live(), hub, found, now_ns, settings.data)


async def _ask(
    app: Any,
    path: str,
    parameters: dict[str, Any],
    accept: str,
    parts: asyncio.Queue[dict[str, Any] | None],
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(parameters).encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", accept.encode())],
        "coinspace.operator": True,
        "client": None,
        "server": None,
    }
    try:
        await app(scope, receive, parts.put)
    finally:
        await parts.put(None)
