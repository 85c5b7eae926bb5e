"""A book's updates and our side of its measurements, for benchmarks here and beside peers."""

from __future__ import annotations

import random
from collections.abc import Callable
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from benchmarks.native import limits
from coinspace._ext.binance import BinanceParser
from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.orderbook import OrderBook
from coinspace._ext.sink import ListSink

STAGE = "book"
INPUT = "simulated updates, seed 7: 24 levels, 80 % within 20 ticks of the touch"
DEPTHS = (200, 500, 1000, 2000, 5000)
UPDATES = 256
# levels of an update per side; together the 24 of the goal
LEVELS = 12
PUBLISHED = 1000
RECEIVED_NS = 1_790_134_742_106_000_000
ALONE = "the book alone, in C"
Levels = NDArray[np.float64]

best = attrgetter("best_bid", "best_ask")


def make_updates(depth: int) -> tuple[Levels, Levels, Levels, Levels]:
    """Return (bids, asks) of a snapshot as float64[2, depth] and updates as float64[n, 2, 12].

    Each update is undone by the next one, so that the book keeps its depth however often the
    updates are repeated.
    """
    draw = random.Random(7)
    ticks = np.arange(depth, dtype=np.float64)
    snapshot = [
        np.stack([price, np.full(depth, 1.0)])
        for price in (60_000 - ticks * 0.02, 60_000.02 + ticks * 0.02)
    ]
    updates = [np.empty((UPDATES, 2, LEVELS)), np.empty((UPDATES, 2, LEVELS))]
    for number in range(0, UPDATES, 2):
        for side, sign in ((0, -1), (1, 1)):
            chosen: set[int] = set()
            while len(chosen) < LEVELS:
                near = draw.random() < 0.8
                chosen.add(draw.randrange(20 if near else depth))
            for i, tick in enumerate(sorted(chosen)):
                # half of the levels are new ones between the ticks, half change or go
                fresh = i % 2 == 0
                base = 60_000 if side == 0 else 60_000.02
                price = base + sign * (tick * 0.02 + (0.01 if fresh else 0.0))
                gone = not fresh and i % 4 == 1
                updates[side][number, :, i] = price, 0.0 if gone else draw.random() + 0.1
                updates[side][number + 1, :, i] = price, 0.0 if fresh else 1.0
    return snapshot[0], snapshot[1], updates[0], updates[1]


def loaded(depth: int) -> tuple[OrderBook, Levels, Levels]:
    """Return a book of so many levels a side, and the updates of its sides."""
    bids, asks, more_bids, more_asks = make_updates(depth)
    book = OrderBook()
    book.load(bids, asks)
    return book, more_bids, more_asks


def ours(depth: int, read: Callable[[OrderBook], object] | None = None) -> Callable[[], None]:
    """Return one pass over all updates, a call from Python for each; `read` is called after it."""
    book, more_bids, more_asks = loaded(depth)
    pairs = list(zip(more_bids, more_asks, strict=True))

    def run() -> None:
        apply = book.apply
        if read is None:
            for bids, asks in pairs:
                apply(bids, asks)
        else:
            for bids, asks in pairs:
                apply(bids, asks)
                read(book)

    return run


def alone(depth: int) -> Callable[[], None]:
    """Return one pass over all updates in a loop of C, nothing read: what the book itself costs."""
    book, more_bids, more_asks = loaded(depth)
    apply_all = limits().apply_all
    return lambda: apply_all(book, more_bids, more_asks)


def collected(
    frames: list[bytes], read: Callable[[OrderBook], object] | None = None
) -> tuple[OrderBook, Callable[[], None]]:
    """Return a book and one pass of depth updates through the collector's stage, the book anew.

    Parsed, ids checked, applied, sides looked at for crossing; no message is made. `read` is called
    after each update.
    """
    sink = ListSink()
    topic = sink.topic(b"orderbook.binance.BTC/USDT.")
    market = BookMarket(0, "BTCUSDT", "BTC/USDT", topic, PUBLISHED, 5000)
    collector = BookCollector(BinanceParser(), sink, [market], updates=True)
    collector.silent = True
    feed, load, book = collector.on_frame, collector.load_snapshot, market.book
    assert book is not None
    before = int(frames[0].split(b'"U":')[1].split(b",")[0]) - 1
    snapshot = b'{"lastUpdateId":%d,"bids":[["86700","1"]],"asks":[["86700.01","1"]]}' % before

    def run() -> None:
        market.forget()
        market.sequence.trust()
        market.sequence.snapshot(before)
        load(market, snapshot, PUBLISHED)
        for frame in frames:
            feed(frame, RECEIVED_NS)
            if read is not None:
                read(book)
        assert market.crossed == 0
        assert market.outdated == 0

    return book, run
