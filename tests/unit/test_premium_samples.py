"""Statistics of premiums: the incremental ones equal plain ones over the stored rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.endpoint.live.premium_samples import LARGEST, UNIT, Samples, Statistics, units

STEP_MS = 10
WINDOWS = (3, 8)
KEPT = 8
# (time in ms, premium); None = a record without a premium
Rows = Sequence[tuple[int, float | None]]

PREMIUMS = st.one_of(
    st.none(),
    st.floats(-0.9, 5),
    st.sampled_from([0.0, -0.0, 0.01, 0.01, 1e-9, LARGEST, 2 * LARGEST, math.inf, math.nan]),
)
# mostly small steps of time; now and then a pause that is longer than every window
PAUSES = st.one_of(st.integers(0, 25), st.integers(0, 400))


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    found, now = [], draw(st.integers(0, 10**6))
    for pause, premium in draw(st.lists(st.tuples(PAUSES, PREMIUMS), min_size=1, max_size=60)):
        now += pause
        found.append((now, premium))
    return found


def plain_samples(stored: Rows) -> dict[int, int]:
    """Return the last premium of each step, as a query over the stored rows gives it."""
    found = {}
    for ts_ms, premium in stored:
        sample = units(premium)
        if sample is not None:
            found[ts_ms // STEP_MS] = sample
    return found


def plain(samples: dict[int, int], newest: int, steps: int, now: int | None) -> Statistics:
    inside = [one for step, one in samples.items() if newest - steps < step <= newest]
    if not inside:
        return Statistics(0)
    mean = math.fsum(inside) / len(inside)
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in inside) / len(inside))
    percentile = z = None
    if now is not None:
        percentile = sum(one <= now for one in inside) / len(inside)
        z = (now - mean) / deviation if len(set(inside)) > 1 else None
    low, high = min(inside) / UNIT, max(inside) / UNIT
    return Statistics(len(inside), percentile, mean / UNIT, deviation / UNIT, z, high, low)


def check(samples: Samples, stored: Rows) -> None:
    expected = plain_samples(stored)
    newest, now = stored[-1][0] // STEP_MS, units(stored[-1][1])
    for window in samples.windows:
        found = window.statistics(samples.at(0), current=now is not None)
        known = plain(expected, newest, window.steps, now)
        assert (found.samples, found.percentile) == (known.samples, known.percentile)
        assert (found.high, found.low) == (known.high, known.low)
        if not known.samples:
            assert found == known
            continue
        assert found.mean == pytest.approx(known.mean, rel=1e-9, abs=1e-9)
        assert found.deviation == pytest.approx(known.deviation, rel=1e-6, abs=1e-9)
        if known.z is None:
            assert found.z is None
        else:
            assert found.z == pytest.approx(known.z, rel=1e-6, abs=1e-9)
    for back in range(KEPT + 3):
        inside = back <= KEPT
        assert samples.at(back) == (expected.get(newest - back) if inside else None)
    for level in {*expected.values(), 0}:
        closed = [(step, one) for step, one in expected.items() if newest - KEPT < step < newest]
        high = max((step for step, one in closed if one >= level), default=None)
        low = max((step for step, one in closed if one <= level), default=None)
        for wanted, is_high in ((high, True), (low, False)):
            at = None if wanted is None else wanted * STEP_MS
            assert samples.reached(level, high=is_high) == at
    spans = [2, 4, 3]
    assert samples.newest_of(spans) == [
        next((expected[step] for step in range(last, first - 1, -1) if step in expected), None)
        for first, last in (
            (newest - 8, newest - 7),
            (newest - 6, newest - 3),
            (newest - 2, newest),
        )
    ]


@given(rows())
def test_live_statistics_are_those_of_the_stored_rows(stored: Rows) -> None:
    samples = Samples(STEP_MS, WINDOWS, KEPT)
    for ts_ms, premium in stored:
        samples.add(ts_ms, units(premium))
    check(samples, stored)


@given(rows(), st.integers(0, 60), st.integers(0, 60))
def test_after_a_restart_they_are_the_same(stored: Rows, started: int, loaded: int) -> None:
    # records before `started` are only in the database, which answers after `loaded` more records
    samples = Samples(STEP_MS, WINDOWS, KEPT)
    started = min(started, len(stored) - 1)
    for number, (ts_ms, premium) in enumerate(stored[started:]):
        samples.add(ts_ms, units(premium))
        if number == min(loaded, len(stored) - started - 1):
            # the database may have rows of this very process too
            samples.fill(plain_samples(stored[: started + number + 1]))
    check(samples, stored)


def test_windows_expire_without_premiums() -> None:
    samples = Samples(STEP_MS, WINDOWS, KEPT)
    samples.add(0, units(0.01))
    samples.add(STEP_MS, None)
    short, long = samples.windows
    assert short.statistics(samples.at(0), current=False) == Statistics(
        1, None, 0.01, 0.0, None, 0.01, 0.01
    )
    samples.add(3 * STEP_MS, None)
    assert not short.ordered
    assert list(long.ordered) == [units(0.01)]
    samples.add(10**6, None)
    assert not long.ordered
    assert samples.reached(0, high=True) is None


def test_a_late_record_changes_nothing() -> None:
    samples = Samples(STEP_MS, WINDOWS, KEPT)
    samples.add(50, units(0.01))
    samples.add(20, units(0.5))
    assert samples.at(0) == units(0.01)
    assert samples.at(3) is None


def test_an_empty_database_fills_nothing_and_a_full_one_begins() -> None:
    samples = Samples(STEP_MS, WINDOWS, KEPT)
    samples.fill({})
    assert samples.newest_of([1, 2]) == [None, None]
    assert samples.at(0) is None
    samples.fill({5: 100, 7: 300, -20: 1})
    assert (samples.newest, samples.at(0), samples.at(2)) == (7, 300, 100)
    assert list(samples.windows[0].ordered) == [100]
