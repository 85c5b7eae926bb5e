"""Rounding of prices of any size to their significant digits.

A float64 has 17 digits; the last ones are noise of divisions and sums. Exchanges quote at most 8
significant digits (BTC in cents), fewer for small coins. So 8 digits keep every price step.
"""

from __future__ import annotations

from math import isfinite

SIGNIFICANT = 8
# shares and premiums are ratios: 1e-8 is far below the resolution of a book
RATIO_PLACES = 8
# from this value on, whole units have more than 8 digits
WHOLE = 10**SIGNIFICANT


def significant(value: float) -> float:
    """Round to 8 significant digits; whole units are never cut, as in 116004954 KRW."""
    if not isfinite(value):
        return value
    # rounding by text is exact: float64 has no exact powers of ten below 1
    return float(round(value)) if abs(value) >= WHOLE else float(f"{value:.{SIGNIFICANT}g}")


def rounded(value: float, decimals: int | None) -> float:
    """Round a price to `decimals`; to 8 significant digits if None or if the result is 0."""
    if decimals is not None:
        found = round(value, decimals)
        if found or not value:
            return found
    return significant(value)
