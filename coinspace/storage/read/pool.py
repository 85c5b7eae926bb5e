"""A pool of read-only database connections; values are always bound.

For one second after a failed connection all requests fail at once. So no request waits for the
whole time-out of a database that is down, and the pool soon tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.numeric import Int8BinaryDumper
from psycopg_pool import AsyncConnectionPool

from coinspace.config import Settings
from coinspace.errors import (
    CoinSpaceError,
    DatabaseUnavailable,
    NoSuchColumn,
    NoSuchTable,
    QueryTimeout,
)
from coinspace.storage.questdb.address import address
from coinspace.storage.schema import first_line

CONNECT_TIMEOUT_S = 3
RETRY_AFTER_S = 1.0
# for getconn: Database has a shorter time-out, which a failed connection ends early
NO_TIMEOUT_S = 86_400.0

# the pool need not log failed connections: Database counts them, and callers report them
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

Row = dict[str, Any]


def readonly_address(settings: Settings) -> str:
    """Return the address of the database user that can only read."""
    # read at each connection: the private server may start later than this process
    return address(settings).readonly_sql


class ReadConnection(psycopg.AsyncConnection[Row]):
    """A connection that reports why it failed."""

    @classmethod
    async def connect(  # type: ignore[override]
        cls,
        conninfo: str = "",
        *,
        find: Callable[[], str],
        on_failure: Callable[[Exception], None],
        **options: Any,
    ) -> ReadConnection:
        """Connect to the address from `find`; report a failure, which the pool would hide."""
        try:
            return await super().connect(find(), **options)
        except (psycopg.Error, OSError, CoinSpaceError) as error:
            on_failure(error)
            raise


class Database:
    """A limited number of read-only connections.

    Args: address: returns the current postgresql:// URL, or raises CoinSpaceError.
    """

    def __init__(self, address: Callable[[], str], *, size: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._pool: AsyncConnectionPool[ReadConnection] = AsyncConnectionPool(
            connection_class=ReadConnection,
            kwargs={
                "find": address,
                "on_failure": self._connecting_failed,
                "autocommit": True,
                "connect_timeout": CONNECT_TIMEOUT_S,
                "row_factory": dict_row,
                # the server keeps no prepared statements between pooled uses
                "prepare_threshold": None,
            },
            min_size=0,
            max_size=size,
            open=False,
            configure=_configure,
            # with a longer time-out the pauses between two attempts would grow to minutes
            reconnect_timeout=RETRY_AFTER_S,
        )
        self._waiting: set[asyncio.Timeout] = set()
        self._down_until = 0.0
        # whether a connection has failed since idle connections were last replaced
        self._suspect = False
        self.error: str | None = None
        self.queries = self.failures = self.timeouts = 0
        self.query_seconds = 0.0

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[ReadConnection]:
        """Yield a connection; a failed or interrupted one is closed, not reused.

        The caller sets the time-out of its query: a time-out around a `yield` would also count the
        caller's time between two rows and could cancel other work of the caller.
        Raises: DatabaseUnavailable when the database cannot be reached, QueryTimeout when no
            connection becomes free, NoSuchTable, NoSuchColumn.
        """
        connection = await self._take()
        started = time.monotonic()
        self.queries += 1
        whole = False
        try:
            yield connection
            whole = True
            self.error = None
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            # a time-out of the caller, not a failed connection
            if isinstance(error, TimeoutError):
                raise
            self._failed(error)
            raise self._unavailable() from None
        except psycopg.Error as error:
            # the server answered with an error: the connection can be reused
            whole = True
            if "table does not exist" in str(error):
                # the storage workers make the tables at their first start
                raise NoSuchTable("the database has no such table yet") from None
            if "Invalid column" in str(error):
                # they also add the columns of a new release, each worker when it starts
                raise NoSuchColumn(f"the database is older: {first_line(error)}") from None
            raise
        finally:
            self.query_seconds += time.monotonic() - started
            await self._give_back(connection, whole)

    async def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of one statement with bound values.

        Raises: as `connection`, and QueryTimeout when the database takes too long.
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
        found = await self.rows(sql, values)
        return found[0] if found else None

    async def _take(self) -> ReadConnection:
        if self._down:
            raise self._unavailable()
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit:
                self._waiting.add(limit)
                if self._pool.closed:
                    await self._pool.open()
                if self._suspect:
                    # if the server has ended, its idle connections are closed too
                    self._suspect = False
                    await self._pool.drain()
                return await self._pool.getconn(NO_TIMEOUT_S)
        except TimeoutError:
            if self._down:
                raise self._unavailable() from None
            raise self._timed_out(f"no connection was free for {self.timeout_s:g} s") from None
        finally:
            self._waiting.discard(limit)

    async def _give_back(self, connection: ReadConnection, whole: bool) -> None:
        if not whole:
            await connection.close()
        await self._pool.putconn(connection)

    def _connecting_failed(self, error: Exception) -> None:
        self._failed(error)
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            # one that has just ended cannot be changed
            if not limit.expired():
                limit.reschedule(now)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._suspect = True
        self.error = first_line(error)
        self._down_until = time.monotonic() + RETRY_AFTER_S

    @property
    def _down(self) -> bool:
        return time.monotonic() < self._down_until

    def _timed_out(self, text: str) -> QueryTimeout:
        self.timeouts += 1
        return QueryTimeout(text)

    def _unavailable(self) -> DatabaseUnavailable:
        return DatabaseUnavailable("history cannot be read now; latest values are still served")

    async def ping(self) -> bool:
        """Return whether the database answers."""
        try:
            await self.rows("SELECT 1 one")
        except (DatabaseUnavailable, QueryTimeout):
            return False
        return True

    async def close(self) -> None:
        """Close all connections; the pool cannot be used again."""
        if not self._pool.closed:
            await self._pool.close()

    def counters(self) -> dict[str, int | float]:
        return {
            "queries": self.queries,
            "query_failures": self.failures,
            "query_timeouts": self.timeouts,
            "query_seconds": round(self.query_seconds, 3),
        }


async def _configure(connection: ReadConnection) -> None:
    # by default psycopg sends a small number as smallint, which QuestDB does not accept as a time
    connection.adapters.register_dumper(int, Int8BinaryDumper)
