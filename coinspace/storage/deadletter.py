"""Rows that the database refused: kept in a file with the server's words, one JSON line each."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from coinspace.clock import now_ns


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
        with self.path.open("ab") as file:
            file.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        self.count += 1
        return at_ns


def read(path: Path, since_ns: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the entries of a file since a time, `ilp` as bytes; a torn line is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                entry = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if entry["at_ns"] >= since_ns:
                entry["ilp"] = base64.b64decode(entry["ilp"])
                yield entry
