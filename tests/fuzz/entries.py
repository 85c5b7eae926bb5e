"""Every place where bytes from outside come in, and mutated inputs for each of them.

The outcome of an input is a value, a refusal that the place names, or a fault of the product: any
other exception, more than STALL_S of processor time, more than MEMORY bytes that stay.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson
import zstandard

from benchmarks import frames as generated
from coinspace._ext.curve import Curve
from coinspace._ext.ladder import Ladder, VenueBook
from coinspace._ext.lines import Lines
from coinspace._ext.message import Message, encode_header
from coinspace._ext.segment import (
    SEGMENT_HEAD_SIZE,
    SegmentIndex,
    checksum64,
    messages,
    read_head,
    select,
)
from coinspace.config import load
from coinspace.endpoint.http.keys import Keys
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.values import decode_cursor, encode_cursor
from coinspace.errors import UNREADABLE, CoinSpaceError
from coinspace.exchanges import coinbase, coinone, korean
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.binance import LocalBook, rest_trade, unwrapped
from coinspace.exchanges.exchange import Request, shaped
from coinspace.method import aggregate
from coinspace.recording.format import FeedReader, decode_line
from coinspace.recording.frames import label
from coinspace.recording.tools import summarise
from coinspace.storage.read import statement
from tests.fuzz import mutate

# in memory, since a full disk is no fault of the product
FOLDER = tempfile.mkdtemp(
    prefix="coinspace-fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
STALL_S = 0.1
MEMORY = 256 << 20
EXCHANGES = ("upbit", "bithumb", "binance", "coinone", "coinbase")
# how each exchange's recorded frames become rows of REST
ROWS = {
    "upbit": korean.rest_row,
    "bithumb": korean.rest_row,
    "binance": rest_trade,
    "coinone": coinone.rest_row,
    "coinbase": coinbase.rest_row,
}
NUMBERS = (
    b"0",
    b"-1",
    b"1e400",
    b"9" * 19,
    b"9" * 30,
    b"9" * 5000,
    b"18446744073709551615",
    b"null",
)
INSERTED = (
    b"[" * 5000,
    b'{"a":' * 2000,
    b"\\u0000",
    b"\xed\xa0\x80",
    b'"',
    b"\0" * 100,
    b"\n",
    b"\r\n",
)
STATEMENTS = [
    b"select market, avg(price) from trade where price in (1, 2) sample by 1h -- x",
    b"/* x */ with a as (select 'it''s' \"b\" from (show tables)) select * from a;",
]
HEAD = b'#coinspace-feed 1 {"exchange":"binance","started_ns":1}\n'


@dataclass
class Entry:
    """One place.

    refusals: exceptions for input that it refuses. cost: how many times slower than a parser,
    so that a run gives it fewer inputs.
    """

    name: str
    seeds: list[bytes]
    take: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...] = (CoinSpaceError,)
    cost: int = 1


@dataclass
class Result:
    """Results of the inputs of one place."""

    inputs: int = 0
    values: int = 0
    longest_s: float = 0.0
    grown: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    example: bytes = b""

    def add(self, more: Result) -> None:
        """Add the results of further inputs of the place."""
        self.inputs += more.inputs
        self.values += more.values
        self.longest_s = max(self.longest_s, more.longest_s)
        self.grown += more.grown
        self.faults += more.faults
        self.example = self.example or more.example


def mutated(rng: Random, seed: bytes) -> bytes:
    """Return a seed with a few changes: bytes, numbers at their edges, what nests or ends lines."""
    way = rng.random()
    if way < 0.6:
        return mutate.damage(rng, seed)
    at = rng.randrange(len(seed) + 1)
    if way < 0.8:
        return seed[:at] + rng.choice(INSERTED) + seed[at:]
    digits = [i for i in range(len(seed)) if seed[i : i + 1].isdigit()]
    if not digits:
        return seed + seed
    start = end = rng.choice(digits)
    while end < len(seed) and seed[end : end + 1].isdigit():
        end += 1
    return seed[:start] + rng.choice(NUMBERS) + seed[end:]


def run(entry: Entry, count: int, seed: int) -> Result:
    """Give a place so many inputs."""
    rng, result = Random(f"{entry.name} {seed}"), Result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        data = entry.seeds[number % len(entry.seeds)]
        if number >= len(entry.seeds):
            data = mutated(rng, data)
        took = _timed(entry, data, result)
        if took > STALL_S:
            # the garbage collector may have run in between
            took = _timed(entry, data, Result())
        if took > STALL_S:
            result.faults[f"took longer than {STALL_S} s"] += 1
            result.example = result.example or data
        result.longest_s = max(result.longest_s, took)
    result.inputs = count
    result.grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return result


def _timed(entry: Entry, data: bytes, result: Result) -> float:
    start = time.thread_time()
    try:
        entry.take(data)
        result.values += 1
    except entry.refusals:
        pass
    except Exception as error:
        result.faults[f"{type(error).__name__}: {str(error)[:80]}"] += 1
        result.example = result.example or data
    return time.thread_time() - start


def entries() -> list[Entry]:
    """Return all places."""
    return [*_frames(), *_answers(), *_feeds(), *_bus(), *_settings()]


def _of(exchange: str) -> list[bytes]:
    kinds = [*generated.kinds_of(exchange), *generated.kinds_of(f"{exchange}-sbe")]
    return [frame for kind in kinds for frame in generated.frames(kind, 2)]


def _frames() -> list[Entry]:
    found = []
    for name in EXCHANGES:
        parser = exchange_named(name).parser(1000)
        found.append(Entry(f"frames of {name}", _of(name), parser.decode))

        def recorded(frame: bytes, name: str = name) -> None:
            label(name, frame)
            shaped([unwrapped(frame)], ROWS[name])

        found.append(Entry(f"recorded frames of {name}", _of(name), recorded, ()))
    return found


UNIT = {"ask_price": 2, "bid_price": 1, "ask_size": 1, "bid_size": 1}
KOREAN = {
    "books": [{"market": "KRW-BTC", "timestamp": 1700000000000, "orderbook_units": [UNIT] * 3}],
    "trades": [
        {
            "market": "KRW-BTC",
            "sequential_id": 17000000000000001,
            "timestamp": 1700000000000,
            "trade_price": 1.5,
            "trade_volume": 2,
            "ask_bid": "ASK",
        }
    ],
    "markets": [{"market": "KRW-BTC", "market_event": {"warning": True}, "market_warning": "NONE"}],
}
BINANCE = {
    "books": {"lastUpdateId": 5, "bids": [["1.0", "2.0"]] * 3, "asks": [["2.0", "1.0"]] * 3},
    "trades": [{"id": 1, "time": 1700000000000, "price": "1", "qty": "1", "isBuyerMaker": True}],
    "markets": {
        "symbols": [
            {"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}
        ]
    },
}


COINONE = {
    "books": {
        "result": "success",
        "id": "1701071108673001",
        "target_currency": "BTC",
        "bids": [{"price": "1", "qty": "2"}] * 3,
        "asks": [{"price": "2", "qty": "1"}] * 3,
    },
    "trades": {
        "target_currency": "BTC",
        "transactions": [
            {"id": "1701075265708001", "price": "1", "qty": "2", "is_seller_maker": False}
        ],
    },
    "markets": {
        "markets": [
            {
                "quote_currency": "KRW",
                "target_currency": "BTC",
                "trade_status": 1,
                "maintenance_status": 0,
            }
        ]
    },
}
COINBASE = {
    "books": {"bids": [["1.0", "2.0", 1]] * 3, "asks": [["2.0", "1.0", 3]] * 3, "sequence": 5},
    "trades": [
        {"trade_id": 1, "side": "buy", "size": "1", "price": "1", "time": "2026-06-19T16:43:34.5Z"}
    ],
    "markets": [coinbase.product("BTC-USD")],
}
ANSWERS: dict[str, dict[str, Any]] = {
    "upbit": KOREAN,
    "bithumb": KOREAN,
    "binance": BINANCE,
    "coinone": COINONE,
    "coinbase": COINBASE,
}


def _answers() -> list[Entry]:
    found = []
    request = Request("compare", "/x", "weight", 1, ("BTCUSDT",), 20)
    for name in EXCHANGES:
        exchange = exchange_named(name)
        answers = ANSWERS[name]
        takes: dict[str, Callable[[bytes], object]] = {
            "books": partial(exchange.read_books, request),
            "trades": partial(exchange.read_trades, request),
            "markets": exchange.read_markets,
        }
        found += [
            Entry(f"{what} by REST of {name}", [orjson.dumps(answers[what])], take, UNREADABLE)
            for what, take in takes.items()
        ]

    def local_book(data: bytes) -> None:
        book = LocalBook()
        book.restart(data)
        book.apply(data)
        book.answer(10)

    seeds = [orjson.dumps(BINANCE["books"]), *_of("binance")]
    return [*found, Entry("books of a recording", seeds, local_book, ())]


def _feeds() -> list[Entry]:
    path = Path(tempfile.mkdtemp(dir=FOLDER)) / "x.feed.zst"
    frames = b"".join(b"%d < %s\n" % (n + 1, frame) for n, frame in enumerate(_of("binance")[:4]))
    text = (
        HEAD
        + frames
        + b'9 GET /api/v3/depth?symbol=BTCUSDT {"lastUpdateId":5}\n9 ! {"mark":"gap"}\n'
    )
    compressor = zstandard.ZstdCompressor(write_checksum=True)

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        with FeedReader(path) as reader:
            orjson.dumps(summarise(reader, check=True).facts())

    lines = [*text.splitlines()[1:], b"5 <64 YWJj", b"5 > [1]"]
    return [
        Entry("plain feeds", [text], feed, cost=4),
        Entry("feeds", [compressor.compress(text) + compressor.compress(frames)], feed, cost=4),
        Entry("lines of feeds", lines, decode_line),
    ]


def _bus() -> list[Entry]:
    topic = b"orderbook.upbit.BTC/KRW."
    payload = bytes(range(64))
    header = encode_header(
        1, n_bids=2, n_asks=2, payload_size=64, epoch=5, sequence=1, published_ns=1, received_ns=1
    )

    def message(data: bytes) -> None:
        one = Message.decode(topic, data[: len(header)], data[len(header) :])
        repr(one)
        one.bids.sum()

    segment = _segment_head() + b"".join(_record(topic, header, payload) for _ in range(3))

    def journal(data: bytes) -> None:
        read_head(data[:SEGMENT_HEAD_SIZE])
        body = _checked(data[SEGMENT_HEAD_SIZE:])
        index = SegmentIndex()
        index.extend(body)
        for found in index.runs:
            select(body, found[0], 0, 1 << 62, 1 << 20)
        messages(body)

    curve, lines = Curve(0.01), Lines()

    def stored(data: bytes) -> None:
        one = Message.decode(topic, data[: len(header)], data[len(header) :])
        for write in (lines.ticker, lines.trade):
            with contextlib.suppress(CoinSpaceError):
                write(b"t,a=b ", one)
        lines.orderbook(b"t,a=b ", one, 30)
        lines.clear()

    def summed(data: bytes) -> None:
        found = aggregate.decode(data)
        for ladder in found.ladders.values():
            curve.compute(ladder, bytes([1]) * len(found.venues))
            curve.segments()
            curve.average(0, 1.0)

    return [
        Entry("bus messages", [header + payload], message, (CoinSpaceError, ValueError)),
        Entry("lines of messages", [header + payload], stored),
        Entry("aggregates", [_aggregate()], summed),
        Entry("journal segments", [segment], journal, (CoinSpaceError, ValueError)),
    ]


def _aggregate() -> bytes:
    venues = [
        aggregate.VenueFacts(f"v{number}", "upbit", "BTC/KRW", "KR", "KRW") for number in range(2)
    ]
    books: list[VenueBook | None] = []
    for number in range(2):
        book = VenueBook()
        book.load(
            np.array([[100.0 - number, 90.0], [1.0, 2.0]]),
            np.array([[101.0 + number, 110.0], [1.0, 2.0]]),
        )
        books.append(book)
    ladder = Ladder()
    ladder.merge(books, [1.0, 1.0])
    fx, ladders = aggregate.FxFacts(1400.0, "ok"), {"composite": ladder, "KRW": ladder}
    made = aggregate.Aggregate("BTC", 1, venues, fx, ladders, fx_venues=venues[:1])
    return aggregate.encode(made)[0]


def _segment_head() -> bytes:
    head = b"COINJRNL" + struct.pack("<IIqqq", 1, 0, 5, 1, 1).ljust(48, b"\0")
    return head + struct.pack("<Q", checksum64(head))


def _record(topic: bytes, header: bytes, payload: bytes) -> bytes:
    start = (16 + len(header) + len(topic) + 7) & ~7
    record = bytearray((start + len(payload) + 7) & ~7)
    record[16 : 16 + len(header)] = header
    record[16 + len(header) : 16 + len(header) + len(topic)] = topic
    record[start : start + len(payload)] = payload
    struct.pack_into("<IHH", record, 0, len(record), len(topic), 0x4A43)
    return _checked(bytes(record))


def _checked(record: bytes) -> bytes:
    # with the right checksum, without which the first check would refuse every change
    size = int.from_bytes(record[:4], "little")
    if not 16 <= size <= len(record):
        return record
    return record[:8] + struct.pack("<Q", checksum64(record[16:size])) + record[16:]


def _settings() -> list[Entry]:
    folder = Path(tempfile.mkdtemp(dir=FOLDER))

    def configuration(data: bytes) -> None:
        (folder / "c.toml").write_bytes(data)
        load(str(folder / "c.toml"))

    def keys(data: bytes) -> None:
        (folder / "keys.json").write_bytes(data)
        Keys(folder / "keys.json").find("x")

    def cursor(data: bytes) -> None:
        decode_cursor(data.decode("utf-8", "replace"), 2)

    written = folder / "made.json"
    Keys(written).new("name", "reader")
    toml = b'[index]\ninterval_ms = 200\n[exchanges.binance]\nmarkets = ["BTC/USDT"]\ndepth = 20\n'
    return [
        Entry("configuration", [toml], configuration, cost=20),
        Entry("key files", [written.read_bytes()], keys, cost=4),
        Entry(
            "statements", STATEMENTS, lambda data: statement.check(data.decode("utf-8", "replace"))
        ),
        Entry("cursors", [encode_cursor(5, 7).encode()], cursor, (Problem,)),
    ]
