"""Instructions and allocations of one frame: counts, so they do not depend on the machine's load.

`instructions` runs the cases below under callgrind, `allocations` under a malloc counter, each in a
process of its own whose counting starts after a warm-up pass. Instructions need valgrind with its
headers (Debian: valgrind), both need a C compiler; `missing()` names what is missing.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import orjson
import zmq

from benchmarks.native import FOLDER, compiled

HEADERS = (Path("/usr/include"), Path("/usr/local/include"))
TIMEOUT_S = 600
# frames counted after the warm-up
PASSES = 16
# one Python object more or less in the interpreter's own work
COUNT_SLACK = 0.02
# the loop that calls the parser: its count is taken from the others'
LOOP = "loop alone"

# name -> (frames, a pass over them)
Case = tuple[int, Callable[[], object]]


def cases() -> dict[str, Case]:
    """Return what is counted: frames through parser, book and bus."""
    from benchmarks.bench_index import passes, variants
    from benchmarks.books import collected
    from benchmarks.frames import diffs, each, frames
    from coinspace._ext.binance import BinanceParser
    from coinspace._ext.bithumb import BithumbParser
    from coinspace._ext.upbit import UpbitParser

    makers = {"upbit": UpbitParser, "bithumb": BithumbParser, "binance": BinanceParser}
    made: dict[str, Case] = {}
    for kind in (
        "upbit-book",
        "upbit-book-simple",
        "bithumb-book",
        "binance-depth20",
        "binance-diff",
        "upbit-trade",
        "binance-trade",
        "upbit-ticker",
        "binance-ticker",
    ):
        batch = frames(kind)
        made[f"parse {kind}"] = len(batch), each(makers[kind.split("-")[0]]().parse, batch)
    # ids so small that Python caches them: each pass returns one
    updates = diffs(first=2)
    made["book binance-diff"] = len(updates), collected(updates)[1]
    made["bus upbit-book-simple"] = _bus()
    for levels in (30, 1000):
        made[f"index 3 × {levels}"] = variants(3, levels), passes(3, levels)
    made[LOOP] = 64, each(callable, frames("upbit-book"))
    return made


def _bus() -> Case:
    """Whole books parsed, kept and published over ipc to a subscriber, who reads after each pass.

    libzmq's own thread does what the sockets leave to it; its calls are counted apart.
    """
    from benchmarks.books import RECEIVED_NS
    from benchmarks.frames import frames
    from benchmarks.native import limits
    from coinspace._ext.collector_book import BookCollector, BookMarket
    from coinspace._ext.publisher import ZmqSink
    from coinspace._ext.upbit import UpbitParser

    class Collector(BookCollector):
        def on_condition(self, market: BookMarket, condition: int, received_ns: int) -> None:
            """Take whole books as they come."""

    folder = tempfile.TemporaryDirectory(prefix="cs-")
    context = zmq.Context[zmq.Socket[bytes]].instance()
    ours, theirs = context.socket(zmq.PUB), context.socket(zmq.SUB)
    # a sender without pauses learns late that the queue is empty again
    ours.sndhwm = theirs.rcvhwm = 100_000
    ours.bind(f"ipc://{folder.name}/counts.ipc")
    theirs.subscribe(b"")
    theirs.connect(f"ipc://{folder.name}/counts.ipc")
    sink = ZmqSink(RECEIVED_NS, ours.underlying)
    market = BookMarket(0, "KRW-BTC", "BTC/KRW", sink.topic(b"orderbook.upbit.BTC/KRW."), 30)
    collector = Collector(UpbitParser(), sink, [market], updates=False)
    receiver = limits().counting_receiver(theirs.underlying)
    # in order of their times, as they arrive
    batch = sorted(frames("upbit-book-simple"), key=lambda frame: frame.split(b'"tms":')[1][:13])
    feed = collector.on_frame

    def run() -> None:
        market.forget()
        for frame in batch:
            feed(frame, RECEIVED_NS)
        missing = len(batch)
        while missing:
            missing -= receiver.drain(1)

    # what is published before the subscription has arrived is not sent
    while not receiver.drain(1):
        market.forget()
        feed(batch[0], RECEIVED_NS)
        time.sleep(0.005)
    time.sleep(0.05)
    receiver.drain(256)
    # kept as long as the sockets
    run.__dict__["kept"] = ours, theirs, folder
    return len(batch), run


def missing(tool: str) -> str | None:
    """Return why a count is impossible here, or None. tool: instructions, allocations."""
    if not (shutil.which("gcc") or shutil.which("cc")):
        return "no C compiler (Debian: apt-get install gcc)"
    if sys.platform != "linux":
        return f"expected linux, was {sys.platform}"
    if tool == "instructions":
        if not shutil.which("valgrind"):
            return "no valgrind (Debian: apt-get install valgrind)"
        if not any((folder / "valgrind/callgrind.h").exists() for folder in HEADERS):
            return "no valgrind/callgrind.h (Debian: apt-get install valgrind)"
    return None


def _compiled(name: str) -> Path:
    return compiled(f"{name}.c", shutil.which("gcc") or "cc", "-O2", "-ldl")


def _child(tool: str, library: Path, prefix: list[str], extra: dict[str, str]) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "benchmarks.counts", tool, str(library)],
        env={**os.environ, "PYTHONHASHSEED": "0", **extra},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"counting {tool}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


@cache
def counted_instructions() -> dict[str, float]:
    """Return `instructions`, counted once a process."""
    return instructions()


def instructions() -> dict[str, float]:
    """Return instructions per frame of each case, without those of the loop around it."""
    library = _compiled("callgrind")
    for old in FOLDER.glob("callgrind.out*"):
        old.unlink()
    prefix = [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--collect-atstart=no",
        f"--callgrind-out-file={FOLDER.resolve() / 'callgrind.out'}",
    ]
    # PYTHONMALLOC=malloc is not set: pymalloc is what runs in production
    events = orjson.loads(_child("instructions", library, prefix, {}))
    counted: dict[str, float] = {}
    for path in FOLDER.glob("callgrind.out.*"):
        text = path.read_text(errors="replace")
        name = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.M)
        total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
        if name and total:
            counted[name[1]] = int(total[1]) / events[name[1]]
    loop = counted.pop(LOOP)
    return {name: count - loop for name, count in counted.items()}


def allocations() -> dict[str, tuple[float, float]]:
    """Return calls of malloc, calloc and realloc per frame: (by our thread, by other threads)."""
    library = _compiled("allocations")
    extra = {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc"}
    counted = orjson.loads(_child("allocations", library, [], extra))
    loop, _ = counted.pop(LOOP)
    return {name: (own - loop, others) for name, (own, others) in counted.items()}


def _count_instructions(library: ctypes.CDLL) -> None:
    events = {}
    for name, (n, run) in cases().items():
        run()
        label = name.encode()
        library.start_counting()
        for _ in range(PASSES):
            run()
        library.stop_counting(label)
        events[name] = n * PASSES
    print(orjson.dumps(events).decode())


def _count_allocations(library: ctypes.CDLL) -> None:
    library.stop_counting.restype = ctypes.c_long
    library.stop_counting.argtypes = [ctypes.POINTER(ctypes.c_long)]
    others, result = ctypes.c_long(), {}
    pointer = ctypes.byref(others)
    for name, (n, run) in cases().items():
        run()
        run()
        library.start_counting()
        for _ in range(PASSES):
            run()
        own = library.stop_counting(pointer)
        result[name] = (own / n / PASSES, others.value / n / PASSES)
    print(orjson.dumps(result).decode())


if __name__ == "__main__":
    import gc

    gc.disable()
    counter = {"instructions": _count_instructions, "allocations": _count_allocations}[sys.argv[1]]
    counter(ctypes.CDLL(sys.argv[2]))
