"""Processes of a measurement: started together, waited for and ended here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from coinspace.config import load

START_TIMEOUT_S = 30
RUN_TIMEOUT_S = 40
END_TIMEOUT_S = 15
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd()}


@contextlib.contextmanager
def streaming(kind: str, *, rate: int = 0, sent: Path | None = None) -> Iterator[int]:
    """Run benchmarks.stream; yields its port."""
    command = [sys.executable, "-m", "benchmarks.stream", "--kind", kind, "--rate", str(rate)]
    if sent is not None:
        command += ["--sent", str(sent)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield orjson.loads(process.stdout.readline())["port"]
    finally:
        process.stdin.close()
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def report_of(module: str, *args: str) -> dict[str, Any]:
    """Run `python -m module args` to its end; returns the JSON of its last line of output.

    Raises: RuntimeError with the end of its stderr when it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        capture_output=True,
        timeout=RUN_TIMEOUT_S,
        env=ENVIRONMENT,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        what = f"{module} {' '.join(args)}: exit code {done.returncode}"
        raise RuntimeError(f"{what}\n{done.stderr.decode(errors='replace')[-2000:]}")
    report: dict[str, Any] = orjson.loads(lines[-1])
    return report


@contextlib.contextmanager
def running(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run `python -m COMMAND` for each command until the end of the block."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**ENVIRONMENT, **environment},
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        yield started
    finally:
        ended(*started)


def upbit_at(port: int, folder: str) -> dict[str, str]:
    """Return the variables of a platform that collects BTC/KRW of Upbit from a local stream."""
    return {
        "COINSPACE_DATA": folder,
        "COINSPACE_EXCHANGES__UPBIT__WEBSOCKET": f"ws://127.0.0.1:{port}/websocket/v1",
        "COINSPACE_EXCHANGES__UPBIT__REST": f"http://127.0.0.1:{port}",
        "COINSPACE_EXCHANGES__UPBIT__MARKETS": '["BTC/KRW"]',
    }


def bus_endpoint(folder: str, process: str) -> str:
    """Return where a process of a data folder publishes."""
    settings = load(os.devnull).model_copy(update={"data": Path(folder)})
    settings.model_post_init(None)
    return settings.bus.endpoint(process)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far, as the scheduler counts it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        # a thread that has just ended
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def ended(*processes: subprocess.Popen[bytes]) -> None:
    """Ask processes to end, wait for them, and kill those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
