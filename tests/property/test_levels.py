"""Levels are read as the twin reads them, in any spelling and mix of spellings."""

from collections.abc import Callable
from random import Random

import pytest

from coinspace._ext.binance import BinanceParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import twin

CAPACITY = 40
FRAMES = 1_000
# texts that are not numbers, or not numbers of a level
ODD = (
    "",
    "0",
    "00",
    "01.5",
    "1.",
    ".5",
    "-1",
    "1e5",
    "1E-400",
    "1e400",
    "1.5E-",
    "nan",
    "1 2",
    "٣",
)


def number(rng: Random) -> str:
    """Return a number as exchanges write it, or as their format allows it."""
    way = rng.randrange(12)
    if way == 0:
        return rng.choice(ODD)
    if way == 1:
        return f"{rng.randint(1, 99)}.{rng.randrange(10**7)}E-{rng.randint(0, 25)}"
    if way == 2:
        return f"{rng.randint(1, 9)}E-{rng.randint(0, 30)}"
    if way == 3:
        return str(rng.randrange(10 ** rng.randint(1, 22)))
    if way == 4:
        return f"{rng.randrange(10**17)}.{rng.getrandbits(60)}"
    digits = rng.randint(1, 12)
    return f"{rng.randrange(10 ** rng.randint(1, 8))}.{rng.randrange(10**digits):0{digits}d}"


def prices(rng: Random, count: int, falling: bool) -> list[str]:
    """Return prices in order, sometimes in another spelling or out of order."""
    places = rng.randint(0, 8)
    value = 10.0 ** rng.randint(-3, 7) * rng.uniform(0.8, 1.3)
    made = []
    for _ in range(count):
        made.append(f"{max(value, 0):.{places}f}" if rng.random() < 0.97 else number(rng))
        value *= 1 - rng.random() / 50 if falling else 1 + rng.random() / 50
    return made


def sizes(rng: Random, count: int) -> list[str]:
    plain = rng.random() < 0.5
    return [
        f"{rng.lognormvariate(-2, 3):.{8 if plain else rng.randint(1, 10)}f}"
        if rng.random() < 0.97
        else number(rng)
        for _ in range(count)
    ]


def between(rng: Random) -> str:
    return "," if rng.random() < 0.998 else rng.choice(("", " , ", ",,", ", "))


def joined(rng: Random, parts: list[str]) -> str:
    return "".join(part + (between(rng) if part is not parts[-1] else "") for part in parts)


def korean(rng: Random, simple: bool) -> bytes:
    count = rng.randint(0, 45)
    keys = (
        ("ap", "bp", "as", "bs") if simple else ("ask_price", "bid_price", "ask_size", "bid_size")
    )
    columns = (
        prices(rng, count, False), prices(rng, count, True), sizes(rng, count), sizes(rng, count),
    )  # fmt: skip
    units = [
        "{" + ",".join(f'"{key}":{one}' for key, one in zip(keys, row, strict=True)) + "}"
        for row in zip(*columns, strict=True)
    ]
    names = (
        ("ty", "cd", "tms", "obu") if simple else ("type", "code", "timestamp", "orderbook_units")
    )
    head = f'{{"{names[0]}":"orderbook","{names[1]}":"KRW-BTC","{names[2]}":1790134742106'
    return f'{head},"{names[3]}":[{joined(rng, units)}]}}'.encode()


def binance(rng: Random, diff: bool) -> bytes:
    sides = []
    for falling in (True, False):
        count = rng.randint(0, 45)
        pairs = zip(prices(rng, count, falling), sizes(rng, count), strict=True)
        sides.append(joined(rng, [f'["{price}","{size}"]' for price, size in pairs]))
    if diff:
        head = '{"e":"depthUpdate","E":1790134742106,"s":"BTCUSDT","U":1,"u":2'
        return f'{head},"b":[{sides[0]}],"a":[{sides[1]}]}}'.encode()
    return f'{{"lastUpdateId":160,"bids":[{sides[0]}],"asks":[{sides[1]}]}}'.encode()


@pytest.mark.parametrize(
    ("parser", "make", "way"),
    [
        (UpbitParser(CAPACITY), korean, False),
        (UpbitParser(CAPACITY), korean, True),
        (BithumbParser(CAPACITY), korean, False),
        (BinanceParser(CAPACITY, markets={"BTCUSDT": "BTC/USDT"}), binance, False),
        (BinanceParser(CAPACITY, markets={"BTCUSDT": "BTC/USDT"}), binance, True),
    ],
    ids=["upbit", "upbit-simple", "bithumb", "binance-depth", "binance-diff"],
)
def test_levels_equal_the_twins(
    parser: Parser, make: Callable[[Random, bool], bytes], way: bool
) -> None:
    rng = Random(f"{parser.exchange} {way}")
    books = 0
    for _ in range(FRAMES):
        frame = make(rng, way)
        got = parser.decode(frame)
        expected = twin.decode(parser.exchange, frame, {"BTCUSDT": "BTC/USDT"}, CAPACITY)
        # repr distinguishes all doubles
        assert twin.shown(got) == twin.shown(expected), frame
        books += got[0]["kind"] == "orderbook"
    assert 0.2 < books / FRAMES < 0.9
