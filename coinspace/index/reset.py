"""Stored ticks that lie in the future: a clock that was ahead made them.

Their records stay valid until an operator declares them void. Then each instant gets a new record
when its time comes. The void records are kept in `index_recalc`.
"""

from __future__ import annotations

from dataclasses import dataclass

from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.index.memory import CLOCK_RESET
from coinspace.index.outage import NOT_COMPUTED
from coinspace.index.store import store
from coinspace.instant import shown
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.read import records
from coinspace.storage.read.query import wait_applied
from coinspace.storage.records import Row
from coinspace.storage.tables import INDEX_RECALC

# a clock without battery shows 1970 or the year of the kernel: all history would be void
FARTHEST_NS = 31 * 86_400 * SECOND_NS
# another host's clock may be a little ahead
TOLERANCE_NS = 2 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Ahead:
    """The published ticks of one index that lie in the future."""

    asset: str
    ticks: int
    first_ns: int
    last_ns: int

    def __str__(self) -> str:
        span = f"{shown(self.first_ns)} to {shown(self.last_ns)}"
        return f"{self.asset}: {self.ticks} ticks from {span}"


def ticks_ahead(settings: Settings, now_ns: int) -> list[Ahead]:
    """Return the ticks stored after now. Raises: StorageError when the database cannot answer."""
    with schema.connect(address(settings)) as connection:
        found = records.ahead(connection, now_ns + TOLERANCE_NS, NOT_COMPUTED)
    return [Ahead(*row) for row in found]


def declare_void(settings: Settings, now_ns: int, operator: str, because: str) -> list[Ahead]:
    """Copy the records after now to `index_recalc`, and allow new records for their instants.

    Returns: the ticks that are void now.
    Raises: CoinSpaceError when a tick is too far ahead, StorageError when the database cannot
        answer.
    """
    found = ticks_ahead(settings, now_ns)
    if not found:
        return found
    last_ns = max(one.last_ns for one in found)
    if last_ns - now_ns > FARTHEST_NS:
        raise CoinSpaceError(
            f"expected stored ticks until at most 31 days after now ({shown(now_ns)}), found"
            f" ticks until {shown(last_ns)}: check the clock of this host"
        )
    with schema.connect(address(settings)) as connection:
        records.keep_void(
            connection,
            now_ns + TOLERANCE_NS,
            NOT_COMPUTED,
            recalc_id=now_ns,
            operator=operator,
            because=because,
        )
        wait_applied(connection, INDEX_RECALC.name)
    ticks = sum(one.ticks for one in found)
    detail = f"{ticks} ticks until {shown(last_ns)} are void: {because}"
    columns = {"target": str(last_ns), "detail": detail, "entry": 0}
    symbols: dict[str, str | None] = {"operator": operator, "action": CLOCK_RESET}
    store(settings, [Row("operator_log", now_ns, symbols, columns)])
    return found
