"""Whether both regions trade the same coin under one name.

The registry of names knows which names mean other coins or several units. A name that it does not
know means one coin, unless its prices are too far apart: after a redenomination that only one
exchange has made, or for two coins that have the same name.
"""

from __future__ import annotations

from functools import cache

from coinspace.exchanges.identity import is_declared
from coinspace.market import ASSETS

# prices of one coin never differ more: the dearer is at most this part above the cheaper
LARGEST_DIFFERENCE = 0.5


@cache
def is_known(asset: str) -> bool:
    """Return whether the registry says what the asset's names mean."""
    return asset in ASSETS or is_declared(asset)


def is_questioned(asset: str, coin: float | None, fiat: float | None) -> bool:
    """Return whether the asset's prices may be of two coins. Args: its premium on both bases."""
    premium = fiat if coin is None else coin
    if premium is None or is_known(asset):
        return False
    dearer, limit = 1.0 + premium, 1.0 + LARGEST_DIFFERENCE
    return not 1.0 / limit <= dearer <= limit
