"""Assets of patterns that become listed while the platform runs, from the collectors' heartbeats to
the endpoint: virtual time, real messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from coinspace._ext.message import HEARTBEAT, INDEX, ORDERBOOK
from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.clock import SECOND_NS
from coinspace.config import MOST_ASSETS, Settings, load, venues_path
from coinspace.endpoint.live.premium import same_coin
from coinspace.endpoint.live.state import Live
from coinspace.index.calculator import IndexCalculator
from coinspace.index.governance import definitions
from coinspace.index.pulse import Pulse
from coinspace.method.record import IndexRecord, encode
from tests.unit.test_endpoint_age import Desk

T0 = 1_790_000_000 * SECOND_NS
USUAL = {
    "upbit": ["BTC/KRW", "USDT/KRW"],
    "bithumb": ["BTC/KRW", "USDT/KRW"],
    "binance": ["BTC/USDT"],
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", "BTC, *")
    venues_path(tmp_path).write_bytes(orjson.dumps({"BTC": 3}))
    found = load()
    for name in USUAL:
        found.exchanges[name].markets = ["*/USDT"] if name == "binance" else ["*/KRW"]
    return found


class World:
    """Aggregator, calculator and live state; each has settings of its own, as its process has."""

    def __init__(self, settings: Settings) -> None:
        self.sink = ListSink(1, clock=lambda: self.now)
        self.now = T0
        self.topics: list[bytes] = []
        self.venues: dict[str, int] = {}
        self.records: list[IndexRecord] = []
        self.stage = OrderbookAggregator(
            settings, on_aggregate=self._on_aggregate, on_assets=self._on_assets
        )
        self.readers = settings.model_copy(deep=True)
        self.readers.index.share({"BTC": 3})
        self.calculator = IndexCalculator(
            self.readers.index.parameters_of,
            lambda record, _: self.records.append(record),
            interval_ns=SECOND_NS,
            assets=self.readers.index.assets,
        )
        self.live = Live(clock=lambda: self.now, settings=self.readers)
        self.begun: list[str] = []
        self.live.on_asset = self.begun.append

    def _on_assets(self, topics: list[bytes], venues: Any) -> None:
        self.topics += topics
        self.venues = dict(venues)

    def _on_aggregate(self, aggregate: Any) -> None:
        self.readers.index.admit(aggregate.asset)
        self.calculator.on_aggregate(aggregate)

    def second(self, listed: dict[str, list[str]], prices: dict[str, float]) -> None:
        """Let a second pass: heartbeats, books of each (exchange, market), a tick."""
        for exchange, markets in listed.items():
            process = f"orderbook-collector-{exchange}"
            states = {
                one.removeprefix("-"): "halted" if one[0] == "-" else "synced" for one in markets
            }
            facts = {"process": process, "states": states}
            topic = self.sink.topic(f"heartbeat.{process}.".encode())
            self.sink.publish(topic, HEARTBEAT, orjson.dumps(facts))
            for market in (one for one in markets if one[0] != "-"):
                mid = prices.get(f"{exchange}:{market}", prices.get(market, 0.0))
                levels = np.array([mid * 0.9999, 1.0, mid * 1.0001, 1.0])
                topic = self.sink.topic(f"orderbook.{exchange}.{market}.".encode())
                self.sink.publish(
                    topic, ORDERBOOK, levels, n_bids=1, n_asks=1, received_ns=self.now
                )
        for message in self.sink.messages:
            self.stage.on_message(message)
        self.sink.clear()
        self.now += SECOND_NS
        self.stage.tick(self.now // SECOND_NS * SECOND_NS)

    def last(self, asset: str) -> IndexRecord:
        return [one for one in self.records if one.asset == asset][-1]


PRICES = {
    "BTC/KRW": 140e6,
    "BTC/USDT": 100e3,
    "USDT/KRW": 1400.0,
    "NEW/KRW": 1400.0,
    "NEW/USDT": 1.0,
}


def with_new(*venues: str) -> dict[str, list[str]]:
    found = {name: list(markets) for name, markets in USUAL.items()}
    for venue in venues:
        exchange, _, market = venue.partition(":")
        found[exchange].append(market)
    return found


def test_an_asset_has_an_index_once_both_regions_list_it(settings: Settings) -> None:
    world = World(settings)
    world.second(USUAL, PRICES)
    # two venues of one region, and a market that does not trade yet, are not enough
    world.second(with_new("upbit:NEW/KRW", "bithumb:NEW/KRW", "binance:-NEW/USDT"), PRICES)
    assert settings.index.assets == ["BTC"]
    listed = with_new("upbit:NEW/KRW", "binance:NEW/USDT")
    world.second(listed, PRICES)
    assert settings.index.assets == ["BTC", "NEW"]
    assert b"orderbook.binance.NEW/USDT." in world.topics
    assert world.venues == {"BTC": 3, "NEW": 2}
    world.second(listed, PRICES)
    record = world.last("NEW")
    assert record.value == pytest.approx(1.0)
    # Bithumb does not list it: it is no venue at all
    assert set(record.venues) == {"upbit:NEW/KRW", "binance:NEW/USDT"}
    assert record.status == "ok"
    assert settings.index.interval_ms_of("NEW") == settings.index.pattern_interval_ms
    # a third venue comes, and one goes with its reason
    world.second(with_new("upbit:NEW/KRW", "binance:NEW/USDT", "bithumb:NEW/KRW"), PRICES)
    world.second(with_new("upbit:-NEW/KRW", "binance:NEW/USDT", "bithumb:NEW/KRW"), PRICES)
    record = world.last("NEW")
    assert (record.venues["upbit:NEW/KRW"].reason, record.status) == ("halted", "degraded")
    assert record.value == pytest.approx(1.0)
    # no venue in Korea: no value, and a reason
    world.second(with_new("binance:NEW/USDT"), PRICES)
    record = world.last("NEW")
    assert (record.value, record.reason) == (None, "too_few_venues")
    # the others had no part in it
    assert {one.status for one in world.records if one.asset == "BTC"} == {"ok"}


def test_a_listing_whose_price_is_that_of_another_coin_is_questioned(settings: Settings) -> None:
    world = World(settings)
    listed = with_new("upbit:NEW/KRW", "binance:NEW/USDT")
    for _ in range(3):
        world.second(listed, PRICES | {"binance:NEW/USDT": 1.7})
    record = world.last("NEW")
    assert (record.value, record.reason) == (None, "regime_split")
    topic = world.sink.topic(b"index.NEW.")
    world.sink.publish(topic, INDEX, encode(record), received_ns=world.now)
    world.live.on_message(world.sink.messages[-1])
    assert same_coin("NEW", world.live.indices["NEW"]) == "questioned"


def test_a_name_that_means_another_coin_there_is_not_summed(settings: Settings) -> None:
    """The registry knows that TON is another coin on Upbit."""
    world = World(settings)
    for _ in range(2):
        world.second(
            with_new("upbit:TON/KRW", "binance:TON/USDT"),
            PRICES | {"TON/KRW": 3.0, "TON/USDT": 3.0},
        )
    assert settings.index.assets == ["BTC"]


def test_every_reader_learns_of_an_asset_from_what_it_reads(settings: Settings) -> None:
    world = World(settings)
    listed = with_new("upbit:NEW/KRW", "binance:NEW/USDT")
    for _ in range(2):
        world.second(listed, PRICES)
    live = Live(clock=lambda: world.now, settings=settings.model_copy(deep=True))
    live._settings.index.share({"BTC": 3})  # type: ignore[union-attr]
    begun: list[str] = []
    live.on_asset = begun.append
    for name in ("NEW", "NEW", "N*W", "new", "N" * 30):
        topic = world.sink.topic(f"index.{name}.".encode())
        world.sink.publish(topic, INDEX, encode(world.last("NEW")), received_ns=world.now)
        live.on_message(world.sink.messages[-1])
    assert begun == ["NEW"]
    assert set(live.indices) == {"NEW"}
    # its definition, and the watch over its ticks
    (row,) = definitions(settings, "NEW", T0)
    definition = orjson.loads(row.columns["definition"])
    assert (row.symbols["asset"], definition["interval_ms"]) == ("NEW", 1000)
    pulse = Pulse(["BTC"], lambda asset: 60.0, clock=lambda: world.now)
    pulse.add("NEW")
    pulse.tick(world.last("NEW"))
    assert 'index_tick_age_s{asset="NEW"}' in pulse.counters()


def test_the_list_of_assets_is_bounded_and_needs_a_pattern(settings: Settings) -> None:
    index = settings.index
    assets = index.assets
    for number in range(MOST_ASSETS + 5):
        index.admit(f"A{number}")
    assert len(index.assets) == MOST_ASSETS
    assert index.assets is assets
    named = Settings()
    assert not named.index.admit("NEW")


def test_a_market_that_its_collector_does_not_name_any_more_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch)
    desk.all_kinds()
    name = "orderbook-collector-upbit"

    def beat(states: dict[str, str]) -> None:
        body = {"process": name, "states": states}
        desk.send(f"heartbeat.{name}.", HEARTBEAT, orjson.dumps(body))

    beat({"BTC/KRW": "synced", "ETH/KRW": "halted"})
    # a new process does not know its markets yet
    beat({})
    assert ("upbit", "ETH/KRW") in desk.live.states
    others = [key for key in desk.live.states if key[0] != "upbit"]
    beat({"ETH/KRW": "synced"})
    assert [key for key in desk.live.states if key[0] == "upbit"] == [("upbit", "ETH/KRW")]
    assert not any(("upbit", "BTC/KRW") in one for one in (desk.live.books, desk.live.tickers))
    assert [key for key in desk.live.states if key[0] != "upbit"] == others
