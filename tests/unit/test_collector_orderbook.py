"""The order book stage without sockets: every rule of the synchronisation and every watchdog."""

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from coinspace._ext.message import GROUPED, REPEAT, REPEATS_BITS, REST, STATE, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.sync import BUFFER_UPDATES
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Refusal, Request

S = SECOND_NS
T0 = 1_790_000_000 * S
BTC, ETH = "BTCUSDT", "ETHUSDT"
Levels = list[tuple[float, float]]


def texts(levels: Sequence[tuple[float, float]]) -> list[list[str]]:
    return [[f"{price:.8f}", f"{size:.8f}"] for price, size in levels]


def update(
    first: int,
    final: int,
    bids: Sequence[tuple[float, float]] = (),
    asks: Sequence[tuple[float, float]] = (),
    symbol: str = BTC,
) -> bytes:
    """One combined-stream depth update."""
    return orjson.dumps(
        {
            "stream": f"{symbol.lower()}@depth@100ms",
            "data": {
                "e": "depthUpdate",
                "E": T0 // 1_000_000 + final,
                "s": symbol,
                "U": first,
                "u": final,
                "b": texts(bids),
                "a": texts(asks),
            },
        }
    )


def snapshot(last: int, bids: Levels | None = None, asks: Levels | None = None) -> bytes:
    return orjson.dumps(
        {
            "lastUpdateId": last,
            "bids": texts(bids if bids is not None else [(100, 1), (99, 2)]),
            "asks": texts(asks if asks is not None else [(101, 1), (102, 2)]),
        }
    )


def whole(ms: int, bid: float = 100.0, ask: float = 101.0, size: float = 1.0) -> bytes:
    """One Upbit book."""
    return orjson.dumps(
        {
            "type": "orderbook",
            "code": "KRW-BTC",
            "timestamp": T0 // 1_000_000 + ms,
            "total_ask_size": 1.0,
            "total_bid_size": 1.0,
            "orderbook_units": [
                {"ask_price": ask, "bid_price": bid, "ask_size": size, "bid_size": size},
                {"ask_price": 0, "bid_price": bid - 1, "ask_size": 0, "bid_size": size},
            ],
            "stream_type": "REALTIME",
            "level": 0,
        }
    )


class Bench:
    """A stage with its sink and a clock."""

    def __init__(self, name: str, entries: list[tuple[str, str]], **options: Any) -> None:
        self.sink = ListSink()
        self.stage = OrderBookStage(exchange(name), entries, self.sink, depth=50, **options)
        self.now = T0
        self.symbols = tuple(symbol for symbol, _ in entries)
        self.stage.on_connected(1, self.symbols, self.now)

    def frame(self, frame: bytes, connection: int = 1, after_ms: int = 100) -> None:
        self.now += after_ms * 1_000_000
        self.stage.on_frame(frame, self.now, connection)

    def timer(self, after_s: float = 0.25) -> None:
        self.now += int(after_s * S)
        self.stage.on_timer(self.now)

    def requests(self, purpose: str) -> list[Request]:
        return [request for request in self.stage.take_requests() if request.purpose == purpose]

    def answer(self, payload: bytes) -> None:
        (request,) = (r for r in self.requests("snapshot") if r.symbols != (ETH,))
        self.stage.on_answer(request, payload, self.now)

    def books(self, market: str = "BTC/USDT") -> list[Message]:
        return [m for m in self.sink.messages if m.kind_name == "orderbook" and m.market == market]

    def states(self, market: str = "BTC/USDT") -> list[dict[str, Any]]:
        return [m.json() for m in self.sink.messages if m.kind == STATE and m.market == market]

    def state(self, market: str = "BTC/USDT") -> str:
        return str(self.stage.states[market])

    def sync(self) -> None:
        self.frame(update(11, 12))
        self.answer(snapshot(11))
        assert self.state() == "synced"


@pytest.fixture
def binance() -> Bench:
    return Bench("binance", [(BTC, "BTC/USDT"), (ETH, "ETH/USDT")])


@pytest.fixture
def upbit() -> Bench:
    return Bench("upbit", [("KRW-BTC", "BTC/KRW")])


# synchronisation of a local book


def test_a_wanted_snapshot_is_announced_at_once(binance: Bench) -> None:
    announced: list[int] = []
    binance.stage.wanted = lambda: announced.append(binance.now)
    binance.frame(update(11, 12))
    binance.frame(update(13, 14))
    assert len(announced) == 1, "one wish, announced with the first update"
    assert [request.purpose for request in binance.stage.take_requests()] == ["snapshot"]


def test_states_follow_the_synchronisation(binance: Bench) -> None:
    binance.sync()
    found = [(s["previous"], s["state"]) for s in binance.states()]
    assert found == [
        ("connecting", "subscribed"),
        ("subscribed", "buffering"),
        ("buffering", "synced"),
    ]


def test_nothing_is_published_before_the_snapshot(binance: Bench) -> None:
    for i in range(5):
        binance.frame(update(10 + i, 10 + i, [(50 + i, 1)]))
    assert binance.books() == []
    # one request for any number of waiting updates
    assert len(binance.requests("snapshot")) == 1


def test_kept_updates_that_the_snapshot_contains_are_dropped_and_the_rest_applied(
    binance: Bench,
) -> None:
    binance.frame(update(10, 12, [(90, 9)]))
    binance.frame(update(13, 15, [(100, 5)]))
    binance.frame(update(16, 16, [(98, 7)]))
    binance.answer(snapshot(13))
    first, second = binance.books()
    # 13 lies within 13…15, so that one is the first to be applied
    assert first.id == 15
    assert first.bids.tolist() == [[100, 99], [5, 2]]
    assert second.id == 16
    assert second.bids.tolist() == [[100, 99, 98], [5, 2, 7]]
    # each keeps the time of its own receipt
    assert second.received_ns - first.received_ns == 100_000_000


def test_a_snapshot_older_than_the_first_kept_update_is_asked_for_again(binance: Bench) -> None:
    binance.frame(update(20, 22))
    binance.answer(snapshot(18))
    assert binance.state() == "buffering"
    assert binance.stage.counts["stale_snapshots"] == 1
    assert binance.requests("snapshot") == []
    binance.timer(0.25)
    # 19 is the last that reaches the first update
    binance.answer(snapshot(19))
    assert binance.state() == "synced"
    assert binance.books()[-1].id == 22


def test_five_unusable_snapshots_put_only_that_symbol_into_quarantine(binance: Bench) -> None:
    binance.frame(update(20, 22))
    for _ in range(5):
        binance.answer(snapshot(5))
        binance.timer(31)
    assert binance.state() == "quarantined"
    assert binance.state("ETH/USDT") != "quarantined"
    binance.answer(snapshot(21))
    assert binance.state() == "synced"


def test_a_gap_restarts_only_its_symbol(binance: Bench) -> None:
    binance.sync()
    binance.frame(update(21, 22, symbol=ETH))
    (request,) = binance.requests("snapshot")
    binance.stage.on_answer(request, snapshot(21), binance.now)
    eth = len(binance.books("ETH/USDT"))
    btc = len(binance.books())
    binance.frame(update(15, 16, [(97, 1)]))
    assert binance.state() == "buffering"
    assert binance.states()[-1]["expected"] == 13
    assert binance.states()[-1]["found"] == 15
    assert binance.stage.counts["gaps"] == 1
    assert binance.state("ETH/USDT") == "synced"
    binance.frame(update(23, 24, [(100, 3)], symbol=ETH))
    assert len(binance.books("ETH/USDT")) == eth + 1
    # the broken book is not published until it is whole again
    binance.frame(update(17, 17, [(96, 1)]))
    assert len(binance.books()) == btc
    binance.answer(snapshot(15))
    assert binance.state() == "synced"
    assert binance.books()[-1].bids.tolist() == [[100, 99, 97, 96], [1, 2, 1, 1]]
    assert binance.states()[-1]["recovery_ns"] == 200_000_000


def test_old_updates_are_ignored_and_overlapping_ones_applied(binance: Bench) -> None:
    binance.sync()
    count = len(binance.books())
    binance.frame(update(11, 12, [(50, 1)]))
    assert len(binance.books()) == count
    assert binance.stage.counters()["outdated"] == 1
    binance.frame(update(12, 14, [(98, 1)]))
    assert binance.books()[-1].id == 14


def test_the_buffer_is_bounded_and_keeps_the_newest(binance: Bench) -> None:
    for i in range(BUFFER_UPDATES + 10):
        binance.frame(update(100 + i, 100 + i), after_ms=1)
    assert binance.stage.counts["buffer_dropped"] == 10
    assert len(binance.stage.syncs[0].buffer) == BUFFER_UPDATES
    # a snapshot older than the remaining updates no longer fits
    binance.answer(snapshot(105))
    assert binance.stage.counts["stale_snapshots"] == 1
    binance.timer()
    binance.answer(snapshot(500))
    assert binance.state() == "synced"


def test_a_gap_among_kept_updates_drops_what_came_before(binance: Bench) -> None:
    binance.frame(update(10, 12, [(90, 9)]))
    binance.frame(update(15, 16, [(98, 7)]))
    assert binance.stage.counts["gaps"] == 1
    binance.answer(snapshot(12))
    assert binance.state() == "buffering"
    binance.timer()
    binance.answer(snapshot(14))
    assert binance.books()[-1].bids.tolist() == [[100, 99, 98], [1, 2, 7]]


def test_a_crossed_book_is_not_published_and_is_rebuilt(binance: Bench) -> None:
    binance.sync()
    count = len(binance.books())
    binance.frame(update(13, 13, [(101, 1)]))
    assert len(binance.books()) == count
    assert binance.state() == "buffering"
    assert binance.states()[-1]["reason"] == "crossed"
    assert binance.stage.counters()["crossed"] == 1
    # no update since: the next snapshot is the book and is published after a quiet second
    binance.answer(snapshot(13))
    assert binance.state() == "synced"


def test_a_quiet_symbol_gets_its_book_without_an_update(binance: Bench) -> None:
    binance.timer(1.5)
    requests = binance.requests("snapshot")
    assert [request.symbols for request in requests] == [(BTC,), (ETH,)]
    binance.stage.on_answer(requests[0], snapshot(7), binance.now)
    assert binance.books() == []
    binance.timer(1.5)
    (book,) = binance.books()
    assert (book.id, book.flags) == (7, REST)
    binance.frame(update(8, 8, [(98, 1)]))
    assert binance.books()[-1].id == 8


def test_a_symbol_with_updates_does_not_wait_behind_hundreds_without() -> None:
    quiet = [(f"S{i}USDT", f"S{i}/USDT") for i in range(300)]
    bench = Bench("binance", [*quiet, (BTC, "BTC/USDT")])
    bench.timer(1.5)
    assert len(bench.requests("snapshot")) == 4
    bench.timer()
    assert bench.requests("snapshot") == []
    bench.frame(update(11, 12))
    (request,) = bench.requests("snapshot")
    assert request.symbols == (BTC,)


def test_an_unreadable_snapshot_is_counted_and_asked_for_again(binance: Bench) -> None:
    binance.frame(update(11, 12))
    binance.answer(b'{"bids":[]')
    assert binance.stage.counts["unreadable_answers"] == 1
    binance.timer()
    binance.answer(snapshot(11))
    assert binance.state() == "synced"


def test_a_refused_snapshot_waits_and_a_wrong_symbol_is_reported(binance: Bench) -> None:
    binance.frame(update(11, 12))
    (request,) = binance.requests("snapshot")
    binance.stage.on_refused(request, Refusal("HTTP 503", fatal=False), binance.now)
    assert binance.state() == "buffering"
    binance.timer()
    (request,) = binance.requests("snapshot")
    binance.stage.on_refused(request, Refusal("-1121: Invalid symbol.", fatal=True), binance.now)
    assert binance.state() == "quarantined"
    assert "Invalid symbol" in binance.states()[-1]["reason"]


def test_only_the_known_range_is_published_and_it_is_renewed(binance: Bench) -> None:
    stage = Bench("binance", [(BTC, "BTC/USDT")], snapshot_depth=5)
    deep = [(1000.0 - 3 * i, 1.0) for i in range(5)], [(1001.0 + 3 * i, 1.0) for i in range(5)]
    stage.frame(update(11, 12))
    stage.answer(snapshot(11, *deep))
    stage.frame(update(13, 13, [(900, 1)], [(1100, 1)]))
    assert stage.books()[-1].bids[0].tolist() == [1000, 997, 994, 991, 988]
    # the price walks to the edge of the snapshot
    stage.frame(update(14, 14, [(1000, 0), (997, 0), (994, 0)]), after_ms=31_000)
    stage.timer()
    (request,) = stage.requests("snapshot")
    # the book stays in use meanwhile
    stage.frame(update(15, 15, [(989, 2)]))
    assert stage.books()[-1].id == 15
    fresh = [(991.0 - i, 3.0) for i in range(5)], [(1001.0 + i, 3.0) for i in range(5)]
    stage.stage.on_answer(request, snapshot(14, *fresh), stage.now)
    assert stage.state() == "synced"
    assert stage.stage.counts["refreshes"] == 1
    stage.frame(update(16, 16, [(986, 1)]))
    # the kept update 15 was applied to the new book, too
    assert stage.books()[-1].bids.tolist() == [
        [991, 990, 989, 988, 987],
        [3, 3, 2, 3, 3],
    ]


def test_a_side_that_is_unknown_is_not_published_as_empty() -> None:
    stage = Bench("binance", [(BTC, "BTC/USDT")], snapshot_depth=2)
    stage.frame(update(11, 12))
    stage.answer(snapshot(11))
    count = len(stage.books())
    # both asks of the snapshot are traded away; 105 lies beyond them
    stage.frame(update(13, 13, [], [(101, 0), (102, 0), (105, 1)]))
    assert len(stage.books()) == count
    assert stage.state() == "stale"
    assert stage.states()[-1]["reason"] == "price left the known range"
    stage.timer()
    assert stage.state() == "stale"
    stage.frame(update(14, 14, [(100, 5)]))
    stage.answer(snapshot(13, [(100, 1), (99, 2)], [(103, 1), (105, 1)]))
    assert stage.state() == "synced"
    # the kept update is applied to it
    stage.frame(update(15, 15, [(99, 3)]))
    assert stage.books()[-1].bids.tolist() == [[100, 99], [5, 3]]
    assert stage.books()[-1].asks.tolist() == [[103, 105], [1, 1]]
    assert stage.stage.counts["resyncs"] == 0


def test_a_price_that_comes_back_needs_no_snapshot() -> None:
    stage = Bench("binance", [(BTC, "BTC/USDT")], snapshot_depth=2)
    stage.frame(update(11, 12))
    stage.answer(snapshot(11))
    stage.frame(update(13, 13, [], [(101, 0), (102, 0)]))
    assert stage.state() == "stale"
    stage.frame(update(14, 14, [], [(101, 7)]))
    assert stage.books()[-1].asks.tolist() == [[101], [7]]
    stage.timer()
    assert stage.state() == "synced"


def test_a_disconnect_drops_the_book(binance: Bench) -> None:
    binance.sync()
    binance.stage.on_disconnected(1, "connection lost", binance.now)
    assert binance.state() == "disconnected"
    binance.stage.on_connected(2, binance.symbols, binance.now)
    count = len(binance.books())
    binance.frame(update(13, 13), connection=2)
    assert binance.state() == "buffering"
    assert len(binance.books()) == count


# two connections at once


def test_make_before_break_leaves_no_gap_and_no_duplicate(binance: Bench) -> None:
    binance.sync()
    count = len(binance.books())
    binance.stage.on_connected(2, binance.symbols, binance.now)
    # the new connection is ahead of the old one at first
    binance.frame(update(14, 15), connection=2)
    assert binance.stage.counters()["overlap_skipped"] == 1
    assert not binance.stage.caught_up(2)
    binance.frame(update(13, 13), connection=1)
    binance.frame(update(14, 15), connection=1)
    binance.frame(update(16, 16), connection=2)
    binance.frame(update(16, 16), connection=1)
    assert [book.id for book in binance.books()[count:]] == [13, 15, 16]
    binance.stage.on_disconnected(1, "replaced", binance.now)
    assert binance.state() == "synced"
    assert binance.stage.counts["gaps"] == 0
    binance.frame(update(18, 18), connection=2)
    assert binance.stage.counts["gaps"] == 1


# whole books


def test_repeats_are_published_with_a_flag(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.frame(whole(100))
    upbit.frame(whole(200, size=2.0))
    books = upbit.books("BTC/KRW")
    assert [book.flags for book in books] == [0, REPEAT, 1 << REPEATS_BITS]
    assert upbit.stage.counters()["repeats"] == 1
    assert books[1].exchange_ns - books[0].exchange_ns == 100_000_000


def test_padding_and_zero_sizes_are_left_out(upbit: Bench) -> None:
    upbit.frame(whole(0))
    (book,) = upbit.books("BTC/KRW")
    assert (book.n_bids, book.n_asks) == (2, 1)


def test_an_older_book_never_replaces_a_newer_one(upbit: Bench) -> None:
    upbit.frame(whole(200, size=2.0))
    upbit.frame(whole(100, size=1.0))
    assert [book.bids[1, 0] for book in upbit.books("BTC/KRW")] == [2.0]
    assert upbit.stage.counters()["backwards"] == 1


def test_an_exchange_clock_that_was_set_back_is_believed(upbit: Bench) -> None:
    upbit.frame(whole(3 * 3_600_000))
    upbit.frame(whole(0, size=2.0))
    assert len(upbit.books("BTC/KRW")) == 2
    assert upbit.stage.counters()["clock_steps"] == 1
    # a small step is accepted once it lasts
    for i in range(60):
        upbit.frame(whole(-2000 + i, size=3.0))
    assert upbit.books("BTC/KRW")[-1].bids[1, 0] == 3.0
    assert upbit.stage.counters()["clock_steps"] == 2


def test_a_crossed_whole_book_is_quarantined_until_the_next_good_one(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.frame(whole(100, bid=102.0))
    assert upbit.state("BTC/KRW") == "quarantined"
    assert len(upbit.books("BTC/KRW")) == 1
    upbit.frame(whole(200))
    assert upbit.state("BTC/KRW") == "synced"
    assert len(upbit.books("BTC/KRW")) == 2


def test_a_crossed_book_that_falls_silent_asks_for_a_new_connection(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.frame(whole(100, bid=102.0))
    upbit.timer(15)
    assert upbit.stage.take_reconnects() == {}
    upbit.timer(6)
    assert list(upbit.stage.take_reconnects()) == [1]
    # not again and again
    upbit.timer(30)
    assert upbit.stage.take_reconnects() == {}
    upbit.timer(31)
    assert list(upbit.stage.take_reconnects()) == [1]


# liveness


def rest_book(ms: int, size: float = 1.0) -> bytes:
    book = orjson.loads(whole(ms, size=size))
    return orjson.dumps(
        [
            {
                "market": "KRW-BTC",
                "timestamp": book["timestamp"],
                "orderbook_units": book["orderbook_units"],
            }
        ]
    )


def test_a_silent_market_is_compared_within_ten_seconds_and_confirmed(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.timer(0.1)
    # the periodic comparison of everything comes first
    assert len(upbit.requests("compare")) == 1
    waited = 0.1
    while not (asked := upbit.requests("compare")):
        upbit.timer(0.5)
        waited += 0.5
    assert 4 <= waited < 10
    upbit.stage.on_answer(asked[0], rest_book(0), upbit.now)
    last = upbit.books("BTC/KRW")[-1]
    assert last.flags == REPEAT | REST
    assert last.received_ns == upbit.now
    assert upbit.state("BTC/KRW") == "synced"


def test_a_market_that_rest_contradicts_is_stale_and_its_connection_replaced(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.timer(5)
    (request, *_) = upbit.requests("compare")
    upbit.stage.on_answer(request, rest_book(3000, size=9.0), upbit.now)
    # the stream gets a moment to bring it
    upbit.timer(2)
    assert upbit.state("BTC/KRW") == "synced"
    upbit.timer(2)
    assert upbit.state("BTC/KRW") == "stale"
    assert upbit.stage.counts["drifts"] == 1
    assert list(upbit.stage.take_reconnects()) == [1]


def test_a_stream_that_catches_up_with_rest_is_right(upbit: Bench) -> None:
    upbit.frame(whole(0))
    upbit.timer(5)
    (request, *_) = upbit.requests("compare")
    upbit.stage.on_answer(request, rest_book(3000, size=9.0), upbit.now)
    upbit.frame(whole(3000, size=9.0))
    upbit.timer(4)
    assert upbit.state("BTC/KRW") == "synced"
    assert upbit.stage.counts["drifts"] == 0


def test_a_wrong_book_at_the_same_time_is_found(upbit: Bench) -> None:
    upbit.frame(whole(0, size=1.0))
    upbit.timer(5)
    (request, *_) = upbit.requests("compare")
    upbit.stage.on_answer(request, rest_book(0, size=9.0), upbit.now)
    upbit.timer(4)
    assert upbit.stage.counts["drifts"] == 1
    assert upbit.state("BTC/KRW") == "stale"


def compare(bench: Bench) -> Request:
    """Return the request of the next periodic comparison."""
    for _ in range(30):
        # known updates keep the market awake and change nothing
        bench.frame(update(1, 2), after_ms=3000)
        bench.timer(0)
        asked = [r for r in bench.requests("compare") if BTC in r.symbols]
        if asked:
            return asked[0]
    raise AssertionError("no comparison")


def test_a_local_book_that_differs_from_rest_is_rebuilt(binance: Bench) -> None:
    binance.sync()
    request = compare(binance)
    binance.frame(update(13, 13, [(98, 4)]))
    binance.stage.on_answer(request, snapshot(13, [(100, 7)]), binance.now)
    assert binance.stage.counts["drifts"] == 1
    assert binance.state() == "buffering"
    assert binance.states()[-1]["reason"] == "differs from REST"
    binance.answer(snapshot(13, [(100, 7)]))
    assert binance.state() == "synced"


def test_rest_is_compared_with_the_book_of_its_own_update(binance: Bench) -> None:
    binance.sync()
    request = compare(binance)
    for id in range(13, 20):
        binance.frame(update(id, id, [(100, id)]))
    # by now the stream is further
    good = snapshot(15, [(100, 15), (99, 2)])
    binance.stage.on_answer(request, good, binance.now)
    assert binance.stage.counts["confirmed"] == 1
    request = compare(binance)
    for id in range(20, 30):
        binance.frame(update(id, id, [(100, id)]))
    binance.stage.on_answer(request, snapshot(25, [(100, 24), (99, 2)]), binance.now)
    assert binance.stage.counts["drifts"] == 1
    assert binance.state() == "buffering"


def test_a_rest_book_that_is_ahead_is_compared_when_the_stream_reaches_it(binance: Bench) -> None:
    binance.sync()
    request = compare(binance)
    binance.stage.on_answer(request, snapshot(15, [(100, 9), (99, 2)]), binance.now)
    for id in (13, 14):
        binance.frame(update(id, id))
    assert binance.state() == "synced"
    binance.frame(update(15, 15, [(100, 8)]))
    assert binance.stage.counts["drifts"] == 1
    assert binance.state() == "buffering"
    # the comparison is dropped
    assert binance.stage.watcher is None


def test_an_answer_between_two_updates_proves_nothing(binance: Bench) -> None:
    binance.sync()
    request = compare(binance)
    binance.frame(update(13, 16))
    binance.stage.on_answer(request, snapshot(14, [(1, 1)]), binance.now)
    assert binance.stage.counts["unmatched"] == 1
    assert binance.state() == "synced"
    assert binance.stage.counts["drifts"] == 0


def test_waiting_for_an_answer_ends(binance: Bench) -> None:
    binance.sync()
    compare(binance)
    watched = []
    for id in range(13, 80):
        binance.frame(update(id, id), after_ms=300)
        binance.timer(0)
        watched.append(binance.stage.watcher is not None)
    assert watched[0]
    assert not watched[-1]


def test_silence_since_the_subscription_is_reported_with_the_symbol(upbit: Bench) -> None:
    upbit.timer(9)
    assert upbit.state("BTC/KRW") == "subscribed"
    upbit.timer(2)
    assert upbit.state("BTC/KRW") == "stale"
    assert "KRW-BTC" in upbit.states("BTC/KRW")[-1]["reason"]
    assert upbit.stage.counts["first_frame_timeouts"] == 1
    upbit.frame(whole(0))
    assert upbit.state("BTC/KRW") == "synced"


def test_a_book_without_frames_and_rest_is_stale_in_spite_of_control_frames(
    upbit: Bench,
) -> None:
    upbit.frame(whole(0))
    for _ in range(5):
        upbit.frame(b'{"status":"UP"}', after_ms=5000)
        upbit.stage.on_timer(upbit.now)
    assert upbit.state("BTC/KRW") == "stale"
    assert list(upbit.stage.take_reconnects()) == [1]


# control and bad frames


def test_an_error_frame_is_a_refusal_of_its_connection(upbit: Bench) -> None:
    upbit.frame(
        '{"error":{"name":"NO_CODES","message":"codes 필드가 존재하지 않습니다."}}'.encode()
    )
    refusal = upbit.stage.take_refusal(1)
    assert refusal is not None
    assert refusal.fatal
    assert "NO_CODES" in refusal.text


def test_a_server_shutdown_asks_for_a_new_connection(binance: Bench) -> None:
    binance.frame(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
    assert binance.stage.take_reconnects() == {1: "server shutdown"}


def test_bad_frames_are_counted_and_change_nothing(binance: Bench) -> None:
    binance.sync()
    count = len(binance.books())
    good = update(13, 13, [(98, 1)])
    for bad in (b"", b"{", b"nonsense", good[:-5], b"\xff\xfe", b"[1,2", good[:60]):
        binance.frame(bad)
    assert binance.stage.counters()["malformed"] == 7
    assert len(binance.books()) == count
    binance.frame(good)
    assert binance.books()[-1].id == 13


def test_frames_of_unknown_symbols_are_counted(binance: Bench) -> None:
    binance.frame(update(1, 2, symbol="NOSUCHUSDT"))
    assert binance.stage.counters()["unknown_symbols"] == 1


def test_a_halt_in_the_market_list_is_a_state(upbit: Bench) -> None:
    from coinspace.exchanges.exchange import Listing
    from coinspace.market import Market

    upbit.frame(whole(0))
    listing = Listing("KRW-BTC", Market("BTC", "KRW"), False, "HALT")
    upbit.stage.on_listing("halted", listing, upbit.now)
    assert upbit.state("BTC/KRW") == "halted"
    upbit.stage.on_listing("resumed", listing, upbit.now)
    assert upbit.state("BTC/KRW") == "synced"


# grouped far levels


def groups(at: int, level: float, *rows: tuple[float, float, float, float]) -> bytes:
    """Return a book of price groups. rows: bid, its size, ask, its size."""
    book = orjson.loads(whole(at))
    names = ("bid_price", "bid_size", "ask_price", "ask_size")
    book["orderbook_units"] = [dict(zip(names, row, strict=True)) for row in rows]
    return orjson.dumps({**book, "level": level})


FAR = [(100 - 5 * i, 10.0, 105 + 5 * i, 20.0) for i in range(4)]


def test_grouped_levels_extend_a_book_without_counting_an_order_twice(upbit: Bench) -> None:
    upbit.frame(groups(0, 5, *FAR))
    assert not upbit.books("BTC/KRW"), "groups alone are no book"
    upbit.frame(whole(0))
    (book,) = upbit.books("BTC/KRW")
    assert book.flags & GROUPED
    # bids 100, 99 are single levels: the groups 100 and 95 reach into them or may
    assert book.bids.tolist() == [[100, 99, 90, 85], [1, 1, 10, 10]]
    assert book.asks.tolist() == [[101, 110, 115, 120], [1, 20, 20, 20]]
    assert (book.fine_bids, book.fine_asks) == (2, 1)


def test_groups_enter_only_where_no_edge_of_theirs_can_reach_a_single_level(upbit: Bench) -> None:
    """Whether a price is the low or the high edge of its group is not known: both are beyond."""
    fine = orjson.loads(whole(0))
    for last in range(60, 100):
        fine["orderbook_units"] = [
            {"bid_price": last, "bid_size": 1, "ask_price": 200 - last, "ask_size": 1}
        ]
        upbit.frame(groups(last, 10, *((90 - 10 * i, 1, 110 + 10 * i, 1) for i in range(6))))
        upbit.frame(orjson.dumps({**fine, "timestamp": fine["timestamp"] + last}))
        book = upbit.books("BTC/KRW")[-1]
        bids, asks = book.bids[0, 1:].tolist(), book.asks[0, 1:].tolist()
        expected = [price for price in range(90, 30, -10) if price + 10 <= last]
        assert bids == expected
        assert asks == [200 - price for price in expected]


def test_the_width_of_groups_is_their_smallest_distance(upbit: Bench) -> None:
    # a side with one group has the width of the other side; without any width no group enters
    upbit.frame(groups(0, 5, (90, 1, 110, 1), (0, 0, 115, 1)))
    upbit.frame(whole(0))
    assert upbit.books("BTC/KRW")[-1].bids[0].tolist() == [100, 99, 90]
    upbit.frame(groups(1, 5, (90, 1, 110, 1)))
    upbit.frame(whole(2, size=2))
    assert not upbit.books("BTC/KRW")[-1].flags & GROUPED


def test_groups_that_stay_away_are_not_used_any_more(upbit: Bench) -> None:
    upbit.frame(groups(0, 5, *FAR))
    upbit.frame(whole(0))
    # a quiet market: its book repeats itself, and no group has changed
    for second in range(1, 30):
        upbit.now += S
        upbit.frame(whole(1000 * second))
    assert upbit.books("BTC/KRW")[-1].flags & GROUPED
    first = upbit.now
    for second in range(30, 45):
        upbit.now += S
        upbit.frame(whole(1000 * second, size=second))
        used = bool(upbit.books("BTC/KRW")[-1].flags & GROUPED)
        assert used == (upbit.now - first < 12 * S), second
    upbit.frame(groups(60_000, 5, *FAR))
    upbit.frame(whole(61_000, size=9))
    assert upbit.books("BTC/KRW")[-1].flags & GROUPED


def test_older_groups_do_not_replace_newer_ones(upbit: Bench) -> None:
    upbit.frame(groups(1000, 5, *FAR))
    upbit.frame(groups(500, 5, (95, 7, 105, 7), (90, 7, 110, 7)))
    upbit.frame(whole(0))
    assert upbit.books("BTC/KRW")[-1].bids[1].tolist() == [1, 1, 10, 10]


def test_groups_are_no_proof_of_life_of_the_book(upbit: Bench) -> None:
    upbit.frame(whole(0))
    heard, frames = upbit.stage.markets[0].heard_ns, upbit.stage.markets[0].frames
    upbit.now += S
    upbit.frame(groups(0, 5, *FAR))
    market = upbit.stage.markets[0]
    assert (market.heard_ns, market.frames) == (heard, frames)
    assert market.groups is not None
    assert market.groups.frames == 1


# two clocks


@pytest.mark.parametrize("step_s", [-3600, 3600])
def test_a_step_of_the_wall_clock_changes_what_is_published_and_no_timer(
    upbit: Bench, step_s: int
) -> None:
    wall = T0
    upbit.stage.wall = lambda: wall
    upbit.now = steady = 500 * S
    upbit.stage.on_connected(1, upbit.symbols, steady)
    upbit.stage.on_frame(whole(1), wall, 1, steady)
    wall += step_s * S
    steady += S
    upbit.stage.on_frame(whole(2, size=2.0), wall, 1, steady)
    assert upbit.books("BTC/KRW")[-1].received_ns == wall
    asked = 0
    for _ in range(4 * 40):
        wall += S // 4
        steady += S // 4
        upbit.stage.on_timer(steady)
        asked += len(upbit.requests("compare"))
    # the same as without the step: a silent market is compared, and becomes stale in the end
    assert 4 <= asked <= 9, asked
    assert upbit.state("BTC/KRW") == "stale"
    assert upbit.states("BTC/KRW")[-1]["since_ns"] - (T0 + step_s * S) < 40 * S


# updates are never cut, and ids are not trusted for ever


def test_an_update_larger_than_the_room_rebuilds_its_market(binance: Bench) -> None:
    binance.sync()
    room = binance.stage.parser.capacity
    published = len(binance.books())
    changes = [(200 + i, 0.0) for i in range(room)] + [(100, 0.0)]
    binance.frame(update(13, 14, changes))
    assert len(binance.books()) == published
    assert binance.state() == "buffering"
    assert binance.stage.counts["truncated_updates"] == binance.stage.counts["gaps"] == 1
    binance.frame(update(15, 15, [(98, 1)]))
    # an older snapshot does not have the levels of the large update
    binance.answer(snapshot(13))
    assert binance.state() == "buffering"
    binance.timer(1)
    binance.answer(snapshot(14, [(99, 2)]))
    assert binance.state() == "synced"
    assert binance.books()[-1].bids[0].tolist() == [99, 98]
    assert binance.stage.counts["resyncs"] == 1


def test_an_update_as_large_as_the_room_is_applied(binance: Bench) -> None:
    binance.sync()
    changes = [(200 + i, 0.0) for i in range(binance.stage.parser.capacity - 1)] + [(100, 0.0)]
    binance.frame(update(13, 14, changes, changes[:-1]))
    assert binance.books()[-1].bids[0].tolist() == [99]
    assert binance.stage.counts["truncated_updates"] == 0


@pytest.mark.parametrize("snapshot_depth", [100, 5000])
def test_a_shallow_snapshot_leaves_room_for_large_updates(snapshot_depth: int) -> None:
    bench = Bench("binance", [(BTC, "BTC/USDT")], snapshot_depth=snapshot_depth)
    bench.frame(update(11, 12))
    bench.answer(snapshot(11, [(1000 - i, 1) for i in range(90)], [(1001, 1)]))
    more = [(1000.5 - i, 2.0) for i in range(400)]
    bench.frame(update(13, 13, more))
    bench.frame(update(14, 14, [(price, 0.0) for price, _ in more]))
    assert bench.books()[-1].bids[0].tolist() == [1000 - i for i in range(50)]


def run_low_ids(bench: Bench, seconds: int, *, first: int = 50) -> int:
    """Send updates with ids of a new sequence and answer all snapshots from it."""
    last = first
    for _ in range(seconds * 4):
        bench.frame(update(last + 1, last + 3, [(100, last)]), after_ms=250)
        last += 3
        bench.stage.on_timer(bench.now)
        for request in bench.requests("snapshot"):
            if request.symbols == (BTC,):
                bench.stage.on_answer(request, snapshot(last), bench.now)
    return last


def test_ids_that_start_again_rebuild_only_that_book_within_seconds() -> None:
    bench = Bench("binance", [(BTC, "BTC/USDT"), (ETH, "ETH/USDT")])
    bench.frame(update(9_000_000_000, 9_000_000_001))
    bench.answer(snapshot(9_000_000_001))
    last = run_low_ids(bench, 8)
    assert bench.state() == "synced"
    assert bench.books()[-1].id == last
    assert bench.stage.counts["suspected"] == 1
    assert bench.stage.take_reconnects() == {}


def test_ids_that_start_again_while_a_snapshot_is_awaited(binance: Bench) -> None:
    binance.frame(update(9_000_000_000, 9_000_000_001))
    binance.requests("snapshot")
    binance.stage.on_refused(
        Request("snapshot", "", "weight", 5, (BTC,)), Refusal("HTTP 503", fatal=False), binance.now
    )
    last = run_low_ids(binance, 12)
    assert (binance.state(), binance.books()[-1].id) == ("synced", last)


def test_ids_that_start_again_with_a_new_connection(binance: Bench) -> None:
    binance.frame(update(9_000_000_000, 9_000_000_001))
    binance.answer(snapshot(9_000_000_001))
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.stage.on_connected(2, binance.symbols, binance.now)
    last = run_low_ids(binance, 12)
    assert (binance.state(), binance.books()[-1].id) == ("synced", last)


def test_an_id_at_the_edge_of_64_bits_does_not_stop_a_book(binance: Bench) -> None:
    binance.sync()
    for first, final in ((30, 20), (13, 2**63 - 1), (2**62, 2**62)):
        binance.frame(update(first, final, [(1, 1)]))
    counters = binance.stage.counters()
    assert counters["bad_ids"] + counters["malformed"] == 3
    binance.frame(update(13, 13, [(98, 1)]))
    assert binance.books()[-1].id == 13
    # a wrong id within the range is found like ids that started again
    binance.frame(update(14, 4 * 10**18, [(97, 1)]))
    assert binance.books()[-1].id == 4 * 10**18
    last = run_low_ids(binance, 8)
    assert (binance.state(), binance.books()[-1].id) == ("synced", last)


def test_repeated_old_updates_are_not_a_new_sequence(binance: Bench) -> None:
    binance.sync()
    for _ in range(100):
        binance.frame(update(1, 2), after_ms=1000)
    assert binance.stage.counts["suspected"] == 0
    assert binance.state() == "synced"


def test_after_a_reconnect_an_answer_older_than_what_was_published_is_refused(
    binance: Bench,
) -> None:
    binance.sync()
    binance.frame(update(13, 200, [(100, 0), (150, 5)], [(101, 0), (102, 0), (151, 5)]))
    assert binance.books()[-1].id == 200
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.stage.on_connected(2, binance.symbols, binance.now)
    published = len(binance.books())
    binance.timer(1.5)
    binance.answer(snapshot(150))
    binance.timer(0.25)
    assert len(binance.books()) == published
    assert binance.stage.counts["stale_snapshots"] == 1
    binance.timer(1)
    binance.answer(snapshot(200, [(150, 5)], [(151, 5)]))
    assert binance.state() == "synced"


def test_old_snapshots_without_end_make_the_ids_of_the_stream_suspected(binance: Bench) -> None:
    binance.sync()
    binance.stage.on_disconnected(1, "lost", binance.now)
    binance.stage.on_connected(2, binance.symbols, binance.now)
    for _ in range(4 * 120):
        binance.timer()
        for request in binance.requests("snapshot"):
            if request.symbols == (BTC,):
                binance.stage.on_answer(request, snapshot(5), binance.now)
    assert binance.stage.counts["suspected"] == 1
    assert binance.state() == "synced"
    assert binance.stage.counts["stale_snapshots"] < 12


def test_an_exchange_clock_that_was_ahead_and_is_corrected_stops_no_book(
    upbit: Bench,
) -> None:
    for ahead_s in (30, 3600, 30 * 365 * 86_400):
        upbit.frame(whole(ahead_s * 1000))
        for i in range(70):
            upbit.frame(whole(i * 100, size=i + 1.0))
        assert upbit.books("BTC/KRW")[-1].bids[1][0] == 70


def test_an_older_answer_with_the_same_levels_proves_a_whole_book(upbit: Bench) -> None:
    upbit.frame(whole(5000))
    upbit.timer(5)
    (request,) = upbit.requests("compare")
    upbit.stage.on_answer(request, rest_book(0), upbit.now)
    assert upbit.stage.counts["confirmed"] == 1


def test_answers_that_stay_behind_and_differ_make_the_book_suspected(binance: Bench) -> None:
    binance.sync()
    for _ in range(4 * 60):
        binance.timer()
        for request in binance.requests("compare"):
            if request.symbols == (BTC,):
                binance.stage.on_answer(request, snapshot(3, [(50, 1)], [(51, 1)]), binance.now)
    assert binance.stage.counts["suspected"] >= 1
    assert binance.stage.counts["resyncs"] == 1
    assert binance.state("ETH/USDT") != "stale"


def test_a_stream_that_crosses_without_end_does_not_use_up_the_requests(binance: Bench) -> None:
    binance.sync()
    asked, last = 0, 12
    for _ in range(600):
        last += 1
        binance.frame(update(last, last, [(200, 1)]))
        binance.timer(0)
        for request in binance.requests("snapshot"):
            if request.symbols == (BTC,):
                asked += 1
                binance.stage.on_answer(request, snapshot(last), binance.now)
    # a minute
    assert 5 < asked < 15
