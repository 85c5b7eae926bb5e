"""The cost of receiving a WebSocket frame before it is parsed, over the whole process.

Every message begins at an exchange's socket: a slower listener costs time on each,
and on two cores it is the first thing that falls behind. The limit is a uvloop protocol that counts
bytes and knows no frames.
"""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.frames import INPUT, frames
from benchmarks.measure import Bench, Result, gated
from benchmarks.native import limits
from benchmarks.processes import report_of, streaming
from benchmarks.receivers import CLIENTS
from benchmarks.stream import framed
from coinspace.bench.measure import interleaved

ROUNDS = 9
RAW = "raw uvloop protocol"


@pytest.mark.parametrize("kind", ["upbit-book", "binance-trade"])
def test_receive(bench: Bench, kind: str) -> None:
    # built here, so that no client's time includes it
    limits()

    def measure() -> Result:
        sizes = [len(framed(frame)) for frame in frames(kind)]
        size = sum(sizes) // len(sizes)
        with streaming(kind) as port:

            def client(name: str) -> float:
                report = report_of("benchmarks.receivers", name, str(port), str(size))
                return float(report["cpu_ns"])

            timing = interleaved({name: partial(client, name) for name in CLIENTS}, ROUNDS)
        result = Result("receive", f"{kind}, {size} B", "CPU ns/frame", INPUT, timing)
        result.limits = [RAW]
        over = 1 / timing.ratio(RAW)
        # a small frame is mostly framing, which the bare protocol does not do
        gate, goal = (1.5, 1.2) if kind == "upbit-book" else (None, None)
        result.check("CPU of the raw protocol's", over, gate=gate, goal=goal, better="lower")
        result.ratio("websockets", gate=9)
        return result

    gated(bench, measure)
