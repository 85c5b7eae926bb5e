"""simdjson's On-Demand API on our frames, compiled against the simdjson of the system."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.native import compiled

HEADERS = (Path("/usr/include/simdjson.h"), Path("/usr/local/include/simdjson.h"))
NUMBERS = 4096
KEYS = {
    "upbit-book": (b"orderbook_units", b"ask_price", b"bid_price", b"ask_size", b"bid_size"),
    "upbit-book-simple": (b"obu", b"ap", b"bp", b"as", b"bs"),
    "bithumb-book": (b"orderbook_units", b"ask_price", b"bid_price", b"ask_size", b"bid_size"),
    "binance-depth20": (b"bids", b"asks"),
    "binance-diff": (b"b", b"a"),
}


class Frame(ctypes.Structure):
    """As in ondemand.cpp."""

    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


def missing() -> str | None:
    """Return why it cannot be measured here, None if it can."""
    if not shutil.which("g++"):
        return "no C++ compiler (Debian: apt-get install g++)"
    if not any(header.exists() for header in HEADERS):
        return "no simdjson.h (Debian: apt-get install libsimdjson-dev)"
    return None


def reader(kind: str, frames: list[bytes]) -> Callable[[], int]:
    """Return one pass in C over order book frames: every price and size as a double.

    The pass returns the numbers read. Call it only when `missing()` is None.
    """
    # built for this processor: simdjson picks its best kernel
    library = compiled("ondemand.cpp", "g++", "-O3", "-march=native", "-lsimdjson")
    loaded = ctypes.CDLL(str(library))
    keys = KEYS[kind]
    call = loaded.sides_of_all if len(keys) == 2 else loaded.units_of_all
    call.restype = ctypes.c_long
    batch = (Frame * len(frames))(*[Frame(frame, len(frame)) for frame in frames])
    out = (ctypes.c_double * NUMBERS)()
    count = ctypes.c_size_t(len(frames))

    def run() -> int:
        return int(call(batch, count, *keys, out))

    return run
