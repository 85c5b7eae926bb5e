"""Limits, waits, market lists: the policies of the collectors under a given clock."""

import asyncio
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from coinspace.clock import SECOND_NS
from coinspace.collector import collection
from coinspace.collector.fetcher import Fetcher
from coinspace.collector.limits import Dialer, FailureLog, Window, shared
from coinspace.collector.markets import MarketList, needed_markets, resolve
from coinspace.collector.orderbook import snapshot_levels
from coinspace.collector.tools.listing import listed
from coinspace.config import default_exchanges
from coinspace.errors import ConfigError, ConnectError
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Limit, Listing, Request
from coinspace.market import Market

S = SECOND_NS


def test_waits_double_to_a_minute_with_jitter_and_begin_at_once() -> None:
    dialer, now = Dialer(seed=1), 0
    assert dialer.wait_ns(now) == 0
    waits = []
    for _ in range(9):
        waits.append(dialer.lost(now))
        now += int(waits[-1] * S)
        assert dialer.wait_ns(now) <= 1
    for wait, base in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60, 60), strict=True):
        assert 0.8 * base <= wait <= 1.2 * base
    assert len({wait / base for wait, base in zip(waits[6:], (60, 60, 60), strict=True)}) == 3


def test_a_connection_that_lived_half_a_minute_is_dialled_again_at_once() -> None:
    dialer = Dialer(seed=1)
    for _ in range(5):
        dialer.lost(0)
    dialer.opened(0)
    assert dialer.lost(29 * S) > 20
    dialer.opened(100 * S)
    assert dialer.lost(130 * S) == 0
    assert 0.8 <= dialer.lost(131 * S) <= 1.2


def test_retry_after_is_a_lower_bound() -> None:
    assert Dialer(seed=1).lost(0, retry_after_s=90) == 90


def test_a_connection_that_delivered_is_dialled_again_within_seconds() -> None:
    """An exchange that restarts repeatedly works; one that only opens and closes does not."""
    dialer, now = Dialer(seed=1), 0
    for _ in range(20):
        dialer.opened(now)
        now += 2 * S
        assert dialer.lost(now, delivered=True) <= 4 * 1.2
    for _ in range(8):
        dialer.opened(now)
        wait = dialer.lost(now, delivered=False)
    assert wait >= 60 * 0.8


def test_failures_are_reported_at_once_and_then_once_a_minute_with_their_number() -> None:
    log = FailureLog()
    assert log.take(0) is None
    log.add("refused")
    assert log.take(5 * S) == {"reason": "refused"}
    for second in range(6, 65):
        log.add(f"lost {second}")
        assert log.take(second * S) is None
    assert log.take(66 * S) == {"reason": "lost 64", "times": 59, "within_s": 61}
    assert log.take(200 * S) is None
    # the first failure after a quiet time is reported at once again
    log.add("refused")
    assert log.take(201 * S) == {"reason": "refused"}


def test_a_window_never_lets_more_through_in_any_stretch() -> None:
    window, now = Window(Limit(5, 1.0)), 0
    passed: list[int] = []
    while len(passed) < 50:
        now += window.wait_ns(now)
        window.take(now)
        passed.append(now)
        now += 7_000_000
    for i in range(len(passed) - 5):
        assert passed[i + 5] - passed[i] >= S


def test_weights_count_and_blocks_are_kept() -> None:
    window = Window(Limit(4800, 60.0))
    for _ in range(19):
        assert window.wait_ns(0, 250) == 0
        window.take(0, 250)
    assert window.wait_ns(0, 250) == 60 * S
    assert window.wait_ns(60 * S, 250) == 0
    window.block(70 * S)
    assert window.wait_ns(61 * S, 1) == 9 * S


@pytest.mark.parametrize(
    "limit", [Limit(4800, 60.0), Limit(300, 300.0), Limit(5, 1.0), Limit(1, 1)]
)
def test_the_two_collectors_of_an_exchange_stay_within_its_limits_together(limit: Limit) -> None:
    parts = [shared(limit, stream) for stream in ("orderbook", "ticker")]
    assert all(part.count >= 1 for part in parts)
    assert sum(part.count / part.seconds for part in parts) <= limit.count / limit.seconds


def listing(text: str, trading: bool = True) -> Listing:
    market = Market.parse(text)
    return Listing(f"{market.quote}-{market.base}", market, trading)


def test_patterns_choose_from_the_offered_markets() -> None:
    offered = [listing("BTC/KRW"), listing("ETH/KRW"), listing("ETH/BTC"), listing("X/KRW", False)]
    chosen = resolve(exchange("upbit"), ["ETH/BTC", "*/KRW"], offered)
    assert chosen == [("BTC-ETH", "ETH/BTC"), ("KRW-BTC", "BTC/KRW"), ("KRW-ETH", "ETH/KRW")]


def test_a_pattern_without_a_market_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"exchanges\.upbit\.markets.*coinspace markets upbit"):
        resolve(exchange("upbit"), ["*/JPY"], [listing("BTC/KRW")])


def test_changes_of_the_list_are_events_and_an_empty_list_is_an_error_of_the_exchange() -> None:
    markets = MarketList()
    assert markets.update([listing("BTC/KRW"), listing("ETH/KRW")]) == []
    assert markets.update([]) == []
    events = markets.update([listing("BTC/KRW", False), listing("SOL/KRW")])
    assert [(event.change, str(event.listing.market)) for event in events] == [
        ("halted", "BTC/KRW"),
        ("listed", "SOL/KRW"),
        ("delisted", "ETH/KRW"),
    ]
    assert [event.change for event in markets.update([listing("BTC/KRW"), listing("SOL/KRW")])] == [
        "resumed"
    ]


@pytest.mark.parametrize("count", [0, 400_000])
async def test_an_empty_or_endless_list_is_an_error_of_the_exchange(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong list must not become the markets of a start, nor the assets of the index."""
    asked: list[str] = []

    async def get(self: Fetcher, request: Request) -> bytes:
        asked.append(request.path)
        if len(asked) > 1:
            stopping.set()
        return orjson.dumps([{"market": f"KRW-A{n}"} for n in range(count)])

    monkeypatch.setattr(Fetcher, "get", get)
    upbit = exchange("upbit")
    with pytest.raises(ConnectError, match=f"expected 1 to 20000 markets, was {count}"):
        await listed("upbit", default_exchanges()["upbit"])

    reasons: list[str] = []
    stopping = asyncio.Event()
    asked.clear()
    monkeypatch.setattr(collection, "MARKETS_RETRY_S", 0.01)
    health = SimpleNamespace(degraded=reasons.append, stopping=stopping)
    fetcher = SimpleNamespace(get=lambda request: get(Any, request))  # type: ignore[arg-type]
    waiting: Any = SimpleNamespace(fetcher=fetcher, exchange=upbit, health=health)
    assert await collection.Collection._first_list(waiting) is None
    assert f"expected 1 to 20000 markets, was {count}" in reasons[0]


@pytest.mark.parametrize(
    ("depth", "levels"), [(10, 100), (30, 500), (50, 500), (100, 1000), (500, 5000), (5000, 5000)]
)
def test_a_snapshot_has_the_levels_that_the_published_depth_needs(depth: int, levels: int) -> None:
    assert snapshot_levels(exchange("binance"), depth) == levels
    assert snapshot_levels(exchange("binance"), depth, 300) == 300


def test_the_index_needs_its_assets_under_any_name_and_the_rate() -> None:
    names = ["BTC/KRW", "DOGE/KRW", "USDT/KRW", "TON/KRW", "BTC/USDT"]
    entries = [(name, name) for name in names]
    found = needed_markets(exchange("upbit"), entries, ["BTC", "TOKAMAK"])
    assert found == {"BTC/KRW", "USDT/KRW", "TON/KRW", "BTC/USDT"}
