"""The cost of one row in a storage worker, beside the client library's own row call.

Each µs of the worker makes a catch-up after an outage longer, as long as the worker is slower than
the server. The gates are on whole workers, ours and one made of the library: they send rows over
HTTP to a real server, with deduplication, until the server has applied them.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest

from benchmarks.measure import Bench, Result, gated
from benchmarks.processes import cpu_ns
from coinspace._ext.message import Message
from coinspace._ext.sink import ListSink
from coinspace.bench.measure import OURS, interleaved
from coinspace.config import Settings, StorageSettings
from coinspace.storage import schema
from coinspace.storage.policy import Policies
from coinspace.storage.questdb.address import Address
from coinspace.storage.questdb.server import ManagedServer
from coinspace.storage.sender import Sender
from coinspace.storage.stage import StorageStage
from coinspace.storage.transport import Buffer, TimestampNanos

ROUNDS = 5
LEVELS = 30
PUBLISHER = "orderbook-collector-upbit"
INPUT = "made, seed 7"
BOOK = f"order book, {LEVELS} levels"
SENT = 10_000  # rows a round to the real server
SERVER = "QuestDB itself"
CLIENT = "client library, Buffer.row and flush"
APPLIED_S = 60.0


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


def trades(rows: int, sink: ListSink) -> list[Message]:
    """Different trades, a µs apart; a sink that is given again goes on in time."""
    topic = sink.topic(b"trade.upbit.BTC/KRW.")
    sink.clear()
    for i in range(topic.sequence, topic.sequence + rows):
        sink.publish(
            topic,
            3,
            np.array([1e8 + i, 0.1 * (1 + i % 100)]).tobytes(),
            exchange_ns=1_700_000_000_000_000_000 + 1000 * i,
            received_ns=1_700_000_000_100_000_000 + 1000 * i,
            id=i + 1,
        )
    return sink.messages


def library_book(buffer: Buffer, message: Message) -> None:
    buffer.row(
        "orderbook",
        symbols={"exchange": "upbit", "market": "BTC/KRW"},
        columns={
            "bid": 1e8,
            "bid_size": 1.0,
            "ask": 1e8,
            "ask_size": 1.0,
            "bids": message.bids,
            "asks": message.asks,
            "n_bids": LEVELS,
            "n_asks": LEVELS,
            "update_id": 1,
            "flags": 0,
            "epoch": 1,
            "seq": 2,
            "exchange_ts": TimestampNanos(1_700_000_000_000_000_000),
            "published_ts": TimestampNanos(1_700_000_000_000_000_000),
        },
        at=TimestampNanos(message.received_ns),
    )


def library_trade(buffer: Buffer, message: Message) -> None:
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
        at=TimestampNanos(message.exchange_ns),
    )


@contextmanager
def database() -> Iterator[tuple[Settings, Address, int]]:
    """Run a private server with the platform's tables; yields its process's id, too."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        settings = Settings(data=Path(folder))
        settings.storage.ttl = "off"
        server = ManagedServer(settings)
        server.spawn()
        found = server.wait_ready()
        try:
            schema.create(found, StorageSettings(ttl="off"))
            assert server.process is not None
            yield settings, found, server.process.pid
        finally:
            server.stop()


@pytest.mark.parametrize("kind", ["orderbook", "trade"])
def test_server(bench: Bench, kind: str) -> None:
    def measure() -> Result:
        with database() as (settings, found, pid):
            return sent(kind, settings, found, pid)

    gated(bench, measure)


def sent(kind: str, settings: Settings, found: Address, pid: int) -> Result:
    """Send new rows in turn by our sender and by the library's, until they can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from questdb.ingress import Sender as LibrarySender
    make, library_row = (books, library_book) if kind == "orderbook" else (trades, library_trade)
    ours = Sender(settings, "bench")
    ours.start()
    stage = StorageStage(ours, (f"{kind}.".encode(),), Policies([], LEVELS))
    library = LibrarySender.from_conf(found.ilp, auto_flush=False)
    library.establish()  # type: ignore[no-untyped-call]
    connection = psycopg.connect(found.sql, autocommit=True)
    sink = ListSink(1)
    count = 0

    def applied() -> None:
        deadline = time.monotonic() + APPLIED_S
        while True:
            row = connection.execute(f"select count() from {kind}").fetchone()
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
            library_row(buffer, message)
            if i % settings.storage.batch_rows == 0 or i == len(messages):
                library.flush(buffer)

    servers: list[float] = []

    def once(send: Callable[[list[Message]], None]) -> float:
        nonlocal count
        messages = list(make(SENT, sink))
        count += SENT
        server, own = cpu_ns(pid), time.process_time_ns()
        send(messages)
        own = time.process_time_ns() - own
        applied()
        if send is by_us:
            servers.append((cpu_ns(pid) - server) / SENT)
        return own / SENT

    try:
        # Java compiles what it runs often
        for send in (by_us, by_library):
            once(send)
        servers.clear()
        candidates = {OURS: partial(once, by_us), CLIENT: partial(once, by_library)}
        timing = interleaved(candidates, ROUNDS)
        timing.ns[SERVER] = servers
    finally:
        ours.abort()
        library.close(False)
        connection.close()
    name = BOOK if kind == "orderbook" else kind
    case = f"{name}, HTTP and a server"
    result = Result("storage", case, "CPU ns/row", INPUT, timing, limits=[SERVER])
    over = 1 / timing.ratio(CLIENT)
    result.check("CPU of the client library's", over, gate=2, goal=1.3, better="lower")
    # the server is the bottleneck as long as it needs more time than our sender
    over = 1 / timing.ratio(SERVER)
    result.check("CPU of the server's", over, gate=0.5, better="lower")
    result.note = (
        f"Whole processes: messages into rows, batches of {settings.storage.batch_rows:,} flushed"
        " over HTTP with deduplication, until the server has applied them. A worker that needs less"
        " than the server waits for it."
    )
    return result
