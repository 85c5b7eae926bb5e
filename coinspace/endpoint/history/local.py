"""Stored data without a running endpoint: the API's routes over the database, or any SELECT."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from blacksheep.contents import StreamedContent
from blacksheep.messages import Request

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.http.app import build
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import Live
from coinspace.errors import EndpointError
from coinspace.storage.read.pool import Database, readonly_address
from coinspace.storage.read.select import check_reader, pages_of

# a person can stop a command that takes too long
TIMEOUT_S = 3600.0
# rows of a statement as JSON, which is whole in memory
JSON_ROWS = 1000


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
        _, app = build(_context(settings, found))
        await app.start()  # type: ignore[no-untyped-call]
        try:
            response = await app.handle(_request(path, parameters, accept))
            content = response.content
            assert content is not None
            if response.status >= 400:
                if found.error:
                    raise EndpointError(f"the database cannot be read: {found.error}")
                raise EndpointError(orjson.loads(content.body)["detail"])
            if not isinstance(content, StreamedContent):
                yield content.body
                return
            # part by part, so that a long range is never whole in memory
            parts: Any = content.generator()
            async with contextlib.aclosing(parts):
                async for part in parts:
                    yield part
        finally:
            await app.stop()  # type: ignore[no-untyped-call]


async def select(
    settings: Settings, text: str, media: str | None, limit: int | None
) -> AsyncIterator[bytes]:
    """Yield at most `limit` rows of a SELECT in a format of `bulk`, None = as JSON.

    Args: limit: None = all rows, `JSON_ROWS` of them as JSON.
    Raises: EndpointError with the database's reason.
    """
    check_reader(settings)
    async with database(settings) as found:
        pages = pages_of(found, text, bulk.PAGE_ROWS)
        if media is None:
            rows: bulk.Rows = []
            limit = limit or JSON_ROWS
            async for _, page in pages:
                rows += page
                if len(rows) > limit:
                    break
            await pages.aclose()  # type: ignore[attr-defined]
            yield orjson.dumps({"more": len(rows) > limit, "rows": rows[:limit]})
            return
        encoder: bulk.Encoder | None = None
        left = limit or sys.maxsize
        async for columns, page in pages:
            try:
                encoder = encoder or bulk.encoder(media, columns)
            except Problem as problem:
                raise EndpointError(problem.detail) from None
            yield encoder.rows(page[:left])
            left -= len(page)
            if left <= 0:
                await pages.aclose()  # type: ignore[attr-defined]
                break
        if encoder is not None:
            yield encoder.end()


def _context(settings: Settings, found: Database) -> Context:
    hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="local")
    return Context(settings, Live(), hub, found, now_ns, settings.data)


def _request(path: str, parameters: dict[str, Any], accept: str) -> Request:
    query = urlencode(parameters).encode()
    headers = [(b"host", b"localhost"), (b"accept", accept.encode())]
    request = Request.incoming("GET", quote(path).encode(), query, headers)
    scope: Any = {"query_string": query, "coinspace.operator": True}
    request.scope = scope
    return request
