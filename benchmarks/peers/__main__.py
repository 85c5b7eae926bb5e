"""Measure every peer, print a table, exit 1 when a gate fails twice: `make bench-peers`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from benchmarks import pipeline
from benchmarks.history import remember
from benchmarks.measure import Result, line_of, measured, missed
from benchmarks.peers import book, parse
from coinspace.bench.table import table


def main() -> int:
    parse.prepare()
    results = []
    measures: list[Callable[[], Result]] = [*parse.MEASURES, *book.MEASURES, pipeline.measure_peers]
    for one in measures:
        results.append(measured(one))
        print(f"{results[-1].stage}: {results[-1].case} measured", flush=True)
    Console(width=140).print(table(map(line_of, results)))
    print(*missed(results), sep="\n")
    remember(results)
    return int(any(one.failures for one in results))


if __name__ == "__main__":
    sys.exit(main())
