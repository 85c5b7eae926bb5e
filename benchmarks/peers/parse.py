"""Frames through cryptofeed, ccxt pro and nautilus_trader, beside our parsers.

What a library's handler does with a frame is what its user pays for it, so the whole handler is
measured, with a callback that takes the result and drops it. On depth updates the libraries keep a
book too: `parse + book` does the same work, `parse` is what the gates compare.
"""

from __future__ import annotations

import asyncio

import numpy as np
import orjson

from benchmarks.frames import INPUT, diffs, each, frames
from benchmarks.measure import OURS, Result, compare
from benchmarks.peers import ccxt_peer, cryptofeed_peer, nautilus_peer
from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.upbit import UpbitParser

COMMAND = "make bench-peers"
STAGE = "parse"


def prepare() -> None:
    """Give the libraries what they would ask the network for."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    cryptofeed_peer.know_symbols()


def text(batch: list[bytes]) -> list[str]:
    return [frame.decode() for frame in batch]


def upbit_simple(rounds: int) -> Result:
    """Upbit's SIMPLE order book, which cryptofeed asks for."""
    batch = frames("upbit-book-simple")
    parser, arrays = UpbitParser(), cryptofeed_peer.Arrays()
    timing = compare(
        {
            OURS: each(parser.parse, batch),
            "cryptofeed": cryptofeed_peer.handle(cryptofeed_peer.upbit(), text(batch)),
            "cryptofeed → numpy": cryptofeed_peer.handle(
                cryptofeed_peer.upbit(arrays), text(batch)
            ),
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
        rounds=rounds,
    )
    # the peer's work must be the same work
    assert np.array_equal(arrays.bids, parser.bids)
    assert np.array_equal(arrays.asks, parser.asks)
    result = Result(STAGE, "Upbit SIMPLE book, cryptofeed", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.ratio("cryptofeed → numpy", gate=100, goal=150)
    result.ratio("cryptofeed")
    return result


def upbit_book(rounds: int) -> Result:
    """Upbit's DEFAULT order book, which ccxt asks for."""
    batch = frames("upbit-book")
    handler, socket = ccxt_peer.upbit(batch)
    timing = compare(
        {
            OURS: each(UpbitParser().parse, batch),
            "ccxt pro": handler,
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
        rounds=rounds,
    )
    assert socket.updates > 0
    result = Result(STAGE, "Upbit book, ccxt pro", "ns/frame", INPUT, timing, command=COMMAND)
    result.ratio("ccxt pro")
    return result


def bithumb_book(rounds: int) -> Result:
    """Bithumb: cryptofeed has no order book, ccxt speaks the legacy socket; so only orjson."""
    batch = frames("bithumb-book")
    timing = compare(
        {OURS: each(BithumbParser().parse, batch), "orjson.loads": each(orjson.loads, batch)},
        events=len(batch),
        rounds=rounds,
    )
    result = Result(STAGE, "Bithumb book, no peer", "ns/frame", INPUT, timing, command=COMMAND)
    result.note = "no peer reads this socket's books: cryptofeed has none, ccxt the legacy socket's"
    result.ratio("orjson.loads")
    return result


def binance_diff(rounds: int) -> Result:
    """Binance depth updates of 48 levels; the peers keep their books."""
    from coinspace._ext.orderbook import OrderBook

    batch = diffs()
    parser, feed = BinanceParser(), cryptofeed_peer.binance()
    ccxt_run, socket = ccxt_peer.binance_diffs(batch)
    nautilus_run, book = nautilus_peer.binance_diffs(batch)
    own_parser, own_book = BinanceParser(), OrderBook(5000)

    def with_book() -> None:
        parse, apply = own_parser.parse, own_book.apply
        for frame in batch:
            parse(frame)
            apply(own_parser.bids, own_parser.asks)

    timing = compare(
        {
            OURS: each(parser.parse, batch),
            f"{OURS} with its book": with_book,
            "cryptofeed": cryptofeed_peer.handle_diffs(feed, text(batch)),
            "cryptofeed → numpy": cryptofeed_peer.handle_diffs(
                cryptofeed_peer.binance(cryptofeed_peer.Arrays()), text(batch)
            ),
            "ccxt pro": ccxt_run,
            "nautilus_trader": nautilus_run,
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
        rounds=rounds,
    )
    assert socket.updates > 0
    assert book.best_bid_price() is not None
    result = Result(STAGE, "Binance depth update, peers", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.ratio("cryptofeed", gate=95, goal=150)
    result.ratio("ccxt pro", gate=80, goal=150)
    result.ratio("nautilus_trader")
    for peer in ("cryptofeed", "ccxt pro", "nautilus_trader"):
        value = timing.ratio(peer, f"{OURS} with its book")
        result.check(f"× faster than {peer}, with our book too", value)
    return result


def trades(rounds: int) -> Result:
    """Trades of Upbit and Binance through cryptofeed."""
    upbit = frames("upbit-trade-simple")
    timing = compare(
        {
            OURS: each(UpbitParser().parse, upbit),
            "cryptofeed": cryptofeed_peer.handle(cryptofeed_peer.upbit(), text(upbit)),
            "orjson.loads": each(orjson.loads, upbit),
        },
        events=len(upbit),
        rounds=rounds,
    )
    result = Result(STAGE, "Upbit SIMPLE trade, cryptofeed", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.ratio("cryptofeed", gate=12)
    return result


def binance_trades(rounds: int) -> Result:
    """Binance trades through ccxt pro; cryptofeed reads aggregated trades instead."""
    batch = frames("binance-trade")
    ccxt_run, socket = ccxt_peer.binance_trades(batch)
    aggregated = [
        frame.replace(b'"e":"trade"', b'"e":"aggTrade"')
        .replace(b"@trade", b"@aggTrade")
        .replace(b'"t":', b'"a":')
        for frame in batch
    ]
    timing = compare(
        {
            OURS: each(BinanceParser().parse, batch),
            "cryptofeed, aggregated trades": cryptofeed_peer.handle(
                cryptofeed_peer.binance(), text(aggregated)
            ),
            "ccxt pro": ccxt_run,
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
        rounds=rounds,
    )
    assert socket.updates > 0
    result = Result(STAGE, "Binance trade, peers", "ns/frame", INPUT, timing, command=COMMAND)
    result.ratio("cryptofeed, aggregated trades", gate=12)
    result.ratio("ccxt pro")
    return result


MEASURES = [upbit_simple, upbit_book, bithumb_book, binance_diff, trades, binance_trades]
