"""The compiled book against a twin on sortedcontainers, step by step."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sortedcontainers import SortedDict

from coinspace._ext.orderbook import OrderBook

CAPACITY = 24
PRICES = st.integers(1, 60).map(lambda tick: tick * 0.25)
SIZES = st.one_of(st.just(0.0), st.floats(1e-8, 1e6, allow_nan=False))
LEVELS = st.lists(st.tuples(PRICES, SIZES), max_size=20)
WHOLE = st.lists(
    st.tuples(PRICES, st.floats(1e-8, 1e6)), max_size=40, unique_by=lambda level: level[0]
)


def array(levels: list[tuple[float, float]]) -> np.ndarray:
    return np.array(levels, dtype=np.float64).reshape(-1, 2).T.copy()


class Side:
    """One side in plain Python; keys ascend towards the best."""

    def __init__(self, sign: float, capacity: int) -> None:
        self.sign = sign
        self.capacity = capacity
        self.levels = SortedDict()
        self.known = float("-inf")
        self.dropped = 0

    def load(self, levels: list[tuple[float, float]], requested: int) -> None:
        self.levels.clear()
        self.known = float("-inf")
        self.apply(levels)
        if len(levels) >= requested and self.levels:
            self.known = max(self.known, self.levels.peekitem(0)[0])

    def apply(self, levels: list[tuple[float, float]]) -> None:
        for price, size in levels:
            key = self.sign * price
            if size == 0:
                self.levels.pop(key, None)
                continue
            self.levels[key] = size
            if len(self.levels) > self.capacity:
                self.levels.popitem(0)
                self.dropped += 1
                self.known = max(self.known, self.levels.peekitem(0)[0])

    def published(self, depth: int) -> list[list[float]]:
        kept = [(key, size) for key, size in reversed(self.levels.items()) if key >= self.known]
        return [[self.sign * key for key, _ in kept[:depth]], [size for _, size in kept[:depth]]]


class Twin:
    """The whole book in plain Python."""

    def __init__(self, capacity: int) -> None:
        self.bid = Side(1.0, capacity)
        self.ask = Side(-1.0, capacity)

    def check(self, book: OrderBook, depth: int) -> None:
        bids, asks = book.top(depth)
        assert bids.tolist() == self.bid.published(depth)
        assert asks.tolist() == self.ask.published(depth)
        assert (book.n_bids, book.n_asks) == (len(self.bid.levels), len(self.ask.levels))
        assert book.known_range == (self.bid.known, -self.ask.known)
        assert book.levels_dropped == self.bid.dropped + self.ask.dropped


class BookMachine(RuleBasedStateMachine):
    """Snapshots and updates in any order and spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OrderBook(CAPACITY)
        self.twin = Twin(CAPACITY)

    @rule(bids=WHOLE, asks=WHOLE, requested=st.integers(1, 30))
    def load(
        self, bids: list[tuple[float, float]], asks: list[tuple[float, float]], requested: int
    ) -> None:
        self.book.load(array(bids), array(asks), requested)
        self.twin.bid.load(bids, requested)
        self.twin.ask.load(asks, requested)

    @rule(bids=LEVELS, asks=LEVELS)
    def apply(self, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        self.book.apply(array(bids), array(asks))
        self.twin.bid.apply(bids)
        self.twin.ask.apply(asks)

    @rule()
    def clear(self) -> None:
        self.book.clear()
        dropped = self.twin.bid.dropped, self.twin.ask.dropped
        self.twin = Twin(CAPACITY)
        self.twin.bid.dropped, self.twin.ask.dropped = dropped

    @invariant()
    def agrees(self) -> None:
        self.twin.check(self.book, CAPACITY)
        self.twin.check(self.book, 3)


TestBook = BookMachine.TestCase
TestBook.settings = settings(
    max_examples=20,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("capacity", "steps"), [(16384, 60_000), (200, 40_000)])
def test_a_hundred_thousand_steps_of_a_walking_market(capacity: int, steps: int) -> None:
    """Apply 10^5 updates near and far from a moving best price, in deep books, too."""
    draw = random.Random(20261122)
    book, twin = OrderBook(capacity), Twin(capacity)
    mid = 50_000
    for step in range(steps):
        mid += draw.choice((-1, 0, 0, 1))
        updates = []
        for sign in (-1, 1):
            levels = []
            for _ in range(draw.randint(0, 3)):
                away = int(draw.expovariate(1 / (20 if draw.random() < 0.8 else 2000))) + 1
                size = 0.0 if draw.random() < 0.4 else draw.random() + 0.001
                levels.append(((mid + sign * away) * 0.01, size))
            updates.append(levels)
        book.apply(array(updates[0]), array(updates[1]))
        twin.bid.apply(updates[0])
        twin.ask.apply(updates[1])
        if step % 1000 == 0:
            twin.check(book, 1000)
        elif step % 10 == 0:
            best = twin.bid.levels.peekitem(-1) if twin.bid.levels else None
            assert book.best_bid == best
    twin.check(book, capacity)
