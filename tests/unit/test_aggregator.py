"""The aggregator on made-up messages: content of ticks, facts of venues, late and odd messages."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import orjson
import pytest

from coinspace._ext.ladder import Ladder, VenueBook
from coinspace._ext.message import HEARTBEAT, ORDERBOOK, STATE
from coinspace._ext.sink import ListSink, Topic
from coinspace.aggregator.stage import WAITING_LIMIT, OrderbookAggregator
from coinspace.aggregator.venue import LOST_NS, Input
from coinspace.clock import MILLISECOND_NS, SECOND_NS, ClockSteps
from coinspace.config import Settings
from coinspace.method.aggregate import COMPOSITE, Aggregate, FxFacts, VenueFacts, decode, encode

START_NS = 1_700_000_000 * SECOND_NS
STEP_NS = 200 * MILLISECOND_NS
PRICES = {"upbit": 140_100_000.0, "bithumb": 140_110_000.0, "binance": 100_000.0}


class Bench:
    """An aggregator, its publishers and its last aggregate."""

    def __init__(
        self,
        *,
        heartbeats: bool = False,
        at_each: bool = False,
        coalesce: bool = False,
        clock: bool = False,
    ) -> None:
        settings = Settings()
        settings.index.assets = ["BTC"]
        if at_each:
            settings.index.interval_ms = 0
        self.aggregates: list[dict[str, Any]] = []
        self.stage = OrderbookAggregator(
            settings,
            on_aggregate=self._take,
            heartbeats=heartbeats,
            coalesce=coalesce,
            clock=(lambda: self.now_ns) if clock else None,
        )
        self.now_ns = START_NS
        self.sink = ListSink(1, clock=lambda: self.now_ns)

    def _take(self, aggregate: Aggregate) -> None:
        # the next tick overwrites its ladders
        bids, _, venues = aggregate.ladders[COMPOSITE].side_copy(0)
        self.aggregates.append(
            {
                "ts_ns": aggregate.ts_ns,
                "reasons": {one.exchange: one.reason for one in aggregate.venues},
                "bids": {one.exchange: one.bid for one in aggregate.venues},
                "received": {one.exchange: one.received_ns for one in aggregate.venues},
                "ladder": [aggregate.venues[i].exchange for i in venues],
                "best": bids[0] if len(bids) else None,
                "fx": aggregate.fx.rate,
            }
        )

    def book(self, exchange: str, at_ns: int, mid: float = 0.0, market: str = "") -> None:
        mid = mid or PRICES[exchange]
        market = market or ("BTC/USDT" if exchange == "binance" else "BTC/KRW")
        levels = np.array([[mid * 0.9999], [1.0]]), np.array([[mid * 1.0001], [1.0]])
        topic = self.sink.topic(f"orderbook.{exchange}.{market}.".encode())
        payload = np.concatenate([side.ravel() for side in levels])
        self._send(topic, ORDERBOOK, payload, n_bids=1, n_asks=1, received_ns=at_ns)

    def books(self, at_ns: int) -> None:
        for exchange in PRICES:
            self.book(exchange, at_ns)
            if exchange != "binance":
                self.book(exchange, at_ns, 1400.0, "USDT/KRW")

    def state(self, exchange: str, state: str, at_ns: int, market: str = "BTC/KRW") -> None:
        topic = self.sink.topic(f"state.{exchange}.{market}.".encode())
        facts = {"exchange": exchange, "market": market, "stream": "orderbook", "state": state}
        self._send(topic, STATE, orjson.dumps(facts), received_ns=at_ns)

    def heartbeat(
        self, exchange: str, at_ns: int, states: dict[str, str] | None = None, heard_ns: int = 0
    ) -> None:
        process = f"orderbook-collector-{exchange}"
        self.now_ns = at_ns
        facts = {"process": process, "states": states or {}}
        topic = self.sink.topic(f"heartbeat.{process}.".encode())
        self.sink.publish(topic, HEARTBEAT, orjson.dumps(facts))
        self.now_ns = heard_ns or at_ns
        self.stage.on_message(self.sink.messages[-1])

    def _send(self, topic: Topic, kind: int, payload: Any, **header: int) -> None:
        self.sink.publish(topic, kind, payload, **header)
        self.stage.on_message(self.sink.messages[-1])

    def tick(self, number: int, inputs: dict[str, Input] | None = None) -> dict[str, Any]:
        self.stage.tick(START_NS + number * STEP_NS, inputs)
        return self.aggregates[-1]


def test_usdt_in_usd_is_of_the_market_that_is_collected() -> None:
    settings = Settings()
    settings.index.assets = ["BTC"]
    assert not OrderbookAggregator(settings).dollar_venues
    settings.exchanges["coinbase"].markets = ["*/USD"]
    found: list[Aggregate] = []
    stage = OrderbookAggregator(settings, on_aggregate=found.append, heartbeats=False)
    assert [one.name for one in stage.dollar_venues] == ["coinbase:USDT/USD"]
    assert b"orderbook.coinbase.USDT/USD." in stage.topics
    sink = ListSink(1, clock=lambda: START_NS)
    levels = np.array([0.997, 100.0, 0.999, 100.0])
    for number, at_ns in enumerate((START_NS, START_NS + 1), 1):
        topic = sink.topic(b"orderbook.coinbase.USDT/USD.")
        sink.publish(topic, ORDERBOOK, levels, n_bids=1, n_asks=1, received_ns=at_ns)
        stage.on_message(sink.messages[-1])
        stage.tick(START_NS + (number - 1) * STEP_NS)
    last = decode(encode(found[-1])[0])
    assert last.dollar is not None
    assert last.dollar.rate == pytest.approx(0.998)
    assert last.dollar.status == "ok"
    assert [(one.name, one.received_ns) for one in last.fx_venues] == [
        *((f"{one}:USDT/KRW", 0) for one in ("bithumb", "upbit")),
        ("coinbase:USDT/USD", START_NS + 1),
    ]
    # a later process goes on from its memory
    later = OrderbookAggregator(settings, on_aggregate=found.append, heartbeats=False)
    later.restore(orjson.loads(orjson.dumps(stage.state())))
    later.tick(START_NS + 2 * STEP_NS)
    assert found[-1].dollar is not None
    assert (found[-1].dollar.rate, found[-1].dollar.status) == (last.dollar.rate, "held")


def test_a_recording_before_the_first_tick_leaves_out_what_was_late_in_it() -> None:
    bench = Bench()
    bench.books(START_NS)
    late_ns = START_NS + STEP_NS - 1
    bench.book("upbit", late_ns, 141_000_000)
    inputs = {"upbit:BTC/KRW": Input(START_NS, None)}
    bench.stage.absorb(START_NS + STEP_NS, inputs)
    assert bench.tick(1, inputs)["received"]["upbit"] == START_NS
    assert bench.tick(2, {"upbit:BTC/KRW": Input(late_ns, None)})["received"]["upbit"] == late_ns


def test_a_tick_contains_what_was_received_up_to_it() -> None:
    bench = Bench()
    bench.books(START_NS + STEP_NS)
    # received after the tick's time, although already queued
    bench.book("upbit", START_NS + STEP_NS + 1, 141_000_000)
    assert bench.tick(1)["bids"]["upbit"] == pytest.approx(140_100_000 * 0.9999)
    assert bench.tick(2)["bids"]["upbit"] == pytest.approx(141_000_000 * 0.9999)
    assert bench.aggregates[-1]["fx"] == pytest.approx(1400)
    assert set(bench.aggregates[-1]["ladder"]) == set(PRICES)
    # its tick is already published: it is counted, and part of the next tick
    bench.book("upbit", START_NS + 2 * STEP_NS, 142_000_000)
    assert bench.stage.counts["late"] == 1
    assert bench.tick(3)["bids"]["upbit"] == pytest.approx(142_000_000 * 0.9999)


def test_small_steps_of_the_clock_repeat_no_tick() -> None:
    bench = Bench()
    bench.books(START_NS)
    bench.tick(5)
    for number in (5, 4, 3):
        bench.tick(number)
    assert [one["ts_ns"] for one in bench.aggregates] == [START_NS + 5 * STEP_NS]
    assert (bench.stage.counts["ticks_repeated"], bench.stage.counts["clock_steps"]) == (3, 0)
    # a book received after the tick is no proof of life
    bench.book("upbit", START_NS + 10 * STEP_NS)
    assert bench.tick(6)["reasons"]["upbit"] is None
    assert bench.tick(60)["reasons"]["upbit"] == "delayed"


@pytest.mark.parametrize("back_s", [2, 3600, 86_400 * 365])
def test_ticks_go_on_at_once_when_the_clock_is_set_back(back_s: int) -> None:
    bench = Bench(heartbeats=True)
    bench.books(START_NS + STEP_NS)
    bench.heartbeat("upbit", START_NS + STEP_NS)
    bench.tick(1)
    # received, but later than the tick
    bench.book("upbit", START_NS + 2 * STEP_NS, 141_000_000.0)
    back = back_s * SECOND_NS // STEP_NS
    found = bench.tick(2 - back)
    assert found["ts_ns"] == START_NS + (2 - back) * STEP_NS
    # messages from before the step do not count, now or when their times come again
    assert found["reasons"] == dict.fromkeys(PRICES, "clock_stepped")
    assert found["fx"] is None
    assert bench.tick(1)["reasons"] == dict.fromkeys(PRICES, "clock_stepped")
    assert bench.stage.counts["clock_steps"] == 1
    # later messages count
    bench.books(START_NS + STEP_NS + 1)
    assert bench.tick(2)["reasons"] == dict.fromkeys(PRICES)
    assert bench.aggregates[-1]["fx"] == pytest.approx(1400)


@pytest.mark.parametrize(("off_s", "reason"), [(3, "clock"), (3600, "clock"), (-3600, "delayed")])
def test_a_wrong_clock_of_a_collector_excludes_only_its_venues(off_s: int, reason: str) -> None:
    bench = Bench()
    for number in range(1, 400):
        at_ns = START_NS + number * STEP_NS
        for exchange in PRICES:
            off_ns = off_s * SECOND_NS if exchange == "upbit" else 0
            bench.book(exchange, at_ns + off_ns)
            if exchange != "binance":
                bench.book(exchange, at_ns + off_ns, 1400.0, "USDT/KRW")
        found = bench.tick(number)
        assert found["reasons"] == {"upbit": reason, "bithumb": None, "binance": None}
        assert found["fx"] == pytest.approx(1400)
        assert bench.stage.counters()["waiting"] == 0
    assert bench.stage.counts["clock_ahead"] == (399 * 2 if off_s > 0 else 0)
    # its clock is corrected
    bench.books(START_NS + 400 * STEP_NS)
    assert bench.tick(400)["reasons"] == dict.fromkeys(PRICES)


@pytest.mark.parametrize("off_s", [-3600, -6, -4.9, -3, -2.4, 2.4, 3, 3600])
def test_a_heartbeat_shows_a_wrong_clock_of_a_collector(off_s: float) -> None:
    bench = Bench(heartbeats=True)
    lead = 'clock_lead_ms{publisher="orderbook-collector-upbit"}'
    off_ns = int(off_s * SECOND_NS)
    for number in range(1, 50):
        at_ns = START_NS + number * STEP_NS
        bench.books(at_ns)
        for exchange in PRICES:
            by_ns = off_ns if exchange == "upbit" else 0
            bench.heartbeat(exchange, at_ns + by_ns, {"BTC/KRW": "synced"})
        found = bench.tick(number)
        assert found["reasons"] == {"upbit": "clock", "bithumb": None, "binance": None}
    assert bench.stage.counters()[lead] == off_ns // MILLISECOND_NS
    # heartbeats count from their arrival: a dead collector whose clock is ahead is detected
    number = 50 + LOST_NS // STEP_NS
    for exchange in ("bithumb", "binance"):
        bench.heartbeat(exchange, START_NS + number * STEP_NS)
    bench.books(START_NS + number * STEP_NS)
    assert bench.tick(number)["reasons"]["upbit"] == "disconnected"
    bench.heartbeat("upbit", START_NS + number * STEP_NS, {"BTC/KRW": "synced"})
    assert bench.tick(number + 1)["reasons"]["upbit"] is None
    assert bench.stage.counters()[lead] == -STEP_NS // MILLISECOND_NS


@pytest.mark.parametrize("at_each", [False, True])
@pytest.mark.parametrize("off_s", [-1.9, -1, 0, 1, 1.9])
def test_a_slightly_wrong_clock_does_not_make_a_collector_silent(
    off_s: float, at_each: bool
) -> None:
    bench = Bench(heartbeats=True, at_each=at_each, clock=True)
    lead = 'clock_lead_ms{publisher="orderbook-collector-upbit"}'
    off_ns = int(off_s * SECOND_NS)
    # a heartbeat each second, books all the time
    for number in range(1, 50):
        at_ns = START_NS + number * STEP_NS
        if number % 5 == 1:
            for exchange in PRICES:
                by_ns = off_ns if exchange == "upbit" else 0
                bench.heartbeat(exchange, at_ns + by_ns, {"BTC/KRW": "synced"}, at_ns)
        bench.now_ns = at_ns
        for exchange in PRICES:
            by_ns = off_ns if exchange == "upbit" else 0
            bench.book(exchange, at_ns + by_ns)
            if exchange != "binance":
                bench.book(exchange, at_ns + by_ns, 1400.0, "USDT/KRW")
        if not at_each:
            bench.tick(number)
        # a book that is ahead counts from its time
        if number > 10:
            assert bench.aggregates[-1]["reasons"]["upbit"] is None
    # on a grid a heartbeat that is ahead waits for its tick, as books do
    waits = off_ns > 0 and not at_each
    assert waits or bench.stage.counters()[lead] == off_ns // MILLISECOND_NS


@pytest.mark.parametrize("off_s", [-4.9, -2.4, 2.4])
def test_at_interval_0_a_heartbeat_is_compared_with_the_aggregators_clock(off_s: float) -> None:
    bench = Bench(heartbeats=True, at_each=True, clock=True)
    for number in range(1, 50):
        at_ns = START_NS + number * STEP_NS
        off_ns = int(off_s * SECOND_NS)
        bench.heartbeat("upbit", at_ns + off_ns, {"BTC/KRW": "synced"}, at_ns)
        bench.book("upbit", at_ns + off_ns)
        bench.book("binance", at_ns)
        assert bench.aggregates[-1]["reasons"]["upbit"] == "clock"


def test_messages_that_wait_for_their_tick_are_bounded() -> None:
    bench = Bench()
    bench.books(START_NS)
    bench.tick(1)
    for number in range(WAITING_LIMIT + 500):
        # no tick comes
        bench.book("upbit", START_NS + 2 * STEP_NS + number, 141_000_000.0 + number)
    assert bench.stage.counters()["waiting"] == WAITING_LIMIT
    assert bench.stage.counts["waiting_overflow"] == 500
    assert bench.tick(2 + 1)["bids"]["upbit"] == pytest.approx(
        (141_000_000 + WAITING_LIMIT + 499) * 0.9999
    )
    assert bench.stage.counters()["waiting"] == 0


def test_at_interval_0_a_wrong_clock_moves_no_tick() -> None:
    bench = Bench(at_each=True, clock=True)
    for number in range(1, 20):
        bench.now_ns = START_NS + number * SECOND_NS
        bench.book("upbit", bench.now_ns + 3600 * SECOND_NS)
        bench.book("bithumb", bench.now_ns - 3600 * SECOND_NS)
        bench.book("binance", bench.now_ns)
        assert bench.aggregates[-1]["ts_ns"] - bench.now_ns in range(10)
        assert bench.aggregates[-1]["reasons"]["upbit"] == "clock"
        assert bench.aggregates[-1]["reasons"]["bithumb"] == "delayed"
    bench.stage.clock_stepped()
    bench.now_ns -= 7200 * SECOND_NS
    bench.book("binance", bench.now_ns)
    assert bench.aggregates[-1]["ts_ns"] == bench.now_ns


def test_the_wall_clock_is_compared_with_the_monotonic_one() -> None:
    wall, monotonic = [START_NS], [0]

    def on(wall_ns: int, monotonic_ns: int) -> int:
        wall[0] += wall_ns
        monotonic[0] += monotonic_ns
        return steps.look()

    steps = ClockSteps(lambda: wall[0], lambda: monotonic[0])
    # an hour of work; the clock loses 0.1 s at each check
    assert [on(1000, 1000), on(3600 * SECOND_NS, 3600 * SECOND_NS)] == [0, 0]
    assert [on(SECOND_NS, SECOND_NS + 10**8) for _ in range(20)] == [0] * 20
    assert on(-3599 * SECOND_NS, SECOND_NS) == -3600 * SECOND_NS
    assert on(SECOND_NS, SECOND_NS) == 0
    assert on(3 * SECOND_NS, SECOND_NS) == 2 * SECOND_NS


def test_at_interval_0_each_update_is_a_tick() -> None:
    bench = Bench(at_each=True)
    bench.books(START_NS)
    # received at one instant: ticks of one asset have different times
    assert [one["ts_ns"] for one in bench.aggregates] == [START_NS + i for i in range(5)]
    bench.book("upbit", START_NS + STEP_NS)
    bench.state("upbit", "halted", START_NS + STEP_NS)
    bench.book("upbit", START_NS + STEP_NS, 1.0, "DOGE/KRW")
    assert bench.aggregates[5:] == [bench.aggregates[-1]]
    assert bench.aggregates[-1]["ts_ns"] == START_NS + STEP_NS
    assert bench.stage.counts["unknown_markets"] == 1
    assert bench.stage.counts["coalesced"] == 0


def test_waiting_updates_make_one_tick_of_the_newest_state() -> None:
    bench = Bench(at_each=True, coalesce=True)
    bench.books(START_NS)
    for i in range(50):
        bench.book("upbit", START_NS + i, 140_000_000 + i)
    # from another connection, and older
    bench.book("binance", START_NS + 20)
    assert bench.aggregates == []
    bench.stage.flush()
    bench.stage.flush()
    (tick,) = bench.aggregates
    assert tick["ts_ns"] == START_NS + 49
    assert tick["bids"]["upbit"] == pytest.approx(140_000_049 * 0.9999, abs=0)
    assert tick["received"]["binance"] == START_NS + 20
    assert tick["reasons"] == dict.fromkeys(("binance", "bithumb", "upbit"))
    assert (bench.stage.counts["ticks"], bench.stage.counts["coalesced"]) == (1, 55)
    # a late update is part of the next tick, which has a later time
    bench.book("bithumb", START_NS + 10)
    bench.stage.flush()
    assert bench.aggregates[-1]["ts_ns"] == START_NS + 50


def test_a_venue_appears_while_the_others_run() -> None:
    bench = Bench()
    for exchange in ("bithumb", "binance"):
        bench.book(exchange, START_NS)
    bench.book("bithumb", START_NS, 1400.0, "USDT/KRW")
    assert bench.tick(1)["reasons"] == {"binance": None, "bithumb": None, "upbit": "disconnected"}
    bench.book("upbit", START_NS + STEP_NS)
    assert bench.tick(2)["reasons"]["upbit"] is None
    # a market that is not configured
    bench.book("upbit", START_NS, 1.0, "DOGE/KRW")
    bench.tick(3)
    assert bench.stage.counts["unknown_markets"] == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("synced", None),
        ("stale", None),
        ("connecting", "disconnected"),
        ("disconnected", "disconnected"),
        ("subscribed", "resyncing"),
        ("buffering", "resyncing"),
        ("quarantined", "resyncing"),
        ("halted", "halted"),
        ("a word of tomorrow", "resyncing"),
    ],
)
def test_a_collectors_state_becomes_a_reason(state: str, reason: str | None) -> None:
    bench = Bench()
    bench.books(START_NS)
    bench.state("upbit", state, START_NS + 1)
    bench.state("binance", "disconnected", START_NS + 1, "BTC/USDT")
    reasons = bench.tick(1)["reasons"]
    assert reasons == {"upbit": reason, "bithumb": None, "binance": "disconnected"}
    # another market's state changes nothing
    bench.state("upbit", "synced", START_NS + 2)
    bench.state("upbit", "halted", START_NS + 3, "ETH/KRW")
    assert bench.tick(2)["reasons"]["upbit"] is None


def test_two_missing_heartbeats_disconnect_a_collector() -> None:
    bench = Bench(heartbeats=True)
    bench.books(START_NS)
    bench.heartbeat("upbit", START_NS, {"BTC/KRW": "synced"})
    # no heartbeat yet: judged by its books
    assert bench.tick(1)["reasons"] == dict.fromkeys(("binance", "bithumb", "upbit"))
    # its arrival counts, and it had arrived by that tick
    number = LOST_NS // STEP_NS + 2
    bench.books(START_NS + 2 * SECOND_NS)
    assert bench.tick(number - 1)["reasons"]["upbit"] is None
    reasons = bench.tick(number)["reasons"]
    assert reasons == {"binance": None, "bithumb": None, "upbit": "disconnected"}
    bench.heartbeat("upbit", START_NS + number * STEP_NS, {"BTC/KRW": "synced"})
    assert bench.tick(number + 1)["reasons"]["upbit"] is None
    # a heartbeat contains states too
    bench.heartbeat("upbit", START_NS + number * STEP_NS, {"BTC/KRW": "halted"})
    assert bench.tick(number + 2)["reasons"]["upbit"] == "halted"


def test_an_operators_exclusion_comes_first() -> None:
    bench = Bench()
    bench.books(START_NS)
    bench.state("upbit", "disconnected", START_NS)
    venue = bench.stage.venues["upbit", "BTC/KRW"]
    venue.excluded = True
    assert bench.tick(1)["reasons"]["upbit"] == "operator"
    venue.excluded = False
    assert bench.tick(2)["reasons"]["upbit"] == "disconnected"


def test_a_tick_is_made_again_from_its_record() -> None:
    bench = Bench()
    bench.books(START_NS)
    moved_ns = START_NS + STEP_NS - 1
    bench.book("upbit", moved_ns, 141_000_000)
    # after it in the same connection, so late too
    bench.state("upbit", "halted", moved_ns)
    seen = Input(START_NS, None)
    found = bench.tick(1, {"upbit:BTC/KRW": seen, "binance:BTC/USDT": Input(START_NS, "operator")})
    assert found["received"]["upbit"] == START_NS
    assert found["reasons"] == {"upbit": None, "bithumb": None, "binance": "operator"}
    found = bench.tick(2, {"upbit:BTC/KRW": Input(moved_ns, None)})
    assert found["received"]["upbit"] == moved_ns
    assert found["reasons"]["upbit"] == "halted"
    # an aggregator that had just started had no book of it
    bench.book("bithumb", START_NS + 2 * STEP_NS)
    found = bench.tick(3, {"bithumb:BTC/KRW": Input(0, "delayed")})
    assert found["reasons"]["bithumb"] == "delayed"
    assert found["bids"]["bithumb"] is None
    found = bench.tick(4, {"bithumb:BTC/KRW": Input(START_NS + 2 * STEP_NS, None)})
    assert found["reasons"]["bithumb"] is None
    # this is no evidence about the connection's other markets
    bench.book("bithumb", START_NS + 4 * STEP_NS + 1)
    bench.book("bithumb", START_NS + 4 * STEP_NS + 2, 1390.0, "USDT/KRW")
    rates = Input(START_NS + 4 * STEP_NS + 2, None)
    unseen = {"bithumb:BTC/KRW": Input(0, "disconnected"), "bithumb:USDT/KRW": rates}
    found = bench.tick(5, {**unseen, "upbit:USDT/KRW": Input(0, "disconnected")})
    assert found["fx"] == pytest.approx(1390)
    found = bench.tick(6, {"bithumb:BTC/KRW": Input(START_NS + 4 * STEP_NS + 1, None)})
    assert found["received"]["bithumb"] == START_NS + 4 * STEP_NS + 1
    # without a record, messages apply by their times
    assert bench.tick(7)["reasons"] == {"upbit": "halted", "bithumb": None, "binance": "operator"}


def test_messages_before_the_first_tick_do_not_wait_for_it() -> None:
    bench = Bench()
    for i in range(100):
        bench.book("upbit", START_NS + i)
        bench.stage.absorb(START_NS + i)
    assert bench.stage.counters()["waiting"] == 0
    assert bench.aggregates == []
    assert bench.tick(1)["received"]["upbit"] == START_NS + 99


def test_an_aggregate_survives_the_bus() -> None:
    book = VenueBook()
    book.load(np.array([[99.0, 98.0], [1.0, 2.0]]), np.array([[101.0], [3.0]]))
    ladder = Ladder()
    ladder.merge([book], [1.0])
    facts = VenueFacts("upbit:BTC/KRW", "upbit", "BTC/KRW", "KR", "KRW", fx=1400.0, bid=99.0)
    fx = FxFacts(None, "none", {"upbit:USDT/KRW": "deviating"}, ["x"], {}, 1399.5)
    payload, n_bids, n_asks = encode(
        Aggregate("BTC", START_NS, [facts], fx, {COMPOSITE: ladder}, 1380.0, [facts])
    )
    assert (n_bids, n_asks) == (2, 1)
    found = decode(payload, epoch=3, sequence=4)
    assert (found.asset, found.ts_ns, found.usd_krw) == ("BTC", START_NS, 1380.0)
    assert (found.epoch, found.sequence) == (3, 4)
    assert found.venues == [facts]
    assert (found.fx, found.fx_venues) == (fx, [facts])
    for side in (0, 1):
        ours, theirs = ladder.side_copy(side), found.ladders[COMPOSITE].side_copy(side)
        assert [ours[i].tolist() for i in range(3)] == [theirs[i].tolist() for i in range(3)]


def test_at_each_update_the_rates_memory_stays_small() -> None:
    bench = Bench(at_each=True)
    bench.books(START_NS)
    ms = MILLISECOND_NS
    for i in range(1, 20_001):
        # an update of any market is a tick of the rate
        bench.stage.fx.update(START_NS + i * ms // 2, *_fx_of(bench, START_NS + i * ms // 2))
    window = bench.stage.state()["fx"]["window"]
    # ten seconds, ten rates in each
    assert 95 <= len(window) <= 101
    assert all(later[0] - before[0] >= 100 * ms for before, later in itertools.pairwise(window))
    # a jump is still detected at once
    bench.book("upbit", START_NS + 10_001 * ms, 1500.0, "USDT/KRW")
    bench.book("bithumb", START_NS + 10_001 * ms, 1500.0, "USDT/KRW")
    fx = bench.stage.fx.update(START_NS + 10_002 * ms, *_fx_of(bench, START_NS + 10_002 * ms))
    assert fx.rate == pytest.approx(1400)
    assert fx.status == "suspect"
    # on a grid every tick's rate counts
    grid = Bench()
    for number in range(1, 51):
        grid.books(START_NS + number * STEP_NS)
        grid.tick(number)
    assert len(grid.stage.state()["fx"]["window"]) == 50


def _fx_of(bench: Bench, ts_ns: int) -> tuple[list[VenueFacts], list[VenueBook]]:
    venues = bench.stage.fx_venues
    return [one.facts(ts_ns, 60 * SECOND_NS, 1.0) for one in venues], [one.book for one in venues]


def test_the_rates_memory_survives_a_restart() -> None:
    bench, twin = Bench(), Bench()
    for number in range(1, 20):
        for one in (bench, twin):
            at_ns = START_NS + number * STEP_NS
            one.book("upbit", at_ns, 1400.0, "USDT/KRW")
            # flagged at the first tick, and within the limit but not within half of it later
            one.book("bithumb", at_ns, 1420.0 if number == 1 else 1410.0, "USDT/KRW")
            one.tick(number)
    state = orjson.loads(orjson.dumps(bench.stage.state()))
    restarted = Bench()
    restarted.stage.restore(state)
    assert restarted.stage.fx.filter.flags == {"bithumb:USDT/KRW", "upbit:USDT/KRW"}
    for number in range(20, 400):
        found = []
        for one in (twin, restarted):
            at_ns = START_NS + number * STEP_NS
            # an unchanged book would be frozen a minute after the restart
            one.book("upbit", at_ns, 1400.0 + number % 2 / 1000, "USDT/KRW")
            one.book("bithumb", at_ns, 1410.0 if number < 30 else 1405.0, "USDT/KRW")
            found.append(one.tick(number)["fx"])
        assert found[0] == found[1], number
    assert found[0] == pytest.approx(1402, rel=1e-3)
