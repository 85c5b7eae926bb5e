"""The settings of a platform that runs on recordings: their exchanges, markets and assets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import orjson

from coinspace.collector.tools.checker import symbols_of
from coinspace.config import Settings
from coinspace.constituents import assets_of_markets
from coinspace.errors import ConfigError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Exchange
from coinspace.market import Market
from coinspace.recording.format import FeedReader

# records of a feed that are read for its markets
FIRST_RECORDS = 50_000


def markets_of(feeds: Sequence[Path]) -> dict[str, list[str]]:
    """Return exchange -> markets with order books in the first records of recordings.

    Raises: FeedError for a file that cannot be read, ConfigError for an unknown exchange.
    """
    found: dict[str, dict[str, None]] = {}
    for path in feeds:
        with FeedReader(path) as reader:
            exchange = exchange_named(reader.exchange)
            symbols = symbols_of(exchange, itertools.islice(reader, FIRST_RECORDS))
        markets = found.setdefault(exchange.NAME, {})
        for symbol in symbols:
            if (market := _market(exchange, symbol)) is not None:
                markets[str(market)] = None
    return {name: list(markets) for name, markets in found.items()}


def _market(exchange: Exchange, symbol: str) -> Market | None:
    """Return the market of a symbol; one without a sign between its names ends with the quote."""
    if (market := exchange.market_of(symbol)) is not None:
        return market
    for quote in sorted(exchange.QUOTES, key=len, reverse=True):
        base = symbol.upper().removesuffix(quote)
        if base and base != symbol.upper():
            return Market.parse(f"{base}/{quote}")
    return None


def narrow(settings: Settings, feeds: Sequence[Path]) -> dict[str, str]:
    """Reduce settings to what recordings hold; return the same as environment variables.

    Raises: ConfigError when no asset of the index is recorded.
    """
    recorded = markets_of(feeds)
    environment: dict[str, str] = {}
    markets = []
    for name, section in settings.exchanges.items():
        section.markets = recorded.get(name, [])
        environment[f"COINSPACE_EXCHANGES__{name.upper()}__MARKETS"] = _json(section.markets)
        markets += [(name, Market.parse(text)) for text in section.markets]
    wanted = settings.index.assets
    settings.index.assets = assets_of_markets(settings.index, markets)
    if not settings.index.assets:
        found = ", ".join(sorted({text for texts in recorded.values() for text in texts}))
        raise ConfigError(
            f"--replay: expected order books of {', '.join(wanted)} (index.assets), found"
            f" {found or 'none'}"
        )
    return environment | {"COINSPACE_INDEX__ASSETS": _json(settings.index.assets)}


def _json(names: list[str]) -> str:
    return orjson.dumps(names).decode()
