"""End to end: frames from a socket, parsed, kept as a book, published, received by a subscriber.

The same server sends the same frames to each pipeline, one after the other in rotating order; what
counts is the CPU time of the collecting process per frame, libzmq's thread and everything else in
it included. Ours is the collector process as users run it, its journal and health file on, and
once more without the journal, which no peer has.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvloop

from benchmarks.frames import INPUT, frames
from benchmarks.measure import Result
from benchmarks.native import limits
from benchmarks.processes import (
    ENVIRONMENT,
    bus_endpoint,
    cpu_ns,
    ended,
    report_of,
    running,
    streaming,
    upbit_at,
)
from benchmarks.stream import framed
from coinspace._ext.message import Message
from coinspace._ext.upbit import UpbitParser
from coinspace.bench.measure import OURS, compare, interleaved
from coinspace.bus.subscriber import Subscriber

# cryptofeed asks Upbit for this format, so all are sent it
KIND = "upbit-book-simple"
PROCESS = "orderbook-collector-upbit"
ROUNDS = 9
WARM_UP = 5_000
WINDOW_S = 1.5
START_TIMEOUT_S = 20.0
# of a message with 30 levels a side
PAYLOAD_SIZE = 30 * 4 * 8

DOCUMENTED = "orjson + numpy + send_multipart"
LIMIT = "summed stage limits"
CRYPTOFEED = "cryptofeed with its ZMQ backend"
NO_JOURNAL = f"{OURS} without its journal"


async def read(endpoint: str, pid: int) -> float:
    """Subscribe, wait for the flow, measure a window. Returns: CPU ns of the process a message.

    Raises: AssertionError when messages were lost, which would make the run cheaper than it is.
    """
    last, received = 0, 0

    def on_message(message: Message) -> None:
        nonlocal last, received
        last, received = message.sequence, received + 1

    subscriber = Subscriber([endpoint], [b"orderbook."], on_message)
    subscriber.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while received < WARM_UP:
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected {WARM_UP} messages, was {received}")
        await asyncio.sleep(0.02)
    first, cpu = last, cpu_ns(pid)
    await asyncio.sleep(WINDOW_S)
    cpu = cpu_ns(pid) - cpu
    missed = subscriber.counters()["missed"]
    subscriber.close()
    assert missed == 0, f"{missed} messages lost"
    return cpu / (last - first)


def ours(port: int, **environment: str) -> float:
    """Run our pipeline once; returns CPU ns per frame."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        environment |= upbit_at(port, folder)
        environment["COINSPACE_BUS__HIGH_WATER_MARK"] = "1000000"
        with running([["coinspace", "orderbook-collector", "upbit"]], environment) as [process]:
            return uvloop.run(read(bus_endpoint(folder, PROCESS), process.pid))


@contextlib.contextmanager
def drained(endpoint: str, way: str) -> Iterator[Callable[[], int]]:
    """Run a subscriber that drops messages; yields a function that ends and counts them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.pipelines", "drain", endpoint, "30", way],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )

    def count() -> int:
        process.terminate()
        return int(process.communicate(timeout=START_TIMEOUT_S)[0])

    try:
        yield count
    finally:
        ended(process)


def cost_of(report: dict[str, Any], received: int) -> float:
    """Return CPU ns per frame of a pipeline whose messages have arrived.

    Raises: AssertionError when messages were lost, which would make the run cheaper than it is.
    """
    # more messages were sent than in the window, some of them before the subscriber was connected
    assert received >= report["frames"], f"{report['frames']} frames, {received} messages"
    return float(report["cpu_ns"])


def other(*command: str) -> float:
    """Run another pipeline of `pipelines` with a subscriber; "ENDPOINT" is replaced by its own."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        endpoint = f"ipc://{folder}/peer.ipc"
        arguments = [endpoint if one == "ENDPOINT" else one for one in command]
        with drained(endpoint, "connect") as count:
            return cost_of(report_of("benchmarks.pipelines", *arguments), count())


def cryptofeed(port: int) -> float:
    """Run cryptofeed's pipeline; returns CPU ns per frame."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        endpoint = f"ipc://{folder}/peer.ipc"
        with drained(endpoint, "bind") as count:
            report = report_of("benchmarks.peers.pipeline", str(port), endpoint)
            return cost_of(report, count())


def stage_limits(port: int, frame_size: int) -> float:
    """Return the sum of the steps' costs: receive, parse in C, libzmq in C."""
    receive = report_of("benchmarks.receivers", "raw uvloop protocol", str(port), str(frame_size))
    batch, parser, parse_all = frames(KIND), UpbitParser(), limits().parse_all
    parse = compare({"": lambda: parse_all(parser, batch)}, events=len(batch), rounds=5).least("")
    send = other("libzmq", "ENDPOINT", str(PAYLOAD_SIZE))
    return float(receive["cpu_ns"]) + parse + send


def measure(*, peers: bool = False) -> Result:
    """Measure all pipelines. Args: peers: with cryptofeed's."""
    limits()
    sizes = [len(framed(frame)) for frame in frames(KIND)]
    size = sum(sizes) // len(sizes)
    with streaming(KIND) as port:
        candidates: dict[str, Callable[[], float]] = {
            OURS: lambda: ours(port),
            NO_JOURNAL: lambda: ours(port, COINSPACE_JOURNAL__ENABLED="false"),
            DOCUMENTED: lambda: other("documented", str(port), "ENDPOINT"),
            LIMIT: lambda: stage_limits(port, size),
        }
        if peers:
            candidates[CRYPTOFEED] = lambda: cryptofeed(port)
        timing = interleaved(candidates, ROUNDS)
    case = "socket → parse → book → bus → subscriber" + (", cryptofeed" if peers else "")
    result = Result("end to end", case, "CPU ns/frame", f"{INPUT}, Upbit SIMPLE, {size} B", timing)
    result.note = (
        f"{OURS} writes each message into its journal first, as it does by default; no peer writes"
        " anything down. The gates compare the same work, ours without its journal; the table and"
        " the figures below it are with it."
    )
    same = "neither with a journal"
    faster = timing.ratio(DOCUMENTED, NO_JOURNAL)
    result.check(f"× faster than {DOCUMENTED}, {same}", faster, gate=10 if peers else 12)
    if peers:
        result.command = "make bench-peers"
        faster = timing.ratio(CRYPTOFEED, NO_JOURNAL)
        result.check(f"× faster than {CRYPTOFEED}, {same}", faster, gate=35, goal=100)
    result.share(LIMIT)
    share = timing.ratio(LIMIT, NO_JOURNAL)
    result.check(f"of {LIMIT}'s rate, {same}", share, gate=0.65, goal=0.8)
    return result


def measure_peers() -> Result:
    """Measure all pipelines, cryptofeed's too."""
    return measure(peers=True)
