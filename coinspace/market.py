"""Markets `BASE/QUOTE` and the exchanges' own spellings of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from coinspace.errors import MarketError

# assets that are collected, and whose index is computed, unless the configuration says otherwise
ASSETS = ("BTC", "ETH", "XRP", "SOL")
# quotes that have a rate to the index's currency: only their markets can enter a composite
RATED_QUOTES = ("USDT", "KRW")
# the books of these markets give KRW and USD per USDT
FX_MARKET = "USDT/KRW"
DOLLAR_MARKET = "USDT/USD"
RATE_MARKETS = (FX_MARKET, DOLLAR_MARKET)

_NAME = re.compile(r"[A-Z0-9$]{1,20}")


@dataclass(frozen=True, slots=True)
class Market:
    """A market as in `BTC/KRW`: one unit of base costs `price` units of quote.

    Raises: MarketError when a text is not BASE/QUOTE in capitals.
    """

    base: str
    quote: str

    @classmethod
    def parse(cls, text: str) -> Market:
        base, slash, quote = text.partition("/")
        if not slash or not _NAME.fullmatch(base) or not _NAME.fullmatch(quote):
            raise MarketError(f"market: expected BASE/QUOTE such as 'BTC/KRW', was {text!r}")
        return cls(base, quote)

    def __str__(self) -> str:
        return f"{self.base}/{self.quote}"


def as_named(text: str) -> str:
    """Return an asset, a market or a pattern in upper case."""
    # beyond ASCII, two letters can have the same capital
    return text.upper() if text.isascii() else text


def exchange_as_named(text: str) -> str:
    """Return an exchange in lower case."""
    return text.lower() if text.isascii() else text


def dashed_symbol(market: Market) -> str:
    """Spell a market as Upbit and Bithumb do: quote first (`KRW-BTC`)."""
    return f"{market.quote}-{market.base}"


def market_of_dashed(symbol: str) -> Market:
    """Read Upbit's and Bithumb's spelling (`KRW-BTC` is BTC/KRW)."""
    quote, dash, base = symbol.partition("-")
    if not dash:
        raise MarketError(f"symbol: expected QUOTE-BASE such as 'KRW-BTC', was {symbol!r}")
    return Market.parse(f"{base}/{quote}")


def joined_symbol(market: Market) -> str:
    """Spell a market as Binance does (`BTCUSDT`); not reversible without the list of markets."""
    return f"{market.base}{market.quote}"
