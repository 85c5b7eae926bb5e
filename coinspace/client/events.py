"""Server-sent events: bytes in, events out; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

# the API sends no larger event
EVENT_LIMIT = 8 << 20
ID_LIMIT = 64
# pause before a reconnect: a server must not make the client reconnect without a pause
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream.

    Attributes: name (`index`, `book`, `gap`, …), data (decoded JSON), id ("" = none).
    """

    name: str
    data: Any
    id: str = ""


class EventParser:
    """Splits a stream into events; `retry_s` is the server's pause before a reconnect."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        # no event ends before here
        self._searched = 0
        self.retry_s = 1.0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete. Raises: ValueError for malformed data."""
        self._buffer += data
        if len(self._buffer) > EVENT_LIMIT:
            raise ValueError(f"event: expected at most {EVENT_LIMIT} bytes")
        while (end := self._buffer.find(b"\n\n", self._searched)) >= 0:
            block = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._searched = 0
            event = self._event(block)
            if event is not None:
                yield event
        self._searched = max(0, len(self._buffer) - 1)

    def _event(self, block: bytes) -> Event | None:
        # a bytearray: an event can have a million lines of data
        name, identity, data = "message", "", bytearray()
        for line in block.split(b"\n"):
            field, _, value = line.partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"id":
                identity = _identity(value)
            elif field == b"data":
                data += value
            elif field == b"retry" and value.isdigit() and len(value) < 10:
                self.retry_s = min(max(int(value) / 1000, SHORTEST_RETRY_S), LONGEST_RETRY_S)
        return Event(name, orjson.loads(data), identity) if data else None


def merged_premiums(rows: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return the premiums by asset after an event `premiums`, whose `data` may be changes only.

    Args: rows: what this function returned for the event before; {} at the begin.
    """
    found = {} if data["full"] else dict(rows)
    for row in data["premiums"]:
        found[row["asset"]] = _merged(found.get(row["asset"], {}), row)
    for asset in data["missing"]:
        found.pop(asset, None)
    return found


def _merged(before: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = before | changes
    if isinstance(before.get("stats"), dict) and "stats" in changes:
        found["stats"] = before["stats"] | {
            basis: before["stats"].get(basis, {}) | moves
            for basis, moves in changes["stats"].items()
        }
    return found


def _identity(value: bytes) -> str:
    # sent back in a header
    text = value.decode()
    return text if len(text) <= ID_LIMIT and text.isascii() and text.isprintable() else ""
