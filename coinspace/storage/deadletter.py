"""Rows that the database refused: kept in a file with the server's words, one JSON line each.

Bounded to two files of FILE_BYTES; each row's loss is in the table `gap` as well, without a bound.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from coinspace.clock import now_ns

# some 300,000 books; who sees none of that for so long will not miss the oldest
FILE_BYTES = 256 << 20


class DeadLetters:
    """An append-only file; a row is on disk before it counts as accounted for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def add(self, table: str, reason: str, key: object, lines: bytes) -> int:
        """Append one row as it would have gone over the wire.

        Returns: its time, ns. Raises: OSError.
        """
        at_ns = now_ns()
        entry = {
            "at_ns": at_ns,
            "table": table,
            "reason": reason,
            "key": key,
            "ilp": base64.b64encode(lines).decode(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        if not new and self.path.stat().st_size > FILE_BYTES:
            self.path.replace(older(self.path))
            new = True
        with self.path.open("ab") as file:
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.path.parent)
        self.count += 1
        return at_ns


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk: a file that was made or renamed is found after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def older(path: Path) -> Path:
    """Return where a file's entries go when it is full, in place of those before them."""
    return path.with_name(f"{path.name}.1")


def read(path: Path, since_ns: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the entries kept since a time, oldest first; `ilp` as bytes, a torn line left out."""
    for one in (older(path), path):
        if one.exists():
            yield from _read(one, since_ns)


def _read(path: Path, since_ns: int) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if entry["at_ns"] >= since_ns:
                entry["ilp"] = base64.b64decode(entry["ilp"])
                yield entry
