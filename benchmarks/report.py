"""Write RESULTS.md and its chart from what was measured last.

Input: build/bench/*.json, one file a case, written by `measure.Result.save`, the fault tests' too.
Nothing is measured here.
Only the reasons in obstacles.py are written manually.
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from benchmarks.chart import chart, costs
from benchmarks.conditions import described
from benchmarks.measure import FOLDER, SLACK, Check
from benchmarks.obstacles import obstacle_of
from coinspace.bench.measure import OURS

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
CHART = HERE / "chart.svg"
STAGES = (
    "receive",
    "parse",
    "book",
    "bus",
    "index",
    "storage",
    "end to end",
    "latency",
    "endpoint",
    "faults",
    "fuzz",
)
Row = dict[str, Any]


def load_rows(folder: Path = FOLDER) -> list[Row]:
    """Return the rows in flow order.

    Raises: SystemExit when nothing was measured.
    """
    rows = [orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    # the tests alone do not measure the stages
    if all(row["stage"] in ("faults", "fuzz") for row in rows):
        raise SystemExit(f"{folder}: expected measurements, found none; run `make bench` first")
    order = {stage: i for i, stage in enumerate(STAGES)}
    return sorted(rows, key=lambda row: (order.get(row["stage"], len(order)), row["case"]))


def checks_of(row: Row) -> list[Check]:
    return [Check(**check) for check in row["checks"]]


def number(value: float) -> str:
    """Write a figure with three significant digits, a count with all digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def verdict(check: Check) -> str:
    if check.gate is None and check.goal is None:
        return ""
    if check.goal is not None and check.reaches(check.goal):
        return "goal"
    if check.gate is None:
        return "below goal"
    if check.reaches(check.gate):
        return "gate"
    return "gate, within noise" if check.passed else "**missed**"


def bound(check: Check, value: float | None) -> str:
    if value is None:
        return ""
    return f"{'≥' if check.better == 'higher' else '≤'} {value:g}"


def gate_of(check: Check) -> str:
    """Return the gate, and a slack that is not the usual one."""
    unusual = check.gate is not None and check.slack != SLACK
    slack = f"noise {check.slack:.0%}" if check.slack else "exact"
    return bound(check, check.gate) + (f" ({slack})" if unusual else "")


def summary(rows: list[Row]) -> list[str]:
    """Return the table of everything that has a gate or a goal."""
    lines = [
        "| stage | case | figure | measured | gate | goal | reached |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        for check in checks_of(row):
            if check.gate is None and check.goal is None:
                continue
            lines.append(
                f"| {row['stage']} | {row['case']} | {check.what} | {number(check.value)} |"
                f" {gate_of(check)} | {bound(check, check.goal)} | {verdict(check)} |"
            )
    return lines


def short(check: Check) -> bool:
    """Return whether a figure misses its goal, or its gate if it has no goal."""
    return not check.reaches(check.goal) or not check.passed


def reason(row: Row, check: Check) -> str:
    """Return the reason for a missed goal, "" if none is written."""
    text = obstacle_of(row["stage"], row["case"], check.what)
    known = {one.what: one.value for one in checks_of(row)}
    known |= {**row["figures"], **row.get("medians", {})}

    def figure(found: re.Match[str]) -> str:
        value = known.get(found[1])
        return "(not measured)" if value is None else number(value)

    return re.sub(r"\{(.+?)\}", figure, text)


def obstacles(rows: list[Row]) -> list[str]:
    """Return a line for each gate or goal that was not reached."""
    lines = []
    for row in rows:
        for check in filter(short, checks_of(row)):
            wanted = "gate" if check.goal is None else "goal"
            limit = bound(check, check.gate if check.goal is None else check.goal)
            lines.append(
                f"* {row['stage']}, {row['case']}, {check.what}: {number(check.value)}, {wanted}"
                f" {limit}. {reason(row, check)}".rstrip()
            )
    return lines


def details(stage: str, rows: list[Row]) -> list[str]:
    """Return a stage's table: each candidate with its cost, each figure, what was measured."""
    lines = [f"### {stage}", "", f"| case | | | least | × {OURS} |", "|---|---|---:|---:|---:|"]
    notes = []
    for row in rows:
        ratios, same = row.get("ratios", {}), row.get("same", {})
        known = {f"× faster than {name}" for name in ratios} | {
            check.what
            for check in checks_of(row)
            if check.gate is not None or check.goal is not None
        }
        for name, ns in sorted(costs(row).items(), key=lambda item: item[1]):
            mark = " (limit)" if name in row["limits"] else ""
            times = number(ratios[name]) if name in ratios else ""
            beside = f" ({same[name]})" if name in same else ""
            lines.append(
                f"| {row['case']} | {name}{mark} | {number(ns)} {row['unit']} |"
                f" {number(row['ns'][name])} | {times}{beside} |"
            )
        plain = (one for one in checks_of(row) if one.gate is None and one.goal is None)
        more = {check.what: check.value for check in plain if check.what not in known}
        for name, value in {**row["figures"], **more}.items():
            lines.append(f"| {row['case']} | {name} | {number(value)} | | |")
        clock = f", {row['rounds']} rounds, {row['clock']} time" if row.get("rounds") else ""
        notes.append(f"* {row['case']}: {row['input']}{clock}, `{row['command']}`. {row['note']}")
    return [*lines, "", *(note.rstrip() for note in notes), ""]


def results(rows: list[Row]) -> str:
    missed = obstacles(rows)
    lines = [
        "# Results",
        "",
        "Written by `make report` from the last `make bench`, `make bench-peers`, `make faults` and"
        " `make fuzz`; not by hand.",
        "",
        *described(rows),
        f"* measured between {min(r['date'] for r in rows)} and {max(r['date'] for r in rows)} UTC",
        "",
        "Candidates run interleaved in rotating order, on CPU time. Costs are medians over the"
        " rounds and the least of them, ratios the median of the per-round ratios. Gates"
        f" allow {SLACK:.0%} for noise, or what stands beside them, and one retry.",
        "",
        "![chart](chart.svg)",
        "",
        "## Gates and goals",
        "",
        *summary(rows),
        "",
        "## Gates and goals not reached, and what stands in the way",
        "",
        *(missed or ["None."]),
        "",
        "## Every figure",
        "",
    ]
    for stage, of_stage in groupby(rows, key=itemgetter("stage")):
        lines += details(stage, list(of_stage))
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    rows = load_rows()
    RESULTS.write_text(results(rows))
    CHART.write_text(chart(rows))
    print(f"wrote {RESULTS.name} and {CHART.name} from {len(rows)} cases")
    unexplained = 0
    for row in rows:
        for check in checks_of(row):
            place = f"{row['stage']}, {row['case']}"
            if not check.passed:
                print(f"missed: {place}: {check}", file=sys.stderr)
            if short(check) and not reason(row, check):
                unexplained += 1
                print(f"why? {place}, {check.what}: say it in obstacles.py", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
