"""Which price groups a market gets, and what happens when the exchange refuses them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.grouped import (
    MOST,
    REFUSED_NS,
    SILENT_NS,
    GroupedBooks,
    GroupStage,
    grouped_markets,
)
from coinspace.collector.limits import Leftover, Window
from coinspace.collector.orderbook import OrderBookStage
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Limit, Refusal, Subscription

S = SECOND_NS
T0 = 1_790_000_000 * S


def book(price: float, level: float) -> bytes:
    units = [{"ask_price": price + 1000, "bid_price": price, "ask_size": 1, "bid_size": 1}]
    return orjson.dumps(
        {
            "type": "orderbook",
            "code": "KRW-BTC",
            "timestamp": T0 // 1_000_000,
            "orderbook_units": units,
            "stream_type": "REALTIME",
            "level": level,
        }
    )


class Bench:
    """The books of one exchange and their groups, without sockets."""

    def __init__(
        self,
        name: str,
        path: Path | None = None,
        monkeypatch: pytest.MonkeyPatch | None = None,
        **changes: Any,
    ) -> None:
        self.exchange = exchange(name)
        self.now = T0
        if monkeypatch is not None:
            monkeypatch.setattr("coinspace.collector.grouped.now_ns", lambda: self.now)
        self.stage = OrderBookStage(self.exchange, [("KRW-BTC", "BTC/KRW")], ListSink(), depth=30)
        self.stage.on_connected(1, ("KRW-BTC",), self.now)
        self.opened: list[tuple[float, GroupStage, Any]] = []
        self.requests: list[Any] = []
        (market,) = self.stage.markets
        self.groups = GroupedBooks(
            self.exchange,
            self.exchange.SETTINGS.model_copy(update=changes),
            self.connect,
            self.requests.append,
            path,
        )
        self.groups.add(market, self.stage.groups_of(market))

    def connect(self, subscription: Subscription, stage: GroupStage) -> Any:
        level = orjson.loads(subscription.frames[0])[1]["level"]
        connection = SimpleNamespace(fatal=None, ended=False)
        connection.end = lambda: setattr(connection, "ended", True)
        self.opened.append((level, stage, connection))
        stage.on_connected(len(self.opened) + 1, ("KRW-BTC",), self.now)
        return connection

    def start(self) -> None:
        self.timer()
        assert not self.opened, "the price is not known"
        self.stage.on_frame(book(1.4e8, self.single), self.now, 1)
        self.timer()

    @property
    def single(self) -> int:
        return 0 if self.exchange.NAME == "upbit" else 1

    @property
    def levels(self) -> list[float]:
        return [level for level, _, _ in self.opened]

    def timer(self, after_s: float = 0.25) -> None:
        self.now += int(after_s * S)
        self.groups.on_timer(self.now)

    def refuse(self) -> None:
        self.opened[-1][2].fatal = Refusal("WRONG_FORMAT: no", fatal=True)
        self.timer()


def test_listed_levels_are_requested_first_and_the_finest_that_reaches_is_taken() -> None:
    bench = Bench("upbit")
    bench.start()
    (request,) = bench.requests
    assert not bench.opened
    bench.timer()
    assert len(bench.requests) == 1, "one request at a time"
    bench.groups.on_list(
        b'[{"market":"KRW-BTC","supported_levels":["0","10000","100000","1000000"]}]'
    )
    bench.timer()
    assert bench.levels == [100_000]
    assert request.purpose == "groups"
    stage = bench.opened[0][1]
    stage.on_frame(book(1.4e8, 100_000), bench.now, 2)
    assert bench.groups.counters()["grouped_markets"] == 1
    bench.timer(60)
    assert bench.levels == [100_000]


def test_an_unreadable_list_is_requested_again() -> None:
    bench = Bench("upbit")
    bench.start()
    for payload in (
        b"",
        b"{}",
        b'[{"market":"KRW-BTC"}]',
        b'[{"market":1,"supported_levels":[null]}]',
    ):
        bench.groups.on_list(payload)
    bench.timer(31)
    assert len(bench.requests) == 2
    assert not bench.opened


def test_a_refused_level_is_reported_once_and_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "groups.json"
    bench = Bench("bithumb", path, monkeypatch)
    bench.start()
    # 15 groups of 10 ticks reach 0.11 % only
    assert bench.levels == [100]
    bench.refuse()
    assert bench.opened[0][2].ended
    bench.timer()
    assert bench.levels == [100, 1000]
    bench.refuse()
    bench.timer()
    # none that is left reaches so far: the widest
    assert bench.levels == [100, 1000, 10]
    bench.refuse()
    for _ in range(100):
        bench.timer(60)
    assert bench.levels == [100, 1000, 10]
    assert bench.groups.counters()["group_levels_refused"] == 3
    assert bench.groups.connections == []
    # the choice was CoinSpace's: no problem of the configuration
    assert bench.groups.problems == []
    # a new process does not ask again before a week is over
    later = Bench("bithumb", path, monkeypatch)
    later.start()
    assert later.levels == []
    later.timer(REFUSED_NS / S + 7000)
    assert later.levels == [100]


def test_a_silent_level_is_left_alone_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("bithumb", None, monkeypatch, group_levels={"BTC/KRW": 7.0})
    bench.start()
    assert bench.levels == [7]
    bench.timer(9)
    assert not bench.opened[0][2].ended
    bench.timer(2)
    assert bench.opened[0][2].ended
    (problem,) = bench.groups.problems
    assert "level 7 of BTC/KRW: no frame within 10 s" in problem
    bench.timer(60)
    assert bench.levels == [7]
    bench.timer(SILENT_NS / S)
    assert bench.levels == [7, 7]
    # this time it comes
    bench.opened[1][1].on_frame(book(1.4e8, 7), bench.now, 3)
    bench.timer(60)
    assert not bench.opened[1][2].ended


@pytest.mark.parametrize("content", [b"", b"[]", b'{"KRW-BTC":7}', b'{"KRW-BTC":{"x":1}}'])
def test_an_unreadable_file_of_refusals_is_no_obstacle(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_bytes(content)
    bench = Bench("bithumb", path)
    bench.start()
    bench.refuse()
    kept = orjson.loads(path.read_bytes())
    assert list(kept["KRW-BTC"]) == ["100"]


def test_which_markets_get_groups() -> None:
    upbit, settings = exchange("upbit"), exchange("upbit").SETTINGS
    markets = ["BTC/KRW", "ETH/KRW", "ETH/BTC", "DOGE/KRW", "USDT/KRW"]
    needed = {"ETH/KRW": 0, "BTC/KRW": 1, "ETH/BTC": 1}
    assert grouped_markets(upbit, settings, markets, needed) == ["ETH/KRW", "BTC/KRW"]
    given = settings.model_copy(update={"group_levels": {"DOGE/KRW": 1.0, "BTC/*": 0.0}})
    assert grouped_markets(upbit, given, markets, needed) == ["ETH/KRW", "DOGE/KRW"]
    off = settings.model_copy(update={"group_reach": 0.0})
    assert grouped_markets(upbit, off, markets, needed) == []
    many = [f"A{i}/KRW" for i in range(2 * MOST)]
    assert len(grouped_markets(upbit, settings, many, dict.fromkeys(many, 0))) == MOST
    binance = exchange("binance")
    assert grouped_markets(binance, binance.SETTINGS, ["BTC/USDT"], {"BTC/USDT": 0}) == []


def test_connections_of_groups_leave_one_dial_for_the_books() -> None:
    window = Window(Limit(3, 1.0))
    left = Leftover(window)
    for _ in range(2):
        assert left.wait_ns(T0) == 0
        left.take(T0)
    assert left.wait_ns(T0) > 0
    assert window.wait_ns(T0) == 0
    left.block(T0 + S)
    assert window.wait_ns(T0) == S
