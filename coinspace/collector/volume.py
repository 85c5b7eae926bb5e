"""Check that trades are complete, by the volume of the day that the exchange sums itself.

A ticker has the volume since midnight. This volume minus the published volume is constant as long
as no trade is missing. Tickers and trades come at slightly different times. The difference is
therefore computed only while both are quiet, and a new difference is believed only when it is the
same again after further trades and tickers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# sizes are whole multiples of 1e-8; the rest is the rounding of sums in float64
SMALLEST = 5e-9
ROUNDING = 1e-12
# checks after which a published volume above the exchange's is accepted: the exchange counts
# another day, or trades were published twice
PATIENCE = 10


@dataclass(slots=True)
class VolumeCheck:
    """Volumes of one market.

    Attributes:
        offset: volume of the day minus published volume, None = not known yet.
        proven_ns: exchange's time of the newest trade at the last agreement, 0 = never.
        excess: volume that was published beyond the exchange's volume.
    """

    offset: float | None = None
    proven_ns: int = 0
    excess: float = 0.0
    _day: float = 0.0
    # a difference that is not confirmed yet, and the numbers of trades and tickers at that time
    _seen: float = math.nan
    _trades: int = 0
    _tickers: int = 0
    _ahead: int = 0

    def look(self, day: float, published: float, trades: int, tickers: int, trade_ns: int) -> float:
        """Compare the volumes while both streams are quiet; return the missing volume, 0 = none.

        Args:
            day: the ticker's volume since midnight. published: volume since the process started.
            trades, tickers: numbers received so far. trade_ns: exchange's time of the newest trade.
        """
        if math.isnan(day):
            return 0.0
        tolerance = self.tolerance(day, published)
        if day < self._day - tolerance:
            # midnight: the exchange's sum has started again
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
        """Continue after a hole. Args: missing: volume that could not be filled."""
        if self.offset is not None:
            self.offset += missing
        self._seen = math.nan

    def forget(self) -> None:
        """Start again without a known offset."""
        self.offset, self.proven_ns, self._seen, self._day, self._ahead = None, 0, math.nan, 0.0, 0

    @staticmethod
    def tolerance(day: float, published: float) -> float:
        """Return the largest difference that is only rounding."""
        return SMALLEST + ROUNDING * max(day, published)

    def _agree(self, difference: float, trade_ns: int) -> None:
        # each agreement absorbs the rounding of the sums
        self.offset, self.proven_ns, self._seen, self._ahead = difference, trade_ns, math.nan, 0
