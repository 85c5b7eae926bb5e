"""cryptofeed: its feeds' own message handlers, with the callbacks of its documentation.

It makes Upbit's and Bithumb's tickers from their books, and asks Upbit for the SIMPLE format only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import numpy as np
from cryptofeed.defines import ASK, BID, L2_BOOK, TRADES
from cryptofeed.exchanges import Binance, Bithumb, Upbit
from cryptofeed.symbols import Symbols
from cryptofeed.types import OrderBook

from benchmarks.frames import FIRST_ID

MARKET = {
    "UPBIT": ("BTC-KRW", "KRW-BTC"),
    "BITHUMB": ("BTC-KRW", "KRW-BTC"),
    "BINANCE": ("BTC-USDT", "BTCUSDT"),
}
Callback = Callable[[Any, float], Awaitable[None]]


def know_symbols() -> None:
    """Give cryptofeed its symbols, which it would fetch by REST."""
    logging.getLogger("feedhandler").setLevel(logging.ERROR)
    for exchange, (standard, symbol) in MARKET.items():
        Symbols.set(exchange, {standard: symbol}, {"instrument_type": {}, "tick_size": {}})


class Socket:
    """The part of cryptofeed's connection that the handlers read: the channels asked for."""

    def __init__(self, feed: Any, *channels: str) -> None:
        names = feed.websocket_channels
        self.subscription = {names[one]: ["BTC"] for one in channels}


async def nothing(_item: Any, _received: float) -> None:
    """Callback that does nothing: the cost of the handler alone."""


class Arrays:
    """Callback that makes float64 arrays of a book, as numeric code needs them."""

    def __init__(self) -> None:
        self.bids = self.asks = np.empty((2, 0))

    async def __call__(self, book: Any, _received: float) -> None:
        self.bids = np.array(book.book.bids.to_list(), dtype=np.float64).T
        self.asks = np.array(book.book.asks.to_list(), dtype=np.float64).T


def upbit(callback: Callback = nothing) -> Upbit:
    """Return the feed of Upbit's books and trades, with nothing connected."""
    return _feed(Upbit, "BTC-KRW", callback)


def bithumb(callback: Callback = nothing) -> Bithumb:
    """Return the feed of Bithumb's books and trades, with nothing connected."""
    return _feed(Bithumb, "BTC-KRW", callback)


def binance(callback: Callback = nothing) -> Binance:
    """Return the feed of Binance's books and trades, with nothing connected."""
    return _feed(Binance, "BTC-USDT", callback)


def _feed(exchange: Any, symbol: str, callback: Callback) -> Any:
    return exchange(
        symbols=[symbol],
        channels=[L2_BOOK, TRADES],
        callbacks={L2_BOOK: callback, TRADES: callback},
    )


def handle(feed: Any, frames: list[str]) -> Callable[[], None]:
    """Return one pass of the feed's handler over text frames.

    The handlers never suspend with such callbacks, so they are run without an event loop, which
    costs the peer nothing.
    """
    handler, socket = feed.message_handler, Socket(feed, L2_BOOK, TRADES)

    def run() -> None:
        for frame in frames:
            try:
                handler(frame, socket, 1.0).send(None)
            except StopIteration:
                continue
            raise AssertionError("the handler suspended")

    return run


def handle_diffs(feed: Binance, frames: list[str]) -> Callable[[], None]:
    """Return one pass over depth updates into the feed's own book, which grows as it would live."""
    pass_over = handle(feed, frames)
    feed._l2_book["BTC-USDT"] = OrderBook(
        feed.id,
        "BTC-USDT",
        bids={Decimal("86700.00"): Decimal(1)},
        asks={Decimal("86700.01"): Decimal(1)},
    )
    # the handler ignores the first update after a snapshot unless a delta was seen
    feed._l2_book["BTC-USDT"].delta = {BID: [], ASK: []}

    def run() -> None:
        feed.last_update_id["BTC-USDT"] = FIRST_ID - 1
        pass_over()

    return run


def prices(feed: Binance) -> tuple[list[float], list[float]]:
    """Return the prices of the feed's book, best first: (bids, asks)."""
    book = feed._l2_book["BTC-USDT"].book
    bids, asks = ([float(price) for price, _ in side.to_list()] for side in (book.bids, book.asks))
    return bids, asks
