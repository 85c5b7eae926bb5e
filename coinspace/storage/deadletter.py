"""Keeps refused rows in a file with the server's reason, one JSON line each.

The file and its predecessor have at most FILE_BYTES each. The table `gap` also has a row for each
loss.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from coinspace.clock import now_ns
from coinspace.files import sync_folder

# about 300,000 books
FILE_BYTES = 256 << 20


def add(path: Path, table: str, reason: str, key: object, lines: bytes) -> int:
    """Append one row as encoded for the wire; it is on disk when this returns.

    Returns: the time of the entry, ns. Raises: OSError.
    """
    at_ns = now_ns()
    entry = {
        "at_ns": at_ns,
        "table": table,
        "reason": reason,
        "key": key,
        "ilp": base64.b64encode(lines).decode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    if not new and path.stat().st_size > FILE_BYTES:
        path.replace(older(path))
        new = True
    with path.open("ab") as file:
        file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(path.parent)
    return at_ns


def older(path: Path) -> Path:
    """Return the path that a full file is moved to; it replaces the one before."""
    return path.with_name(f"{path.name}.1")


def read(path: Path, since_ns: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the entries since a time, oldest first, `ilp` as bytes; torn lines are skipped."""
    for one in (older(path), path):
        with contextlib.suppress(FileNotFoundError), one.open("rb") as file:
            for line in file:
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if entry["at_ns"] >= since_ns:
                    entry["ilp"] = base64.b64decode(entry["ilp"])
                    yield entry
