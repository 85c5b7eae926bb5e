"""Exchanges and markets that options name."""

from __future__ import annotations

from fnmatch import fnmatchcase

import click

from coinspace.errors import ConfigError
from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import Market, as_named, exchange_as_named

EXCHANGE = click.Choice(EXCHANGES, case_sensitive=False)


def markets_by_exchange(
    exchanges: tuple[str, ...], markets: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return exchange -> markets of the options; a market may be bound to an exchange with `:`.

    Args: exchanges: () = all.
    Raises: ConfigError when a market belongs to none of the exchanges.
    """
    chosen: dict[str, list[str]] = {}
    markets = tuple(_as_named(text) for text in markets)
    left = set(markets)
    for exchange in exchanges or EXCHANGES:
        for text in markets:
            venue, colon, market = text.rpartition(":")
            if "*" not in market:
                Market.parse(market)
            if venue == exchange or (not colon and _in_quotes(exchange, market)):
                chosen.setdefault(exchange, []).append(market)
                left.discard(text)
    if left:
        raise ConfigError(
            f"markets: expected markets of {', '.join(exchanges or EXCHANGES)}, such as BTC/KRW or"
            f" binance:BTC/USDT, was {', '.join(sorted(left))}"
        )
    return chosen


def _in_quotes(exchange: str, market: str) -> bool:
    quote = market.rpartition("/")[2]
    return any(fnmatchcase(one, quote) for one in exchange_named(exchange).QUOTES)


def _as_named(text: str) -> str:
    venue, colon, market = text.rpartition(":")
    return f"{exchange_as_named(venue)}{colon}{as_named(market)}"
