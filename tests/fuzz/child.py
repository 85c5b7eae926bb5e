"""Runs inside the sanitised process: frames in exact-size memory, outcomes compared with the twin.

The frame being read is written to `last.bin` first, so that a crash leaves its cause.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import time
from pathlib import Path
from random import Random

import numpy as np

from benchmarks import frames as generated
from coinspace._ext import parser as compiled
from coinspace._ext.binance import BinanceParser
from coinspace._ext.binance_sbe import BinanceSbeParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.coinone import CoinoneParser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
PARSERS = {
    "upbit": UpbitParser,
    "bithumb": BithumbParser,
    "binance": BinanceParser,
    "binance-sbe": BinanceSbeParser,
    "coinone": CoinoneParser,
}
LAST = Path("last.bin")
# of the table in edges.c
EDGES = 65_536
# a bit per power of two
BUCKETS = np.array([1 << (count.bit_length() - 1) if count else 0 for count in range(256)], "u1")
# bytes of a frame that is changed again and again
LONGEST = 4096

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]


class Reader:
    """One exchange's parser, fed from memory that ends with the frame's last byte."""

    def __init__(self, exchange: str, capacity: int) -> None:
        self.exchange = exchange
        self.capacity = capacity
        kind = PARSERS[exchange]
        named = {"markets": MARKETS} if exchange.startswith("binance") else {}
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
    """Read every prefix of one frame of each kind; none may be read as a message."""
    done = 0
    for kind in generated.kinds_of(reader.exchange):
        whole = generated.frames(kind, 1)[0]
        reader.check(whole)
        for size in range(len(whole)):
            reader.check(whole[:size])
            assert reader.parser.kind == 0
            assert reader.parser.decode(whole[:size])[0]["kind"] == "malformed"
            done += 1
    return done


class Guide:
    """Keeps the frames that reached new code of the parsers, to change them further.

    An edge counts as new at each power of two of its executions, as in libFuzzer.
    """

    def __init__(self, readers: list[Reader], rng: Random) -> None:
        self.rng = rng
        self.readers = readers
        # the library is preloaded, so its symbols are found in the program
        table = (ctypes.c_ubyte * EDGES).in_dll(libc, "coinspace_edges")
        self._taken = np.ctypeslib.as_array(table)
        self._seen = np.zeros(EDGES, dtype=np.uint8)
        self._kept: dict[str, list[bytes]] = {reader.exchange: [] for reader in readers}

    @property
    def kept(self) -> int:
        return sum(len(frames) for frames in self._kept.values())

    @property
    def edges(self) -> int:
        return int(np.count_nonzero(self._seen))

    def next(self, exchange: str) -> bytes:
        """Return a frame to try: one that was kept, changed, or a fresh one."""
        kept, rng = self._kept[exchange], self.rng
        if not kept or rng.random() < 0.2:
            return mutate.frame(exchange, rng)
        # recent frames lead further than old ones
        frame = kept[-1 - int(len(kept) * rng.random() ** 2)]
        if rng.random() < 0.3:
            with contextlib.suppress(ValueError, IndexError, RecursionError):
                return mutate.vary(rng, frame)
        return mutate.damage(rng, frame)[:LONGEST]

    def check(self, reader: Reader, frame: bytes) -> None:
        self._taken[:] = 0
        reader.check(frame)
        buckets = BUCKETS[self._taken]
        if np.any(buckets & ~self._seen):
            self._seen |= buckets
            self._kept[reader.exchange].append(frame)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--seed", type=int, default=20261122)
    arguments.add_argument("--overread", action="store_true", help="read one byte too many")
    options = arguments.parse_args()
    if options.overread:
        ctypes.string_at(libc.malloc(7), 8)
    assert "asan" in str(Path(compiled.__file__)), compiled.__file__
    readers = [Reader(exchange, 4) for exchange in PARSERS]
    done = sum(cuts(reader) for reader in readers)
    rng = Random(options.seed)
    end = time.monotonic() + options.seconds
    guide = Guide(readers, rng)
    while time.monotonic() < end:
        for reader in readers:
            guide.check(reader, guide.next(reader.exchange))
            done += 1
    print(f"{done} frames, seed {options.seed}, {guide.edges} edges, {guide.kept} frames kept")


if __name__ == "__main__":
    main()
