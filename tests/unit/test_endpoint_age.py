"""Ages that the endpoint serves while clocks are wrong, and the bounds of its memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest

from coinspace._ext.message import AGGREGATE, HEARTBEAT, INDEX, ORDERBOOK, STATE, TICKER
from coinspace._ext.sink import ListSink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import Settings
from coinspace.endpoint.context import Context
from coinspace.endpoint.live import market
from coinspace.endpoint.live import state as live_module
from coinspace.endpoint.live.age import FUTURE_MS, stale_reason
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import TOPICS_KEPT, Latest, Live
from coinspace.endpoint.live.venues import venues
from coinspace.endpoint.routes.platform import reasons
from coinspace.method.aggregate import Aggregate, FxFacts, encode
from coinspace.method.record import decode

NOW_NS = 1_790_000_000 * SECOND_NS
HOUR_NS = 3600 * SECOND_NS
RECORD: dict[str, Any] = {
    "asset": "BTC",
    "status": "ok",
    "reason": None,
    "value": 100_000.0,
    "venues": {},
}


class Desk:
    """Live state with two clocks that the test sets, and a publisher."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ns = NOW_NS
        self.monotonic_ns = 7 * HOUR_NS
        monkeypatch.setattr(live_module, "monotonic_ns", lambda: self.monotonic_ns)
        monkeypatch.setattr(
            "coinspace.endpoint.live.venues.monotonic_ns", lambda: self.monotonic_ns
        )
        self.settings = Settings()
        self.live = Live(lambda: self.wall_ns, self.settings)
        hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="b")
        self.context = Context(
            self.settings, self.live, hub, cast(Any, _Database()), lambda: self.wall_ns, Path()
        )
        self.sink = ListSink(1, clock=lambda: self.wall_ns)

    def pass_time(self, seconds: float) -> None:
        self.wall_ns += int(seconds * SECOND_NS)
        self.monotonic_ns += int(seconds * SECOND_NS)

    def send(self, topic: str, kind: int, payload: Any, **header: int) -> None:
        self.sink.publish(self.sink.topic(topic.encode()), kind, payload, **header)
        self.live.on_message(self.sink.messages[-1])
        self.sink.clear()

    def all_kinds(self) -> None:
        """Send one message of each kind, stamped with the current wall clock."""
        for asset in self.settings.index.assets:
            record = {**RECORD, "asset": asset, "ts_ms": self.wall_ns // MILLISECOND_NS}
            self.send(f"index.{asset}.", INDEX, orjson.dumps(record))
        summed, _, _ = encode(Aggregate("BTC", self.wall_ns, [], FxFacts(), {}))
        self.send("aggregate.BTC.", AGGREGATE, summed)
        levels = np.array([1.0, 1.0, 2.0, 1.0])
        at = {"received_ns": self.wall_ns}
        self.send("orderbook.upbit.BTC/KRW.", ORDERBOOK, levels, n_bids=1, n_asks=1, **at)
        self.send("ticker.upbit.BTC/KRW.", TICKER, np.full(11, 5.0), flags=8, **at)

    def shown(self) -> dict[str, tuple[int, str | None]]:
        """Return the age and the stale reason of each kind of answer."""
        now, stale = self.context.now_ms(), self.context.stale_ms
        index = orjson.loads(self.live.indices["BTC"].body(now, stale))
        book = consolidated(self.context, "BTC", 5)
        venue_book = market.book(self.context, "upbit", "BTC/KRW", 5)
        assert book is not None
        assert venue_book is not None
        ticker = market.ticker(self.context, self.live.tickers["upbit", "BTC/KRW"])
        for one in (book, venue_book):
            assert one.stale == (one.stale_reason is not None)
        assert index["stale"] == (index["stale_reason"] is not None)
        assert ticker.status == ("ok" if ticker.stale_reason is None else "stale")
        return {
            "index": (index["age_ms"], index["stale_reason"]),
            "summed": (book.age_ms, book.stale_reason),
            "book": (venue_book.age_ms, venue_book.stale_reason),
            "ticker": (ticker.age_ms, ticker.stale_reason),
        }


class _Database:
    error = None


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    found = Desk(monkeypatch)
    found.all_kinds()
    return found


KINDS = ("index", "summed", "book", "ticker")


def test_new_values_are_not_stale(desk: Desk) -> None:
    desk.pass_time(0.5)
    assert desk.shown() == dict.fromkeys(KINDS, (500, None))
    assert reasons(desk.context) == []
    # hosts differ a little
    desk.wall_ns -= 700 * MILLISECOND_NS
    assert desk.shown() == dict.fromkeys(KINDS, (-200, None))


@pytest.mark.parametrize("back_s", [2, 7200, 9 * 3600])
def test_a_value_of_the_future_is_stale_with_its_negative_age(desk: Desk, back_s: int) -> None:
    desk.wall_ns -= back_s * SECOND_NS
    assert desk.shown() == dict.fromkeys(KINDS, (-1000 * back_s, "future"))
    (first, *_) = reasons(desk.context)
    assert "in the future" in first
    assert "clocks" in first
    shown = next(one for one in venues(desk.context).venues if one.venue == "upbit:BTC/KRW")
    assert (shown.state, shown.age_ms) == ("stale", -1000 * back_s)
    assert "future" in (shown.reason or "")
    # messages that are published from now on are fresh at once
    desk.all_kinds()
    assert desk.shown() == dict.fromkeys(KINDS, (0, None))
    assert reasons(desk.context) == []


def test_a_clock_that_is_set_back_makes_no_value_younger(desk: Desk) -> None:
    desk.pass_time(60)
    # by the wall clock the values are current
    desk.wall_ns -= 60 * SECOND_NS
    assert desk.shown() == dict.fromkeys(KINDS, (0, "silent"))
    assert "no new BTC index has arrived" in reasons(desk.context)[0]


def test_a_clock_that_jumps_forward_makes_what_was_published_before_it_old(desk: Desk) -> None:
    desk.wall_ns += HOUR_NS
    assert desk.shown() == dict.fromkeys(KINDS, (3_600_000, "old"))
    desk.all_kinds()
    assert desk.shown() == dict.fromkeys(KINDS, (0, None))


def test_limits_of_staleness() -> None:
    assert [stale_reason(age, 0, 3000) for age in (-FUTURE_MS - 1, -FUTURE_MS, 3000, 3001)] == [
        "future",
        None,
        None,
        "old",
    ]
    assert [stale_reason(0, heard, 3000) for heard in (3000, 3001)] == [None, "silent"]
    assert (
        orjson.loads(Latest(decode(orjson.dumps({**RECORD, "ts_ms": 5000}))).body(5000, 3000))[
            "age_ms"
        ]
        == 0
    )


def test_a_silent_collector_is_noticed_with_any_clock(desk: Desk) -> None:
    name = "orderbook-collector-upbit"
    desk.send(f"heartbeat.{name}.", HEARTBEAT, orjson.dumps({"process": name, "states": {}}))
    desk.pass_time(10)
    desk.wall_ns -= HOUR_NS
    shown = next(one for one in venues(desk.context).venues if one.venue == "upbit:BTC/KRW")
    assert (shown.state, shown.reason) == ("disconnected", "no heartbeat from its collector")


def test_topics_that_are_not_configured_are_not_kept(desk: Desk) -> None:
    live, settings = desk.live, desk.settings
    settings.exchanges["upbit"].markets = ["BTC/KRW", "*/USDT"]

    def kept() -> list[int]:
        names = ("indices", "aggregates", "books", "alive_ns", "updates", "tickers", "trades")
        more = ("states", "heard", "latencies", "_keys", "_stages")
        return [len(getattr(live, name)) for name in (*names, *more)]

    desk.send("orderbook.upbit.X1/USDT.", ORDERBOOK, np.array([1.0] * 4), n_bids=1, n_asks=1)
    assert ("upbit", "X1/USDT") in live.books
    before, refused = kept(), live.refused
    for number in range(200):
        record = {**RECORD, "asset": f"A{number}", "ts_ms": 1}
        desk.send(f"index.A{number}.", INDEX, orjson.dumps(record))
        desk.send(f"aggregate.A{number}.", AGGREGATE, b"")
        desk.send(f"ticker.upbit.X{number}/KRW.", TICKER, np.full(11, 5.0))
        desk.send(f"ticker.unknown{number}.BTC/KRW.", TICKER, np.full(11, 5.0))
    assert live.refused - refused == 800
    assert kept() == before
    # a topic of one market with the facts of another
    malformed = live.malformed
    state = {"exchange": "upbit", "market": "Y/KRW", "stream": "orderbook", "state": "synced"}
    desk.send("state.upbit.BTC/KRW.", STATE, orjson.dumps(state))
    desk.send("index.BTC.", INDEX, orjson.dumps({**RECORD, "asset": "EVIL", "ts_ms": 1}))
    desk.send("heartbeat.a.", HEARTBEAT, orjson.dumps({"process": "b"}))
    assert live.malformed - malformed == 3
    assert "EVIL" not in live.indices
    # the states of a heartbeat add no topic, either
    name = "orderbook-collector-upbit"
    states = {f"Z{number}/KRW": "synced" for number in range(500)} | {"BTC/KRW": "halted"}
    beat = orjson.dumps({"process": name, "states": states})
    desk.send(f"heartbeat.{name}.", HEARTBEAT, beat)
    assert set(live.states) == {("upbit", "BTC/KRW")}


def test_topics_are_bounded_even_where_a_pattern_lets_all_in(desk: Desk) -> None:
    desk.settings.exchanges["upbit"].markets = ["*"]
    for number in range(TOPICS_KEPT + 50):
        desk.send(f"ticker.upbit.X{number}/KRW.", TICKER, np.full(11, 5.0))
    assert len(desk.live.tickers) <= TOPICS_KEPT
    assert desk.live.refused >= 50
    assert len(desk.live._keys) <= TOPICS_KEPT
