"""One index value: merging the venues' books, then size cap, curve, coverage, value and shares.

Hot because it runs at each tick for each index, or at each update with interval 0. A regression
would show as ticks that come late when many venues with deep books are summed.

The peers do the whole calculation too: numpy with one stable sort per side, and plain Python with
`heapq.merge` and loops. All three must give the same value before anything is timed.
"""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.frames import each
from benchmarks.measure import Bench, Result, gated, growth
from coinspace._ext.curve import OK, Curve
from coinspace._ext.ladder import Ladder, VenueBook
from coinspace.bench.measure import OURS, ROUNDS, compare

STAGE = "index"
INPUT = "random books, seed 7: venues in two currencies, levels 0.0005 % apart, D = 0.5 %"
SPREAD = 0.005
FX = 1371.0
# levels of the different books of one pass: ten times those of the other stages' 64 frames, more
# than a branch predictor learns, and few enough for the cache; a book just received is there
PASS_LEVELS = 48_000
# venues of 100 levels a side, all pairs of which fit the cache
VENUES = (2, 4, 8, 16, 32)
Levels = NDArray[np.float64]
Books = list[tuple[tuple[Levels, Levels], float]]


def make_books(venues: int, levels: int, seed: int) -> Books:
    """Return ((bids, asks), fx) per venue: float64[2, levels] each, every second one in won."""
    draw = np.random.default_rng(seed)
    books: Books = []
    for venue in range(venues):
        fx = FX if venue % 2 else 1.0
        mid = 100_000 * (1 + draw.normal(0, 0.0001))
        sides = []
        for sign in (-1, 1):
            steps = np.cumsum(draw.exponential(0.5, levels)) + 0.5
            sizes = draw.lognormal(-1.0, 1.0, levels)
            sides.append(np.array([(mid + sign * steps) * fx, sizes]))
        books.append(((sides[0], sides[1]), fx))
    return books


def variants(venues: int, levels: int) -> int:
    """Return of how many different sets of books a pass consists."""
    return min(64, PASS_LEVELS // (2 * venues * levels))


class Compiled:
    """CoinSpace: as aggregator and calculator call it."""

    # one ladder and one curve for all ticks of an index, as live
    ladder, curve = Ladder(), Curve(SPREAD)

    def __init__(self, books: Books) -> None:
        self.rates = [fx for _, fx in books]
        self.books: list[VenueBook | None] = []
        for (bids, asks), _ in books:
            book = VenueBook()
            book.load(bids, asks)
            self.books.append(book)
        self.used = np.ones(len(books), dtype=np.uint8)

    def value(self) -> float:
        self.ladder.merge(self.books, self.rates)
        assert self.curve.compute(self.ladder, self.used) == OK
        return self.curve.value


def numpy_ladder(books: Books) -> list[tuple[Levels, Levels, NDArray[np.int64]]]:
    """Merge with a stable sort: price, size and venue of each level, bids and asks."""
    sides = []
    for which, sign in ((0, -1.0), (1, 1.0)):
        price = np.concatenate([book[0][which][0] / book[1] for book in books])
        size = np.concatenate([book[0][which][1] for book in books])
        venue = np.repeat(np.arange(len(books)), [book[0][which].shape[1] for book in books])
        order = np.argsort(sign * price, kind="stable")
        sides.append((price[order], size[order], venue[order]))
    return sides


def numpy_value(books: Books) -> float:
    """The same calculation, vectorised."""
    (bid, bid_size, bid_venue), (ask, ask_size, ask_venue) = numpy_ladder(books)
    near_bids = max(int((bid >= bid[0] * 0.95).sum()), min(50, len(bid)))
    near_asks = max(int((ask <= ask[0] * 1.05).sum()), min(50, len(ask)))
    sample = np.sort(np.concatenate([bid_size[:near_bids], ask_size[:near_asks]]))
    n = len(sample)
    k = n // 100
    winsorised = np.clip(sample, sample[k], sample[n - k - 1])
    cap = sample[k : n - k].mean() + 5 * winsorised.std(ddof=1)
    bid_size, ask_size = np.minimum(bid_size, cap), np.minimum(ask_size, cap)
    bid_total, ask_total = np.cumsum(bid_size), np.cumsum(ask_size)
    low = max(book[0][0][0][-1] / book[1] for book in books)
    high = min(book[0][1][0][-1] / book[1] for book in books)
    coverage = min(
        bid_total[np.searchsorted(-bid, -low, side="right") - 1],
        ask_total[np.searchsorted(ask, high, side="right") - 1],
    )
    end = min(bid_total[-1], ask_total[-1])
    both = np.concatenate([bid_total, ask_total])
    points = np.sort(both[both <= end])
    i, j = np.searchsorted(bid_total, points), np.searchsorted(ask_total, points)
    middle = (bid[i] + ask[j]) / 2
    passing = int((ask[j] / middle - 1 <= SPREAD).sum())
    full = points[passing - 1]
    value = math.nan
    shares: NDArray[np.float64] = np.zeros(len(books))
    for depth in (full, min(full, coverage)):
        rate = 1 / (0.3 * depth)
        edges = np.minimum(points[:passing], depth)
        decayed = np.exp(-rate * np.concatenate([[0.0], edges]))
        weight = decayed[:-1] - decayed[1:]
        norm = 1 - math.exp(-rate * depth)
        value = middle[0] + np.dot(middle[:passing] - middle[0], weight) / norm
        shares = np.bincount(bid_venue[i[:passing]], weight, len(books)).astype(np.float64)
        shares = shares + np.bincount(ask_venue[j[:passing]], weight, len(books))
    assert abs(shares.sum() / 2 / norm - 1) < 1e-9
    return float(value)


def python_value(books: list[tuple[tuple[list[list[float]], list[list[float]]], float]]) -> float:
    """The same calculation in loops."""
    sides = []
    for i, sign in ((0, -1.0), (1, 1.0)):
        runs = [
            [(sign * p / book[1], v, s) for p, s in zip(*book[0][i], strict=True)]
            for v, book in enumerate(books)
        ]
        sides.append([(sign * p, s, v) for p, v, s in heapq.merge(*runs)])
    bids, asks = sides
    low, high = bids[0][0] * 0.95, asks[0][0] * 1.05
    sample = [s for k, (p, s, _) in enumerate(bids) if p >= low or k < 50]
    sample += [s for k, (p, s, _) in enumerate(asks) if p <= high or k < 50]
    sample.sort()
    n = len(sample)
    k = n // 100
    floor, ceiling = sample[k], sample[n - k - 1]
    winsorised = [min(max(s, floor), ceiling) for s in sample]
    mean = sum(winsorised) / n
    deviation = math.sqrt(sum((s - mean) ** 2 for s in winsorised) / (n - 1))
    cap = fmean(sample[k : n - k]) + 5 * deviation
    totals: list[list[float]] = []
    for side in sides:
        total, running = 0.0, []
        for _, s, _ in side:
            total += min(s, cap)
            running.append(total)
        totals.append(running)
    low = max(book[0][0][0][-1] / book[1] for book in books)
    high = min(book[0][1][0][-1] / book[1] for book in books)
    coverage = min(
        totals[0][bisect.bisect_right(bids, -low, key=lambda one: -one[0]) - 1],
        totals[1][bisect.bisect_right(asks, high, key=lambda one: one[0]) - 1],
    )
    segments = []
    i = j = 0
    while i < len(bids) and j < len(asks):
        middle = (bids[i][0] + asks[j][0]) / 2
        if asks[j][0] / middle - 1 > SPREAD:
            break
        end = min(totals[0][i], totals[1][j])
        segments.append((end, middle, bids[i][2], asks[j][2]))
        if totals[0][i] <= end:
            i += 1
        if totals[1][j] <= end:
            j += 1
    full, first, value = segments[-1][0], segments[0][1], math.nan
    for depth in (full, min(full, coverage)):
        rate = 1 / (0.3 * depth)
        before, value = 1.0, 0.0
        shares = [0.0] * len(books)
        for end, middle, bid_venue, ask_venue in segments:
            after = math.exp(-rate * min(end, depth))
            weight = before - after
            value += (middle - first) * weight
            shares[bid_venue] += weight
            shares[ask_venue] += weight
            before = after
            if end >= depth:
                break
        value = first + value / (1 - math.exp(-rate * depth))
    return value


def passes(venues: int, levels: int) -> Callable[[], object]:
    """Return one pass of ours over books that differ."""
    made = [Compiled(make_books(venues, levels, seed)) for seed in range(variants(venues, levels))]
    return each(Compiled.value, made)


def candidates(venues: int, levels: int) -> dict[str, Callable[[], object]]:
    """Return one pass of each candidate over books that differ, after a check that they agree."""
    all_books = [make_books(venues, levels, seed) for seed in range(variants(venues, levels))]
    plain = [
        [((bids.tolist(), asks.tolist()), fx) for (bids, asks), fx in books] for books in all_books
    ]
    compiled = [Compiled(books) for books in all_books]
    for ours, books, lists in zip(compiled, all_books, plain, strict=True):
        value = ours.value()
        assert math.isclose(value, numpy_value(books), rel_tol=1e-12)
        assert math.isclose(value, python_value(lists), rel_tol=1e-12)
    draw = random.Random(7)
    draw.shuffle(compiled)

    return {
        OURS: each(Compiled.value, compiled),
        "numpy": each(numpy_value, all_books),
        "plain Python": each(python_value, plain),
    }


@pytest.mark.parametrize(("levels", "rounds"), [(30, ROUNDS), (1000, ROUNDS // 3)])
def test_value(bench: Bench, levels: int, rounds: int) -> None:
    def measure() -> Result:
        calls = candidates(3, levels)
        timing = compare(calls, events=variants(3, levels), rounds=rounds)
        result = Result(STAGE, f"merge + index, 3 × {levels}", "ns/value", INPUT, timing)
        # numpy sorts with AVX-512 where there is one: 13.8 there, and `instructions` is the gate
        # that does not depend on it
        result.ratio("numpy", gate=13.5, goal=40)
        result.ratio("plain Python", gate=55)
        return result

    gated(bench, measure)


def test_growth_in_venues(bench: Bench) -> None:
    """The cost of a value grows about as its levels do, however many venues have them."""

    def measure() -> Result:
        costs = []
        for n in VENUES:
            timing = compare({OURS: passes(n, 100)}, events=variants(n, 100), rounds=ROUNDS // 2)
            costs.append(timing.least(OURS))
        result = Result(STAGE, "growth in venues of 100 levels", "ns/value", INPUT)
        result.figures = {f"{n} venues, ns": ns for n, ns in zip(VENUES, costs, strict=True)}
        result.check("exponent", growth(VENUES, costs), gate=1.25, goal=1.1, better="lower")
        return result

    gated(bench, measure)
