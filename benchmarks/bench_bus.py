"""The cost of a message between two processes, both together.

Every message of the platform crosses the bus at least once, most of them three times. The limit is
libzmq itself, called from C with one joined part; three parts show what the layout costs.
"""

from __future__ import annotations

import tempfile
from functools import partial

import pytest

from benchmarks.bus_pair import CANDIDATES, library
from benchmarks.measure import Bench, Result, gated
from benchmarks.native import limits
from benchmarks.pipeline import PAYLOAD_SIZE
from benchmarks.processes import report_of
from coinspace.bench.measure import OURS, interleaved

# a new process per round: one candidate's cost varied by 40 % over five of them
ROUNDS = 11
INPUT = f"order books, 30 levels per side, {PAYLOAD_SIZE} B of payload, bursts of 10,000"


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    # compiled here, so that no candidate's time includes it
    limits()
    library()


def test_ipc(bench: Bench) -> None:
    def measure() -> Result:
        sides: dict[str, list[dict[str, float]]] = {}

        def run(name: str) -> float:
            # a socket of its own: the one before may still be closing
            with tempfile.TemporaryDirectory(dir="/tmp") as folder:
                report = report_of(
                    "benchmarks.bus_pair", name, f"ipc://{folder}/bus.ipc", str(PAYLOAD_SIZE)
                )
            sides.setdefault(name, []).append(report)
            return float(report["cpu_ns"])

        timing = interleaved({name: partial(run, name) for name in CANDIDATES}, ROUNDS)
        result = Result("bus", "1 KB, ipc", "CPU ns/message", INPUT, timing)
        result.share("C, one part", gate=0.6, goal=0.75)
        result.share("C, three parts", goal=0.95)
        result.ratio("send_multipart", gate=3.5)
        for side in ("publisher", "subscriber"):
            result.figures[f"{side}, CPU ns"] = min(one[side] for one in sides[OURS])
        best = min(one["wall_ns"] for one in sides[OURS])
        result.figures["messages/s, best round"] = round(1e9 / best)
        return result

    gated(bench, measure)
