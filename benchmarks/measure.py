"""How every benchmark here measures, checks and saves.

Machines are shared and noisy, so nothing absolute is ever checked: candidates run interleaved in
one process, their order rotated each round, on the CPU time of this thread, and what is compared
is the median of the per-round ratios. Figures in ns are the least over the rounds, which load
cannot lower; the report shows the median beside it. A measurement whose gate fails beyond the
slack is repeated once.

A benchmark is a function `(rounds) -> Result`, given to `gated` by its test:

    def upbit(rounds: int) -> Result:
        timing = compare({"CoinSpace": ours, "orjson.loads": theirs}, events=64, rounds=rounds)
        result = Result("parse", "Upbit, 30 levels", "ns/frame", "simulated, seed 7", timing)
        result.ratio("orjson.loads", gate=6.5, goal=9)
        return result

    def test_upbit(benchmark):
        gated(benchmark, upbit)
"""

from __future__ import annotations

import gc
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from benchmarks.conditions import conditions

OURS = "CoinSpace"
FOLDER = Path("build/bench")
# a slot shorter than this is lost in the noise of the clock and the caches
SLOT_NS = 4_000_000
ROUNDS = 25
# more than any candidate has in one block, less than what glibc never keeps (32 MiB)
SETTLING_BYTES = 24 << 20
# what a noisy neighbour may take from a ratio
SLACK = 0.15

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
        """Return the least ns per event: what the work costs undisturbed."""
        return min(self.ns[name])

    def ratios(self, name: str, ours: str = OURS) -> list[float]:
        """Return how many times `name`'s cost is ours, of each round."""
        return [a / b for a, b in zip(self.ns[name], self.ns[ours], strict=True)]

    def ratio(self, name: str, ours: str = OURS) -> float:
        """Return how many times `name`'s cost is ours: the median of the per-round ratios."""
        return statistics.median(self.ratios(name, ours))


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    events: int | Mapping[str, int],
    rounds: int = ROUNDS,
    clock: Clock = "thread",
    slot_ns: int = SLOT_NS,
) -> Timing:
    """Time the candidates interleaved, in an order that rotates each round, gc off.

    Args:
        candidates: name -> one pass over the input (64 or more different frames: a branch
            predictor learns a single one). A pass that keeps what it makes measures the allocator.
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
    # glibc gives freed blocks back to the kernel until a larger one was freed: numpy's arrays would
    # be paid for by page fault in a young process, and cost a third less in one that has lived
    bytearray(SETTLING_BYTES)


def _repeats(call: Callable[[], object], now: Callable[[], int], slot_ns: int) -> int:
    call()  # warm: first calls fill caches and intern keys
    start = now()
    call()
    return max(1, math.ceil(slot_ns / max(now() - start, 1)))


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the exponent of cost over size: the slope of a line through their logarithms.

    Raises: ValueError with fewer than four sizes, which say little about a slope.
    """
    if len(sizes) < 4:
        raise ValueError(f"growth: expected at least 4 sizes, was {len(sizes)}")
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(xs, ys).slope


@dataclass(slots=True)
class Check:
    """One figure with its gate (the least that must hold) and its goal (what we want).

    better: "higher" or "lower". slack: the share of the gate that noise may take; 0 for counts.
    """

    what: str
    value: float
    gate: float | None = None
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"
    slack: float = SLACK
    # what stands between the figure and its goal, measured
    obstacle: str = ""

    def reaches(self, bound: float | None, slack: float = 0.0) -> bool:
        if bound is None:
            return True
        if self.better == "higher":
            return self.value >= bound * (1 - slack)
        return self.value <= bound * (1 + slack)

    @property
    def passed(self) -> bool:
        """Whether the gate is reached, noise allowed for."""
        return self.reaches(self.gate, self.slack)

    def __str__(self) -> str:
        sign = "≥" if self.better == "higher" else "≤"
        return f"{self.what}: expected {sign} {self.gate:g}, was {self.value:.3g}"


@dataclass(slots=True)
class Result:
    """One row group of the report: a stage's case with its figures and checks.

    Args: input: what the frames were, in words: "simulated, seed 7", "binance-btcusdt-20240808".
    """

    stage: str
    case: str
    unit: str
    input: str
    timing: Timing | None = None
    checks: list[Check] = field(default_factory=list)
    # candidates that are limits (memcpy, C libzmq, a raw protocol), not peers
    limits: list[str] = field(default_factory=list)
    # peer -> our candidate that does the same work, where that is not OURS: the tables' ratio
    same: dict[str, str] = field(default_factory=dict)
    # further figures: name -> number, shown as they are
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    # the command that measured it, where it is not `make bench`
    command: str = "make bench"

    def ratio(
        self,
        name: str,
        *,
        gate: float | None = None,
        goal: float | None = None,
        ours: str = OURS,
        obstacle: str = "",
    ) -> float:
        """Check how many times faster than a peer we are."""
        assert self.timing is not None
        value = self.timing.ratio(name, ours)
        what = f"× faster than {name}"
        self.check(what, value, gate=gate, goal=goal, obstacle=obstacle)
        return value

    def share(
        self,
        name: str,
        *,
        gate: float | None = None,
        goal: float | None = None,
        ours: str = OURS,
        obstacle: str = "",
    ) -> float:
        """Check which share of a limit's rate we reach; 1 = the limit itself."""
        assert self.timing is not None
        if name not in self.limits:
            self.limits.append(name)
        value = self.timing.ratio(name, ours)
        self.check(f"of {name}'s rate", value, gate=gate, goal=goal, obstacle=obstacle)
        return value

    def check(
        self,
        what: str,
        value: float,
        *,
        gate: float | None = None,
        goal: float | None = None,
        better: Literal["higher", "lower"] = "higher",
        slack: float = SLACK,
        obstacle: str = "",
    ) -> None:
        """Check any figure; counts (instructions, allocations) take a slack of their own."""
        self.checks.append(Check(what, value, gate, goal, better, slack, obstacle))

    @property
    def failures(self) -> list[str]:
        return [str(check) for check in self.checks if not check.passed]

    def save(self, folder: Path = FOLDER) -> Path:
        """Write the row where the report finds it.

        Raises: ValueError when the file holds another case, whose row would be lost.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w]+", "-", f"{self.stage}.{self.case}").strip("-").lower()
        path = folder / f"{name}.json"
        if path.exists():
            other = orjson.loads(path.read_bytes())
            if (other["stage"], other["case"]) != (self.stage, self.case):
                raise ValueError(
                    f"{path}: expected {self.stage!r}, {self.case!r} or no file, was"
                    f" {other['stage']!r}, {other['case']!r}: rename one of them, delete the file"
                )
        body: dict[str, Any] = asdict(self)
        body["conditions"] = conditions(self.command)
        body["date"] = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        if self.timing is not None:
            body["ns"] = {one: self.timing.least(one) for one in self.timing.ns}
            body["medians"] = {one: statistics.median(ns) for one, ns in self.timing.ns.items()}
            body["clock"] = self.timing.clock
            body["rounds"] = len(next(iter(self.timing.ns.values())))
            body["ratios"] = {
                one: self.timing.ratio(one, self.same.get(one, OURS))
                for one in self.timing.ns
                if OURS in self.timing.ns
            }
        del body["timing"]
        path.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
        return path


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    disabled: bool
    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[[], object], *, rounds: int) -> object: ...


def gated(benchmark: Benchmark, measure: Callable[[int], Result]) -> Result:
    """Measure, repeat once when a gate fails, save, and fail when it failed twice.

    With `--benchmark-disable` (the smoke run of the tests' CI) one round runs, nothing is checked
    and nothing saved.
    """
    results: list[Result] = []

    def run() -> None:
        results.append(measure(1) if benchmark.disabled else measured(measure))

    benchmark.pedantic(run, rounds=1)
    best = results[0]
    if benchmark.disabled:
        return best
    benchmark.extra_info.update(
        stage=best.stage, case=best.case, checks=[asdict(check) for check in best.checks]
    )
    assert not best.failures, f"{best.stage}, {best.case}: " + "; ".join(best.failures)
    return best


def measured(measure: Callable[[int], Result]) -> Result:
    """Measure, once more when a gate fails, and save the better result."""
    result = measure(ROUNDS)
    if result.failures:
        result = min(result, measure(ROUNDS), key=lambda tried: len(tried.failures))
    result.save()
    return result


def print_result(result: Result) -> None:
    """Print a result as `make bench-peers` shows it."""
    print(f"{result.stage}: {result.case}")
    for name in result.timing.ns if result.timing else ():
        assert result.timing is not None
        print(f"  {name:34} {result.timing.least(name):12,.0f} {result.unit}")
    for check in result.checks:
        gate = "" if check.gate is None else f" (gate {check.gate:g}, goal {check.goal or 0:g})"
        print(f"  {check.what:60} {check.value:8.2f}{gate}")
    for failure in result.failures:
        print(f"  FAILED {failure}")
