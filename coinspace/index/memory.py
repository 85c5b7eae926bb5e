"""The method's memory, read back from stored records at a restart and before recomputing.

Every function raises StorageError when the database cannot answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coinspace.clock import SECOND_NS
from coinspace.index.calculator import Index
from coinspace.index.outage import NOT_COMPUTED, Outage
from coinspace.market import DOLLAR_MARKET, FX_MARKET
from coinspace.method.aggregate import COMPOSITE
from coinspace.method.filter import DEVIATING, FROZEN, Mids
from coinspace.method.reference import CLOSED, DAILY, DAILY_AGE_NS, HOLD_NS, LATE, OK
from coinspace.storage.read import memory as stored
from coinspace.storage.read.announced import targets
from coinspace.storage.records import CONSTITUENT, FX, FX_ASSET, names_of
from coinspace.storage.schema import Connection

# how far back the last change of a book is searched
REFERENCE_NS = 86_400 * SECOND_NS
# at most 69 days of future ticks, made while the clock was ahead
AHEAD_MINUTES = 100_000
# action in operator_log: records after its time and up to its target (ns) are void
CLOCK_RESET = "clock_reset"


@dataclass(slots=True)
class Memory:
    """The state that one index continues from.

    Attributes:
        ts_ns: its last stored tick. ticks: (ts_ns, value_raw, kr, gl) of the averages' window.
        null_since_ns: first tick of the current run of nulls, None = the last tick had a value.
        references: venue -> time of its book's last change, and all mids of that moment.
    """

    ts_ns: int
    flagged: list[str] = field(default_factory=list)
    split: bool = False
    null_since_ns: int | None = None
    ticks: list[tuple[int, float | None, float | None, float | None]] = field(default_factory=list)
    references: Mapping[str, tuple[int, Mids]] = field(default_factory=dict)

    def outage(self, index: Index, first_ns: int, last_ns: int, step_ns: int) -> Outage:
        """Return the outage of ticks after this one; the memory does not change in it."""
        ticks = first_ns, last_ns, step_ns
        return index.outage(ticks, self.flagged, self.split, self.null_since_ns)

    def give(self, index: Index) -> None:
        """Put the memory into an index."""
        index.last_ts_ns = self.ts_ns
        index.filter.restore(self.flagged, self.split, self.references)
        index.null_since_ns = self.null_since_ns
        for position, name in enumerate((COMPOSITE, "KR", "GL"), 1):
            index.averages[name].restore((tick[0], tick[position]) for tick in self.ticks)


def remember(
    connection: Connection,
    index: Index,
    before_ns: int | None = None,
    *,
    candidate: bool = False,
) -> None:
    """Give an index the memory of its last stored tick, if there is one.

    Args:
        before_ns: use the last tick before this time.
        candidate: read index_next, and only records of the same parameters.
    """
    ticks = stored.Ticks(
        connection,
        index.asset,
        candidate=candidate,
        parameter_hash=index.hash if candidate else None,
    )
    window_ns = int(index.parameters.twap_s * SECOND_NS)
    memory = _read(ticks, window_ns, before_ns)
    if memory is not None:
        memory.references = read_references(connection, index.asset, CONSTITUENT, memory.ts_ns)
        memory.give(index)


def read_memory(
    connection: Connection, asset: str, window_ns: int, before_ns: int | None = None
) -> Memory | None:
    """Return the memory as of the last stored tick of an asset, without references.

    Args: before_ns: use the last tick before this time.
    Returns: None where no tick is stored.
    """
    return _read(stored.Ticks(connection, asset), window_ns, before_ns)


def _read(ticks: stored.Ticks, window_ns: int, before_ns: int | None) -> Memory | None:
    last = ticks.last(before_ns)
    if last is None:
        return None
    values = ticks.values(last.ts_ns - window_ns - SECOND_NS, last.ts_ns)
    null_since = None
    if not values or values[-1][1] is None:
        null_since = ticks.null_since(last.ts_ns)
    return Memory(last.ts_ns, names_of(last.flagged), bool(last.split), null_since, values)


def read_ahead(connection: Connection, asset: str, after_ns: int) -> list[tuple[int, int]]:
    """Return spans of published ticks after an instant: first and last tick of each minute.

    A minute has no gaps between its ticks, unless the clock was set in that minute.
    """
    spans = stored.minutes_after(connection, asset, after_ns, NOT_COMPUTED, AHEAD_MINUTES)
    if len(spans) == AHEAD_MINUTES:
        # too many spans to read: every later instant counts as published
        spans.append((spans[-1][1], stored.NO_BOUND_NS))
    return spans


def read_resets(connection: Connection) -> list[tuple[int, int]]:
    """Return the spans of ticks whose records an operator has declared void.

    Each span begins at the operator's action: a clock that was ahead made the later records.
    """
    found = targets(connection, CLOCK_RESET)
    return [(at_ns, int(target)) for at_ns, target in found if target.isdigit()]


def read_references(
    connection: Connection, asset: str, role: str, ts_ns: int
) -> dict[str, tuple[int, Mids]]:
    """Return the references of the frozen rule, as of a stored tick.

    Returns: venue -> time of its book's last change, and the mids of all venues at the first tick
        at which the venue counted with that book. Mids in their own currency are not stored.
    """
    # a venue with any other reason is not compared with others
    judged = (FROZEN, DEVIATING)
    oldest_ns = ts_ns - REFERENCE_NS
    found: dict[str, tuple[int, Mids]] = {}
    for venue, changed_ns in stored.changes(connection, asset, role, oldest_ns, ts_ns):
        key = (asset, role, venue)
        since_ns = max(changed_ns, oldest_ns)
        first_ns = stored.first_tick_with_book(connection, key, since_ns, ts_ns, changed_ns, judged)
        if first_ns is None:
            continue
        mids = stored.mids(connection, asset, role, first_ns, judged)
        found[venue] = (
            changed_ns,
            {name: (mid, None, name.partition("/")[2]) for name, mid in mids},
        )
    return found


def read_reference_memory(connection: Connection, asset: str, before_ns: int) -> dict[str, Any]:
    """Return the state of the USD/KRW rate before a tick: quotations, and the last rate.

    Args: asset: any index; all share the rate.
    """
    found = stored.quotations(connection, before_ns - DAILY_AGE_NS, before_ns)
    last = stored.last_reference(
        connection, asset, before_ns - HOLD_NS, before_ns, (OK, CLOSED, LATE, DAILY)
    )
    facts = None
    if last is not None:
        facts = (
            last.ts_ns,
            {
                "rate": last.rate,
                "status": last.status,
                "source": last.source,
                "observed_ns": last.observed_ns,
            },
        )
    names = ("source", "rate", "observed_ns", "received_ns", "daily", "round")
    quoted = [dict(zip(names, one, strict=True)) for one in found]
    return {"last": facts, "quotations": quoted}


def read_fx_memory(
    connection: Connection, asset: str, before_ns: int, window_ns: int
) -> dict[str, Any]:
    """Return the memory of KRW and USD per USDT before a tick: rates, flags, references.

    Args: asset: any index; all share the rates.
    """
    found: dict[str, Any] = {}
    references: dict[str, tuple[int, Mids]] | None = None
    for name, column, market in (("fx", "fx", FX_MARKET), ("dollar", "usdt_usd", DOLLAR_MARKET)):
        rows = stored.rates(connection, asset, before_ns - window_ns, before_ns, column)
        if not rows:
            found[name] = {}
            continue
        last_ns, _, _, flagged = rows[-1]
        if references is None:
            references = read_references(connection, FX_ASSET, FX, last_ns)
        ending = f":{market}"
        found[name] = {
            "window": [
                (ts_ns, rate)
                for ts_ns, rate, status, _ in rows
                if status == "ok" and rate is not None
            ],
            "flagged": [one for one in names_of(flagged) if one.endswith(ending)],
            "references": {
                venue: (
                    at_ns,
                    {other: mid for other, mid in mids.items() if other.endswith(ending)},
                )
                for venue, (at_ns, mids) in references.items()
                if venue.endswith(ending)
            },
        }
    return found
