"""USD/KRW: what sources answer, the rules of the rate, and the way into an index record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from coinspace._ext.message import RATE, REPEAT, Message
from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.aggregator.venue import Input
from coinspace.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from coinspace.config import HostSettings, RatesSettings, Settings, load
from coinspace.errors import ConfigError, MessageError
from coinspace.method.aggregate import Aggregate, decode, encode
from coinspace.method.record import IndexRecord
from coinspace.method.reference import (
    HOLD_NS,
    USD_KRW,
    Quotation,
    Reference,
    ReferenceFacts,
    decode_quotation,
)
from coinspace.method.siblings import premium
from coinspace.rates import poller as polling
from coinspace.rates.poller import Poller
from coinspace.rates.replay import RateReplay
from coinspace.rates.sources import SOURCES, RefusedError
from coinspace.rates.stage import RateStage
from coinspace.recompute.commands import reproducible
from coinspace.recompute.feeds import from_feeds
from coinspace.recording.format import FeedWriter, Record
from coinspace.simulator.rates import FORMS, SIMULATED_SOURCES, SimulatedRates
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulated_feed import write_feeds
from tests.waiting import free_port

LIVE = ("dunamu", "naver", "yahoo")


def at(text: str) -> int:
    """Return an instant of Seoul in ns."""
    return int(datetime.fromisoformat(f"{text}+09:00").timestamp()) * SECOND_NS


# a Tuesday in the banks' hours
NOON = at("2026-12-01T12:00:00")


def quotation(source: str, rate: float, at_ns: int = NOON, *, heard_ns: int = 0) -> Quotation:
    return Quotation(source, rate, at_ns, heard_ns or at_ns, SOURCES[source].daily)


def reference(*given: Quotation, sources: tuple[str, ...] = SIMULATED_SOURCES) -> Reference:
    found = Reference(sources)
    for one in given:
        assert found.take(one)
    return found


def shown(found: ReferenceFacts) -> tuple[float | None, str, str | None]:
    return found.rate, found.status, found.source


# answers


def test_recorded_answers_are_read(feeds: Path) -> None:
    folder = feeds / "frames-more"
    answers = (folder / "fx_usdkrw.ndjson").read_bytes().splitlines()
    names = {"koreaexim": "eximbank"}
    read = refused = 0
    for line in (folder / "expected.ndjson").read_bytes().splitlines():
        one = orjson.loads(line)
        if one["file"] != "fx_usdkrw.ndjson":
            continue
        expected = one["expected"]
        name = names.get(expected["source"], expected["source"])
        if name not in SOURCES:
            continue
        payload, path = answers[one["line"] - 1], "/x?searchdate=20260803&data=AP01"
        if expected["type"] != "fx":
            with pytest.raises(RefusedError, match=r"empty|no_data"):
                SOURCES[name].quotation(payload, path, NOON)
            refused += 1
            continue
        found = SOURCES[name].quotation(payload, path, NOON)
        assert found.rate == float(expected["rate"])
        if "observed_ms" in expected:
            assert found.observed_ns == expected["observed_ms"] * 1_000_000
        assert found.round == expected.get("round", 0)
        read += 1
    assert (read, refused) == (8, 3)


def test_requests_ask_for_days_that_have_a_rate() -> None:
    asked: Callable[[str], str] = lambda text: SOURCES["eximbank"].path("K", at(text))  # noqa: E731
    # the day's rate comes at 11:00; Saturday and Sunday have none
    assert "searchdate=20261130" in asked("2026-12-01T10:59:59")
    assert "searchdate=20261201" in asked("2026-12-01T11:00:00")
    assert "searchdate=20261204" in asked("2026-12-06T20:00:00")
    assert "searchdate=20261204" in asked("2026-12-07T09:00:00")
    assert "/K/json/kr/1/15/731Y001/D/20261117/20261201/0000001" in SOURCES["ecos"].path("K", NOON)


# forms that are valid for a source
ACCEPTED = {("comma", "naver")}
REASONS = {
    **dict.fromkeys(("html", "nothing", "truncated", "nan"), ("not_json",)),
    **dict.fromkeys(("empty", "object", "missing", "null", "true"), ("shape", "empty")),
    **dict.fromkeys(("yen", "infinite", "negative", "zero"), ("implausible", "shape")),
    **dict.fromkeys(("comma", "text"), ("number",)),
    "yesterday": ("older",),
}


@pytest.mark.parametrize("form", sorted(REASONS))
async def test_a_bad_answer_is_counted_and_changes_nothing(form: str) -> None:
    simulated, sink = SimulatedRates(lambda: NOON), ListSink(1)
    stage = RateStage(RatesSettings(sources=list(SIMULATED_SOURCES)), sink)
    for source in SIMULATED_SOURCES:
        answer = await simulated.get(source)
        assert stage.on_answer(source, answer.body, "", NOON)
    before = stage.look(NOON)
    assert shown(before) == (1329.5, "ok", "dunamu")
    sink.clear()
    for source in SIMULATED_SOURCES:
        answer = await simulated.get(source, form)
        taken = stage.on_answer(source, answer.body, "", NOON)
        assert taken == ((form, source) in ACCEPTED), source
        if not taken:
            ((_, reason),) = (key for key in stage.refused if key[0] == source)
            assert reason in REASONS[form], source
            # the health file says why
            assert any(one.startswith(f"{source} gives no") for one in stage.problems()) or (
                source == "frankfurter" and reason == "empty"
            )
    assert len(sink.messages) == sum(one[0] == form for one in ACCEPTED)
    assert shown(stage.look(NOON)) == shown(before)
    assert stage.counters(NOON)["usd_krw"] == 1329.5


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("currencyUnit", 100, "unit"),
        ("currencyUnit", True, "unit"),
        ("currencyCode", "JPY", "unit"),
        ("code", "FRX.KRWJPY", "unit"),
        ("basePrice", True, "shape"),
        ("basePrice", [1330], "shape"),
        ("recurrenceCount", -1, "shape"),
        ("recurrenceCount", 1 << 70, "shape"),
        ("date", "2026-13-01", "shape"),
        ("date", None, "shape"),
        ("time", "noon", "shape"),
        ("date", "2026-12-02", "future"),
        ("date", "9999-12-31", "future"),
        ("date", "0001-01-01", "future"),
    ],
)
async def test_a_wrong_field_is_named(field: str, value: Any, reason: str) -> None:
    (body,) = orjson.loads((await SimulatedRates(lambda: NOON).get("dunamu")).body)
    try:
        text = orjson.dumps([body | {field: value}])
    except TypeError:
        text = orjson.dumps([body | {field: 0}]).replace(b'Count":0', b'Count":%d' % value)
    with pytest.raises(RefusedError) as refused:
        SOURCES["dunamu"].quotation(text, "", NOON)
    assert refused.value.reason == reason


def test_a_round_that_goes_back_is_refused() -> None:
    stage = RateStage(RatesSettings(sources=["dunamu"]), ListSink(1))

    def answer(day: str, time: str, number: int, rate: float = 1330.0) -> bytes:
        fields = {"date": day, "time": time, "recurrenceCount": number, "basePrice": rate}
        same = {"code": "FRX.KRWUSD", "currencyCode": "USD", "currencyUnit": 1}
        return orjson.dumps([same | fields])

    def take(*given: Any) -> bool:
        return stage.on_answer("dunamu", answer(*given), "", NOON + DAY_NS)

    assert take("2026-12-01", "11:59:00", 200)
    assert not take("2026-12-01", "11:58:00", 201)
    assert not take("2026-12-01", "11:59:00", 199)
    assert stage.refused == {("dunamu", "older"): 1, ("dunamu", "round"): 1}
    # a correction of the same round, and the first round of the next day
    assert take("2026-12-01", "11:59:00", 200, 1329.5)
    assert take("2026-12-02", "09:00:00", 1)


async def test_every_fault_of_a_connection_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "TIMEOUT_S", 0.5)
    recorded: list[str] = []
    async with ExchangeServer() as server, asked(server, recorded) as (stage, ask):
        for form, reason in (
            ("hang", "timeout"),
            ("redirect", "redirect"),
            ("429", "busy"),
            ("500", "status"),
            ("huge", "oversized"),
        ):
            fault = server.disorder.add(f"rate:dunamu:form={form}")
            wait_s = await ask("dunamu")
            assert stage.refused.pop(("dunamu", reason)) == 1, form
            assert wait_s == (1.0 if form == "429" else 0.0)
            server.disorder.remove(fault.id)
        assert not stage.refused
        assert not recorded
        assert await ask("dunamu") == 0.0
        assert recorded == ["/dunamu/v1/forex/recent?codes=FRX.KRWUSD"]
        assert not stage.failing
        assert await ask("naver") == 0.0
        assert stage.refused == {("naver", "unreachable"): 1}


def asked(server: ExchangeServer, recorded: list[str]) -> Any:
    nobody = {"naver": f"http://127.0.0.1:{free_port()}"}
    settings = RatesSettings(sources=list(SIMULATED_SOURCES), urls=server.rate_urls | nobody)

    class Asked:
        async def __aenter__(self) -> tuple[RateStage, Callable[[str], Any]]:
            stage = RateStage(settings, ListSink(1))
            self.poller = Poller(settings, stage, lambda _, path, body: recorded.append(path))
            return stage, self.poller.ask

        async def __aexit__(self, *error: object) -> None:
            await self.poller.close()

    return Asked()


async def test_a_key_is_never_recorded_or_shown() -> None:
    recorded: list[str] = []
    async with ExchangeServer() as server:
        settings = RatesSettings(
            sources=["ecos"],
            urls={"ecos": server.rate_urls["dunamu"]},
            keys={"ecos": SecretStr("secret77")},
        )
        stage = RateStage(settings, ListSink(1))
        poller = Poller(settings, stage, lambda _, path, body: recorded.append(path))
        try:
            await poller.ask("ecos")
            server.close_port()
            await poller.ask("ecos")
        finally:
            await poller.close()
    assert recorded
    assert "secret77" not in f"{recorded}{stage.failing}{settings}"


async def test_a_source_is_asked_at_its_interval_and_less_often_while_it_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    settings = RatesSettings(sources=["dunamu"])
    stage = RateStage(settings, ListSink(1))
    poller = Poller(settings, stage)
    answers = iter([0.0, 0.0, 0.0, 1000.0, None])

    async def ask(source: str) -> float:
        wait_s = next(answers)
        if wait_s is None:
            stage.failing.clear()
            return 0.0
        stage.failing[source] = "status"
        return wait_s

    async def within(seconds: float, event: asyncio.Event) -> bool:
        waits.append(seconds)
        if len(waits) == 5:
            raise asyncio.CancelledError
        return False

    monkeypatch.setattr(poller, "ask", ask)
    monkeypatch.setattr(polling, "within", within)
    with pytest.raises(asyncio.CancelledError):
        await poller.run("dunamu")
    assert waits == [15.0, 30.0, 60.0, 1000.0, 15.0]


# the rate


def test_the_first_rate_needs_two_sources_within_a_percent() -> None:
    found = reference(quotation("dunamu", 1330))
    assert shown(found.at(NOON)) == (None, "unconfirmed", None)
    found.take(quotation("naver", 1345))
    assert found.at(NOON).rate is None
    found.take(quotation("naver", 1343, NOON + SECOND_NS))
    assert shown(found.at(NOON + SECOND_NS)) == (1330, "ok", "dunamu")
    # with one source there is nothing to compare
    alone = reference(quotation("frankfurter", 1330, NOON - DAY_NS), sources=("frankfurter",))
    assert shown(alone.at(NOON)) == (1330, "daily", "frankfurter")


def test_a_jump_is_held_until_a_second_source_confirms_it() -> None:
    found = reference(quotation("dunamu", 1330), sources=("dunamu", "frankfurter"))
    found.take(quotation("frankfurter", 1329, NOON - DAY_NS))
    assert found.at(NOON).rate == 1330
    found.take(quotation("dunamu", 1380, NOON + MINUTE_NS))
    assert shown(found.at(NOON + MINUTE_NS)) == (1330, "held", "dunamu")
    # a daily rate is better than one that is kept for too long
    found.take(quotation("dunamu", 1380, NOON + HOLD_NS + SECOND_NS))
    assert shown(found.at(NOON + HOLD_NS + SECOND_NS)) == (1329, "daily", "frankfurter")
    both = reference(quotation("dunamu", 1330), quotation("naver", 1330))
    both.at(NOON)
    later = NOON + MINUTE_NS
    both.take(quotation("dunamu", 1380, later))
    assert shown(both.at(later)) == (1330, "held", "dunamu")
    both.take(quotation("naver", 1379, later + SECOND_NS))
    assert shown(both.at(later + SECOND_NS)) == (1380, "ok", "dunamu")


@pytest.mark.parametrize("wrong", LIVE)
def test_two_sources_outvote_a_third(wrong: str) -> None:
    found = reference(*(quotation(one, 1330) for one in LIVE))
    found.at(NOON)
    for one in LIVE:
        rate = 1345 if one == wrong else 1331
        found.take(quotation(one, rate, NOON + SECOND_NS))
    first = LIVE[wrong == LIVE[0]]
    assert shown(found.at(NOON + SECOND_NS)) == (1331, "ok", first)


def test_a_difference_that_lasts_ends_the_rate() -> None:
    found = reference(quotation("dunamu", 1330), quotation("naver", 1330))
    found.at(NOON)
    for minute in range(1, 33):
        now = NOON + minute * MINUTE_NS
        found.take(quotation("dunamu", 1330, now))
        found.take(quotation("naver", 1350, now))
        held = now - NOON <= HOLD_NS
        expected = (1330, "held", "dunamu") if held else (None, "unconfirmed", None)
        assert shown(found.at(now)) == expected
    # both agree within 1 %
    found.take(quotation("naver", 1342, now))
    assert shown(found.at(now)) == (1330, "ok", "dunamu")


@pytest.mark.parametrize(
    ("observed", "now", "status"),
    [
        # the banks' hours
        ("2026-12-01T11:55:00", "2026-12-01T12:00:00", "ok"),
        ("2026-12-01T11:54:59", "2026-12-01T12:00:00", "late"),
        ("2026-12-01T11:30:00", "2026-12-01T12:00:00", "late"),
        ("2026-12-01T11:29:59", "2026-12-01T12:00:00", None),
        # counted from the opening
        ("2026-12-01T08:45:00", "2026-12-01T09:05:00", "ok"),
        ("2026-12-01T08:45:00", "2026-12-01T09:30:00", "late"),
        ("2026-12-01T08:45:00", "2026-12-01T09:30:01", None),
        # evening and night
        ("2026-12-01T23:30:00", "2026-12-02T00:00:00", "ok"),
        ("2026-12-01T23:29:59", "2026-12-02T00:00:00", "late"),
        ("2026-12-01T21:00:00", "2026-12-02T00:00:00", "late"),
        ("2026-12-01T20:59:59", "2026-12-02T00:00:00", None),
        # the weekend, and the first hours of Monday
        ("2026-12-05T05:59:00", "2026-12-05T06:00:00", "closed"),
        ("2026-12-05T05:59:00", "2026-12-07T05:59:59", "closed"),
        ("2026-12-05T05:59:00", "2026-12-07T06:30:00", "closed"),
        ("2026-12-05T05:59:00", "2026-12-07T06:30:01", "late"),
        ("2026-12-05T05:59:00", "2026-12-07T09:00:01", None),
        # year end: Thursday and Friday are closed, too; 100 h later the rate is too old
        ("2026-12-31T05:59:00", "2027-01-03T23:00:00", "closed"),
        ("2026-12-31T05:59:00", "2027-01-04T10:00:00", None),
        # a clock that is ahead, and one that is wrong
        ("2026-12-01T12:01:59", "2026-12-01T12:00:00", "ok"),
        ("2026-12-01T12:02:01", "2026-12-01T12:00:00", None),
    ],
)
def test_the_age_that_a_quotation_may_have(observed: str, now: str, status: str | None) -> None:
    one = quotation("dunamu", 1330, at(observed), heard_ns=at(now))
    found = reference(one).usable(at(now))
    assert [state for state, _ in found] == ([status] if status else [])


def test_holidays_of_the_configuration_are_closed() -> None:
    one = quotation("dunamu", 1330, at("2027-02-08T05:00:00"), heard_ns=at("2027-02-08T13:00:00"))
    for holidays, expected in ((["2027-02-08"], ["closed"]), ([], [])):
        found = Reference(["dunamu"], holidays)
        found.take(one)
        assert [state for state, _ in found.usable(at("2027-02-08T13:00:00"))] == expected


def test_a_source_that_does_not_answer_is_late() -> None:
    found = reference(quotation("dunamu", 1330), quotation("naver", 1330.5))
    assert shown(found.at(NOON)) == (1330, "ok", "dunamu")
    later = NOON + 2 * MINUTE_NS + SECOND_NS
    found.take(quotation("naver", 1330.5, NOON, heard_ns=later))
    assert shown(found.at(later)) == (1330.5, "ok", "naver")
    # nothing answers any more: the quotations grow old, then a daily source remains
    assert found.at(NOON + 5 * MINUTE_NS).status == "late"
    found.take(quotation("frankfurter", 1329, NOON - DAY_NS))
    assert shown(found.at(NOON + HOUR_NS)) == (1329, "daily", "frankfurter")
    assert found.at(NOON + 20 * DAY_NS).status == "stale"


def test_a_later_process_goes_on() -> None:
    found = reference(quotation("dunamu", 1330), quotation("naver", 1330))
    found.at(NOON)
    found.take(quotation("dunamu", 1400, NOON + SECOND_NS))
    again = Reference(SIMULATED_SOURCES)
    again.restore(orjson.loads(orjson.dumps(found.state())))
    now = NOON + 2 * SECOND_NS
    assert again.at(now) == found.at(now)
    assert again.at(now).status == "held"
    # the clock was set: all times are invalid
    again.forget()
    assert shown(again.at(now)) == (None, "none", None)
    with pytest.raises(ValueError, match="Expected"):
        again.restore({"last": [1, {"rate": "much"}], "quotations": []})


# messages


def messages(*given: Quotation, sources: tuple[str, ...] = SIMULATED_SOURCES) -> list[Message]:
    """Return the messages that a stage publishes for quotations of dunamu's and naver's form."""
    sink = ListSink(7, clock=lambda: 1)
    stage = RateStage(RatesSettings(sources=list(sources)), sink)
    for one in given:
        stage.reference.take(one)
        stage._publish(one, repeat=False)
    return list(sink.messages)


async def test_unchanged_quotations_are_repeats() -> None:
    sink = ListSink(7, clock=lambda: 1)
    stage = RateStage(RatesSettings(sources=["dunamu"]), sink)
    times = [NOON, NOON + 5 * SECOND_NS, NOON + 10 * SECOND_NS]
    for now in times:
        body = (await SimulatedRates(lambda now=now: now).get("dunamu")).body  # type: ignore[misc]
        assert stage.on_answer("dunamu", body, "", now)
    stage.announce()
    found = sink.messages
    assert [one.flags for one in found] == [0, REPEAT, 0, REPEAT]
    assert {one.topic for one in found} == {b"rate.dunamu.USD/KRW."}
    assert [one.received_ns for one in found] == [*times, times[-1]]
    assert {one.kind for one in found} == {RATE}
    assert decode_quotation(found[1]) == Quotation("dunamu", 1329.5, NOON, times[1], round=4321)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"rate":133050.0,"observed_ns":1,"daily":false}',
        b'{"rate":"x","observed_ns":1,"daily":false}',
        b'{"rate":1330.0,"observed_ns":0,"daily":false}',
        b'{"rate":1330.0,"observed_ns":9223372036854775808,"daily":false}',
        b'{"rate":1330.0}',
    ],
)
def test_a_message_that_is_no_quotation_is_refused(payload: bytes) -> None:
    sink = ListSink(7)
    sink.publish(sink.topic(b"rate.dunamu.USD/KRW."), RATE, payload)
    (message,) = sink.messages
    with pytest.raises(MessageError, match="quotation of"):
        decode_quotation(message)
    aggregator = OrderbookAggregator(Settings())
    aggregator.on_message(message)
    aggregator.tick(NOON)
    assert aggregator.counts["quotations_refused"] == 1


async def test_a_recording_gives_the_same_messages() -> None:
    settings = RatesSettings(sources=["dunamu", "naver"])
    live, replayed = ListSink(1, clock=lambda: 1), ListSink(1, clock=lambda: 1)
    stage, replay = RateStage(settings, live), RateReplay(settings, replayed)
    for step in range(40):
        now = NOON + step * 15 * SECOND_NS
        simulated = SimulatedRates(lambda now=now: now)  # type: ignore[misc]
        for source in LIVE:
            form = "html" if step % 7 == 3 else ""
            body = (await simulated.get(source, form)).body
            path = SOURCES[source].path("", now)
            if source in settings.sources:
                stage.on_answer(source, body, path, now)
            replay.feed(Record(now, "GET", f"/{source}{path}", body))
    assert len(live.messages) > 60
    as_bytes = [(one.topic, one.header_bytes(), bytes(one.payload)) for one in live.messages]
    assert as_bytes == [
        (one.topic, one.header_bytes(), bytes(one.payload)) for one in replayed.messages
    ]


def test_a_tick_has_the_rate_that_was_received_before_it() -> None:
    settings = Settings()
    settings.rates.sources = ["dunamu", "naver"]
    made: list[Aggregate] = []
    aggregator = OrderbookAggregator(settings, on_aggregate=made.append, heartbeats=False)
    for one in messages(
        quotation("dunamu", 1330), quotation("naver", 1331), sources=("dunamu", "naver")
    ):
        aggregator.on_message(one)
    for one in messages(quotation("dunamu", 1332, NOON + 300_000_000), sources=("dunamu", "naver")):
        aggregator.on_message(one)
    step = aggregator.interval_ns
    for number in range(3):
        aggregator.tick(NOON + number * step)
    found = [one.reference for one in made if one.asset == "BTC"]
    assert [one and shown(one) for one in found] == [
        (1330, "ok", "dunamu"),
        (1330, "ok", "dunamu"),
        (1332, "ok", "dunamu"),
    ]
    assert [one and one.heard_ns for one in found] == [NOON, NOON, NOON + 300_000_000]
    assert decode(encode(made[-1])[0]).reference == made[-1].reference
    # a record of an aggregator that had started anew may lack a quotation
    heard = NOON + 300_000_000
    lacking = [aggregator.lacks({USD_KRW: Input(ns, None)}) for ns in (0, NOON, heard, heard + 1)]
    assert lacking == [True, True, False, False]
    assert not aggregator.lacks({})
    # the memory goes on in the next process
    again = OrderbookAggregator(settings, on_aggregate=made.append, heartbeats=False)
    again.restore(orjson.loads(orjson.dumps(aggregator.state())))
    again.tick(NOON + 3 * step)
    assert made[-1].reference == found[-1]
    aggregator.clock_stepped()
    aggregator.tick(NOON + 4 * step)
    assert made[-1].reference == ReferenceFacts()


# configuration


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SOURCES", "dunamu,bank", "some of dunamu, naver"),
        ("SOURCES", "ecos", "rates.keys.ecos: expected a key"),
        ("URLS", '{"dunamu": "ftp://x"}', "expected http:// or https://"),
        ("POLL_S", '{"dunamu": 0}', "greater than or equal to 1"),
        ("HOLIDAYS", "2027-02-30", "expected days as YYYY-MM-DD"),
    ],
)
def test_a_wrong_setting_is_named(
    name: str, text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"COINSPACE_RATES__{name}", text)
    with pytest.raises(ConfigError, match=expected):
        load()


def test_the_collector_runs_where_sources_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "fx-collector" in dict(Settings().processes())
    monkeypatch.setenv("COINSPACE_RATES__SOURCES", "")
    assert "fx-collector" not in dict(load().processes())
    monkeypatch.setenv("COINSPACE_RATES__SOURCES", "naver, dunamu")
    monkeypatch.setenv("COINSPACE_RATES__KEYS", "ecos=abc")
    found = load()
    assert found.rates.sources == ["naver", "dunamu"]
    assert (found.rates.key("ecos"), found.rates.interval_s("dunamu")) == ("abc", 15.0)
    assert "fx-collector" in dict(found.processes())


def test_every_form_of_a_fault_is_tried() -> None:
    connection = {"hang", "redirect", "429", "500", "huge"}
    assert REASONS.keys() | connection | {"jump", "drift"} == FORMS


def test_recordings_give_the_premium_on_both_bases(tmp_path: Path) -> None:
    markets = {"upbit": ["BTC/KRW", "USDT/KRW"], "bithumb": ["BTC/KRW", "USDT/KRW"]}
    markets["binance"] = ["BTC/USDT"]
    list(write_feeds(tmp_path / "day.feed.zst", 3, markets, duration_s=4, start_ns=NOON))
    feeds = sorted(tmp_path.glob("day-*"))
    rates = tmp_path / "rates-usdkrw.feed.zst"
    header = {"exchange": "rates", "sources": ["dunamu", "naver"], "holidays": []}
    with FeedWriter(rates, header) as writer:
        # the first answers come before the books
        for step in range(-2, 5):
            now = NOON + step * SECOND_NS
            simulated = SimulatedRates(lambda now=now: now)  # type: ignore[misc]
            for source in ("dunamu", "naver", "yahoo"):
                body = asyncio.run(simulated.get(source)).body
                path = SOURCES[source].path("", now)
                writer.write(now, "GET", f"/{source}{path}", body)
    found: list[IndexRecord] = []
    for paths in ((*feeds, rates), (rates, *feeds), tuple(feeds)):
        settings = Settings()
        take: Any = lambda record, index: found.append(record)  # noqa: E731
        from_feeds(paths, settings, settings.index.parameters_of, take)
    size = len(found) // 3
    with_rates, again, without = (found[n * size : (n + 1) * size] for n in range(3))
    assert [reproducible(one) for one in with_rates] == [reproducible(one) for one in again]
    last = with_rates[-1]
    assert {one.usd_krw for one in with_rates} == {1329.5}
    assert (last.usd_krw_status, last.usd_krw_source) == ("ok", "dunamu")
    parts, plain = last.premium_parts, without[-1].premium_parts
    assert parts is not None
    assert plain is not None
    assert (plain.a, plain.c, without[-1].usd_krw_status) == (None, None, None)
    assert parts == premium(last.kr, last.gl, last.fx, 1329.5)
    assert parts.b == plain.b


def test_both_bases_fit_together_with_a_price_of_usdt() -> None:
    for usd_per_usdt in (1.0, 0.998):
        found = premium(140e6, 100e3, 1390.0, 1380.0, usd_per_usdt)
        a, b, c = found.a, found.b, found.c
        assert a is not None
        assert b is not None
        assert c is not None
        assert b == 140e6 / (100e3 * 1390.0) - 1
        assert c == pytest.approx(1390.0 / (1380.0 * usd_per_usdt) - 1)
        assert 1 + a == pytest.approx((1 + b) * (1 + c))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    parts = value.items() if isinstance(value, dict) else ()
    for name, part in enumerate(value) if isinstance(value, list) else parts:
        yield from _places(part, (*path, name))


def _put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = _put(value[path[0]], path[1:], new)
    return value


STRANGE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, (1 << 63) - 1, "", "x", "1,2", "9" * 50, [], {}, [[]], [None]),
    # in its place: lists in lists, as deep as JSON is read
    *("DEEP", "9999-12-31", "0001-01-01", "99:99", "20261301", {"code": "FRX.KRWUSD"}),
)


@pytest.mark.parametrize("source", SIMULATED_SOURCES)
async def test_any_value_in_any_place_is_a_quotation_or_a_refusal(source: str) -> None:
    body = (await SimulatedRates(lambda: NOON).get(source)).body
    tried = refused = 0
    for path in list(_places(orjson.loads(body))):
        for strange in STRANGE:
            text = orjson.dumps(_put(orjson.loads(body), path, strange))
            text = text.replace(b'"DEEP"', b"[" * 1000 + b"]" * 1000)
            tried += 1
            try:
                found = SOURCES[source].quotation(text, "", NOON)
            except RefusedError:
                refused += 1
            else:
                assert 300 <= found.rate <= 6000
    assert tried > 80
    assert refused > 40


def test_rates_are_expected_where_a_host_collects_them(tmp_path: Path) -> None:
    roles = {"a": ["*-collector-*", "storage", "index", "endpoint"]}
    for more, expected in (([], False), (["fx-collector"], True)):
        hosts = {"a": HostSettings(address="127.0.0.1", roles=[*roles["a"], *more])}
        settings = Settings(data=tmp_path, hosts=hosts)
        assert settings.has_rates == expected
        assert ("fx-collector" in dict(settings.processes())) == expected
    assert Settings().has_rates
