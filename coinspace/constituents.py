"""Which markets are collected, and which of them the index reads.

`exchanges.NAME.markets` names the markets that are collected and stored. `index.constituents` names
those that enter a composite. This module does no I/O: it resolves a pattern such as `*/KRW` only
for the assets of the index, whose names on an exchange are known.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from coinspace.config import CONSTITUENTS, IndexSettings, Settings
from coinspace.exchanges import EXCHANGES
from coinspace.exchanges.identity import assets_of, identity, names_of
from coinspace.market import FX_MARKET, RATED_QUOTES, Market
from coinspace.method.parameters import CURRENCIES, region_of


def named(settings: Settings, exchange: str) -> list[str]:
    """Return the markets of an exchange that the settings name one by one."""
    return [one for one in settings.exchanges[exchange].markets if "*" not in one]


def collected(settings: Settings, exchange: str) -> list[str]:
    """Return the markets of an exchange: the named ones, and those that patterns can bring in.

    A pattern brings in only markets of the index: constituents and the rate. Only the exchange's
    collector knows whether the exchange offers them.
    """
    patterns = [one for one in settings.exchanges[exchange].markets if "*" in one]
    found = dict.fromkeys(named(settings, exchange))
    if patterns:
        for text in _candidates(settings.index, exchange):
            if any(fnmatchcase(text, pattern) for pattern in patterns):
                found.setdefault(text)
    return list(found)


def _candidates(index: IndexSettings, exchange: str) -> Iterator[str]:
    for asset in index.assets:
        for name in names_of(exchange, asset):
            for quote in RATED_QUOTES:
                market = Market(name, quote)
                if counts(index, exchange, market):
                    yield str(market)
    # the rate comes from exchanges that quote in its currency by default
    if _matches(CONSTITUENTS, exchange, FX_MARKET):
        yield FX_MARKET


def counts(index: IndexSettings, exchange: str, market: Market) -> bool:
    """Return whether a market may enter a composite.

    A market whose quote has no rate never does. Exchanges without a collector appear only in
    snapshots of books; their markets count by the quote.
    """
    if market.quote not in RATED_QUOTES or str(market) == FX_MARKET:
        return False
    if exchange not in EXCHANGES:
        return True
    return _matches(index.constituents, exchange, str(market))


def _matches(patterns: Iterable[str], exchange: str, text: str) -> bool:
    return any(fnmatchcase(f"{exchange}:{text}", pattern) for pattern in patterns)


def assets_with(index: IndexSettings, exchange: str, market: Market) -> tuple[str, ...]:
    """Return the assets of the index whose composite a market may enter."""
    if not counts(index, exchange, market):
        return ()
    return tuple(one for one in assets_of(exchange, market.base) if one in index.assets)


def venues_of(
    index: IndexSettings, markets: Iterable[tuple[str, Market]], at_ns: int
) -> dict[str, int]:
    """Return asset -> number of those (exchange, market) that may enter its composite.

    Assets without a venue in each region are left out where the index needs one. Assets with more
    venues come first, then those that stand first.
    """
    venues: Counter[str] = Counter()
    regions: dict[str, set[str]] = defaultdict(set)
    for exchange, market in markets:
        if counts(index, exchange, market):
            asset = identity(exchange, market.base, at_ns).asset
            venues[asset] += 1
            regions[asset].add(region_of(exchange, market.quote))
    needed = set(CURRENCIES) if index.parameters.regions == "default" else set()
    return {asset: n for asset, n in venues.most_common() if regions[asset] >= needed}


def assets_of_markets(index: IndexSettings, markets: Iterable[tuple[str, Market]]) -> list[str]:
    """Return the assets of the index whose composites some (exchange, market) may enter."""
    found = {
        asset for exchange, market in markets for asset in assets_with(index, exchange, market)
    }
    return [asset for asset in index.assets if asset in found]


def constituents_of(settings: Settings, asset: str) -> list[str]:
    """Return the venues of an asset's composite, `upbit:BTC/KRW`, in the order of their names."""
    return sorted(
        f"{exchange}:{text}"
        for exchange in settings.exchanges
        for text in collected(settings, exchange)
        if asset in assets_with(settings.index, exchange, Market.parse(text))
    )
