"""Whole records of a range, the chain of their days, and records in the future."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg

from coinspace.clock import DAY_NS, HOUR_NS
from coinspace.storage import retention
from coinspace.storage.read.query import rows
from coinspace.storage.schema import Connection
from coinspace.storage.tables import INDEX_TICK, Table

# action in operator_log: `archive --drop` has dropped ticks up to its target, ns
DROPPED = "ticks_dropped"
SHORTEST_MONTH_H = 28 * 24
_AHEAD = "ts > %s::timestamp_ns AND (reason IS NULL OR reason != %s)"


class VenueRow(NamedTuple):
    """A row of `index_venue`. columns: the requested ones."""

    asset: str
    ts_ns: int
    venue: str
    received_ns: int | None
    columns: dict[str, Any]


class AheadRow(NamedTuple):
    """The ticks of one index that are in the future."""

    asset: str
    ticks: int
    first_ns: int
    last_ns: int


def whole_rows(
    connection: Connection, table: Table, start_ns: int, end_ns: int
) -> Iterator[tuple[Any, ...]]:
    """Yield all columns of a table's rows of [start, end), times in ns, in order of its keys."""
    columns = ", ".join(
        f"{name}::long" if kind.startswith("TIMESTAMP") else f'"{name}"'
        for name, kind in table.columns
    )
    sql = (
        f"SELECT {columns} FROM {table.name} WHERE ts >= %s::timestamp_ns"
        f" AND ts < %s::timestamp_ns ORDER BY {', '.join(table.keys)}"
    )
    yield from connection.execute(sql, (start_ns, end_ns), binary=True)


def links(connection: Connection) -> list[tuple[int, int, str, str, str]]:
    """Return (day_ns, records, digest, previous, link) of each day of the chain, oldest first.

    Reopened days are left out.
    """
    found = rows(
        connection,
        "SELECT ts::long, records, digest, previous, link FROM index_chain WHERE link != null"
        " ORDER BY ts",
    )
    return [(day_ns, *rest) for day_ns, *rest in found]


def tick_span(connection: Connection) -> tuple[int, int] | None:
    """Return the first and the last tick of all indices, None when there is none."""
    found = rows(connection, "SELECT min(ts)::long, max(ts)::long FROM index_tick")
    return (found[0][0], found[0][1]) if found and found[0][0] is not None else None


def removed_until(connection: Connection) -> int:
    """Return until when retention may have removed ticks, and none is stored; 0 = never.

    A TTL in force and `coinspace archive --drop`, which writes to `operator_log`, remove ticks.
    """
    span = tick_span(connection)
    found = rows(
        connection, "SELECT ttlValue, ttlUnit FROM tables() WHERE table_name = 'index_tick'"
    )
    if span is None or not found:
        return 0
    dropped = rows(
        connection,
        "SELECT target FROM operator_log WHERE action = %s ORDER BY ts DESC LIMIT 1",
        (DROPPED,),
    )
    until_ns = max((int(target) for (target,) in dropped if target.isdigit()), default=0)
    value, unit = retention.length(found[0][0], found[0][1] or "")
    if value:
        hours = value if unit == "h" else value * SHORTEST_MONTH_H
        until_ns = max(until_ns, span[1] - hours * HOUR_NS)
    return min(until_ns, span[0] // DAY_NS * DAY_NS)


def tick_rows(
    connection: Connection, asset: str, names: Sequence[str], start_ns: int, end_ns: int
) -> list[dict[str, Any]]:
    """Return columns of an index's ticks of [start, end), and `ts` in ns."""
    columns = ", ".join(f'"{name}"' for name in names)
    found = rows(
        connection,
        f"SELECT ts::long, {columns} FROM index_tick WHERE asset = %s"
        " AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns",
        (asset, start_ns, end_ns),
    )
    return [dict(zip(("ts", *names), row, strict=True)) for row in found]


def venue_rows(
    connection: Connection, names: Sequence[str], start_ns: int, end_ns: int
) -> list[VenueRow]:
    """Return columns of the venues of all ticks of [start, end)."""
    columns = ", ".join(f'"{name}"' for name in names)
    found = rows(
        connection,
        f"SELECT asset, ts::long, venue, received_ts::long, {columns}"
        " FROM index_venue WHERE ts >= %s::timestamp_ns AND ts < %s::timestamp_ns",
        (start_ns, end_ns),
    )
    return [
        VenueRow(asset, ts_ns, venue, received_ns, dict(zip(names, values, strict=True)))
        for asset, ts_ns, venue, received_ns, *values in found
    ]


def parameter_hashes(connection: Connection, asset: str, start_ns: int, end_ns: int) -> set[str]:
    """Return the parameter hashes of the values of [start, end)."""
    found = rows(
        connection,
        "SELECT DISTINCT parameter_hash FROM index_tick WHERE asset = %s"
        " AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns AND value != null",
        (asset, start_ns, end_ns),
    )
    return {one for (one,) in found}


def ahead(connection: Connection, after_ns: int, not_reason: str) -> list[AheadRow]:
    """Return the stored ticks after an instant by asset, without ticks of `not_reason`."""
    found = rows(
        connection,
        "SELECT asset, count(), min(ts::long) AS first_ns, max(ts::long) AS last_ns"
        f" FROM index_tick WHERE {_AHEAD} ORDER BY asset",
        (after_ns, not_reason),
    )
    return [AheadRow(*row) for row in found]


def keep_void(
    connection: Connection,
    after_ns: int,
    not_reason: str,
    *,
    recalc_id: int,
    operator: str,
    because: str,
) -> None:
    """Copy the stored ticks after an instant to `index_recalc`."""
    names = ", ".join(f'"{name}"' for name, _ in INDEX_TICK.columns)
    statement = (
        f"INSERT INTO index_recalc ({names}, original, recalc_id, operator, because)"
        f" SELECT {names}, value, %s, %s, %s FROM index_tick WHERE {_AHEAD}"
    )
    # the client inserts the values: the database cannot infer the types of selected parameters
    cursor = psycopg.ClientCursor(connection)
    cursor.execute(statement, (recalc_id, operator, because, after_ns, not_reason))
