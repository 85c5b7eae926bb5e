"""Facts beside the price: what answers say, when it is unknown, what is published."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace._ext.message import REPEAT
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.facts import FactStage
from coinspace.errors import UNREADABLE, MessageError
from coinspace.exchanges import EXCHANGES, bithumb, every, exchange
from coinspace.exchanges.exchange import Refusal, Request
from coinspace.exchanges.facts import (
    MOST_NETWORKS,
    MOST_NOTICES,
    Facts,
    Network,
    Said,
    decode_facts,
    encode_facts,
    transfer,
    wallet,
)
from coinspace.market import Market
from coinspace.simulator.markets.engine import USUAL_MARKETS, Engine
from coinspace.simulator.rates import WHOLE
from coinspace.simulator.rest import rest_of

WALL = 1_800_000_000 * SECOND_NS
UPBIT_LIST = [
    {
        "market": "KRW-BTC",
        "korean_name": "비트코인",
        "english_name": "Bitcoin",
        "market_event": {
            "warning": False,
            "caution": {"PRICE_FLUCTUATIONS": False, "GLOBAL_PRICE_DIFFERENCES": True},
        },
    },
    {
        "market": "KRW-ETH",
        "market_event": {"warning": True, "caution": {"DEPOSIT_AMOUNT_SOARING": True}},
    },
    {"market": "KRW-XRP", "market_event": {"warning": False, "caution": {}}},
]
BITHUMB_LIST = [
    {"market": "KRW-BTC", "korean_name": "비트코인", "market_warning": "NONE"},
    {"market": "KRW-ETH", "korean_name": "이더리움", "market_warning": "CAUTION"},
    {"market": "KRW-XRP", "korean_name": "엑스알피", "market_warning": "NONE"},
]
BITHUMB_ALERTS = [
    {
        "market": "KRW-BTC",
        "warning_type": "PRICE_DIFFERENCE_HIGH",
        "warning_step": "DANGER",
        "end_date": "2026-11-30 07:04:59",
    },
    # the older form has no step
    {"market": "KRW-BTC", "warning_type": "PRICE_SUDDEN_FLUCTUATION", "end_date": "2026-11-30"},
]
BITHUMB_NOTICES = [
    {
        "categories": ["입출금"],
        "title": "비트코인(BTC) 네트워크 입출금 일시 중지 안내",
        "pc_url": "https://feed.bithumb.com/notice/1649001",
        "published_at": "2026-11-30 09:30:00",
    },
    {
        "categories": ["거래지원종료"],
        "title": "비트코인(BTC), 이더리움(ETH) 거래지원 종료 안내",
        "pc_url": "https://feed.bithumb.com/notice/1649002",
        "published_at": "2026-12-01 09:30:00",
    },
]
BINANCE_LIST = {
    "symbols": [
        {"symbol": "BTCUSDT", "status": "TRADING"},
        {"symbol": "ETHUSDT", "status": "BREAK"},
        {"symbol": "XRPUSDT", "status": "CANCEL_ONLY"},
        {"symbol": "SOLUSDT", "status": "SOMETHING_NEW"},
    ]
}
COINONE_LIST = {
    "result": "success",
    "markets": [
        {"target_currency": "BTC", "trade_status": 1, "maintenance_status": 0},
        {"target_currency": "ETH", "trade_status": 2, "maintenance_status": 0},
        {"target_currency": "XRP", "trade_status": 1, "maintenance_status": 1},
    ],
}
COINONE_WALLETS = {
    "result": "success",
    "currencies": [
        {"symbol": "BTC", "deposit_status": "normal", "withdraw_status": "normal"},
        {"symbol": "ETH", "deposit_status": "normal", "withdraw_status": "suspended"},
        {"symbol": "XRP", "deposit_status": "partly", "withdraw_status": "suspended"},
    ],
}
COINBASE_LIST = [
    {
        "id": "BTC-USD",
        "status": "online",
        "trading_disabled": False,
        "cancel_only": False,
        "post_only": False,
        "limit_only": False,
        "auction_mode": False,
    },
    {"id": "ETH-USD", "status": "online", "cancel_only": True, "post_only": True},
    {"id": "XRP-USD", "status": "delisted", "trading_disabled": True},
]
COINBASE_WALLETS = [
    {
        "id": "BTC",
        "status": "online",
        "supported_networks": [{"id": "bitcoin", "status": "online"}],
    },
    {
        "id": "ETH",
        "status": "online",
        "supported_networks": [
            {"id": "ethereum", "status": "online"},
            {"id": "base", "status": "offline"},
        ],
    },
    {"id": "XRP", "status": "offline", "supported_networks": [{"id": "x", "status": "online"}]},
]


def asset_status(*rows: tuple[str, str, Any, Any]) -> dict[str, Any]:
    names = ("currency", "net_type", "deposit_status", "withdrawal_status")
    return {"status": "0000", "data": [dict(zip(names, row, strict=True)) for row in rows]}


def path(name: str, number: int) -> Request:
    return exchange(name).FACTS[number].request


class Followed:
    """A stage of an exchange's usual markets on virtual time, and what it has published."""

    def __init__(self, name: str, *markets: str) -> None:
        self.exchange = exchange(name)
        quote = self.exchange.QUOTES[0]
        names = [f"{one}/{quote}" for one in markets or ("BTC", "ETH", "XRP")]
        entries = [(self.exchange.symbol_of(Market.parse(one)), one) for one in names]
        self.sink = ListSink(1)
        self.stage = FactStage(self.exchange, entries, self.sink, lambda: WALL)
        self.now_ns = 1000 * SECOND_NS
        self.stage.on_timer(self.now_ns)

    def answer(self, number: int, content: Any) -> None:
        request = path(self.exchange.NAME, number)
        payload = content if isinstance(content, bytes) else orjson.dumps(content)
        refusal = self.exchange.refusal_of_answer(200, payload)
        if refusal is not None:
            self.stage.on_refused(request, refusal, self.now_ns)
            return
        try:
            said = self.exchange.read_facts(request, payload)
        except UNREADABLE as error:
            self.stage.on_unreadable(request, error, self.now_ns)
        else:
            self.stage.on_said(request, said, self.now_ns)

    def ask(self, engine: Engine) -> None:
        """Take what a simulated exchange answers to each request."""
        name = self.exchange.NAME
        simulated = rest_of(name)(engine, name, limits=False)
        for number, source in enumerate(self.exchange.FACTS):
            place, _, query = source.request.path.partition("?")
            self.answer(number, simulated.get(place, dict(parse_qsl(query)), 0.0).body)

    def wait(self, seconds: float = 0.25) -> None:
        self.now_ns += int(seconds * SECOND_NS)
        self.stage.on_timer(self.now_ns)

    def facts(self, base: str = "BTC") -> Facts:
        """The newest facts that were published as a change."""
        self.wait()
        topic = f"fact.{self.exchange.NAME}.{base}/{self.exchange.QUOTES[0]}.".encode()
        found = [one for one in self.sink.messages if one.topic == topic]
        assert {one.received_ns for one in found} == {WALL}
        changes = [one for one in found if not one.flags & REPEAT]
        return decode_facts(changes[-1].payload)


def test_upbit_says_warnings_and_what_is_listed_and_nothing_of_wallets() -> None:
    upbit = Followed("upbit", "BTC", "ETH", "XRP", "GONE")
    upbit.answer(0, UPBIT_LIST)
    found = upbit.facts()
    assert (found.warning, found.flags) == ("caution", ("GLOBAL_PRICE_DIFFERENCES",))
    assert (found.deposit, found.withdraw, found.networks) == ("unknown", "unknown", ())
    assert found.trading == "open"
    assert found.notices is None
    assert upbit.facts("ETH").warning == "warning"
    assert upbit.facts("ETH").flags == ("WARNING", "DEPOSIT_AMOUNT_SOARING")
    assert upbit.facts("XRP").warning == "none"
    gone = upbit.facts("GONE")
    assert (gone.trading, gone.detail) == ("suspended", "not listed")


def test_bithumb_says_wallets_by_network_two_kinds_of_warnings_and_notices() -> None:
    found = Followed("bithumb")
    found.answer(0, BITHUMB_LIST)
    found.answer(1, asset_status(("BTC", "BTC", 1, 0), ("ETH", "ETH", True, True)))
    found.answer(2, BITHUMB_ALERTS)
    found.answer(3, BITHUMB_NOTICES)
    btc = found.facts()
    assert (btc.deposit, btc.withdraw) == ("open", "closed")
    assert btc.networks == (Network("BTC", True, False),)
    assert (btc.warning, btc.flags) == (
        "danger",
        ("PRICE_DIFFERENCE_HIGH", "PRICE_SUDDEN_FLUCTUATION"),
    )
    assert btc.notices is not None
    assert [one.category for one in btc.notices] == ["거래지원종료", "입출금"]
    # 09:30 in Seoul
    assert btc.notices[0].ts == 1_796_085_000_000
    eth = found.facts("ETH")
    assert (eth.deposit, eth.warning, eth.flags) == ("open", "caution", ("MARKET_CAUTION",))
    xrp = found.facts("XRP")
    assert (xrp.deposit, xrp.warning, xrp.notices) == ("unknown", "none", ())


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("BTC", "A", 1, 1), ("BTC", "B", 0, 1)], ("partial", "open")),
        ([("BTC", "A", 0, 0), ("BTC", "B", 0, 1)], ("closed", "partial")),
        # a coin and network twice: equal, and contradicting
        ([("BTC", "A", 1, 1), ("BTC", "A", 1, 1)], ("open", "open")),
        ([("BTC", "A", 1, 1), ("BTC", "A", 0, 1)], ("unknown", "open")),
        # states of another type, and lower case
        ([("btc", "A", "1", None), ("ETH", "E", 1, 1)], ("unknown", "unknown")),
        ([("BTC", "A", 2, -1), ("ETH", "E", 1, 1)], ("unknown", "unknown")),
        ([("BTC", "A", 1.0, 1), ("ETH", "E", 1, 1)], ("unknown", "open")),
        # a network that cannot be read: the wallet is not known
        ([("BTC", "A", 1, 1), ("BTC", None, 1, 1), ("ETH", "E", 1, 1)], ("unknown", "unknown")),
    ],
)
def test_a_wallet_over_several_networks(rows: list[Any], expected: tuple[str, str]) -> None:
    found = Followed("bithumb")
    for number in (0, 2, 3):
        found.answer(number, BITHUMB_LIST if number == 0 else [])
    found.answer(1, asset_status(*rows))
    assert (found.facts().deposit, found.facts().withdraw) == expected


def test_binance_says_the_status_of_symbols_and_of_the_system() -> None:
    found = Followed("binance", "BTC", "ETH", "XRP", "SOL")
    found.answer(0, BINANCE_LIST)
    found.answer(1, {"status": 0, "msg": "normal"})
    assert found.facts().trading == "open"
    assert (found.facts().warning, found.facts().deposit) == ("unknown", "unknown")
    assert (found.facts("ETH").trading, found.facts("ETH").detail) == ("suspended", "BREAK")
    assert found.facts("XRP").trading == "limited"
    assert (found.facts("SOL").trading, found.facts("SOL").detail) == ("unknown", "SOMETHING_NEW")
    found.answer(1, {"status": 1, "msg": "system_maintenance"})
    assert (found.facts().trading, found.facts().detail) == ("suspended", "system maintenance")


def test_coinone_says_wallets_and_the_states_of_markets() -> None:
    found = Followed("coinone")
    found.answer(0, COINONE_LIST)
    found.answer(1, COINONE_WALLETS)
    assert found.facts().deposit == found.facts().withdraw == found.facts().trading == "open"
    eth, xrp = found.facts("ETH"), found.facts("XRP")
    assert (eth.deposit, eth.withdraw, eth.trading, eth.detail) == (
        *("open", "closed", "limited"),
        "no buying",
    )
    assert (xrp.deposit, xrp.withdraw, xrp.trading, xrp.detail) == (
        *("unknown", "closed", "suspended"),
        "maintenance",
    )


def test_coinbase_says_networks_and_the_flags_of_products() -> None:
    found = Followed("coinbase")
    found.answer(0, COINBASE_LIST)
    found.answer(1, COINBASE_WALLETS)
    assert found.facts().deposit == found.facts().withdraw == found.facts().trading == "open"
    eth, xrp = found.facts("ETH"), found.facts("XRP")
    assert (eth.deposit, eth.trading, eth.detail) == (
        "partial",
        "limited",
        "cancel_only, post_only",
    )
    assert (xrp.deposit, xrp.trading, xrp.detail) == ("closed", "suspended", "delisted")


# what is published, and when


def test_nothing_is_published_before_each_source_has_answered_once_or_is_late() -> None:
    found = Followed("bithumb")
    found.answer(0, BITHUMB_LIST)
    found.wait()
    assert not found.sink.messages
    for _ in range(80):
        found.wait()
    assert (found.facts().trading, found.facts().deposit) == ("open", "unknown")


def test_a_change_is_published_once_and_everything_again_at_an_interval() -> None:
    found = Followed("upbit")
    for _ in range(40):
        found.answer(0, UPBIT_LIST)
        found.wait()
    changes = [one for one in found.sink.messages if not one.flags & REPEAT]
    assert len(changes) == 3
    # ten seconds
    repeats = len(found.sink.messages) - 3
    assert 2 <= repeats <= 4
    found.answer(0, UPBIT_LIST[1:])
    assert found.facts().trading == "suspended"
    assert len([one for one in found.sink.messages if not one.flags & REPEAT]) == 4


def test_markets_that_are_listed_later_have_facts_and_delisted_ones_none() -> None:
    found = Followed("upbit", "BTC")
    found.answer(0, UPBIT_LIST)
    found.wait()
    found.stage.add([("KRW-BTC", "BTC/KRW"), ("KRW-ETH", "ETH/KRW")])
    assert found.facts("ETH").warning == "warning"
    assert len([one for one in found.sink.messages if not one.flags & REPEAT]) == 2
    found.stage.remove(["KRW-BTC", "KRW-NONE"])
    found.sink.clear()
    found.wait(60)
    assert {one.market for one in found.sink.messages} == {"ETH/KRW"}


def test_repeats_of_many_markets_are_bounded() -> None:
    found = Followed("upbit", *(f"C{n}" for n in range(700)))
    found.answer(0, UPBIT_LIST)
    found.wait()
    before = len(found.sink.messages)
    for _ in range(40):
        found.wait()
    assert 80 <= len(found.sink.messages) - before <= 110


def test_a_source_that_is_silent_for_long_is_unknown_and_known_again() -> None:
    found = Followed("coinone")
    found.answer(0, COINONE_LIST)
    found.answer(1, COINONE_WALLETS)
    assert found.facts().deposit == "open"
    found.wait(150)
    found.answer(0, COINONE_LIST)
    assert (found.facts().deposit, found.facts().trading) == ("open", "open")
    found.wait(80)
    assert (found.facts().deposit, found.facts().trading) == ("unknown", "open")
    assert found.stage.counters()['fact_answers_refused{reason="silent"}'] == 1
    found.answer(1, COINONE_WALLETS)
    assert found.facts().deposit == "open"


def test_a_market_that_the_stream_calls_suspended_is_suspended() -> None:
    found = Followed("upbit")
    found.answer(0, UPBIT_LIST)
    assert found.facts().trading == "open"
    found.stage.on_timer(found.now_ns, frozenset({"KRW-BTC"}))
    topic = b"fact.upbit.BTC/KRW."
    last = [one for one in found.sink.messages if one.topic == topic][-1]
    assert decode_facts(last.payload).detail == "suspended in the stream"
    assert found.facts().trading == "open"
    found.stage.on_timer(found.now_ns, frozenset(), {"KRW-BTC": 20270105})
    last = [one for one in found.sink.messages if one.topic == topic][-1]
    assert decode_facts(last.payload).delisting == "2027-01-05"


@pytest.mark.parametrize(
    ("text", "day"),
    [
        (b'"2026-12-24"', 20261224),
        (b'"2026-12-24T15:00:00"', 20261224),
        *((text, 0) for text in (b"null", b'""', b'"soon"', b'"2026/12/24"', b'"2026-1-24"', b"7")),
    ],
)
def test_a_ticker_has_the_day_on_which_trading_ends(text: bytes, day: int) -> None:
    for name in ("upbit", "bithumb"):
        parser = exchange(name).parser(30)
        for value, expected in ((text, day), (b"null", 0)):
            frame = b'{"type":"ticker","code":"KRW-BTC","trade_price":1.0,"delisting_date":%b}'
            assert parser.parse(frame % value)
            assert parser.delisting == expected


def test_requests_are_spread_and_a_refusal_for_good_is_asked_less_often() -> None:
    found = Followed("binance")
    asked: list[int] = []
    for second in range(600):
        now_ns = found.now_ns + second * SECOND_NS
        for request in found.stage.take_requests(now_ns):
            assert request == path("binance", 1)
            asked.append(second)
            if len(asked) == 4:
                found.stage.on_refused(request, Refusal("HTTP 404", fatal=True), now_ns)
    gaps = [later - sooner for sooner, later in pairwise(asked)]
    # the fourth request is the last within ten minutes
    assert len(asked) == 4
    assert all(54 <= gap <= 66 for gap in gaps)
    assert len(set(gaps)) > 1


# answers of another shape

WITH_WALLETS = [
    one.NAME for one in every() if len(one.FACTS) > 1 and "wallets" in one.FACTS[1].parts
]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("BTC"),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    *(
                        "status",
                        "data",
                        "currency",
                        "net_type",
                        "deposit_status",
                        "withdrawal_status",
                    ),
                    *(
                        "market",
                        "market_event",
                        "warning",
                        "caution",
                        "market_warning",
                        "warning_type",
                    ),
                    *("categories", "title", "pc_url", "published_at", "symbols", "symbol"),
                    *("markets", "currencies", "withdraw_status", "trade_status", "id", "result"),
                    *("maintenance_status", "target_currency", "supported_networks"),
                )
            ),
            part,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(name=st.sampled_from(EXCHANGES), number=st.integers(0, 3), content=ODD)
@settings(max_examples=400, deadline=None)
def test_no_answer_makes_more_than_a_counted_refusal(name: str, number: int, content: Any) -> None:
    found = Followed(name)
    sources = len(found.exchange.FACTS)
    found.answer(number % sources, json.dumps(content).encode())
    stage = found.stage
    assert stage.answers + sum(stage.refused.values()) == 1
    found.wait(30)
    for message in found.sink.messages:
        decode_facts(message.payload)


@pytest.mark.parametrize("form", sorted(WHOLE))
@pytest.mark.parametrize("name", WITH_WALLETS)
def test_an_answer_that_is_no_list_of_wallets_is_counted_and_unknown(name: str, form: str) -> None:
    found = Followed(name)
    found.ask(Engine(markets={name: USUAL_MARKETS[name]}))
    assert found.facts().deposit == "open"
    found.answer(1, WHOLE[form]().body)
    refused = found.stage.refused
    assert sum(refused.values()) == 1
    # a refusal says nothing of wallets: what was said before counts until it is too old
    assert found.facts().deposit == ("open" if refused["refused"] else "unknown")
    found.wait(2000)
    assert found.facts() == Facts()


@pytest.mark.parametrize("module", every(), ids=EXCHANGES)
def test_a_simulated_exchange_answers_each_request_of_facts(module: Any) -> None:
    found = Followed(module.NAME)
    engine = Engine(markets={module.NAME: USUAL_MARKETS[module.NAME]})
    found.ask(engine)
    parts = {part for source in module.FACTS for part in source.parts}
    first = found.facts()
    assert not found.stage.refused
    assert not found.stage.unread
    assert first.trading == "open"
    assert first.deposit == ("open" if "wallets" in parts else "unknown")
    assert first.warning == ("none" if "flags" in parts else "unknown")
    symbol = found.stage._markets[0].symbol
    engine.markets[module.NAME][symbol].facts |= {"wallet", "warn"}
    found.ask(engine)
    later = found.facts()
    assert later.withdraw == ("closed" if "wallets" in parts else "unknown")
    assert later.warning == ("caution" if "flags" in parts else "unknown")
    assert bool(later.notices) == ("notices" in parts)


# messages


def test_facts_of_the_largest_size_travel_whole() -> None:
    rows = [("BTC", f"N{n:038}", 1, 1) for n in range(200)]
    notices = [{**BITHUMB_NOTICES[0], "title": f"{'가' * 300}(BTC)"}] * 3
    titles = [{**one, "title": f"(BTC) {n} {'가' * 300}"} for n, one in enumerate(notices * 7)]
    found = Followed("bithumb")
    found.answer(0, BITHUMB_LIST)
    found.answer(1, asset_status(*rows))
    found.answer(2, [{**BITHUMB_ALERTS[0], "warning_type": f"W{n:038}"} for n in range(99)])
    found.answer(3, titles)
    facts = found.facts()
    assert len(facts.networks) == MOST_NETWORKS
    assert facts.notices is not None
    assert len(facts.notices) == MOST_NOTICES
    assert decode_facts(encode_facts(facts)) == facts


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b'{"deposit":"perhaps"}', b'{"flags":1}', b'{"deposit":"\xff"}', b"{" * 100_000],
)
def test_a_message_of_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError, match="facts"):
        decode_facts(payload)


def test_states_of_a_wallet_and_of_a_transfer() -> None:
    assert [wallet(one) for one in ([], [None], [True], [False], [True, None], [None, False])] == [
        *("unknown", "unknown", "open", "closed", "partial", "unknown"),
    ]
    open_, closed, unknown = (
        Facts(deposit=one, withdraw=one) for one in ("open", "closed", "unknown")
    )
    partial = Facts(deposit="partial", withdraw="open")
    assert transfer(open_, open_) == "open"
    assert transfer(unknown, closed) == transfer(closed, open_) == "closed"
    assert transfer(open_, unknown) == "unknown"
    assert (transfer(open_, partial), transfer(partial, open_)) == ("partial", "open")


def test_a_notice_names_coins_in_brackets_only() -> None:
    said: Said = bithumb.read_facts(
        path("bithumb", 3),
        orjson.dumps([{**BITHUMB_NOTICES[0], "title": "BTC 마켓(원화) 이더리움(ETH)(ETH) 안내"}]),
    )
    assert said.notices is not None
    assert {coin: len(found) for coin, found in said.notices.items()} == {"ETH": 1}
