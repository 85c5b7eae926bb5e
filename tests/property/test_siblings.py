"""Averages and votes against a plain computation of the same numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.config import IndexParameters
from coinspace.method.siblings import Average, confidence

PRICES = st.one_of(st.none(), st.floats(1e-6, 1e9))
STEPS = st.integers(-3, 40_000_000_000)


def plain(ticks: list[tuple[int, float | None]], parameters: IndexParameters) -> float | None:
    """Return the average of the window that ends at the last tick, in exact fractions."""
    window_ns = int(parameters.twap_s * 1e9)
    start = ticks[-1][0] - window_ns
    covered, total = 0, Fraction(0)
    for (since, price), (until, _) in pairwise(ticks):
        lasted = until - max(since, start)
        if price is not None and lasted > 0:
            covered += lasted
            total += Fraction(price) * lasted
    if not covered or covered < parameters.twap_coverage * window_ns * (1.0 - 1e-12):
        return None
    return float(total / covered)


@given(st.lists(st.tuples(STEPS, PRICES), min_size=1, max_size=60), st.integers(0, 59))
def test_average_is_the_exact_one_and_survives_a_restart(
    steps: list[tuple[int, float | None]], restart: int
) -> None:
    parameters = IndexParameters()
    average = Average(parameters)
    now = 1_790_000_000_000_000_000
    kept: list[tuple[int, float | None]] = []
    for number, (step, price) in enumerate(steps):
        now += step
        kept = [tick for tick in kept if tick[0] < now]
        kept.append((now, price))
        if number == restart:
            average = Average(parameters)
            average.restore(kept[:-1])
        expected = plain(kept, parameters)
        found = average.update(now, price)
        if expected is None:
            assert found is None
        else:
            assert found == pytest.approx(expected, rel=1e-15)


@given(st.lists(st.tuples(st.floats(1e-6, 1e9), st.floats(1e-6, 1e9)), min_size=1, max_size=12))
def test_confidence_equals_numpys_quartiles(prices: list[tuple[float, float]]) -> None:
    votes = [vote for bid, ask in prices for vote in (0.5 * bid + 0.5 * ask, bid, ask)]
    low, middle, high = np.percentile(votes, (25, 50, 75))
    assert confidence(prices) == max(middle - low, high - middle)
