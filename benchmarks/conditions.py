"""What a figure was measured on: stored with each row, and told once where all rows agree."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.ondemand import HEADERS

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = Path("build/peers/bin/python")
LIBRARIES = (
    "numpy",
    "uvloop",
    "picows",
    "pyzmq",
    "orjson",
    "msgspec",
    "pysimdjson",
    "websockets",
    "aiohttp",
    "fastapi",
    "questdb",
    "sortedcontainers",
    "Cython",
)
PEERS = ("cryptofeed", "ccxt", "nautilus_trader", "order_book", "orjson", "numpy", "uvloop")
PEERS_KEY = "peers' environment"
# in the order in which the report tells them
KEYS = ("machine", "Python", "tools", PEERS_KEY, "commit")


def conditions(command: str) -> dict[str, Any]:
    """Return what this process has measured on: KEYS, and the load of this moment."""
    found: dict[str, Any] = {"machine": _machine(), "tools": _tools(), "commit": _commit()}
    if _own_peers():
        found[PEERS_KEY] = f"Python {platform.python_version()}; {_versions(PEERS)}"
    else:
        found["Python"] = f"{platform.python_version()}; {_versions(LIBRARIES)}"
        if command == "make bench-peers":
            found[PEERS_KEY] = _other_peers()
    found["load"] = round(os.getloadavg()[0], 1)
    return {key: value for key, value in found.items() if value != ""}


def told(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the conditions of all rows, each told once, and which rows' differ."""
    lines = []
    for key in KEYS:
        values = [(row["conditions"].get(key), row) for row in rows if "conditions" in row]
        counted = Counter(value for value, _ in values if value is not None)
        for number, (value, _) in enumerate(counted.most_common()):
            of = [f"{row['stage']}, {row['case']}" for known, row in values if known == value]
            which = f" of {'; '.join(of)}" if number else ""
            lines.append(f"* {key}{which}: {value}")
    loads = [row["conditions"]["load"] for row in rows if "conditions" in row]
    if loads:
        lines.append(f"* load when a row was saved: {min(loads)} to {max(loads)}")
    unknown = [f"{row['stage']}, {row['case']}" for row in rows if "conditions" not in row]
    if unknown:
        lines.append(f"* not known of {'; '.join(unknown)}")
    return lines


@cache
def _machine() -> str:
    model, memory = platform.processor() or platform.machine(), ""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = f", {int(line.split()[1]) / 2**20:.0f} GiB"
    system = f"{platform.system()} {platform.release()}"
    return f"{model}, {os.cpu_count()} processors{memory}, {system}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@cache
def _own_peers() -> bool:
    return Path(sys.prefix).resolve() == PEERS_PYTHON.parent.parent.resolve()


@cache
def _versions(names: tuple[str, ...]) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def _tools() -> str:
    """Return what is no package of Python: compilers, headers, and what runs beside us."""
    import zmq

    from coinspace.storage.questdb.runtime import VERSION

    found = [f"libzmq {zmq.zmq_version()}", f"QuestDB {VERSION}"]
    for header in HEADERS:
        if header.exists():
            text = header.read_text(errors="replace")
            number = re.search(r"^#define SIMDJSON_VERSION \"?([\d.]+)", text, re.M)
            found += [f"simdjson (C++) {number[1]}"] if number else []
            break
    for name, *command in (
        ("gcc", "gcc", "-dumpfullversion"),
        ("valgrind", "valgrind", "--version"),
    ):
        if shutil.which(command[0]):
            found.append(f"{name} {_output(command).removeprefix('valgrind-')}")
    return ", ".join(found)


@cache
def _commit() -> str:
    return _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"])


@cache
def _other_peers() -> str:
    code = "from benchmarks import conditions as c; print(c.conditions('')[c.PEERS_KEY])"
    return _output([str(PEERS_PYTHON), "-c", code])


def _output(command: list[str]) -> str:
    """Return what a command prints, "" when it cannot or fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
