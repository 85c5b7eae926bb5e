"""A second process of a name on one data folder is refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coinspace.errors import ConfigError
from coinspace.lock import lock_file


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    path = tmp_path / "worker.lock"
    first = lock_file(path, "worker")
    with pytest.raises(ConfigError, match=f"worker: .* found process {os.getpid()}"):
        lock_file(path, "worker")
    os.close(first)
    os.close(lock_file(path, "worker"))


SCRIPT = """
import sys
from pathlib import Path
from coinspace.config import Settings
from coinspace.process import run

async def main(process):
    process.ready()
    print("runs", flush=True)
    await process.stopping.wait()

try:
    run(sys.argv[2], Settings(data=Path(sys.argv[1])), main)
except Exception as error:
    sys.exit(str(error))
"""


def test_a_process_runs_once_on_a_data_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    first = subprocess.Popen([*command, "worker"], stdout=subprocess.PIPE)
    with first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == b"runs\n"
            second = subprocess.run(
                [*command, "worker"], capture_output=True, text=True, timeout=60, check=False
            )
            assert second.returncode == 1
            assert f"found process {first.pid}" in second.stderr
            # another name is another process
            os.close(lock_file(tmp_path / "run" / "other.lock", "other"))
        finally:
            first.terminate()
            assert first.wait(60) == 0
