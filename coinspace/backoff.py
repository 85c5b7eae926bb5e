"""How long to wait before the next attempt."""

from __future__ import annotations

# bounds the exponent; more doublings exceed any `last_s`
MOST_DOUBLINGS = 30


class Backoff:
    """Waits in seconds: `first_s`, then twice as long after each failure, at most `last_s`."""

    def __init__(self, first_s: float, last_s: float) -> None:
        self.first_s = first_s
        self.last_s = last_s
        self.failures = 0

    def next(self) -> float:
        """Count a failure and return the wait after it."""
        wait_s = min(self.first_s * 2.0 ** min(self.failures, MOST_DOUBLINGS), self.last_s)
        self.failures += 1
        return wait_s

    def reset(self) -> None:
        self.failures = 0
