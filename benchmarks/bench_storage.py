"""What a storage worker spends on one row, beside the client library's own row call.

The server needs five to ten times as much for the same row and is the bottleneck as long as the
worker stays near the library; every µs here is a row less in a catch-up after an outage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import OURS, Benchmark, Result, compare, gated
from coinspace._ext.message import Message
from coinspace._ext.sink import ListSink
from coinspace.config import Settings
from coinspace.storage.rows import STORES, Venue
from coinspace.storage.sender import Sender
from coinspace.storage.stage import Stage
from coinspace.storage.transport import Buffer, TimestampNanos, new_buffer

ROWS = 256
LEVELS = 30
PUBLISHER = "orderbook-collector-upbit"
INPUT = "made, seed 7"
LIBRARY = "Buffer.row, ready arrays"


class Full(Sender):
    """A sender whose batches are thrown away instead of sent."""

    def seal(self) -> None:
        batch, self._open = self._open, None
        if batch is not None:
            self._open_bytes = 0
            batch.lines.clear()
            self._spare.append(batch.lines)


def books() -> list[Message]:
    """256 different books of 30 levels."""
    rng = np.random.default_rng(7)
    sink = ListSink(1)
    topic = sink.topic(b"orderbook.upbit.BTC/KRW.")
    for i in range(ROWS):
        prices = 1e8 + rng.normal() - np.arange(LEVELS)
        sizes = rng.exponential(size=2 * LEVELS)
        payload = np.concatenate([prices, sizes[:LEVELS], prices + 2 * LEVELS, sizes[LEVELS:]])
        sink.publish(
            topic,
            1,
            payload.tobytes(),
            n_bids=LEVELS,
            n_asks=LEVELS,
            exchange_ns=1_700_000_000_000_000_000 + i,
            received_ns=1_700_000_000_100_000_000 + i,
            id=i + 1,
        )
    return sink.messages


def trades() -> list[Message]:
    """256 different trades."""
    sink = ListSink(1)
    topic = sink.topic(b"trade.upbit.BTC/KRW.")
    for i in range(ROWS):
        sink.publish(
            topic,
            3,
            np.array([1e8 + i, 0.1 * i]).tobytes(),
            exchange_ns=1_700_000_000_000_000_000 + i,
            received_ns=1_700_000_000_100_000_000 + i,
            id=i + 1,
        )
    return sink.messages


def sender() -> Full:
    settings = Settings(data=Path("build"))
    settings.storage.batch_rows = ROWS
    return Full(settings, "bench")


def library_row(buffer: Buffer, message: Message, bids: Any, asks: Any) -> None:
    buffer.row(
        "orderbook",
        symbols={"exchange": "upbit", "market": "BTC/KRW"},
        columns={
            "bid": 1e8,
            "bid_size": 1.0,
            "ask": 1e8,
            "ask_size": 1.0,
            "bids": bids,
            "asks": asks,
            "n_bids": LEVELS,
            "n_asks": LEVELS,
            "update_id": 1,
            "flags": 0,
            "epoch": 1,
            "seq": 2,
            "exchange_ts": TimestampNanos(1_700_000_000_000_000_000),
            "published_ts": TimestampNanos(1_700_000_000_000_000_000),
        },
        at=TimestampNanos(1_700_000_000_000_000_000),
    )


def test_orderbook(benchmark: Benchmark) -> None:
    messages = books()
    arrays = [(one.bids.copy(), one.asks.copy()) for one in messages]

    def measure(rounds: int) -> Result:
        taken = sender()
        stage = Stage(taken, (b"orderbook.",), LEVELS)
        buffer = new_buffer(1 << 20)
        epoch = 0

        def ours() -> None:
            nonlocal epoch
            # sequences seen before would be left out: the ledger forgets
            stage.ledger.streams.clear()
            stage._current.clear()
            for message in messages:
                stage.on_message(PUBLISHER, message)
            taken.seal()

        def library() -> None:
            for message, (bids, asks) in zip(messages, arrays, strict=True):
                library_row(buffer, message, bids, asks)
            buffer.clear()  # type: ignore[no-untyped-call]

        timing = compare({OURS: ours, LIBRARY: library}, events=ROWS, rounds=rounds)
        result = Result("storage", f"order book, {LEVELS} levels", "ns/row", INPUT, timing)
        over = 1 / timing.ratio(LIBRARY)
        result.check("CPU of Buffer.row's", over, gate=2, goal=1.3, better="lower")
        assert stage.stored["orderbook"] >= ROWS
        return result

    gated(benchmark, measure)


def test_trade(benchmark: Benchmark) -> None:
    messages = trades()

    def measure(rounds: int) -> Result:
        taken = sender()
        venue = Venue("ticker-collector-upbit", "trade.upbit.BTC/KRW.", "upbit", "BTC/KRW")
        store = STORES[3]
        buffer = new_buffer(1 << 20)

        def ours() -> None:
            for message in messages:
                store(taken, venue, message, LEVELS)
            taken.seal()

        def library() -> None:
            for _ in messages:
                buffer.row(
                    "trade",
                    symbols={"exchange": "upbit", "market": "BTC/KRW", "side": "buy"},
                    columns={
                        "price": 1e8,
                        "size": 0.1,
                        "trade_id": 1,
                        "flags": 0,
                        "epoch": 1,
                        "seq": 1,
                        "received_ts": TimestampNanos(1_700_000_000_000_000_000),
                        "published_ts": TimestampNanos(1_700_000_000_000_000_000),
                    },
                    at=TimestampNanos(1_700_000_000_000_000_000),
                )
            buffer.clear()  # type: ignore[no-untyped-call]

        timing = compare({OURS: ours, LIBRARY: library}, events=ROWS, rounds=rounds)
        result = Result("storage", "trade", "ns/row", INPUT, timing)
        over = 1 / timing.ratio(LIBRARY)
        result.check("CPU of Buffer.row's", over, gate=2, goal=1.3, better="lower")
        return result

    gated(benchmark, measure)
