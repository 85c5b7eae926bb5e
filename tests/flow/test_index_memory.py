"""Memory read back from a real database: a restarted index continues without a difference."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import IndexParameters, Settings, StorageSettings
from coinspace.index import chain
from coinspace.index.backlog import Backlog, read_entries
from coinspace.index.calculator import Index
from coinspace.index.memory import read_fx_memory, remember
from coinspace.index.outage import Outage
from coinspace.index.store import store
from coinspace.index.worker import Worker
from coinspace.method.fx import FxIndex
from coinspace.method.record import IndexRecord
from coinspace.process import Process
from coinspace.recompute.snapshots import SnapshotReader
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.read import memory
from coinspace.storage.records import FX_ASSET, Row, tick_row, venue_rows
from tests.flow.database import applied, emptied, query
from tests.unit.index_books import book
from tests.waiting import until

STEP_NS = 200 * MILLISECOND_NS
# separate days: the database is shared
DAY_NS = 19_000 * 86_400 * SECOND_NS


@pytest.fixture
def settings(questdb: Settings, tmp_path: Path) -> Settings:
    found = address(questdb)
    schema.create(found, StorageSettings(ttl="off"))
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    return Settings(data=tmp_path, storage=storage)


class Course:
    """An index of a separate asset, second by second, with its whole memory."""

    def __init__(self, asset: str, *, start_ns: int, **changes: Any) -> None:
        self.asset = asset
        self.parameters = IndexParameters(max_spread=0.005, decimals=2, **changes)
        self.reader = SnapshotReader(lambda _: self.parameters)
        self.index = Index(asset, self.parameters)
        self.start_ms = start_ns // MILLISECOND_NS

    def tick(self, second: int, upbit: float, still: bool, fx: float = 1400.0) -> IndexRecord:
        """Compute one tick; `still` = Bithumb repeats its book while the others move."""
        now_ms = self.start_ms + second * 1000
        moved = 1.003 if second >= 30 else 1.0
        wiggle = 1.0 + 1e-7 * (second % 5)
        mids = {
            "binance": 100_000 * moved * wiggle,
            "bithumb": 140_000_000 * (1 if still else moved * wiggle),
            "upbit": upbit * moved * wiggle,
        }
        books = [
            book(name, mid, market=f"{self.asset}/{quote}", recv_ms=now_ms)
            for (name, mid), quote in zip(mids.items(), ("USDT", "KRW", "KRW"), strict=True)
        ]
        books += [
            book(name, fx * wiggle, market="USDT/KRW", recv_ms=now_ms)
            for name in ("bithumb", "upbit")
        ]
        line = {"now_ms": now_ms, "asset": self.asset, "books": books}
        self.aggregate = self.reader.read(json.dumps(line), 1)
        return self.index.compute(self.aggregate)


def rows_of(record: IndexRecord, table: str = "index_tick") -> list[Row]:
    return [tick_row(record, table=table), *venue_rows(record, fx=True)]


def _into(rows: list[Row]) -> Callable[[Row], bool]:
    def take(row: Row) -> bool:
        rows.append(row)
        return True

    return take


def reason(record: IndexRecord, exchange: str) -> str | None:
    name = next(one for one in record.venues if one.startswith(exchange))
    return record.venues[name].reason


@pytest.mark.parametrize("candidate", [False, True])
def test_a_restart_changes_no_record(settings: Settings, candidate: bool) -> None:
    asset = "MEMN" if candidate else "MEM"
    course = Course(asset, start_ns=DAY_NS, reentry=0.6 if candidate else 0.5)
    rows: list[Row] = []
    for second in range(100):
        upbit = 154_000_000 if second == 20 else 144_900_000 if second > 20 else 140_000_000
        record = course.tick(second, upbit, still=True)
        rows += rows_of(record, "index_next" if candidate else "index_tick")
    # excluded only by memory: 3.5 % off, and a book that was unchanged while the others moved
    assert reason(record, "upbit") == "deviating"
    assert reason(record, "bithumb") == "frozen"
    if candidate:
        # the memory of a candidate with other parameters must not be used
        other = Course(asset, start_ns=DAY_NS, reentry=0.9)
        rows += [tick_row(other.tick(100, 140_000_000, still=False), table="index_next")]
    store(settings, rows)
    table = "index_next" if candidate else "index_tick"
    wanted = 101 if candidate else 100
    count = f"SELECT count() FROM {table} WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(wanted,)]

    twin = course.index
    restarted = Index(asset, course.parameters)
    with schema.connect(address(settings)) as connection:
        remember(connection, restarted, candidate=candidate)
    assert restarted.last_ts_ns == twin.last_ts_ns
    for second in range(101, 140):
        again = []
        for index in (twin, restarted):
            course.index = index
            # the reader also has a memory of books, so it gets the same line twice
            again.append(course.tick(second, 144_900_000, still=second < 120))
        assert again[0] == again[1], second
    assert reason(again[1], "bithumb") is None
    assert reason(again[1], "upbit") == "deviating"
    # without the memory, the flagged venue would count at once
    course.index = Index(asset, course.parameters)
    assert reason(course.tick(140, 144_900_000, still=False), "upbit") is None


def test_a_restart_keeps_the_window_of_the_rate_after_a_confirmed_jump(settings: Settings) -> None:
    asset, start_ns = "MEMF", DAY_NS + 3600 * SECOND_NS
    course = Course(asset, start_ns=start_ns)
    rows: list[Row] = []
    statuses = []
    for second in range(60):
        record = course.tick(second, 140_000_000, still=False, fx=1400 if second < 40 else 1610)
        statuses.append(record.fx_status)
        rows += rows_of(record)
    assert statuses[39:43] == ["ok", "suspect", "suspect", "ok"]
    store(settings, rows)
    count = f"SELECT count() FROM index_tick WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(60,)]
    fx_rows = f"SELECT count() FROM index_venue WHERE asset = '{FX_ASSET}' AND ts >= {start_ns}"
    assert query(settings, f"{fx_rows}::timestamp_ns") >= [(120,)]
    fx = FxIndex(course.parameters)
    with schema.connect(address(settings)) as connection:
        memory = read_fx_memory(connection, asset, start_ns + 60 * SECOND_NS, 300 * SECOND_NS)
    fx.restore(memory["fx"])
    # the jump started a new window: the new level is normal, and the old level is a jump
    assert [rate for _, rate in fx.rate.state()["window"]] == [
        record_fx for _, record_fx in _accepted(rows, start_ns + 42 * SECOND_NS)
    ]
    assert fx.filter.references.keys() == {"bithumb:USDT/KRW", "upbit:USDT/KRW"}


def _accepted(rows: list[Row], since_ns: int) -> list[tuple[int, float]]:
    return [
        (row.at_ns, row.columns["fx"])
        for row in rows
        if row.table == "index_tick" and row.at_ns >= since_ns
    ]


def test_a_half_stored_outage_is_continued(settings: Settings) -> None:
    asset, start_ns = "MEMO", DAY_NS + 86_400 * SECOND_NS - 60 * SECOND_NS
    emptied(settings, "index_chain")
    index = Index(asset, IndexParameters())
    index.filter.restore(["upbit:MEMO/KRW"], False, {})
    before: dict[str, str | None] = {
        "asset": asset,
        "status": "ok",
        "parameter_hash": index.hash,
    }
    value = {"value": 1.5, "value_raw": 1.5, "flagged": "upbit:MEMO/KRW", "latency_ns": 42}
    store(settings, [Row("index_tick", start_ns, before, value)])
    # two minutes around midnight are missing, then ticks go on
    first_ns, last_ns = start_ns + STEP_NS, start_ns + 120 * SECOND_NS
    index.last_ts_ns = start_ns
    outage = index.missed(first_ns, last_ns, STEP_NS)
    taken: list[Row] = []
    backlog = Backlog("a-calculator", 7, _into(taken))
    backlog.add(outage, now_ns=last_ns + SECOND_NS)
    backlog.step(77, last_ns + SECOND_NS)
    after = Row("index_tick", last_ns + STEP_NS, before, {"value": 1.6, "value_raw": 1.6})
    store(settings, [taken[0], after, *taken[1:]])
    count = f"SELECT count() FROM index_tick WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(79,)]
    with schema.connect(address(settings)) as connection:
        # a day whose records are not complete gets no link
        assert DAY_NS not in chain.missing_days(connection, last_ns + 7 * chain.DAY_NS)
        restarted = Index(asset, IndexParameters())
        remember(connection, restarted)
        assert restarted.last_ts_ns == last_ns + STEP_NS
        entries = read_entries(connection, "a-calculator", {asset: restarted}, unknown)
    assert [(one.outage, one.next_ns, one.epoch) for one in entries] == [
        (outage, first_ns + 77 * STEP_NS, 7)
    ]
    taken.clear()
    backlog = Backlog("a-calculator", 8, _into(taken))
    backlog.resume(entries)
    assert backlog.step(10_000, last_ns + 9 * SECOND_NS) == 600 - 77
    store(settings, taken)
    applied(settings)
    assert query(settings, count) == [(602,)]
    # one record per tick, with the flag, and without changes of stored ones
    found = query(
        settings,
        "SELECT ts::long, reason, flagged, failed, value_raw, latency_ns FROM index_tick"
        f" WHERE asset = '{asset}' ORDER BY ts",
    )
    assert [row[0] for row in found] == [start_ns + i * STEP_NS for i in range(602)]
    assert found[0][4:] == (1.5, 42)
    assert found[-1][4] == 1.6
    assert {row[1:3] for row in found[1:-1]} == {("not_computed", "upbit:MEMO/KRW")}
    assert [row[3] for row in found[1:-1]] == [i >= 300 for i in range(600)]
    gaps = f"SELECT status, count, epoch FROM gap WHERE market = '{asset}'"
    assert query(settings, gaps) == [("filled", 600, 7)]
    with schema.connect(address(settings)) as connection:
        days = chain.missing_days(connection, last_ns + 7 * chain.DAY_NS)
        assert DAY_NS in days
        assert read_entries(connection, "a-calculator", {asset: restarted}, unknown) == []


def make(asset: str) -> Index:
    return Index(asset, IndexParameters())


def unknown(asset: str) -> Index:
    raise AssertionError(f"{asset} is configured")


def test_a_longer_outage_is_not_stored_twice(settings: Settings) -> None:
    asset, start_ns = "MEML", DAY_NS + 2 * 86_400 * SECOND_NS
    outage = Outage(asset, start_ns + STEP_NS, start_ns + 90 * STEP_NS, STEP_NS)
    taken: list[Row] = []
    backlog = Backlog("b-calculator", 7, _into(taken))
    backlog.add(outage, now_ns=start_ns + 99 * STEP_NS)
    tick = Row("index_tick", start_ns, {"asset": asset, "status": "ok"}, {"value_raw": 1.0})
    # it ended before any later record was stored: the next start finds all of its ticks missing
    store(settings, [tick, *taken])
    applied(settings)
    with schema.connect(address(settings)) as connection:
        # also not of an asset that is no longer configured
        entries = read_entries(connection, "b-calculator", {}, make)
    taken.clear()
    backlog = Backlog("b-calculator", 8, _into(taken))
    backlog.resume(entries)
    assert backlog.ticks == 0
    assert backlog.step(1000, start_ns) == 0
    assert [(row.table, row.symbols["status"], row.columns["reason"]) for row in taken] == [
        ("gap", "filled", "part of a longer one")
    ]


async def test_nothing_is_missing_after_a_long_silence_of_the_database(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asset, start_ns, ticks = "MEMS", DAY_NS + 4 * 86_400 * SECOND_NS, 2000
    there = settings.storage
    # room for a megabyte, and no database that takes it
    mine = settings.model_copy(update={"data": tmp_path_factory.mktemp("s")})
    mine.storage = there.model_copy(update={"ilp": "http::addr=127.0.0.1:1;", "memory_mb": 1})
    mine.index.assets = [asset]
    (mine.data / "run").mkdir()
    course = Course(asset, start_ns=start_ns)
    worker = Worker(Process("index-calculator", mine))
    worker.sender.start()

    def spooled() -> bool:
        return worker.spool.pending

    for second in range(ticks):
        worker._emit(course.tick(second, 140_000_000, still=False), course.aggregate)
    assert worker.sender.full
    assert 0 < worker.counters()["records_spooled"] < ticks
    assert worker.counters()["records_refused"] == 0
    fill = asyncio.create_task(worker._fill())
    try:
        await asyncio.sleep(0.5)
        assert spooled()
        mine.storage.ilp = there.ilp
        await until(lambda: not spooled() and not worker.sender.pending)
        # in order after it, and in memory again
        worker._emit(course.tick(ticks, 140_000_000, still=False), course.aggregate)
        assert not spooled()
    finally:
        fill.cancel()
        worker.publisher.close()
        worker.subscriber.close()
        assert await worker.sender.close()
    count = f"SELECT count(), count_distinct(ts) FROM index_tick WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(ticks + 1, ticks + 1)]
    venues = f"SELECT count() FROM index_venue WHERE asset = '{asset}'"
    assert query(settings, venues) == [(3 * (ticks + 1),)]
    nulls = f"SELECT count() FROM index_tick WHERE asset = '{asset}' AND value_raw = null"
    assert query(settings, nulls) == [(0,)]


async def test_a_crash_beside_a_silent_database_leaves_no_gap(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asset, start_ns, ticks = "MEMC", DAY_NS + 5 * 86_400 * SECOND_NS, 1500
    there = settings.storage
    mine = settings.model_copy(update={"data": tmp_path_factory.mktemp("c")})
    mine.storage = there.model_copy(update={"ilp": "http::addr=127.0.0.1:1;", "memory_mb": 1})
    mine.index.assets, mine.index.interval_ms = [asset], 1000
    (mine.data / "run").mkdir()
    course = Course(asset, start_ns=start_ns)
    # the database has the first tick, the process's memory the next ones, the file the rest
    store(settings, [tick_row(course.tick(0, 140_000_000, still=False))])
    applied(settings)
    crashed = Worker(Process("index-calculator", mine))
    crashed.sender.start()
    for second in range(1, ticks):
        crashed._emit(course.tick(second, 140_000_000, still=False), course.aggregate)
    spooled = crashed.counters()["records_spooled"]
    assert 0 < spooled < ticks - 1
    crashed.sender.abort()
    crashed.spool.close()
    crashed.publisher.close()
    crashed.subscriber.close()

    mine.storage.ilp = there.ilp
    worker = Worker(Process("index-calculator", mine))
    worker.sender.start()
    try:
        assert await worker._restore()
        assert worker.calculator.index(asset).last_ts_ns == start_ns + (ticks - 1) * SECOND_NS
        # the first tick of the new process, and the search for ticks without a record
        worker._emit(course.tick(ticks, 140_000_000, still=False), course.aggregate)
        tasks = [asyncio.create_task(one) for one in (worker._fill(), worker._find_gaps())]
        filled = f"SELECT count() FROM gap WHERE market = '{asset}' AND status = 'filled'"
        await until(lambda: query(settings, filled) == [(1,)], filled)
        for task in tasks:
            task.cancel()
    finally:
        worker.publisher.close()
        worker.subscriber.close()
        assert await worker.sender.close()
    count = f"SELECT count() FROM index_tick WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(ticks + 1,)]
    found = query(
        settings, f"SELECT ts::long, reason FROM index_tick WHERE asset = '{asset}' ORDER BY ts"
    )
    assert [row[0] for row in found] == [start_ns + i * SECOND_NS for i in range(ticks + 1)]
    lost, kept = ticks - 1 - int(spooled), int(spooled) + 1
    assert [row[1] for row in found] == [None, *["not_computed"] * lost, *[None] * kept]
    gaps = f"SELECT status, count FROM gap WHERE market = '{asset}'"
    assert query(settings, gaps) == [("filled", lost)]


def test_gaps_between_stored_ticks_are_found_but_not_in_other_intervals(
    settings: Settings,
) -> None:
    asset, start_ns = "MEMH", DAY_NS + 7 * 86_400 * SECOND_NS
    # five ticks a second, and one tick a second for some time
    stored = [0, 1, 2, 5, 9, 10, 11, 15, 20, 25, 30, 31, 32]
    rows = [
        Row("index_tick", start_ns + n * STEP_NS, {"asset": asset}, {"value_raw": 1.0})
        for n in stored
    ]
    store(settings, rows)
    count = f"SELECT count() FROM index_tick WHERE asset = '{asset}'"
    applied(settings)
    assert query(settings, count) == [(len(stored),)]

    def holes(since: int, until: int) -> list[tuple[int, int]]:
        with schema.connect(address(settings)) as connection:
            found = memory.holes(
                connection,
                asset,
                STEP_NS,
                start_ns + since * STEP_NS,
                start_ns + until * STEP_NS,
            )
        return [((a - start_ns) // STEP_NS, (b - start_ns) // STEP_NS) for a, b in found]

    # a single tick between two gaps belongs to both
    assert holes(0, 40) == [(3, 4), (6, 8), (12, 14), (26, 29)]
    assert holes(3, 30) == [(6, 8), (12, 14), (26, 29)]
    assert holes(0, 29) == [(3, 4), (6, 8), (12, 14)]


async def test_a_gap_that_an_earlier_process_left_gets_records(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asset = "MEMQ"
    step_ns = SECOND_NS
    start_ns = (time.time_ns() // step_ns - 1000) * step_ns
    mine = settings.model_copy(update={"data": tmp_path_factory.mktemp("q")})
    mine.index.assets, mine.index.interval_ms = [asset], 1000
    (mine.data / "run").mkdir()
    course = Course(asset, start_ns=start_ns)
    # a process began before the database answered, stored its ticks and was killed
    store(settings, [tick_row(course.tick(n, 140_000_000, still=False)) for n in (0, 1, 7, 8)])
    applied(settings)
    worker = Worker(Process("index-calculator", mine))
    worker.sender.start()
    tasks = []
    try:
        assert await worker._restore()
        tasks = [asyncio.create_task(one) for one in (worker._fill(), worker._find_gaps())]
        worker._emit(course.tick(9, 140_000_000, still=False), course.aggregate)
        found = f"SELECT reason FROM index_tick WHERE asset = '{asset}' ORDER BY ts"
        expected = [(None,)] * 2 + [("not_computed",)] * 5 + [(None,)] * 3
        await until(lambda: query(settings, found) == expected, found)
    finally:
        for task in tasks:
            task.cancel()
        worker.publisher.close()
        worker.subscriber.close()
        assert await worker.sender.close()
    applied(settings)
    gaps = f"SELECT status, count FROM gap WHERE market = '{asset}'"
    assert query(settings, gaps) == [("filled", 5)]
