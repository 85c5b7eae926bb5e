"""Frames through cryptofeed, ccxt pro and nautilus_trader, beside our parsers.

A user of a library pays for its whole handler of a frame, so the whole handler is measured, with a
callback that drops the result. On depth updates the libraries keep a book, and so does our side.
The gates compare our parser alone, without a book.
"""

from __future__ import annotations

import asyncio

import numpy as np
import orjson

from benchmarks.books import collected
from benchmarks.frames import INPUT, diffs, each, frames
from benchmarks.measure import Result
from benchmarks.peers import ccxt_peer, cryptofeed_peer, nautilus_peer
from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.upbit import UpbitParser
from coinspace.bench.measure import OURS, compare

COMMAND = "make bench-peers"
STAGE = "parse"
TAKEN = f"{OURS}, arrays taken"
PARSER = f"{OURS}, parser alone"


def prepare() -> None:
    """Give the libraries the data that they would fetch from the network."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    cryptofeed_peer.know_symbols()


def text(batch: list[bytes]) -> list[str]:
    return [frame.decode() for frame in batch]


def upbit_simple() -> Result:
    """Upbit's SIMPLE order book, which cryptofeed asks for."""
    batch = frames("upbit-book-simple")
    parser, arrays = UpbitParser(), cryptofeed_peer.Arrays()
    parse = parser.parse

    def taken(frame: bytes) -> object:
        parse(frame)
        return parser.bids, parser.asks

    timing = compare(
        {
            OURS: each(parse, batch),
            TAKEN: each(taken, batch),
            "cryptofeed": cryptofeed_peer.handle(cryptofeed_peer.upbit(), text(batch)),
            "cryptofeed → numpy": cryptofeed_peer.handle(
                cryptofeed_peer.upbit(arrays), text(batch)
            ),
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
    )
    # the peer's work must be the same work
    assert np.array_equal(arrays.bids, parser.bids)
    assert np.array_equal(arrays.asks, parser.asks)
    result = Result(STAGE, "Upbit SIMPLE book, cryptofeed", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.note = (
        f"{OURS} leaves float64 arrays in the parser, where the collector reads them; {TAKEN}, also"
        " copies them into arrays of numpy, as the callback beside it does."
    )
    result.ratio("cryptofeed → numpy", gate=100, goal=150)
    result.same["cryptofeed → numpy"] = TAKEN
    return result


def bithumb_book() -> Result:
    """Bithumb's order book."""
    batch = frames("bithumb-book")
    parser, arrays = BithumbParser(), cryptofeed_peer.Arrays()
    timing = compare(
        {
            OURS: each(parser.parse, batch),
            "cryptofeed": cryptofeed_peer.handle(cryptofeed_peer.bithumb(), text(batch)),
            "cryptofeed → numpy": cryptofeed_peer.handle(
                cryptofeed_peer.bithumb(arrays), text(batch)
            ),
            "orjson.loads": each(orjson.loads, batch),
        },
        events=len(batch),
    )
    # the peer's work must be the same work
    assert np.array_equal(arrays.bids, parser.bids)
    assert np.array_equal(arrays.asks, parser.asks)
    result = Result(STAGE, "Bithumb book, cryptofeed", "ns/frame", INPUT, timing, command=COMMAND)
    result.ratio("cryptofeed → numpy", gate=70, goal=120)
    return result


def upbit_book() -> Result:
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
    )
    assert socket.updates > 0
    result = Result(STAGE, "Upbit book, ccxt pro", "ns/frame", INPUT, timing, command=COMMAND)
    return result


def binance_diff() -> Result:
    """Binance depth updates of 48 levels; all keep their books."""
    batch = diffs()
    own_book, own_run = collected(batch)
    feed = cryptofeed_peer.binance()
    ccxt_run, socket = ccxt_peer.binance_diffs(batch)
    nautilus_run, book = nautilus_peer.binance_diffs(batch)
    timing = compare(
        {
            OURS: own_run,
            PARSER: each(BinanceParser().parse, batch),
            "cryptofeed": cryptofeed_peer.handle_diffs(feed, text(batch)),
            "ccxt pro": ccxt_run,
            "nautilus_trader": nautilus_run,
        },
        events=len(batch),
    )
    # the same work: the same books
    (bids, _), (asks, _) = own_book.levels()
    assert cryptofeed_peer.prices(feed) == (bids.tolist(), asks.tolist())
    assert socket.updates > 0
    assert float(book.best_bid_price()) == bids[0]
    result = Result(STAGE, "Binance depth update and book, peers", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.note = (
        f"{OURS} is the collector's stage: parsed, ids checked, applied to the book, as the"
        f" libraries' handlers do. {PARSER} only reads the frame, theirs keep their books:"
        " gates of parsers beside handlers are on that figure."
    )
    for peer, gate in (("cryptofeed", 95), ("ccxt pro", 80)):
        value = timing.ratio(peer, PARSER)
        what = f"× faster than {peer} (parse; theirs with book)"
        result.check(what, value, gate=gate, goal=150)
    return result


def trades() -> Result:
    """Trades of Upbit and Binance through cryptofeed."""
    upbit = frames("upbit-trade-simple")
    timing = compare(
        {
            OURS: each(UpbitParser().parse, upbit),
            "cryptofeed": cryptofeed_peer.handle(cryptofeed_peer.upbit(), text(upbit)),
            "orjson.loads": each(orjson.loads, upbit),
        },
        events=len(upbit),
    )
    result = Result(STAGE, "Upbit SIMPLE trade, cryptofeed", "ns/frame", INPUT, timing)
    result.command = COMMAND
    result.ratio("cryptofeed", gate=12)
    return result


def binance_trades() -> Result:
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
    )
    assert socket.updates > 0
    result = Result(STAGE, "Binance trade, peers", "ns/frame", INPUT, timing, command=COMMAND)
    result.ratio("cryptofeed, aggregated trades", gate=12)
    return result


MEASURES = [
    upbit_simple,
    bithumb_book,
    upbit_book,
    binance_diff,
    trades,
    binance_trades,
]
