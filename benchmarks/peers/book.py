"""The local book beside order_book, the C order book that cryptofeed keeps its books in.

Both are driven from Python, a call of ours and an item of theirs at a time, theirs with floats,
which is faster than the Decimals that cryptofeed gives it. Its sides are hash tables that are
sorted when they are read, so a pass of operations alone leaves out most of its work and none of
ours: the best level and the whole book read after each update are rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from order_book import OrderBook as PeerBook

from benchmarks.books import DEPTHS, INPUT, STAGE, UPDATES, make_updates, ours
from benchmarks.measure import Result
from coinspace._ext.orderbook import OrderBook
from coinspace.bench.measure import OURS, compare

COMMAND = "make bench-peers"
PEER = "order_book (cryptofeed's, C)"


Read = Callable[[PeerBook], object]


def peer(depth: int, read: Read | None = None) -> Callable[[], None]:
    """Return one pass over all updates; levels are ready Python floats."""
    bids, asks, more_bids, more_asks = make_updates(depth)
    book = PeerBook()
    for side, levels in ((book.bids, bids), (book.asks, asks)):
        for price, size in levels.T.tolist():
            side[price] = size
    pairs = [(b.T.tolist(), a.T.tolist()) for b, a in zip(more_bids, more_asks, strict=True)]

    def run() -> None:
        for one_bids, one_asks in pairs:
            for side, levels in ((book.bids, one_bids), (book.asks, one_asks)):
                for price, size in levels:
                    if size:
                        side[price] = size
                    elif price in side:
                        del side[price]
            if read is not None:
                read(book)

    return run


def beside(
    case: str,
    gate: float,
    goal: float,
    own: Callable[[OrderBook], object] | None = None,
    theirs: Read | None = None,
) -> Result:
    """Measure 24 levels into a deep book, each side reading it in its way."""
    depth = DEPTHS[-1]
    passes = {OURS: ours(depth, own), PEER: peer(depth, theirs)}
    timing = compare(passes, events=UPDATES)
    result = Result(STAGE, f"24 levels into {depth:,}, {case}", "ns/update", INPUT, timing)
    result.command = COMMAND
    result.ratio(PEER, gate=gate, goal=goal)
    return result


def update() -> Result:
    """Nothing is read."""
    return beside("cryptofeed", 2.0, 2.5)


def update_with_list() -> Result:
    """All levels are read, in order."""

    def read(book: PeerBook) -> object:
        return book.bids.to_list(), book.asks.to_list()

    return beside("whole book read, cryptofeed", 20.0, 50.0, OrderBook.levels, read)


MEASURES = (update, update_with_list)
