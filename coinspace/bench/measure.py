"""Measures candidates side by side: for `coinspace bench`, `profile` and `make bench`.

Machines are shared and noisy. So candidates run interleaved, and their order rotates each round.
The clock is CPU time. Comparisons use the median of the per-round ratios. Figures in ns of
`coinspace bench` are the least over the rounds, which load cannot lower.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

OURS = "CoinSpace"
# in a shorter slot the noise of clock and caches is too large
SLOT_NS = 4_000_000
ROUNDS = 25
# larger than any candidate's blocks, smaller than blocks that glibc never keeps (32 MiB)
SETTLING_BYTES = 24 << 20

_most_rounds = sys.maxsize


@dataclass(slots=True)
class Timing:
    """What the candidates of one comparison cost.

    ns: candidate -> CPU ns per event of each round; index i is the same round for all.
    clock: whose CPU time: of the measuring thread or of a whole process.
    """

    ns: dict[str, list[float]]
    clock: Literal["thread", "process"] = "process"

    def least(self, name: str) -> float:
        """Return the least ns per event: the cost of undisturbed work."""
        return min(self.ns[name])

    def median(self, name: str) -> float:
        """Return the median ns per event of the rounds."""
        return statistics.median(self.ns[name])

    def ratios(self, name: str, base: str = OURS) -> list[float]:
        """Return the cost of `name` as a multiple of `base`, for each round."""
        return [a / b for a, b in zip(self.ns[name], self.ns[base], strict=True)]

    def ratio(self, name: str, base: str = OURS) -> float:
        """Return the median over the rounds of `ratios`."""
        return statistics.median(self.ratios(name, base))


@contextlib.contextmanager
def one_round() -> Iterator[None]:
    """Let every comparison in the block take one round: a test of whether it runs."""
    global _most_rounds
    _most_rounds = 1
    try:
        yield
    finally:
        _most_rounds = sys.maxsize


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int) -> Timing:
    """Run each candidate once a round, in an order that rotates; each returns its ns per event."""
    ns: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for _ in range(min(rounds, _most_rounds)):
        for name in order:
            ns[name].append(candidates[name]())
        order.append(order.pop(0))
    return Timing(ns)


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    events: int,
    rounds: int = ROUNDS,
    slot_ns: int = SLOT_NS,
) -> Timing:
    """Time the candidates interleaved in this thread, without gc.

    Args:
        candidates: name -> one pass over the input (64 or more different frames: a branch
            predictor learns a single one). A pass that keeps its results measures the allocator.
        events: frames, messages or rows of one pass.
        slot_ns: the least time of one slot; a faster pass is repeated within it.
    """
    # glibc returns freed blocks to the kernel until a larger block was freed. Without this, numpy's
    # arrays cost page faults in a new process, and a third less in an older one.
    bytearray(SETTLING_BYTES)
    slots = {name: _slot(call, events, slot_ns) for name, call in candidates.items()}
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        timing = interleaved(slots, rounds)
    finally:
        if was_enabled:
            gc.enable()
    timing.clock = "thread"
    return timing


def _slot(call: Callable[[], object], events: int, slot_ns: int) -> Callable[[], float]:
    call()  # warm: first calls fill caches and intern keys
    start = time.thread_time_ns()
    call()
    repeats = max(1, math.ceil(slot_ns / max(time.thread_time_ns() - start, 1)))

    def run() -> float:
        start = time.thread_time_ns()
        for _ in range(repeats):
            call()
        return (time.thread_time_ns() - start) / (repeats * events)

    return run
