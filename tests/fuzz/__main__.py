"""`python -m tests.fuzz`: every place where bytes come in, then the parsers on the sanitised build,
led by the edges that frames take.

Exit code 0 = nothing found; otherwise the sanitiser's report and the frame are printed.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz import entries, sanitised


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0)
    arguments.add_argument("--seed", type=int, default=None, help="random and printed by default")
    arguments.add_argument("--inputs", type=int, default=100_000, help="of each place")
    options = arguments.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    if not places(options.inputs, seed):
        return 1
    print(f"building with sanitisers, then fuzzing for {options.seconds:g} s, seed {seed}")
    sanitised.build()
    done = sanitised.run(
        "--seconds", str(options.seconds), "--seed", str(seed), timeout_s=options.seconds + 120
    )
    print(done.stdout, end="")
    if done.returncode:
        print(done.stderr[-8000:], file=sys.stderr)
        print(f"the frame: {sanitised.FOLDER / 'last.bin'}, seed {seed}", file=sys.stderr)
    return done.returncode


def places(count: int, seed: int) -> bool:
    """Give every place so many inputs and print what came of them; return whether all was well."""
    good = True
    for entry in entries.entries():
        result = entries.run(entry, count // entry.cost, seed)
        good = good and not result.faults and result.grown < entries.MEMORY
        print(
            f"{entry.name}: {result.inputs} inputs, {result.values} values,"
            f" {result.longest_s * 1000:.1f} ms at most, {result.grown >> 20} MB grown"
        )
        for fault, times in result.faults.most_common(5):
            print(f"  {times} x {fault}")
        if result.faults:
            print(f"  first by {result.example[:300]!r}")
    return good


if __name__ == "__main__":
    sys.exit(main())
