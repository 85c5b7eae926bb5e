"""How the benchmarks check and save their measurements.

Nothing absolute is ever checked, only ratios of candidates that ran beside each other (see
coinspace.bench.measure). A measurement whose gate fails beyond the slack is repeated once.

A benchmark is a function without arguments, given to `gated` by its test:

    def upbit() -> Result:
        timing = compare({"CoinSpace": ours, "orjson.loads": theirs}, events=64)
        result = Result("parse", "Upbit, 30 levels", "ns/frame", "simulated, seed 7", timing)
        result.ratio("orjson.loads", gate=6.5, goal=9)
        return result

    def test_upbit(benchmark: Benchmark) -> None:
        gated(benchmark, upbit)
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from benchmarks.conditions import conditions
from coinspace.bench.measure import OURS, Timing, one_round

FOLDER = Path("build/bench")
# share of a ratio that other processes on the machine may take
SLACK = 0.15


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
    """One figure with its gate (the minimum) and its goal.

    better: "higher" or "lower". slack: the share of the gate that noise may take; 0 for counts.
    """

    what: str
    value: float
    gate: float | None = None
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"
    slack: float = SLACK

    def reaches(self, bound: float | None, slack: float = 0.0) -> bool:
        if bound is None:
            return True
        if self.better == "higher":
            return self.value >= bound * (1 - slack)
        return self.value <= bound * (1 + slack)

    @property
    def passed(self) -> bool:
        """Return whether the gate is reached within the slack."""
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

    def ratio(self, name: str, *, gate: float, goal: float | None = None) -> None:
        """Check how many times faster than a peer we are."""
        assert self.timing is not None
        self.check(f"× faster than {name}", self.timing.ratio(name), gate=gate, goal=goal)

    def share(self, name: str, *, gate: float | None = None, goal: float | None = None) -> None:
        """Check which share of a limit's rate we reach; 1 = the limit itself."""
        assert self.timing is not None
        self.limits.append(name)
        self.check(f"of {name}'s rate", self.timing.ratio(name), gate=gate, goal=goal)

    def check(
        self,
        what: str,
        value: float,
        *,
        gate: float | None = None,
        goal: float | None = None,
        better: Literal["higher", "lower"] = "higher",
        slack: float = SLACK,
    ) -> None:
        """Check any figure; counts (instructions, allocations) take a slack of their own."""
        self.checks.append(Check(what, value, gate, goal, better, slack))

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
        body["conditions"] = conditions()
        body["date"] = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        if self.timing is not None:
            body["ns"] = {one: self.timing.least(one) for one in self.timing.ns}
            body["medians"] = {one: self.timing.median(one) for one in self.timing.ns}
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


def measured(measure: Callable[[], Result]) -> Result:
    """Measure, once more when a gate fails, and save the better result."""
    result = measure()
    if result.failures:
        result = min(result, measure(), key=lambda tried: len(tried.failures))
    result.save()
    return result


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    disabled: bool

    def pedantic(self, target: Callable[[], object], *, rounds: int) -> object: ...


def checked(measure: Callable[[], Result]) -> None:
    """Measure, print and save. Raises: AssertionError when a gate failed twice."""
    result = measured(measure)
    print_result(result)
    assert not result.failures, f"{result.stage}, {result.case}: " + "; ".join(result.failures)


def gated(benchmark: Benchmark, measure: Callable[[], Result]) -> None:
    """Run `checked`; with --benchmark-disable only one round, without its gates."""

    def once() -> None:
        with one_round():
            measure()

    benchmark.pedantic(once if benchmark.disabled else partial(checked, measure), rounds=1)


def print_result(result: Result) -> None:
    """Print a result, as `make bench-peers` shows it."""
    print(f"{result.stage}: {result.case}")
    for name in result.timing.ns if result.timing else ():
        assert result.timing is not None
        print(f"  {name:34} {result.timing.least(name):12,.0f} {result.unit}")
    for check in result.checks:
        gate = "" if check.gate is None else f" (gate {check.gate:g}, goal {check.goal or 0:g})"
        print(f"  {check.what:60} {check.value:8.2f}{gate}")
    for failure in result.failures:
        print(f"  FAILED {failure}")
