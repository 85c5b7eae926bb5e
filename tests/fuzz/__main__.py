"""`python -m tests.fuzz`: every place where bytes come in, all modules and the parsers on sanitised
builds, the parsers led by the edges that frames take.

Half of the time goes to the places, half to the parsers. Exit code 0 = nothing found; otherwise the
sanitiser's report and the input are printed. The figures are saved for `make report`.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import sys
import time
from itertools import count
from pathlib import Path

from benchmarks.measure import FOLDER, Result
from tests.fuzz import entries, sanitised

# inputs of a place in one turn
ROUND = 2000
# the whole run of the checked modules: compiling, unit and property tests
WHOLE_TIMEOUT_S = 1800.0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0)
    arguments.add_argument("--seed", type=int, default=None, help="random and printed by default")
    options = arguments.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    figures: dict[str, float] = {"s": options.seconds}
    print(f"fuzzing for {options.seconds:g} s, seed {seed}")
    good = places(options.seconds / 2, seed, figures)
    if sanitised.runtime() is None:
        print("compiled code was not checked: no libasan.so; install gcc with its sanitisers")
        return 1
    good = whole(seed, figures) and good
    good = parsers(options.seconds / 2, seed, figures) and good
    print(*(f"{name}: {value:,}" for name, value in figures.items()), sep="\n")
    save(figures, seed)
    return 0 if good else 1


def places(seconds: float, seed: int, figures: dict[str, float]) -> bool:
    """Fuzz every place in turns for so many seconds; print results. Returns: no fault was found."""
    end = time.monotonic() + seconds
    total: dict[str, entries.Result] = {}
    every = entries.entries()
    for turn in count():
        for entry in every:
            if turn and time.monotonic() > end:
                continue
            found = entries.run(entry, ROUND // entry.cost, seed + turn)
            total.setdefault(entry.name, entries.Result()).add(found)
        if time.monotonic() > end:
            break
    for name, result in total.items():
        print(
            f"{name}: {result.inputs} inputs, {result.values} values,"
            f" {result.longest_s * 1000:.1f} ms at most, {result.grown >> 20} MB grown"
        )
        for fault, times in result.faults.most_common(5):
            print(f"  {times} x {fault}")
        if result.faults:
            print(f"  first by {result.example[:300]!r}")
    figures["places"] = len(total)
    figures["inputs of places"] = sum(result.inputs for result in total.values())
    figures["longest stall, ms"] = round(
        1000 * max(result.longest_s for result in total.values()), 1
    )
    figures["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    figures["findings"] = sum(result.faults.total() for result in total.values())
    return not figures["findings"] and all(
        result.grown < entries.MEMORY for result in total.values()
    )


def whole(seed: int, figures: dict[str, float]) -> bool:
    """Run the tests of all compiled modules on the checked build."""
    sanitised.build_all()
    done = sanitised.run(
        *("--inputs", str(ROUND), "--seed", str(seed)),
        timeout_s=WHOLE_TIMEOUT_S,
        folder=sanitised.WHOLE,
        module="tests.fuzz.whole",
    )
    print(done.stdout[-2000:], end="")
    if done.returncode:
        print(done.stderr[-8000:], file=sys.stderr)
    figures["findings"] += done.returncode != 0
    return done.returncode == 0


def parsers(seconds: float, seed: int, figures: dict[str, float]) -> bool:
    """Fuzz the parsers on the sanitised build, guided by edges."""
    sanitised.build()
    done = sanitised.run("--seconds", str(seconds), "--seed", str(seed), timeout_s=seconds + 120)
    print(done.stdout, end="")
    if done.returncode:
        print(done.stderr[-8000:], file=sys.stderr)
        print(f"the frame: {sanitised.FOLDER / 'last.bin'}, seed {seed}", file=sys.stderr)
    found = re.search(r"(\d+) frames, seed \d+, (\d+) edges, (\d+) frames kept", done.stdout)
    if found is not None:
        figures["frames, parsers"] = int(found[1])
        figures["edges, parsers"] = int(found[2])
    figures["findings"] += done.returncode != 0
    return done.returncode == 0


def save(figures: dict[str, float], seed: int) -> None:
    """Save the figures for the report."""
    result = Result("fuzz", "every entry point", "", f"mutated, seed {seed}")
    result.command = f"make fuzz SECONDS={figures['s']:g}"
    result.figures = figures
    result.save(Path(__file__).resolve().parents[2] / FOLDER)


if __name__ == "__main__":
    sys.exit(main())
