"""The compiled parsers against their plain-Python twin on seeded mutations of frames."""

from random import Random

import pytest

from coinspace._ext.binance import BinanceParser
from coinspace._ext.binance_sbe import BinanceSbeParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.coinbase import CoinbaseParser
from coinspace._ext.coinone import CoinoneParser
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
FRAMES = 5_000


def parser(exchange: str, capacity: int = 5000) -> Parser:
    if exchange == "binance":
        return BinanceParser(capacity, markets=MARKETS)
    if exchange == "binance-sbe":
        return BinanceSbeParser(capacity, markets=MARKETS)
    makers: dict[str, type[Parser]] = {
        "upbit": UpbitParser,
        "bithumb": BithumbParser,
        "coinone": CoinoneParser,
    }
    makers["coinbase"] = CoinbaseParser
    return makers[exchange](capacity)


@pytest.mark.parametrize(
    "exchange", ["upbit", "bithumb", "binance", "binance-sbe", "coinone", "coinbase"]
)
def test_every_outcome_equals_the_twin(exchange: str) -> None:
    rng = Random(f"{exchange} 20261122")
    capacity = 3
    ours = parser(exchange, capacity)
    kinds = 0
    seen: set[str] = set()
    for _ in range(FRAMES):
        frame = mutate.frame(exchange, rng)
        got = ours.decode(frame)
        expected = twin.decode(exchange, frame, MARKETS, capacity)
        assert twin.shown(got) == twin.shown(expected), frame
        assert all(0 <= one.get("offset", 0) <= len(frame) for one in got), frame
        seen |= {one["kind"] for one in got}
        kinds += got[0]["kind"] != "malformed"
    # some frames must be accepted and some refused, or the test shows nothing
    assert 0.1 < kinds / FRAMES < 0.9
    own = {"top", "ignored"} if exchange == "binance-sbe" else {"ticker", "control"}
    assert {"orderbook", "trade", "malformed"} | own <= seen
