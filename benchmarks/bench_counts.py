"""Instructions and allocations per frame: the regression gates that load cannot blur.

A parser that got slower executes more instructions long before a noisy clock shows it, and a single
allocation on the hot path is a page fault waiting for its moment.
"""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.bench_index import INPUT as INPUT_OF_VALUES
from benchmarks.counts import COUNT_SLACK, allocations, counted_instructions, missing
from benchmarks.frames import INPUT
from benchmarks.measure import Bench, Result, gated

STAGE = "parse"
# kind -> numbers of one frame, gate and goal of instructions per number
NUMBERS = {
    "upbit-book": (120, 115.0, 85.0),
    "upbit-book-simple": (120, 115.0, 85.0),
    "bithumb-book": (60, 115.0, 85.0),
    "binance-depth20": (80, 105.0, 85.0),
    "binance-diff": (96, 105.0, 85.0),
}
# levels of three venues -> gate and goal of instructions a level
VALUES = {30: (200.0, 150.0), 1000: (125.0, 100.0)}
ALLOCATIONS = {"parse": 0.0, "book": 0.0, "bus": 1.0}

counted_allocations = cache(allocations)


def check(result: Result, what: str, count: float, gate: float, goal: float) -> None:
    """Add a count of instructions to a result."""
    result.check(what, count, gate=gate, goal=goal, better="lower", slack=COUNT_SLACK)


@pytest.mark.parametrize("kind", NUMBERS)
def test_instructions(bench: Bench, kind: str) -> None:
    if reason := missing("instructions"):
        pytest.skip(reason)

    def measure() -> Result:
        numbers, gate, goal = NUMBERS[kind]
        count = counted_instructions()[f"parse {kind}"]
        result = Result(STAGE, f"{kind}, instructions", "instructions", INPUT)
        result.figures = {"per frame": count}
        check(result, "instructions per number", count / numbers, gate, goal)
        return result

    gated(bench, measure)


@pytest.mark.parametrize("levels", VALUES)
def test_instructions_of_a_value(bench: Bench, levels: int) -> None:
    if reason := missing("instructions"):
        pytest.skip(reason)

    def measure() -> Result:
        gate, goal = VALUES[levels]
        count = counted_instructions()[f"index 3 × {levels}"]
        result = Result("index", f"3 × {levels}, instructions", "instructions", INPUT_OF_VALUES)
        result.figures = {"per value": count}
        check(result, "instructions per level", count / (2 * 3 * levels), gate, goal)
        return result

    gated(bench, measure)


def test_allocations(bench: Bench) -> None:
    if reason := missing("allocations"):
        pytest.skip(reason)

    def measure() -> Result:
        result = Result(STAGE, "allocations", "malloc calls/frame", INPUT)
        for name, (own, others) in counted_allocations().items():
            stage = name.split()[0]
            gate = ALLOCATIONS.get(stage)
            # libzmq's own pipes grow now and then
            slack = 0.05 if stage == "bus" else 0
            result.check(name, own, gate=gate, goal=gate, better="lower", slack=slack)
            if stage == "bus":
                result.figures[f"{name}, libzmq's own thread"] = others
            else:
                assert not others, f"{name}: {others} allocations by other threads"
        return result

    gated(bench, measure)
