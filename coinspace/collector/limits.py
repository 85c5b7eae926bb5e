"""Policies without I/O: limits over rolling windows, when to dial again, which failures to log.

All times are ns of the monotonic clock, because they measure durations.
"""

from __future__ import annotations

import random
from dataclasses import replace

from coinspace.backoff import Backoff
from coinspace.clock import SECOND_NS
from coinspace.exchanges.exchange import Limit, Stream
from coinspace.window import Used

# first dial at once, then 1, 2, 4 … 60 s, each ±20 %
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
JITTER = 0.2
# a connection that lived this long was good: the next wait starts small again
STABLE_NS = 30 * SECOND_NS
# failures that count at most after a shorter connection that delivered data: the wait is 4 s
DELIVERED_FAILURES = 2
# failures are logged at most once in this time
LOG_INTERVAL_NS = 60 * SECOND_NS
# causes whose last line is remembered
LOG_CAUSES = 100
# waits after HTTP 418 and 429 when the exchange names no time
BAN_S = 120.0
BLOCK_S = 10.0
# the longest ban that an exchange is known to give; a longer time is not believed
LONGEST_BLOCK_S = 3 * 86_400.0


def plausible_s(seconds: float) -> float:
    """Return a wait that an exchange asks for, 0 = none that can be believed."""
    return seconds if 0 < seconds <= LONGEST_BLOCK_S else 0.0


def retry_after_s(text: str | None) -> float:
    """Return the wait of a Retry-After header, 0 = none; exchanges do not send its date form."""
    try:
        return plausible_s(float(text or 0))
    except ValueError:
        return 0.0


# the exchange counts per address, and each of its two streams has its own process
SHARES: dict[Stream, float] = {"orderbook": 0.75, "ticker": 0.25}


def shared(limit: Limit, stream: Stream) -> Limit:
    """Return one stream's part of a limit that both processes of an exchange share."""
    count = int(limit.count * SHARES[stream])
    if count:
        return replace(limit, count=count)
    # less than one unit: one unit in a longer window
    return Limit(1, limit.seconds / (limit.count * SHARES[stream]))


class Window:
    """At most `limit.count` units in any `limit.seconds`, without bursts."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._span_ns = int(limit.seconds * SECOND_NS)
        self._used = Used(self._span_ns)
        self._blocked_ns = 0

    def wait_ns(self, now_ns: int, units: int = 1) -> int:
        """Return how long to wait until `units` fit, 0 = now."""
        self._used.forget(now_ns)
        blocked = max(0, self._blocked_ns - now_ns)
        over = self._used.total + units - self.limit.count
        if over <= 0:
            return blocked
        last_ns = now_ns - self._span_ns
        for at_ns, used in self._used.entries:
            last_ns = at_ns
            over -= used
            if over <= 0:
                break
        # more units than the limit allows at all: wait until the window is empty
        return max(blocked, last_ns + self._span_ns - now_ns)

    def used(self, now_ns: int) -> int:
        """Return the units used in the window."""
        self._used.forget(now_ns)
        return self._used.total

    def take(self, now_ns: int, units: int = 1) -> None:
        """Count units as used."""
        self._used.add(now_ns, units)

    def block(self, until_ns: int) -> None:
        """Let nothing through until then, because the exchange demands it."""
        self._blocked_ns = max(self._blocked_ns, until_ns)


class Leftover(Window):
    """What another window leaves: one unit of it always stays free for its other users."""

    def __init__(self, window: Window) -> None:
        super().__init__(window.limit)
        self._window = window

    def wait_ns(self, now_ns: int, units: int = 1) -> int:
        return self._window.wait_ns(now_ns, units + 1)

    def take(self, now_ns: int, units: int = 1) -> None:
        self._window.take(now_ns, units)

    def block(self, until_ns: int) -> None:
        self._window.block(until_ns)


class Budget:
    """Budget of all programs of this address in one minute, as the exchange counts it.

    Each answer of the exchange names what all programs have used. The minutes are those of the
    exchange's clock. Until the next minute begins, no more is requested than is left.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # as the exchange reported last, 0 = no report in this minute
        self.used = 0
        self._until_ns = 0
        # units of requests without an answer
        self._asked = 0

    def wait_ns(self, now_ns: int, units: int) -> int:
        """Return how long to wait before `units` more are requested, 0 = now."""
        if not self.used_now(now_ns) or self.used + self._asked + units <= self.count:
            return 0
        return self._until_ns - now_ns

    def used_now(self, now_ns: int) -> int:
        """Return what the exchange has reported for this minute, 0 = no report."""
        if now_ns >= self._until_ns:
            self.used = 0
        return self.used

    def take(self, units: int) -> None:
        self._asked += units

    def done(self, units: int) -> None:
        """Note that a request was answered or has failed."""
        self._asked -= units

    def report(self, used: int, now_ns: int, left_s: float) -> None:
        """Take the count of the exchange for a minute that ends in `left_s` seconds."""
        # answers can overtake each other
        self.used = max(self.used_now(now_ns), used)
        self._until_ns = now_ns + int(left_s * SECOND_NS)


class Dialer:
    """Decides when the next dial may be made."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._opened_ns = 0
        self._not_before_ns = 0

    @property
    def failures(self) -> int:
        """Failed dials since the last good connection."""
        return self._backoff.failures

    def wait_ns(self, now_ns: int) -> int:
        """Return how long to wait before dialling, 0 = now."""
        return max(0, self._not_before_ns - now_ns)

    def opened(self, now_ns: int) -> None:
        self._opened_ns = now_ns

    def lost(self, now_ns: int, retry_after_s: float = 0.0, *, delivered: bool = False) -> float:
        """Note a failed dial or the end of a connection; return the seconds to wait.

        Args:
            retry_after_s: wait that the exchange asked for, a lower bound.
            delivered: the connection brought data, so the exchange works.
        """
        good = self._opened_ns and now_ns - self._opened_ns >= STABLE_NS
        self._opened_ns = 0
        if good:
            # after a good connection the first dial is made at once
            self._backoff.reset()
            wait = retry_after_s
        else:
            if delivered:
                self._backoff.failures = min(self.failures, DELIVERED_FAILURES)
            jitter = self._random.uniform(1 - JITTER, 1 + JITTER)
            wait = max(self._backoff.next() * jitter, retry_after_s)
        self._not_before_ns = now_ns + int(wait * SECOND_NS)
        return wait


class LogGate:
    """Lets through at most one log line a minute for each cause."""

    def __init__(self) -> None:
        self._logged_ns: dict[str, int] = {}

    def opens(self, cause: str, now_ns: int) -> bool:
        """Return whether a line may be logged now, and count it as logged."""
        if now_ns - self._logged_ns.get(cause, now_ns - LOG_INTERVAL_NS) < LOG_INTERVAL_NS:
            return False
        if len(self._logged_ns) > LOG_CAUSES:
            self._logged_ns.clear()
        self._logged_ns[cause] = now_ns
        return True


class FailureLog:
    """Sums up the failures of one connection, for at most one log line a minute."""

    def __init__(self) -> None:
        self._count = 0
        self._reason = ""
        self._reported_ns: int | None = None

    def add(self, reason: str) -> None:
        self._count += 1
        self._reason = reason

    def take(self, now_ns: int) -> dict[str, int | str] | None:
        """Return the facts of a log line: the last reason, and how often; None = none is due."""
        since_ns = None if self._reported_ns is None else now_ns - self._reported_ns
        if not self._count or (since_ns is not None and since_ns < LOG_INTERVAL_NS):
            return None
        facts: dict[str, int | str] = {"reason": self._reason}
        if self._count > 1 and since_ns is not None:
            facts |= {"times": self._count, "within_s": round(since_ns / SECOND_NS)}
        self._count, self._reported_ns = 0, now_ns
        return facts
