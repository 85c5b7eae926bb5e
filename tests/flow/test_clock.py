"""The wall clock is set while processes run: no process waits for it."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.flow.clock import WallClock
from tests.flow.exchanges import Exchanges

ASK = """
import sys, time
for _ in sys.stdin:
    print(time.time_ns(), time.monotonic_ns(), flush=True)
"""


def test_a_step_moves_the_wall_clock_and_not_the_monotonic_clock(
    tmp_path: Path,
) -> None:
    clock = WallClock(tmp_path, -3600)
    with subprocess.Popen(
        [sys.executable, "-c", ASK],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for offset_s in (-3600, 7200, 0):
            clock.step(offset_s)
            before = time.time_ns() + offset_s * 10**9, time.monotonic_ns()
            process.stdin.write(b"\n")
            process.stdin.flush()
            wall, monotonic = map(int, process.stdout.readline().split())
            assert before[0] <= wall <= time.time_ns() + offset_s * 10**9
            assert before[1] <= monotonic <= time.monotonic_ns()
        process.stdin.close()


@pytest.mark.timeout(900)
def test_a_clock_that_steps_by_hours_delays_no_connection(tmp_path: Path) -> None:
    """Back, forward and nearly right again, each time with a lost connection behind it."""
    clock = WallClock(tmp_path)
    # socket paths are limited
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        names = (("ticker", "upbit"), ("orderbook", "bithumb"), ("ticker", "binance"))
        running = Exchanges(Path(folder), *names, **clock.environment)
        try:
            running.until_synced([0, 0, 0], 120)
            for offset_s in (-3600.0, 7200.0, -5.0):
                clock.step(offset_s)
                # the windows of both contain entries from before the step
                for _ in range(2):
                    before = running.connects()
                    running.fault("cut:*")
                    running.until_synced(before, 90)
            assert "Traceback" not in running.text
        finally:
            running.close()
