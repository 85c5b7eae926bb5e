"""How the benchmarks check and save their measurements.

Nothing absolute is ever checked, only ratios of candidates that ran beside each other (see
coinspace.bench.measure). A measurement whose gate fails beyond the slack is repeated once.

A benchmark is a function without arguments, given to `gated` by its test:

    def upbit() -> Result:
        timing = compare({"CoinSpace": ours, "orjson.loads": theirs}, events=64)
        result = Result("parse", "Upbit, 30 levels", "ns/frame", "simulated, seed 7", timing)
        result.ratio("orjson.loads", gate=6.5, goal=9)
        return result

    def test_upbit(bench: Bench) -> None:
        gated(bench, upbit)
"""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from benchmarks.conditions import conditions
from coinspace.bench.measure import OURS, Timing, one_round
from coinspace.bench.table import Line, Verdict, cost, digits

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


@dataclass(frozen=True, slots=True)
class Bench:
    """What a test's fixture `bench` gives to `gated`. once: one round, without the gates."""

    once: bool
    results: list[Result]


def gated(bench: Bench, measure: Callable[[], Result]) -> None:
    """Measure and save; once: only run it. Raises: AssertionError when a gate failed twice."""
    if bench.once:
        with one_round():
            measure()
        return
    result = measured(measure)
    bench.results.append(result)
    assert not result.failures, f"{result.stage}, {result.case}: " + "; ".join(result.failures)


def best_peer(result: Result) -> str | None:
    """Return the cheapest candidate that is neither ours nor a mere limit."""
    timing = result.timing
    if timing is None or OURS not in timing.ns:
        return None
    peers = [one for one in timing.ns if not one.startswith(OURS) and one not in result.limits]
    return min(peers, key=timing.median, default=None)


def line_of(result: Result) -> Line:
    """Return a result's line of the table: its ratio over the best peer, else its first figure."""
    timing, peer = result.timing, best_peer(result)
    stage, verdict = f"{result.stage}: {result.case}", verdict_of(result)
    ours = cost(timing.median(OURS)) if timing is not None and OURS in timing.ns else ""
    if timing is not None and peer is not None:
        check = next((one for one in result.checks if one.what == f"× faster than {peer}"), None)
        ratio = timing.ratio(peer, result.same.get(peer, OURS))
        bounds = (None, None) if check is None else (check.gate, check.goal)
        return Line(stage, ours, f"{peer}, {cost(timing.median(peer))}", ratio, *bounds, verdict)
    if result.checks:
        # the figure that explains the verdict
        shown = min(result.checks, key=lambda one: (one.passed, one.reaches(one.goal)))
        figure = f"{shown.what} {digits(shown.value)}"
        return Line(stage, ours or figure, "", None, shown.gate, shown.goal, verdict)
    return Line(stage, ours, verdict=verdict)


def verdict_of(result: Result) -> Verdict:
    """Return the verdict over all figures of a result."""
    if result.failures:
        return "GATE MISSED"
    if not all(one.reaches(one.goal) for one in result.checks):
        return "goal missed"
    return "ok" if result.checks else ""


def missed(results: Iterable[Result]) -> list[str]:
    """Return a line for each figure that misses its gate or its goal."""
    lines = []
    for result in results:
        for one in result.checks:
            if one.passed and one.reaches(one.goal):
                continue
            sign = ">=" if one.better == "higher" else "<="
            bound = f"goal {sign} {one.goal:g}" if one.passed else f"GATE {sign} {one.gate:g}"
            lines.append(f"{bound}: {result.stage}, {result.case}: {one.what} {digits(one.value)}")
    return lines


def print_result(result: Result) -> None:
    """Print every figure of a result."""
    print(f"{result.stage}: {result.case}")
    for check in result.checks:
        gate = "" if check.gate is None else f" (gate {check.gate:g})"
        print(f"  {check.what:60} {check.value:8.2f}{gate}")
    for name, value in result.figures.items():
        print(f"  {name:60} {value:8.2f}")
    for failure in result.failures:
        print(f"  FAILED {failure}")
