"""The sender against the real server: batches, refusals, repairs, outages, bounded memory."""

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from coinspace.config import Settings, StorageSettings
from coinspace.errors import StorageError
from coinspace.storage import schema
from coinspace.storage.deadletter import read
from coinspace.storage.questdb.address import Address, address
from coinspace.storage.sender import Sender
from coinspace.storage.transport import TimestampNanos

START_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope="session")
def created(questdb: Settings) -> Settings:
    schema.create(address(questdb), StorageSettings(ttl="off"))
    return questdb


@pytest.fixture
def sql(created: Settings) -> Iterator[Any]:
    with schema.connect(address(created)) as connection:
        yield connection


def own(created: Settings, folder: Path, **storage: Any) -> Settings:
    """Return settings with their own data folder on the shared server."""
    found = address(created)
    values = {"ilp": found.ilp, "sql": found.sql, "ttl": "off", "batch_ms": 20, **storage}
    return Settings(data=folder, storage=StorageSettings(**values))


async def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def rows_of(sql: Any, query: str, expected: int, timeout_s: float = 60) -> list[Any]:
    """Poll, since a committed row becomes visible a few ms later."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            rows = sql.execute(query).fetchall()
        except psycopg.Error:
            # an added column becomes visible as late as a row
            rows = []
        if len(rows) >= expected or time.monotonic() > deadline:
            return list(rows)
        await asyncio.sleep(0.02)


def trade(sender: Sender, market: str, i: int, **columns: Any) -> bool:
    return sender.row(
        "trade",
        symbols={"exchange": "upbit", "market": market, "side": "buy"},
        columns={"price": 1.5 + i, "size": 0.1, "trade_id": i, **columns},
        at_ns=START_NS + i,
        key=("publisher", 1, f"trade.upbit.{market}.", i),
    )


async def test_a_batch_is_sent_by_age_and_a_repeat_is_stored_once(
    created: Settings, sql: Any, tmp_path: Path
) -> None:
    sender = Sender(own(created, tmp_path), "age")
    sender.start()

    def left(batches: int) -> bool:
        return sender.counters()["batches"] >= batches

    for batches in (1, 2):
        for i in range(50):
            assert trade(sender, "AGE/KRW", i, received_ts=TimestampNanos(START_NS + 7))
        # the timer calls seal
        await until(partial(left, batches))
    assert await sender.close()
    rows = await rows_of(
        sql, "select price, received_ts::long from trade where market='AGE/KRW'", 50
    )
    assert sorted(rows) == [(1.5 + i, START_NS + 7) for i in range(50)]
    assert sender.counters()["rows_stored"] == 100
    assert sender.counters()["batches"] >= 2


async def test_books_keep_every_bit(created: Settings, sql: Any, tmp_path: Path) -> None:
    sender = Sender(own(created, tmp_path), "books")
    sender.start()
    bids = np.array([[0.1 + 0.2, 1e-9], [1.0, 123456789.123456789]])
    sender.row(
        "orderbook",
        symbols={"exchange": "upbit", "market": "BITS/KRW"},
        columns={"bid": float(bids[0, 0]), "bids": bids, "asks": np.empty((2, 0)), "epoch": 3},
        at_ns=START_NS,
    )
    assert await sender.close()
    query = "select bid, bids, asks, ts::long from orderbook where market='BITS/KRW'"
    assert await rows_of(sql, query, 1) == [(bids[0, 0], bids.tolist(), [], START_NS)]


async def test_bad_rows_go_to_the_dead_letters_and_the_rest_is_stored(
    created: Settings, sql: Any, tmp_path: Path
) -> None:
    rejected: list[Any] = []
    settings = own(created, tmp_path, batch_rows=100)
    sender = Sender(settings, "bad", on_rejected=lambda *what: rejected.append(what))
    sender.start()
    bad = {0, 13, 14, 99, 150}
    for i in range(200):
        if i in bad:
            trade(sender, "BAD/KRW", i, price="not a number\n, at all")
        else:
            trade(sender, "BAD/KRW", i)
    assert await sender.close(30)
    rows = await rows_of(sql, "select trade_id from trade where market='BAD/KRW'", 195)
    assert {i for (i,) in rows} == set(range(200)) - bad
    letters = list(read(sender.dead_letters))
    assert {key[3] for letter in letters if isinstance(key := letter["key"], list)} == bad
    assert all("price" in str(letter["reason"]) for letter in letters)
    assert {key[3] for key, *_ in rejected} == bad
    assert all(table == "trade" for _, table, *_ in rejected)
    counters = sender.counters()
    assert (counters["rows_stored"], counters["rows_dead"], counters["pending_bytes"]) == (
        195,
        5,
        0,
    )


async def test_a_dropped_and_a_changed_column_are_repaired(
    created: Settings, sql: Any, tmp_path: Path
) -> None:
    repaired: list[Any] = []
    sender = Sender(own(created, tmp_path), "repair", on_repaired=repaired.extend)
    sender.start()
    trade(sender, "MEND/KRW", 0)
    assert await sender.drained(10)
    sql.execute("alter table trade alter column price type boolean")
    sql.execute("alter table trade drop column size")
    # the server accepts one more batch with the old columns before it notices
    trade(sender, "MEND/KRW", 1)
    assert await sender.drained(10)
    for i in range(2, 20):
        trade(sender, "MEND/KRW", i)
    assert await sender.close(30)
    rows = await rows_of(sql, "select trade_id, price, size from trade where market='MEND/KRW'", 20)
    assert sorted(rows)[2:] == [(i, 1.5 + i, 0.1) for i in range(2, 20)]
    assert sender.counters()["schema_repairs"] >= 1
    assert sender.counters()["rows_dead"] == 0
    assert {one.text for one in repaired if one.damaging} == {
        "trade.price: expected DOUBLE, was BOOLEAN",
        "trade.size: expected DOUBLE, was no column",
    }
    assert schema.differences(address(created), StorageSettings(ttl="off")) == []


async def test_memory_is_bounded_while_nothing_answers(
    created: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own(created, tmp_path, memory_mb=1, batch_rows=100)
    reachable = asyncio.Event()

    def where(settings: Settings) -> Address:
        if not reachable.is_set():
            raise StorageError("no server")
        return address(settings)

    monkeypatch.setattr("coinspace.storage.sender.address", where)
    sender = Sender(settings, "bounded")
    sender.start()
    taken = 0
    while trade(sender, "FULL/KRW", taken):
        taken += 1
        assert taken < 100_000
    assert sender.full
    assert sender.counters()["pending_bytes"] < (1 << 20) + 1000
    await until(lambda: "no server" in str(sender.trouble))
    assert not await sender.drained(0.05)
    reachable.set()
    assert await sender.drained(60)
    assert sender.trouble is None
    assert trade(sender, "FULL/KRW", taken)
    assert await sender.close()
    with schema.connect(address(created)) as connection:
        query = "select trade_id from trade where market='FULL/KRW'"
        assert len(await rows_of(connection, query, taken + 1)) == taken + 1


async def test_a_value_that_cannot_be_stored_raises_an_error(
    created: Settings, tmp_path: Path
) -> None:
    sender = Sender(own(created, tmp_path), "callers")
    with pytest.raises(StorageError, match="row of trade"):
        trade(sender, "X/KRW", 1, price=object())
    assert sender.pending == 0
    assert trade(sender, "X/KRW", 1)


async def test_close_gives_up_in_time(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path,
        storage=StorageSettings(ilp="http::addr=127.0.0.1:1;", sql="postgresql://127.0.0.1:1/qdb"),
    )
    sender = Sender(settings, "down")
    sender.start()
    trade(sender, "DOWN/KRW", 1)
    before = time.monotonic()
    assert not await sender.close(0.3)
    assert time.monotonic() - before < 3
    assert sender.pending == 1
