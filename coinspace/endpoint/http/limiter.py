"""Rate limits: requests of one client per window of time, in bounded memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from coinspace.errors import EndpointError

# clients of one window with a count of their own; all others share one count
CLIENTS = 20_000
OTHERS = "others"
WINDOWS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(r"\s*(\d{1,9})\s*(?:/|per)\s*(\d{1,6}\s*)?(second|minute|hour|day)s?\s*")


@dataclass(frozen=True)
class Rate:
    """`amount` requests in `seconds`."""

    amount: int
    seconds: int


@dataclass(frozen=True)
class Allowance:
    """The requests left after one request, and the seconds until the window ends."""

    allowed: bool
    left: int
    wait: int


def parse_rate(key: str, text: str) -> Rate | None:
    """Read a rate such as "100/second"; empty = no limit. Raises: EndpointError naming the key."""
    if not text:
        return None
    match = _RATE.fullmatch(text)
    if match is None or not int(match[1]) or not int(match[2] or 1):
        raise EndpointError(f"{key}: expected a rate such as '100/second', was {text!r}")
    return Rate(int(match[1]), int(match[2] or 1) * WINDOWS_S[match[3]])


class Limiter:
    """Counts requests of clients in fixed windows of one rate."""

    def __init__(self, rate: Rate, clients: int = CLIENTS) -> None:
        self.rate = rate
        self._most = clients
        self._window = -1
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def hit(self, client: str, now_s: float) -> Allowance:
        """Count a request at a monotonic time."""
        window = math.floor(now_s / self.rate.seconds)
        if window != self._window:
            self._window = window
            self._counts = {}
        if client not in self._counts and len(self._counts) >= self._most:
            client = OTHERS
        count = self._counts[client] = min(self._counts.get(client, 0) + 1, self.rate.amount + 1)
        return Allowance(
            count <= self.rate.amount,
            max(0, self.rate.amount - count),
            max(1, math.ceil((window + 1) * self.rate.seconds - now_s)),
        )
