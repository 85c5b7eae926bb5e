"""Markets `BASE/QUOTE` and the exchanges' own spellings of them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

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
# of a name, in characters and in bytes: names become topics, file names and symbols of frames
NAME_LENGTH, NAME_BYTES = 20, 30
# scripts without capitals with letters that look like A-Z
_ALIKE = ("LISU", "TIFINAGH", "MIAO", "BAMUM", "OLD")
# scripts of syllables without such letters
_SYLLABLES = ("HANGUL", "ETHIOPIC")
# Japanese signs that lengthen or repeat a letter
_SIGNS = "ー々"
# written from right to left
_LEFTWARD = ("R", "AL")


@dataclass(frozen=True, slots=True)
class Market:
    """A market as in `BTC/KRW`: one unit of base costs `price` units of quote.

    Raises: MarketError when a text is not BASE/QUOTE in capitals, or in letters without capitals.
    """

    base: str
    quote: str

    @classmethod
    def parse(cls, text: str) -> Market:
        base, slash, quote = text.partition("/")
        if not slash or not is_name(base) or not is_name(quote):
            raise MarketError(f"market: expected BASE/QUOTE such as 'BTC/KRW', was {text!a}")
        return cls(base, quote)

    def __str__(self) -> str:
        return f"{self.base}/{self.quote}"


def is_name(text: str) -> bool:
    """Return whether a text can be the name of an asset or a currency.

    Letters are A-Z, and those of scripts without capitals such as 币 or 코. No two names look
    alike: other letters with capitals, letters that are spelled in two ways, and marks of the
    direction of writing are refused.
    """
    if text.isascii():
        return _NAME.fullmatch(text) is not None
    return (
        len(text) <= NAME_LENGTH
        and len(text.encode(errors="replace")) <= NAME_BYTES
        and unicodedata.is_normalized("NFKC", text)
        and all(_fits(one, before) for before, one in pairwise(("", *text)))
        and not (_is_leftward(text) and re.search("[A-Z0-9$]", text))
    )


def _fits(one: str, before: str) -> bool:
    # whether a letter can follow another one, "" = none
    if _NAME.fullmatch(one) or (one in _SIGNS and before):
        return True
    script, kind = _script(one), unicodedata.category(one)
    if kind in ("Mn", "Mc"):
        # a vowel or tone, which is written with a letter of its script
        return bool(before) and script == _script(before)
    name = unicodedata.name(one, "FILLER")
    # fillers are letters that show nothing
    if "FILLER" in name or script in _ALIKE or ("SYLLAB" in name and script not in _SYLLABLES):
        return False
    return kind == "Lo" and one.lower() == one == one.upper()


def _script(one: str) -> str:
    return unicodedata.name(one, "").partition(" ")[0]


def _is_leftward(text: str) -> bool:
    return any(unicodedata.bidirectional(one) in _LEFTWARD for one in text)


def as_named(text: str) -> str:
    """Return an asset, a market or a pattern in upper case, as names are spelled.

    Letters beyond ASCII keep their case: two of them can have the same capital.
    """
    if text.isascii():
        return text.upper()
    composed = unicodedata.normalize("NFC", text)
    return "".join(one.upper() if one.isascii() else one for one in composed)


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
