"""The cost of a message between two processes, both together, and of its journal record.

Every message of the platform crosses the bus at least once, most of them three times. The limit is
libzmq itself, called from C with one joined part; two parts in C, which a message has, and three
show what the layout costs.
A regression here slows every process.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest

from benchmarks.bus_pair import CANDIDATES, library
from benchmarks.measure import Benchmark, Result, gated
from benchmarks.native import limits
from benchmarks.pipeline import PAYLOAD_SIZE
from benchmarks.processes import interleaved, report_of
from coinspace.bench.measure import OURS

# a new process per round: one candidate's cost varied by 40 % over five of them
PROCESS_ROUNDS = 11
INPUT = f"order books, 30 levels per side, {PAYLOAD_SIZE} B of payload, bursts of 10,000"
ONE_PART, TWO_PARTS, THREE_PARTS = "C, one part", "C, two parts", "C, three parts"
JOURNALLED = "CoinSpace with journal"
BATCH = 1000
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    # compiled here, so that no candidate's time includes it
    limits()
    library()


def test_ipc(benchmark: Benchmark, tmp_path: Path) -> None:
    def measure(rounds: int) -> Result:
        sides: dict[str, list[dict[str, float]]] = {}

        def run(name: str) -> float:
            # a socket of its own: the one before may still be closing
            with tempfile.TemporaryDirectory(dir="/tmp") as folder:
                report = report_of(
                    "benchmarks.bus_pair", name, f"ipc://{folder}/bus.ipc", str(PAYLOAD_SIZE)
                )
            sides.setdefault(name, []).append(report)
            return float(report["cpu_ns"])

        timing = interleaved(
            {name: lambda name=name: run(name) for name in CANDIDATES},  # type: ignore[misc]
            min(rounds, PROCESS_ROUNDS),
        )
        result = Result("bus", "1 KB, ipc", "CPU ns/message", INPUT, timing)
        result.share(ONE_PART, gate=0.6, goal=0.75)
        result.share(THREE_PARTS, goal=0.95)
        result.ratio("send_multipart", gate=3.5)
        for side in ("publisher", "subscriber"):
            result.figures[f"{side}, CPU ns"] = min(one[side] for one in sides[OURS])
        best = min(one["wall_ns"] for one in sides[OURS])
        result.figures["messages/s, best round"] = round(1e9 / best)
        return result

    gated(benchmark, measure)
