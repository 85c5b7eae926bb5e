"""Collected markets and constituents: patterns, other quotes, renamed coins, offline tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner

from coinspace._ext.message import HEARTBEAT, ORDERBOOK
from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.cli import coinspace
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.constituents import collected, constituents_of
from coinspace.index.governance import definition
from coinspace.method.aggregate import Aggregate
from tests.unit.index_books import NOW_MS, book, rate_books

NOW_NS = 1_700_000_000 * SECOND_NS
STEP_NS = SECOND_NS // 5


def settings_of(**markets: list[str]) -> Settings:
    settings = Settings()
    for name, section in settings.exchanges.items():
        section.markets = markets.get(name, [])
    return settings


class Bench:
    """An aggregator that learns its markets from messages."""

    def __init__(self, settings: Settings) -> None:
        self.found: dict[str, Aggregate] = {}
        self.stage = OrderbookAggregator(
            settings, on_aggregate=lambda one: self.found.update({one.asset: one})
        )
        self.sink = ListSink(1, clock=lambda: NOW_NS)
        self.ticks = 0

    def book(self, exchange: str, market: str, price: float) -> None:
        self.sink.publish(
            self.sink.topic(f"orderbook.{exchange}.{market}.".encode()),
            ORDERBOOK,
            np.array([price, 1.0, price * 1.0001, 1.0]),
            n_bids=1,
            n_asks=1,
            received_ns=NOW_NS,
        )
        self.stage.on_message(self.sink.messages[-1])

    def heartbeat(self, exchange: str, *markets: str) -> None:
        process = f"orderbook-collector-{exchange}"
        facts = {"process": process, "states": dict.fromkeys(markets, "synced")}
        self.sink.publish(
            self.sink.topic(f"heartbeat.{process}.".encode()), HEARTBEAT, orjson.dumps(facts)
        )
        self.stage.on_message(self.sink.messages[-1])

    def tick(self, asset: str = "BTC") -> dict[str, str | None]:
        """Return venue -> reason why it is excluded."""
        self.ticks += 1
        self.stage.tick(NOW_NS + self.ticks * STEP_NS)
        return {one.name: one.reason for one in self.found[asset].venues}


PATTERNS = {"upbit": ["*/KRW"], "bithumb": ["*/KRW"], "binance": ["*/USDT"]}


def test_the_markets_of_a_pattern_count_before_any_message() -> None:
    stage = OrderbookAggregator(settings_of(**PATTERNS))
    assert ("upbit", "BTC/KRW") in stage.venues
    assert ("binance", "SOL/USDT") in stage.venues
    assert [one.name for one in stage.fx_venues] == ["bithumb:USDT/KRW", "upbit:USDT/KRW"]
    for asset in ("BTC", "ETH", "XRP", "SOL"):
        expected = [f"binance:{asset}/USDT", f"bithumb:{asset}/KRW", f"upbit:{asset}/KRW"]
        assert [one.name for one in stage.assets[asset]] == expected


@pytest.mark.parametrize("pattern", ["*", "*/*", "*/KRW", "B*/K*", "BTC/*"])
def test_every_form_of_pattern_counts_as_the_market_by_name(pattern: str) -> None:
    by_pattern = settings_of(upbit=[pattern])
    by_name = settings_of(upbit=["BTC/KRW"])
    assert "BTC/KRW" in collected(by_pattern, "upbit")
    assert constituents_of(by_pattern, "BTC") == constituents_of(by_name, "BTC")


def test_a_pattern_of_everything_adds_no_missing_rate() -> None:
    stage = OrderbookAggregator(settings_of(binance=["*/*"]))
    assert stage.fx_venues == []
    assert [one.name for one in stage.assets["ETH"]] == ["binance:ETH/USDT"]


def test_a_renamed_coin_is_found_by_its_name_on_the_exchange() -> None:
    settings = settings_of(**PATTERNS)
    settings.index.assets = ["TOKAMAK", "TON"]
    assert constituents_of(settings, "TOKAMAK") == [
        "binance:TOKAMAK/USDT",
        "bithumb:TOKAMAK/KRW",
        "upbit:TOKAMAK/KRW",
        "upbit:TON/KRW",
    ]
    assert "upbit:TON/KRW" not in constituents_of(settings, "TON")


def test_a_market_that_the_exchange_does_not_offer_is_left_out() -> None:
    bench = Bench(settings_of(**PATTERNS))
    # no message yet: disconnected, and the index shows it
    assert bench.tick()["bithumb:BTC/KRW"] == "disconnected"
    assert bench.stage.counters()["venues"] == 14
    bench.heartbeat("bithumb", "ETH/KRW", "USDT/KRW")
    bench.heartbeat("upbit", "BTC/KRW")
    assert set(bench.tick()) == {"binance:BTC/USDT", "upbit:BTC/KRW"}
    assert [one.name for one in bench.found["BTC"].fx_venues] == ["bithumb:USDT/KRW"]
    assert set(bench.tick("ETH")) == {"binance:ETH/USDT", "bithumb:ETH/KRW"}
    # a collector that has just started knows nothing yet
    bench.heartbeat("upbit")
    assert "upbit:BTC/KRW" in bench.tick()
    # listed later, and collected by a collector that started again
    bench.heartbeat("bithumb", "BTC/KRW", "ETH/KRW", "USDT/KRW")
    assert "bithumb:BTC/KRW" in bench.tick()


def test_a_named_market_stays_a_constituent_without_a_report() -> None:
    bench = Bench(settings_of(upbit=["BTC/KRW"], binance=["BTC/USDT"]))
    bench.heartbeat("upbit", "ETH/KRW")
    assert bench.tick()["upbit:BTC/KRW"] == "disconnected"


def test_other_quotes_are_collected_and_never_count() -> None:
    settings = settings_of(
        upbit=["BTC/KRW", "BTC/USDT", "USDT/KRW", "ETH/BTC"],
        bithumb=["BTC/KRW", "USDT/KRW"],
        binance=["BTC/USDT", "BTC/USDC", "BTC/FDUSD", "ETH/BTC"],
    )
    bench = Bench(settings)
    for exchange, section in settings.exchanges.items():
        bench.heartbeat(exchange, *section.markets)
        for market in section.markets:
            base, quote = market.split("/")
            price = {"BTC": 100_000.0, "ETH": 3_000.0, "USDT": 1.0}[base]
            bench.book(exchange, market, price * {"KRW": 1400.0}.get(quote, 1.0))
    expected = {"binance:BTC/USDT", "bithumb:BTC/KRW", "upbit:BTC/KRW"}
    assert bench.tick() == dict.fromkeys(expected)
    assert definition(settings, "BTC")["constituents"] == sorted(expected)
    assert definition(settings, "ETH")["constituents"] == []


def test_the_setting_chooses_the_constituents() -> None:
    settings = settings_of(upbit=["BTC/KRW", "BTC/USDT"], binance=["BTC/USDT", "BTC/USDC"])
    settings.index.constituents = ["upbit:*/USDT", "binance:BTC/*"]
    # a quote without a rate is never summed, also when it is configured
    assert constituents_of(settings, "BTC") == ["binance:BTC/USDT", "upbit:BTC/USDT"]


def snapshot(tmp_path: Path, *extra: dict[str, Any]) -> dict[str, Any]:
    books = [
        book("upbit", 140_000_000.0),
        book("bithumb", 140_010_000.0),
        book("binance", 100_000.0),
        *rate_books(1400.0, 1400.0),
        *extra,
    ]
    line = {
        "now_ms": NOW_MS,
        "asset": "BTC",
        "books": [{**one, "recv_ms": NOW_MS} for one in books],
    }
    path = tmp_path / "books.jsonl"
    path.write_text(json.dumps(line) + "\n")
    result = CliRunner().invoke(coinspace, ["compute-index", "--snapshots", str(path)])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("exchange", "market", "price"),
    [
        ("upbit", "BTC/USDT", 100_500.0),
        ("upbit", "BTC/BTC", 1.0),
        ("binance", "BTC/USDC", 100_100.0),
        ("binance", "BTC/FDUSD", 100_000.0),
        ("binance", "BTC/KRW", 140_000_000.0),
    ],
)
def test_a_snapshot_s_other_quotes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: str, market: str, price: float
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = snapshot(tmp_path)
    assert plain["status"] == "ok"
    assert snapshot(tmp_path, book(exchange, price, market=market)) == plain
