"""Assets by pattern: which ones, in which order, how often they tick, and what is refused."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.cli import coinspace
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import Settings, load, venues_path
from coinspace.constituents import collected
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import Live
from coinspace.errors import ConfigError
from coinspace.exchanges.exchange import Listing
from coinspace.index.calculator import IndexCalculator
from coinspace.index.governance import definition
from coinspace.market import Market
from coinspace.method.aggregate import Aggregate
from coinspace.method.record import IndexRecord
from coinspace.preflight import check_start
from coinspace.shared_assets import venues_of
from coinspace.storage.read.pool import Database

NOW_NS = 1_790_000_000 * SECOND_NS
VENUES = {"ADA": 3, "BTC": 3, "SATS": 2, "KUB": 1}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", "ETH, BTC, *")
    venues_path(tmp_path).write_bytes(orjson.dumps(VENUES))
    return load()


def test_named_assets_come_first_and_shared_ones_tick_each_second(settings: Settings) -> None:
    index = settings.index
    assert index.assets == ["ETH", "BTC", "ADA", "SATS"]
    assert [index.interval_ms_of(one) for one in index.assets] == [200, 200, 1000, 1000]
    assert definition(settings, "ADA")["interval_ms"] == 1000
    assert definition(settings, "ETH")["interval_ms"] == 200


@pytest.mark.parametrize(
    ("assets", "minimum", "expected"),
    [
        ("*", 3, ["ADA", "BTC"]),
        ("*", 1, ["ADA", "BTC", "SATS", "KUB"]),
        ("*A*", 2, ["ADA", "SATS"]),
        ("b*, kub", 2, ["KUB", "BTC"]),
    ],
)
def test_a_pattern_means_assets_with_enough_venues(
    assets: str,
    minimum: int,
    expected: list[str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", assets)
    monkeypatch.setenv("COINSPACE_INDEX__MINIMUM_VENUES", str(minimum))
    assert load().index.assets == expected


def test_before_the_exchanges_were_asked_only_named_assets_have_an_index(
    settings: Settings,
) -> None:
    venues_path(settings.data).unlink()
    assert load().index.assets == ["ETH", "BTC"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"BTC": "many"}'])
def test_a_broken_file_of_venues_is_named(content: str, settings: Settings) -> None:
    venues_path(settings.data).write_text(content)
    with pytest.raises(ConfigError, match=r"assets\.json.*coinspace assets --update"):
        load()


def test_intervals_that_do_not_fit_are_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__PATTERN_INTERVAL_MS", "500")
    with pytest.raises(ConfigError, match=r"pattern_interval_ms: expected a multiple of .* 200"):
        load()
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", "BTC")
    assert load().index.interval_ms_of("BTC") == 200


def test_at_interval_0_every_asset_ticks_with_its_updates(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COINSPACE_INDEX__INTERVAL_MS", "0")
    assert load().index.interval_ms_of("ADA") == 0


def _listing(name: str, *, trading: bool = True) -> Listing:
    return Listing(name, Market.parse(name), trading=trading)


def test_venues_are_traded_collected_constituents_by_the_asset_that_their_name_means() -> None:
    settings = Settings()
    for name, section in settings.exchanges.items():
        section.markets = ["*/USDT"] if name == "binance" else ["*/KRW"]
    lists = {
        "upbit": [_listing("ADA/KRW"), _listing("TON/KRW"), _listing("USDT/KRW")],
        "bithumb": [_listing("BTC/KRW"), _listing("ADA/KRW"), _listing("SATS/KRW")],
        "binance": [
            _listing("1000SATS/USDT"),
            _listing("ADA/BTC"),
            _listing("ADA/USDT"),
            _listing("BTC/USDT", trading=False),
        ],
    }
    # without a venue in each region there is no index
    assert venues_of(settings, lists, NOW_NS) == {"ADA": 3, "SATS": 2}
    settings.index.parameters.regions = "off"
    found = venues_of(settings, lists, NOW_NS)
    assert found == {"ADA": 3, "SATS": 2, "TOKAMAK": 1, "BTC": 1}
    assert list(found)[:2] == ["ADA", "SATS"]


def test_the_aggregator_reads_the_markets_of_its_assets_only(settings: Settings) -> None:
    for section in settings.exchanges.values():
        section.markets = ["*/KRW", "*/USDT"]
    stage = OrderbookAggregator(settings)
    assert b"orderbook.binance.1000SATS/USDT." in stage.topics
    assert b"orderbook.upbit.ADA/KRW." in stage.topics
    assert b"orderbook.upbit.USDT/KRW." in stage.topics
    assert not any(b"KUB/" in topic for topic in stage.topics)
    assert not any("KUB/" in market for market in collected(settings, "upbit"))


def test_aggregates_and_missed_ticks_have_the_interval_of_their_asset(settings: Settings) -> None:
    made: list[Aggregate] = []
    stage = OrderbookAggregator(settings, on_aggregate=made.append)
    step_ns = 200 * MILLISECOND_NS
    for number in range(1, 11):
        stage.tick(NOW_NS + number * step_ns)
    assert [one.ts_ns - NOW_NS for one in made if one.asset == "ADA"] == [SECOND_NS, 2 * SECOND_NS]
    assert sum(one.asset == "BTC" for one in made) == 10

    records: list[IndexRecord] = []
    calculator = IndexCalculator(
        settings.index.parameters_of,
        lambda record, _: records.append(record),
        interval_ns=step_ns,
        intervals={"ADA": SECOND_NS},
    )
    for one in made:
        if one.ts_ns == NOW_NS + SECOND_NS:
            calculator.on_aggregate(one)
    calculator.on_time(NOW_NS + 4 * SECOND_NS)
    missed = [one for one in records if one.reason == "not_computed"]
    times = [int(one.ts_ms) - NOW_NS // MILLISECOND_NS for one in missed if one.asset == "ADA"]
    assert times == [2000, 3000, 4000]
    assert sum(one.asset == "BTC" for one in missed) == 15


def test_the_command_lists_the_assets(settings: Settings) -> None:
    result = CliRunner().invoke(coinspace, ["assets"])
    assert result.output.split() == [
        *("ETH", "200", "ms", "BTC", "200", "ms"),
        *("ADA", "1000", "ms", "SATS", "1000", "ms"),
    ]
    lines = CliRunner().invoke(coinspace, ["assets", "--json"]).output.splitlines()
    assert orjson.loads(lines[2]) == {"asset": "ADA", "interval_ms": 1000}


@pytest.mark.parametrize("name", ["orderbook-aggregator", "index-calculator", "index-endpoint"])
def test_processes_of_the_index_need_to_know_their_assets(name: str, settings: Settings) -> None:
    venues_path(settings.data).unlink()
    result = CliRunner().invoke(coinspace, [name])
    assert isinstance(result.exception, ConfigError)
    assert "coinspace assets --update" in str(result.exception)


def test_a_pattern_may_have_overrides_before_its_assets_are_known(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    venues_path(settings.data).unlink()
    monkeypatch.setenv("COINSPACE_INDEX__OVERRIDES", '{"ADA": {"decimals": 4}}')
    check_start(load())
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", "BTC, E*")
    with pytest.raises(ConfigError, match="no index of that asset"):
        check_start(load())


def test_the_endpoint_follows_a_market_from_its_first_request_on(settings: Settings) -> None:
    section = settings.exchanges["upbit"]
    section.markets = ["*/KRW"]
    live = Live(settings=settings)
    hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="x")
    database = Database(lambda: "", size=1, timeout_s=1)
    context = Context(settings, live, hub, database, lambda: NOW_NS, Path())
    followed: list[tuple[str, str]] = []
    context.follow = lambda exchange, market: followed.append((exchange, market))
    live.states["upbit", "KUB/KRW"] = {"state": "synced"}
    assert context.check_market("UPBIT", "kub/krw") == ("upbit", "KUB/KRW")
    with pytest.raises(Problem):
        context.check_market("upbit", "NONE/KRW")
    assert followed == [("upbit", "KUB/KRW")]
