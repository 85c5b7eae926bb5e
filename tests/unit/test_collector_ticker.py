"""The ticker stage without sockets: every trade once, and what becomes of the missing ones."""

from typing import Any

import orjson
import pytest

from coinspace._ext.collector_ticker import RecentIds
from coinspace._ext.message import REST, SNAPSHOT, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.ticker import TickerStage
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Refusal, Request

S = SECOND_NS
T0 = 1_790_000_000 * S
MS = T0 // 1_000_000


class Bench:
    """A stage of one market with its sink and a clock."""

    def __init__(self, name: str, symbol: str, market: str) -> None:
        self.sink = ListSink()
        self.symbol = symbol
        self.stage = TickerStage(exchange(name), [(symbol, market)], self.sink)
        self.now = T0
        self.connect(1)

    def connect(self, connection: int) -> None:
        self.stage.on_connected(connection, (self.symbol,), self.now)

    def frame(self, content: dict[str, Any], connection: int = 1, after_ms: int = 100) -> None:
        self.now += after_ms * 1_000_000
        self.stage.on_frame(orjson.dumps(content), self.now, connection)

    def timer(self, after_s: float) -> None:
        self.now += int(after_s * S)
        self.stage.on_timer(self.now)

    def trades(self) -> list[Message]:
        return [m for m in self.sink.messages if m.kind_name == "trade"]

    def ids(self) -> list[int]:
        return [trade.id for trade in self.trades()]

    def request(self) -> Request:
        (request,) = self.stage.take_requests()
        assert request.purpose == "trades"
        return request

    def answer(self, entries: list[dict[str, Any]]) -> None:
        self.stage.on_answer(self.request(), orjson.dumps(entries), self.now)

    def told(self) -> list[dict[str, Any]]:
        return [m.json() for m in self.sink.messages if m.kind_name == "state"]


@pytest.fixture
def binance() -> Bench:
    return Bench("binance", "BTCUSDT", "BTC/USDT")


@pytest.fixture
def upbit() -> Bench:
    return Bench("upbit", "KRW-BTC", "BTC/KRW")


@pytest.fixture
def bithumb() -> Bench:
    return Bench("bithumb", "KRW-BTC", "BTC/KRW")


def trade(id: int, ms: int = 0, maker: bool = False) -> dict[str, Any]:
    return {
        "stream": "btcusdt@trade",
        "data": {
            "e": "trade",
            "E": MS + ms,
            "s": "BTCUSDT",
            "t": id,
            "p": "100.5",
            "q": "0.25",
            "T": MS + ms,
            "m": maker,
            "M": True,
        },
    }


def rest_trade(id: int, ms: int = 0) -> dict[str, Any]:
    return {
        "id": id,
        "price": "100.5",
        "qty": "0.25",
        "quoteQty": "25.1",
        "time": MS + ms,
        "isBuyerMaker": True,
        "isBestMatch": True,
    }


def korean(id: int, ms: int = 0, stream: str = "REALTIME", side: str = "BID") -> dict[str, Any]:
    return {
        "type": "trade",
        "code": "KRW-BTC",
        "trade_price": 100.5,
        "trade_volume": 0.25,
        "ask_bid": side,
        "prev_closing_price": 100.0,
        "change": "RISE",
        "change_price": 0.5,
        "trade_date": "2026-09-21",
        "trade_time": "00:00:00",
        "trade_timestamp": MS + ms,
        "timestamp": MS + ms + 5,
        "sequential_id": id,
        "stream_type": stream,
    }


def korean_rest(id: int, ms: int = 0) -> dict[str, Any]:
    return {
        "market": "KRW-BTC",
        "timestamp": MS + ms,
        "trade_price": 100.5,
        "trade_volume": 0.25,
        "ask_bid": "ASK",
        "sequential_id": id,
    }


def test_a_trade_carries_price_size_taker_and_time(binance: Bench) -> None:
    binance.frame(trade(7, 40, maker=True))
    (message,) = binance.trades()
    assert message.values.tolist() == [100.5, 0.25]
    assert (message.id, message.side) == (7, "sell")
    assert message.exchange_ns == T0 + 40_000_000
    assert message.received_ns == binance.now


def test_a_trade_that_comes_twice_is_published_once(binance: Bench) -> None:
    binance.connect(2)
    for connection in (1, 2):
        for id in (5, 6, 7):
            binance.frame(trade(id), connection)
    assert binance.ids() == [5, 6, 7]
    assert binance.stage.counters()["duplicates"] == 3


def test_a_jump_of_binance_ids_is_filled_by_rest(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(9))
    assert binance.told()[-1]["missing"] == 3
    assert (binance.told()[-1]["expected"], binance.told()[-1]["found"]) == (6, 9)
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(3, 12)])
    assert binance.ids() == [5, 9, 6, 7, 8]
    assert [trade.flags & REST for trade in binance.trades()] == [0, 0, REST, REST, REST]
    counters = binance.stage.counters()
    assert (counters["trades_missing"], counters["trades_filled"]) == (3, 3)
    assert counters["trades_lost"] == 0
    # the stream's position did not move
    binance.frame(trade(10))
    assert counters["trade_gaps"] == binance.stage.counters()["trade_gaps"] == 1


def test_what_rest_does_not_have_any_more_is_lost_and_counted(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(100))
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(90, 105)])
    counters = binance.stage.counters()
    assert (counters["trades_filled"], counters["trades_lost"]) == (10, 84)
    assert binance.told()[-1]["reason"] == "trades lost"


def test_trades_missed_between_two_connections_are_found_by_their_ids(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.connect(2)
    binance.timer(3)
    assert binance.stage.take_requests() == [], "the next trade will tell"
    binance.frame(trade(8), 2)
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(1, 9)])
    assert sorted(binance.ids()) == [5, 6, 7, 8]


def test_a_refused_request_is_made_again(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(7))
    binance.timer(1)
    binance.stage.on_refused(binance.request(), Refusal("HTTP 503", fatal=False), binance.now)
    binance.timer(5)
    assert binance.stage.take_requests() == []
    binance.timer(6)
    binance.answer([rest_trade(6)])
    assert sorted(binance.ids()) == [5, 6, 7]


def test_upbit_ids_need_no_order_and_the_snapshot_trade_is_no_second_one(upbit: Bench) -> None:
    big = 17_510_687_993_360_001
    upbit.frame(korean(big + 5, 0, "SNAPSHOT"))
    upbit.frame(korean(big, 10))
    upbit.stage.on_disconnected(1, "lost", upbit.now)
    upbit.connect(2)
    upbit.frame(korean(big, 10, "SNAPSHOT"), 2)
    assert upbit.ids() == [big + 5, big]
    assert upbit.trades()[0].flags & SNAPSHOT
    assert upbit.stage.counters()["duplicates"] == 1
    assert upbit.stage.counters()["trade_gaps"] == 0


def test_upbit_trades_missed_between_connections_come_by_rest(upbit: Bench) -> None:
    upbit.frame(korean(10, 0))
    upbit.stage.on_disconnected(1, "lost", upbit.now)
    upbit.now += 10 * S
    upbit.connect(2)
    upbit.frame(korean(14, 4000, "SNAPSHOT"), 2)
    upbit.timer(3)
    upbit.answer([korean_rest(id, (id - 10) * 1000) for id in (8, 9, 10, 11, 12, 14)])
    # 8 and 9 were before the stream began
    assert upbit.ids() == [10, 14, 11, 12]
    assert upbit.stage.counters()["trades_filled"] == 2


def test_upbit_is_audited_once_a_minute_without_a_reconnect(upbit: Bench) -> None:
    upbit.frame(korean(10, 0))
    upbit.frame(korean(12, 200))
    upbit.timer(61)
    upbit.answer([korean_rest(id, id) for id in (10, 11, 12)])
    assert upbit.ids() == [10, 12, 11]
    assert upbit.stage.counters()["audits"] == 1


def test_bithumb_rest_ids_are_never_joined_with_streamed_ones(bithumb: Bench) -> None:
    stream = 1_077_860_633_149_466_017
    bithumb.frame(korean(stream, 0))
    bithumb.stage.on_disconnected(1, "lost", bithumb.now)
    bithumb.now += 10 * S
    bithumb.connect(2)
    bithumb.frame(korean(stream + 3, 5000, "SNAPSHOT"), 2)
    bithumb.timer(3)
    # the same trades by REST have other ids; those at the known times are the stream's own
    bithumb.answer([korean_rest(100 + i, ms) for i, ms in enumerate((0, 2000, 3000, 5000, 6000))])
    assert bithumb.ids() == [stream, stream + 3, 101, 102]
    assert [t.flags & REST for t in bithumb.trades()] == [0, 0, REST, REST]
    bithumb.frame(korean(stream + 4, 7000), 2)
    assert bithumb.ids()[-1] == stream + 4


def test_bithumb_without_a_missed_trade_adds_none(bithumb: Bench) -> None:
    bithumb.frame(korean(50, 0))
    bithumb.stage.on_disconnected(1, "lost", bithumb.now)
    bithumb.connect(2)
    bithumb.frame(korean(50, 0, "SNAPSHOT"), 2)
    bithumb.timer(3)
    bithumb.answer([korean_rest(900, -5), korean_rest(901, 0)])
    assert bithumb.ids() == [50]
    assert bithumb.stage.counters()["trade_gaps"] == 0


def ticker(ms: int, last: str = "100.5") -> dict[str, Any]:
    numbers = dict.fromkeys("pPwxcQbBaAohlvq", "1.5")
    return {
        "stream": "btcusdt@ticker",
        "data": {"e": "24hrTicker", "E": MS + ms, "s": "BTCUSDT", **numbers, "c": last}
        | {"O": MS, "C": MS, "F": 1, "L": 2, "n": 2},
    }


def test_tickers_of_two_connections_are_published_once_and_old_ones_never(binance: Bench) -> None:
    binance.connect(2)
    binance.frame(ticker(0))
    binance.frame(ticker(0), 2)
    binance.frame(ticker(1000, "101"))
    binance.frame(ticker(0), 2)
    tickers = [m for m in binance.sink.messages if m.kind_name == "ticker"]
    assert [m.values[0] for m in tickers] == [100.5, 101]
    assert tickers[0].window == "24h"
    assert binance.stage.counters()["ticker_repeats"] == 1
    assert binance.stage.counters()["backwards"] == 1


def test_states_follow_frames_and_silence(binance: Bench) -> None:
    binance.timer(1)
    assert binance.stage.states == {"BTC/USDT": "subscribed"}
    binance.frame(trade(1))
    binance.timer(0.25)
    assert binance.stage.states == {"BTC/USDT": "synced"}
    binance.timer(61)
    assert binance.stage.states == {"BTC/USDT": "stale"}


def test_recent_ids_forget_the_oldest_only() -> None:
    ids = RecentIds(100)
    assert all(ids.add(id) for id in range(1, 1001))
    assert not any(ids.add(id) for id in range(901, 1001))
    assert 1 not in ids
    assert 2**62 not in ids
    assert ids.add(2**62)
    assert 2**62 in ids
