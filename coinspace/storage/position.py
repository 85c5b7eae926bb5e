"""Reads from the database which messages are stored; there is no other bookkeeping.

A stream's position is its highest stored sequence, without the open rows of `gap`. This is right
because rows are stored in order, and a hole's row before all later messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import psycopg

from coinspace.bus.topics import build
from coinspace.clock import SECOND_NS
from coinspace.errors import MessageError, StorageError
from coinspace.storage import gaps
from coinspace.storage.ledger import STREAMS_LIMIT, Hole, Stream, StreamKey
from coinspace.storage.questdb.address import Address
from coinspace.storage.schema import OWN_TABLES
from coinspace.storage.stage import Stage
from coinspace.storage.tables import VIEWS

APPLY_TIMEOUT_S = 30.0
POLL_S = 0.05
# rows of open holes per read
READ_AGAIN = 10_000
DAY_NS = 86_400 * SECOND_NS
VIEW_NAMES = {view.name for view in VIEWS}
# kind -> prefix of its publishers' names; `state` rows have a column for the publisher
PUBLISHERS = {
    "orderbook": "orderbook-collector-",
    "ticker": "ticker-collector-",
    "trade": "ticker-collector-",
}


@dataclass(frozen=True, slots=True)
class Suspended:
    """A table or view that accepts rows and does not show them.

    Attributes: by_server: the server suspended it and gives an error; False = a person did.
    """

    table: str
    reason: str
    by_server: bool = False

    @property
    def repair(self) -> str:
        """The statement that resumes the table, once the cause is removed."""
        kind = "MATERIALIZED VIEW" if self.table in VIEW_NAMES else "TABLE"
        return f"ALTER {kind} {self.table} RESUME WAL"


async def connect(found: Address, timeout_s: float = 5.0) -> psycopg.AsyncConnection[Any]:
    """Return a connection that may write. Raises: StorageError."""
    try:
        return await asyncio.wait_for(
            psycopg.AsyncConnection.connect(found.sql, autocommit=True), timeout_s
        )
    except (psycopg.Error, TimeoutError, OSError) as error:
        reason = str(error).split("\n", 1)[0] or "no answer"
        raise StorageError(f"SQL: expected a connection, {reason}") from None


async def unapplied(connection: psycopg.AsyncConnection[Any]) -> tuple[list[str], list[Suspended]]:
    """Return the tables with acknowledged rows that are not visible yet, and suspended ones."""
    cursor = await connection.execute(
        "SELECT name, suspended, writerTxn, sequencerTxn, errorTag, errorMessage"
        " FROM wal_tables()"
        f" WHERE name IN ({OWN_TABLES})"
    )
    late: list[str] = []
    suspended: list[Suspended] = []
    for name, stopped, applied, acknowledged, tag, reason in await cursor.fetchall():
        if stopped:
            suspended.append(
                Suspended(name, str(reason or tag or "no reason given"), bool(reason or tag))
            )
        elif applied < acknowledged:
            late.append(name)
    return late, suspended


async def wait_applied(
    connection: psycopg.AsyncConnection[Any], tables: set[str], timeout_s: float = APPLY_TIMEOUT_S
) -> None:
    """Wait until every acknowledged row of the tables is visible.

    Raises: StorageError when a table is suspended or after the time-out.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        late, suspended = await unapplied(connection)
        for table in suspended:
            if table.table in tables:
                raise StorageError(
                    f"table {table.table} is suspended ({table.reason}): remove the cause, then run"
                    f" `coinspace questdb resume` ({table.repair})",
                    table.table,
                )
        waiting = tables.intersection(late)
        if not waiting:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise StorageError(
                f"tables {', '.join(sorted(waiting))}: rows not visible after {timeout_s:.0f} s"
            )
        await asyncio.sleep(POLL_S)


async def restore(
    found: Address, stage: Stage, kinds: tuple[str, ...], publishers: set[str], since_ns: int
) -> int:
    """Fill the stage's ledger from the database.

    Args:
        kinds: of the messages that this worker stores.
        publishers: of these messages.
        since_ns: start of the oldest journal; earlier rows and epochs are not read.
    Returns: the number of streams found.
    Raises: StorageError when the database cannot be read or a needed table is suspended.
    """
    connection = await connect(found)
    try:
        async with connection:
            await wait_applied(connection, {*kinds, "gap"})
            last = await _highest(connection, kinds, publishers, since_ns)
            holes = await _gaps(connection, stage, kinds, publishers, last, since_ns)
    except psycopg.Error as error:
        raise StorageError(f"reading positions: {str(error).splitlines()[0]}") from None
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
    connection = await connect(found)
    wanted = {stream.key for stream in streams}
    try:
        async with connection:
            await wait_applied(connection, {"gap"})
            cursor = await connection.execute(
                "SELECT kind, exchange, market, reason, epoch, first, last, ts::long FROM gap"
                " WHERE status = %s AND publisher = %s AND kind != %s"
                f" ORDER BY ts LIMIT {READ_AGAIN}",
                (gaps.OPEN, publisher, gaps.VENUE),
            )
            rows = await cursor.fetchall()
    except psycopg.Error as error:
        raise StorageError(f"reading gaps: {str(error).splitlines()[0]}") from None
    holes: dict[StreamKey, list[Hole]] = {}
    for kind, exchange, market, reason, epoch, first, last, ts in rows:
        try:
            key = (publisher, build(kind, exchange, market), epoch)
        except MessageError:
            continue
        if key in wanted:
            holes.setdefault(key, []).append(Hole(first, last, ts, reason or "", announced=True))
    return holes, len(rows) < READ_AGAIN


async def damages(connection: psycopg.AsyncConnection[Any], worker: str) -> list[gaps.Damage]:
    """Return the damages that this worker has to repair, the oldest first."""
    cursor = await connection.execute(
        "SELECT kind, reason, ts::long FROM gap WHERE status = %s AND publisher = %s ORDER BY ts",
        (gaps.OPEN, worker),
    )
    return [
        gaps.Damage(worker, table, reason or "", ts)
        for table, reason, ts in await cursor.fetchall()
    ]


Highest = dict[tuple[str, bytes, int], int]


async def _highest(
    connection: psycopg.AsyncConnection[Any],
    kinds: tuple[str, ...],
    publishers: set[str],
    since_ns: int,
) -> Highest:
    highest: Highest = {}
    for kind in kinds:
        publisher = "publisher" if kind == "state" else "''"
        # a trade's ts is its trade time, which may be long before its receive time
        start_ns = since_ns - DAY_NS if kind == "trade" else since_ns
        cursor = await connection.execute(
            f"SELECT {publisher}, exchange, market, epoch, max(seq) FROM {kind}"
            f" WHERE ts >= {start_ns}::timestamp_ns"
        )
        for name, exchange, market, epoch, sequence in await cursor.fetchall():
            process = name or PUBLISHERS[kind] + exchange
            if process in publishers and epoch is not None and sequence is not None:
                key = (process, build(kind, exchange, market), epoch)
                highest[key] = max(highest.get(key, 0), sequence)
    return highest


async def _gaps(
    connection: psycopg.AsyncConnection[Any],
    stage: Stage,
    kinds: tuple[str, ...],
    publishers: set[str],
    highest: Highest,
    since_ns: int,
) -> dict[tuple[str, bytes, int], list[Hole]]:
    cursor = await connection.execute(
        "SELECT kind, publisher, exchange, market, status, reason, epoch, first, last, ts::long"
        f" FROM gap WHERE status = '{gaps.OPEN}' OR ts >= {since_ns}::timestamp_ns"
    )
    holes: dict[tuple[str, bytes, int], list[Hole]] = {}
    for (
        kind,
        publisher,
        exchange,
        market,
        status,
        reason,
        epoch,
        first,
        last,
        ts,
    ) in await cursor.fetchall():
        if publisher not in publishers:
            continue
        if kind == gaps.VENUE:
            if status == gaps.OPEN:
                outage = gaps.Outage(epoch, ts, reason or "")
                stage.outages.restore((publisher, exchange, market), outage)
            continue
        try:
            key = (publisher, build(kind, exchange, market), epoch)
        except MessageError:
            continue
        if kind not in kinds:
            continue
        # lost and dead messages are accounted for, even if no later message is stored yet
        highest[key] = max(highest.get(key, 0), last)
        if status == gaps.OPEN:
            holes.setdefault(key, []).append(Hole(first, last, ts, reason or "", announced=True))
    return holes
