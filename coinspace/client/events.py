"""Server-sent events: bytes in, events out; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

# an event larger than this is not ours
EVENT_LIMIT = 8 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream.

    Attributes: name (`index`, `book`, `gap`, …), data (decoded JSON), id ("" = none).
    """

    name: str
    data: Any
    id: str = ""


class EventParser:
    """Splits a stream into events; `retry_s` is what the server asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.retry_s = 1.0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that these bytes complete. Raises: ValueError for what is no event."""
        self._buffer += data
        if len(self._buffer) > EVENT_LIMIT:
            raise ValueError(f"event: expected at most {EVENT_LIMIT} bytes")
        while (end := self._buffer.find(b"\n\n")) >= 0:
            block = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            event = self._event(block)
            if event is not None:
                yield event

    def _event(self, block: bytes) -> Event | None:
        name, identity, data = "message", "", b""
        for line in block.split(b"\n"):
            field, _, value = line.partition(b": ")
            if field == b"event":
                name = value.decode()
            elif field == b"id":
                identity = value.decode()
            elif field == b"data":
                data += value
            elif field == b"retry" and value.isdigit():
                self.retry_s = int(value) / 1000
        return Event(name, orjson.loads(data), identity) if data else None
