"""Faults behind an acknowledged write are found and reported with a remedy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.config import Settings, StorageSettings
from coinspace.errors import StorageError
from coinspace.storage import disk, position, schema, watch
from coinspace.storage.commands import questdb as questdb_command
from coinspace.storage.ledger import Ledger
from coinspace.storage.questdb.address import address
from coinspace.storage.sender import Sender
from tests.flow.database import query, whole
from tests.waiting import until

OFF = StorageSettings(ttl="off")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def created(questdb: Settings) -> Settings:
    whole(questdb)
    return questdb


async def problems(settings: Settings, word: str) -> list[str]:
    """Look until there are problems with the word; return them."""

    async def look() -> list[str]:
        return [one for one in (await watch.look(settings)).problems if word in one]

    found: list[str] = await until(look, word)
    return found


async def _until_ttl(connection: Any, table: str, wanted: tuple[int, str]) -> None:
    """Wait until the server shows this TTL: it applies changes later than it accepts them."""

    def shown() -> Any:
        asked = "SELECT ttlValue, ttlUnit FROM tables() WHERE table_name = %s"
        row = connection.execute(asked, (table,)).fetchone()
        return row == wanted or (row and row[0] == wanted[0] == 0)

    await until(shown, f"a TTL of {wanted}")


def _states(pid: int) -> set[str]:
    """Return the states of a process's threads."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            found.add(task.read_text().rpartition(")")[2].split()[0])
    return found


async def test_a_suspended_table_is_named_with_its_remedy(created: Settings) -> None:
    found = address(created)
    with schema.connect(found) as connection:
        connection.execute("alter table state suspend wal")
        try:
            (problem,) = await problems(created, "suspended")
            assert "table state is suspended" in problem
            assert "ALTER TABLE state RESUME WAL" in problem
            async with position.connect(found) as reader:
                with pytest.raises(StorageError, match="state is suspended"):
                    await position.wait_applied(reader, {"state"})
                await position.wait_applied(reader, {"orderbook"})
        finally:
            connection.execute("alter table state resume wal")
    async with position.connect(found) as reader:
        await position.wait_applied(reader, {"state"})


async def test_open_holes_are_read_the_oldest_first(created: Settings) -> None:
    found, publisher, epoch = address(created), "orderbook-collector-holes", time.time_ns()
    stream, other = (
        Ledger().stream(publisher, f"orderbook.holes.{market}.".encode(), epoch)
        for market in ("BTC/KRW", "ETH/KRW")
    )
    with schema.connect(found) as connection:
        for first, status, market in (
            (9, "open", "BTC/KRW"),
            (2, "open", "BTC/KRW"),
            (4, "open", "BTC/KRW"),
            (4, "filled", "BTC/KRW"),
            (5, "lost", "BTC/KRW"),
            (7, "open", "ETH/KRW"),
        ):
            connection.execute(
                "insert into gap (kind, publisher, exchange, market, status, reason, epoch, first,"
                f" last, ts) values ('orderbook', '{publisher}', 'holes', '{market}', '{status}',"
                f" 'not received', {epoch}, {first}, {first}, {epoch + first}::timestamp_ns)"
            )
    holes, all_read = await position.open_holes(found, publisher, [stream])
    assert all_read
    assert {key: [hole.first for hole in kept] for key, kept in holes.items()} == {
        stream.key: [2, 9]
    }
    holes, _ = await position.open_holes(found, publisher, [stream, other])
    assert [hole.found_ns for hole in holes[other.key]] == [epoch + 7]
    assert all(hole.announced for hole in holes[stream.key])


async def test_drift_is_named_and_only_repaired_by_its_owner(created: Settings) -> None:
    found = address(created)
    with schema.connect(found) as connection:
        connection.execute("alter table state drop column reason")
    (problem,) = await problems(created, "state.reason")
    assert "expected VARCHAR, was no column" in problem
    assert "ALTER TABLE state ADD COLUMN" in problem
    assert schema.create(found, OFF) == []
    assert schema.repair(found, {"trade"}, OFF) == []
    (repaired,) = schema.repair(found, {"state"}, OFF)
    assert repaired.damaging


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("TABLE state", "28, 'No space left on device'"),
        ("MATERIALIZED VIEW trade_1s", "28, 'No space left on device'"),
        # the server's error for a full disk under rows out of order
        ("TABLE state", "0, 'bulk update failed and will be rolled back'"),
    ],
)
async def test_tables_suspended_by_the_server_are_resumed_once_the_disk_has_room(
    kind: str, error: str, created: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kind.rpartition(" ")[2]
    schema.create(address(created), OFF)
    full = True
    monkeypatch.setattr(watch, "no_room", lambda _: full)
    monkeypatch.setattr(watch, "INTERVAL_S", 0.1)
    monkeypatch.setattr(watch, "FIRST_RESUME_S", 0.2)
    watched = watch.StorageWatch(
        created, {"state"}, on_drift=lambda: asyncio.sleep(0), on_damage=lambda damages: None
    )
    with schema.connect(address(created)) as connection:
        connection.execute(f"ALTER {kind} SUSPEND WAL WITH {error}")
        task = asyncio.create_task(watched.run())
        try:
            (problem,) = await problems(created, f"table {name} is suspended")
            assert "coinspace questdb resume" in problem
            looks = watched.looks
            await until(lambda: watched.looks >= looks + 3)
            assert watched.findings.suspended == [name], "it waits for room"
            full = False
            await until(lambda: not watched.findings.suspended)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            connection.execute(f"ALTER {kind} RESUME WAL")


async def test_tables_suspended_by_a_person_stay_suspended_until_the_command(
    created: Settings,
) -> None:
    found = address(created)
    with schema.connect(found) as connection:
        connection.execute("ALTER TABLE state SUSPEND WAL")
    await problems(created, "table state is suspended")
    assert (await watch.look(created)).suspended == []
    assert schema.resume(found, ["ticker"]) == []
    # as the reported problem advises
    run = partial(CliRunner().invoke, questdb_command, ["resume"])
    environment = {"COINSPACE_DATA": str(created.data)}
    assert "ALTER TABLE state RESUME WAL\n" in run(env=environment).stdout
    assert not [one for one in (await watch.look(created)).problems if "table state" in one]
    again = run(env=environment)
    assert (again.exit_code, "state" in again.stdout) == (0, False)


async def test_tables_and_a_ttl_of_the_users_own_are_left_alone(created: Settings) -> None:
    found = address(created)
    with schema.connect(found) as connection:
        connection.execute(
            "CREATE TABLE notes (ts TIMESTAMP, x DOUBLE) TIMESTAMP(ts) PARTITION BY DAY"
            " TTL 1 MONTH WAL"
        )
        connection.execute("CREATE TABLE plain (x DOUBLE)")
        connection.execute("ALTER TABLE notes SUSPEND WAL")
        connection.execute("ALTER TABLE ticker SET TTL 1 MONTH")
        try:
            await _until_ttl(connection, "ticker", (1, "MONTH"))
            looked = await watch.look(created)
            assert looked.problems == []
            assert schema.repair(found, {"ticker"}, OFF) == []
            assert schema.create(found, StorageSettings()) == []
            await _until_ttl(connection, "ticker", (1, "MONTH"))
        finally:
            connection.execute("DROP TABLE notes")
            connection.execute("DROP TABLE plain")
            connection.execute("ALTER TABLE ticker SET TTL 0h")
            await _until_ttl(connection, "ticker", (0, "HOUR"))


async def test_a_configured_retention_replaces_a_ttl_and_deletes_old_rows(
    created: Settings,
) -> None:
    found = address(created)
    storage = StorageSettings(ttl="off", retention={"ticker": "1w", "index_1s": "1M"})
    schema.create(found, OFF)
    old_ns = time.time_ns() - 30 * 86_400 * 1_000_000_000
    with schema.connect(found) as connection:

        def insert(at_ns: int) -> None:
            connection.execute(
                "INSERT INTO ticker (exchange, market, epoch, seq, ts)"
                f" VALUES ('upbit', 'RETENTION/KRW', 1, 1, {at_ns}::timestamp_ns)"
            )

        def rows() -> Any:
            asked = "SELECT count() FROM ticker WHERE market = 'RETENTION/KRW'"
            return connection.execute(asked).fetchone()

        insert(old_ns)
        try:
            drift = schema.differences(found, storage)
            assert {one.table for one in drift} == {"ticker", "index_1s"}
            schema.repair(found, {"ticker", "index_tick"}, storage)
            await _until_ttl(connection, "ticker", (1, "WEEK"))
            await _until_ttl(connection, "index_1s", (1, "MONTH"))
            insert(time.time_ns())
            await until(lambda: rows() == (1,), shown=rows)
        finally:
            connection.execute("ALTER TABLE ticker SET TTL 0h")
            connection.execute("ALTER MATERIALIZED VIEW index_1s SET TTL 0h")
            await _until_ttl(connection, "index_1s", (0, "HOUR"))


async def test_a_hung_server_is_reported_in_time(created: Settings) -> None:
    pid = address(created).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        # on a loaded machine some of its threads still answer for a moment
        await until(lambda: _states(pid) == {"T"})
        async with asyncio.timeout(60):
            looked = await watch.look(created)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "QuestDB" in looked.problems[0]

    async def reached() -> bool:
        return not any("QuestDB" in one for one in (await watch.look(created)).problems)

    # a look that hung must not block the next ones
    await until(reached)


async def test_a_server_that_is_not_there_is_reported(tmp_path: Path) -> None:
    looked = await watch.look(Settings(data=tmp_path))
    assert "coinspace questdb start" in looked.problems[0]


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data=tmp_path, storage=StorageSettings(disk_low_mb=100))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 99 << 20))
    (problem,) = disk.disk_problems(settings)
    assert "expected 100 MB free, was 99" in problem
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 100 << 20))
    assert disk.disk_problems(settings) == []


async def test_a_clock_that_is_behind_is_reported(
    created: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "now_ns", lambda: time.time_ns() + 5_000_000_000)
    (problem,) = await problems(created, "clock")
    assert "behind this host" in problem


async def test_tcp_stores_too(created: Settings, tmp_path: Path) -> None:
    found = address(created)
    storage = StorageSettings(
        ilp=f"tcp::addr=127.0.0.1:{created.storage.ilp_port};", sql=found.sql, ttl="off"
    )
    sender = Sender(Settings(data=tmp_path, storage=storage), "tcp")
    sender.start()
    sender.row(
        "state",
        symbols={"publisher": "p", "exchange": "upbit", "market": "TCP/KRW", "state": "synced"},
        columns={"epoch": 1, "seq": 1},
        at_ns=1_600_000_000_000_000_000,
    )
    assert await sender.close()

    count = "select count() from state where market='TCP/KRW'"
    await until(lambda: query(created, count) == [(1,)], count)
