"""A REST answer of a simulated server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson


class Answer(NamedTuple):
    """A REST answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a JSON answer; bytes are already JSON."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    return Answer(status, body, headers or {})
