"""Measures candidates side by side: for `coinspace bench`, `profile` and `make bench`.

Machines are shared and noisy. So candidates run interleaved in one process, and their order rotates
each round. The clock is the CPU time of this thread. Comparisons use the median of the per-round
ratios. Figures in ns are the least over the rounds, which load cannot lower.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

OURS = "CoinSpace"
# in a shorter slot the noise of clock and caches is too large
SLOT_NS = 4_000_000
ROUNDS = 25
# larger than any candidate's blocks, smaller than blocks that glibc never keeps (32 MiB)
SETTLING_BYTES = 24 << 20

Clock = Literal["thread", "process", "wall"]
CLOCKS: dict[Clock, Callable[[], int]] = {
    "thread": time.thread_time_ns,
    "process": time.process_time_ns,
    "wall": time.perf_counter_ns,
}


@dataclass(slots=True)
class Timing:
    """What the candidates of one comparison cost.

    ns: candidate -> ns per event of each round; index i is the same round for all.
    """

    ns: dict[str, list[float]]
    clock: Clock = "thread"

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


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    events: int | Mapping[str, int],
    rounds: int = ROUNDS,
    clock: Clock = "thread",
    slot_ns: int = SLOT_NS,
) -> Timing:
    """Time the candidates interleaved, in an order that rotates each round, without gc.

    Args:
        candidates: name -> one pass over the input (64 or more different frames: a branch
            predictor learns a single one). A pass that keeps its results measures the allocator.
        events: frames, messages or rows of one pass, or one number for each candidate.
        slot_ns: the least time of one slot; a faster pass is repeated within it.
    """
    _settle_allocator()
    now = CLOCKS[clock]
    counts = {name: events if isinstance(events, int) else events[name] for name in candidates}
    repeats = {name: _repeats(call, now, slot_ns) for name, call in candidates.items()}
    ns: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order:
                call = candidates[name]
                times = range(repeats[name])
                start = now()
                for _ in times:
                    call()
                ns[name].append((now() - start) / (repeats[name] * counts[name]))
            order.append(order.pop(0))
    finally:
        if was_enabled:
            gc.enable()
    return Timing(ns, clock)


def _settle_allocator() -> None:
    # glibc returns freed blocks to the kernel until a larger block was freed. Without this, numpy's
    # arrays cost page faults in a new process, and a third less in an older one.
    bytearray(SETTLING_BYTES)


def _repeats(call: Callable[[], object], now: Callable[[], int], slot_ns: int) -> int:
    call()  # warm: first calls fill caches and intern keys
    start = now()
    call()
    return max(1, math.ceil(slot_ns / max(now() - start, 1)))
