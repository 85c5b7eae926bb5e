"""The method's memory, read back from the last stored records at a restart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg

from coinspace.clock import SECOND_NS
from coinspace.errors import StorageError
from coinspace.index.calculator import Index
from coinspace.method.aggregate import COMPOSITE


@dataclass(slots=True)
class Memory:
    """What one index goes on with.

    Attributes:
        ts_ns: its last stored tick. ticks: (ts_ns, value_raw, kr, gl) of the averages' window.
        null_since_ns: first of the nulls that last until now, None = the last tick had a value.
    """

    ts_ns: int
    flagged: list[str] = field(default_factory=list)
    split: bool = False
    null_since_ns: int | None = None
    ticks: list[tuple[int, float | None, float | None, float | None]] = field(default_factory=list)

    def give(self, index: Index) -> None:
        """Put the memory into an index."""
        index.last_ts_ns = self.ts_ns
        index.filter.restore(self.flagged, self.split)
        index.null_since_ns = self.null_since_ns
        for position, name in enumerate((COMPOSITE, "KR", "GL"), 1):
            index.averages[name].restore((tick[0], tick[position]) for tick in self.ticks)


def read_memory(
    connection: psycopg.Connection[Any], asset: str, window_ns: int, before_ns: int | None = None
) -> Memory | None:
    """Return the memory as of the last stored tick of an asset, None where none is stored.

    Args: before_ns: as of the last tick before this one, for recomputing.
    Raises: StorageError when the database cannot answer.
    """
    bound = before_ns if before_ns is not None else 2**62
    try:
        rows = connection.execute(
            "SELECT ts::long, flagged, split FROM index_tick"
            " WHERE asset = %s AND ts < %s::timestamp_ns ORDER BY ts DESC LIMIT 1",
            (asset, bound),
        ).fetchall()
        if not rows:
            return None
        ts_ns, flagged, split = rows[0]
        ticks = connection.execute(
            "SELECT ts::long, value_raw, kr, gl FROM index_tick WHERE asset = %s"
            " AND ts >= %s::timestamp_ns AND ts <= %s::timestamp_ns ORDER BY ts",
            (asset, ts_ns - window_ns - SECOND_NS, ts_ns),
        ).fetchall()
        null_since = None
        if not ticks or ticks[-1][1] is None:
            null_since = _null_since(connection, asset, ts_ns)
    except psycopg.Error as error:
        raise StorageError(
            f"memory of {asset}: expected the last record, {error}", "index_tick"
        ) from None
    names = [name for name in (flagged or "").split(",") if name]
    return Memory(ts_ns, names, bool(split), null_since, ticks)


def _null_since(connection: psycopg.Connection[Any], asset: str, ts_ns: int) -> int:
    last = connection.execute(
        "SELECT max(ts)::long FROM index_tick"
        " WHERE asset = %s AND value_raw != null AND ts <= %s::timestamp_ns",
        (asset, ts_ns),
    ).fetchone()
    found = connection.execute(
        "SELECT min(ts)::long FROM index_tick WHERE asset = %s AND ts > %s::timestamp_ns",
        (asset, last[0] if last and last[0] is not None else 0),
    ).fetchone()
    return int(found[0]) if found and found[0] is not None else ts_ns
