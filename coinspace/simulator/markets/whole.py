"""Whole exchanges: every market with won at Upbit and Bithumb, and with USDT at Binance.

The numbers of markets and of frames are those that were seen at the exchanges: at Upbit 785 books a
second of 289 markets, at Bithumb 968 of 480, at Binance 4,500 frames a second of 450 markets, of
which 450 are tickers and 350 trades. A few markets are busy, most are quiet. The first names are
those of real assets; further ones are made up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from coinspace.market import FX_MARKET
from coinspace.simulator.markets.market import Pace
from coinspace.simulator.markets.prices import WORTH

# assets that exchanges share, the most traded ones first
KNOWN = (
    "BTC ETH XRP SOL USDC DOGE ADA TRX LINK AVAX SUI XLM HBAR BCH SHIB LTC DOT UNI PEPE APT NEAR "
    "ONDO AAVE ICP ETC TAO POL VET ATOM RENDER FIL ALGO ARB WLD OP INJ SEI TIA STX IMX GRT BONK "
    "THETA JUP QNT SAND MANA AXS FLOW XTZ CHZ NEO EGLD ENS CRV PYTH PENDLE ZRO STRK W BTT ARKM "
    "BLUR GMT MASK ANKR ZIL QTUM BAT ZRX KNC STORJ IOTA ICX ONT WAVES CVC LSK STEEM HIVE SC ELF "
    "POWR GLM MTL CELO MINA ASTR GAS KAVA ROSE SXP ENJ LPT MANTA ALT ZETA BEAM MEME CYBER ID HOOK "
    "AUDIO SUSHI YFI COMP SNX BAL RSR SKL OGN JST SUN LUNC HOT DENT WIN IOST ONE CKB RVN DGB IQ "
    "ARDR STRAX AERGO ARK POLYX GTC API3 CTSI BNT RLC NMR DYDX LDO MAGIC GMX RDNT EDU ARPA HFT "
    "JOE SPELL TRUMP PENGU VIRTUAL MOVE ME ANIME LAYER KAITO BERA NXPC DEEP WAL INIT SIGN SOPH "
    "FORM RED PARTI GUN HYPER BABY KERNEL"
)

# exchange -> number of its markets
COUNTS = {"upbit": 289, "bithumb": 480, "binance": 450}
QUOTES = {"upbit": "KRW", "bithumb": "KRW", "binance": "USDT"}
# books and trades of a whole exchange per second
RATES = {"upbit": (785.0, 60.0), "bithumb": (968.0, 70.0), "binance": (3750.0, 350.0)}
# which exchanges share how many assets; 264 have venues in both regions
SHARED = (
    (220, ("upbit", "bithumb", "binance")),
    (40, ("upbit", "bithumb")),
    (20, ("bithumb", "binance")),
    (24, ("upbit", "binance")),
)
# books per second: the grid of 100 ms is the most; a quieter market would count as delayed
MOST, LEAST = 10.0, 0.3
LEAST_TRADES = 0.01
# worth of the assets in USDT, spread evenly over the powers of ten; a tick of Binance is 1e-8, so
# the books of the cheapest assets are too coarse for an index
CHEAPEST, CHEAPEST_SHARED, DEAREST = 4e-8, 2e-5, 2e3
CONSONANTS, VOWELS = "BDFGKLMNPRSTVZ", "AEIOU"


class Whole(NamedTuple):
    """markets: exchange -> names. paces: (exchange, market) -> Pace. worth: asset -> USDT."""

    markets: dict[str, list[str]]
    paces: dict[tuple[str, str], Pace]
    worth: dict[str, float]


def whole_exchanges() -> Whole:
    """Return all markets; the same ones at each call."""
    names = _names()
    bases: dict[str, list[str]] = {name: [] for name in COUNTS}
    worth: dict[str, float] = {}
    for number, exchanges in SHARED:
        for asset in islice(names, number):
            worth[asset] = _worth(asset, CHEAPEST_SHARED)
            for name in exchanges:
                bases[name].append(asset)
    for name, found in bases.items():
        for asset in islice(names, COUNTS[name] - len(found)):
            worth[asset] = _worth(asset, CHEAPEST)
            found.append(asset)
    markets = {name: [f"{base}/{QUOTES[name]}" for base in found] for name, found in bases.items()}
    paces = {}
    for name, listed in markets.items():
        if FX_MARKET.endswith(QUOTES[name]):
            # a busy market that counts as one of the exchange's
            listed[4:] = [FX_MARKET, *listed[4:-1]]
        books, trades = RATES[name]
        n_books = _rates(len(listed), books, MOST, LEAST)
        n_trades = _rates(len(listed), trades, trades, LEAST_TRADES)
        for market, *pace in zip(listed, n_books, n_trades, strict=True):
            paces[name, market] = Pace(*pace)
    return Whole(markets, paces, worth)


def _rates(n: int, total: float, most: float, least: float) -> list[float]:
    """Return n rates with a given sum, falling with the rank, each between two limits."""

    def rates(scale: float) -> list[float]:
        return [min(most, max(least, scale / (rank + 5) ** 0.8)) for rank in range(n)]

    low, high = 0.0, total * 100
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(rates(middle)) < total else (low, middle)
    return rates(high)


def _names() -> Iterator[str]:
    known = KNOWN.split()
    yield from known
    seen = set(known)
    draw = random.Random("names")
    while True:
        letters = [draw.choice(kind) for kind in (CONSONANTS, VOWELS, CONSONANTS, VOWELS)]
        name = "".join(letters[: draw.choice((3, 4, 4))])
        if name not in seen and name not in WORTH:
            seen.add(name)
            yield name


def _worth(asset: str, cheapest: float) -> float:
    part = random.Random(asset).random()
    return float(cheapest * (DEAREST / cheapest) ** part)
