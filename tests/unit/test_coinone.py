"""Coinone: its frames, its rules of subscription, and what a quiet market means."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace._ext.coinone import CoinoneParser
from coinspace._ext.message import REPEAT, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.orderbook import OrderBookStage
from coinspace.config import load
from coinspace.errors import ConfigError, MarketError
from coinspace.exchanges import coinone
from coinspace.exchanges.exchange import Request
from coinspace.market import Market
from coinspace.simulator.markets.engine import Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.rest import rest_of
from coinspace.simulator.session import session_of
from tests.fuzz import twin

S = SECOND_NS
T0 = 1_790_000_000 * S
PONG = b'{"response_type":"PONG"}'


def book(
    ms: int,
    count: int = 1,
    sells: Iterable[tuple[str, str]] = (("102", "1"), ("101", "2")),
    buys: Iterable[tuple[str, str]] = (("100", "1"), ("99", "2")),
    **changed: Any,
) -> bytes:
    """One book, `ms` after T0, the `count`-th message of its ms."""
    time_ms = T0 // 1_000_000 + ms
    data = {
        "quote_currency": "KRW",
        "target_currency": "BTC",
        "timestamp": time_ms - 10_000,
        "id": f"{time_ms}{count:03d}",
        "asks": [{"price": price, "qty": size} for price, size in sells],
        "bids": [{"price": price, "qty": size} for price, size in buys],
    }
    frame = {"response_type": "DATA", "channel": "ORDERBOOK", "data": data | changed}
    return orjson.dumps(frame)


# frames


def expectations(feeds: Path, exchange: str) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (feeds / "frames-more" / "expected.ndjson").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    return {
        (row["file"].removesuffix(".ndjson"), row["line"]): row["expected"]
        for row in rows
        if row["file"].startswith(exchange)
    }


def test_frames_decode_to_their_expected_values(feeds: Path) -> None:
    expected = expectations(feeds, "coinone_")
    ours, last_id = CoinoneParser(), 0
    for kind in ("orderbook", "ticker", "trade", "control"):
        path = feeds / "frames-more" / f"coinone_{kind}.ndjson"
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            (found,) = ours.decode(line)
            assert twin.shown([found]) == twin.shown(twin.decode("coinone", line))
            wanted = expected[f"coinone_{kind}", number]
            if wanted["type"] == "drop":
                assert found["final_update_id"] == last_id
                continue
            assert found["kind"] == wanted["type"]
            if kind == "control":
                names = {"pong": "status"}
                assert found["name"] == names.get(wanted["control"], wanted["control"])
                if "symbol" in wanted:
                    assert found["detail"]["data"]["target_currency"] == wanted["symbol"]
                continue
            assert (found["symbol"], found["exchange_ns"]) == (
                wanted["symbol"],
                wanted["time_ms"] * 1_000_000,
            )
            if kind == "orderbook":
                last_id = found["final_update_id"] if number == 2 else last_id
                assert found["final_update_id"] == int(wanted["id"])
                assert found["bids"][0] == [float(text) for text in wanted["best_bid"]]
                assert found["asks"][0] == [float(text) for text in wanted["best_ask"]]
                assert [len(found["bids"]), len(found["asks"])] == wanted["levels"]
            elif kind == "trade":
                assert (found["trade_id"], found["side"], found["price"], found["size"]) == (
                    int(wanted["id"]),
                    wanted["taker_side"],
                    float(wanted["price"]),
                    float(wanted["qty"]),
                )
            else:
                for name in ("last", "open", "high", "low", "volume"):
                    assert found[name] == float(wanted[name])
                assert found["ask"] == (float(wanted["ask"][0]) if wanted["ask"] else None)
                assert found["bid"] == float(wanted["bid"][0])


def test_rest_answers_are_read_to_their_expected_values(feeds: Path) -> None:
    book, trades, error = (feeds / "frames-more" / "coinone_rest.ndjson").read_bytes().splitlines()
    request = Request("compare", "", "public", 1, ("BTC",))
    (found,) = coinone.read_books(request, book)
    assert (found.symbol, found.version) == ("BTC", 1701071108673001)
    assert (found.bids, found.asks) == ([(50048000, 0.01080229)], [(50058000, 0.00272592)])
    (trade,) = coinone.read_trades(request, trades)
    assert (trade.trade_id, trade.exchange_ns) == (1701075265708001, 1701075265708000000)
    assert (trade.price, trade.size, trade.sell) == (50020000, 0.00155177, True)
    refusal = coinone.refusal_of_answer(200, error)
    assert refusal is not None
    assert "108" in refusal.text
    assert refusal.fatal


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"id": "0"}, "id: unexpected value"),
        ({"id": "1.5"}, "id: unexpected value"),
        ({"id": "9999999999999999999"}, "id: unexpected value"),
        ({"id": None}, "id: missing"),
        ({"quote_currency": "USDT"}, "quote_currency: unexpected value"),
        ({"target_currency": ""}, "target_currency: unexpected value"),
        ({"asks": [{"price": "1.2.3", "qty": "1"}]}, "asks: unexpected value"),
        ({"asks": [{"price": "1"}]}, "asks: unexpected value"),
        ({"bids": "none"}, "bids: unexpected value"),
    ],
)
def test_a_book_that_cannot_be_true_is_refused(changed: dict[str, Any], reason: str) -> None:
    (found,) = CoinoneParser().decode(book(0, **changed))
    assert (found["kind"], found["reason"]) == ("malformed", reason)


def test_levels_are_sorted_and_empty_ones_left_out() -> None:
    asks = [("103", "1"), ("102", "0"), ("101", "2"), ("101", "3"), ("0", "1")]
    (found,) = CoinoneParser().decode(book(0, sells=asks, buys=[], target_currency="btc"))
    assert found["asks"] == [[101.0, 2.0], [101.0, 3.0], [103.0, 1.0]]
    assert (found["bids"], found["symbol"], found["market"]) == ([], "BTC", "BTC/KRW")


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (b"<!doctype html><html></html>", "malformed"),
        (b"pong", "malformed"),
        (b'{"response_type":"DATA","channel":"CHART","data":{}}', "ignored"),
        (b'{"response_type":"NEWS"}', "ignored"),
        (b'{"response_type":"DATA","channel":"TRADE"}', "malformed"),
        (b"{}", "malformed"),
    ],
)
def test_other_frames_are_counted(frame: bytes, kind: str) -> None:
    assert CoinoneParser().decode(frame)[0]["kind"] == kind


# the order book stage


class Bench:
    """A stage of two markets and one connection."""

    def __init__(self) -> None:
        self.sink = ListSink()
        entries = [("BTC", "BTC/KRW"), ("ETH", "ETH/KRW")]
        self.stage = OrderBookStage(coinone_exchange(), entries, self.sink, depth=30)
        self.now = T0
        self.stage.on_connected(1, ("BTC", "ETH"), self.now)

    def frame(self, frame: bytes, after_s: float = 0.1, connection: int = 1) -> None:
        self.now += int(after_s * S)
        self.stage.on_frame(frame, self.now, connection)

    def timer(self, after_s: float) -> None:
        self.now += int(after_s * S)
        self.stage.on_timer(self.now)

    def books(self) -> list[Message]:
        return [one for one in self.sink.messages if one.kind_name == "orderbook"]


def coinone_exchange() -> Any:
    return coinone


def test_an_id_that_does_not_rise_changes_nothing() -> None:
    bench = Bench()
    bench.frame(book(1000, 2))
    assert [one.id for one in bench.books()] == [int(f"{T0 // 1_000_000 + 1000}002")]
    # equal, an earlier one of the same ms, an earlier ms
    for frame in (book(1000, 2), book(1000, 1, buys=[("90", "1")]), book(999, 9)):
        bench.frame(frame)
    assert len(bench.books()) == 1
    counters = bench.stage.counters()
    assert (counters["repeats"], counters["backwards"]) == (1, 2)
    bench.frame(book(1000, 3))
    bench.frame(book(1100, 1))
    assert len(bench.books()) == 3


def test_ids_that_start_again_are_believed_after_a_while() -> None:
    bench = Bench()
    bench.frame(book(50_000))
    bench.frame(book(1000))
    assert len(bench.books()) == 1
    bench.frame(book(1100, buys=[("90", "1")]), after_s=6)
    bench.frame(book(1200, buys=[("91", "1")]))
    assert [one.bids[0][0] for one in bench.books()] == [100, 90, 91]


def test_a_new_connection_repeats_the_book_and_takes_over() -> None:
    bench = Bench()
    bench.frame(book(1000))
    bench.stage.on_connected(2, ("BTC",), bench.now)
    bench.frame(book(1000), connection=2)
    assert bench.stage.caught_up(2)
    assert len(bench.books()) == 1


def test_a_quiet_book_is_proven_by_the_connection() -> None:
    bench = Bench()
    bench.frame(book(1000))
    for _ in range(12):
        bench.frame(PONG, after_s=5)
        bench.timer(0.1)
    assert bench.stage.states["BTC/KRW"] == "synced"
    again = bench.books()[1:]
    assert len(again) == 12
    assert all(one.flags & REPEAT and one.bids[0][0] == 100 for one in again)
    assert bench.now - again[-1].received_ns < 0.2 * S
    # REST would compare it meanwhile
    assert any(one.purpose == "compare" for one in bench.stage.take_requests())
    bench.timer(21)
    assert bench.stage.states["BTC/KRW"] == "stale"
    assert bench.stage.take_reconnects()


def test_an_unknown_market_does_not_end_the_connection() -> None:
    bench = Bench()
    bench.frame(b'{"response_type":"ERROR","error_code":160012,"message":"Invalid Topic"}')
    assert bench.stage.take_refusal(1) is None
    assert bench.stage.counters()["error_frames"] == 1
    bench.frame(book(1000))
    bench.timer(11)
    assert bench.stage.states["BTC/KRW"] == "synced"
    # the silent one is named
    status = bench.stage.statuses[1]
    assert status.state == "stale"
    assert status.reason is not None
    assert "is ETH a symbol of coinone?" in status.reason


# what is sent


def test_each_topic_has_a_frame_and_the_setting_names_the_format() -> None:
    settings = load().exchanges["coinone"]
    assert settings.markets == []
    (one,) = coinone.subscriptions(settings, ("ticker", "trade"), ["BTC", "ETH"])
    sent = [orjson.loads(frame) for frame in one.frames]
    assert [(frame["channel"], frame["topic"]["target_currency"]) for frame in sent] == [
        ("TICKER", "BTC"),
        ("TICKER", "ETH"),
        ("TRADE", "BTC"),
        ("TRADE", "ETH"),
    ]
    assert {frame["format"] for frame in sent} == {"SHORT"}
    lists = settings.model_copy(update={"format": "JSON_LIST"})
    with pytest.raises(ConfigError, match="SIMPLE or DEFAULT"):
        coinone.subscriptions(lists, ("trade",), ["BTC"])
    with pytest.raises(MarketError, match="a market in KRW"):
        coinone.symbol_of(Market("BTC", "USDT"))


@pytest.mark.parametrize(
    ("status", "body", "fatal"),
    [
        (200, b'{"result":"error","error_code":"4","error_msg":"Blocked user access"}', False),
        (200, b'{"result":"error","error_code":"405","error_msg":"maintenance"}', False),
        (200, b'{"result":"error","error_code":"107","error_msg":"Parameter error"}', True),
        (200, b"<!doctype html>", False),
        (200, b"[]", False),
        (429, b'{"result":"success"}', False),
    ],
)
def test_errors_come_with_status_200(status: int, body: bytes, fatal: bool) -> None:
    refusal = coinone.refusal_of_answer(status, body)
    assert refusal is not None
    assert refusal.fatal is fatal
    assert coinone.refusal_of_answer(200, b'{"result":"success","error_code":"0"}') is None


# the simulated exchange


class Client:
    """A session of the simulated exchange, its market and the frames that it sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.engine = Engine(3, {"coinone": ["BTC/KRW"]})
        self.markets = self.engine.markets["coinone"]
        found = session_of("coinone").opened("/", {}, self.sent.append, self._never, limits=True)
        assert found is not None
        self.session = found
        self.session.attach(self.markets)
        self.session.changed = self._first
        self.engine.on_event = self._deliver
        self.session.greet()

    def _first(self, added: Any) -> None:
        frames = self.session.first_frames(added, self.markets)
        self.sent += [frame for frame, _, _ in frames]

    def _deliver(self, event: Event) -> None:
        self.sent += self.session.frames(event)

    def _never(self, code: int, reason: str, delay_s: float) -> None:
        raise AssertionError

    def ask(self, frame: bytes) -> list[dict[str, Any]]:
        before = len(self.sent)
        self.session.on_text(frame, 0.0)
        return [orjson.loads(one) for one in self.sent[before:]]

    def run(self, seconds: float) -> None:
        self.engine.advance(self.engine.now_ns + int(seconds * 1e9))


def test_the_simulated_exchange_sets_the_traps_of_the_real_one() -> None:
    client = Client()
    assert orjson.loads(client.sent[0])["response_type"] == "CONNECTED"
    # a connection that never sent anything ends, one that did stays
    assert client.session.is_idle(61, 61, 60)
    assert client.ask(coinone.PING_FRAME) == [{"response_type": "PONG"}]
    assert not client.session.is_idle(61, 61, 60)
    assert not client.session.pongs
    subscribe = coinone.subscribe_frame("ORDERBOOK", "BTC", "DEFAULT")
    client.run(1.0)
    ack, first = client.ask(subscribe)
    assert ack["response_type"] == "SUBSCRIBED"
    data = first["data"]
    assert int(data["id"]) // 1000 - data["timestamp"] > 10_000
    prices = [float(level["price"]) for level in data["asks"]]
    assert prices == sorted(prices, reverse=True)
    assert float(data["bids"][0]["price"]) < prices[-1]
    # a second subscription repeats the book, and the stream is not doubled
    assert client.ask(subscribe)[1]["data"]["id"] == data["id"]
    begin = len(client.sent)
    client.run(5.0)
    ids = [int(orjson.loads(one)["data"]["id"]) for one in client.sent[begin:]]
    assert len(ids) > 10
    assert ids == sorted(set(ids))
    # an unknown market: an acknowledgement, then an error that names nothing
    unknown = client.ask(coinone.subscribe_frame("TRADE", "nosuch", "SHORT"))
    assert [one["response_type"] for one in unknown] == ["SUBSCRIBED", "ERROR"]
    assert unknown[0]["data"]["target_currency"] == "nosuch"
    assert "data" not in unknown[1]
    lower = subscribe.replace(b"SUBSCRIBE", b"subscribe")
    assert client.ask(lower)[0]["error_code"] == 160011
    assert client.ask(b"no JSON")[0]["error_code"] == 160010


def test_the_simulated_rest_answers_as_the_real_one() -> None:
    client = Client()
    client.run(30.0)
    rest = rest_of("coinone")(client.engine, "coinone")

    def get(path: str, size: str = "16") -> Any:
        return rest.get(path, {"size": size}, 0.0)

    request = coinone.compare_requests(["BTC"])[0]
    (found,) = coinone.read_books(request, get("/orderbook/KRW/BTC").body)
    assert (len(found.bids), len(found.asks)) == (16, 16)
    assert found.bids[0][0] < found.asks[0][0] < found.asks[-1][0]
    trades = coinone.read_trades(request, get("/trades/KRW/BTC", "200").body)
    assert [one.trade_id for one in trades] == sorted({one.trade_id for one in trades})
    assert len(trades) > 5
    (listing,) = coinone.read_markets(get("/markets/KRW").body)
    assert (listing.symbol, listing.trading) == ("BTC", True)
    for path, code in (("/orderbook/KRW/NOSUCH", '"108"'), ("/orderbook/KRW/BTC", '"107"')):
        answer = get(path, "7")
        assert answer.status == 200
        assert code in answer.body.decode()
    page = get("/nosuch")
    assert (page.status, page.headers["Content-Type"][:9]) == (200, "text/html")
    assert coinone.refusal_of_answer(200, page.body) is not None
