"""Properties of the curve for any books: symmetries that need no oracle."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace._ext.curve import OK, Curve
from coinspace._ext.ladder import Ladder, VenueBook

sizes = st.integers(1, 400).map(lambda n: n / 8)
steps = st.integers(0, 4)
Levels = list[tuple[float, float]]


@st.composite
def books(draw: st.DrawFn, n: int | None = None) -> list[tuple[Levels, Levels]]:
    found = []
    for _ in range(n or draw(st.integers(1, 5))):
        sides = []
        for sign in (-1, 1):
            price = 10_000 + sign * draw(st.integers(1, 5))
            levels = []
            for _ in range(draw(st.integers(1, 12))):
                levels.append((float(price), draw(sizes)))
                price += sign * draw(steps)
            sides.append(levels)
        found.append((sides[0], sides[1]))
    return found


def load(book: tuple[Levels, Levels]) -> VenueBook:
    found = VenueBook()
    found.load(np.ascontiguousarray(np.array(book[0]).T), np.ascontiguousarray(np.array(book[1]).T))
    return found


def compute(
    given_books: list[tuple[Levels, Levels]], rates: list[float] | None = None, **options: Any
) -> Curve:
    ladder = Ladder()
    ladder.merge([load(one) for one in given_books], rates or [1.0] * len(given_books))
    curve = Curve(0.01, **{"cut": False, "cap_sigmas": 1000.0, **options})
    assert curve.compute(ladder, np.ones(len(given_books), dtype=np.uint8)) == OK
    return curve


def scaled(
    given_books: list[tuple[Levels, Levels]], price: float, size: float
) -> list[tuple[Levels, Levels]]:
    return [
        ([(p * price, s * size) for p, s in bids], [(p * price, s * size) for p, s in asks])
        for bids, asks in given_books
    ]


@given(books(), st.booleans())
@settings(max_examples=60)
def test_order_of_venues_does_not_matter(found: list[Any], cut: bool) -> None:
    a, b = compute(found, cut=cut), compute(found[::-1], cut=cut)
    assert a.value == pytest.approx(b.value, rel=1e-12)
    assert a.depth == pytest.approx(b.depth, rel=1e-12)
    assert list(a.shares()) == pytest.approx(list(b.shares())[::-1], abs=1e-9)


@given(books(), st.sampled_from([2.0, 0.5, 1371.0, 1e-9]), st.sampled_from([4.0, 1e7, 1e-9, 3.0]))
@settings(max_examples=60)
def test_scaling_prices_and_sizes(found: list[Any], price: float, size: float) -> None:
    a, b = compute(found, cut=True), compute(scaled(found, price, size), cut=True)
    assert b.value == pytest.approx(a.value * price, rel=1e-12)
    assert b.depth == pytest.approx(a.depth * size, rel=1e-9)
    assert b.size_cap == pytest.approx(a.size_cap * size, rel=1e-9)
    assert list(a.shares()) == pytest.approx(list(b.shares()), abs=1e-9)


@given(books(), st.sampled_from([1400.0, 1371.0, 0.7]), st.integers(0, 4))
@settings(max_examples=60)
def test_currency_of_a_venue_does_not_matter(found: list[Any], fx: float, which: int) -> None:
    which %= len(found)
    rates = [fx if i == which else 1.0 for i in range(len(found))]
    foreign = [scaled([one], fx, 1.0)[0] if i == which else one for i, one in enumerate(found)]
    a, b = compute(found), compute(foreign, rates)
    assert a.value == pytest.approx(b.value, rel=1e-12)
    assert list(a.shares()) == pytest.approx(list(b.shares()), abs=1e-9)


@given(books(), st.sampled_from([0.5, 0.25, 0.1]))
@settings(max_examples=60)
def test_splitting_levels_over_venues_changes_nothing(found: list[Any], part: float) -> None:
    split = scaled(found, 1.0, part) + scaled(found, 1.0, 1.0 - part)
    a, b = compute(found), compute(split)
    assert a.value == pytest.approx(b.value, rel=1e-12)
    assert a.depth == pytest.approx(b.depth, rel=1e-9)
    shares = b.shares()
    n = len(found)
    joined = [shares[i] + shares[i + n] for i in range(n)]
    assert list(a.shares()) == pytest.approx(joined, abs=1e-9)


@given(books(n=1), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_a_symmetric_book_gives_its_mid(found: list[Any], grid: bool, cut: bool) -> None:
    bids = found[0][0]
    asks = [(20_000 - price, size) for price, size in bids]
    curve = compute([(bids, asks)], cut=cut, spacing=0.125 if grid else 0.0)
    assert curve.value == 10_000.0
    assert curve.value_full == 10_000.0


@given(books(), st.booleans(), st.sampled_from([0.0, 0.125, 1.0]))
@settings(max_examples=60)
def test_value_lies_within_the_curve(found: list[Any], cut: bool, spacing: float) -> None:
    ladder = Ladder()
    ladder.merge([load(one) for one in found], [1.0] * len(found))
    curve = Curve(0.01, cut=cut, spacing=spacing)
    if curve.compute(ladder, np.ones(len(found), dtype=np.uint8)) != OK:
        return
    mids = curve.segments()[4]
    assert mids.min() * (1 - 1e-15) <= curve.value <= mids.max() * (1 + 1e-15)
    assert curve.depth <= curve.full_depth
    assert sum(curve.shares()) == pytest.approx(1.0, abs=1e-9)


@given(books())
@settings(max_examples=50)
def test_both_modes_agree_where_boundaries_lie_on_the_grid(found: list[Any]) -> None:
    # all sizes are multiples of 1/8, and the cap does not bind
    a, b = compute(found), compute(found, spacing=0.125)
    assert a.value == pytest.approx(b.value, rel=1e-12)
    assert a.depth == pytest.approx(b.depth, rel=1e-9)
    assert list(a.shares()) == pytest.approx(list(b.shares()), abs=1e-9)


def results(curve: Curve) -> tuple[Any, ...]:
    return (
        *(curve.value, curve.value_full, curve.depth, curve.full_depth, curve.size_cap),
        *(curve.coverage_depth, curve.rate, curve.exhausted, *curve.shares()),
        *curve.segments().ravel(),
        *(x for side in range(2) for column in curve.levels(side) for x in column),
    )


def random_books(
    draw: np.random.Generator, venues: int, ties: bool = False
) -> list[tuple[Levels, Levels]]:
    scale = 10 ** draw.uniform(-3, 3)
    found = []
    for _ in range(venues):
        sides = []
        for sign in (-1, 1):
            count = int(draw.integers(1, 400))
            steps = draw.integers(0, 3, count) / 4 if ties else draw.exponential(0.3, count)
            price = 10_000 + sign * np.cumsum(steps)
            size = draw.lognormal(0, draw.choice([0.0, 1.0, 3.0]), count) * scale
            sides.append(list(zip(price.tolist(), size.tolist(), strict=True)))
        found.append((sides[0], sides[1]))
    return found


@pytest.mark.parametrize("spacing", [0.0, 0.5])
def test_no_state_of_earlier_ticks_remains(spacing: float) -> None:
    draw = np.random.default_rng(3)
    kept, ladder = Curve(0.005, spacing=spacing), Ladder()
    for _ in range(60):
        venues = int(draw.integers(1, 5))
        found = random_books(draw, venues)
        used = np.ones(venues, dtype=np.uint8)
        used[draw.integers(0, venues)] = draw.integers(0, 2)
        ladder.merge([load(one) for one in found], [1.0] * venues)
        fresh = Curve(0.005, spacing=spacing)
        assert kept.compute(ladder, used) == fresh.compute(ladder, used)
        assert results(kept) == results(fresh)
        # an unused venue equals an absent one
        only = Ladder()
        books = [load(one) if use else None for one, use in zip(found, used, strict=True)]
        only.merge(books, [1.0] * venues)
        fresh.compute(only, np.ones(venues, dtype=np.uint8))
        assert results(kept)[:8] == results(fresh)[:8]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("absent", [0.0, 0.1])
def test_only_changed_input_is_computed_again(ties: bool, absent: float) -> None:
    draw = np.random.default_rng(9)
    venues = 4
    ladder, curve = Ladder(), Curve(0.005)
    kept = [load(one) for one in random_books(draw, venues, ties)]
    rates = [1.0] * venues
    for _ in range(100):
        books = [book if draw.random() >= absent else None for book in kept]
        if draw.random() < 0.5:
            which = int(draw.integers(0, venues))
            fresh = random_books(draw, 1, ties)[0]
            sides = [kept[which].side_copy(side) for side in range(2)]
            # one side, both, an empty one, or the same side again
            for side in range(2):
                if draw.random() < 0.5:
                    sides[side] = np.ascontiguousarray(np.array(fresh[side]).T)
                elif draw.random() < 0.1:
                    sides[side] = np.empty((2, 0))
            kept[which].load(sides[0], sides[1])
        if draw.random() < 0.2:
            rates[int(draw.integers(0, venues))] = float(draw.choice([1.0, 1.5]))
        if draw.random() < 0.05:
            other_ladder = Ladder()
            other_ladder.merge([kept[0], None, None, None], rates)
            packed = other_ladder.pack()
            ladder.unpack(packed, 0, other_ladder.n_bids, other_ladder.n_asks, venues)
        used = np.array(draw.random(venues) < 0.8, dtype=np.uint8)
        for mask in (used, used):
            ladder.merge(books, rates)
            again, other = Ladder(), Curve(0.005)
            again.merge(books, rates)
            for side in range(2):
                for column in range(3):
                    found, expected = ladder.side_copy(side)[column], again.side_copy(side)[column]
                    assert np.array_equal(found, expected)
            assert curve.compute(ladder, mask) == other.compute(again, mask)
            assert results(curve) == results(other)


@pytest.mark.parametrize("spacing", [0.0, 0.25])
@pytest.mark.parametrize("cut", [False, True])
def test_the_value_is_the_mean_over_the_segments(spacing: float, cut: bool) -> None:
    draw = np.random.default_rng(4)
    for _ in range(60):
        curve = compute(random_books(draw, 3), spacing=spacing, cut=cut)
        start, end, bid, ask, mid, _, weight = curve.segments()
        assert (end > start).all()
        assert end[-1] == pytest.approx(curve.full_depth, rel=1e-12)
        assert weight.sum() == pytest.approx(1, rel=1e-12)
        assert (mid == 0.5 * bid + 0.5 * ask).all()
        assert curve.value == pytest.approx(float(mid @ weight), rel=1e-13)


@given(st.data())
@settings(max_examples=60)
def test_the_size_cap_equals_that_of_sorted_sizes(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    found = random_books(draw, int(draw.integers(1, 4)))
    used = np.ones(len(found), dtype=np.uint8)
    curve, ladder = Curve(0.01, cut=False), Ladder()
    # the limits of a tick are searched near those of the last tick
    for factor in (1.0, 1.1, 0.8, 1.3, 1e-3, 1e3):
        books = scaled(found, 1.0, factor)
        ladder.merge([load(one) for one in books], [1.0] * len(books))
        assert curve.compute(ladder, used) == OK
        sample = np.sort([size for book in books for side in book for _, size in side])
        n = len(sample)
        k = n // 100
        clipped = np.clip(sample, sample[k], sample[n - k - 1])
        deviation = clipped.std(ddof=1) if n > 1 else 0.0
        assert curve.size_cap == pytest.approx(sample[k : n - k].mean() + 5 * deviation, rel=1e-11)


def test_powers_are_exact_to_one_and_a_half_ulps() -> None:
    draw = np.random.default_rng(5)
    values = np.concatenate(
        [draw.random(20_000) * 1500, draw.random(2000) * 255_000, [0.0, 1e-300, 1e-9, 256.0]]
    )
    exact = np.array([float(2 ** (Decimal(-value) / 256)) for value in values.tolist()])
    found = Curve.powers(values)
    assert (np.abs(found - exact) <= 1.5 * np.spacing(exact)).all()
    assert Curve.powers(np.array([256_001.0, 1e300])).tolist() == [0.0, 0.0]
