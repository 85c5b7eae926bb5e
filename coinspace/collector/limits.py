"""Policies without I/O: rolling-window limits, and when to dial again."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

from coinspace.clock import SECOND_NS
from coinspace.exchanges.exchange import Limit, Stream

# first dial at once, then 1, 2, 4 … 60 s, each ±20 %
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
JITTER = 0.2
# a connection that lived this long was a good one: the next wait starts small again
STABLE_NS = 30 * SECOND_NS


# the exchange counts by address, and each of its two streams has a process of its own
SHARES: dict[Stream, float] = {"orderbook": 0.75, "ticker": 0.25}


def shared(limit: Limit, stream: Stream) -> Limit:
    """Return a stream's part of a limit that both of an exchange's processes are under."""
    count = int(limit.count * SHARES[stream])
    if count:
        return replace(limit, count=count)
    # less than one: as rarely
    return Limit(1, limit.seconds / (limit.count * SHARES[stream]))


class Window:
    """At most `limit.count` units in any `limit.seconds`: strict, no bursts beyond."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._span_ns = int(limit.seconds * SECOND_NS)
        self._used: deque[tuple[int, int]] = deque()
        self._units = 0
        self._blocked_ns = 0

    def wait_ns(self, now_ns: int, units: int = 1) -> int:
        """Return how long to wait until `units` fit, 0 = now."""
        while self._used and now_ns - self._used[0][0] >= self._span_ns:
            self._units -= self._used.popleft()[1]
        blocked = max(0, self._blocked_ns - now_ns)
        over = self._units + units - self.limit.count
        if over <= 0:
            return blocked
        for at_ns, used in self._used:
            over -= used
            if over <= 0:
                return max(blocked, at_ns + self._span_ns - now_ns)
        # more units than the limit itself allows: when the window is empty
        return max(blocked, self._used[-1][0] + self._span_ns - now_ns if self._used else 0)

    def take(self, now_ns: int, units: int = 1) -> None:
        """Count units as used."""
        self._used.append((now_ns, units))
        self._units += units

    def block(self, until_ns: int) -> None:
        """Let nothing through until then: the exchange said so."""
        self._blocked_ns = max(self._blocked_ns, until_ns)


class Dialer:
    """Says when the next connection attempt may be made."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self.failures = 0
        self._opened_ns = 0
        self._not_before_ns = 0

    def wait_ns(self, now_ns: int) -> int:
        """Return how long to wait before dialling, 0 = now."""
        return max(0, self._not_before_ns - now_ns)

    def opened(self, now_ns: int) -> None:
        """The connection is open."""
        self._opened_ns = now_ns

    def lost(self, now_ns: int, retry_after_s: float = 0.0) -> float:
        """The attempt failed or the connection ended; return the seconds to wait.

        Args: retry_after_s: what the exchange asked for, a lower bound.
        """
        good = self._opened_ns and now_ns - self._opened_ns >= STABLE_NS
        self._opened_ns = 0
        if good:
            # the first dial after a good connection is made at once
            self.failures = 0
            wait = retry_after_s
        else:
            base = min(FIRST_WAIT_S * 2 ** min(self.failures, 10), LONGEST_WAIT_S)
            self.failures += 1
            wait = max(base * self._random.uniform(1 - JITTER, 1 + JITTER), retry_after_s)
        self._not_before_ns = now_ns + int(wait * SECOND_NS)
        return wait
