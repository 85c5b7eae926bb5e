"""Figures from the same tick as the value: confidence, median, premium, averages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from statistics import median

import numpy as np

from coinspace._ext.curve import Curve
from coinspace.clock import SECOND_NS
from coinspace.config import IndexParameters
from coinspace.method.record import ExecutableRecord, PremiumRecord

BIDS, ASKS = 0, 1


def confidence(prices: Iterable[tuple[float, float]]) -> float | None:
    """Return the larger distance from the median of all votes to their quartiles.

    Args: prices: (best bid, best ask) per venue; its votes are mid, bid and ask.
    """
    votes = [vote for bid, ask in prices for vote in (0.5 * bid + 0.5 * ask, bid, ask)]
    if not votes:
        return None
    votes.sort()
    low, middle, high = (_quantile(votes, share) for share in (0.25, 0.5, 0.75))
    return max(middle - low, high - middle)


def _quantile(ordered: list[float], share: float) -> float:
    # equals numpy's linear method to the last bit; numpy takes 50 µs for a dozen votes
    at = (len(ordered) - 1) * share
    below = int(at)
    low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    part = at - below
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1.0 - part)


def median_capped(mids: Iterable[float], clamp: float) -> float | None:
    """Return the average of the mids, each clamped to a band around their median."""
    values = list(mids)
    if not values:
        return None
    middle = median(values)
    low, high = middle * (1.0 - clamp), middle * (1.0 + clamp)
    # differences from the median: absolute prices would cost digits
    return middle + math.fsum(min(max(mid, low), high) - middle for mid in values) / len(values)


def premium(
    korean: float | None,
    world: float | None,
    krw_per_usdt: float | None,
    usd_krw: float | None,
    usd_per_usdt: float | None = 1.0,
) -> PremiumRecord:
    """Return the premium: (1 + a) = (1 + b)(1 + c).

    b is on coin basis, a on fiat basis, and c is USDT's own. a and c need the reference rate
    `usd_krw`.

    Args: usd_per_usdt: price of USDT in USD, 1 where no book gives it, None = not usable now.
    """
    krw_at_bank = None if usd_krw is None or usd_per_usdt is None else usd_krw * usd_per_usdt
    c = None
    if krw_per_usdt is not None and krw_at_bank is not None:
        c = krw_per_usdt / krw_at_bank - 1.0
    return PremiumRecord(excess(korean, world, krw_at_bank), excess(korean, world, krw_per_usdt), c)


def excess(korean: float | None, world: float | None, rate: float | None) -> float | None:
    """Return how far a Korean price is above a converted one, None if a value is missing."""
    if korean is None or world is None or rate is None:
        return None
    return korean / (world * rate) - 1.0


def average_price(
    curve: Curve, side: int, volume: float, names: list[str], fees: Mapping[str, float]
) -> float | None:
    """Return the average price, fees included, to sell into bids (side 0) or buy from asks (1).

    Levels are taken in the order of their price after fees.

    Args: fees: exchange -> taker fee, a fraction of the traded value.
    Returns: None where the used levels have less than `volume`.
    """
    if not any(fees.values()) or not any(fees.get(name.partition(":")[0]) for name in names):
        return curve.average(side, volume)
    prices, sizes, _, venues = curve.levels(side)
    sign = 1.0 if side == ASKS else -1.0
    factors = np.array([1.0 + sign * fees.get(name.partition(":")[0], 0.0) for name in names])
    after = prices * factors[venues]
    order = np.argsort(sign * after, kind="stable")
    total = np.cumsum(sizes[order])
    if not len(total) or total[-1] < volume * (1.0 - 1e-12):
        return None
    before = np.concatenate(([0.0], total[:-1]))
    taken = np.clip(volume - before, 0.0, sizes[order])
    first = after[order[0]]
    return float(first + np.dot(taken, after[order] - first) / volume)


def executable(
    size: float,
    curves: Mapping[str, Curve],
    names: list[str],
    fees: Mapping[str, float],
    rate: float,
) -> ExecutableRecord:
    """Return the premium that remains after both legs of a size are traded at market.

    Args: curves: region -> its evaluated curve. rate: KRW per USDT.
    """
    prices = {
        (region, side): average_price(curve, side, size, names, fees)
        for region, curve in curves.items()
        for side in (BIDS, ASKS)
    }
    return ExecutableRecord(
        size,
        excess(prices["KR", BIDS], prices["GL", ASKS], rate),
        excess(prices["KR", ASKS], prices["GL", BIDS], rate),
    )


class Average:
    """Time-weighted average over the last minute: each tick's value lasts until the next tick.

    Sums are exact integers of 2^-128 units of price times ns, kept from tick to tick. So the cost
    of a tick does not depend on the window's length (100,000 ticks and more in a busy market),
    nothing drifts, and a restored average equals one that was never stopped.
    """

    SHIFT = 128

    def __init__(self, parameters: IndexParameters) -> None:
        self.window_ns = int(parameters.twap_s * SECOND_NS)
        self.needed = parameters.twap_coverage
        # (ts_ns, exact price), None = no value
        self._ticks: deque[tuple[int, int | None]] = deque()
        # over all intervals between ticks that have a value
        self._covered = 0
        self._sum = 0

    def update(self, ts_ns: int, value: float | None) -> float | None:
        """Add a tick; return the average of the window that ends there, None if too few values."""
        ticks = self._ticks
        while ticks and ticks[-1][0] >= ts_ns:
            ended, _ = ticks.pop()
            if ticks:
                self._add(ticks[-1], ticks[-1][0] - ended)
        self._append(ts_ns, value)
        start = ts_ns - self.window_ns
        while len(ticks) > 1 and ticks[1][0] <= start:
            first = ticks.popleft()
            self._add(first, first[0] - ticks[0][0])
        covered, total = self._covered, self._sum
        since, price = ticks[0]
        if since < start and price is not None:
            # the part of the oldest interval that lies before the window
            covered -= start - since
            total -= price * (start - since)
        if covered <= 0 or covered < self.needed * self.window_ns * (1.0 - 1e-12):
            return None
        return total / (covered << self.SHIFT)

    def restore(self, ticks: Iterable[tuple[int, float | None]]) -> None:
        """Restore the stored ticks of the last minute, oldest first."""
        self._ticks.clear()
        self._covered = self._sum = 0
        for ts_ns, value in ticks:
            self._append(int(ts_ns), value)

    def _append(self, ts_ns: int, value: float | None) -> None:
        if self._ticks:
            self._add(self._ticks[-1], ts_ns - self._ticks[-1][0])
        price = None
        if value is not None:
            numerator, denominator = value.as_integer_ratio()
            price = (numerator << self.SHIFT) // denominator
        self._ticks.append((ts_ns, price))

    def _add(self, tick: tuple[int, int | None], lasted_ns: int) -> None:
        price = tick[1]
        if price is not None:
            self._covered += lasted_ns
            self._sum += price * lasted_ns
