"""Write RESULTS.md and its chart from what was measured last.

Input: build/bench/*.json, one file a case, written by `measure.Result.save`, the fault tests' too.
Nothing is measured here. Only the reasons in obstacles.py are written manually.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, defaultdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from benchmarks.chart import chart, costs
from benchmarks.headlines import headlines
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
    "whole exchanges",
    "faults",
    "fuzz",
)
HEAD = f"""# Results

What one event costs, in processor time, and how many times as much the same work costs by others:

{{headlines}}

![chart](chart.svg)

## Conditions

Written by `make report` from the last `make bench`, `make bench-peers`, `make soak`,
`make faults` and `make fuzz`.

{{conditions}}

Candidates run interleaved in rotating order, on CPU time. A cost is the median over the rounds. A
ratio is the median of the ratios of all rounds: how many times our cost. A gate must be reached: it
allows {SLACK:.0%} for noise, or what stands beside it, and one repeat; it is the least that was
reached on any machine. A goal is what we aim at.

## Gates and goals not reached

{{missed}}

## Every figure

A bare step that does a part of our work is a limit, not a competitor.
"""
Row = dict[str, Any]


def load_rows(folder: Path = FOLDER) -> list[Row]:
    """Return the rows in flow order.

    Raises: SystemExit when nothing was measured.
    """
    rows = [orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    # the tests alone do not measure the stages
    if all(row["stage"] in ("whole exchanges", "faults", "fuzz") for row in rows):
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


def short(check: Check) -> bool:
    """Return whether a figure misses its goal, or its gate if it has no goal."""
    return not check.reaches(check.goal) or not check.passed


def aims(check: Check) -> str:
    """Return a figure's gate and goal in brackets, and a slack that is not the usual one."""
    sign = "≥" if check.better == "higher" else "≤"
    found = []
    if check.gate is not None:
        slack = f", noise {check.slack:.0%}" if check.slack else ", exact"
        found.append(f"gate {sign} {check.gate:g}{slack if check.slack != SLACK else ''}")
    if check.goal not in (None, check.gate):
        found.append(f"goal {sign} {check.goal:g}")
    return f" ({', '.join(found)})" if found else ""


def reason(row: Row, check: Check) -> str:
    """Return the reason for a missed goal, "" if none is written."""
    text = obstacle_of(row["stage"], row["case"], check.what)
    known = {one.what: one.value for one in checks_of(row)}
    known |= {**row["figures"], **costs(row)}

    def figure(found: re.Match[str]) -> str:
        value = known.get(found[1])
        return "(not measured)" if value is None else number(value)

    return re.sub(r"\{(.+?)\}", figure, text)


def obstacles(rows: list[Row]) -> list[str]:
    """Return a line for each reason with the figures that it explains."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for check in filter(short, checks_of(row)):
            state = "" if check.reaches(check.gate) else "gate missed within the noise: "
            figure = f"{check.what} {number(check.value)}{aims(check)}"
            figure = (state if check.passed else "**gate missed**: ") + figure
            found[reason(row, check)].append(f"{row['stage']}, {row['case']}: {figure}.")
    return [f"* {' '.join(explained)} {why}".rstrip() for why, explained in found.items()]


def is_ratio(row: Row, what: str) -> bool:
    """Return whether a check is the ratio that stands beside a candidate's cost."""
    name = what.removeprefix("× faster than ")
    return name != what and name in row.get("ratios", ()) and name not in row["same"]


def beside(row: Row) -> list[str]:
    """Return the cost of each other candidate, cheapest first, with its ratio and gate."""
    found = []
    ratios = row.get("ratios", {})
    bounds = {one.what: aims(one) for one in checks_of(row) if is_ratio(row, one.what)}
    for name, ns in sorted(costs(row).items(), key=itemgetter(1)):
        if name != OURS:
            limit = " (limit)" if name in row["limits"] else ""
            same = f" of {row['same'][name]}" if name in row["same"] else ""
            times = f": {number(ratios[name])} ×{same}" if name in ratios else ""
            aim = bounds.get(f"× faster than {name}", "")
            found.append(f"{name}{limit} {number(ns)}{times}{aim}")
    return found


def figures(row: Row) -> list[str]:
    """Return the other checked figures with their gates and goals, then all further figures."""
    checks = [check for check in checks_of(row) if not is_ratio(row, check.what)]
    found = [f"{check.what} {number(check.value)}{aims(check)}" for check in checks]
    for head, of_head in groupby(row["figures"].items(), key=lambda one: one[0].split(", ")[0]):
        pairs = [(name, number(value)) for name, value in of_head]
        if len(pairs) == 1:
            found.append(" ".join(pairs[0]))
        else:
            parts = (f"{name.removeprefix(head + ', ')} {value}" for name, value in pairs)
            found.append(f"{head}: {' · '.join(parts)}")
    return found


def versions(row: Row) -> str:
    """Return the Python of a row, and the versions of the libraries that are its candidates."""
    python, *libraries = row["conditions"]["Python"].split(", ")
    names = " ".join(costs(row))
    used = [one for one in libraries if one.partition(" ")[0].replace("_", " ") in names]
    used += [one for one in libraries if "_" in one and one.partition(" ")[0] in names]
    return ", ".join([f"Python {python}", *dict.fromkeys(used)])


def notes(rows: list[Row]) -> list[str]:
    """Return what was measured and the notes, each once with its cases."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        clock = f", {row['rounds']} rounds, CPU of the {row['clock']}" if row.get("rounds") else ""
        found[f"{row['input']}{clock}, {versions(row)}, `{row['command']}`."].append(row["case"])
        if row["note"]:
            found[row["note"]].append(row["case"])
    lines = []
    for text, cases in found.items():
        which = "most cases" if 2 * len(cases) > len(rows) else "; ".join(cases)
        lines.append(f"* {'all' if len(cases) == len(rows) else which}: {text}")
    return lines


def details(stage: str, rows: list[Row]) -> list[str]:
    """Return a stage's table, a row a case, and what was measured."""
    lines = ["", f"### {stage}", ""]
    if any(map(costs, rows)):
        lines += [f"| case | {OURS} | beside it | figures |", "|---|---:|---|---|"]
    else:
        lines += ["| case | figures |", "|---|---|"]
    for row in rows:
        cells = [row["case"]]
        if any(map(costs, rows)):
            own = f"{number(costs(row)[OURS])} {row['unit']}" if OURS in costs(row) else ""
            cells += [own, "<br>".join(beside(row))]
        cells.append("<br>".join(figures(row)))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *notes(rows)]


def described(rows: list[Row]) -> list[str]:
    """Return a line for each condition of most rows, then what differs in which stages."""
    lines = []
    for key in ("machine", "Python", "commit"):
        usual = Counter(row["conditions"][key] for row in rows).most_common(1)[0][0]
        lines.append(f"* {key}: {usual}")
        others: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            others[row["stage"]] |= set(row["conditions"][key].split(", ")) - set(usual.split(", "))
        for stage, found in others.items():
            lines[-1] += f"; of {stage}: {', '.join(sorted(found))}" if found else ""
    return lines


def results(rows: list[Row]) -> str:
    first, last = min(row["date"] for row in rows), max(row["date"] for row in rows)
    conditions = [*described(rows), f"* measured between {first} and {last} UTC"]
    missed = obstacles(rows) or ["None."]
    head = HEAD.format(
        headlines="\n".join(headlines(rows)),
        conditions="\n".join(conditions),
        missed="\n".join(missed),
    )
    lines = [head.rstrip()]
    for stage, of_stage in groupby(rows, key=itemgetter("stage")):
        lines += details(stage, list(of_stage))
    return "\n".join(lines) + "\n"


def main() -> int:
    rows = load_rows()
    RESULTS.write_text(results(rows))
    CHART.write_text(chart(rows))
    print(f"wrote {RESULTS.name} and {CHART.name} from {len(rows)} cases")
    unexplained = 0
    for row in rows:
        for check in filter(short, checks_of(row)):
            place = f"{row['stage']}, {row['case']}"
            if not check.passed:
                print(f"missed: {place}: {check}", file=sys.stderr)
            if not reason(row, check):
                unexplained += 1
                print(f"why? {place}, {check.what}: write it in obstacles.py", file=sys.stderr)
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
