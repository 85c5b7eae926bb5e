"""`python tests/unit/supervised.py NAME MODE DATA`: a child of the supervisor's tests."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from coinspace import process
from coinspace.config import Settings

NAME, MODE, DATA = sys.argv[1:]
if MODE == "crash at once":
    sys.exit(3)


def hold_pipes() -> None:
    """Start a process that outlives this one and keeps its stdout and stderr open."""
    holder = subprocess.Popen(["sleep", "600"])
    Path(DATA, f"holder.{holder.pid}").touch()


async def main(running: process.Process) -> None:
    if MODE == "pipe holder":
        hold_pipes()
        raise OSError(24, "Too many open files")
    if MODE == "crash":
        os._exit(3)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MODE == "reload":
        counts: dict[str, int | float] = {"reloads": 0}
        running.counters = lambda: counts
        add = asyncio.get_running_loop().add_signal_handler
        add(signal.SIGHUP, lambda: counts.update(reloads=counts["reloads"] + 1))
    running.ready()
    print("hello", flush=True)
    if MODE == "hang":
        await asyncio.sleep(0.2)
        time.sleep(600)  # noqa: ASYNC251
    if MODE == "talk":
        while not running.stopping.is_set():
            print("x" * 1000, flush=True)
            await asyncio.sleep(0.001)
    await running.stopping.wait()


process.run(NAME, Settings(data=Path(DATA)), main)
