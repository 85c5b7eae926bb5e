"""SQL out of QuestDB: a few connections of the user that can only read, values always bound.

A failed connection is answered at once for a second, so that a database that is down costs
nobody the whole time-out and is tried again soon.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.numeric import Int8BinaryDumper

from coinspace.config import Settings
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.errors import CoinSpaceError
from coinspace.storage.questdb.address import address

CONNECT_TIMEOUT_S = 3
RETRY_AFTER_S = 1.0
# told to clients: a restart of the database takes about this long
CLIENT_RETRY_S = 3

Row = dict[str, Any]
Connection = psycopg.AsyncConnection[Row]


def readonly_address(settings: Settings) -> str:
    """Return the address of the database user that can only read."""
    # asked at each connection: the private server may start later than we do
    return address(settings).readonly_sql


class Database:
    """A pool of read-only connections.

    Args: address returns the postgresql:// URL now, or raises CoinSpaceError when there is none.
    """

    def __init__(self, address: Callable[[], str], *, size: int, timeout_s: float) -> None:
        self._address = address
        self.timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(size)
        self._down_until = 0.0
        self.error: str | None = None
        self.queries = self.failures = self.timeouts = 0
        self.query_seconds = 0.0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection; one that failed or was interrupted is closed, not reused.

        How long the borrower may take is its own matter: a time-out around a `yield` would also
        count what happens between two rows, and cancel whoever waits at that moment.
        Raises: Problem 503 when the database cannot be reached or no connection becomes free.
        """
        if time.monotonic() < self._down_until:
            raise self._unavailable()
        await self._acquire()
        started = time.monotonic()
        connection: Connection | None = None
        whole = False
        try:
            connection = await self._take()
            self.queries += 1
            yield connection
            whole = True
            self.error = None
        except TimeoutError:
            # the borrower's own, not a connection that failed
            raise
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            self._failed(str(error))
            raise self._unavailable() from None
        except psycopg.ProgrammingError as error:
            whole = True
            raise self._missing(error) from None
        except CoinSpaceError as error:
            self._failed(str(error))
            raise self._unavailable() from None
        finally:
            self.query_seconds += time.monotonic() - started
            if connection is not None:
                if whole and not connection.closed:
                    self._idle.append(connection)
                else:
                    await connection.close()
            self._room.release()

    async def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run one statement with bound values.

        Raises: Problem 503 when the database cannot be reached or takes too long.
        """
        try:
            async with self.connection() as connection, asyncio.timeout(self.timeout_s):
                cursor = await connection.execute(sql, values, binary=True)
                return await cursor.fetchall()
        except TimeoutError:
            raise self._timed_out(
                f"the database took more than {self.timeout_s:g} s; ask for a shorter range"
            ) from None

    async def one(self, sql: str, values: Sequence[Any] = ()) -> Row | None:
        """Return the first row, None where there is none."""
        found = await self.rows(sql, values)
        return found[0] if found else None

    async def _acquire(self) -> None:
        try:
            await asyncio.wait_for(self._room.acquire(), self.timeout_s)
        except TimeoutError:
            raise self._timed_out(f"no connection was free for {self.timeout_s:g} s") from None

    def _timed_out(self, detail: str) -> Problem:
        self.timeouts += 1
        return retry_later("query-timeout", detail, CLIENT_RETRY_S)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        connection = await psycopg.AsyncConnection.connect(
            self._address(),
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            row_factory=dict_row,
            # the server keeps no prepared statements between pooled uses
            prepare_threshold=None,
        )
        # by its size alone a small number would be a smallint, which QuestDB takes for no time
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        return connection

    def _failed(self, text: str) -> None:
        self.failures += 1
        self.error = text.strip().splitlines()[0] if text.strip() else "connection failed"
        self._down_until = time.monotonic() + RETRY_AFTER_S

    def _unavailable(self) -> Problem:
        return retry_later(
            "database-unavailable",
            "history cannot be read now; latest values are still served",
            CLIENT_RETRY_S,
        )

    def _missing(self, error: psycopg.ProgrammingError) -> Problem:
        text = str(error)
        if "does not exist" in text:
            # tables appear when the storage workers first run
            return retry_later("not-ready", "the database has no such table yet", CLIENT_RETRY_S)
        raise error

    async def ping(self) -> bool:
        """Tell whether the database answers."""
        try:
            await self.rows("select 1 one")
        except Problem:
            return False
        return True

    async def close(self) -> None:
        """Close idle connections."""
        while self._idle:
            await self._idle.pop().close()

    def counters(self) -> dict[str, int | float]:
        """Counters for the health file."""
        return {
            "queries": self.queries,
            "query_failures": self.failures,
            "query_timeouts": self.timeouts,
            "query_seconds": round(self.query_seconds, 3),
        }
