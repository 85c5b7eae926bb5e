"""The age of a frame when the index that contains it is on the bus.

Throughput hides waiting: a loop that polls, a timer that is late, a hop that wakes a sleeping
process. Only the time from end to end shows them, at a rate that leaves the processors idle between
frames.
"""

from __future__ import annotations

from benchmarks.latency import measure
from benchmarks.measure import Benchmark, gated


def test_latency(benchmark: Benchmark) -> None:
    gated(benchmark, measure)
