"""Stored ticks that lie in the future, of a clock that was ahead: shown, and declared void.

Without an operator's word they stay as they are, and their instants get no second record. Once they
are void, each gets its record when its time comes. The void ones are kept in `index_recalc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError, StorageError
from coinspace.index.memory import CLOCK_RESET, wait_applied
from coinspace.index.outage import NOT_COMPUTED, instant
from coinspace.index.recompute.audit import store
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row
from coinspace.storage.tables import INDEX_RECALC, INDEX_TICK

# a clock that lost its battery says 1970 or the year of the kernel: all history would be void
FARTHEST_NS = 31 * 86_400 * SECOND_NS
# ticks just after now may be of another host
TOLERANCE_NS = 2 * SECOND_NS
_AHEAD = f"ts > %s::timestamp_ns AND (reason IS NULL OR reason != '{NOT_COMPUTED}')"


@dataclass(frozen=True, slots=True)
class Ahead:
    """The published ticks of one index that lie in the future."""

    asset: str
    ticks: int
    first_ns: int
    last_ns: int

    def __str__(self) -> str:
        span = f"{instant(self.first_ns)} to {instant(self.last_ns)}"
        return f"{self.asset}: {self.ticks} ticks from {span}"


def ticks_ahead(settings: Settings, now_ns: int) -> list[Ahead]:
    """Return what is stored after now. Raises: StorageError when the database cannot answer."""
    with _database(settings) as connection:
        rows = connection.execute(
            "SELECT asset, count(), min(ts::long) AS first_ns, max(ts::long) AS last_ns"
            f" FROM index_tick WHERE {_AHEAD}"
            " ORDER BY asset",
            (now_ns + TOLERANCE_NS,),
        ).fetchall()
    return [Ahead(*row) for row in rows]


def declare_void(settings: Settings, now_ns: int, operator: str, because: str) -> list[Ahead]:
    """Keep what is stored after now in `index_recalc`, and let its instants have new records.

    Returns: what was found.
    Raises: CoinSpaceError when it reaches too far, StorageError when the database cannot answer.
    """
    found = ticks_ahead(settings, now_ns)
    if not found:
        return found
    last_ns = max(one.last_ns for one in found)
    if last_ns - now_ns > FARTHEST_NS:
        raise CoinSpaceError(
            f"stored ticks reach to {instant(last_ns)}, expected 31 days after now at most; now is"
            f" {instant(now_ns)}: check the clock of this host"
        )
    with _database(settings) as connection:
        # composed here: the database knows no types of parameters in a SELECT's columns
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(_copy(), (now_ns, operator, because, now_ns + TOLERANCE_NS))
        wait_applied(connection, INDEX_RECALC.name)
    ticks = sum(one.ticks for one in found)
    detail = f"{ticks} ticks until {instant(last_ns)} are void: {because}"
    columns = {"target": str(last_ns), "detail": detail, "entry": 0}
    symbols: dict[str, str | None] = {"operator": operator, "action": CLOCK_RESET}
    store(settings, [Row("operator_log", now_ns, symbols, columns)])
    return found


def _copy() -> str:
    columns = [f'"{name}"' for name, _ in INDEX_TICK.columns]
    return (
        f"INSERT INTO index_recalc ({', '.join(columns)}, original, recalc_id, operator, because)"
        f" SELECT {', '.join(columns)}, value, %s, %s, %s"
        f" FROM index_tick WHERE {_AHEAD}"
    )


@contextmanager
def _database(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    try:
        with schema.connect(address(settings)) as connection:
            yield connection
    except psycopg.Error as error:
        raise StorageError(f"ticks after now: expected rows, {error}", "index_tick") from None
