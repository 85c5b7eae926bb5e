"""Markets that a stage begins and ends to collect: virtual time."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector import collection as collection_module
from coinspace.collector.collection import Collection, make_stage
from coinspace.collector.facts import FactStage
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.stage import GONE_NS, Stage
from coinspace.collector.ticker import TickerStage
from coinspace.config import Settings
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Listing, Refusal, Request, Subscription
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import market_of_dashed
from coinspace.process import Process

T0 = 1_790_000_000 * SECOND_NS
ENTRIES = [("KRW-BTC", "BTC/KRW"), ("KRW-ETH", "ETH/KRW")]


def book_frame(symbol: str, now: int) -> bytes:
    level = {"ask_price": 101.0, "bid_price": 100.0, "ask_size": now % 7 + 1, "bid_size": 1.0}
    return orjson.dumps(
        {
            "type": "orderbook",
            "code": symbol,
            "timestamp": now // 1_000_000,
            "orderbook_units": [level],
            "stream_type": "REALTIME",
        }
    )


class World:
    """A stage of Upbit's books, with its clock and its only connection."""

    def __init__(self) -> None:
        self.sink = ListSink()
        self.stage = OrderBookStage(exchange("upbit"), list(ENTRIES), self.sink, depth=15)
        self.now = T0
        self.symbols = [symbol for symbol, _ in ENTRIES]
        self.stage.on_connected(1, tuple(self.symbols), self.now)

    def add(self, symbol: str, link: int) -> None:
        self.stage.add(symbol, str(market_of_dashed(symbol)), self.now, "listed")
        self.stage.on_connected(link, (symbol,), self.now)

    def frame(self, symbol: str, link: int = 1) -> None:
        self.now += SECOND_NS
        self.stage.on_frame(book_frame(symbol, self.now), self.now, link)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += SECOND_NS
            self.stage.on_timer(self.now)

    def published(self, market: str) -> int:
        messages = self.sink.messages
        return sum(one.kind_name == "orderbook" and one.market == market for one in messages)


def test_a_market_is_collected_from_its_listing_until_its_delisting() -> None:
    world = World()
    world.frame("KRW-NEW")
    assert world.stage.unknown_symbols == 1
    world.add("KRW-NEW", 2)
    world.frame("KRW-NEW", 2)
    world.frame("KRW-BTC")
    assert world.stage.states == {"BTC/KRW": "synced", "ETH/KRW": "subscribed", "NEW/KRW": "synced"}
    assert world.published("NEW/KRW") == 1

    world.stage.remove("KRW-NEW", world.now, "delisted")
    world.frame("KRW-NEW", 2)
    assert (world.stage.unknown_symbols, world.published("NEW/KRW")) == (2, 1)
    assert world.stage.states["NEW/KRW"] == "halted"
    world.stage.on_disconnected(2, "connection lost", world.now)
    assert world.stage.states["NEW/KRW"] == "halted"
    assert world.stage.counters()["markets"] == 2
    # nothing is asked for it, and it leaves the heartbeats after an hour
    world.stage.demand.take(world.now)
    world.wait(GONE_NS // SECOND_NS + 2)
    assert "KRW-NEW" not in {one for r in world.stage.take_requests() for one in r.symbols}
    assert "NEW/KRW" not in world.stage.states


def test_a_market_that_is_listed_again_has_its_place_and_its_sequence() -> None:
    world = World()
    for link in range(2, 8):
        world.add("KRW-NEW", link)
        world.frame("KRW-NEW", link)
        assert world.stage.states["NEW/KRW"] == "synced"
        world.stage.remove("KRW-NEW", world.now, "delisted")
    assert len(world.stage.markets) == 3
    sequences = [
        one.sequence
        for one in world.sink.messages
        if one.kind_name == "orderbook" and one.market == "NEW/KRW"
    ]
    assert sequences == list(range(1, 7))
    # sums of all of its lives
    assert world.stage.counters()["applied"] == world.stage.counters()["books_published"] == 6


def test_listings_of_years_take_the_places_of_those_that_are_gone() -> None:
    world = World()
    for number in range(300):
        symbol = f"KRW-N{number}"
        world.add(symbol, number + 2)
        world.frame(symbol, number + 2)
        world.stage.remove(symbol, world.now, "delisted")
        world.stage.on_disconnected(number + 2, "no market is left", world.now)
        world.now += GONE_NS
        world.stage.now_ns = world.now
    assert len(world.stage.markets) == len(world.stage.statuses) == 4
    assert len(world.stage.states) <= 3
    world.frame("KRW-BTC")
    assert world.published("BTC/KRW") == 1
    assert world.stage.counters()["impossible_changes"] == 0


def upbit_books() -> Stage:
    return OrderBookStage(exchange("upbit"), list(ENTRIES), ListSink(), depth=15)


def binance_books() -> Stage:
    entries = [("BTCUSDT", "BTC/USDT"), ("ETHUSDT", "ETH/USDT")]
    return OrderBookStage(exchange("binance"), entries, ListSink(), depth=15)


def upbit_trades() -> Stage:
    return TickerStage(exchange("upbit"), list(ENTRIES), ListSink())


@pytest.mark.parametrize("make", [upbit_books, binance_books, upbit_trades])
@pytest.mark.parametrize("refused", [True, False])
def test_answers_for_a_market_that_has_gone_are_ignored(
    make: Callable[[], Stage], refused: bool
) -> None:
    stage = make()
    now = T0
    symbol = stage.statuses[1].symbol
    stage.on_connected(1, tuple(one.symbol for one in stage.statuses), now)
    asked: list[Request] = []
    for _ in range(400):
        now += SECOND_NS
        stage.on_timer(now)  # type: ignore[attr-defined]
        asked += stage.take_requests()
    asked += [stage.exchange.trades_request(symbol), stage.exchange.snapshot_request(symbol, 100)]
    asked += stage.exchange.compare_requests([symbol])
    stage.remove(symbol, now, "delisted")
    for request in asked:
        if refused:
            refusal = Refusal("no such market", fatal=True)
            stage.on_refused(request, refusal, now)  # type: ignore[attr-defined]
        else:
            stage.on_answer(request, b"{}", now)  # type: ignore[attr-defined]
    for _ in range(100):
        now += SECOND_NS
        stage.on_timer(now)  # type: ignore[attr-defined]
        stage.take_requests()
    assert stage.states[stage.statuses[1].market] == "halted"


def test_a_place_in_use_is_not_taken() -> None:
    world = World()
    entry = world.stage.new_entry(0, "KRW-NEW", "NEW/KRW")
    with pytest.raises(ValueError, match="index 0: expected a market that is gone, was BTC/KRW"):
        world.stage.put(entry)
    with pytest.raises(ValueError, match="index: expected 0 to 2, was 5"):
        world.stage.put(world.stage.new_entry(5, "KRW-NEW", "NEW/KRW"))


class Lists:
    """A collection of `*/KRW` that takes one list of markets after another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[tuple[str, ...]] = []
        monkeypatch.setattr(Collection, "_open", self._open)
        settings = ExchangeSettings(
            websocket="ws://127.0.0.1:1", rest="http://127.0.0.1:1", markets=["*/KRW"]
        )
        self.sink = ListSink()
        process = Process("orderbook-collector", Settings(data=Path("/nowhere")))
        self.collection = Collection(settings, "upbit", "orderbook", self.sink, process)
        self.stage = self.collection.stage = make_stage(
            exchange("upbit"), "orderbook", settings, list(ENTRIES), self.sink
        )
        self.now = T0
        self.stage.on_connected(1, tuple(symbol for symbol, _ in ENTRIES), self.now)
        self.take("BTC", "ETH")

    def _open(self, subscription: Subscription) -> list[object]:
        self.opened.append(subscription.symbols)
        return []

    def take(self, *bases: str, halted: tuple[str, ...] = ()) -> None:
        self.now += 25 * SECOND_NS
        listings = [
            Listing(f"KRW-{base}", market_of_dashed(f"KRW-{base}"), base not in halted)
            for base in bases
        ]
        events = self.collection.market_list.update(listings)
        self.collection._follow(events, self.now)

    def frame(self, base: str) -> None:
        self.now += SECOND_NS
        self.stage.on_frame(book_frame(f"KRW-{base}", self.now), self.now, 1)

    def changes(self, market: str) -> list[str]:
        found = (one.json() for one in self.sink.messages if one.kind_name == "state")
        return [one["change"] for one in found if one["market"] == market and "change" in one]


def test_a_market_that_does_not_trade_yet_is_collected_once_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = Lists(monkeypatch)
    lists.take("BTC", "ETH", "NEW", halted=("NEW",))
    assert not lists.stage.collects("KRW-NEW")
    lists.take("BTC", "ETH", "NEW")
    assert lists.stage.collects("KRW-NEW")
    assert lists.opened == [("KRW-NEW",)]
    assert lists.changes("NEW/KRW") == ["listed", "listed"]


def test_an_incomplete_list_ends_no_market_that_brings_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = Lists(monkeypatch)
    for _ in range(5):
        lists.take("BTC")
        lists.frame("ETH")
    assert lists.stage.collects("KRW-ETH")
    # its subscription works: it needs no other one
    lists.take("BTC", "ETH")
    assert lists.opened == []
    assert lists.stage.states["ETH/KRW"] == "synced"
    # two lists without it, and no frame between them
    lists.take("BTC")
    lists.take("BTC")
    assert not lists.stage.collects("KRW-ETH")
    assert lists.changes("ETH/KRW") == ["delisted", "listed", "delisted", "delisted"]
    lists.take("BTC", "ETH")
    assert lists.opened == [("KRW-ETH",)]


def test_a_market_that_one_list_lacked_is_subscribed_again_when_it_was_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = Lists(monkeypatch)
    lists.frame("ETH")
    lists.take("BTC")
    lists.take("BTC", "ETH")
    assert lists.opened == [("KRW-ETH",)]
    assert lists.stage.collects("KRW-ETH")
    lists.take("BTC", "ETH")
    assert lists.opened == [("KRW-ETH",)]


def test_facts_follow_the_exchange_s_list(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = Lists(monkeypatch)
    facts = ListSink()
    stage = FactStage(exchange("upbit"), ENTRIES, facts, lambda: T0)
    lists.collection.facts = stage

    def markets() -> set[str]:
        facts.clear()
        # without an answer the facts are unknown after a while, and are published again
        for _ in range(120):
            lists.now += SECOND_NS
            stage.on_timer(lists.now)
        return {one.market for one in facts.messages}

    assert markets() == {"BTC/KRW", "ETH/KRW"}
    lists.take("BTC", "ETH", "NEW")
    assert markets() == {"BTC/KRW", "ETH/KRW", "NEW/KRW"}
    lists.take("BTC", "NEW")
    lists.take("BTC", "NEW")
    assert markets() == {"BTC/KRW", "NEW/KRW"}


def test_hundreds_of_listings_at_once_are_collected_and_a_part_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = Lists(monkeypatch)
    monkeypatch.setattr(collection_module, "EVENTS_LIMIT", 10)
    names = [f"N{number}" for number in range(300)]
    lists.take("BTC", "ETH", *names)
    assert lists.opened == [tuple(f"KRW-{name}" for name in names)]
    assert len(lists.stage.states) == 302
