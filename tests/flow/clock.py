"""The wall clock of processes under test, set forward and back while they run."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).with_name("clock_shim.c")


class WallClock:
    """A separate wall clock for the processes that get its `environment`.

    All of them share it; their monotonic clock runs on. Use one for each host of a test.

    Args: folder: takes the library and the offset.
    """

    def __init__(self, folder: Path, offset_s: float = 0.0) -> None:
        self._library = folder / "clock_shim.so"
        self._offset = folder / "clock_offset"
        compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", self._library, SOURCE, "-ldl"], check=True
        )
        self._offset.write_bytes(bytes(8))
        self.step(offset_s)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which a process sees this clock."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIM_FILE": str(self._offset)}

    def step(self, offset_s: float) -> None:
        """Set the clock's offset from the true time, in seconds, in one step."""
        # overwritten in place: the processes have mapped the file
        with self._offset.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), int(offset_s * 1e9).to_bytes(8, "little", signed=True), 0)
