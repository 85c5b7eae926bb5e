"""The compiled parsers against their plain-Python twin on seeded mutations of frames."""

import time
from random import Random

import pytest

from coinspace._ext.binance import BinanceParser
from coinspace._ext.binance_sbe import BinanceSbeParser
from coinspace._ext.bithumb import BithumbParser
from coinspace._ext.coinone import CoinoneParser
from coinspace._ext.parser import Parser
from coinspace._ext.upbit import UpbitParser
from tests.fuzz import mutate, twin

MARKETS = {"BTCUSDT": "BTC/USDT"}
SECONDS = 3.0


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
    return makers[exchange](capacity)


@pytest.mark.parametrize("exchange", ["upbit", "bithumb", "binance", "binance-sbe", "coinone"])
def test_every_outcome_equals_the_twin(exchange: str) -> None:
    rng = Random(f"{exchange} 20261122")
    capacity = 3
    ours = parser(exchange, capacity)
    frames = kinds = 0
    seen: set[str] = set()
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        frame = mutate.frame(exchange, rng)
        got = ours.decode(frame)
        expected = twin.decode(exchange, frame, MARKETS, capacity)
        assert twin.shown(got) == twin.shown(expected), frame
        assert all(0 <= one.get("offset", 0) <= len(frame) for one in got), frame
        frames += 1
        seen |= {one["kind"] for one in got}
        kinds += got[0]["kind"] != "malformed"
    # some frames must be accepted and some refused, or the test shows nothing
    assert frames > 500
    assert 0.1 < kinds / frames < 0.9
    own = {"top", "ignored"} if exchange == "binance-sbe" else {"ticker", "control"}
    assert {"orderbook", "trade", "malformed"} | own <= seen
