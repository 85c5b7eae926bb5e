"""Missed ticks: each gets its record once, few at once in their order, many in the background."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import IndexParameters
from coinspace.index.backlog import Backlog
from coinspace.index.calculator import AT_ONCE, IndexCalculator
from coinspace.index.outage import Outage
from coinspace.index.spool import Spool
from coinspace.method.aggregate import Aggregate
from coinspace.method.record import IndexRecord
from coinspace.recompute.snapshots import SnapshotReader
from coinspace.storage.records import Row
from coinspace.storage.transport import TimestampNanos
from tests.unit.index_books import NOW_MS, book

STEP_NS = 200 * MILLISECOND_NS
PARAMETERS = IndexParameters(max_spread=0.005, decimals=2)


def aggregate(now_ms: int, asset: str = "BTC", upbit: float = 140_000_000) -> Aggregate:
    books = [
        book("binance", 100_000, fx=1, market=f"{asset}/USDT", recv_ms=now_ms),
        book("bithumb", 140_000_000, fx=1400, market=f"{asset}/KRW", recv_ms=now_ms),
        book("upbit", upbit, fx=1400, market=f"{asset}/KRW", recv_ms=now_ms),
    ]
    line = {"now_ms": now_ms, "asset": asset, "books": books}
    return SnapshotReader(lambda _: PARAMETERS).read(json.dumps(line), 1)


class Ticks:
    """A calculator and its output in order."""

    def __init__(self) -> None:
        self.out: list[IndexRecord | Outage] = []
        self.calculator = IndexCalculator(
            lambda asset: PARAMETERS,
            lambda record, _: self.out.append(record),
            interval_ns=STEP_NS,
            on_outage=self.out.append,
        )

    def stamps(self) -> list[int | float]:
        found: list[int | float] = []
        for one in self.out:
            if isinstance(one, Outage):
                found += [record.ts_ms for record in one.records(one.first_ns)]
            else:
                found.append(one.ts_ms)
        return found


@pytest.mark.parametrize("missed", [0, 1, AT_ONCE, AT_ONCE + 1, 1_000_000])
def test_every_tick_has_exactly_one_record(missed: int) -> None:
    ticks = Ticks()
    last_ms = NOW_MS + 200 * (missed + 1)
    ticks.calculator.on_aggregate(aggregate(NOW_MS))
    ticks.calculator.on_aggregate(aggregate(last_ms))
    assert ticks.stamps() == list(range(NOW_MS, last_ms + 1, 200))
    assert ticks.calculator.counts["not_computed"] == missed
    # a long outage is one object, before the record after it
    outages = [one for one in ticks.out if isinstance(one, Outage)]
    assert [len(one) for one in outages] == ([missed] if missed > AT_ONCE else [])
    # existing records are never written again
    ticks.calculator.on_aggregate(aggregate(last_ms))
    ticks.calculator.on_aggregate(aggregate(last_ms - 200))
    assert ticks.calculator.counts["late"] == 2
    assert ticks.stamps() == list(range(NOW_MS, last_ms + 1, 200))


def test_the_outage_of_all_indices_is_known_before_the_first_record_after_it() -> None:
    ticks = Ticks()
    for asset in ("BTC", "ETH"):
        ticks.calculator.on_aggregate(aggregate(NOW_MS, asset))
    ticks.calculator.on_aggregate(aggregate(NOW_MS + 3_600_000, "BTC"))
    kinds = [(one.asset if isinstance(one, Outage) else one.ts_ms) for one in ticks.out[2:]]
    assert kinds == ["BTC", "ETH", NOW_MS + 3_600_000]


def test_an_outage_keeps_the_memory_and_fails_after_a_minute() -> None:
    ticks = Ticks()
    ticks.calculator.on_aggregate(aggregate(NOW_MS, upbit=160_000_000))
    ticks.calculator.on_aggregate(aggregate(NOW_MS + 3_600_000, upbit=144_000_000))
    outage = next(one for one in ticks.out if isinstance(one, Outage))
    records = list(outage.records(outage.first_ns))
    assert {one.reason for one in records} == {"not_computed"}
    assert {tuple(one.flagged) for one in records} == {("upbit:BTC/KRW",)}
    failed = [one.failed for one in records]
    assert failed == [False] * 300 + [True] * (len(records) - 300)
    # 3 % off: without its flag the venue would have been included
    after = ticks.out[-1]
    assert isinstance(after, IndexRecord)
    assert after.flagged == ["upbit:BTC/KRW"]
    assert after.twap is None


def test_an_outage_weighs_in_averages_as_its_ticks_would() -> None:
    one_by_one, at_once = Ticks(), Ticks()
    for i in range(300):
        for ticks in (one_by_one, at_once):
            ticks.calculator.on_aggregate(aggregate(NOW_MS + 200 * i))
    end_ms = NOW_MS + 200 * 320
    for i in range(300, 320):
        one_by_one.calculator.miss("BTC", (NOW_MS + 200 * i) * MILLISECOND_NS)
    for ticks in (one_by_one, at_once):
        ticks.calculator.on_aggregate(aggregate(end_ms))
    assert one_by_one.out == at_once.out
    assert one_by_one.stamps() == list(range(NOW_MS, end_ms + 1, 200))


class Database:
    """Takes rows while it has room."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.room = 0

    def take(self, row: Row) -> bool:
        if self.room <= 0:
            return False
        self.room -= 1
        self.rows.append(row)
        return True


def outage(first_s: int, last_s: int, asset: str = "BTC") -> Outage:
    return Outage(asset, first_s * SECOND_NS, last_s * SECOND_NS, SECOND_NS, ("a", "b"))


def gap(row: Row) -> tuple[Any, ...]:
    return row.symbols["market"], row.symbols["status"], row.columns["count"]


def test_the_backlog_stores_each_tick_once_with_any_room() -> None:
    database = Database()
    backlog = Backlog("index-calculator", 7, database.take)
    # no room even for the row that announces the outage
    backlog.add(outage(1, 40), now_ns=99)
    database.room = 1
    backlog.add(outage(5, 9, "ETH"), now_ns=99)
    assert backlog.ticks == 45
    done, rounds = 0, 0
    while backlog.ticks or rounds < 40:
        rounds += 1
        database.room = rounds % 4
        done += backlog.step(3, now_ns=500)
        assert rounds < 200
    assert done == 45
    ticks = [(row.symbols["asset"], row.at_ns) for row in database.rows if row.table != "gap"]
    assert ticks == [
        *(("BTC", second * SECOND_NS) for second in range(1, 41)),
        *(("ETH", second * SECOND_NS) for second in range(5, 10)),
    ]
    gaps = [row for row in database.rows if row.table == "gap"]
    assert sorted(map(gap, gaps)) == [
        ("BTC", "filled", 40),
        ("BTC", "open", 40),
        ("ETH", "filled", 5),
        ("ETH", "open", 5),
    ]
    # open before the first record of any outage, filled after the last of its own
    first = next(i for i, row in enumerate(database.rows) if row.table != "gap")
    assert [gap(row)[1] for row in database.rows[:first]] == ["open", "open"]
    assert gap(database.rows[-1]) == ("ETH", "filled", 5)
    identities = {(row.at_ns, row.columns["epoch"], row.columns["first"]) for row in gaps}
    assert identities == {(99, 7, SECOND_NS), (99, 7, 5 * SECOND_NS)}


def test_a_step_is_bounded() -> None:
    database = Database()
    database.room = 10**9
    backlog = Backlog("index-calculator", 7, database.take)
    backlog.add(outage(1, 10_000_000), now_ns=99)
    assert backlog.step(100, now_ns=500) == 100
    assert backlog.ticks == 10_000_000 - 100
    assert len(database.rows) == 101


def spooled(number: int) -> list[Row]:
    symbols: dict[str, str | None] = {"asset": "BTC", "reason": None}
    tick = Row("index_tick", number, symbols, {"value": 0.1 * number, "split": False})
    venue = Row("index_venue", number, symbols, {"received_ts": TimestampNanos(2**62 + number)})
    return [tick, venue]


def same(rows: list[Row]) -> list[tuple[Any, ...]]:
    # times compare by identity
    def plain(columns: dict[str, Any]) -> dict[str, Any]:
        return {name: getattr(value, "value", value) for name, value in columns.items()}

    return [(one.table, one.at_ns, one.symbols, plain(one.columns)) for one in rows]


def test_the_spool_gives_everything_back_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "spool" / "calculator.jsonl"
    spool, database = Spool(path, 1 << 20), Database()
    assert spool.drain(database.take, 10) == 0
    for number in range(20):
        assert spool.add(spooled(number))
    # room for one and a half: the second one comes again completely
    database.room = 3
    assert spool.drain(database.take, 10) == 1
    database.room = 10**6
    assert spool.drain(database.take, 4) == 4
    # the process ends; a crash tore the last line
    spool.close()
    with path.open("ab") as file:
        file.write(b'[["index_tick",99,')
    again = Spool(path, 1 << 20)
    assert again.add(spooled(20))
    database.rows.clear()
    # from the start: the reading position is not kept, and storing twice is harmless
    assert [again.drain(database.take, 3) for _ in range(9)] == [*[3] * 7, 1, 0]
    assert same(database.rows) == same([row for number in range(21) for row in spooled(number)])
    assert again.torn == 1
    # nothing is left, and the file starts again
    assert not path.exists()
    assert again.add(spooled(21))
    assert again.drain(database.take, 3) == 1
    again.close()


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "calculator.jsonl", 1000)
    taken = [spool.add(spooled(number)) for number in range(20)]
    assert 0 < sum(taken) < 20
    assert taken == sorted(taken, reverse=True)
    assert spool.path.stat().st_size <= 1000
    spool.close()
    # without its folder, records wait in memory, within the same bound
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool.jsonl", 1000)
    assert [spool.add(spooled(number)) for number in range(20)] == taken
