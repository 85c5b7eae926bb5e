"""What a storage worker spends on one row, beside the client library's own row call.

Every µs of the worker is a row less in a catch-up after an outage, as long as the worker is the
slower one; so the last case sends rows to a real server, deduplication on, and measures what both
ends spend until the rows are applied.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import OURS, Benchmark, Result, Timing, compare, gated
from benchmarks.processes import cpu_ns
from coinspace._ext.message import Message
from coinspace._ext.sink import ListSink
from coinspace.config import Settings
from coinspace.storage import schema
from coinspace.storage.address import Address
from coinspace.storage.rows import STORES, Venue
from coinspace.storage.sender import Sender
from coinspace.storage.server import ManagedServer
from coinspace.storage.stage import Stage
from coinspace.storage.transport import Buffer, TimestampNanos, new_buffer

ROWS = 256
LEVELS = 30
PUBLISHER = "orderbook-collector-upbit"
INPUT = "made, seed 7"
LIBRARY = "Buffer.row, ready arrays"
SENT = 10_000  # rows a round to the real server
SERVER = "QuestDB itself"
CLIENT = "client library, Buffer.row and flush"
APPLIED_S = 60.0


class Full(Sender):
    """A sender whose batches are thrown away instead of sent."""

    def seal(self) -> None:
        batch, self._open = self._open, None
        if batch is not None:
            self._open_bytes = 0
            batch.lines.clear()
            self._spare.append(batch.lines)


def books(rows: int, sink: ListSink) -> list[Message]:
    """Different books of 30 levels, a µs apart; a sink that is given again goes on in time."""
    rng = np.random.default_rng(7)
    topic = sink.topic(b"orderbook.upbit.BTC/KRW.")
    sink.clear()
    for i in range(topic.sequence, topic.sequence + rows):
        prices = 1e8 + rng.normal() - np.arange(LEVELS)
        sizes = rng.exponential(size=2 * LEVELS)
        payload = np.concatenate([prices, sizes[:LEVELS], prices + 2 * LEVELS, sizes[LEVELS:]])
        sink.publish(
            topic,
            1,
            payload.tobytes(),
            n_bids=LEVELS,
            n_asks=LEVELS,
            exchange_ns=1_700_000_000_000_000_000 + 1000 * i,
            received_ns=1_700_000_000_100_000_000 + 1000 * i,
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


def library_row(
    buffer: Buffer, message: Message, bids: Any, asks: Any, at: int = 1_700_000_000_000_000_000
) -> None:
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
        at=TimestampNanos(at),
    )


def test_orderbook(benchmark: Benchmark) -> None:
    messages = books(ROWS, ListSink(1))
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


@contextmanager
def database() -> Iterator[tuple[Settings, Address, int]]:
    """Run a private server with the platform's tables; yields its process's id, too."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        settings = Settings(data=Path(folder))
        settings.storage.ttl = "off"
        server = ManagedServer(settings)
        found = server.start()
        try:
            schema.create(found, ttl=False)
            assert server.process is not None
            yield settings, found, server.process.pid
        finally:
            server.stop()


def test_server(benchmark: Benchmark) -> None:
    def measure(rounds: int) -> Result:
        with database() as (settings, found, pid):
            return sent(settings, found, pid, min(rounds, 5))

    gated(benchmark, measure)


def sent(settings: Settings, found: Address, pid: int, rounds: int) -> Result:
    """Send new rows in turn by our sender and by the library's, until they can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from questdb.ingress import Sender as LibrarySender
    ours = Sender(settings, "bench")
    ours.start()
    stage = Stage(ours, (b"orderbook.",), LEVELS)
    library = LibrarySender.from_conf(found.ilp, auto_flush=False)
    library.establish()  # type: ignore[no-untyped-call]
    connection = schema.connect(found)
    sink = ListSink(1)
    count = 0

    def applied() -> None:
        deadline = time.monotonic() + APPLIED_S
        while True:
            row = connection.execute("select count() from orderbook").fetchone()
            if row is not None and row[0] >= count:
                return
            assert time.monotonic() < deadline, f"expected {count} rows, was {row}"
            time.sleep(0.02)

    def by_us(messages: list[Message]) -> None:
        for message in messages:
            stage.on_message(PUBLISHER, message)
        ours.seal()
        while ours.pending:
            time.sleep(0.001)

    def by_library(messages: list[Message]) -> None:
        buffer = library.new_buffer()
        for i, message in enumerate(messages, 1):
            library_row(buffer, message, message.bids, message.asks, message.received_ns)
            if i % settings.storage.batch_rows == 0 or i == len(messages):
                library.flush(buffer)

    def once(send: Callable[[list[Message]], None]) -> tuple[float, float]:
        nonlocal count
        messages = list(books(SENT, sink))
        count += SENT
        server, own = cpu_ns(pid), time.process_time_ns()
        send(messages)
        own = time.process_time_ns() - own
        applied()
        return own / SENT, (cpu_ns(pid) - server) / SENT

    try:
        # Java compiles what it runs often
        for send in (by_us, by_library):
            once(send)
        ns: dict[str, list[float]] = {OURS: [], CLIENT: [], SERVER: []}
        for _ in range(rounds):
            own, server = once(by_us)
            ns[OURS].append(own)
            ns[SERVER].append(server)
            ns[CLIENT].append(once(by_library)[0])
    finally:
        ours.abort()
        library.close(False)
        connection.close()
    timing = Timing(ns, "process")
    case = f"order book, {LEVELS} levels, HTTP and a server"
    result = Result("storage", case, "CPU ns/row", INPUT, timing, limits=[SERVER])
    # the server is the bottleneck as long as it spends more than we do
    over = 1 / timing.ratio(SERVER)
    result.check("CPU of the server's", over, gate=0.5, better="lower")
    result.ratio(CLIENT)
    result.note = (
        "Whole processes: messages into rows, batches of 1,000 over HTTP with deduplication, until"
        " the server has applied them. A worker that needs less than the server waits for it."
    )
    return result
