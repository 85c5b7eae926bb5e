"""Random faults of every kind at the same time, from a seed: the platform recovers by itself.

`make faults` runs a minute and half an hour of them; COINSPACE_SEED and COINSPACE_CHAOS_S choose
another run. Figures are saved for `make report`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import FOLDER, Result
from coinspace.clock import SECOND_NS
from tests.flow.chaos import ASSETS, Chaos
from tests.flow.host import Disk, Network
from tests.flow.platform import Database, query
from tests.waiting import wait_for

FIGURES = Path(__file__).resolve().parents[2] / FOLDER
SEED = int(os.environ.get("COINSPACE_SEED", "1"))
LONG_S = float(os.environ.get("COINSPACE_CHAOS_S", "1800"))
COUNTS = ("published", "stored", "repeats", "duplicates", "gaps", "lost", "unexplained")
SHORT_S = 60.0
DISK_MB = 6000
RECOVERY_S = 300.0
# a restarted process is compared with earlier ones: allocators differ by this much
SLACK_MB = 40.0


@pytest.fixture
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """A running platform on a small disk of its own and a clock that can be set."""
    # sockets' paths must stay short
    folder = tmp_path_factory.mktemp("c")
    with ExitStack() as host:
        try:
            disk = host.enter_context(Disk(folder, DISK_MB))
            network = host.enter_context(Network())
        except PermissionError as error:
            pytest.skip(f"this user may not make a disk and a network: {error}")
        made = Chaos(folder, disk, network, SEED)
        host.callback(made.close)
        made.start()
        yield made


def survive(chaos: Chaos, seconds: float, case: str) -> None:
    """Apply faults for a time; then every process must be healthy, complete and no larger."""
    began_ns = time.time_ns()
    chaos.run(seconds)
    calm = time.monotonic()
    wait_for(chaos.healthy, "a healthy platform without a hand", limit_s=RECOVERY_S)
    recovered_s = time.monotonic() - calm
    chaos.sample()
    end_ns = time.time_ns() - 5 * SECOND_NS
    try:
        wait_for(
            lambda: not missing(chaos, began_ns, end_ns),
            "a record of every tick",
            limit_s=RECOVERY_S,
        )
    except AssertionError:
        absent = missing(chaos, began_ns, end_ns)
        outages = query(chaos.data, "select * from gap where kind = 'index'")
        pytest.fail(f"{len(absent)} ticks have no record, {absent[:20]}; outages: {outages}")
    counts = {asset: chaos.tick_counts(asset, 0, 1 << 62) for asset in ASSETS}
    assert chaos.stop() == 0
    with Database(chaos.data):
        report = chaos.reconcile()
    save(chaos, case, recovered_s, report, counts["BTC"].total())
    assert max(max(one.values()) for one in counts.values()) == 1
    assert report["unexplained"] == []
    for name, (first_mb, last_mb) in chaos.growth().items():
        assert last_mb <= first_mb + SLACK_MB, (
            f"{name} grew from {first_mb:.0f} to {last_mb:.0f} MB"
        )


def missing(chaos: Chaos, start_ns: int, end_ns: int) -> list[tuple[str, int]]:
    """Return the ticks without a record, of instants at which the clock was right."""
    found = []
    for asset in ASSETS:
        counts = chaos.tick_counts(asset, start_ns, end_ns)
        found += [
            (asset, at_ns)
            for at_ns in chaos.expected_ticks(start_ns, end_ns)
            if at_ns not in counts
        ]
    return found


def save(chaos: Chaos, case: str, recovered_s: float, report: dict[str, Any], ticks: int) -> None:
    """Save the figures for the report."""
    result = Result("faults", case, "", f"simulated, rate {chaos.rate:g}, seed {chaos.seed}")
    result.command = "make faults"
    total = report["total"]
    result.figures = {
        "faults applied": chaos.done.total(),
        "kinds of fault": len(chaos.done),
        "s until healthy without a hand": round(recovered_s, 1),
        **{f"messages, {name}": total[name] for name in COUNTS},
        "ticks recorded, BTC": ticks,
        "growth at most, MB": round(max(b - a for a, b in chaos.growth().values()), 1),
        "descriptors at most": max(chaos.descriptors().values()),
        "load": round(os.getloadavg()[0], 1),
    }
    result.save(FIGURES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_minute_of_chaos(chaos: Chaos) -> None:
    survive(chaos, SHORT_S, f"chaos, 1 min, seed {SEED}")


@pytest.mark.slow
@pytest.mark.timeout(LONG_S + 1200)
def test_half_an_hour_of_chaos(chaos: Chaos) -> None:
    survive(chaos, LONG_S, f"chaos, {LONG_S / 60:g} min, seed {SEED}")
