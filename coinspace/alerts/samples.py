"""The premiums of an asset in the last day by minute, and in the last 90 days by hour.

The running minute or hour counts with its newest premium, as in the API.
"""

from __future__ import annotations

import numpy as np

from coinspace.clock import HOUR_NS, MILLISECOND_NS, MINUTE_NS

MINUTE_MS = MINUTE_NS // MILLISECOND_NS
HOUR_MS = HOUR_NS // MILLISECOND_NS
# window -> (ms of a sample, samples)
WINDOWS = {
    "1h": (MINUTE_MS, 60),
    "24h": (MINUTE_MS, 24 * 60),
    "7d": (HOUR_MS, 7 * 24),
    "30d": (HOUR_MS, 30 * 24),
    "90d": (HOUR_MS, 90 * 24),
}
# ms of a sample -> the interval of candles
INTERVALS = {MINUTE_MS: "1m", HOUR_MS: "1h"}
# with fewer samples a percentile means nothing
LEAST = 30
# before every sample
NEVER = np.iinfo(np.int64).min


class Ring:
    """The last value of each of the newest intervals of a length."""

    def __init__(self, interval_ms: int, size: int) -> None:
        self.interval_ms = interval_ms
        self._numbers = np.full(size, NEVER, np.int64)
        self._values = np.full(size, np.nan)

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, ts_ms: int, value: float) -> None:
        """Take a live value; one that is older than the ring is ignored."""
        number = ts_ms // self.interval_ms
        place = number % len(self._numbers)
        if number >= self._numbers[place]:
            self._numbers[place], self._values[place] = number, value

    def fill(self, ts_ms: int, value: float) -> None:
        """Take a stored value, unless its interval has a live one."""
        number = ts_ms // self.interval_ms
        if number > self._numbers[number % len(self._numbers)]:
            self.add(ts_ms, value)

    def percentile(self, now_ms: int, count: int, value: float) -> float | None:
        """Return the share of the newest `count` intervals at or below a value, 0 to 100.

        Returns: None with too few samples.
        """
        now = now_ms // self.interval_ms
        known = (self._numbers > now - count) & (self._numbers <= now)
        n_known = int(np.count_nonzero(known))
        if n_known < LEAST:
            return None
        return 100.0 * float(np.count_nonzero(self._values[known] <= value)) / n_known


class Samples:
    """What the percentile rules of one asset and basis need.

    Args: windows: of the rules.
    Attributes: filled: the stored premiums from before the start are there.
    """

    def __init__(self, windows: set[str]) -> None:
        self.windows = frozenset(windows)
        self.filled = False
        sizes: dict[int, int] = {}
        for interval_ms, count in (WINDOWS[one] for one in windows):
            sizes[interval_ms] = max(count, sizes.get(interval_ms, 0))
        self.rings = {interval_ms: Ring(interval_ms, size) for interval_ms, size in sizes.items()}

    def add(self, ts_ms: int, premium: float) -> None:
        """Take a live premium."""
        for ring in self.rings.values():
            ring.add(ts_ms, premium)

    def percentile(self, now_ms: int, window: str, premium: float) -> float | None:
        """Return the percentile of a premium in a window, None with too few samples."""
        interval_ms, count = WINDOWS[window]
        return self.rings[interval_ms].percentile(now_ms, count, premium)
