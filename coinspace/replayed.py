"""The settings of a platform that runs on recordings: their exchanges, markets and assets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import orjson
import structlog

from coinspace.collector.tools.checker import symbols_of
from coinspace.config import Settings
from coinspace.constituents import assets_of_markets, assets_with
from coinspace.errors import ConfigError, MarketError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Exchange
from coinspace.market import Market
from coinspace.rates.replay import RECORDED
from coinspace.recording.format import FeedReader

# records of a feed that are read for its markets
FIRST_RECORDS = 50_000
# of the names of an exchange's markets: Linux takes at most 128 KiB for a variable of a process
NAMES_BYTES = 100_000

log = structlog.get_logger("supervisor")


def markets_of(feeds: Sequence[Path]) -> dict[str, list[str]]:
    """Return exchange -> markets with order books in the first records of recordings.

    Symbols that name no market are left out, and their number is logged.
    Raises: FeedError for a file that cannot be read, ConfigError for an unknown exchange.
    """
    found: dict[str, dict[str, None]] = {}
    for path in feeds:
        with FeedReader(path) as reader:
            if reader.exchange == RECORDED:
                # their times would be too old for a live rate
                continue
            exchange = exchange_named(reader.exchange)
            symbols = symbols_of(exchange, itertools.islice(reader, FIRST_RECORDS))
        markets = found.setdefault(exchange.NAME, {})
        unknown = []
        for symbol in symbols:
            if (market := _market(exchange, symbol)) is not None:
                markets[str(market)] = None
            else:
                unknown.append(symbol)
        _left_out(exchange.NAME, unknown, "expected symbols of markets")
    return {name: list(markets) for name, markets in found.items()}


def _market(exchange: Exchange, symbol: str) -> Market | None:
    """Return the market of a symbol; one without a sign between its names ends with the quote."""
    if (market := exchange.market_of(symbol)) is not None:
        return market
    for quote in sorted(exchange.QUOTES, key=len, reverse=True):
        base = symbol.upper().removesuffix(quote)
        if base and base != symbol.upper():
            try:
                return Market.parse(f"{base}/{quote}")
            except MarketError:
                return None
    return None


def _left_out(exchange: str, names: Sequence[str], reason: str) -> None:
    if names:
        log.warning(
            "symbols left out",
            exchange=exchange,
            symbols=len(names),
            examples=", ".join(names[:3]),
            reason=reason,
        )


def narrow(settings: Settings, feeds: Sequence[Path]) -> dict[str, str]:
    """Reduce settings to what recordings hold; return the same as environment variables.

    Raises: ConfigError when no asset of the index is recorded.
    """
    recorded = markets_of(feeds)
    # recorded quotations of USD/KRW are too old for a live rate
    settings.rates.sources = []
    environment = {"COINSPACE_RATES__SOURCES": ""}
    markets = []
    for name, section in settings.exchanges.items():
        section.markets = _fitting(settings, name, recorded.get(name, []))
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


def _fitting(settings: Settings, exchange: str, markets: list[str]) -> list[str]:
    """Return the markets whose names fit into a variable, those of the index first."""
    wanted = sorted(
        markets, key=lambda text: not assets_with(settings.index, exchange, Market.parse(text))
    )
    room = NAMES_BYTES
    for number, text in enumerate(wanted):
        room -= len(text.encode()) + 3
        if room < 0:
            _left_out(exchange, wanted[number:], f"expected names of {NAMES_BYTES} bytes at most")
            return wanted[:number]
    return markets


def _json(names: list[str]) -> str:
    return orjson.dumps(names).decode()
