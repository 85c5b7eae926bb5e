"""Which asset a base name means on an exchange at a time, so that only equal assets are summed.

A name means the asset of the same name unless an entry defines another one. Entries have dates,
because names are used again: a book belongs to the asset that the name meant on its day.
`IDENTITIES` of an exchange's module has the entries of that exchange, EVERYWHERE those of all.
Sources: listing notices of the exchanges; ccxt's lists of common currencies for collisions.
"""

from __future__ import annotations

from functools import cache

from coinspace import exchanges
from coinspace.exchanges.exchange import OPEN_NS, Identity, day_ns

# exchange of entries for all exchanges
ALL = "*"
Registry = tuple[Identity, ...]
EVERYWHERE: Registry = (
    # LUNA was given to the new chain on 2022-05-28; the old one has been LUNC since
    Identity(ALL, "LUNA", "LUNC", 1.0, 0, day_ns("2022-05-28")),
)


@cache
def declared() -> Registry:
    """Return the entries of all exchanges."""
    return (*(one for module in exchanges.every() for one in module.IDENTITIES), *EVERYWHERE)


def identity(exchange: str, name: str, at_ns: int) -> Identity:
    """Return the meaning of a base name at a time; an entry of the exchange comes first."""
    for where in (exchange, ALL):
        for entry in declared():
            if (
                entry.exchange == where
                and entry.name == name
                and entry.from_ns <= at_ns < entry.to_ns
            ):
                return entry
    return Identity(exchange, name, name)


def is_renamed(exchange: str, name: str) -> bool:
    """Return whether a base name ever means anything but one unit of the asset of that name."""
    return any(one.name == name and one.exchange in (exchange, ALL) for one in declared())


def is_declared(asset: str) -> bool:
    """Return whether any entry says what an asset's names mean."""
    return any(asset in (one.asset, one.name) for one in declared())


def assets_of(exchange: str, name: str) -> tuple[str, ...]:
    """Return every asset that a base name means at any time, sorted by name."""
    entries = [one for one in declared() if one.name == name and one.exchange in (exchange, ALL)]
    times = {0, *(one.from_ns for one in entries), *(one.to_ns for one in entries)} - {OPEN_NS}
    return tuple(sorted({identity(exchange, name, at_ns).asset for at_ns in times}))


def names_of(exchange: str, asset: str) -> tuple[str, ...]:
    """Return every base name that means an asset on an exchange at any time."""
    names = {asset, *(one.name for one in declared() if one.asset == asset)}
    return tuple(sorted(one for one in names if asset in assets_of(exchange, one)))


def summable(exchange: str, name: str, asset: str, at_ns: int) -> float:
    """Return the multiplier of a name for an asset, 0 = the name means another asset."""
    found = identity(exchange, name, at_ns)
    return found.multiplier if found.asset == asset else 0.0
