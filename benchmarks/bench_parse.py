"""A frame's bytes to float64 arrays or fields, called from Python, beside JSON libraries.

Parsing is the first work on every message of every exchange: on two cores it decides how many
markets one collector can follow. A ratio that falls means that the scanner's templates miss (only
books have some: `template_misses`, asserted 0 there) or that a change added work per number.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks import ondemand
from benchmarks.frames import BINARY_KINDS, COUNT, INPUT, SEED, each, frames, upbit_book
from benchmarks.measure import Bench, Result, gated, growth
from benchmarks.peers import arrays
from coinspace._ext.binance import BinanceParser
from coinspace._ext.binance_sbe import BinanceSbeParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.message import TICKER_NAMES
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser
from coinspace.bench.measure import OURS, compare

STAGE = "parse"
PARSERS: dict[str, type[Parser]] = {
    "upbit": UpbitParser,
    "bithumb": BithumbParser,
    "binance": BinanceParser,
}
LOADS = "orjson.loads"
ONDEMAND = "simdjson On-Demand"
ARRAYS = "orjson → arrays"
# arrays are left in the parser, where the collectors read them; these are copied to numpy's
TAKEN = f"{OURS}, arrays taken"
DEFAULT = "upbit-book"
Bounds = tuple[float, float] | None
# kind -> (gate, goal) over orjson.loads, orjson to arrays and On-Demand, a loop in C++ while ours
# is called from Python
KOREAN = ((6.5, 9), (13, 20), (2.2, 3))
BOOKS: dict[str, tuple[Bounds, Bounds, Bounds]] = {
    DEFAULT: KOREAN,
    "upbit-book-simple": KOREAN,
    "bithumb-book": KOREAN,
    "binance-depth20": (None, (30, 45), None),
    "binance-diff": (None, (30, 45), None),
}
# the ratios of DEFAULT apply, too
SHARED = ("upbit-book-simple", "bithumb-book")
FIELDS = {
    "upbit-trade": (5, 10),
    "binance-trade": (5, 10),
    "upbit-ticker": (4, 8),
    "binance-ticker": (4, 8),
}
# the same content in JSON, by our parser; (gate, goal)
JSON = "the same in JSON"
BINARY = {
    "binance-sbe-diff": (1.5, 3),
    "binance-sbe-trade": (1.2, 2),
    "binance-sbe-top": (1.2, 2),
}
UNITS = (5, 15, 30, 60, 120, 240)


def parser(kind: str) -> Parser:
    return PARSERS[kind.split("-")[0]]()


def book_reader(kind: str, loads: Callable[[bytes], Any]) -> Callable[[bytes], arrays.Book]:
    if kind.startswith("binance"):
        return arrays.binance_book(loads, kind.endswith("diff"))
    return arrays.korean_book(loads, kind.endswith("simple"))


@pytest.mark.parametrize("kind", BOOKS)
def test_books(bench: Bench, kind: str) -> None:
    batch, ours = frames(kind), parser(kind)
    readers = {ARRAYS: book_reader(kind, orjson.loads)}
    if kind in (DEFAULT, "bithumb-book"):
        readers["msgspec typed → arrays"] = arrays.korean_msgspec
    for reader in readers.values():
        for frame in batch:
            bids, asks = reader(frame)
            ours.parse(frame)
            if not kind.endswith("diff"):
                # levels of size 0 are no levels of a whole book
                bids, asks = bids[:, bids[1] > 0], asks[:, asks[1] > 0]
            np.testing.assert_array_equal(bids, ours.bids)
            np.testing.assert_array_equal(asks, ours.asks)

    def taken(frame: bytes) -> object:
        ours.parse(frame)
        return ours.bids, ours.asks

    def measure() -> Result:
        passes: dict[str, Callable[[], object]] = {
            name: each(reader, batch) for name, reader in readers.items()
        }
        if ondemand.missing() is None:
            passes[ONDEMAND] = ondemand.reader(kind, batch)
        timing = compare(
            {
                OURS: each(ours.parse, batch),
                TAKEN: each(taken, batch),
                LOADS: each(orjson.loads, batch),
                **passes,
            },
            events=len(batch),
        )
        result = Result(STAGE, kind, "ns/frame", INPUT, timing)
        if reason := ondemand.missing():
            result.note = f"{ONDEMAND} not measured: {reason}"
        for name, bounds in zip((LOADS, ARRAYS, ONDEMAND), BOOKS[kind], strict=True):
            if bounds and name in timing.ns:
                result.ratio(name, gate=bounds[0], goal=bounds[1])
        result.same = dict.fromkeys(readers, TAKEN)
        result.figures["bytes per frame"] = sum(map(len, batch)) / len(batch)
        return result

    gated(bench, measure)
    assert ours.malformed == 0
    assert ours.template_misses == 0


@pytest.mark.parametrize("kind", SHARED)
def test_share_of_default(bench: Bench, kind: str) -> None:
    """The other Korean formats keep DEFAULT's distance from the libraries: all in one run."""
    batches = {one: frames(one) for one in (DEFAULT, kind)}

    def measure() -> Result:
        passes: dict[str, Callable[[], object]] = {}
        for one, batch in batches.items():
            passes[f"{OURS}, {one}"] = each(parser(one).parse, batch)
            passes[f"{LOADS}, {one}"] = each(orjson.loads, batch)
            passes[f"{ARRAYS}, {one}"] = each(book_reader(one, orjson.loads), batch)
            if ondemand.missing() is None:
                passes[f"{ONDEMAND}, {one}"] = ondemand.reader(one, batch)
        timing = compare(passes, events=COUNT)
        result = Result(STAGE, f"{kind} beside {DEFAULT}", "ns/frame", INPUT, timing)

        def share(name: str) -> float:
            own = timing.ratios(f"{name}, {kind}", f"{OURS}, {kind}")
            default = timing.ratios(f"{name}, {DEFAULT}", f"{OURS}, {DEFAULT}")
            return statistics.median(a / b for a, b in zip(own, default, strict=True))

        for name in (LOADS, ARRAYS, ONDEMAND):
            if f"{name}, {kind}" in timing.ns:
                what = f"share of DEFAULT's ratio over {name}"
                result.check(what, share(name), gate=0.85, goal=1)
        return result

    gated(bench, measure)


@pytest.mark.parametrize("kind", FIELDS)
def test_fields(bench: Bench, kind: str) -> None:
    batch, ours = frames(kind), parser(kind)
    binance = kind.startswith("binance")

    def reader(loads: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        if kind.endswith("ticker"):
            return arrays.ticker(loads, binance)
        return arrays.binance_trade(loads) if binance else arrays.korean_trade(loads)

    read = reader(orjson.loads)
    for frame in batch:
        [message] = ours.decode(frame)
        if kind.endswith("trade"):
            assert read(frame) == (message["price"], message["size"], message["trade_id"])
        else:
            pairs = zip(TICKER_NAMES, read(frame).tolist(), strict=False)
            read_too = {name: value for name, value in pairs if name in message}
            assert read_too == {name: message[name] for name in read_too}
            assert "change" in read_too

    def measure() -> Result:
        passes = {
            OURS: each(ours.parse, batch),
            LOADS: each(orjson.loads, batch),
            "orjson → fields": each(read, batch),
        }
        timing = compare(passes, events=len(batch))
        result = Result(STAGE, kind, "ns/frame", INPUT, timing)
        gate, goal = FIELDS[kind]
        result.ratio("orjson → fields", gate=gate, goal=goal)
        return result

    gated(bench, measure)
    assert ours.malformed == 0


@pytest.mark.parametrize("kind", BINARY_KINDS)
def test_binary(bench: Bench, kind: str) -> None:
    """The binary form of a frame beside its JSON, both by CoinSpace's parsers."""
    batch, texts = frames(kind), frames(BINARY_KINDS[kind])
    ours, theirs = BinanceSbeParser(), BinanceParser()

    def measure() -> Result:
        timing = compare(
            {OURS: each(ours.parse, batch), JSON: each(theirs.parse, texts)}, events=len(batch)
        )
        result = Result(STAGE, kind, "ns/frame", INPUT, timing)
        gate, goal = BINARY[kind]
        result.ratio(JSON, gate=gate, goal=goal)
        result.figures["bytes per frame"] = sum(map(len, batch)) / len(batch)
        result.figures["bytes in JSON"] = sum(map(len, texts)) / len(texts)
        return result

    gated(bench, measure)
    assert ours.malformed == theirs.malformed == 0


def test_growth_in_levels(bench: Bench) -> None:
    """The cost of a book grows no faster than its levels."""
    rng = random.Random(SEED)
    batches = {n: [upbit_book(rng, units=n).encode() for _ in range(64)] for n in UNITS}
    ours = UpbitParser()

    def measure() -> Result:
        passes = {f"{n} units": each(ours.parse, batch) for n, batch in batches.items()}
        timing = compare(passes, events=64, slot_ns=1_000_000)
        result = Result(STAGE, "growth in levels", "ns/frame", INPUT, timing)
        costs = [timing.least(f"{n} units") for n in UNITS]
        result.check("exponent", growth(UNITS, costs), gate=1.0, goal=0.9, better="lower")
        return result

    gated(bench, measure)
