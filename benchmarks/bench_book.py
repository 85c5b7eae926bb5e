"""The local book: what one update of 24 levels costs, and how that grows with the book's depth.

Hot because Binance sends ten such updates a second and symbol. A regression would show as a cost
that follows the depth: the best level stored last makes it follow the distance from the touch.

Peers hold the same levels: `sortedcontainers.SortedDict`, and a dict that is looked through when
the best levels are wanted. All are driven from Python, a call an update, and are asked for the best
level after each in their cheapest way. With `best read`, the 1,000 best levels of each side are
read, as a publisher does. The book alone is the same updates in a loop of C.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sortedcontainers import SortedDict

from benchmarks.books import (
    ALONE,
    DEPTHS,
    INPUT,
    PUBLISHED,
    STAGE,
    UPDATES,
    Levels,
    alone,
    best,
    make_updates,
    ours,
)
from benchmarks.measure import Bench, Result, gated, growth
from coinspace._ext.orderbook import OrderBook
from coinspace.bench.measure import OURS, compare


class Sorted:
    """The same book on sortedcontainers: bids by negated price, so that the best comes first."""

    def __init__(self, bids: Levels, asks: Levels) -> None:
        self.bids = SortedDict({-price: size for price, size in bids.T.tolist()})
        self.asks = SortedDict(dict(asks.T.tolist()))

    def apply(self, bids: list[list[float]], asks: list[list[float]]) -> None:
        for side, sign, levels in ((self.bids, -1, bids), (self.asks, 1, asks)):
            for price, size in levels:
                if size:
                    side[sign * price] = size
                else:
                    side.pop(sign * price, None)

    def best(self) -> object:
        return self.bids.peekitem(0), self.asks.peekitem(0)

    def top(self, n: int) -> tuple[list[float], list[float], list[float], list[float]]:
        bids, asks = self.bids.items()[:n], self.asks.items()[:n]
        return (
            [-key for key, _ in bids],
            [size for _, size in bids],
            [key for key, _ in asks],
            [size for _, size in asks],
        )


class Hashed:
    """The same book on two dicts, looked through or sorted when it is read."""

    def __init__(self, bids: Levels, asks: Levels) -> None:
        self.bids: dict[float, float] = dict(bids.T.tolist())
        self.asks: dict[float, float] = dict(asks.T.tolist())

    def apply(self, bids: list[list[float]], asks: list[list[float]]) -> None:
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for price, size in levels:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)

    def best(self) -> object:
        bid, ask = max(self.bids), min(self.asks)
        return bid, self.bids[bid], ask, self.asks[ask]

    def top(self, n: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        return sorted(self.bids.items(), reverse=True)[:n], sorted(self.asks.items())[:n]


def peer(kind: type[Sorted] | type[Hashed], depth: int, read: int = 0) -> Callable[[], None]:
    """Return one pass of a peer; its levels are ready Python floats. read: levels, 0 = the best."""
    bids, asks, more_bids, more_asks = make_updates(depth)
    book = kind(bids, asks)
    pairs = [(b.T.tolist(), a.T.tolist()) for b, a in zip(more_bids, more_asks, strict=True)]

    def run() -> None:
        for one_bids, one_asks in pairs:
            book.apply(one_bids, one_asks)
            if read:
                book.top(read)
            else:
                book.best()

    return run


def check_same(depth: int) -> None:
    """Assert that the book and its peer agree after a pass."""
    bids, asks, more_bids, more_asks = make_updates(depth)
    book, other = OrderBook(), Sorted(bids, asks)
    book.load(bids, asks)
    for one_bids, one_asks in zip(more_bids[:5], more_asks[:5], strict=True):
        book.apply(one_bids, one_asks)
        other.apply(one_bids.T.tolist(), one_asks.T.tolist())
        found = [row.tolist() for side in book.top(PUBLISHED) for row in side]
        assert found == list(other.top(PUBLISHED))
        (bid, bid_size), (ask, ask_size) = other.bids.peekitem(0), other.asks.peekitem(0)
        assert best(book) == ((-bid, bid_size), (ask, ask_size))


@pytest.mark.parametrize("depth", [DEPTHS[0], DEPTHS[-1]])
def test_update(bench: Bench, depth: int) -> None:
    def measure() -> Result:
        check_same(depth)
        timing = compare(
            {
                OURS: ours(depth, best),
                ALONE: alone(depth),
                "SortedDict": peer(Sorted, depth),
                "dict, min and max": peer(Hashed, depth),
            },
            events=UPDATES,
        )
        result = Result(STAGE, f"24 levels into {depth:,}", "ns/update", INPUT, timing)
        result.limits = [ALONE]
        result.ratio("SortedDict", gate=7.0, goal=12.0)
        result.ratio("dict, min and max", gate=7.0)
        return result

    gated(bench, measure)


def test_update_with_list(bench: Bench) -> None:
    def measure() -> Result:
        depth = DEPTHS[-1]
        timing = compare(
            {
                OURS: ours(depth, lambda book: book.top(PUBLISHED)),
                "SortedDict": peer(Sorted, depth, PUBLISHED),
                "dict + sorted": peer(Hashed, depth, PUBLISHED),
            },
            events=UPDATES,
        )
        case = f"24 levels into {depth:,}, {PUBLISHED:,} best read"
        result = Result(STAGE, case, "ns/update", INPUT, timing)
        result.ratio("SortedDict", gate=20.0)
        result.ratio("dict + sorted", gate=20.0)
        return result

    gated(bench, measure)


def test_growth_with_depth(bench: Bench) -> None:
    def measure() -> Result:
        timing = compare(
            # without Python around it, whose constant cost would flatten the line
            {f"{depth:,} levels": alone(depth) for depth in DEPTHS},
            events=UPDATES,
        )
        costs = [timing.least(f"{depth:,} levels") for depth in DEPTHS]
        result = Result(STAGE, "growth with depth, in C", "ns/update", INPUT, timing)
        result.check(
            f"exponent of cost over depth, {DEPTHS[0]:,} to {DEPTHS[-1]:,} levels",
            growth(DEPTHS, costs),
            gate=0.2,
            goal=0.1,
            better="lower",
        )
        return result

    gated(bench, measure)
