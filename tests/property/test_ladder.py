"""A ladder is the sorted levels of its venues, for any number of venues and any prices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from coinspace._ext.curve import Curve
from coinspace._ext.ladder import Ladder, VenueBook

Levels = NDArray[np.float64]
Draw = np.random.Generator
WON = 1371.0


def grid(draw: Draw, n: int) -> Levels:
    """Return steps from the best price that many venues share."""
    return np.cumsum(draw.integers(0, 3, n)).astype(float)


def scattered(draw: Draw, n: int) -> Levels:
    return np.cumsum(draw.exponential(0.3, n))


def dense_near_the_best(draw: Draw, n: int) -> Levels:
    return np.cumsum(draw.exponential(1.0, n) * np.geomspace(1e-7, 30, n))


def one_far_away(draw: Draw, n: int) -> Levels:
    """Return steps whose last one leaves the others few places in a key of 31 bits."""
    steps = grid(draw, n)
    steps[-1] *= draw.choice([1e3, 1e5, 1e7, 1e9])
    return steps


def a_bit_apart(draw: Draw, n: int) -> Levels:
    return grid(draw, n) * 2.0**-36


def all_the_same(draw: Draw, n: int) -> Levels:
    return np.zeros(n)


KINDS = (grid, scattered, dense_near_the_best, one_far_away, a_bit_apart, all_the_same)


class Given:
    """A book and its loaded levels: bids and asks, float64[2, n] each."""

    def __init__(self, bids: Levels, asks: Levels) -> None:
        self.sides = np.ascontiguousarray(bids), np.ascontiguousarray(asks)
        self.book = VenueBook()
        self.book.load(*self.sides)


def given(draw: Draw, steps: Callable[[Draw, int], Levels], n: int, rate: float) -> Given:
    bids, asks = steps(draw, n), steps(draw, n)
    return Given(
        np.array([(10_000 - bids) * rate, draw.random(n) + 0.1]),
        np.array([(10_000 + asks) * rate, draw.random(n) + 0.1]),
    )


def merge_and_check(ladder: Ladder, books: list[Given | None], rates: list[float]) -> None:
    """Compare a merge with a stable sort of its input, bit for bit."""
    ladder.merge([None if one is None else one.book for one in books], rates)
    for side, sign in ((0, -1.0), (1, 1.0)):
        sides = [
            np.empty((2, 0)) if one is None else one.sides[side] / [[rate], [1.0]]
            for one, rate in zip(books, rates, strict=True)
        ]
        # bids below zero are not levels
        sides = [one[:, one[0] > 0] for one in sides]
        venue = np.repeat(np.arange(len(books)), [one.shape[1] for one in sides])
        price, size = np.concatenate(sides, axis=1)
        order = np.argsort(sign * price, kind="stable")
        prices, sizes, venues = ladder.side_copy(side)
        assert np.array_equal(prices, price[order])
        assert np.array_equal(venues, venue[order])
        assert np.array_equal(sizes, size[order])


@pytest.mark.parametrize("steps", KINDS)
@pytest.mark.parametrize("venues", [1, 2, 3, 4, 5, 7, 12, 31, 33])
def test_a_ladder_equals_a_stable_sort(steps: Callable[[Draw, int], Levels], venues: int) -> None:
    draw = np.random.default_rng(venues)
    ladder = Ladder()
    # smaller merges reuse the memory of larger ones
    for most in (1, 1000, 8, 90, 40):
        rates = [float(draw.choice([1.0, WON])) for _ in range(venues)]
        lengths = draw.integers(1, most + 1, venues)
        books: list[Given | None] = [
            given(draw, steps, int(n), rate) for n, rate in zip(lengths, rates, strict=True)
        ]
        merge_and_check(ladder, books, rates)
        # one venue changes, is excluded and comes back
        which = int(draw.integers(0, venues))
        for one in (given(draw, steps, most, rates[which]), None, books[which]):
            books[which] = one
            merge_and_check(ladder, books, rates)


def test_thirty_venues_of_a_thousand_levels() -> None:
    draw = np.random.default_rng(7)
    rates = [float(draw.choice([1.0, WON])) for _ in range(30)]
    books: list[Given | None] = [given(draw, grid, 1000, rate) for rate in rates]
    ladder = Ladder()
    for n in (3, 30):
        merge_and_check(ladder, books[:n], rates[:n])
        assert (ladder.n_bids, ladder.n_asks) == (1000 * n, 1000 * n)


@pytest.mark.parametrize("venues", [255, 256, 257, 300])
def test_hundreds_of_venues(venues: int) -> None:
    draw = np.random.default_rng(venues)
    books: list[Given | None] = [given(draw, grid, 5, 1.0) for _ in range(venues)]
    merge_and_check(Ladder(), books, [1.0] * venues)


def test_venues_of_every_length_up_to_two_blocks() -> None:
    draw = np.random.default_rng(2)
    for n in range(1, 34):
        books: list[Given | None] = [
            given(draw, scattered, length, 1.0) for length in (n, 100, 33 - n + 1, 1)
        ]
        merge_and_check(Ladder(), books, [1.0] * 4)


def test_equal_prices_keep_the_order_of_their_venues() -> None:
    """The last level is so far that a place of the keys is 1.9 steps wide."""
    steps = np.array([0, 1, *range(10, 700, 10), 1e9])
    others = np.array([0, 1, *range(15, 700, 10)])
    sizes = np.arange(1.0, 300.0)

    def venue(steps: Levels, first: int) -> Given:
        amounts = sizes[first : first + len(steps)]
        # bids fall from 10,000 in smaller steps
        return Given(
            np.array([10_000 - steps * 9.9e-6, amounts]), np.array([10_000 + steps, amounts])
        )

    books: list[Given | None] = [venue(steps, 0), venue(others, 80), venue(others, 160)]
    merge_and_check(Ladder(), books, [1.0] * 3)


def test_prices_at_the_ends_of_float64() -> None:
    draw = np.random.default_rng(4)
    for low, high in ((1e-300, 1e300), (5e-324, 1e-320), (1e307, 1e308), (1.0, 1e200)):
        books: list[Given | None] = []
        for _ in range(5):
            prices = np.sort(np.exp(draw.uniform(np.log(low), np.log(high), 60)))
            bids = np.array([prices[::-1], draw.random(60) + 0.1])
            books.append(Given(bids, np.array([prices, draw.random(60) + 0.1])))
        merge_and_check(Ladder(), books, [1.0] * 5)


def test_prices_outside_float64_are_dropped() -> None:
    ladder = Ladder()
    wide, usual = VenueBook(), VenueBook()
    wide.load(np.array([[1e300, 1e-300], [1.0, 2.0]]), np.array([[2e-300, 2e300], [3.0, 4.0]]))
    usual.load(np.array([[1.0], [5.0]]), np.array([[2.0], [6.0]]))
    ladder.merge([wide, usual], [1e-10, 1.0])
    assert list(ladder.side_copy(0)[0]) == [1.0, 1e-300 / 1e-10]
    assert list(ladder.side_copy(1)[0]) == [2e-300 / 1e-10, 2.0]
    ladder.merge([wide, usual], [1e300, 1.0])
    assert list(ladder.side_copy(0)[0]) == [1.0, 1.0]
    assert list(ladder.side_copy(0)[2]) == [0, 1]
    assert list(ladder.side_copy(1)[0]) == [2.0, 2.0]


def test_a_refused_merge_does_not_count_as_merged() -> None:
    draw = np.random.default_rng(7)
    one, other = (given(draw, grid, 5, 1.0) for _ in range(2))
    ladder, fresh = Ladder(), Ladder()
    ladder.merge([one.book, other.book], [1.0, 1.0])
    changed = given(draw, grid, 5, 1.0)
    with pytest.raises((TypeError, ValueError)):
        ladder.merge([changed.book, other.book], [1.0, "no rate"])  # type: ignore[list-item]
    ladder.merge([changed.book, other.book], [1.0, 1.0])
    fresh.merge([changed.book, other.book], [1.0, 1.0])
    assert ladder.pack() == fresh.pack()


def test_a_curve_refuses_levels_of_a_changed_ladder() -> None:
    draw = np.random.default_rng(8)
    small, large = given(draw, grid, 5, 1.0), given(draw, grid, 5000, 1.0)
    ladder, curve = Ladder(), Curve(0.5)
    ladder.merge([small.book], [1.0])
    curve.compute(ladder, np.ones(1, dtype=np.uint8))
    assert curve.levels(0)[0].size == 5
    ladder.merge([large.book], [1.0])
    for read in (lambda: curve.levels(0), curve.segments, lambda: curve.average(0, 1.0)):
        with pytest.raises(ValueError, match="compute again"):
            read()
    curve.compute(ladder, np.ones(1, dtype=np.uint8))
    assert curve.levels(0)[0].size == 5000
