"""The ticker stage without sockets: every trade is published once, missing trades are filled."""

import random
from decimal import Decimal
from typing import Any

import orjson
import pytest

from coinspace._ext.collector import FUTURE_NS, PAST_NS
from coinspace._ext.collector_ticker import FAR_ROW, ID_DISTANCE, LOW_ROW, RecentIds
from coinspace._ext.message import REST, SNAPSHOT, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.holes import Missing, missing
from coinspace.collector.memory import JournalEnd
from coinspace.collector.ticker import TickerStage
from coinspace.collector.volume import VolumeCheck
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Refusal, Request

S = SECOND_NS
T0 = 1_790_000_000 * S
MS = T0 // 1_000_000


class Bench:
    """A stage of one market with its sink and a clock."""

    def __init__(
        self, name: str, symbol: str, market: str, *, connected: bool = True, epoch: int = 1
    ) -> None:
        self.sink = ListSink(epoch)
        self.symbol = symbol
        self.stage = TickerStage(exchange(name), [(symbol, market)], self.sink)
        self.now = T0
        if connected:
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

    def reported(self) -> list[dict[str, Any]]:
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


def test_a_trade_has_price_size_taker_and_time(binance: Bench) -> None:
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
    assert binance.reported()[-1]["missing"] == 3
    assert (binance.reported()[-1]["expected"], binance.reported()[-1]["found"]) == (6, 9)
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


def test_trades_that_rest_does_not_have_any_more_are_counted_as_lost(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(100))
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(90, 105)])
    older = binance.request()
    assert older.path == "/api/v3/historicalTrades?symbol=BTCUSDT&limit=90&fromId=0"
    # for example because it demands a key
    binance.stage.on_refused(older, Refusal("HTTP 401", fatal=True), binance.now)
    counters = binance.stage.counters()
    assert (counters["trades_filled"], counters["trades_lost"]) == (10, 84)
    assert binance.reported()[-1]["reason"] == "trades lost: at least 84"


def test_trades_missed_between_two_connections_are_found_by_their_ids(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.connect(2)
    binance.timer(3)
    assert binance.stage.take_requests() == [], "the next trade will show it"
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


def test_upbit_ids_need_no_order_and_the_snapshot_trade_is_published_once(upbit: Bench) -> None:
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
    # 8 and 9 came before the stream began
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
    # REST gives the same trades other ids; those at the known times are the stream's
    times = (-1500, 0, 2000, 3000, 5000, 6000)
    bithumb.answer([korean_rest(99 + i, ms) for i, ms in enumerate(times)])
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


def test_older_lists_are_asked_for_until_the_gap_is_filled(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(2500))
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(1502, 2502)])
    assert binance.stage.counts["trades_filled"] == 0
    for _ in range(2):
        older = binance.request()
        first = int(older.path.rpartition("=")[2])
        rows = [rest_trade(id) for id in range(max(first, 1), first + 1000)]
        binance.stage.on_answer(older, orjson.dumps(rows), binance.now)
    assert sorted(binance.ids()) == list(range(5, 2501))
    assert len(binance.ids()) == len(set(binance.ids()))
    assert binance.stage.counts["trades_lost"] == 0


def test_a_hole_that_grows_during_a_request_is_filled_completely(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.frame(trade(7))
    binance.timer(1)
    early = binance.request()
    binance.frame(trade(9))
    # REST's answer cannot contain the new one
    binance.stage.on_answer(early, orjson.dumps([rest_trade(6)]), binance.now)
    assert binance.stage.counts["trades_lost"] == 0
    binance.timer(1)
    binance.answer([rest_trade(id) for id in range(1, 10)])
    assert sorted(binance.ids()) == [5, 6, 7, 8, 9]
    assert binance.stage.counts["trades_lost"] == 0


def test_a_newer_connection_that_is_ahead_gives_no_gap(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.connect(2)
    binance.frame(trade(8), 2)
    binance.frame(trade(6), 1)
    binance.frame(trade(7), 1)
    binance.frame(trade(9), 2)
    binance.timer(3)
    assert binance.stage.take_requests() == []
    assert sorted(binance.ids()) == [5, 6, 7, 8, 9]
    assert binance.stage.counts["trade_gaps"] == 0


def test_trades_that_neither_of_two_connections_brings_are_a_gap(binance: Bench) -> None:
    binance.frame(trade(5))
    binance.connect(2)
    binance.frame(trade(9), 2)
    binance.frame(trade(6), 1)
    binance.stage.on_disconnected(1, "replaced", binance.now)
    binance.timer(3)
    assert (binance.reported()[-1]["expected"], binance.reported()[-1]["missing"]) == (7, 2)
    binance.answer([rest_trade(id) for id in range(1, 10)])
    assert sorted(binance.ids()) == [5, 6, 7, 8, 9]
    assert binance.stage.counts["trade_gaps"] == 1


# an earlier process


def restarted(before: Bench, name: str, symbol: str, market: str, epoch: int = 1) -> Bench:
    """Return a bench whose stage continues after another one's messages."""
    memory = JournalEnd()
    for message in before.sink.messages:
        memory.take(message)
    bench = Bench(name, symbol, market, connected=False, epoch=epoch)
    bench.now = before.now
    bench.stage.resume(memory, bench.now)
    bench.connect(1)
    return bench


def test_binance_trades_missed_between_two_processes_come_by_rest(binance: Bench) -> None:
    # 6 was missing when the process died
    for id in (5, 7, 8):
        binance.frame(trade(id))
    after = restarted(binance, "binance", "BTCUSDT", "BTC/USDT")
    after.frame(trade(12))
    after.timer(3)
    after.answer([rest_trade(id) for id in range(1, 14)])
    assert after.ids() == [12, 6, 9, 10, 11]
    assert [t.flags & REST for t in after.trades()] == [0, REST, REST, REST, REST]
    assert after.stage.counts["trades_remembered"] == 3
    assert after.stage.counts["trades_lost"] == 0


def test_a_process_that_missed_nothing_publishes_nothing_twice(binance: Bench) -> None:
    for id in (5, 6):
        binance.frame(trade(id))
    after = restarted(binance, "binance", "BTCUSDT", "BTC/USDT")
    after.frame(trade(6))
    after.frame(trade(7))
    after.timer(3)
    assert after.stage.take_requests() == []
    assert after.ids() == [7]


def test_upbit_trades_missed_between_two_processes_come_by_rest(upbit: Bench) -> None:
    for id in (10, 12):
        upbit.frame(korean(id, id * 100))
    after = restarted(upbit, "upbit", "KRW-BTC", "BTC/KRW")
    after.now += 10 * S
    after.frame(korean(20, 4000, "SNAPSHOT"))
    after.timer(3)
    # the list does not reach back far enough, so an older one is asked for
    after.answer([korean_rest(id, id * 200) for id in (18, 19, 20)])
    older = after.request()
    # pages overlap by the trades of a second: ids do not give the order of trades
    assert older.path.endswith("&cursor=20")
    rows = [korean_rest(11, 1200), korean_rest(15, 1500), korean_rest(12, 1200)]
    after.stage.on_answer(older, orjson.dumps([korean_rest(9, 100), *rows]), after.now)
    assert sorted(after.ids()) == [11, 15, 18, 19, 20]
    assert after.stage.counts["trades_lost"] == 0


def test_bithumb_trades_missed_between_two_processes_come_by_rest(bithumb: Bench) -> None:
    stream = 1_077_860_633_149_466_017
    bithumb.frame(korean(stream, 0))
    after = restarted(bithumb, "bithumb", "KRW-BTC", "BTC/KRW")
    after.now += 10 * S
    after.frame(korean(stream + 9, 5000, "SNAPSHOT"))
    after.timer(3)
    after.answer([korean_rest(100 + i, ms) for i, ms in enumerate((-1500, 2000, 3000, 6000))])
    assert after.ids() == [stream + 9, 101, 102]


@pytest.mark.parametrize("shift_ms", [0, 3])
def test_a_gap_that_a_short_lived_process_did_not_fill_is_filled_by_the_next(
    bithumb: Bench, shift_ms: int
) -> None:
    bithumb.frame(korean(1, 0))
    bithumb.frame(korean(2, 40_000), after_ms=40_000)
    # the second process dies before it has asked REST
    second = restarted(bithumb, "bithumb", "KRW-BTC", "BTC/KRW", epoch=2)
    second.now += 10 * S
    second.frame(korean(5, 50_000, "SNAPSHOT"))
    second.frame(korean(6, 51_000))
    memory = JournalEnd()
    for message in (*bithumb.sink.messages, *second.sink.messages):
        memory.take(message)
    third = Bench("bithumb", "KRW-BTC", "BTC/KRW", connected=False)
    third.now = second.now
    third.stage.resume(memory, third.now)
    third.connect(1)
    third.now += 10 * S
    third.frame(korean(9, 60_000, "SNAPSHOT"))
    third.timer(3)
    times = (0, 40_000, 45_000, 50_000, 51_000, 55_000, 60_000)
    rows = [korean_rest(900 + i, ms + shift_ms) for i, ms in enumerate(times)]
    for row in rows:
        row["ask_bid"] = "BID"
    third.answer(rows)
    filled = [(t.exchange_ns - T0) // 1_000_000 for t in third.trades() if t.flags & REST]
    # where REST has other times than the stream, only trades after all published ones are taken
    assert filled == ([45_000, 55_000] if not shift_ms else [51_003, 55_003])


def test_bithumb_trades_of_the_same_ms_are_missed_too_where_rest_shows_both(
    bithumb: Bench,
) -> None:
    stream = 1_077_860_633_149_466_017
    bithumb.frame(korean(stream, 0))
    bithumb.stage.on_disconnected(1, "lost", bithumb.now)
    bithumb.now += 10 * S
    bithumb.connect(2)
    # the last of three trades of one order
    bithumb.frame(korean(stream + 3, 5000, "SNAPSHOT"), 2)
    bithumb.timer(3)
    rows = [korean_rest(0, -1500), korean_rest(1, 0), *(korean_rest(n, 5000) for n in (2, 3, 4))]
    for row in rows:
        row["ask_bid"] = "BID"
    bithumb.answer(rows)
    assert len(bithumb.trades()) == 4
    assert bithumb.stage.counts["trades_filled"] == 2


@pytest.mark.parametrize(
    "said",
    [{"is_trading_suspended": True}, {"market_state": "PREVIEW"}, {"market_state": "DELISTED"}],
)
def test_a_ticker_reports_a_suspension(upbit: Bench, said: dict[str, Any]) -> None:
    fine = {"is_trading_suspended": False, "market_state": "ACTIVE"}
    upbit.frame(day(0, 1.0) | fine)
    upbit.timer(0.25)
    assert upbit.stage.states == {"BTC/KRW": "synced"}
    upbit.frame(day(1000, 1.0) | said)
    upbit.timer(0.25)
    assert upbit.stage.states == {"BTC/KRW": "halted"}
    assert upbit.reported()[-1]["change"] == "halted"
    # its silence is normal now
    upbit.timer(100)
    assert upbit.stage.states == {"BTC/KRW": "halted"}
    upbit.frame(day(2000, 1.0))
    upbit.timer(0.25)
    assert upbit.stage.states == {"BTC/KRW": "synced"}


# the volume of the day


def day(ms: int, volume: float) -> dict[str, Any]:
    return {
        "type": "ticker",
        "code": "KRW-BTC",
        "trade_price": 100.5,
        "acc_trade_volume": volume,
        "timestamp": MS + ms,
        "stream_type": "REALTIME",
    }


def traded(bench: Bench, ids: range, volume: float, *, dropped: tuple[int, ...] = ()) -> float:
    """Let trades of 0.25 happen, each with its ticker and a quiet moment; return the volume."""
    for id in ids:
        volume += 0.25
        if id not in dropped:
            bench.frame(korean(id, id * 1000), after_ms=400)
        bench.frame(day(id * 1000 + 1, volume), after_ms=1)
        bench.timer(0.5)
    return volume


def test_upbit_finds_a_dropped_trade_by_the_volume(upbit: Bench) -> None:
    volume = traded(upbit, range(1, 5), 1000.0)
    volume = traded(upbit, range(5, 9), volume, dropped=(6,))
    assert upbit.stage.counts["volume_gaps"] == 1
    assert upbit.reported()[-1]["volume"] == pytest.approx(0.25, abs=1e-9)
    upbit.timer(6)
    upbit.answer([korean_rest(id, id * 1000) for id in range(1, 9)])
    assert sorted(upbit.ids()) == list(range(1, 9))
    traded(upbit, range(9, 20), volume)
    assert upbit.stage.counts["volume_gaps"] == 1
    assert upbit.stage.counts["volume_unexplained"] == 0


def test_bithumb_fills_a_dropped_trade_when_the_volume_proves_it(bithumb: Bench) -> None:
    volume = traded(bithumb, range(1, 5), 1000.0)
    traded(bithumb, range(5, 9), volume, dropped=(6,))
    bithumb.timer(6)
    rows = [korean_rest(900 + id, id * 1000) for id in range(1, 9)]
    for row in rows:
        row["ask_bid"] = "BID"
    bithumb.answer(rows)
    assert bithumb.ids() == [1, 2, 3, 4, 5, 7, 8, 906]
    assert bithumb.trades()[-1].flags & REST
    assert bithumb.stage.counts["trades_filled"] == 1
    assert bithumb.stage.counts["volume_unexplained"] == 0


def test_bithumb_fills_no_trade_without_proof_by_the_volume(bithumb: Bench) -> None:
    volume = traded(bithumb, range(1, 5), 1000.0)
    traded(bithumb, range(5, 9), volume, dropped=(6,))
    bithumb.timer(6)
    # REST writes the times differently, so that every trade looks new
    rows = [korean_rest(900 + id, id * 1000 + 3) for id in range(1, 9)]
    bithumb.answer(rows)
    assert bithumb.ids() == [1, 2, 3, 4, 5, 7, 8]
    assert bithumb.stage.counts["volume_unexplained"] == 1


def test_streams_that_run_ahead_of_each_other_and_midnight_are_no_gaps(upbit: Bench) -> None:
    volume = traded(upbit, range(1, 5), 1000.0)
    for id in range(5, 30):
        volume += 0.25
        # the ticker comes first, and waits for its trade through a quiet moment
        upbit.frame(day(id * 1000, volume), after_ms=400)
        upbit.timer(0.5)
        upbit.frame(korean(id, id * 1000), after_ms=400)
        upbit.timer(0.5)
    traded(upbit, range(30, 40), 0.0)
    assert upbit.stage.counts["volume_gaps"] == 0
    assert upbit.stage.take_requests() == []


@pytest.mark.parametrize("size", [1e-8, 0.1, 7_123_456.7])
def test_the_volume_check_sees_one_trade_among_many(size: float) -> None:
    """The rounding of the sums is smaller than a trade."""
    draw = random.Random(7)
    check = VolumeCheck()
    published = 0.0
    exact = Decimal(0)
    for n in range(20_000):
        amount = round(size * draw.uniform(1, 50), 8)
        exact += Decimal(repr(amount))
        if n != 15_000:
            published += amount
        else:
            dropped = amount
        missing = check.look(float(exact), published, n, n, n)
        assert bool(missing) == (n > 15_000), n
        if missing:
            assert missing == pytest.approx(dropped, abs=VolumeCheck.tolerance(published, 0) * 2)
            return


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


FIRST = {"binance": trade(1), "upbit": korean(1), "bithumb": korean(1)}


def silent(bench: Bench, seconds: int) -> list[Request]:
    """Let time pass without a frame; return the REST requests."""
    asked: list[Request] = []
    for _ in range(seconds):
        bench.timer(1)
        asked += bench.stage.take_requests()
    return asked


@pytest.mark.parametrize("name", FIRST)
def test_a_market_without_trades_is_normal(name: str, request: pytest.FixtureRequest) -> None:
    bench: Bench = request.getfixturevalue(name)
    bench.frame(FIRST[name])
    bench.timer(1)
    for _ in range(10):
        asked = silent(bench, 62)
        assert len(asked) <= 2, "REST is asked about once a minute"
        for one in asked:
            known = [rest_trade(1)] if name == "binance" else [korean_rest(1, 0)]
            bench.stage.on_answer(one, orjson.dumps(known), bench.now)
    assert set(bench.stage.states.values()) == {"synced"}
    assert bench.stage.take_reconnects() == {}
    assert bench.stage.counts["stale"] == 0


@pytest.mark.parametrize("name", FIRST)
def test_a_stream_without_the_trades_that_rest_has_is_replaced(
    name: str, request: pytest.FixtureRequest
) -> None:
    bench: Bench = request.getfixturevalue(name)
    bench.frame(FIRST[name])
    bench.timer(1)
    asked = silent(bench, 65)
    assert asked
    newer = [rest_trade(i, i * 20_000) for i in (1, 2, 3)]
    if name != "binance":
        newer = [korean_rest(i, i * 20_000) for i in (1, 2, 3)]
    bench.stage.on_answer(asked[-1], orjson.dumps(newer), bench.now)
    assert set(bench.stage.states.values()) == {"synced"}
    silent(bench, 4)
    assert set(bench.stage.states.values()) == {"stale"}
    assert list(bench.stage.take_reconnects()) == [1]
    # the new connection delivers
    bench.connect(2)
    bench.frame(trade(4, 80_000) if name == "binance" else korean(4, 80_000), 2)
    bench.timer(1)
    assert set(bench.stage.states.values()) == {"synced"}


def test_a_trade_that_is_still_on_its_way_does_not_prove_a_mute_stream(binance: Bench) -> None:
    binance.frame(trade(1))
    (asked,) = silent(binance, 62)
    binance.stage.on_answer(asked, orjson.dumps([rest_trade(2, 62_000)]), binance.now)
    binance.frame(trade(2, 62_000))
    silent(binance, 5)
    assert set(binance.stage.states.values()) == {"synced"}
    assert binance.stage.take_reconnects() == {}


def test_one_market_with_frames_proves_that_its_connection_delivers() -> None:
    sink = ListSink(1)
    pairs = [("BTCUSDT", "BTC/USDT"), ("ETHUSDT", "ETH/USDT")]
    stage = TickerStage(exchange("binance"), pairs, sink)
    stage.on_connected(1, ("BTCUSDT", "ETHUSDT"), T0)
    for second in range(1, 200):
        now = T0 + second * S
        stage.on_frame(orjson.dumps(trade(second, second * 1000)), now, 1)
        stage.on_timer(now)
        assert stage.take_requests() == []


def test_a_listed_market_that_is_quiet_from_the_start_is_normal(binance: Bench) -> None:
    binance.stage.listed = frozenset({"BTCUSDT"})
    silent(binance, 9)
    assert binance.stage.states == {"BTC/USDT": "subscribed"}
    silent(binance, 3)
    assert binance.stage.states == {"BTC/USDT": "synced"}
    assert binance.stage.counts["first_frame_timeouts"] == 0


def test_a_symbol_that_is_not_listed_is_reported_until_it_is(binance: Bench) -> None:
    binance.stage.listed = frozenset({"ETHUSDT"})
    silent(binance, 12)
    assert binance.stage.states == {"BTC/USDT": "stale"}
    assert "is BTCUSDT a symbol of binance" in binance.reported()[-1]["reason"]
    binance.stage.listed = frozenset({"ETHUSDT", "BTCUSDT"})
    silent(binance, 1)
    assert binance.stage.states == {"BTC/USDT": "synced"}


def test_recent_ids_forget_the_oldest_only() -> None:
    ids = RecentIds(100)
    assert all(ids.add(id) for id in range(1, 1001))
    assert not any(ids.add(id) for id in range(901, 1001))
    assert 1 not in ids
    assert 2**62 not in ids
    assert ids.add(2**62)
    assert 2**62 in ids


@pytest.mark.parametrize("window", [1, 7, 2048])
def test_recent_ids_keep_a_window_while_their_tables_grow(window: int) -> None:
    ids = RecentIds(window)
    draw = random.Random(window)
    added: list[int] = []
    for _ in range(5 * window + 20):
        found = draw.randrange(2**62)
        assert ids.add(found)
        added.append(found)
        oldest = added[-window:][0]
        assert oldest in ids
        assert not ids.add(oldest)
    assert window <= len(ids.between(0, 2**62)) <= 2 * window


# impossible values

CENTURY_MS = 100 * 365 * 86_400_000
NAMES = ("binance", "upbit", "bithumb")


def one(name: str) -> Bench:
    symbol, market = ("BTCUSDT", "BTC/USDT") if name == "binance" else ("KRW-BTC", "BTC/KRW")
    return Bench(name, symbol, market)


def spelled(name: str, id: int, ms: int, price: Any = 100.0, size: Any = 1.0) -> dict[str, Any]:
    """Return a trade as the stream writes it, ms after T0."""
    if name == "binance":
        data = trade(id, ms)["data"] | {"p": str(price), "q": str(size), "T": MS + ms}
        return {"stream": "btcusdt@trade", "data": data}
    return {
        "type": "trade",
        "code": "KRW-BTC",
        "trade_price": price,
        "trade_volume": size,
        "ask_bid": "BID",
        "trade_timestamp": MS + ms,
        "timestamp": MS + ms,
        "sequential_id": id,
        "stream_type": "REALTIME",
    }


def spelled_by_rest(
    name: str, id: int, ms: int, price: Any = 100.0, size: Any = 1.0
) -> dict[str, Any]:
    """Return the same trade as REST writes it."""
    if name == "binance":
        entry = {"id": id, "time": MS + ms, "price": str(price), "qty": str(size)}
        return {**entry, "isBuyerMaker": False}
    return {
        "market": "KRW-BTC",
        "sequential_id": id + (5_000_000 if name == "bithumb" else 0),
        "timestamp": MS + ms,
        "trade_price": price,
        "trade_volume": size,
        "ask_bid": "BID",
    }


BAD_TRADES: list[tuple[str, dict[str, Any]]] = [
    ("future", {"ms": CENTURY_MS // 2}),
    ("future", {"ms": 86_400_000}),
    ("future", {"ms": FUTURE_NS // 1_000_000 + 60_000}),
    ("past", {"ms": -CENTURY_MS // 2}),
    ("past", {"ms": -(PAST_NS // 1_000_000) - 1000}),
    ("price", {"ms": 0, "price": 0}),
    ("price", {"ms": 0, "price": -1}),
    ("price", {"ms": 0, "price": 1e300}),
    ("size", {"ms": 0, "size": 0}),
    ("size", {"ms": 0, "size": -0.5}),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("reason", "values"), BAD_TRADES)
def test_an_impossible_trade_is_refused_and_disturbs_nothing(
    name: str, reason: str, values: dict[str, Any]
) -> None:
    bench = one(name)
    bench.frame(spelled(name, 101, -3000))
    bench.frame(spelled(name, 102, **values))
    assert len(bench.trades()) == 1
    counters = bench.stage.counters()
    assert counters["trades_refused"] == counters[f"trades_refused_{reason}"] == 1
    bench.frame(spelled(name, 102, -1000), after_ms=1000)
    assert len(bench.trades()) == 2
    # a reconnect with two missed trades; the answer of REST also contains the refused one
    bench.stage.on_disconnected(1, "lost", bench.now)
    bench.timer(20)
    bench.connect(2)
    bench.frame(spelled(name, 105, 20_000), connection=2)
    bench.timer(10)
    bench.answer(
        [
            spelled_by_rest(name, 101, -3000),
            spelled_by_rest(name, 102, -1000),
            spelled_by_rest(name, 103, 5000),
            spelled_by_rest(name, 104, 9000),
            spelled_by_rest(name, 90, **values),
            spelled_by_rest(name, 105, 20_000),
        ]
    )
    assert bench.stage.markets[0].trades_by_rest == 2
    assert len(bench.trades()) == 5
    counters = bench.stage.counters()
    assert (counters["trades_lost"], counters["trades_refused"]) == (0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_time_within_the_range_does_not_spoil_the_next_fill(name: str) -> None:
    bench = one(name)
    bench.frame(spelled(name, 101, -3000))
    bench.frame(spelled(name, 102, 400_000))
    for i in range(3):
        bench.frame(spelled(name, 103 + i, i * 1000), after_ms=1000)
    bench.stage.on_disconnected(1, "lost", bench.now)
    bench.timer(20)
    bench.connect(2)
    bench.frame(spelled(name, 107, 25_000), connection=2)
    bench.timer(10)
    times = ((104, 500), (105, 2000), (106, 9000))
    bench.answer([spelled_by_rest(name, id, ms) for id, ms in times])
    assert bench.stage.markets[0].trades_by_rest == 1


def test_a_wrong_clock_of_this_host_refuses_no_trade_for_long(bithumb: Bench) -> None:
    # two hours behind at the start, corrected later
    bench, wall = bithumb, T0 - 7200 * S
    steady = 1000 * S
    bench.stage.on_connected(2, ("KRW-BTC",), steady)
    for i in range(200):
        if i == 100:
            wall += 7200 * S
        wall, steady = wall + S, steady + S
        content = orjson.dumps(spelled("bithumb", 100 + i, i * 1000))
        bench.stage.on_frame(content, wall, 2, steady)
    counters = bench.stage.counters()
    assert 0 < counters["trades_refused_future"] < 25
    assert counters["trades"] == 200 - counters["trades_refused_future"]


@pytest.mark.parametrize("step_s", [-36_000, -60, 60, 36_000])
def test_a_step_of_the_wall_clock_refuses_no_trade(binance: Bench, step_s: int) -> None:
    wall, steady = T0, 1000 * S
    binance.stage.on_connected(2, ("BTCUSDT",), steady)
    for i in range(20):
        if i == 10:
            wall += step_s * S
        wall, steady = wall + S, steady + S
        content = orjson.dumps(spelled("binance", 100 + i, i * 1000))
        binance.stage.on_frame(content, wall, 2, steady)
    assert len(binance.trades()) == 20


@pytest.mark.parametrize("price", ["0", "-1", "1e300"])
def test_a_ticker_without_a_price_is_refused(binance: Bench, price: str) -> None:
    good = ticker(1)
    bad = ticker(1, price)
    binance.frame(bad)
    assert binance.stage.counters()["tickers_refused"] == 1
    assert [m for m in binance.sink.messages if m.kind_name == "ticker"] == []
    binance.frame(good)
    assert len([m for m in binance.sink.messages if m.kind_name == "ticker"]) == 1


# ids of any size


@pytest.mark.parametrize("far", [4 * 10**18, 2**62 - 1, 2**62, 2**63 - 1, 10**12])
@pytest.mark.parametrize("connections", [1, 2])
def test_one_absurd_id_costs_nothing(binance: Bench, far: int, connections: int) -> None:
    for id in range(1000, 1010):
        binance.frame(trade(id))
    if connections == 2:
        binance.connect(2)
    binance.frame(trade(far), connection=connections)
    for id in range(1010, 1020):
        binance.frame(trade(id))
    binance.timer(10)
    assert binance.ids() == list(range(1000, 1020))
    assert binance.stage.counts["trades_missing"] == 0
    # a real gap is found as before
    binance.frame(trade(1022))
    assert binance.stage.counts["trades_missing"] + len(binance.stage._holes) >= 1


def test_ten_million_missed_trades_are_one_row(binance: Bench) -> None:
    binance.frame(trade(1000))
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.timer(3600)
    binance.connect(2)
    binance.frame(trade(10_001_001), connection=2)
    assert binance.stage.counts["trades_missing"] == 10_000_000
    for _ in range(400):
        binance.timer(1)
        for request in binance.stage.take_requests():
            binance.stage.on_answer(request, b"[]", binance.now)
    lost = [said for said in binance.reported() if said.get("lost")]
    assert [said["lost"] for said in lost] == [10_000_000]


def test_an_overlap_of_ten_million_ids_is_counted_exactly(binance: Bench) -> None:
    binance.frame(trade(1000))
    binance.connect(2)
    binance.frame(trade(10_001_001), connection=2)
    for id in (1001, 1002, 5000, 10_001_000):
        binance.frame(trade(id), connection=1)
    binance.timer(3)
    assert binance.stage.counts["trades_missing"] == 10_000_000 - 4
    (said,) = [said for said in binance.reported() if "missing" in said]
    assert (said["expected"], said["found"]) == (1003, 10_001_000)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ([], Missing(10, 20, 11)),
        (list(range(10, 21)), None),
        ([10, 11, 15, 20], Missing(12, 19, 7)),
        ([15], Missing(10, 20, 10)),
        ([*range(10, 15), *range(16, 21)], Missing(15, 15, 1)),
    ],
)
def test_missing_ids_are_found_from_the_known_ids(known: list[int], found: Missing | None) -> None:
    assert missing(10, 20, known) == found


@pytest.mark.parametrize("start", [50, 9 * 10**15])
def test_trade_ids_that_start_again_are_followed(binance: Bench, start: int) -> None:
    for id in range(5 * 10**9, 5 * 10**9 + 10):
        binance.frame(trade(id))
    count = LOW_ROW + FAR_ROW + 5
    for id in range(start, start + count):
        binance.frame(trade(id))
    assert binance.stage.counters()["id_restarts"] == 1
    assert binance.stage.counts["trades_missing"] == 0
    assert binance.stage.counters()["trades_refused_id"] == (FAR_ROW - 1 if start > 50 else 0)
    # gaps are found in the new sequence
    binance.frame(trade(start + count + 3))
    assert binance.stage.counts["trades_missing"] == 3
    assert ID_DISTANCE < 4 * 10**9


def test_the_first_trade_of_a_market_may_have_the_id_0(binance: Bench) -> None:
    for id in (0, 0, 1, 4):
        binance.frame(trade(id))
    assert binance.ids() == [0, 1, 4]
    assert binance.stage.counts["trades_missing"] == 2
    ids = RecentIds(4)
    assert ids.add(0)
    assert not ids.add(0)
    assert 0 in ids
    assert -1 not in ids
    assert ids.between(0, 2**62) == [0]
