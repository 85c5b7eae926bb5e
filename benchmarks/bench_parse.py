"""A frame's bytes to float64 arrays or fields, called from Python, beside JSON libraries.

Parsing is the first work on every message of every exchange: on two cores it decides how many
markets one collector can follow. A ratio that falls means that the scanner's templates miss (see
`template_misses`, asserted 0 here) or that a change added work per number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from benchmarks import ondemand
from benchmarks.frames import INPUT, frames, upbit_book
from benchmarks.measure import OURS, Benchmark, Result, compare, gated, growth
from benchmarks.peers import arrays
from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser

STAGE = "parse"
PARSERS: dict[str, type[Parser]] = {
    "upbit": UpbitParser,
    "bithumb": BithumbParser,
    "binance": BinanceParser,
}
LOADS = "orjson.loads"
ONDEMAND = "simdjson On-Demand"
# kind -> (gate, goal) over orjson.loads and over orjson to arrays
BOOKS: dict[str, tuple[tuple[float, float] | None, tuple[float, float]]] = {
    "upbit-book": ((6.5, 9), (13, 20)),
    "upbit-book-simple": ((5.5, 9), (11, 20)),
    "bithumb-book": ((5.5, 9), (11, 20)),
    "binance-depth20": (None, (30, 45)),
    "binance-diff": (None, (30, 45)),
}
FIELDS = {
    "upbit-trade": (5, 10),
    "binance-trade": (5, 10),
    "upbit-ticker": (4, 8),
    "binance-ticker": (4, 8),
}
UNITS = (5, 15, 30, 60, 120, 240)


def each(call: Callable[[bytes], Any], batch: list[bytes]) -> Callable[[], None]:
    def run() -> None:
        for frame in batch:
            call(frame)

    return run


def parser(kind: str) -> Parser:
    return PARSERS[kind.split("-")[0]]()


def book_reader(kind: str, loads: Callable[[bytes], Any]) -> Callable[[bytes], arrays.Book]:
    if kind.startswith("binance"):
        return arrays.binance_book(loads, kind.endswith("diff"))
    return arrays.korean_book(loads, kind.endswith("simple"))


@pytest.mark.parametrize("kind", BOOKS)
def test_books(benchmark: Benchmark, kind: str) -> None:
    batch, ours = frames(kind), parser(kind)
    readers = {
        f"{name} → arrays": book_reader(kind, loads) for name, loads in arrays.LIBRARIES.items()
    }
    if kind in ("upbit-book", "bithumb-book"):
        readers["msgspec typed → arrays"] = arrays.korean_msgspec
    for reader in readers.values():
        bids, asks = reader(batch[0])
        ours.parse(batch[0])
        if not kind.endswith("diff"):
            # levels of size 0 are no levels of a whole book
            bids, asks = bids[:, bids[1] > 0], asks[:, asks[1] > 0]
        np.testing.assert_array_equal(bids, ours.bids)
        np.testing.assert_array_equal(asks, ours.asks)

    def measure(rounds: int) -> Result:
        passes: dict[str, Callable[[], object]] = {
            name: each(reader, batch) for name, reader in readers.items()
        }
        if ondemand.missing() is None:
            passes[ONDEMAND] = ondemand.reader(kind, batch)
        timing = compare(
            {OURS: each(ours.parse, batch), LOADS: each(orjson.loads, batch), **passes},
            events=len(batch),
            rounds=rounds,
        )
        result = Result(STAGE, kind, "ns/frame", INPUT, timing)
        if reason := ondemand.missing():
            result.note = f"{ONDEMAND} not measured: {reason}"
        loads, whole = BOOKS[kind]
        gate, goal = loads or (None, None)
        result.ratio(LOADS, gate=gate, goal=goal)
        result.ratio("orjson → arrays", gate=whole[0], goal=whole[1])
        for name in passes:
            if name == ONDEMAND and loads:
                # a C++ loop, while ours is called from Python
                result.ratio(name, gate=2.2 if kind == "upbit-book" else 1.9, goal=3)
            elif name != "orjson → arrays":
                result.ratio(name)
        result.figures["bytes per frame"] = sum(map(len, batch)) / len(batch)
        return result

    gated(benchmark, measure)
    assert ours.malformed == 0
    assert ours.template_misses == 0


@pytest.mark.parametrize("kind", FIELDS)
def test_fields(benchmark: Benchmark, kind: str) -> None:
    batch, ours = frames(kind), parser(kind)
    binance = kind.startswith("binance")

    def reader(loads: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        if kind.endswith("ticker"):
            return arrays.ticker(loads, binance)
        return arrays.binance_trade(loads) if binance else arrays.korean_trade(loads)

    readers = {f"{name} → fields": reader(loads) for name, loads in arrays.LIBRARIES.items()}
    ours.parse(batch[0])
    if kind.endswith("trade"):
        for read in readers.values():
            assert read(batch[0]) == (ours.price, ours.size, ours.trade_id)

    def measure(rounds: int) -> Result:
        passes = {name: each(read, batch) for name, read in readers.items()}
        timing = compare(
            {OURS: each(ours.parse, batch), LOADS: each(orjson.loads, batch), **passes},
            events=len(batch),
            rounds=rounds,
        )
        result = Result(STAGE, kind, "ns/frame", INPUT, timing)
        gate, goal = FIELDS[kind]
        result.ratio("orjson → fields", gate=gate, goal=goal)
        for name in (LOADS, *passes):
            if name != "orjson → fields":
                result.ratio(name)
        return result

    gated(benchmark, measure)
    assert ours.malformed == 0


def test_growth_in_levels(benchmark: Benchmark) -> None:
    """The cost of a book grows no faster than its levels."""
    import random

    rng = random.Random(7)
    batches = {n: [upbit_book(rng, units=n).encode() for _ in range(64)] for n in UNITS}
    ours = UpbitParser()

    def measure(rounds: int) -> Result:
        passes = {f"{n} units": each(ours.parse, batch) for n, batch in batches.items()}
        timing = compare(passes, events=64, rounds=rounds, slot_ns=1_000_000)
        result = Result(STAGE, "growth in levels", "ns/frame", INPUT, timing)
        costs = [timing.least(f"{n} units") for n in UNITS]
        result.check("exponent", growth(UNITS, costs), gate=1.0, goal=0.9, better="lower")
        return result

    gated(benchmark, measure)
