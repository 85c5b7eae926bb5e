"""The method's memory, read back from stored records: at a restart, and before recomputing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from coinspace.clock import SECOND_NS
from coinspace.errors import StorageError
from coinspace.index.calculator import Index
from coinspace.index.outage import NOT_COMPUTED, Outage
from coinspace.method.aggregate import COMPOSITE
from coinspace.method.filter import DEVIATING, FROZEN, Mids
from coinspace.storage.records import CONSTITUENT, FX, FX_ASSET
from coinspace.storage.tables import INDEX_NEXT, INDEX_TICK, OPERATOR_LOG

# how far back the moment is looked for since when a book is as it is
REFERENCE_NS = 86_400 * SECOND_NS
APPLY_TIMEOUT_S = 10.0
# 69 days of ticks after now, of a clock that was ahead while it made them
AHEAD_MINUTES = 100_000
# read at once; the rest is read when these are filled
HOLES = 1000
# action in operator_log: the records after its time and up to its target, ns, are void
CLOCK_RESET = "clock_reset"


@dataclass(slots=True)
class Memory:
    """What one index goes on with.

    Attributes:
        ts_ns: its last stored tick. ticks: (ts_ns, value_raw, kr, gl) of the averages' window.
        null_since_ns: first of the nulls that last until now, None = the last tick had a value.
        references: venue -> since when its book is as it is, and all mids of that moment.
    """

    ts_ns: int
    flagged: list[str] = field(default_factory=list)
    split: bool = False
    null_since_ns: int | None = None
    ticks: list[tuple[int, float | None, float | None, float | None]] = field(default_factory=list)
    references: Mapping[str, tuple[int, Mids]] = field(default_factory=dict)

    def outage(self, index: Index, first_ns: int, last_ns: int, step_ns: int) -> Outage:
        """Return the outage of ticks after this one, in which the memory stands still."""
        null_since_ns = self.null_since_ns or first_ns
        return Outage(
            index.asset,
            first_ns,
            last_ns,
            step_ns,
            tuple(self.flagged),
            self.split,
            null_since_ns + index.failed_after_ns,
            index.hash,
        )

    def give(self, index: Index) -> None:
        """Put the memory into an index."""
        index.last_ts_ns = self.ts_ns
        index.filter.restore(self.flagged, self.split, self.references)
        index.null_since_ns = self.null_since_ns
        for position, name in enumerate((COMPOSITE, "KR", "GL"), 1):
            index.averages[name].restore((tick[0], tick[position]) for tick in self.ticks)


def remember(
    connection: psycopg.Connection[Any],
    index: Index,
    before_ns: int | None = None,
    *,
    candidate: bool = False,
) -> None:
    """Give an index the memory of its last stored tick, if there is one.

    Args:
        before_ns: of the last tick before this one.
        candidate: from index_next, from records of the same parameters alone.
    Raises: StorageError when the database cannot answer.
    """
    table, parameters = (INDEX_NEXT.name, index.hash) if candidate else (INDEX_TICK.name, None)
    window_ns = int(index.parameters.twap_s * SECOND_NS)
    memory = read_memory(connection, index.asset, window_ns, before_ns, table, parameters)
    if memory is not None:
        memory.references = read_references(connection, index.asset, CONSTITUENT, memory.ts_ns)
        memory.give(index)


def read_memory(
    connection: psycopg.Connection[Any],
    asset: str,
    window_ns: int,
    before_ns: int | None = None,
    table: str = INDEX_TICK.name,
    parameters: str | None = None,
) -> Memory | None:
    """Return the memory as of the last stored tick of an asset, without references.

    Args:
        before_ns: as of the last tick before this one.
        parameters: hash that the records must have, None = any.
    Returns: None where no tick is stored.
    Raises: StorageError when the database cannot answer.
    """
    bound = before_ns if before_ns is not None else 2**62
    where = "asset = %s" + (" AND parameter_hash = %s" if parameters else "")
    names = (asset, parameters) if parameters else (asset,)
    with _answers(asset, table):
        rows = connection.execute(
            f"SELECT ts::long, flagged, split FROM {table}"
            f" WHERE {where} AND ts < %s::timestamp_ns ORDER BY ts DESC LIMIT 1",
            (*names, bound),
        ).fetchall()
        if not rows:
            return None
        ts_ns, flagged, split = rows[0]
        ticks = connection.execute(
            f"SELECT ts::long, value_raw, kr, gl FROM {table} WHERE {where}"
            " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns ORDER BY ts",
            (*names, ts_ns - window_ns - SECOND_NS, ts_ns),
        ).fetchall()
        null_since = None
        if not ticks or ticks[-1][1] is None:
            null_since = _null_since(connection, table, where, names, ts_ns)
    flags = [name for name in (flagged or "").split(",") if name]
    return Memory(ts_ns, flags, bool(split), null_since, ticks)


def read_holes(
    connection: psycopg.Connection[Any], asset: str, step_ns: int, since_ns: int, until_ns: int
) -> list[tuple[int, int]]:
    """Return the stretches of ticks without a record between two stored ones: first and last.

    Next to one there must be ticks a step apart: records of another interval are no holes.

    Args: since_ns, until_ns: the ticks before and behind a stretch are in between.
    Raises: StorageError when the database cannot answer.
    """
    with _answers(asset, INDEX_TICK.name):
        rows = connection.execute(
            "SELECT before, at FROM (SELECT ts::long AS at,"
            " lag(ts::long) OVER (ORDER BY ts) AS before,"
            " lag(ts::long, 2) OVER (ORDER BY ts) AS earlier,"
            " lead(ts::long) OVER (ORDER BY ts) AS later FROM index_tick"
            " WHERE asset = %s AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns)"
            f" WHERE at - before > %s AND (before - earlier = %s OR later - at = %s)"
            f" AND at <= %s LIMIT {HOLES}",
            (asset, since_ns, until_ns + step_ns, step_ns, step_ns, step_ns, until_ns),
        ).fetchall()
    return [(before_ns + step_ns, at_ns - step_ns) for before_ns, at_ns in rows]


def _null_since(
    connection: psycopg.Connection[Any], table: str, where: str, names: tuple[Any, ...], ts_ns: int
) -> int:
    last = connection.execute(
        f"SELECT max(ts)::long FROM {table}"
        f" WHERE {where} AND value_raw != null AND ts <= %s::timestamp_ns",
        (*names, ts_ns),
    ).fetchone()
    found = connection.execute(
        f"SELECT min(ts)::long FROM {table} WHERE {where} AND ts > %s::timestamp_ns",
        (*names, last[0] if last and last[0] is not None else 0),
    ).fetchone()
    return int(found[0]) if found and found[0] is not None else ts_ns


def read_ahead(
    connection: psycopg.Connection[Any], asset: str, after_ns: int
) -> list[tuple[int, int]]:
    """Return the spans of published ticks after an instant, for each minute the first and the last.

    Ticks of a minute have records without a break, unless the clock was set in it.

    Raises: StorageError when the database cannot answer.
    """
    with _answers(asset, INDEX_TICK.name):
        rows = connection.execute(
            "SELECT ts::long / 60000000000 AS at_minute,"
            " min(ts::long) AS first_ns, max(ts::long) AS last_ns"
            " FROM index_tick WHERE asset = %s AND ts > %s::timestamp_ns"
            f" AND (reason IS NULL OR reason != '{NOT_COMPUTED}')"
            f" ORDER BY at_minute LIMIT {AHEAD_MINUTES}",
            (asset, after_ns),
        ).fetchall()
        spans = [(first, last) for _, first, last in rows]
        if len(rows) == AHEAD_MINUTES:
            # too many to know each: nothing after them is taken for free
            spans.append((spans[-1][1], 2**62))
    return spans


def read_resets(connection: psycopg.Connection[Any]) -> list[tuple[int, int]]:
    """Return the spans of ticks whose records an operator has declared void.

    Each begins when the operator did so: what is after it was of a clock that was ahead.

    Raises: StorageError when the database cannot answer.
    """
    with _answers("all", OPERATOR_LOG.name):
        rows = connection.execute(
            "SELECT ts::long, target FROM operator_log WHERE action = %s ORDER BY ts",
            (CLOCK_RESET,),
        ).fetchall()
    return [(at_ns, int(target)) for at_ns, target in rows if (target or "").isdigit()]


def read_references(
    connection: psycopg.Connection[Any], asset: str, role: str, ts_ns: int
) -> dict[str, tuple[int, Mids]]:
    """Return what the frozen rule compares with, as of a stored tick.

    Returns: venue -> since when its book is as it is, and the mids of all venues at the first tick
        at which it counted with that book. Mids in their own currency are not stored.
    Raises: StorageError when the database cannot answer.
    """
    # a venue with any other reason is not compared with others
    judged = f"(reason IS NULL OR reason IN ('{FROZEN}', '{DEVIATING}'))"
    where = f"asset = '{asset}' AND role = '{role}'"
    found: dict[str, tuple[int, Mids]] = {}
    with _answers(asset, "index_venue"):
        venues = connection.execute(
            f"SELECT venue, changed_ts::long FROM index_venue WHERE {where}"
            " AND ts > %s::timestamp_ns AND ts <= %s::timestamp_ns LATEST ON ts PARTITION BY venue",
            (ts_ns - REFERENCE_NS, ts_ns),
        ).fetchall()
        for venue, changed_ns in venues:
            if changed_ns is None:
                continue
            first = connection.execute(
                f"SELECT min(ts)::long FROM index_venue WHERE {where} AND venue = %s"
                " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns"
                f" AND changed_ts = %s::timestamp_ns AND {judged}",
                (venue, max(changed_ns, ts_ns - REFERENCE_NS), ts_ns, changed_ns),
            ).fetchone()
            if first is None or first[0] is None:
                continue
            mids = connection.execute(
                f"SELECT venue, mid FROM index_venue WHERE {where} AND {judged}"
                " AND ts = %s::timestamp_ns",
                first,
                binary=True,
            ).fetchall()
            found[venue] = (
                changed_ns,
                {name: (mid, None, name.partition("/")[2]) for name, mid in mids},
            )
    return found


def read_fx_memory(
    connection: psycopg.Connection[Any], asset: str, before_ns: int, window_ns: int
) -> dict[str, Any]:
    """Return the FX memory before a tick: accepted rates of the window, flags, references.

    Args: asset: any index, since all share the rate.
    Raises: StorageError when the database cannot answer.
    """
    with _answers(asset, INDEX_TICK.name):
        rows = connection.execute(
            "SELECT ts::long, fx, fx_status, fx_flagged FROM index_tick WHERE asset = %s"
            " AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns AND fx_status != null"
            " ORDER BY ts",
            (asset, before_ns - window_ns, before_ns),
            binary=True,
        ).fetchall()
    if not rows:
        return {"fx": {}}
    window = [(ts_ns, fx) for ts_ns, fx, status, _ in rows if status == "ok" and fx is not None]
    flagged = [name for name in (rows[-1][3] or "").split(",") if name]
    references = read_references(connection, FX_ASSET, FX, rows[-1][0])
    return {"fx": {"window": window, "flagged": flagged, "references": references}}


def wait_applied(connection: psycopg.Connection[Any], table: str) -> None:
    """Wait until what a table acknowledged can be read, for 10 s at most."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while time.monotonic() < deadline:
        with _answers("all", table):
            row = connection.execute(
                "SELECT writerTxn, sequencerTxn FROM wal_tables() WHERE name = %s", (table,)
            ).fetchone()
        if row is None or row[0] == row[1]:
            return
        time.sleep(0.05)


@contextmanager
def _answers(asset: str, table: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise StorageError(f"memory of {asset}: expected stored records, {error}", table) from None
