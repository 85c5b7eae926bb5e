"""Indices without a value, as observed by the endpoint."""

from __future__ import annotations

from collections.abc import Callable

from coinspace.clock import SECOND_NS, Clock, monotonic_ns
from coinspace.method.record import IndexRecord


class Nulls:
    """Since when each index has no value, as observed by this process."""

    def __init__(self, allowed_s: Callable[[str], float], clock: Clock = monotonic_ns) -> None:
        self._allowed_s = allowed_s
        self._clock = clock
        self._since_ns: dict[str, int] = {}

    def failed(self, asset: str, record: IndexRecord) -> bool:
        """Return whether an index is null for longer than the methodology allows."""
        if record.value is not None:
            self._since_ns.pop(asset, None)
            return False
        null_ns = self._clock() - self._since_ns.setdefault(asset, self._clock())
        # the calculator may have run longer than this process
        return bool(record.failed) or null_ns >= self._allowed_s(asset) * SECOND_NS
