"""Both storage workers as processes, on the real bus and the real database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coinspace._ext.message import ORDERBOOK, REPEAT
from coinspace.bus.journal import journal_folder
from coinspace.bus.publisher import Publisher, open_publisher
from coinspace.bus.segments import read_journal
from coinspace.config import Settings, StorageSettings
from coinspace.health_file import read_health
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from tests.flow.database import applied
from tests.flow.feeding import LEVELS, MARKETS, Feeder, book
from tests.waiting import until

BOOKS = "orderbook-collector-bithumb"
TICKERS = "ticker-collector-bithumb"
OFF = StorageSettings(ttl="off")


def environment(settings: Settings, folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a worker with its own data folder on the shared server."""
    found = address(settings)
    return {
        **os.environ,
        "COINSPACE_DATA": str(folder),
        "COINSPACE_STORAGE__ILP": found.ilp,
        "COINSPACE_STORAGE__SQL": found.sql,
        "COINSPACE_STORAGE__TTL": "off",
        "COINSPACE_STORAGE__BATCH_MS": "50",
        **more,
    }


@contextmanager
def running(name: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", "coinspace", *name.split()], env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def killed(name: str, env: dict[str, str]) -> Iterator[None]:
    """Run a publisher of 200 books a second and market; it is killed by SIGKILL."""
    command = [sys.executable, "-m", "tests.flow.feeder_process", name, "200", "0"]
    process = subprocess.Popen([*command, str(time.time_ns())], env=env)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def counter_of(settings: Settings, name: str, counter: str) -> float:
    health = read_health(settings, name)
    return float(health["counters"].get(counter, 0)) if health else 0.0


def state_of(settings: Settings, name: str) -> str:
    """Return the state of a worker; views that other tests left invalid do not count."""
    health = read_health(settings, name)
    if not health:
        return "none"
    reasons = (health["reason"] or "").split("; ")
    views_only = health["state"] == "degraded" and all(one.startswith("view ") for one in reasons)
    return "ready" if views_only else str(health["state"])


async def test_books_tickers_and_trades_reach_the_database(
    questdb: Settings, tmp_path: Path
) -> None:
    own = Settings(data=tmp_path)
    env = environment(questdb, tmp_path)
    epoch = time.time_ns()
    with (
        running("orderbook-storage-worker", env) as books_worker,
        running("ticker-storage-worker", env) as ticker_worker,
    ):
        names = ("orderbook-storage-worker", "ticker-storage-worker")
        await until(lambda: all(state_of(own, name) == "ready" for name in names))
        books = Publisher(BOOKS, own.bus, epoch)
        tickers = Publisher(TICKERS, own.bus, epoch)
        try:
            feeders = [Feeder(books, BOOKS), Feeder(tickers, TICKERS)]

            def heard() -> bool:
                for publisher in (books, tickers):
                    publisher.heartbeat()
                return all(counter_of(own, name, "received") > 0 for name in names)

            # messages before the subscriber is connected have no journal here
            await until(heard)
            for feeder in feeders:
                feeder.state("synced")
                feeder.send(300)
            for publisher in (books, tickers):
                publisher.heartbeat()

            def stored() -> bool:
                counts = [read_health(own, name) or {} for name in names]
                kinds = {k: v for c in counts for k, v in c.get("counters", {}).items()}
                return (
                    kinds.get('stored{kind="orderbook"}') == 540
                    and kinds.get('stored{kind="trade"}') == 600
                    and all(c["counters"]["rows_pending"] == 0 for c in counts)
                )

            await until(stored)
            await until(lambda: count(questdb, "orderbook", epoch) == 540)
        finally:
            books.close()
            tickers.close()
        await until(lambda: all(state_of(own, name) == "ready" for name in names))
    assert books_worker.returncode == 0
    assert ticker_worker.returncode == 0
    applied(questdb)
    check_rows(questdb, epoch)


async def test_messages_that_no_worker_received_are_stored(
    questdb: Settings, tmp_path: Path
) -> None:
    """Publishers that end at once, and one that dies: their journals are all that is left."""
    own = Settings(data=tmp_path)
    env = environment(questdb, tmp_path)
    name = "orderbook-storage-worker"
    with running(name, env):
        await until(lambda: state_of(own, name) == "ready")
        epochs = []
        for _ in range(3):
            epochs.append(time.time_ns())
            publisher = open_publisher(BOOKS, own, epochs[-1])
            # no heartbeat: only its journal shows it
            Feeder(publisher, BOOKS, start_ns=epochs[-1]).send(50)
            publisher.close()
            await until(lambda: count(questdb, "orderbook", epochs[-1]) == 90)
        with killed(BOOKS, env):
            await until(lambda: state_of(own, BOOKS) == "ready")
            health = read_health(own, BOOKS)
            assert health is not None
            epoch = health["started_ns"]
            await until(lambda: count(questdb, "orderbook", epoch) > 0)
        written = sum(
            message.epoch == epoch and message.kind == ORDERBOOK and not message.flags & REPEAT
            for message in read_journal(journal_folder(own, BOOKS))
        )
        await until(lambda: count(questdb, "orderbook", epoch) == written)
        health = read_health(own, name)
        assert health is not None
        assert health["counters"]["messages_lost"] == 0


async def test_messages_of_a_repaired_table_are_stored_again_by_their_worker(
    questdb: Settings, tmp_path: Path
) -> None:
    """The process that repairs a table may die before the damaged rows are stored again."""
    own = Settings(data=tmp_path)
    env = environment(questdb, tmp_path)
    name, epoch = "orderbook-storage-worker", time.time_ns()
    schema.create(address(questdb), OFF)
    publisher = open_publisher(BOOKS, own, epoch)
    Feeder(publisher, BOOKS, start_ns=epoch).send(60)
    publisher.close()
    total = f"select count() n, sum(bid_size) from orderbook where epoch={epoch} and bid_size > 0"
    with schema.connect(address(questdb)) as connection:

        def found() -> tuple[Any, ...]:
            return connection.execute(total).fetchone() or ()

        def damages() -> list[tuple[Any, ...]]:
            return connection.execute(
                f"select distinct status from gap where publisher='{name}' and ts >= {epoch}"
            ).fetchall()

        with running(name, env):
            await until(lambda: found()[0] == 108)
        before = found()
        connection.execute("alter table orderbook alter column bid_size type boolean")
        # the server applies a change of columns in its own time, this one and the repairing one
        await until(lambda: schema.repair(address(questdb), {"orderbook"}, OFF))
        await until(lambda: not schema.repair(address(questdb), {"orderbook"}, OFF))
        await until(lambda: found() != before)
        await until(lambda: damages() == [("open",)])
        with running(name, env):
            await until(lambda: found() == before)
            await until(lambda: damages() == [("filled",)])


def count(settings: Settings, table: str, epoch: int) -> int:
    with schema.connect(address(settings)) as connection:
        row = connection.execute(f"select count() from {table} where epoch={epoch}").fetchone()
        return int(row[0]) if row else 0


def check_rows(settings: Settings, epoch: int) -> None:
    def query(text: str) -> list[Any]:
        return list(connection.execute(text).fetchall())

    with schema.connect(address(settings)) as connection:
        for number, market in enumerate(MARKETS):
            where = f"where epoch={epoch} and market='{market}' and exchange='bithumb'"
            rows = query(f"select seq, bid, bids, asks, n_bids from orderbook {where} order by seq")
            assert [row[0] for row in rows] == [i for i in range(1, 301) if i % 10]
            for seq, bid, bids, asks, n_bids in rows[::37]:
                payload = book(seq - 1, number)
                sides = payload.reshape(4, LEVELS).tolist()
                assert (bid, n_bids) == (payload[0], LEVELS)
                assert (bids, asks) == (sides[:2], sides[2:])
            trades = query(f"select seq, trade_id, price, side from trade {where} order by seq")
            assert [row[0] for row in trades] == list(range(1, 301))
            assert trades[6] == (7, 1006, book(6, number)[0], "buy")
            tickers = query(f"select seq, last, low, span from ticker {where} order by seq")
            assert tickers[0] == (1, book(0, number)[0], None, None)
            states = query(f"select publisher, state from state {where}")
            assert sorted(states) == [(BOOKS, "synced"), (TICKERS, "synced")]
        assert query(f"select * from gap where epoch={epoch}") == []
