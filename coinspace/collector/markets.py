"""Which markets to collect: patterns over the exchange's list, and changes of that list."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from coinspace.errors import ConfigError
from coinspace.exchanges.exchange import Exchange, Listing
from coinspace.exchanges.identity import assets_of
from coinspace.market import Market

# converts Korean prices to dollars
RATE = "USDT/KRW"

Change = Literal["listed", "delisted", "halted", "resumed"]


@dataclass(frozen=True, slots=True)
class ListingChange:
    """One change of an exchange's list of markets."""

    change: Change
    listing: Listing


def has_patterns(markets: list[str]) -> bool:
    """Return whether the exchange's list is needed to know the markets."""
    return any("*" in market for market in markets)


def matches(markets: Iterable[str], name: str) -> bool:
    """Return whether a market is named by the settings, alone or by a pattern."""
    return any(fnmatch.fnmatchcase(name, one) for one in markets)


def resolve(
    exchange: Exchange, markets: list[str], listings: list[Listing] | None
) -> list[tuple[str, str]]:
    """Return (symbol, market) pairs without repeats, in the order of the settings.

    Args: listings: the exchange's list, needed for patterns such as `*/KRW`.
    Raises: ConfigError when no market is left to collect.
    """
    found: dict[str, str] = {}
    for text in markets:
        if "*" not in text:
            found.setdefault(exchange.symbol_of(Market.parse(text)), text)
            continue
        for listing in listings or ():
            name = str(listing.market)
            if listing.trading and fnmatch.fnmatchcase(name, text):
                found.setdefault(listing.symbol, name)
    if not found:
        raise ConfigError(
            f"exchanges.{exchange.NAME}.markets: expected markets that {exchange.NAME} offers,"
            f" was {markets!r}; `coinspace markets {exchange.NAME}` lists them"
        )
    return list(found.items())


def needed_markets(
    exchange: Exchange, entries: Iterable[tuple[str, str]], assets: Iterable[str]
) -> frozenset[str]:
    """Return the markets that the index of some assets needs, and the market of the rate."""
    wanted = set(assets)
    needed = set()
    for _, name in entries:
        market = Market.parse(name)
        if name == RATE or wanted.intersection(assets_of(exchange.NAME, market.base)):
            needed.add(name)
    return frozenset(needed)


# longest list of markets: several times what the largest exchange offers
LISTINGS_LIMIT = 20_000


def checked(listings: list[Listing]) -> list[Listing]:
    """Return an exchange's list. Raises: ValueError for an empty one, or one that is too long."""
    if not 0 < len(listings) <= LISTINGS_LIMIT:
        raise ValueError(
            f"market list: expected 1 to {LISTINGS_LIMIT} markets, was {len(listings)}"
        )
    return listings


class MarketList:
    """The newest list of the exchange; `update` returns its changes."""

    def __init__(self) -> None:
        self.listings: dict[str, Listing] = {}

    def update(self, listings: list[Listing]) -> list[ListingChange]:
        """Take a new list and return the changes; the first list gives no change.

        An empty list counts as an error of the exchange and changes nothing.

        Raises: ValueError for a list that is too long.
        """
        if not listings:
            return []
        before = self.listings
        self.listings = {listing.symbol: listing for listing in checked(listings)}
        if not before:
            return []
        events = []
        for symbol, listing in self.listings.items():
            old = before.get(symbol)
            if old is None:
                events.append(ListingChange("listed", listing))
            elif old.trading != listing.trading:
                events.append(ListingChange("resumed" if listing.trading else "halted", listing))
        events += [
            ListingChange("delisted", old)
            for symbol, old in before.items()
            if symbol not in self.listings
        ]
        return events
