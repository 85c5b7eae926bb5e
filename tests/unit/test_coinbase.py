"""Coinbase: its frames, books whose snapshot is in the stream, and trades that heartbeats name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace._ext.coinbase import CoinbaseParser
from coinspace._ext.message import REPEAT, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.ticker import TickerStage
from coinspace.config import load
from coinspace.exchanges import coinbase
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Request, TradePage
from coinspace.simulator.markets.engine import Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.rest import rest_of
from coinspace.simulator.session import session_of
from tests.fuzz import twin
from tests.unit.test_coinone import expectations

S = SECOND_NS
T0 = 1_790_000_000 * S
YEAR_ONE = "0001-01-01T00:00:00.000000Z"
BTC, ETH = "BTC-USD", "ETH-USD"
Pairs = Sequence[tuple[str, str]]


def snapshot(
    bids: Pairs = (("100", "1"), ("99", "2")),
    asks: Pairs = (("101", "1"), ("102", "2")),
    symbol: str = BTC,
) -> bytes:
    frame = {"type": "snapshot", "product_id": symbol, "asks": asks, "bids": bids}
    return orjson.dumps(frame)


def update(*changes: tuple[str, str, str], symbol: str = BTC, time: str = YEAR_ONE) -> bytes:
    frame = {"type": "l2update", "product_id": symbol, "changes": changes, "time": time}
    return orjson.dumps(frame)


def match(trade_id: int, second: int, kind: str = "match", symbol: str = BTC) -> bytes:
    time = f"2026-09-21T14:13:{20 + second:02d}.500000Z"
    frame = {"type": kind, "trade_id": trade_id, "side": "sell", "size": "1", "price": "100"}
    return orjson.dumps({**frame, "product_id": symbol, "sequence": 5, "time": time})


def heartbeat(trade_id: int = 0, symbol: str = BTC) -> bytes:
    frame = {"type": "heartbeat", "last_trade_id": trade_id, "product_id": symbol, "sequence": 9}
    return orjson.dumps(frame)


# frames


def test_frames_decode_to_their_expected_values(feeds: Path) -> None:
    expected = expectations(feeds, "coinbase_")
    bench = Bench("SKL-BTC")
    for kind in ("orderbook", "ticker", "trade", "control", "orderbook_quirks"):
        path = feeds / "frames-more" / f"coinbase_{kind}.ndjson"
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            (found,) = CoinbaseParser().decode(line)
            assert twin.shown([found]) == twin.shown(twin.decode("coinbase", line))
            wanted = expected[f"coinbase_{kind}", number]
            if kind == "control":
                assert (found["kind"], found["name"]) == ("control", wanted["control"])
                continue
            assert (found["kind"], found["symbol"]) == (wanted["type"], wanted["symbol"])
            if "time_us" in wanted:
                assert found["exchange_ns"] == wanted["time_us"] * 1000
            when = wanted.get("time") or wanted.get("time_ms")
            assert found["exchange_ns"] == (
                coinbase.time_ns(when) if when else found["exchange_ns"]
            )
            if kind == "orderbook":
                bench.frame(line)
                book, after = bench.stage.markets[0].book, wanted["after"]
                assert book is not None
                assert book.best_bid == tuple(float(text) for text in after["best_bid"])
                assert book.best_ask == tuple(float(text) for text in after["best_ask"])
                assert [book.n_bids, book.n_asks] == after["levels"]
            elif kind == "trade":
                assert (found["trade_id"], found["side"], found["snapshot"]) == (
                    wanted["id"],
                    wanted["taker_side"],
                    wanted["snapshot"],
                )
                assert (found["price"], found["size"]) == (
                    float(wanted["price"]),
                    float(wanted["qty"]),
                )
            elif kind == "ticker":
                assert (found["last"], found["bid"], found["ask"]) == (
                    float(wanted["last"]),
                    float(wanted["bid"][0]),
                    float(wanted["ask"][0]),
                )
            elif number == 1:
                assert [len(found["bids"]), len(found["asks"])] == wanted["levels"]
                assert found["bids"] == [[40533.24, 0.020416]]
                assert found["flawed"]
            else:
                assert found["exchange_ns"] is None
                assert len(found["bids"]) + len(found["asks"]) == wanted["changes"]
    assert bench.stage.counters()["snapshots"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-19T16:43:34Z", 1781887414 * S),
        ("2026-06-19T16:43:34.5Z", 1781887414 * S + S // 2),
        ("2024-02-29T00:00:00.000001Z", 1709164800 * S + 1000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2000-03-01T00:00:00Z", 951868800 * S),
        (YEAR_ONE, None),
        ("9999-01-01T00:00:00Z", None),
    ],
)
def test_a_time_is_read_exactly(text: str, expected: int | None) -> None:
    (found,) = CoinbaseParser().decode(update(("buy", "1", "1"), time=text))
    assert found["exchange_ns"] == expected


@pytest.mark.parametrize("text", ["", "2026-06-19", "2026-13-01T00:00:00Z", "2026-06-19 16:43:34Z"])
def test_a_trade_needs_its_time_and_an_update_does_not(text: str) -> None:
    frame = match(1, 0).replace(b"2026-09-21T14:13:20.500000Z", text.encode())
    assert CoinbaseParser().decode(frame)[0]["kind"] == "malformed"
    (found,) = CoinbaseParser().decode(update(("buy", "1", "1"), time=text))
    assert (found["kind"], found["exchange_ns"]) == ("orderbook", None)


# the order book stage


class Bench:
    """A stage of one or two markets and its connections."""

    def __init__(self, *symbols: str) -> None:
        self.sink = ListSink()
        self.symbols = symbols or (BTC,)
        entries = [(one, one.replace("-", "/")) for one in self.symbols]
        module = exchange_named("coinbase")
        self.stage = OrderBookStage(module, entries, self.sink, depth=500)
        self.now = T0
        self.stage.on_connected(1, self.symbols, self.now)

    def frame(self, frame: bytes, connection: int = 1, after_s: float = 0.1) -> None:
        self.now += int(after_s * S)
        self.stage.on_frame(frame, self.now, connection)

    def timer(self, after_s: float = 0.25) -> None:
        self.now += int(after_s * S)
        self.stage.on_timer(self.now)

    def books(self) -> list[Message]:
        return [one for one in self.sink.messages if one.kind_name == "orderbook"]

    @property
    def state(self) -> str:
        return str(self.stage.states[self.symbols[0].replace("-", "/")])

    def best(self) -> tuple[float, float]:
        newest = self.books()[-1]
        return newest.bids[0][0], newest.asks[0][0]


def test_a_snapshot_in_the_stream_begins_a_book_and_updates_follow() -> None:
    bench = Bench()
    # an update before the snapshot is of no use
    bench.frame(update(("buy", "100.5", "1")))
    assert (bench.books(), bench.state) == ([], "subscribed")
    assert bench.stage.counters()["early_updates"] == 1
    bench.frame(snapshot())
    assert (bench.best(), bench.state) == ((100, 101), "synced")
    # two changes of one price apply in their order
    bench.frame(update(("buy", "100.5", "1"), ("buy", "100.5", "0"), ("sell", "101", "0.00000000")))
    assert bench.best() == (100, 102)
    # no snapshot is asked for by REST
    bench.timer(2)
    assert not [one for one in bench.stage.take_requests() if one.purpose == "snapshot"]


def test_the_last_valid_time_is_kept() -> None:
    bench = Bench()
    bench.frame(snapshot())
    bench.frame(update(("buy", "99", "3"), time="2026-09-21T14:13:20.100000Z"))
    bench.frame(update(("buy", "99", "4")))
    times = [one.exchange_ns for one in bench.books()]
    assert times[1] == times[2] == coinbase.time_ns("2026-09-21T14:13:20.100000Z")


def test_a_crossed_book_is_sent_again_on_the_same_connection() -> None:
    bench = Bench(BTC, ETH)
    bench.frame(snapshot())
    bench.frame(snapshot(symbol=ETH))
    bench.frame(update(("buy", "101.5", "1")))
    assert bench.state == "buffering"
    assert bench.stage.states["ETH/USD"] == "synced"
    assert bench.stage.take_frames() == {1: list(coinbase.resubscribe_frames(BTC))}
    assert not bench.stage.take_reconnects()
    # updates until the new book fit nothing
    bench.frame(update(("buy", "90", "1")))
    published = len(bench.books())
    bench.frame(snapshot((("101", "1"),), (("103", "1"),)))
    assert len(bench.books()) == published + 1
    assert (bench.best(), bench.state) == ((101, 103), "synced")
    # crossed again at once: the next request waits
    bench.frame(update(("buy", "104", "1")))
    assert not bench.stage.take_frames()
    bench.timer(11)
    assert bench.stage.take_frames()


def test_a_level_that_cannot_be_read_makes_the_book_suspected_once() -> None:
    bench = Bench()
    bench.frame(snapshot())
    bench.frame(update(("buy", "100", "0.-10000"), ("buy", "98", "5")))
    # the level is left out, the rest is applied, and the book is asked for again
    assert bench.books()[-1].bids[0].tolist() == [99, 98]
    assert bench.state == "buffering"
    assert bench.stage.take_frames()
    bench.frame(snapshot((("100", "0.-10000"), ("99", "1"))))
    # the exchange sends it again: the book is used without it
    assert bench.state == "synced"
    assert bench.books()[-1].bids[0].tolist() == [99]


def test_a_frame_that_cannot_be_read_makes_its_book_suspected() -> None:
    bench = Bench(BTC, ETH)
    bench.frame(snapshot())
    bench.frame(snapshot(symbol=ETH))
    bench.frame(update(("buy", "100.5", "1"), symbol=ETH)[:-5])
    assert bench.state == "synced"
    assert bench.stage.states["ETH/USD"] == "buffering"
    bench.frame(b"<html>")
    # it may be of any market: all are looked at together, whatever number of such frames comes
    assert bench.state == "synced"
    bench.timer()
    assert bench.state == "buffering"


def test_a_large_snapshot_is_known_down_to_its_kept_levels() -> None:
    bench = Bench()
    count = 60_000
    bids = [(f"{100 - i / 1000:.3f}", "1") for i in range(count)]
    asks = [(f"{101 + i / 1000:.3f}", "1") for i in range(count)]
    frame = snapshot(bids, asks)
    assert len(frame) > 1_500_000
    bench.frame(frame)
    book = bench.stage.markets[0].book
    assert book is not None
    assert (book.n_bids, book.n_asks) == (5000, 5000)
    assert book.known_range == (100 - 4.999, 101 + 4.999)
    assert bench.stage.counters()["levels_dropped"] == 2 * (count - 5000)
    # a level beyond it is not published, and one in it is
    bench.frame(update(("buy", "90", "7"), ("buy", "99.9995", "7")))
    assert bench.books()[-1].bids[0].tolist()[:2] == [100, 99.9995]
    # before the known range is used up, the book is asked for again and stays in use
    gone = [("buy", text, "0") for text, _ in bids[:5000] if float(text) > 96]
    bench.frame(update(*gone, ("buy", "99.9995", "0"), ("sell", "96.1", "1")))
    assert bench.best() == (96, 96.1)
    bench.timer(31)
    assert bench.stage.take_frames()


def test_a_new_connection_takes_over_with_its_own_book() -> None:
    bench = Bench()
    bench.frame(snapshot())
    bench.stage.on_connected(2, (BTC,), bench.now)
    # without its snapshot, an update of the new connection fits nothing
    bench.frame(update(("buy", "100.7", "1")), connection=2)
    assert bench.best() == (100, 101)
    assert not bench.stage.caught_up(2)
    bench.frame(snapshot((("100.2", "1"),)), connection=2)
    assert bench.stage.caught_up(2)
    bench.frame(update(("buy", "100.9", "1")), connection=1)
    assert bench.best() == (100.2, 101)
    bench.stage.on_disconnected(1, "replaced", bench.now)
    bench.frame(update(("buy", "100.3", "1")), connection=2)
    assert (bench.best(), bench.state) == ((100.3, 101), "synced")


def test_a_connection_that_is_lost_before_the_new_one_has_a_book() -> None:
    bench = Bench()
    bench.frame(snapshot())
    bench.stage.on_connected(2, (BTC,), bench.now)
    bench.stage.on_disconnected(1, "lost", bench.now)
    assert bench.state == "buffering"
    bench.frame(update(("buy", "100.7", "1")), connection=2)
    bench.frame(snapshot(), connection=2)
    assert (bench.best(), bench.state) == ((100, 101), "synced")


def answer(bench: Bench, bid: str, ask: str) -> None:
    for request in bench.stage.take_requests():
        payload = {"bids": [[bid, "1", 2]], "asks": [[ask, "1", 2]], "sequence": 7}
        bench.stage.on_answer(request, orjson.dumps(payload), bench.now)


def test_a_quiet_book_is_proven_by_heartbeats_and_contradicted_by_rest() -> None:
    bench = Bench()
    bench.frame(snapshot())
    for _ in range(120):
        bench.frame(heartbeat(), after_s=1)
        bench.timer(0)
        answer(bench, "100", "101")
    assert bench.state == "synced"
    assert bench.stage.counters()["confirmed"] > 10
    repeated = [one for one in bench.books() if one.flags & REPEAT]
    assert len(repeated) > 20
    for _ in range(40):
        bench.frame(heartbeat(), after_s=1)
        bench.timer(0)
        answer(bench, "100.5", "101")
        if bench.state != "synced":
            break
    assert bench.state == "buffering"
    assert bench.stage.counters()["drifts"] == 1
    assert bench.stage.take_frames()


def test_rest_between_two_updates_of_a_moving_market_is_no_difference() -> None:
    bench = Bench()
    bench.frame(snapshot())
    for n in range(300):
        bid, ask = 100 + n % 7 / 100, 101 + n % 7 / 100
        before = 100 + (n - 1) % 7 / 100, 101 + (n - 1) % 7 / 100
        changes = [("buy", f"{before[0]:.2f}", "0"), ("sell", f"{before[1]:.2f}", "0")]
        changes += [("buy", f"{bid:.2f}", "1"), ("sell", f"{ask:.2f}", f"{1 + n}")]
        bench.frame(update(*changes), after_s=0.5)
        bench.timer(0)
        if n % 4 == 3:
            # a moment in which only the bid had moved
            answer(bench, f"{bid:.2f}", f"{before[1]:.2f}")
    assert bench.stage.counters()["drifts"] == 0
    assert bench.state == "synced"


# trades


def test_a_heartbeat_shows_a_lost_trade_which_rest_brings() -> None:
    sink = ListSink()
    stage = TickerStage(exchange_named("coinbase"), [(BTC, "BTC/USD")], sink)
    now = coinbase.time_ns("2026-09-21T14:13:20.000000Z")

    def frame(payload: bytes, after_s: float = 0.2) -> None:
        nonlocal now
        now += int(after_s * S)
        stage.on_frame(payload, now, 1)
        stage.on_timer(now)

    stage.on_connected(1, (BTC,), now)
    frame(match(10, 0, "last_match"))
    frame(match(11, 1), 1)
    # trade 12 may still be on its way
    frame(heartbeat(12))
    assert not stage.take_requests()
    frame(heartbeat(12), 1)
    frame(heartbeat(12), 1)
    (request,) = (one for one in stage.take_requests() if one.purpose == "trades")
    rows = [
        {"trade_id": n, "side": "sell", "size": "1", "price": "100", "time": time}
        for n, time in ((12, "2026-09-21T14:13:21.7Z"), (11, "2026-09-21T14:13:21.5Z"))
    ]
    stage.on_answer(request, orjson.dumps(rows), now)
    frame(heartbeat(12), 1)
    frame(match(13, 4), 0.5)
    frame(heartbeat(13), 1)
    assert not [one for one in stage.take_requests() if one.purpose == "trades"]
    trades = [one for one in sink.messages if one.kind_name == "trade"]
    assert [one.id for one in trades] == [10, 11, 12, 13]
    counters = stage.counters()
    assert (counters["trades_filled"], counters["trades_lost"], counters["trade_gaps"]) == (1, 0, 1)
    # an id that cannot be true is not believed
    frame(heartbeat(10**15), 1)
    frame(heartbeat(10**15), 1)
    assert stage.counters()["trade_gaps"] == 1


# what is sent and read


def test_each_market_has_a_frame_of_its_own() -> None:
    settings = load().exchanges["coinbase"]
    assert settings.markets == []
    (one,) = coinbase.subscriptions(settings, ("ticker", "trade"), [BTC, ETH])
    sent = [orjson.loads(frame) for frame in one.frames]
    assert [frame["product_ids"] for frame in sent] == [[BTC], [ETH]]
    assert sent[0]["channels"] == ["ticker", "matches", "heartbeat"]
    refusal = coinbase.refusal_of_frame({"reason": "ETH-USD is not a valid product"})
    assert (refusal.fatal, refusal.whole) == (False, False)
    refusal = coinbase.refusal_of_frame({"reason": "level2 now requires authentication"})
    assert (refusal.fatal, refusal.whole) == (True, True)


def test_an_error_without_a_reason_is_no_refused_subscription() -> None:
    """The subscription is asked for again after it, without the wait of a refusal for good."""
    refusal = coinbase.refusal_of_frame({"type": "error", "message": "Malformed JSON"})
    assert (refusal.fatal, refusal.whole) == (False, True)
    assert refusal.text == "Malformed JSON"


@pytest.mark.parametrize(
    ("status", "body", "fatal"),
    [
        (404, b'{"message":"NotFound"}', True),
        (429, b'{"message":"Public rate limit exceeded"}', False),
        (503, b"<html>", False),
        (200, b"<html>", False),
    ],
)
def test_rest_errors_are_classified(status: int, body: bytes, fatal: bool) -> None:
    refusal = coinbase.refusal_of_answer(status, body)
    assert refusal is not None
    assert refusal.fatal is fatal


# the simulated exchange


def test_the_simulated_exchange_sets_the_traps_of_the_real_one() -> None:
    sent: list[bytes] = []
    engine = Engine(3, {"coinbase": ["BTC/USD", "USDT/USD"]})
    markets = engine.markets["coinbase"]

    def never(code: int, reason: str, delay_s: float) -> None:
        raise AssertionError

    session = session_of("coinbase").opened("/", {}, sent.append, never, limits=True)
    assert session is not None
    session.attach(markets)

    def first(added: Any) -> None:
        sent.extend(frame for frame, _, _ in session.first_frames(added, markets))

    def deliver(event: Event) -> None:
        sent.extend(session.frames(event))

    def ask(frame: bytes) -> list[dict[str, Any]]:
        before = len(sent)
        session.on_text(frame, 0.0)
        return [orjson.loads(one) for one in sent[before:]]

    session.changed = first
    engine.on_event = deliver
    engine.advance(engine.now_ns + 10 * S)
    # a connection without a subscription ends after 5 s
    assert session.is_idle(5.1, 0, 60)
    keyed = ask(coinbase.request_frame("subscribe", BTC, ["level2"]))
    assert "requires authentication" in keyed[0]["reason"]
    assert (
        "valid product"
        in ask(coinbase.request_frame("subscribe", "X-USD", ["ticker"]))[0]["reason"]
    )
    channels = ["level2_batch", "matches", "heartbeat"]
    ack, whole, last = ask(coinbase.request_frame("subscribe", BTC, channels))
    assert [ack["type"], whole["type"], last["type"]] == ["subscriptions", "snapshot", "last_match"]
    assert not session.is_idle(60, 60, 60)
    assert min(len(whole["bids"]), len(whole["asks"])) > 900
    begin = len(sent)
    engine.advance(engine.now_ns + 60 * S)
    frames = [orjson.loads(one) for one in sent[begin:]]
    ids = [one["trade_id"] for one in frames if one["type"] == "match"]
    assert ids == list(range(last["trade_id"] + 1, last["trade_id"] + 1 + len(ids)))
    times = {one["time"] == YEAR_ONE for one in frames if one["type"] == "l2update"}
    assert times == {True, False}
    session.on_second(5.0)
    assert orjson.loads(sent[-1])["last_trade_id"] == ids[-1]
    # unsubscribing and subscribing brings the book again
    again = [ask(frame) for frame in coinbase.resubscribe_frames(BTC)]
    assert [one["type"] for one in again[1]] == ["subscriptions", "snapshot"]
    # the dollar is worth a little more than USDT
    worth = float(orjson.loads(markets["USDT-USD"].snapshot_text(1) or "")["bids"][0][0])
    assert 0.99 < worth < 1


def test_the_simulated_rest_answers_as_the_real_one() -> None:
    engine = Engine(3, {"coinbase": ["BTC/USD"]})
    engine.advance(engine.now_ns + 60 * S)
    rest = rest_of("coinbase")(engine, "coinbase", limits=False)

    def get(path: str, **query: str) -> bytes:
        return rest.get(path, query, 0.0).body

    request = Request("compare", "", "public", 1, (BTC,))
    (best,) = coinbase.read_books(request, get("/products/BTC-USD/book", level="1"))
    assert (len(best.bids), len(best.asks)) == (1, 1)
    trades = coinbase.read_trades(request, get("/products/BTC-USD/trades", limit="20"))
    assert len(trades) == 20
    page = TradePage(request, trades, True, trades[0], 0, 0)
    older = coinbase.older_trades_request(page)
    assert older is not None
    path, _, query = older.path.partition("?")
    found = coinbase.read_trades(
        request, get(path, **dict(one.split("=") for one in query.split("&")))
    )
    assert found[-1].trade_id == trades[0].trade_id - 1
    (listing,) = coinbase.read_markets(get("/products"))
    assert (str(listing.market), listing.trading) == ("BTC/USD", True)
    assert rest.get("/products/X-USD/book", {}, 0.0).status == 404
