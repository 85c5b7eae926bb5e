"""Runs inside the sanitised process: frames in exact-size memory, outcomes compared with the twin.

The frame being read is written to `last.bin` first, so that a crash leaves its cause.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from pathlib import Path
from random import Random

from benchmarks import frames as generated
from coinspace._ext import parser as compiled
from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
LAST = Path("last.bin")

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


class Reader:
    """One exchange's parser, fed from memory that ends with the frame's last byte."""

    def __init__(self, exchange: str, capacity: int) -> None:
        self.exchange = exchange
        self.capacity = capacity
        kind = {"upbit": UpbitParser, "bithumb": BithumbParser, "binance": BinanceParser}[exchange]
        named = {"markets": MARKETS} if exchange == "binance" else {}
        self.parser = kind(capacity, **named)
        self.last = os.open(LAST, os.O_WRONLY | os.O_CREAT)

    def check(self, frame: bytes) -> None:
        os.ftruncate(self.last, 0)
        os.pwrite(self.last, frame, 0)
        size = len(frame)
        memory = libc.malloc(size)
        ctypes.memmove(memory, frame, size)
        got = self.parser.decode((ctypes.c_char * size).from_address(memory))
        libc.free(memory)
        expected = twin.decode(self.exchange, frame, MARKETS, self.capacity)
        assert twin.shown(got) == twin.shown(expected), (self.exchange, frame, got, expected)


def cuts(reader: Reader) -> int:
    """Read every prefix of one frame of each kind; none may be taken for a message."""
    done = 0
    for kind in generated.KINDS:
        if not kind.startswith(reader.exchange):
            continue
        whole = generated.frames(kind, 1)[0]
        reader.check(whole)
        for size in range(len(whole)):
            reader.check(whole[:size])
            assert reader.parser.kind == 0
            assert reader.parser.decode(whole[:size])[0]["kind"] == "malformed"
            done += 1
    return done


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--overread", action="store_true", help="read one byte too many")
    options = arguments.parse_args()
    if options.overread:
        ctypes.string_at(libc.malloc(7), 8)
    assert "asan" in str(Path(compiled.__file__)), compiled.__file__
    readers = [Reader(exchange, 4) for exchange in ("upbit", "bithumb", "binance")]
    done = sum(cuts(reader) for reader in readers)
    rng = Random(options.seed)
    end = time.monotonic() + options.seconds
    while time.monotonic() < end:
        for reader in readers:
            reader.check(mutate.frame(reader.exchange, rng))
            done += 1
    print(f"{done} frames, seed {options.seed}")


if __name__ == "__main__":
    main()
