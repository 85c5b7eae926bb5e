"""Conditions of a measurement, stored with each row."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import zmq

ROOT = Path(__file__).resolve().parent.parent
# ours, and those of the peers' environment
LIBRARIES = (
    "numpy", "uvloop", "picows", "pyzmq", "orjson", "msgspec", "websockets", "aiohttp", "fastapi",
    "questdb", "sortedcontainers", "Cython", "cryptofeed", "ccxt", "nautilus_trader", "order_book",
)  # fmt: skip


@cache
def conditions() -> dict[str, Any]:
    """Return the conditions of this process's measurements."""
    return {"machine": _machine(), "Python": _python(), "commit": _commit()}


def _machine() -> str:
    models = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0]
    model = models.strip("\t :") or platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} processors, {memory:.0f} GiB, {system}"


def _python() -> str:
    found = [platform.python_version(), f"libzmq {zmq.zmq_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _commit() -> str:
    # the peers' folder has no repository
    if given := os.environ.get("BENCH_COMMIT"):
        return given
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    if shutil.which("git") is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
