"""A comparison of stored with recomputed records, tick by tick, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from coinspace.aggregator.venue import Input
from coinspace.clock import SECOND_NS
from coinspace.index.outage import NOT_COMPUTED
from coinspace.method.record import IndexRecord, Kind, VenueRecord, facts
from coinspace.method.reference import USD_KRW
from coinspace.storage.parts import PART_NAMES, stored_siblings
from coinspace.storage.read import records
from coinspace.storage.records import FX_ASSET, Row, comparable, read, tick_ns, tick_row
from coinspace.storage.schema import Connection
from coinspace.storage.tables import INDEX_TICK

# number of differences printed in full
SHOWN = 20
# time range of the stored records in memory at once
WINDOW_NS = 300 * SECOND_NS
# relative error above which a value may be restated (methodology 8)
RESTATE_ABOVE = 0.001
# columns that are a tick's key, or belong to its live publication
NOT_COMPARED = ("ts", "asset", "latency_ns", "epoch", "seq")
TEXTS = {one.column for one in facts(IndexRecord) if one.kind is Kind.NAMES}
# column -> the field that it stores with 8 significant digits
SIGNIFICANT = {
    one.column: one.attribute for one in facts(IndexRecord) if one.kind in (Kind.PRICE, Kind.RATIO)
}
VENUE_COLUMNS = tuple(one.column for one in facts(VenueRecord) if one.column)


@dataclass(slots=True)
class Verification:
    """Result of a comparison.

    Attributes:
        missing: recomputed ticks that are not stored. unrepeated: stored ticks not recomputed.
        not_computed: ticks that the calculator missed when they were live.
    """

    ticks: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    unrepeated: int = 0
    not_computed: int = 0
    restated: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every tick was stored, recomputed and equal."""
        return self.ticks > 0 and not (self.different or self.missing or self.unrepeated)

    def summary(self) -> str:
        """Return the verdict as one line."""
        return (
            f"{self.ticks} ticks checked, {self.equal} equal, {self.different} different,"
            f" {self.missing} not stored, {self.unrepeated} not recomputed,"
            f" {self.not_computed} missed when live"
        )


class Stored:
    """The stored records of a range, read window by window: a whole day would fill the memory.

    Ticks are read in their order; the next window replaces the last one.
    """

    def __init__(
        self, connection: Connection, assets: list[str], start_ns: int, end_ns: int
    ) -> None:
        self.ticks: dict[tuple[str, int], dict[str, Any]] = {}
        self.venues: dict[tuple[str, int], dict[str, VenueRecord]] = {}
        self._inputs: dict[int, dict[str, Input]] = {}
        self._connection = connection
        self._assets = assets
        self._next_ns = start_ns
        self._end_ns = end_ns
        # ticks of replaced windows that were not recomputed
        self.left: list[tuple[str, int]] = []

    def reach(self, ts_ns: int) -> None:
        """Read on until the window of a tick is in memory."""
        while self._next_ns <= ts_ns and self._next_ns < self._end_ns:
            start_ns, end_ns = self._next_ns, min(self._next_ns + WINDOW_NS, self._end_ns)
            self._next_ns = end_ns
            self.left += self.ticks
            self.ticks = {
                (asset, row.pop("ts")): row
                for asset in self._assets
                for row in _ticks(self._connection, asset, start_ns, end_ns)
            }
            self.venues, self._inputs = _venues(self._connection, start_ns, end_ns)
            for (_, at_ns), row in self.ticks.items():
                if at_ns in self._inputs:
                    heard_ns = row["usd_krw_heard_ns"] or 0
                    self._inputs[at_ns][USD_KRW] = Input(heard_ns, None)

    def inputs(self, ts_ns: int) -> Mapping[str, Input]:
        """Return venue -> input in the tick's record; empty without a record."""
        self.reach(ts_ns)
        return self._inputs.get(ts_ns, {})

    def missed(self, asset: str, ts_ns: int) -> bool:
        """Return whether the calculator missed the tick."""
        self.reach(ts_ns)
        stored = self.ticks.get((asset, ts_ns))
        return stored is not None and stored["reason"] == NOT_COMPUTED

    def finish(self) -> list[tuple[str, int]]:
        """Read to the end. Returns: all ticks that were not recomputed."""
        self.reach(self._end_ns)
        self.left += self.ticks
        return self.left


class RecordComparison:
    """Compares recomputed records with the rows of index_tick and index_venue.

    Args: warm_ns: ticks from here to `start_ns` are recomputed and not compared.
    """

    def __init__(
        self,
        connection: Connection,
        assets: list[str],
        start_ns: int,
        end_ns: int,
        warm_ns: int,
    ) -> None:
        self.verdict = Verification()
        self.restated: list[tuple[IndexRecord, float]] = []
        self.stored = Stored(connection, assets, warm_ns, end_ns)
        self._start_ns, self._end_ns = start_ns, end_ns

    def take(self, record: IndexRecord) -> None:
        """Compare one recomputed record; ticks before the range only build the memory."""
        ts_ns = tick_ns(record)
        if ts_ns >= self._end_ns:
            return
        self.stored.reach(ts_ns)
        stored = self.stored.ticks.pop((record.asset, ts_ns), None)
        if ts_ns < self._start_ns:
            return
        verdict = self.verdict
        verdict.ticks += 1
        if stored is None:
            verdict.missing += 1
            return
        verdict.not_computed += stored["reason"] == NOT_COMPUTED
        found = comparable(record)
        venues = self.stored.venues.get((record.asset, ts_ns), {})
        wrong = {
            name: {"stored": stored.get(name), "recomputed": value}
            for name, value in found.items()
            if stored.get(name) != value and not _stored_whole(name, stored, record)
        }
        recomputed = record.venues
        if stored["reason"] != NOT_COMPUTED:
            # the venues of the rate are stored once for all indices
            venues = venues | self.stored.venues.get((FX_ASSET, ts_ns), {})
            recomputed = recomputed | record.fx_venues
        if venues != recomputed:
            wrong["venues"] = {"stored": venues, "recomputed": recomputed}
        if not wrong:
            verdict.equal += 1
            return
        verdict.different += 1
        if len(verdict.differences) < SHOWN:
            verdict.differences.append(
                {"asset": record.asset, "ts_ms": record.ts_ms, "fields": wrong}
            )
        was, now = stored["value"], record.value
        if was and now and abs(now / was - 1.0) > RESTATE_ABOVE:
            self.restated.append((record, was))

    def finish(self) -> Verification:
        """Return the verdict once all records were taken."""
        left = self.stored.finish()
        self.verdict.unrepeated = sum(ts_ns >= self._start_ns for _, ts_ns in left)
        return self.verdict


def _stored_whole(name: str, stored: Mapping[str, Any], record: IndexRecord) -> bool:
    # older rows have every bit of these numbers, not 8 significant digits
    return name in SIGNIFICANT and stored.get(name) == getattr(record, SIGNIFICANT[name])


def _ticks(connection: Connection, asset: str, start_ns: int, end_ns: int) -> list[dict[str, Any]]:
    names = [name for name, _ in INDEX_TICK.columns if name not in NOT_COMPARED]
    found = []
    for values in records.tick_rows(connection, asset, names, start_ns, end_ns):
        siblings = orjson.loads(stored_siblings(values))
        for name in ("siblings", *PART_NAMES):
            del values[name]
        for name, value in values.items():
            # an empty text is stored as null
            if value is None and name in TEXTS:
                values[name] = ""
        found.append({"asset": asset, **values, **siblings})
    return found


def _venues(
    connection: Connection, start_ns: int, end_ns: int
) -> tuple[dict[tuple[str, int], dict[str, VenueRecord]], dict[int, dict[str, Input]]]:
    found: dict[tuple[str, int], dict[str, VenueRecord]] = {}
    inputs: dict[int, dict[str, Input]] = {}
    for row in records.venue_rows(connection, VENUE_COLUMNS, start_ns, end_ns):
        stored = read(VenueRecord, row.columns)
        inputs.setdefault(row.ts_ns, {})[row.venue] = Input(row.received_ns or 0, stored.reason)
        found.setdefault((row.asset, row.ts_ns), {})[row.venue] = stored
    return found, inputs


def recalc_row(
    record: IndexRecord, original: float, operator: str, because: str, recalc_id: int
) -> Row:
    """Return the row of a restatement, with the original value."""
    row = tick_row(record, table="index_recalc")
    row.symbols["operator"] = operator
    row.columns |= {"original": original, "because": because, "recalc_id": recalc_id}
    return row
