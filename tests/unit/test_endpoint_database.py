"""Connections of the database as they are lent, and the places of downloads."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from blacksheep.messages import Request

from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.bulk import Downloads
from coinspace.endpoint.history.database import Database
from coinspace.endpoint.http.problem import Problem

TIMEOUT_S = 0.1


class Cursor:
    async def fetchall(self) -> list[dict[str, Any]]:
        return [{"one": 1}]


class Connection:
    """Answers after a while, as a server does."""

    def __init__(self, takes_s: float = 0.0, error: Exception | None = None) -> None:
        self.takes_s, self.error = takes_s, error
        self.closed = False

    async def execute(self, *_: Any, **__: Any) -> Cursor:
        await asyncio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return Cursor()

    async def close(self) -> None:
        self.closed = True


class Pool(Database):
    """A database whose connections are given."""

    def __init__(self, *connections: Connection, size: int = 1) -> None:
        super().__init__(lambda: "", size=size, timeout_s=TIMEOUT_S)
        self._idle = list(connections)  # type: ignore[arg-type]

    def idle(self) -> list[Any]:
        return self._idle


async def test_a_borrower_takes_its_time() -> None:
    """The query time-out ends a query, not what happens between two rows."""
    pool = Pool(Connection())
    async with pool.connection():
        await asyncio.sleep(3 * TIMEOUT_S)
    assert pool.timeouts == 0
    assert len(pool.idle()) == 1


async def test_a_generator_may_stop_between_rows() -> None:
    """A time-out around a yield would hit whoever waits then: here, the sleep."""
    pool = Pool(Connection())

    async def rows() -> Any:
        async with pool.connection():
            yield 1
            yield 2

    found = rows()
    assert await anext(found) == 1
    await asyncio.sleep(3 * TIMEOUT_S)
    assert await anext(found) == 2
    await found.aclose()
    # one that stopped in the middle is not used again
    assert pool.idle() == []


async def test_a_query_that_takes_too_long_is_a_problem() -> None:
    slow = Connection(takes_s=60)
    pool = Pool(slow)
    with pytest.raises(Problem) as refused:
        await pool.rows("select 1")
    assert (refused.value.status, refused.value.name) == (503, "query-timeout")
    assert slow.closed
    assert pool.idle() == []
    # it is no failure of the database: others go on at once
    assert pool.error is None
    pool.idle().append(Connection())
    assert await pool.rows("select 1") == [{"one": 1}]


async def test_waiting_for_a_connection_ends() -> None:
    pool = Pool(Connection())
    async with pool.connection():
        with pytest.raises(Problem, match="no connection was free") as refused:
            await pool.rows("select 1")
    assert refused.value.name == "query-timeout"
    assert await pool.rows("select 1") == [{"one": 1}]


async def test_a_time_out_of_the_borrower_is_its_own() -> None:
    pool = Pool(Connection())
    with pytest.raises(TimeoutError):
        async with pool.connection(), asyncio.timeout(0.01):
            await asyncio.sleep(60)
    assert pool.failures == 0
    assert pool.error is None


async def test_a_connection_that_fails_is_not_used_again() -> None:
    broken = Connection(error=psycopg.OperationalError("server closed the connection"))
    pool = Pool(broken)
    with pytest.raises(Problem, match="history cannot be read now"):
        await pool.rows("select 1")
    assert broken.closed


def request() -> Request:
    scope: Any = {"type": "http"}
    made = Request("GET", b"/", [])
    made.scope = scope
    return made


async def test_downloads_wait_for_a_place_and_give_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk, "WAIT_S", 0.05)
    downloads = Downloads(1, 60)
    ended = asyncio.Event()

    async def download() -> None:
        await downloads.begin(request())
        await ended.wait()

    first = asyncio.ensure_future(download())
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await asyncio.ensure_future(download())
    assert (refused.value.status, refused.value.name) == (503, "too-many-downloads")
    assert int(refused.value.headers["Retry-After"]) > 0
    # however a request ends, its place is free again
    first.cancel()
    await asyncio.wait([first])
    ended.set()
    await asyncio.ensure_future(download())
    await asyncio.ensure_future(download())
