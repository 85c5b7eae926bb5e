"""The file in which a process writes its state every second, for commands that must start fast."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import orjson

from coinspace.files import read_regular

HEALTH_INTERVAL_S = 1.0
# what every health has, in a file or a heartbeat
NEEDED = {"counters": dict, "updated_ns": int, "started_ns": int}


class Located(Protocol):
    """Settings, or those of them that name the data folder."""

    @property
    def data(self) -> Path: ...


def health_path(settings: Located, name: str) -> Path:
    """Return where a process writes its health file."""
    return settings.data / "run" / f"{name}.json"


def read_health(settings: Located, name: str) -> dict[str, Any] | None:
    """Return a process's last health file, None when it has none."""
    try:
        health: dict[str, Any] = orjson.loads(read_regular(health_path(settings, name)))
    except (OSError, ValueError):
        return None
    return health if isinstance(health, dict) else None


def is_whole(health: dict[str, Any]) -> bool:
    """Return whether a health has what its readers need."""
    return all(isinstance(health.get(name), kind) for name, kind in NEEDED.items())


def alive(pid: int) -> bool:
    """Return whether a process with this pid runs; one that its parent has not reaped does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
