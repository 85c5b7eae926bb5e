"""Each stage alone on a feed, as `coinspace bench` and `coinspace profile` run it.

The stages are the objects that run live. Sockets and clocks are left out, except in the stages
whose work is a socket: `receive` and `bus`. A prepared run can be repeated any number of times.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from coinspace._ext.collector import Collector
from coinspace._ext.message import ORDERBOOK, STATE, Message
from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.bench.wire import Wire
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import now_ns
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.tools.offline import Replay
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Exchange
from coinspace.index.calculator import IndexCalculator
from coinspace.recording.format import FeedReader, Record
from coinspace.storage.rows import TopicRows, store
from coinspace.storage.sender import Sender
from coinspace.text import printable

SIMULATED_SEED = 7
SIMULATED_S = 10.0
# messages published before the subscriber is read: less than any queue allows
CHUNK = 200
# only the first frames of a longer feed are used, so that a pass stays short
FRAME_LIMIT = 50_000

feeds_option = click.option(
    "--feed",
    "feeds",
    multiple=True,
    type=click.Path(path_type=Path),
    help="recording to run on, several are possible; default: 10 s of simulated exchanges",
)


@dataclass(slots=True)
class Feed:
    """One connection's recording. entries: (symbol, market) of its order books."""

    exchange: str
    path: str
    records: list[Record]
    entries: list[tuple[str, str]] = field(default_factory=list)

    @property
    def frames(self) -> list[bytes]:
        return [record.payload for record in self.records if record.direction == "<"]


@dataclass(slots=True)
class Run:
    """A stage on its input. events: messages or frames of one pass."""

    stage: str
    input: str
    unit: str
    events: int
    run: Callable[[], object]
    close: Callable[[], object] = lambda: None


def read_source(path: Path) -> Feed:
    """Read a feed.

    Raises: FeedError for another kind of file.
    """
    with FeedReader(path) as reader:
        records = []
        for record in reader:
            records.append(record)
            if len(records) >= FRAME_LIMIT:
                break
    source = Feed(reader.exchange, path.name, records)
    exchange = exchange_named(reader.exchange)
    parser = exchange.parser(1000)
    symbols: dict[str, None] = {}
    frames = source.frames
    for frame in frames:
        for message in parser.decode(frame):
            if message.get("symbol") and message.get("kind") == "orderbook":
                symbols.setdefault(str(message["symbol"]))
    if parser.malformed:
        refused = f"{parser.malformed} of {len(frames)} frames of {path.name} are malformed"
        if parser.malformed == len(frames):
            raise CoinSpaceError(f"{refused}: there is nothing to measure")
        print(f"coinspace: {printable(refused)}", file=sys.stderr)
    for symbol in symbols:
        market = market_of(exchange, symbol)
        if market is not None:
            source.entries.append((symbol, market))
    return source


def market_of(exchange: Exchange, symbol: str) -> str | None:
    """Return a symbol's market, split at a known quote where the symbol itself does not show it."""
    market = exchange.market_of(symbol)
    if market is not None:
        return str(market)
    quotes = (one for one in exchange.QUOTES if symbol.endswith(one) and symbol != one)
    return next((f"{symbol.removesuffix(one)}/{one}" for one in quotes), None)


def simulated(folder: Path, seed: int = SIMULATED_SEED, seconds: float = SIMULATED_S) -> list[Path]:
    """Write feeds of simulated exchanges; one seed gives the same bytes on every machine."""
    from coinspace.simulator.markets.engine import DEFAULT_MARKETS
    from coinspace.simulator.simulated_feed import write_feeds

    written = write_feeds(folder / "bench.feed.zst", seed, DEFAULT_MARKETS, duration_s=seconds)
    return [Path(line["path"]) for line in written]


def sources(paths: list[Path]) -> list[Feed]:
    """Read the feeds; without any, simulate some."""
    if paths:
        return [read_source(path) for path in paths]
    with tempfile.TemporaryDirectory(prefix="coinspace-") as folder:
        return [read_source(path) for path in simulated(Path(folder))]


def _named(found: list[Feed]) -> str:
    return ", ".join(f"{one.exchange} {one.path}" for one in found)


class Parsed(Collector):  # type: ignore[type-arg]
    """Parses every frame and collects no market."""

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None: ...
    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None: ...


def receive(found: list[Feed], _settings: Settings) -> Run:
    """Frames over a WebSocket on the loopback into the parsers."""
    wires = [
        Wire(Parsed(exchange_named(one.exchange).parser(1000), ListSink(), []), one.frames)
        for one in found
    ]

    def run() -> None:
        for wire in wires:
            wire.run()

    def close() -> None:
        for wire in wires:
            wire.close()

    return Run("receive", _named(found), "frame", sum(len(one.frames) for one in found), run, close)


def parse(found: list[Feed], _settings: Settings) -> Run:
    """Frames through the parsers."""
    batches = [(exchange_named(one.exchange).parser(1000), one.frames) for one in found]

    def run() -> None:
        for parser, frames in batches:
            each = parser.parse
            for frame in frames:
                each(frame)

    return Run("parse", _named(found), "frame", sum(len(f) for _, f in batches), run)


def _stage(one: Feed, sink: Any) -> OrderBookStage:
    if not one.entries:
        raise CoinSpaceError(f"{one.path}: expected order books of a known market, found none")
    return OrderBookStage(exchange_named(one.exchange), one.entries, sink, depth=30)


def book(found: list[Feed], _settings: Settings) -> Run:
    """Frames and REST answers through the order book stage: parse, apply, make messages."""
    for one in found:
        # here, so that a feed without books is refused before anything is measured
        _stage(one, ListSink())

    def run() -> None:
        for one in found:
            sink = ListSink()
            replay = Replay(_stage(one, sink))
            for number, record in enumerate(one.records):
                replay.feed(record)
                if not number & 255:
                    # kept messages would measure the allocator
                    sink.clear()

    return Run("book", _named(found), "record", sum(len(one.records) for one in found), run)


def messages_of(found: list[Feed]) -> list[Message]:
    """Return the messages of the order book stages, in the order of their receipt."""
    made: list[Message] = []
    for one in found:
        sink = ListSink()
        replay = Replay(_stage(one, sink))
        for record in one.records:
            replay.feed(record)
        made += sink.messages
    return sorted(made, key=lambda message: message.received_ns)


class Loopback:
    """A publisher and its subscriber over ipc, both in this thread."""

    def __init__(self, settings: Settings, on_message: Callable[[Message], object]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="cs-")
        endpoint = f"ipc://{self._folder.name}/bench.ipc"
        self.publisher = Publisher("bench", settings.bus, now_ns(), endpoint=endpoint)
        wanted = [b"orderbook.", b"state."]
        self._subscriber = Subscriber([endpoint], wanted, on_message, bus=settings.bus)
        self._loop = asyncio.new_event_loop()
        self._subscriber.start(self._loop)
        # messages published before the subscription arrives are not sent
        self._unsent = 0
        probe = self.publisher.topic(b"state.bench.")
        self._until(self._joined, lambda: self.publisher.publish(probe, STATE, b"{}"))
        time.sleep(0.05)
        self._subscriber.drain()
        self._unsent = self._missing()

    def _joined(self) -> bool:
        return bool(self._subscriber.counters()["received"])

    def _missing(self) -> int:
        sent = self.publisher.counters()["published"] - self._unsent
        return sent - self._subscriber.counters()["received"]

    def _until(self, done: Callable[[], bool], again: Callable[[], object]) -> None:
        deadline = time.monotonic() + 10
        while True:
            self._subscriber.drain()
            if done():
                return
            if time.monotonic() > deadline:
                raise CoinSpaceError(f"bus: {self._missing()} messages did not arrive in 10 s")
            again()
            # the cost of a stage is this thread's CPU time; libzmq works in its own thread
            time.sleep(0.0001)

    def drain(self) -> None:
        """Read until all published messages have arrived. Raises: CoinSpaceError after 10 s."""
        self._until(lambda: self._missing() <= 0, lambda: None)

    def close(self) -> None:
        self._subscriber.close()
        self.publisher.close()
        self._loop.close()
        self._folder.cleanup()


def bus(found: list[Feed], settings: Settings) -> Run:
    """Messages published and received over ipc, both ends in this thread."""
    books = [message for message in messages_of(found) if message.kind == ORDERBOOK]
    link = Loopback(settings, lambda message: None)
    topics = {message.topic: link.publisher.topic(message.topic) for message in books}

    def run() -> None:
        for start in range(0, len(books), CHUNK):
            for message in books[start : start + CHUNK]:
                link.publisher.publish(
                    topics[message.topic],
                    ORDERBOOK,
                    message.payload,
                    n_bids=message.n_bids,
                    n_asks=message.n_asks,
                    received_ns=message.received_ns,
                )
            link.drain()

    return Run("bus", _named(found), "message", len(books), run, link.close)


def _index_stage(settings: Settings) -> OrderbookAggregator:
    calculator = IndexCalculator(settings.index.parameters_of, lambda record, aggregate: None)
    return OrderbookAggregator(settings, on_aggregate=calculator.on_aggregate, heartbeats=False)


def _at_each(settings: Settings) -> Settings:
    # a value at each update: a pass is shorter than an interval
    return settings.model_copy(
        update={"index": settings.index.model_copy(update={"interval_ms": 0})}
    )


def index(found: list[Feed], settings: Settings) -> Run:
    """Messages merged over the venues and computed into index records, at each update."""
    made = messages_of(found)
    at_each = _at_each(settings)

    def run() -> None:
        stage = _index_stage(at_each)
        for message in made:
            stage.on_message(message)

    return Run("index", _named(found), "message", len(made), run)


class Encoder(Sender):
    """Encodes rows into the client's buffers and sends nothing."""

    def seal(self) -> None:
        """Drop the rows instead of sending them."""
        batch, self._open = self._open, None
        if batch is not None:
            self._open_bytes = 0
            batch.lines.clear()
            self._spare.append(batch.lines)


def encode(found: list[Feed], settings: Settings) -> Run:
    """Order books into rows of the database client's protocol."""
    books = [message for message in messages_of(found) if message.kind == ORDERBOOK]
    sender = Encoder(settings, "bench")
    venues = {
        message.topic: TopicRows(
            "bench", message.topic.decode(), str(message.exchange), str(message.market)
        )
        for message in books
    }

    def run() -> None:
        for message in books:
            store(sender, venues[message.topic], message, 30)

    return Run("encode", _named(found), "row", len(books), run)


def end_to_end(found: list[Feed], settings: Settings) -> Run:
    """Frames to messages on the bus, received and computed into index records, in one thread."""
    at_each = _at_each(settings)
    stage = _index_stage(at_each)
    link = Loopback(settings, lambda message: stage.on_message(message))
    merged = sorted(
        ((record, number) for number, one in enumerate(found) for record in one.records),
        key=lambda pair: pair[0].received_ns,
    )

    def run() -> None:
        nonlocal stage
        # a used stage would ignore times that it has already seen
        stage = _index_stage(at_each)
        replays = [Replay(_stage(one, link.publisher)) for one in found]
        for count, (record, number) in enumerate(merged):
            replays[number].feed(record)
            if not count % CHUNK:
                link.drain()
        link.drain()

    return Run("end-to-end", _named(found), "record", len(merged), run, link.close)


STAGES: dict[str, Callable[[list[Feed], Settings], Run]] = {
    "receive": receive,
    "parse": parse,
    "book": book,
    "bus": bus,
    "index": index,
    "encode": encode,
    "end-to-end": end_to_end,
}


def prepare(stage: str, found: list[Feed], settings: Settings) -> Run:
    """Return a stage's run. Raises: CoinSpaceError when the input has no messages for it."""
    prepared = STAGES[stage](found, settings)
    if not prepared.events:
        prepared.close()
        raise CoinSpaceError(f"{stage}: expected messages in {prepared.input}, found none")
    return prepared


def check_writable(path: Path) -> None:
    """Check before measuring that the result can be written.

    Raises: CoinSpaceError naming the file and the reason.
    """
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise CoinSpaceError(f"{path}: expected a file to write, {error.strerror}") from None
    if not existed:
        path.unlink()
