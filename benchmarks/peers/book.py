"""The local book beside order_book, the C order book that cryptofeed keeps its books in.

Driven with floats, which is faster than the Decimals that cryptofeed gives it. `with list` also
reads all levels in order, as a publisher of whole books does. Its sides are hash tables that are
sorted when they are read, so a pass without reading leaves out most of its work and none of ours.
"""

from __future__ import annotations

from collections.abc import Callable

from order_book import OrderBook as PeerBook

from benchmarks.books import DEPTHS, INPUT, STAGE, UPDATES, make_updates, ours
from benchmarks.measure import OURS, Result, compare

COMMAND = "make bench-peers"
PEER = "order_book (cryptofeed's, C)"


def peer(depth: int, *, read: bool) -> Callable[[], None]:
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
            if read:
                book.bids.to_list()
                book.asks.to_list()

    return run


def update(rounds: int) -> Result:
    """24 levels into a deep book."""
    depth = DEPTHS[-1]
    timing = compare(
        {OURS: ours(depth)[1], PEER: peer(depth, read=False)}, events=UPDATES, rounds=rounds
    )
    result = Result(STAGE, f"24 levels into {depth:,}, cryptofeed", "ns/update", INPUT, timing)
    result.command = COMMAND
    result.ratio(PEER, gate=2.5)
    return result


def update_with_list(rounds: int) -> Result:
    """The same, with all levels read."""
    depth = DEPTHS[-1]
    timing = compare(
        {OURS: ours(depth, depth)[1], PEER: peer(depth, read=True)}, events=UPDATES, rounds=rounds
    )
    case = f"24 levels into {depth:,}, whole book read, cryptofeed"
    result = Result(STAGE, case, "ns/update", INPUT, timing)
    result.command = COMMAND
    result.ratio(PEER, gate=20.0)
    return result


MEASURES = (update, update_with_list)
