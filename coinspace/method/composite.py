"""One value over the used venues of a ladder, with all of its fields in a record."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coinspace._ext.curve import OK, Curve
from coinspace._ext.ladder import Ladder
from coinspace.method.parameters import INDEX_CURRENCY
from coinspace.method.record import Valuation


def evaluate(
    curve: Curve,
    ladder: Ladder,
    names: list[str],
    used: set[str],
    currency: str = INDEX_CURRENCY,
) -> Valuation:
    """Compute one index over the used venues.

    Args: names: the venues in the order of the ladder's venue indices. currency: of the ladder.
    """
    if not used:
        return Valuation(currency, reason="too_few_venues")
    status = curve.compute(ladder, bytes([name in used for name in names]))
    # None where the ladder has no level of a used venue
    known = bool(curve.best_bid)
    result = Valuation(
        currency,
        curve_end=("exhausted" if curve.exhausted else "D") if known else None,
        size_cap=curve.size_cap if known else None,
        coverage_depth=curve.coverage_depth if known else None,
        best_bid=curve.best_bid or None,
        best_ask=curve.best_ask or None,
    )
    if status != OK or not math.isfinite(curve.value):
        result.reason = "insufficient_depth"
        return result
    result.value_raw = curve.value
    result.value_full = curve.value_full
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
