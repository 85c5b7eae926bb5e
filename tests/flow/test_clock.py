"""The wall clock that tests can set."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.flow.clock import WallClock

ASK = """
import sys, time
for _ in sys.stdin:
    print(time.time_ns(), time.monotonic_ns(), flush=True)
"""


def test_a_wall_clock_steps_in_a_running_process_and_its_monotonic_one_does_not(
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
            process.stdin.write(b"\n")
            process.stdin.flush()
            wall, monotonic = map(int, process.stdout.readline().split())
            assert abs(wall / 1e9 - time.time() - offset_s) < 5
            assert abs(monotonic - time.monotonic_ns()) < 5e9
        process.stdin.close()
