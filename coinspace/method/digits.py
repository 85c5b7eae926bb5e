"""Digits that a price means, whatever its size.

A float64 carries 17 digits, of which the last are noise of divisions and sums. Exchanges quote at
most 8 significant digits (BTC in cents), fewer for small coins, so that 8 keep every tick.
"""

from __future__ import annotations

from math import isfinite

SIGNIFICANT = 8
# shares and premiums are ratios: 1e-8 is far below what a book resolves
RATIO_PLACES = 8
# from here on whole units are more than 8 digits
WHOLE = 10**SIGNIFICANT


def significant(value: float) -> float:
    """Round to 8 significant digits; whole units are never cut, as in 116004954 KRW."""
    if not isfinite(value):
        return value
    # rounding by text is exact: powers of ten below 1 are no doubles
    return float(round(value)) if abs(value) >= WHOLE else float(f"{value:.{SIGNIFICANT}g}")


def rounded(value: float, decimals: int | None) -> float:
    """Round a price to decimals; without them, or where they leave nothing, by significance."""
    if decimals is not None:
        found = round(value, decimals)
        if found or not value:
            return found
    return significant(value)
