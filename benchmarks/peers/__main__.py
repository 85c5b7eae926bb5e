"""Measure every peer, print the figures, exit 1 when a gate fails twice: `make bench-peers`."""

from __future__ import annotations

import sys

from benchmarks.measure import measured, print_result
from benchmarks import pipeline
from benchmarks.peers import book, parse


def main() -> int:
    parse.prepare()
    failed = False
    for one in (*parse.MEASURES, *book.MEASURES, pipeline.measure_peers):
        result = measured(one)
        print_result(result)
        failed = failed or bool(result.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
