"""Stored ticks in the future: the calculator goes on, and an operator declares them void."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from coinspace._ext.message import Message
from coinspace.clock import MILLISECOND_NS, SECOND_NS, monotonic_ns, now_ns
from coinspace.config import Settings, StorageSettings
from coinspace.errors import CoinSpaceError
from coinspace.index import chain
from coinspace.index import worker as worker_module
from coinspace.index.commands import index_reset_clock
from coinspace.index.reset import declare_void, ticks_ahead
from coinspace.index.store import append_links, store
from coinspace.index.worker import Worker
from coinspace.method.aggregate import Aggregate, FxFacts, encode
from coinspace.process import Process
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row
from tests.flow.database import applied, emptied, query
from tests.waiting import wait_for

STEP_NS = 200 * MILLISECOND_NS


@pytest.fixture
def settings(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = address(questdb)
    schema.create(found, StorageSettings(ttl="off"))
    # a short name: the length of socket paths is limited
    mine = Settings(
        data=tmp_path_factory.mktemp("ck"),
        storage=StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off"),
    )
    mine.index.assets = ["CLK"]
    (mine.data / "run").mkdir()
    emptied(mine, "index_tick", "index_venue", "index_recalc", "operator_log", "index_chain", "gap")
    return mine


def tick(at_ns: int, value: float | None, reason: str | None = None) -> Row:
    symbols: dict[str, str | None] = {"asset": "CLK", "status": "ok", "reason": reason}
    return Row("index_tick", at_ns, symbols, {"value": value, "value_raw": value})


def history(settings: Settings, first_ns: int, ticks: int, value: float) -> None:
    """Store ticks in a row."""
    store(settings, [tick(first_ns + i * STEP_NS, value) for i in range(ticks)])
    applied(settings)


def until_found(settings: Settings, text: str, wanted: list[tuple[Any, ...]]) -> None:
    wait_for(lambda: query(settings, text) == wanted, text, shown=lambda: query(settings, text))


def now_tick() -> int:
    return now_ns() // STEP_NS * STEP_NS


async def restored(settings: Settings) -> Worker:
    worker = Worker(Process("index-calculator", settings))
    worker.sender.start()
    assert await worker._restore()
    return worker


async def ended(worker: Worker) -> None:
    worker.publisher.close()
    worker.subscriber.close()
    worker.spool.close()
    assert await worker.sender.close()


def aggregate(at_ns: int) -> Aggregate:
    from coinspace.aggregator.consolidate import Consolidator

    return Consolidator("CLK").consolidate(at_ns, [], FxFacts(), 10**10)


async def test_a_calculator_continues_in_the_present_beside_ticks_of_the_future(
    settings: Settings,
) -> None:
    present_ns = now_tick()
    ahead_ns = present_ns + 7200 * SECOND_NS
    history(settings, present_ns - 10 * STEP_NS, 5, 1.0)
    # a clock was two hours ahead, with a gap in between
    history(settings, ahead_ns, 600, 2.0)
    history(settings, ahead_ns + 3600 * SECOND_NS, 10, 3.0)
    store(settings, [tick(present_ns + 600 * SECOND_NS, None, "not_computed")])
    applied(settings)
    worker = await restored(settings)
    try:
        index = worker.calculator.index("CLK")
        assert index.last_ts_ns == present_ns - 6 * STEP_NS
        worker.calculator.on_aggregate(aggregate(present_ns))
        assert worker.calculator.last_ts_ns == present_ns
        spans = [span for span in index.published.spans if span[1] > now_ns()]
        # ticks that were never computed are free
        assert spans == [
            (ahead_ns, ahead_ns + 599 * STEP_NS),
            (ahead_ns + 3600 * SECOND_NS, ahead_ns + 3600 * SECOND_NS + 9 * STEP_NS),
        ]
        # the present reaches these instants
        for at_ns in (ahead_ns, ahead_ns + STEP_NS):
            worker.calculator.on_aggregate(aggregate(at_ns))
        assert worker.calculator.counts["repeated"] == 2
    finally:
        await ended(worker)
    kept = f"SELECT count() FROM index_tick WHERE value = 2.0 AND ts >= {ahead_ns}::timestamp_ns"
    assert query(settings, kept) == [(600,)]
    lost = (
        "SELECT first, last, count FROM gap WHERE market = 'CLK' AND status = 'lost'"
        " AND reason LIKE 'clock_stepped%'"
    )
    until_found(settings, lost, [(ahead_ns, ahead_ns + 599 * STEP_NS, 600)])


@pytest.mark.parametrize("away_s", [-3600, -5, 5, 3600])
async def test_ticks_of_another_hosts_clock_are_not_given_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, away_s: int
) -> None:
    # a pause of this process is no silence of the aggregator
    passed_ns, wall_ns, steady_ns = 0, now_ns(), monotonic_ns()
    monkeypatch.setattr(worker_module, "now_ns", lambda: wall_ns + passed_ns)
    monkeypatch.setattr(worker_module, "monotonic_ns", lambda: steady_ns + passed_ns)
    worker = await restored(settings)
    watching = asyncio.create_task(worker._watch())
    given = 12
    try:
        first_ns = now_tick() + away_s * SECOND_NS
        for number in range(given):
            payload, _, _ = encode(aggregate(first_ns + number * STEP_NS))
            message = SimpleNamespace(payload=payload, epoch=1, sequence=number + 1)
            worker._on_message(cast(Message, message))
            await asyncio.sleep(0.1)
            passed_ns += STEP_NS // 2
        counts = worker.calculator.counts
        assert counts["ticks"] == given
        assert (counts["not_computed"], counts["clock_steps"]) == (0, 0)
        assert not worker.backlog.ticks
    finally:
        watching.cancel()
        await ended(worker)


async def test_an_operator_declares_the_ticks_of_the_future_void(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    present_ns = now_tick()
    ahead_ns = present_ns + 3600 * SECOND_NS
    history(settings, present_ns - STEP_NS, 1, 1.0)
    history(settings, ahead_ns, 100, 2.0)
    monkeypatch.setenv("COINSPACE_DATA", str(settings.data))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", settings.storage.ilp or "")
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", settings.storage.sql or "")
    runner = CliRunner()
    shown = runner.invoke(index_reset_clock)
    assert shown.exit_code == 0
    assert "CLK: 100 ticks" in shown.stdout
    assert runner.invoke(index_reset_clock, ["--operator", "ana"]).exit_code == 2
    worker = await restored(settings)
    try:
        index = worker.calculator.index("CLK")
        worker.calculator.on_aggregate(aggregate(now_tick()))
        assert index.published.span(ahead_ns) is not None
        done = runner.invoke(
            index_reset_clock, ["--operator", "ana", "--because", "the clock held local time"]
        )
        assert done.exit_code == 0, done.exception
        assert "void" in done.stderr
        log = "SELECT operator, target FROM operator_log WHERE action = 'clock_reset'"
        until_found(settings, log, [("ana", str(ahead_ns + 99 * STEP_NS))])
        worker._void(worker._resets())
        assert index.published.span(ahead_ns) is None
        # the present is unchanged
        assert index.published.span(index.last_ts_ns) is not None
    finally:
        await ended(worker)
    # no row is deleted
    recalc = "SELECT count(), min(value), min(original), min(because) FROM index_recalc"
    until_found(settings, recalc, [(100, 2.0, 2.0, "the clock held local time")])
    # the next calculator knows the reset too
    again = await restored(settings)
    try:
        assert again.calculator.index("CLK").published.span(ahead_ns) is None
        again.calculator.on_aggregate(aggregate(ahead_ns))
        assert again.calculator.counts["repeated"] == 0
    finally:
        await ended(again)
    replaced = f"SELECT value FROM index_tick WHERE ts = {ahead_ns}::timestamp_ns"
    until_found(settings, replaced, [(None,)])


def test_a_clock_of_1970_cannot_declare_history_void(settings: Settings) -> None:
    history(settings, now_tick(), 3, 1.0)
    assert ticks_ahead(settings, now_ns() + 3600 * SECOND_NS) == []
    with pytest.raises(CoinSpaceError, match="check the clock"):
        declare_void(settings, 1000 * SECOND_NS, "ana", "no battery")
    assert query(settings, "SELECT count() FROM operator_log") == [(0,)]


def test_a_day_that_was_linked_too_early_is_linked_again(settings: Settings) -> None:
    today_ns = now_ns() // chain.DAY_NS * chain.DAY_NS
    yesterday_ns = today_ns - chain.DAY_NS
    history(settings, yesterday_ns, 3, 1.0)
    history(settings, today_ns, 3, 1.0)
    assert append_links(settings) == 1
    with schema.connect(address(settings)) as connection:
        (link,) = chain.stored_links(connection)
        early = chain.make_link(connection, today_ns, link.link)
    # made while the clock was a day ahead
    store(settings, [early.row()])
    applied(settings)
    assert append_links(settings) == 0
    with schema.connect(address(settings)) as connection:
        assert chain.stored_links(connection) == [link]
        assert [one.wrong for one in chain.check(connection)] == [[]]
        assert chain.missing_days(connection, today_ns + 2 * chain.DAY_NS) == []
