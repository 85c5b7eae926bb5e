"""Numbers on the same snapshot as the value: confidence, median, premium, averages."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np

from coinspace._ext.curve import Curve
from coinspace.clock import SECOND_NS
from coinspace.config import IndexParameters

BIDS, ASKS = 0, 1


def confidence(prices: Iterable[tuple[float, float]]) -> float | None:
    """Return the larger distance from the median of all votes to their quartiles.

    Args: prices: (best bid, best ask) per venue; its votes are mid, bid and ask.
    """
    votes = [vote for bid, ask in prices for vote in (0.5 * bid + 0.5 * ask, bid, ask)]
    if not votes:
        return None
    low, middle, high = np.percentile(votes, (25, 50, 75))
    return float(max(middle - low, high - middle))


def median_capped(mids: Iterable[float], clamp: float) -> float | None:
    """Return the average of the mids, each clamped to a band around their median."""
    values = list(mids)
    if not values:
        return None
    middle = float(np.median(values))
    low, high = middle * (1.0 - clamp), middle * (1.0 + clamp)
    # differences from the median: absolute prices would cost digits
    return middle + math.fsum(min(max(mid, low), high) - middle for mid in values) / len(values)


def premium(
    korean: float | None, world: float | None, krw_per_usdt: float | None, usd_krw: float | None
) -> dict[str, float | None]:
    """Return the premium: b on coin basis; a on fiat basis and c of the coin only with a
    reference rate.

    (1 + a) = (1 + b)(1 + c).
    """
    b = a = c = None
    if korean is not None and world is not None and krw_per_usdt is not None:
        b = korean / (world * krw_per_usdt) - 1.0
    if usd_krw is not None:
        if korean is not None and world is not None:
            a = korean / (world * usd_krw) - 1.0
        if krw_per_usdt is not None:
            c = krw_per_usdt / usd_krw - 1.0
    return {"a": a, "b": b, "c": c}


def average_price(
    curve: Curve, side: int, volume: float, names: list[str], fees: Mapping[str, float]
) -> float | None:
    """Return the average price to sell into the bids (side 0) or buy from the asks (1), taker
    fees included.

    Args: fees: exchange -> fraction of the traded value; levels are taken in the order of their
    price after fees.
    Returns: None where the used levels hold less than `volume`.
    """
    if not any(fees.get(name.partition(":")[0]) for name in names):
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


class Average:
    """Time-weighted average over the last minute: each tick's value holds until the next tick."""

    def __init__(self, parameters: IndexParameters) -> None:
        self.window_ns = int(parameters.twap_s * SECOND_NS)
        self.needed = parameters.twap_coverage
        self._ticks: deque[tuple[int, float | None]] = deque()

    def update(self, ts_ns: int, value: float | None) -> float | None:
        """Add a tick; return the average of the window that ends at it, None if too few values."""
        ticks = self._ticks
        while ticks and ticks[-1][0] >= ts_ns:
            ticks.pop()
        ticks.append((ts_ns, value))
        start = ts_ns - self.window_ns
        while len(ticks) > 1 and ticks[1][0] <= start:
            ticks.popleft()
        covered = 0
        weighted = []
        reference = None
        for i in range(len(ticks) - 1):
            since, price = ticks[i]
            if price is None:
                continue
            if reference is None:
                reference = price
            lasted = ticks[i + 1][0] - max(since, start)
            covered += lasted
            weighted.append((price - reference) * lasted)
        if reference is None or covered < self.needed * self.window_ns * (1.0 - 1e-12):
            return None
        return reference + math.fsum(weighted) / covered

    def restore(self, ticks: Iterable[tuple[int, float | None]]) -> None:
        """Take up the stored ticks of the last minute, oldest first."""
        self._ticks = deque((int(ts_ns), value) for ts_ns, value in ticks)
