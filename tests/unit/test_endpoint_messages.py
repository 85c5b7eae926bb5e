"""The endpoint refuses messages of the bus that are not as its processes write them."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest

from coinspace._ext.message import AGGREGATE, FACT, HEARTBEAT, INDEX, STATE
from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.live.channel_state import state
from coinspace.endpoint.live.feeder import Feeder
from coinspace.endpoint.live.hub import Channel
from coinspace.endpoint.live.premium_stats import PremiumStats
from coinspace.endpoint.live.venues import venues
from coinspace.endpoint.routes.catalog import MarketsQuery, assets, markets
from coinspace.exchanges.facts import Facts, Notice, encode_facts
from coinspace.text import LIMIT
from tests.unit.test_endpoint_age import RECORD, Desk

VENUE = {"exchange": "upbit", "market": "BTC/KRW"}


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    found = Desk(monkeypatch)
    found.all_kinds()
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"state": 1},
        {"state": ["synced"]},
        {"state": "synced", "since_ns": "soon"},
        {"state": "synced", "since_ns": 1.5},
        {"state": "synced", "reason": {"a": 1}},
        {},
    ],
    ids=str,
)
def test_a_state_with_fields_of_another_type_is_counted(desk: Desk, fields: Any) -> None:
    desk.send("state.upbit.BTC/KRW.", STATE, orjson.dumps({**VENUE, **fields}))
    assert desk.live.malformed == 1
    assert encode(venues(desk.context))


def test_a_heartbeat_with_states_of_another_type_is_counted(desk: Desk) -> None:
    name = "orderbook-collector-upbit"
    beat = {"process": name, "states": {"BTC/KRW": ["x"], "ETH/KRW": "synced"}}
    desk.send(f"heartbeat.{name}.", HEARTBEAT, orjson.dumps(beat))
    assert desk.live.refused == 1
    assert desk.live.states["upbit", "ETH/KRW"]["state"] == "synced"


@pytest.mark.parametrize("payload", [b"[]", b'{"deposit":"ajar"}', b'{"flags":[1]}', b"x" * 70_000])
async def test_facts_of_another_form_are_counted_and_the_last_ones_stay(
    desk: Desk, payload: bytes
) -> None:
    topic = "fact.upbit.BTC/KRW."
    facts = Facts(deposit="open", notices=(Notice(1, "a", "b", "c"),), delisting="2027-01-05")
    desk.send(topic, FACT, encode_facts(facts), received_ns=desk.wall_ns)
    desk.send(topic, FACT, payload)
    assert desk.live.malformed == 1
    answer = await markets(desk.context, cast(Any, None), MarketsQuery(exchange="upbit"))
    listed = orjson.loads(cast(Any, answer.content).body)["markets"]
    found = {one["market"]: one["facts"] for one in listed}
    shown = found["BTC/KRW"]
    assert (shown["deposit"], shown["withdraw"]) == ("open", "unknown")
    assert (shown["ts"], shown["delisting"]) == (desk.wall_ns // MILLISECOND_NS, "2027-01-05")
    assert shown["notices"] == [{"ts": 1, "category": "a", "title": "b", "url": "c"}]
    assert (found["ETH/KRW"]["ts"], found["ETH/KRW"]["notices"]) == (None, None)


@pytest.mark.parametrize("market", ["a/b/KRW", "btc/KRW", "/KRW", "\x1b/KRW", "A" * 1000 + "/KRW"])
async def test_a_market_with_an_impossible_name_is_counted(desk: Desk, market: str) -> None:
    """A pattern of the settings would match it, and each list of markets would fail."""
    desk.settings.exchanges["upbit"].markets.append("*/KRW")
    name = "orderbook-collector-upbit"
    beat = {"process": name, "states": {market: "synced"}}
    desk.send(f"heartbeat.{name}.", HEARTBEAT, orjson.dumps(beat))
    assert desk.live.refused == 1
    request = cast(Any, None)
    assert (await assets(desk.context, request, None)).status == 200
    assert (await markets(desk.context, request, MarketsQuery())).status == 200


def test_many_changes_of_state_make_one_table_of_venues(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost connection changes the states of hundreds of markets, of which each made a table."""
    monkeypatch.setattr("coinspace.endpoint.live.feeder.monotonic_ns", lambda: 0)
    Feeder(desk.context)
    desk.context.hub.channels["venues"] = Channel(1)
    for since in range(100):
        known = {**VENUE, "state": "stale", "since_ns": since}
        desk.send("state.upbit.BTC/KRW.", STATE, orjson.dumps(known))
    assert desk.context.hub.events == 1


def test_a_reason_is_cut(desk: Desk) -> None:
    long = {**VENUE, "state": "stale", "reason": "x" * (1 << 20), "since_ns": None}
    desk.send("state.upbit.BTC/KRW.", STATE, orjson.dumps(long))
    assert len(desk.live.states["upbit", "BTC/KRW"]["reason"]) == LIMIT


def test_a_summed_book_that_cannot_be_read_is_counted_and_dropped(desk: Desk) -> None:
    Feeder(desk.context)
    desk.context.hub.channels["book.BTC"] = Channel(1)
    desk.send("aggregate.BTC.", AGGREGATE, b"\xff" * 8)
    assert desk.live.malformed == 1
    assert consolidated(desk.context, "BTC", 50) is None
    assert state(desk.context, "book.BTC") is None
    assert desk.live.malformed == 1


def test_a_record_of_the_future_does_not_keep_a_minute_of_the_premium(desk: Desk) -> None:
    stats = PremiumStats(desk.live, ["BTC"])
    now_ms = desk.wall_ns // MILLISECOND_NS
    # ten days later is the same place of the ring
    for ts_ms, premium in ((now_ms + 10 * 86_400_000, 0.5), (now_ms, 0.01)):
        parts = {"a": None, "b": premium, "c": None}
        record = {**RECORD, "ts_ms": ts_ms, "premium_parts": parts}
        desk.send("index.BTC.", INDEX, orjson.dumps(record))
    found = stats.of("BTC")["coin"].day()
    assert found is not None
    assert (found.minutes, found.high) == (1, "0.01")


@pytest.mark.parametrize("ts", ["1e308", "1" * 30, "-1", "1e999", '"x"', "null", "[]"])
def test_a_record_of_an_impossible_time_is_counted(desk: Desk, ts: str) -> None:
    record = orjson.dumps({**RECORD, "ts_ms": 0}).replace(b'"ts_ms":0', b'"ts_ms":%b' % ts.encode())
    desk.send("index.BTC.", INDEX, record)
    assert desk.live.malformed == 1
    assert state(desk.context, "index.BTC")
