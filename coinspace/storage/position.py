"""Reads from the database which messages are stored; there is no other bookkeeping.

A stream's position is its highest stored sequence, without the open rows of `gap`. This is right
because rows are stored in order, and a hole's row before all later messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from coinspace.bus.topics import build
from coinspace.clock import DAY_NS
from coinspace.config import RATE_COLLECTOR
from coinspace.errors import MessageError, StorageError
from coinspace.storage import gaps
from coinspace.storage.ledger import STREAMS_LIMIT, Hole, Stream, StreamKey
from coinspace.storage.questdb.address import Address
from coinspace.storage.schema import CONNECT_TIMEOUT_S, OWN_TABLES, first_line, resuming
from coinspace.storage.stage import StorageStage
from coinspace.storage.tables import RATE, STORED

Connection = psycopg.AsyncConnection[Any]

APPLY_TIMEOUT_S = 30.0
POLL_S = 0.05
# rows of open holes per read
READ_AGAIN = 10_000
# kind -> prefix of its publishers' names; `state` rows have a column for the publisher
PUBLISHERS = {kind: f"{process}-" for process, kinds in STORED.values() for kind in kinds}


def publisher_of(kind: str, exchange: str) -> str:
    """Return the collector of a row. Args: kind: any but state. exchange: or source of a rate."""
    return RATE_COLLECTOR if kind == RATE.name else PUBLISHERS[kind] + exchange


@dataclass(frozen=True, slots=True)
class Suspended:
    """A table or view that accepts rows and does not show them.

    Attributes: by_server: the server suspended it and gives an error; False = a person did.
    """

    table: str
    reason: str
    by_server: bool = False


class _GapRow(NamedTuple):
    kind: str
    publisher: str
    exchange: str
    market: str
    status: str
    reason: str | None
    epoch: int
    first: int
    last: int
    ts: int

    @property
    def key(self) -> StreamKey | None:
        """The stream, None for a damaged name."""
        try:
            return self.publisher, build(self.kind, self.exchange, self.market), self.epoch
        except MessageError:
            return None

    @property
    def hole(self) -> Hole:
        return Hole(self.first, self.last, self.ts, self.reason or "", announced=True)


@asynccontextmanager
async def connect(found: Address) -> AsyncIterator[Connection]:
    """Yield a connection that may write, for the event loop; see `schema.connect`.

    Raises: StorageError when the connection fails, and instead of each psycopg.Error in the block.
    """
    try:
        connection = await asyncio.wait_for(
            psycopg.AsyncConnection.connect(found.sql, autocommit=True), CONNECT_TIMEOUT_S
        )
    except (psycopg.Error, TimeoutError, OSError) as error:
        raise StorageError(f"SQL: expected a connection, {first_line(error)}") from None
    try:
        async with connection:
            yield connection
    except psycopg.Error as error:
        raise StorageError(f"SQL: expected an answer, {first_line(error)}") from None


async def unapplied(connection: Connection) -> tuple[dict[str, int], list[Suspended]]:
    """Return tables whose acknowledged rows are not visible yet, and suspended tables.

    Returns: table -> number of transactions that are not visible, and the suspended ones.
    """
    cursor = await connection.execute(
        "SELECT name, suspended, sequencerTxn - writerTxn, errorTag, errorMessage FROM wal_tables()"
        f" WHERE name IN ({OWN_TABLES})"
    )
    late: dict[str, int] = {}
    suspended: list[Suspended] = []
    for name, stopped, lag, tag, reason in await cursor.fetchall():
        if stopped:
            suspended.append(
                Suspended(name, str(reason or tag or "no reason given"), bool(reason or tag))
            )
        elif lag > 0:
            late[name] = lag
    return late, suspended


async def wait_applied(connection: Connection, tables: set[str]) -> None:
    """Wait until every acknowledged row of the tables is visible.

    Raises: StorageError when a table is suspended or after the time-out.
    """
    deadline = asyncio.get_running_loop().time() + APPLY_TIMEOUT_S
    while True:
        late, suspended = await unapplied(connection)
        for table in suspended:
            if table.table in tables:
                raise StorageError(
                    f"table {table.table} is suspended ({table.reason}): remove the cause, then run"
                    f" `coinspace questdb resume` ({resuming(table.table)})",
                    table.table,
                )
        waiting = tables.intersection(late)
        if not waiting:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise StorageError(
                f"tables {', '.join(sorted(waiting))}: rows not visible"
                f" after {APPLY_TIMEOUT_S:.0f} s"
            )
        await asyncio.sleep(POLL_S)


async def restore(
    found: Address, stage: StorageStage, kinds: tuple[str, ...], publishers: set[str], since_ns: int
) -> int:
    """Fill the stage's ledger from the database.

    Args:
        kinds: of the messages that this worker stores.
        publishers: of these messages.
        since_ns: start of the oldest journal; earlier rows and epochs are not read.
    Returns: the number of streams found.
    Raises: StorageError when the database cannot be read or a needed table is suspended.
    """
    async with connect(found) as connection:
        await wait_applied(connection, {*kinds, "gap"})
        last = await _highest(connection, kinds, publishers, since_ns)
        rows = await _gap_rows(
            connection, f"status = '{gaps.OPEN}' OR ts >= {since_ns}::timestamp_ns"
        )
    holes: dict[StreamKey, list[Hole]] = {}
    for row in rows:
        if row.publisher not in publishers:
            continue
        if row.kind == gaps.VENUE and row.status == gaps.OPEN:
            venue = (row.publisher, row.exchange, row.market)
            stage.outages.restore(venue, gaps.VenueOutage(row.epoch, row.ts, row.reason or ""))
        key = row.key
        if key is None or row.kind not in kinds:
            continue
        # lost and dead messages are accounted for, even if no later message is stored yet
        last[key] = max(last.get(key, 0), row.last)
        if row.status == gaps.OPEN:
            holes.setdefault(key, []).append(row.hole)
    # the newest first; messages of streams without room are fetched again and replace their rows
    newest = sorted(last.items(), key=lambda one: one[0][2], reverse=True)
    for (publisher, topic, epoch), sequence in newest[: STREAMS_LIMIT // 2]:
        stream = stage.ledger.stream(publisher, topic, epoch)
        stage.ledger.restore(stream, sequence, holes.get(stream.key, []))
    return len(last)


async def open_holes(
    found: Address, publisher: str, streams: Collection[Stream]
) -> tuple[dict[StreamKey, list[Hole]], bool]:
    """Return the open holes of some streams of a publisher, the oldest first.

    The caller first waits until the sender has stored all rows of `gap`.
    Returns: the holes, and whether these are all.
    Raises: StorageError when the database cannot be read.
    """
    async with connect(found) as connection:
        await wait_applied(connection, {"gap"})
        rows = await _gap_rows(
            connection,
            f"status = %s AND publisher = %s AND kind != %s ORDER BY ts LIMIT {READ_AGAIN}",
            (gaps.OPEN, publisher, gaps.VENUE),
        )
    wanted = {stream.key for stream in streams}
    holes: dict[StreamKey, list[Hole]] = {}
    for row in rows:
        if (key := row.key) in wanted and key is not None:
            holes.setdefault(key, []).append(row.hole)
    return holes, len(rows) < READ_AGAIN


async def damages(connection: Connection, worker: str) -> list[gaps.Damage]:
    """Return the damages that this worker has to repair, the oldest first."""
    rows = await _gap_rows(
        connection, "status = %s AND publisher = %s ORDER BY ts", (gaps.OPEN, worker)
    )
    return [gaps.Damage(worker, row.kind, row.reason or "", row.ts) for row in rows]


async def _gap_rows(
    connection: Connection, where: str, values: Sequence[Any] | None = None
) -> list[_GapRow]:
    cursor = await connection.execute(
        "SELECT kind, publisher, exchange, market, status, reason, epoch, first, last, ts::long"
        f" FROM gap WHERE {where}",
        values,
    )
    return [_GapRow(*row) for row in await cursor.fetchall()]


async def _highest(
    connection: Connection, kinds: tuple[str, ...], publishers: set[str], since_ns: int
) -> dict[StreamKey, int]:
    highest: dict[StreamKey, int] = {}
    for kind in kinds:
        publisher = "publisher" if kind == "state" else "''"
        # a trade's ts is its trade time, which may be long before its receive time
        start_ns = since_ns - DAY_NS if kind == "trade" else since_ns
        cursor = await connection.execute(
            f"SELECT {publisher}, exchange, market, epoch, max(seq) FROM {kind}"
            f" WHERE ts >= {start_ns}::timestamp_ns"
        )
        for name, exchange, market, epoch, sequence in await cursor.fetchall():
            process = name or publisher_of(kind, exchange)
            if process in publishers and epoch is not None and sequence is not None:
                key = (process, build(kind, exchange, market), epoch)
                highest[key] = max(highest.get(key, 0), sequence)
    return highest
