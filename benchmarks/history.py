"""Results of this machine, run by run: `make bench-history` names what became worse.

benchmarks/history/MACHINE.jsonl has a line per run and case: commit, date, our cost, each checked
figure. The folder is data: `make clean` keeps it.
"""

from __future__ import annotations

import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from benchmarks.conditions import conditions
from benchmarks.measure import Result
from coinspace.bench.measure import OURS

FOLDER = Path("benchmarks/history")
# a change beyond this share is a regression
SHARE = 0.1
Entry = dict[str, Any]


def path_of(machine: str, folder: Path = FOLDER) -> Path:
    """Return a machine's file, named after its processors; its kernel may change."""
    name = ", ".join(machine.split(", ")[:2])
    return folder / (re.sub(r"[^\w]+", "-", name).strip("-").lower() + ".jsonl")


def entry(result: Result) -> Entry:
    timing = result.timing
    ours = timing is not None and OURS in timing.ns
    return {
        "stage": result.stage,
        "case": result.case,
        "cost": timing.least(OURS) if timing is not None and ours else None,
        "checks": {one.what: [one.value, one.better] for one in result.checks},
    }


def remember(results: Iterable[Result], folder: Path = FOLDER) -> Path:
    """Append a run. Returns: the machine's file."""
    found = conditions()
    path = path_of(found["machine"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = {"commit": found["commit"], "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime())}
    with path.open("ab") as file:
        for result in results:
            file.write(orjson.dumps(run | entry(result), option=orjson.OPT_APPEND_NEWLINE))
    return path


def regressions(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield what the last run of a case has worse than the one before it, by more than `SHARE`.

    Ratios are compared, because load hardly changes them; costs only where a case has no ratio.
    """
    cases: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for one in entries:
        cases[one["stage"], one["case"]].append(one)
    for (stage, case), runs in cases.items():
        if len(runs) < 2:
            continue
        old, new = runs[-2:]
        since = f"since {old['commit']} of {old['date']}"
        for what, (value, better) in new["checks"].items():
            before = old["checks"].get(what, [0])[0]
            if not before or not value:
                continue
            worse = (before / value if better == "higher" else value / before) - 1
            if worse > SHARE:
                yield f"{stage}, {case}: {what} {before:.3g} → {value:.3g}, {worse:+.0%} {since}"
        if not new["checks"] and old["cost"] and new["cost"]:
            worse = new["cost"] / old["cost"] - 1
            if worse > SHARE:
                costs = f"{old['cost']:,.0f} → {new['cost']:,.0f} ns"
                yield f"{stage}, {case}: {costs}, {worse:+.0%} {since}"


def main() -> int:
    path = path_of(conditions()["machine"])
    if not path.exists():
        print(f"{path}: no run of this machine is kept; run `make bench` first", file=sys.stderr)
        return 1
    entries = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    runs = list(dict.fromkeys((one["date"], one["commit"]) for one in entries))
    print(f"{path}: {len(runs)} runs, the last at {runs[-1][0]} of {runs[-1][1]}")
    worse = list(regressions(entries))
    for text in worse:
        print(text)
    print(f"{len(worse)} figures are worse by more than {SHARE:.0%} than in the run before")
    return 0


if __name__ == "__main__":
    sys.exit(main())
