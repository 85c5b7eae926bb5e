"""Indices without a value, as the endpoint sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coinspace.clock import SECOND_NS, Clock, monotonic_ns


class Nulls:
    """Since when each index has no value, as far as this process has seen."""

    def __init__(self, allowed_s: Callable[[str], float], clock: Clock = monotonic_ns) -> None:
        self._allowed_s = allowed_s
        self._clock = clock
        self._since_ns: dict[str, int] = {}

    def failed(self, asset: str, record: dict[str, Any]) -> bool:
        """Tell whether an index is null for longer than the method allows."""
        if record.get("value") is not None:
            self._since_ns.pop(asset, None)
            return False
        null_ns = self._clock() - self._since_ns.setdefault(asset, self._clock())
        # the calculator knows it from before this process was there
        return bool(record.get("failed")) or null_ns >= self._allowed_s(asset) * SECOND_NS
