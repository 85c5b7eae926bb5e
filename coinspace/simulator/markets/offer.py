"""The markets that the simulated exchanges offer: all that a platform's settings collect."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

import orjson

from coinspace.config import Settings
from coinspace.constituents import collected
from coinspace.errors import ConfigError
from coinspace.market import Market
from coinspace.simulator.markets.engine import USUAL_MARKETS
from coinspace.simulator.markets.whole import QUOTES

# the unit of all other prices, without a price of its own
UNPRICED = "KRW"
# published levels per side when whole exchanges are collected
DEPTH = 30


def offer(settings: Settings) -> dict[str, list[str]]:
    """Return exchange -> markets: named ones, and default or index markets that match a pattern.

    Raises: ConfigError naming the markets that cannot be simulated.
    """
    found = {}
    for exchange, section in settings.exchanges.items():
        patterns = [one for one in section.markets if "*" in one]
        usual = [
            text
            for text in USUAL_MARKETS[exchange]
            if any(fnmatchcase(text, pattern) for pattern in patterns)
        ]
        markets = list(dict.fromkeys([*collected(settings, exchange), *usual]))
        refused = [text for text in markets if not _possible(Market.parse(text))]
        if refused:
            raise ConfigError(
                f"exchanges.{exchange}.markets: the simulated exchanges cannot offer"
                f" {', '.join(refused)}: expected a base other than {UNPRICED} and than the quote"
            )
        if markets:
            found[exchange] = markets
    return found


def whole_markets(settings: Settings) -> dict[str, str]:
    """Return the settings that collect whole exchanges, as environment variables."""
    index = settings.index
    patterns = {name: f"*/{quote}" for name, quote in QUOTES.items() if name in settings.exchanges}
    return {
        # hundreds of books with hundreds of levels would fill a journal within a minute
        "COINSPACE_EXCHANGES__BINANCE__DEPTH": str(DEPTH),
        "COINSPACE_INDEX__ASSETS": _json([*index.named, *index.patterns, "*"]),
        **{
            f"COINSPACE_EXCHANGES__{name.upper()}__MARKETS": _json([pattern])
            for name, pattern in patterns.items()
        },
    }


def usual_markets(settings: Settings, exchanges: Iterable[str]) -> dict[str, str]:
    """Return the settings that collect the usual markets of exchanges, as environment variables.

    An exchange whose markets the settings name keeps them.
    """
    return {
        f"COINSPACE_EXCHANGES__{name.upper()}__MARKETS": _json(USUAL_MARKETS[name])
        for name in exchanges
        if not settings.exchanges[name].markets
    }


def _json(names: list[str]) -> str:
    return orjson.dumps(names).decode()


def _possible(market: Market) -> bool:
    return market.base not in (UNPRICED, market.quote)
