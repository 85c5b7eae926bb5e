"""The whole way of a frame in one process and onto the bus: the cost of collecting a market.

A regression here that no stage's own benchmark shows lies between the stages: in the listener, the
journal, the health file, libzmq's thread.
"""

from __future__ import annotations

from benchmarks.measure import Bench, gated
from benchmarks.pipeline import measure


def test_pipeline(bench: Bench) -> None:
    gated(bench, measure)
