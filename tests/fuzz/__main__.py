"""`python -m tests.fuzz`: fuzz the parsers on the sanitised build for a while, led by the edges
that frames take.

Exit code 0 = nothing found; otherwise the sanitiser's report and the frame are printed.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.fuzz import sanitised


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=600.0)
    arguments.add_argument("--seed", type=int, default=None, help="random and printed by default")
    options = arguments.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
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


if __name__ == "__main__":
    sys.exit(main())
