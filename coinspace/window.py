"""Sums over the last seconds."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Time = TypeVar("Time", int, float)


class Used(Generic[Time]):
    """Amounts used in a rolling window. Times and `span` are in one unit of one clock."""

    def __init__(self, span: Time) -> None:
        self.span: Time = span
        self.total = 0
        # (time, amount), the oldest first
        self.entries: deque[tuple[Time, int]] = deque()

    def forget(self, now: Time) -> None:
        """Drop the amounts from before the window."""
        while self.entries and now - self.entries[0][0] >= self.span:
            self.total -= self.entries.popleft()[1]

    def add(self, now: Time, amount: int = 1) -> int:
        self.entries.append((now, amount))
        self.total += amount
        self.forget(now)
        return self.total
