"""One value over the used venues of a ladder, with everything that a record says about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coinspace._ext.curve import OK, Curve
from coinspace._ext.ladder import Ladder


@dataclass(slots=True)
class Valuation:
    """Result of the curve; None where there is none. Volumes in base, prices in the ladder's
    currency.

    Attributes:
        reason: why there is no value (`too_few_venues`, `insufficient_depth`, `regime_split`).
        value: unrounded. value_full: without the cut at the coverage depth.
        curve_end: `D` or `exhausted`.
        shares: share of each used venue.
    """

    reason: str | None = None
    value: float | None = None
    value_full: float | None = None
    curve_end: str | None = None
    utilised_depth: float | None = None
    rate: float | None = None
    size_cap: float | None = None
    coverage_depth: float | None = None
    depth_limited: bool | None = None
    best_bid: float | None = None
    best_ask: float | None = None
    shares: dict[str, float] = field(default_factory=dict)


def evaluate(curve: Curve, ladder: Ladder, names: list[str], used: set[str]) -> Valuation:
    """Compute one index over the used venues.

    Args: names: the venues in the order of the ladder's venue indices.
    """
    if not used:
        return Valuation("too_few_venues")
    status = curve.compute(ladder, bytes([name in used for name in names]))
    # None where the ladder has no level of a used venue
    known = bool(curve.best_bid)
    result = Valuation(
        size_cap=curve.size_cap if known else None,
        coverage_depth=curve.coverage_depth if known else None,
        best_bid=curve.best_bid or None,
        best_ask=curve.best_ask or None,
    )
    if status != OK or not math.isfinite(curve.value):
        result.reason = "insufficient_depth"
        result.curve_end = ("exhausted" if curve.exhausted else "D") if known else None
        return result
    result.value = curve.value
    result.value_full = curve.value_full
    result.curve_end = "exhausted" if curve.exhausted else "D"
    result.utilised_depth = curve.depth
    result.rate = curve.rate
    result.depth_limited = curve.depth_limited
    result.shares = {
        name: share
        for name, share in zip(names, curve.shares().tolist(), strict=True)
        if name in used
    }
    return result


def explain(curve: Curve, names: list[str]) -> dict[str, Any]:
    """Return the last evaluation level by level: the curve and the used levels of both sides."""
    columns = ("from", "to", "bid", "ask", "mid", "spread", "weight")
    segments = curve.segments()
    sides = {}
    for side, title in enumerate(("bids", "asks")):
        prices, sizes, capped, venues = curve.levels(side)
        sides[title] = [
            {
                "price": price,
                "size": size,
                "capped": cap,
                "cumulative": total,
                "venue": names[venue],
            }
            for price, size, cap, total, venue in zip(
                prices.tolist(),
                sizes.tolist(),
                capped.tolist(),
                np.cumsum(capped).tolist(),
                venues.tolist(),
                strict=True,
            )
        ]
    return {
        "curve": [dict(zip(columns, row, strict=True)) for row in segments.T.tolist()],
        **sides,
    }
