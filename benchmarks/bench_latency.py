"""From an exchange's frame to the index value on the bus, at 2,000 frames a second, interval 0.

The chain: paced server → WebSocket → collector → bus → aggregator → bus → calculator → bus → here,
three ZMQ hops and a socket. Beside it, in turn, as many bare ZMQ hops: processes that only pass a
message of the same size on. Default settings and tuned ones alternate. Times are wall-clock ns of
one machine; the database is left out, and the calculator starts without it.

Throughput hides waiting: a loop that polls, a late timer, a hop that wakes a sleeping process.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import uvloop
import zmq

from benchmarks.measure import Bench, Result, gated
from benchmarks.pipeline import PAYLOAD_SIZE
from benchmarks.processes import bus_endpoint, running, streaming, upbit_at
from benchmarks.stream import PACED_BASE_MS
from coinspace._ext.message import AGGREGATE, INDEX, ORDERBOOK, Message
from coinspace.bench.measure import interleaved
from coinspace.bus.subscriber import Subscriber

RATE = 2_000
# an odd number: the median of the runs is one of them
ROUNDS = 3
HOPS = 3
WARM_UP_S = 2.0
WINDOW_S = 5.0
# the calculator waits for a database's records for 20 s, then begins without
START_TIMEOUT_S = 45.0
PROCESSES = ("orderbook-collector upbit", "orderbook-aggregator", "index-calculator")
# gate: the most of any machine; goal
BOUNDS = {"p50": (3.2, 1.5), "p99": (None, 2.0)}
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
# the parts of the way: to a process's publishing, and to the arrival here
LEGS = ("collector", "aggregator", "calculator", "subscriber")
SHAPES = ("default", "tuned", "bare hops")


def tuning() -> dict[str, str]:
    """Return the tuned settings for this machine's processors."""
    cpus = sorted(os.sched_getaffinity(0))
    first, last = cpus[0], cpus[-1]
    found = {
        "COINSPACE_TUNING__GC": "off",
        "COINSPACE_TUNING__CPUS": f'{{"orderbook-*": [{first}], "index-calculator": [{last}]}}',
        "COINSPACE_TUNING__BUSY_POLL_US": "50",
    }
    if os.geteuid() == 0:
        found["COINSPACE_TUNING__NICE"] = "-10"
    if len(cpus) >= 2 * len(PROCESSES):
        # with fewer, processes that never sleep would slow each other
        found["COINSPACE_TUNING__SPIN"] = '["orderbook-*", "index-calculator"]'
    return found


def _near(known: dict[int, int], ts_ns: int) -> int | None:
    near = (ts_ns // 1000 + i for i in (0, 1, -1))
    return next((known[us] for us in near if us in known), None)


class Arrivals:
    """Messages that the harness receives: books of numbered frames, and index values of them."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}  # receipt at the collector, µs -> number of the frame
        self.values: list[tuple[int, int]] = []  # tick, arrival of its index value
        # of a message: tick in µs -> ns when it was published
        self.published: dict[int, dict[int, int]] = {ORDERBOOK: {}, AGGREGATE: {}, INDEX: {}}

    def on_message(self, message: Message) -> None:
        if message.kind in self.published:
            self.published[message.kind][message.received_ns // 1000] = message.published_ns
        if message.kind == ORDERBOOK:
            number = message.exchange_ns // 1_000_000 - PACED_BASE_MS
            self.numbers[message.received_ns // 1000] = number
        elif message.kind == INDEX:
            self.values.append((message.received_ns, time.time_ns()))

    def number_at(self, ts_ns: int) -> int | None:
        """Return the frame received at a tick's time, which a record has in ms as a double."""
        return _near(self.numbers, ts_ns)

    def legs(self, sent_ns: Sequence[int]) -> dict[str, float]:
        """Return the median µs of each part of the way, a hop before each process included."""
        found: dict[str, list[int]] = {name: [] for name in LEGS}
        for ts_ns, arrived_ns in self.values:
            number = self.number_at(ts_ns)
            times = [_near(known, ts_ns) for known in self.published.values()]
            if number is None or number >= len(sent_ns) or None in times:
                continue
            way = [sent_ns[number], *(one for one in times if one is not None), arrived_ns]
            for name, begin, end in zip(LEGS, way, way[1:], strict=False):
                found[name].append(end - begin)
        return {name: statistics.median(ns) / 1000 for name, ns in found.items() if ns}

    def latencies(self, sent_ns: Sequence[int]) -> list[int]:
        """Return the ns from the sending of each frame to the first index value that contains it.

        One tick may contain several frames; each one's wait counts. The frames are those
        between the window's first value and its last one.
        """
        found = []
        known = -1
        for ts_ns, arrived_ns in self.values:
            number = self.number_at(ts_ns)
            if number is None or number >= len(sent_ns):
                continue
            if known >= 0:
                found += [arrived_ns - sent_ns[i] for i in range(known + 1, number + 1)]
            known = max(known, number)
        return found


async def collect(endpoints: list[str], topics: Sequence[bytes]) -> Arrivals:
    """Wait for the first index value, warm up, measure a window."""
    arrivals = Arrivals()
    subscriber = Subscriber(endpoints, topics, arrivals.on_message)
    subscriber.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not arrivals.values:
        if time.monotonic() > deadline:
            raise TimeoutError(f"expected an index value within {START_TIMEOUT_S:.0f} s, came none")
        await asyncio.sleep(0.05)
    await asyncio.sleep(WARM_UP_S)
    arrivals.values.clear()
    await asyncio.sleep(WINDOW_S)
    subscriber.close()
    return arrivals


def chain(
    environment: dict[str, str], topics: Sequence[bytes] = (b"orderbook.", b"index.")
) -> tuple[Arrivals, Sequence[int]]:
    """Run the chain once. Returns: what arrived, and when each frame was sent, ns."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        sent = Path(folder) / "sent"
        with streaming("upbit-book", rate=RATE, sent=sent) as port:
            base = {
                **upbit_at(port, folder),
                "COINSPACE_EXCHANGES__BITHUMB__MARKETS": "[]",
                "COINSPACE_EXCHANGES__BINANCE__MARKETS": "[]",
                "COINSPACE_INDEX__ASSETS": '["BTC"]',
                "COINSPACE_INDEX__INTERVAL_MS": "0",
                "COINSPACE_JOURNAL__ENABLED": "false",
                # no server answers there
                "COINSPACE_STORAGE__ILP": "http::addr=127.0.0.1:1;",
                "COINSPACE_STORAGE__SQL": "postgresql://x:x@127.0.0.1:1/qdb",
            }
            names = [command.replace(" ", "-") for command in PROCESSES]
            endpoints = [bus_endpoint(folder, name) for name in names]
            commands = [["coinspace", *command.split()] for command in PROCESSES]
            with running(commands, {**base, **environment}):
                arrivals = uvloop.run(collect(endpoints, topics))
        times = array("q")
        times.frombytes(sent.read_bytes())
    return arrivals, times


def ours(environment: dict[str, str]) -> list[int]:
    """Run the chain once; returns ns from the sending of a frame to its index value, in order."""
    arrivals, times = chain(environment)
    found = arrivals.latencies(times)
    assert found, "no index value belongs to a frame"
    return sorted(found)


def bare() -> list[int]:
    """Run as many bare hops; returns ns from sending to arrival, in order."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        hops = [f"ipc://{folder}/{i}.ipc" for i in range(HOPS)]
        commands = [["benchmarks.pipelines", "source", hops[0], str(RATE), str(PAYLOAD_SIZE)]]
        commands += [
            ["benchmarks.pipelines", "relay", hops[i - 1], hops[i]] for i in range(1, HOPS)
        ]
        with running(commands, {}):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
            socket = context.socket(zmq.SUB)
            socket.subscribe(b"")
            socket.rcvtimeo = 20_000
            socket.connect(hops[-1])
            found: list[int] = []
            socket.recv_multipart()
            begin = time.monotonic() + WARM_UP_S
            while (now := time.monotonic()) < begin + WINDOW_S:
                payload = socket.recv_multipart()[2]
                if now >= begin:
                    found.append(time.time_ns() - int.from_bytes(payload[:8], "little"))
            socket.close(0)
    return sorted(found)


def quantiles(found: list[int]) -> dict[str, float]:
    """Return p50, p99 and p99.9 in µs."""
    return {
        name: found[min(int(share * len(found)), len(found) - 1)] / 1000
        for name, share in QUANTILES.items()
    }


def measure() -> Result:
    """Alternate default, tuned and bare runs; medians of the runs' quantiles."""
    runs: dict[str, list[dict[str, float]]] = {shape: [] for shape in SHAPES}

    def run(shape: str) -> float:
        one = bare() if shape == "bare hops" else ours(tuning() if shape == "tuned" else {})
        runs[shape].append(quantiles(one))
        return runs[shape][-1]["p50"]

    interleaved({shape: partial(run, shape) for shape in SHAPES}, ROUNDS)
    result = Result(
        "latency", "frame → index value on the bus", "µs", f"Upbit BTC/KRW, {RATE} frames/s"
    )
    for shape, found in runs.items():
        for name in QUANTILES:
            result.figures[f"{shape}, {name}"] = statistics.median(one[name] for one in found)
    figures = result.figures
    for shape in ("default", "tuned"):
        for name, (gate, goal) in BOUNDS.items():
            result.check(
                f"{shape} {name} of {HOPS} bare hops' {name}",
                figures[f"{shape}, {name}"] / figures[f"bare hops, {name}"],
                gate=gate,
                goal=goal,
                better="lower",
            )
    # in a run of its own: to receive the aggregates as well costs the processors time
    arrivals, times = chain({}, (b"orderbook.", b"aggregate.", b"index."))
    for leg, us in arrivals.legs(times).items():
        figures[f"median to publishing, {leg}"] = us
    result.note = (
        f"A socket, {HOPS} ZMQ hops, parse, book, merge and index; the bare hops pass a message of"
        f" {PAYLOAD_SIZE} B through as many processes and do nothing. Tuned: {tuning()}."
    )
    return result


def test_latency(bench: Bench) -> None:
    gated(bench, measure)
