"""A wall clock that is set back or forward: each instant has one record, and ticks continue."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import IndexParameters, Settings
from coinspace.index.backlog import CUT, Backlog
from coinspace.index.calculator import LATEST_NS, LONGEST_OUTAGE_NS, IndexCalculator
from coinspace.index.outage import Outage
from coinspace.method.aggregate import Aggregate
from coinspace.method.filter import VENUES_KEPT, Candidate, VenueFilter
from coinspace.method.record import IndexRecord
from coinspace.storage.records import Row, tick_ns

STEP_NS = 200 * MILLISECOND_NS
START_NS = 1_790_000_000 * SECOND_NS
HOUR = 3600
SECOND = SECOND_NS // STEP_NS


class Platform:
    """Aggregator, calculator and a table that keeps a record for each instant, as QuestDB does."""

    def __init__(self, *, assets: tuple[str, ...] = ("BTC", "ETH")) -> None:
        chosen = Settings()
        chosen.index.assets = list(assets)
        self.live: list[IndexRecord] = []
        # (asset, instant) -> the reasons of the records that were stored there, newest last
        self.table: dict[tuple[str, int], list[str | None]] = {}
        self.steps: list[tuple[int, int]] = []
        self.gaps: list[Row] = []
        self.backlog = Backlog("index-calculator", 7, self._take)
        self.calculator = IndexCalculator(
            chosen.index.parameters_of,
            self._emit,
            interval_ns=STEP_NS,
            on_outage=lambda outage: self.backlog.add(outage, 0),
            on_step=self._on_step,
            assets=chosen.index.assets,
        )
        self.aggregator = OrderbookAggregator(
            chosen, on_aggregate=self.calculator.on_aggregate, heartbeats=False
        )
        # ticks since the beginning, as the wall clock counts them
        self.now = 0

    def _emit(self, record: IndexRecord, _: Aggregate | None) -> None:
        self.live.append(record)
        if not record.repeated:
            self._store(record.asset, tick_ns(record), record.reason)

    def _store(self, asset: str, at_ns: int, reason: str | None) -> None:
        self.table.setdefault((asset, at_ns), []).append(reason)

    def _take(self, row: Row) -> bool:
        if row.table == "gap":
            self.gaps.append(row)
        else:
            self._store(row.symbols["asset"] or "", row.at_ns, row.symbols["reason"])
        return True

    def _on_step(self, last_ns: int, next_ns: int) -> None:
        self.steps.append((last_ns, next_ns))
        if next_ns < last_ns:
            self.backlog.cut(next_ns)

    def run(self, ticks: int) -> None:
        """Let time pass; the backlog stores ten records per tick meanwhile."""
        for _ in range(ticks):
            self.now += 1
            self.aggregator.tick(START_NS + self.now * STEP_NS)
            self.backlog.step(10, 0)

    def set_clock(self, seconds: int) -> None:
        """Set the wall clock, and notify the aggregator."""
        self.now += seconds * SECOND
        self.aggregator.clock_stepped()

    def stored(self, first: int, last: int, asset: str = "BTC") -> list[list[str | None]]:
        """Return the stored reasons of each tick of a range."""
        return [self.table.get((asset, START_NS + i * STEP_NS), []) for i in range(first, last)]

    def published_once(self) -> bool:
        """Return whether no computed record was followed by another record of its instant."""
        return all(reason == "not_computed" for kept in self.table.values() for reason in kept[:-1])


@pytest.mark.parametrize("ahead_s", [60, 7200, 9 * HOUR])
def test_a_clock_that_was_ahead_is_corrected(ahead_s: int) -> None:
    platform = Platform()
    platform.run(50)
    platform.set_clock(ahead_s)
    platform.run(20)
    first, last = 50 + ahead_s * SECOND, platform.now
    platform.set_clock(-ahead_s)
    before = len(platform.live)
    platform.run(100)
    # a record for each tick, at once, and stored
    assert [tick_ns(one) for one in platform.live[before::2]] == [
        START_NS + i * STEP_NS for i in range(71, 171)
    ]
    assert not any(one.repeated for one in platform.live[: before + 2])
    assert platform.calculator.counts["clock_steps"] == 1
    assert all(platform.stored(71, min(171, first)))
    # the present reaches the instants that have records of the wrong clock
    platform.now = first - 10
    platform.run(40)
    repeated = [one for one in platform.live if one.repeated]
    assert {tick_ns(one) for one in repeated} == {
        START_NS + i * STEP_NS for i in range(first + 1, last + 1)
    }
    assert platform.calculator.counts["repeated"] == 2 * 20
    assert platform.published_once()
    # nothing is missing up to now
    while platform.backlog.ticks:
        platform.backlog.step(1000, 0)
    for asset in ("BTC", "ETH"):
        assert all(platform.stored(1, platform.now + 1, asset))


def test_a_clock_set_back_while_it_runs() -> None:
    platform = Platform()
    platform.run(1000)
    table = {key: list(kept) for key, kept in platform.table.items()}
    platform.set_clock(-100)
    platform.run(400)
    # repeated live records have a flag, and published records do not change
    fresh = platform.live[-800:]
    assert all(one.repeated for one in fresh)
    assert [tick_ns(one) for one in fresh[::2]] == [START_NS + i * STEP_NS for i in range(501, 901)]
    assert platform.table == table
    assert platform.calculator.latest_published_ns == START_NS + 1000 * STEP_NS
    # then ticks go on without a gap
    platform.run(200)
    assert all(platform.stored(1, 1101))
    assert platform.published_once()
    assert not platform.live[-1].repeated
    assert platform.steps == [(START_NS + 1000 * STEP_NS, START_NS + 501 * STEP_NS)]


def test_a_jump_forward_is_an_outage_until_the_clock_is_corrected() -> None:
    platform = Platform(assets=("BTC",))
    platform.run(10)
    platform.set_clock(HOUR)
    platform.run(5)
    # no extra live tick
    assert len(platform.live) == 15
    assert platform.backlog.ticks > 17_000
    platform.set_clock(-HOUR)
    platform.run(30)
    assert platform.backlog.ticks == 0
    gap = platform.gaps[-1]
    assert gap.symbols["status"] == "filled"
    assert gap.columns["reason"] == CUT
    assert gap.columns["last"] < START_NS + 20 * STEP_NS
    # ticks that were recorded as missed have their records now
    assert all(kept[-1] != "not_computed" for kept in platform.stored(17, 46))
    assert platform.published_once()


def test_a_clock_of_another_century_fills_no_disk() -> None:
    platform = Platform()
    platform.run(10)
    platform.now += 74 * 365 * 86_400 * SECOND
    platform.run(5)
    assert platform.backlog.ticks == 0
    assert platform.calculator.counts["clock_steps"] == 1
    assert platform.calculator.counts["skipped"] > 2 * LONGEST_OUTAGE_NS // STEP_NS
    platform.now = 15
    platform.run(10)
    assert all(platform.stored(1, 11))
    assert all(platform.stored(16, 26))
    assert platform.live[-1].ts_ms == (START_NS + 25 * STEP_NS) // MILLISECOND_NS


def test_an_outage_excludes_published_ticks() -> None:
    platform = Platform(assets=("BTC",))
    platform.run(10)
    platform.set_clock(600)
    platform.run(20)
    platform.set_clock(-600)
    platform.run(10)
    # stopped until long after the published instants
    platform.now += 700 * SECOND
    platform.run(1)
    while platform.backlog.ticks:
        platform.backlog.step(1000, 0)
    assert all(platform.stored(1, platform.now + 1))
    assert platform.published_once()
    used_up = platform.stored(11 + 600 * SECOND, 31 + 600 * SECOND)
    assert not any("not_computed" in kept for kept in used_up)


def test_without_an_aggregator_the_calculator_records_missed_ticks() -> None:
    platform = Platform(assets=("BTC",))
    platform.run(10)
    platform.now -= HOUR * SECOND
    now_ns = START_NS + platform.now * STEP_NS
    platform.calculator.set_back(now_ns)
    platform.calculator.on_time(now_ns + 20 * STEP_NS)
    assert [one.reason for one in platform.live[10:]] == ["not_computed"] * 21
    assert len(platform.steps) == 1


def test_an_unknown_asset_or_an_impossible_time_makes_no_index() -> None:
    platform = Platform(assets=("BTC",))
    platform.run(1)
    for number, ts_ns in enumerate([START_NS + STEP_NS * 2] * 50 + [0, -5, LATEST_NS, 1 << 80]):
        asset = "BTC" if ts_ns != START_NS + STEP_NS * 2 else f"EVIL{number}"
        platform.calculator.on_aggregate(Aggregate(asset, ts_ns, [], None, {}))  # type: ignore[arg-type]
    assert platform.calculator.counts["refused_aggregates"] == 54
    assert set(platform.calculator.indices) == {"BTC"}
    assert len(platform.live) == 1


@given(
    st.lists(
        st.tuples(st.sampled_from(["run", "set", "off"]), st.integers(min_value=-90, max_value=90)),
        max_size=12,
    )
)
def test_no_published_record_is_ever_replaced(course: list[tuple[str, int]]) -> None:
    platform = Platform(assets=("BTC",))
    platform.run(5)
    for what, amount in course:
        if what == "run":
            platform.run(abs(amount))
        elif what == "set":
            platform.set_clock(amount)
            platform.run(1)
        else:
            platform.now += abs(amount) * SECOND
    platform.run(3)
    assert platform.published_once()
    live = [tick_ns(one) for one in platform.live[-3:]]
    assert live == [START_NS + (platform.now - i) * STEP_NS for i in (2, 1, 0)]
    assert len(platform.calculator.index("BTC").published.spans) <= 64


def test_an_outage_cut_to_nothing_is_closed() -> None:
    taken: list[Row] = []

    def take(row: Row) -> bool:
        taken.append(row)
        return True

    backlog = Backlog("index-calculator", 7, take)
    backlog.add(Outage("BTC", START_NS, START_NS + 99 * STEP_NS, STEP_NS), 1)
    assert backlog.step(30, 1) == 30
    assert backlog.cut(START_NS - HOUR * SECOND_NS) == 70
    assert backlog.ticks == 0
    assert backlog.step(30, 1) == 0
    facts: dict[str, Any] = taken[-1].columns
    assert (taken[-1].symbols["status"], facts["count"], facts["first"]) == ("filled", 0, START_NS)
    assert backlog.cut(0) == 0


def test_the_venues_that_a_filter_remembers_are_bounded() -> None:
    found = VenueFilter(IndexParameters())
    for number in range(3):
        wave = [
            Candidate(f"x{number}.{i}", "KR", "KRW", 100.0 + 50 * (i % 2), 1.0, 1)
            for i in range(VENUES_KEPT // 2 + 10)
        ]
        found.apply(START_NS + number, wave)
        assert len(found.references) <= VENUES_KEPT + len(wave)
    assert len(found.references) == VENUES_KEPT // 2 + 10
    assert len(found.flags) <= VENUES_KEPT
