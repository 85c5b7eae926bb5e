"""Frames that exchanges have sent, from recordings: the generated ones may be kinder than they are.

Parsing and the local book, beside orjson and `sortedcontainers`, on the order books of a folder of
feeds: `make bench FEEDS=FOLDER`. Recordings are not part of the repository; without them these
benchmarks are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks.bench_book import Sorted
from benchmarks.books import Levels, best
from benchmarks.frames import each
from benchmarks.measure import OURS, Benchmark, Result, compare, gated
from benchmarks.peers import arrays
from coinspace._ext.binance import BinanceParser
from coinspace._ext.orderbook import OrderBook
from coinspace.bench.runs import Source, read_source
from coinspace.exchanges import exchange as exchange_named

# of each recording; together more than any cache of branches remembers
FRAMES = 2000
LOADS, ARRAYS, TAKEN = "orjson.loads", "orjson → arrays", f"{OURS}, arrays taken"


@cache
def read_all(folder: Path) -> list[Source]:
    return [read_source(path) for path in sorted(folder.glob("*.feed.zst"))]


def recordings(folder: Path, exchange: str) -> list[Source]:
    """Return the recordings of an exchange that hold order books; skips when there are none."""
    found = [one for one in read_all(folder) if one.exchange == exchange and one.entries]
    if not found:
        pytest.skip(f"{folder}: no *.feed.zst of {exchange} with order books: give FEEDS=FOLDER")
    return found


def books_of(source: Source) -> list[bytes]:
    """Return the frames that are one order book or update."""
    parser = exchange_named(source.exchange).parser(1000)
    kinds = ((frame, parser.decode(frame)) for frame in source.frames)
    return [frame for frame, found in kinds if [one["kind"] for one in found] == ["orderbook"]]


def reader(source: Source, frame: bytes) -> Callable[[bytes], arrays.Book]:
    """Return the reader of this recording's books with orjson."""
    if source.exchange == "binance":
        return arrays.binance_book(orjson.loads, b'"depthUpdate"' in frame)
    return arrays.korean_book(orjson.loads, b'"obu"' in frame)


@pytest.mark.parametrize("exchange", ["upbit", "binance"])
def test_parse(benchmark: Benchmark, feeds: Path, exchange: str) -> None:
    batch: list[bytes] = []
    readers: list[Callable[[], None]] = []
    found = recordings(feeds, exchange)
    ours = exchange_named(exchange).parser(1000)
    for source in found:
        frames = books_of(source)[:FRAMES]
        read = reader(source, frames[0])
        for frame in frames:
            bids, asks = read(frame)
            ours.parse(frame)
            # a side without levels is an array without a shape there
            np.testing.assert_array_equal(bids.reshape(2, -1), ours.bids)
            np.testing.assert_array_equal(asks.reshape(2, -1), ours.asks)
        batch += frames
        readers.append(each(read, frames))

    def taken(frame: bytes) -> Any:
        ours.parse(frame)
        return ours.bids, ours.asks

    def read_each() -> None:
        for run in readers:
            run()

    def measure(rounds: int) -> Result:
        timing = compare(
            {
                OURS: each(ours.parse, batch),
                TAKEN: each(taken, batch),
                LOADS: each(orjson.loads, batch),
                ARRAYS: read_each,
            },
            events=len(batch),
            rounds=rounds,
        )
        names = ", ".join(source.path for source in found)
        case = f"recorded books of {exchange}"
        result = Result("parse", case, "ns/frame", f"{len(batch):,} frames of {names}", timing)
        result.same[ARRAYS] = TAKEN
        result.ratio(LOADS)
        result.ratio(ARRAYS)
        result.check(
            f"× faster than {ARRAYS}, both in arrays of numpy", timing.ratio(ARRAYS, TAKEN)
        )
        result.figures["bytes per frame"] = sum(map(len, batch)) / len(batch)
        result.figures["template misses"] = ours.template_misses
        return result

    gated(benchmark, measure)
    assert ours.malformed == 0


def updates_of(source: Source) -> tuple[Levels, Levels, list[tuple[Levels, Levels]]] | None:
    """Return a snapshot's sides and the updates behind it, of a recording of one market."""
    answers = [one.payload for one in source.records if one.path.startswith("/api/v3/depth?")]
    if len(source.entries) != 1 or len(answers) != 1:
        return None
    parser = BinanceParser(5000)
    parser.parse(answers[0])
    bids, asks, known = parser.bids, parser.asks, parser.final_update_id
    updates = []
    for frame in books_of(source):
        parser.parse(frame)
        if parser.final_update_id > known:
            updates.append((parser.bids, parser.asks))
    return bids, asks, updates


def test_book(benchmark: Benchmark, feeds: Path) -> None:
    found = [(one, updates_of(one)) for one in recordings(feeds, "binance")]
    usable = [(one.path, known) for one, known in found if known is not None]
    if not usable:
        pytest.skip(f"{feeds}: no recording of one market of Binance with its snapshot")
    name, (bids, asks, updates) = max(usable, key=lambda pair: len(pair[1][2]))
    pairs = [(b.T.tolist(), a.T.tolist()) for b, a in updates]
    book = OrderBook()

    def ours() -> None:
        book.load(bids, asks)
        apply = book.apply
        for more_bids, more_asks in updates:
            apply(more_bids, more_asks)
            best(book)

    def peer() -> Sorted:
        other = Sorted(bids, asks)
        for more_bids, more_asks in pairs:
            other.apply(more_bids, more_asks)
            other.best()
        return other

    ours()
    tops = [row.tolist() for side in book.levels() for row in side]
    assert tops == list(peer().top(book.capacity))

    def measure(rounds: int) -> Result:
        timing = compare({OURS: ours, "SortedDict": peer}, events=len(updates), rounds=rounds)
        made = f"{len(updates):,} updates of {name}, its snapshot first"
        result = Result("book", "recorded updates of binance", "ns/update", made, timing)
        result.ratio("SortedDict")
        result.figures = {
            "levels per update": sum(b.shape[1] + a.shape[1] for b, a in updates) / len(updates),
            "levels at the end": len(tops[0]) + len(tops[2]),
        }
        return result

    gated(benchmark, measure)
