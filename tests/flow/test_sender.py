"""The sender against the real server: batches, refusals, repairs, outages, bounded memory."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinspace.config import Settings, StorageSettings
from coinspace.errors import StorageError
from coinspace.storage import schema
from coinspace.storage.deadletter import read
from coinspace.storage.questdb.address import Address, address
from coinspace.storage.sender import Sender
from coinspace.storage.transport import TimestampNanos
from tests.flow import database
from tests.flow.database import applied
from tests.waiting import until

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


def rows_of(created: Settings, query: str) -> list[Any]:
    applied(created)
    return database.query(created, query)


def trade(sender: Sender, market: str, i: int, **columns: Any) -> bool:
    return sender.row(
        "trade",
        symbols={"exchange": "upbit", "market": market, "side": "buy"},
        columns={"price": 1.5 + i, "size": 0.1, "trade_id": i, **columns},
        at_ns=START_NS + i,
        key=("publisher", 1, f"trade.upbit.{market}.", i),
    )


async def test_a_batch_is_sent_by_age_and_a_repeat_is_stored_once(
    created: Settings, tmp_path: Path
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
    rows = rows_of(created, "select price, received_ts::long from trade where market='AGE/KRW'")
    assert sorted(rows) == [(1.5 + i, START_NS + 7) for i in range(50)]
    assert sender.counters()["rows_stored"] == 100
    assert sender.counters()["batches"] >= 2


async def test_books_keep_every_bit(created: Settings, tmp_path: Path) -> None:
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
    assert rows_of(created, query) == [(bids[0, 0], bids.tolist(), [], START_NS)]


async def test_bad_rows_go_to_the_dead_letters_and_the_rest_is_stored(
    created: Settings, tmp_path: Path
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
    assert await sender.close(60)
    rows = rows_of(created, "select trade_id from trade where market='BAD/KRW'")
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
    assert await sender.drained(60)
    sql.execute("alter table trade alter column price type boolean")
    sql.execute("alter table trade drop column size")
    # the server accepts one more batch with the old columns before it notices
    trade(sender, "MEND/KRW", 1)
    assert await sender.drained(60)
    for i in range(2, 20):
        trade(sender, "MEND/KRW", i)
    assert await sender.close(60)
    rows = rows_of(created, "select trade_id, price, size from trade where market='MEND/KRW'")
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
    query = "select trade_id from trade where market='FULL/KRW'"
    assert len(rows_of(created, query)) == taken + 1


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
    async with asyncio.timeout(60):
        assert not await sender.close(0.3)
    assert sender.pending == 1
