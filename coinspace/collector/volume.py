"""Whether trades are complete, told by the volume that the exchange itself has summed.

A ticker says how much was traded since midnight. Minus what was published, that is a constant as
long as no trade is missing. The two streams run ahead of each other by moments, so the difference
is only looked at while both are quiet, and a new one is believed when it comes back after further
trades and tickers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# sizes are whole multiples of 1e-8; the rest is the rounding of sums in float64
SMALLEST = 5e-9
ROUNDING = 1e-12
# so many looks at more published than traded: another day's count, or trades published twice
PATIENCE = 10


@dataclass(slots=True)
class VolumeCheck:
    """One market's account.

    Attributes:
        offset: volume of the day minus what was published; None = not known yet.
        proven_ns: exchange's time of the newest trade when both agreed last, 0 = never.
        excess: volume that was published and that the exchange does not know of.
    """

    offset: float | None = None
    proven_ns: int = 0
    excess: float = 0.0
    _day: float = 0.0
    # the difference that waits for its confirmation, and how far both streams were then
    _seen: float = math.nan
    _trades: int = 0
    _tickers: int = 0
    _ahead: int = 0

    def look(self, day: float, published: float, trades: int, tickers: int, trade_ns: int) -> float:
        """Compare while both streams are quiet; return the volume that is missing, 0 = none known.

        Args:
            day: the ticker's volume since midnight. published: by this process, since its start.
            trades, tickers: received so far. trade_ns: exchange's time of the newest trade.
        """
        if math.isnan(day):
            return 0.0
        tolerance = self.tolerance(day, published)
        if day < self._day - tolerance:
            # midnight: the count began anew
            self.forget()
        self._day = day
        difference = day - published
        if self.offset is not None and abs(difference - self.offset) <= tolerance:
            self._agree(difference, trade_ns)
            return 0.0
        if not abs(difference - self._seen) <= tolerance:
            self._seen, self._trades, self._tickers = difference, trades, tickers
            return 0.0
        if trades == self._trades or tickers == self._tickers:
            return 0.0
        if self.offset is None:
            self._agree(difference, trade_ns)
            return 0.0
        missing = difference - self.offset
        if missing > 0:
            return missing
        self._trades, self._tickers = trades, tickers
        self._ahead += 1
        if self._ahead >= PATIENCE:
            self.excess -= missing
            self._agree(difference, trade_ns)
        return 0.0

    def settle(self, missing: float) -> None:
        """Go on after a hole: `missing` is what could not be filled."""
        if self.offset is not None:
            self.offset += missing
        self._seen = math.nan

    def forget(self) -> None:
        """Begin anew: nothing links what comes to what was."""
        self.offset, self.proven_ns, self._seen, self._day, self._ahead = None, 0, math.nan, 0.0, 0

    @staticmethod
    def tolerance(day: float, published: float) -> float:
        """Return the difference that is no trade."""
        return SMALLEST + ROUNDING * max(day, published)

    def _agree(self, difference: float, trade_ns: int) -> None:
        # each agreement takes the rounding of the sums along
        self.offset, self.proven_ns, self._seen, self._ahead = difference, trade_ns, math.nan, 0
