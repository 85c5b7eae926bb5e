"""Rows that the database refused: kept in a file with the server's words, one JSON line each."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import orjson

from coinspace.clock import now_ns


class DeadLetters:
    """An append-only file; a row is on disk before it counts as accounted for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0

    def add(self, table: str, reason: str, key: object, lines: bytes) -> None:
        """Append one row as it would have gone over the wire. Raises: OSError."""
        entry = {
            "at_ns": now_ns(),
            "table": table,
            "reason": reason,
            "key": key,
            "ilp": base64.b64encode(lines).decode(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        self.count += 1


def read(path: Path) -> list[dict[str, object]]:
    """Return the entries of a file, `ilp` as bytes; a torn last line is left out."""
    entries: list[dict[str, object]] = []
    if not path.exists():
        return entries
    for line in path.read_bytes().splitlines():
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        entry["ilp"] = base64.b64decode(entry["ilp"])
        entries.append(entry)
    return entries
