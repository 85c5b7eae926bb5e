"""Faults on real processes: every published message is stored exactly once, and reconciles.

The short form runs in the normal suite. The long one runs with `make faults`: each fault, then all
of them at the same time. COINSPACE_SEED chooses the moments. Figures are saved for `make report`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import FOLDER, Result
from coinspace.storage import gaps
from coinspace.storage.sender import BATCH_BYTES
from tests.flow.collected import Collected, Rows, record
from tests.flow.faults import BOOKS, FEEDERS, TICKERS, WORKERS, Faults, Storm, highest
from tests.flow.feeding import MARKETS, book

FIGURES = Path(__file__).resolve().parents[2] / FOLDER
BOOK_WORKER, TICKER_WORKER = WORKERS
SEED = int(os.environ.get("COINSPACE_SEED", "1"))
# goals that are reported and not asserted: (goal, better)
AIMS = {
    "s from the server's return to the first row": (2, "lower"),
    "backlog drained, × live rate": (5, "higher"),
    "event-loop lag p99 while the server hangs, ms": (50, "lower"),
}
PERFECT = {"lost": 0, "duplicated": 0, "wrong": 0, "unknown": 0}


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose sockets' paths are short enough."""
    return tmp_path_factory.mktemp("f")


@pytest.fixture
def faults(short_path: Path, request: pytest.FixtureRequest) -> Iterator[Faults]:
    """A running storage side; its parameter is the messages per second, market and topic."""
    made = Faults(short_path, rate=getattr(request, "param", 100))
    try:
        made.start()
        yield made
    finally:
        made.close()


def save(faults: Faults, case: str) -> None:
    """Save the figures for the report."""
    result = Result("faults", case, "", faults.input)
    result.command = "make test" if case == "short form" else "make faults"
    result.figures = dict(faults.figures)
    for what, (aim, better) in AIMS.items():
        if what in faults.figures:
            result.check(what, result.figures.pop(what), goal=aim, better=better)  # type: ignore[arg-type]
    result.save(FIGURES)


def finish(faults: Faults, case: str, *killed: str, limit_s: float = 120) -> dict[str, Any]:
    """Stop publishing, wait until all is stored, compare, reconcile, save the figures."""
    faults.stop_feeders(*killed)
    began = time.monotonic()
    faults.until(faults.settled, limit_s)
    faults.figures["s until all was stored"] = round(time.monotonic() - began, 2)
    outcome = faults.compare()
    report = faults.reconcile()
    total: dict[str, Any] = report["total"]
    for name in ("published", "stored", "repeats", "duplicates", "gaps", "lost", "unexplained"):
        faults.figures[f"messages, {name}"] = total[name]
    faults.figures["kills"] = sum(faults.restarts.values())
    faults.figures["memory of a worker at most, MB"] = max(faults.resident_mb.values())
    faults.figures["load"] = round(os.getloadavg()[0], 1)
    save(faults, case)
    assert outcome.pop("published") > 0
    assert outcome == PERFECT
    assert report["unexplained"] == []
    assert report["exit_code"] == 0
    for name, resident_mb in faults.resident_mb.items():
        assert resident_mb <= faults.memory_bound_mb(name), f"memory of {name}"
        limit_mb = int(faults.environment.get("COINSPACE_STORAGE__MEMORY_MB", "64"))
        assert faults.counter(name, "peak_bytes") <= (limit_mb << 20) + BATCH_BYTES
    return total


@pytest.mark.timeout(900)
def test_short_matrix(faults: Faults) -> None:
    time.sleep(1)
    # the worker dies in the middle of a batch
    faults.restart(BOOK_WORKER)
    # the database dies and comes back by itself
    faults.figures["s from the server's return to the first row"] = highest([faults.kill_server()])
    # the database hangs, and so does a subscriber
    faults.pause_server(3)
    faults.pause(TICKER_WORKER, 2)
    # a collector dies and is started again: a new epoch, a few trades twice
    faults.restart(TICKERS)
    # a user changes a column
    faults.until(faults.caught_up)
    faults.change_columns("alter table orderbook alter column ask_size type varchar")
    faults.until(faults.repaired)
    # one publisher ends before a subscriber has heard it, another dies with its tail unsent
    faults.restart(BOOKS)
    total = finish(faults, "short form", TICKERS)
    assert total["lost"] == total["dead"] == 0
    assert faults.sql("select distinct status from gap where kind != 'venue'") == [("filled",)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("faults", [200], indirect=True)
def test_workers_killed_at_random_moments(faults: Faults) -> None:
    chance = random.Random(SEED)
    for _ in range(20):
        time.sleep(chance.uniform(0.2, 4))
        faults.restart(chance.choice(WORKERS))
    faults.until(faults.caught_up)
    finish(faults, "workers killed 20 times")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("faults", [200], indirect=True)
def test_the_database_dies_and_hangs(faults: Faults) -> None:
    returns = []
    for _ in range(3):
        time.sleep(1)
        returns.append(faults.kill_server())
    faults.figures["s from the server's return to the first row"] = highest(returns)
    faults.pause_server(60)
    faults.until(faults.caught_up)
    finish(faults, "database killed 3 times, stopped for 60 s")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_minutes_arrive_while_the_database_is_down(short_path: Path) -> None:
    faults = Faults(short_path, rate=40, COINSPACE_STORAGE__MEMORY_MB="16")
    try:
        faults.start()
        time.sleep(5)
        before = sum(int(faults.counter(name, "rows_stored")) for name in WORKERS)
        faults.outage(burst=True)
        returned = time.monotonic()
        first = faults.first_row()
        faults.figures["s from the server's return to the first row"] = highest([first])
        faults.until(faults.caught_up, 200)
        drained_s = time.monotonic() - returned
        rows = sum(int(faults.counter(name, "rows_stored")) for name in WORKERS) - before
        # of two markets: books less a tenth of repeats, tickers and trades
        live = faults.rate * 2 * 2.9
        faults.figures["s until the backlog was stored"] = round(drained_s, 2)
        faults.figures["rows stored in this time"] = rows
        faults.figures["backlog drained, × live rate"] = round(rows / drained_s / live, 1)
        finish(faults, "ten minutes' worth while the database was down")
    finally:
        faults.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("faults", [200], indirect=True)
def test_subscribers_collectors_and_tables_break(faults: Faults) -> None:
    faults.pause(BOOK_WORKER, 30)
    for name in FEEDERS:
        faults.restart(name)

    faults.sql("alter table orderbook suspend wal")
    faults.until(lambda: "suspended" in faults.reason(BOOK_WORKER))
    assert "ALTER TABLE orderbook RESUME WAL" in faults.reason(BOOK_WORKER)
    # a worker that starts meanwhile waits: it cannot know what is stored
    faults.restart(BOOK_WORKER)
    time.sleep(5)
    faults.resume()
    faults.until(faults.caught_up)

    faults.change_columns(
        "alter table trade alter column price type boolean",
        "alter table orderbook drop column asks",
    )
    faults.until(faults.repaired)
    finish(faults, "subscriber stopped 30 s, collectors killed, tables broken")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_at_once(short_path: Path) -> None:
    """Overlapping faults show errors of the state in memory."""
    faults = Faults(short_path, rate=40, COINSPACE_STORAGE__MEMORY_MB="16")
    try:
        faults.start()
        Storm(faults, SEED).run()
        faults.until(faults.repaired)
        finish(faults, "everything at once", TICKERS, limit_s=200)
    finally:
        faults.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_faults_do_not_change_what_real_collectors_store(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The same feed twice, once with every fault: rows are compared one by one."""
    feeds = record(tmp_path_factory.mktemp("feeds"), seconds=50, start_ns=time.time_ns())
    found: list[Rows] = []
    killed = ("orderbook-collector-binance", "ticker-collector-upbit")
    for case in ("undisturbed", "disturbed"):
        faults = Collected(tmp_path_factory.mktemp("f"), feeds)
        try:
            faults.start()
            if case == "disturbed":
                disturb(faults, killed)
            faults.until(faults.played)
            if case == "disturbed":
                faults.until(faults.repaired)
            finish(faults, f"real collectors, {case}")
            found.append(faults.contents())
        finally:
            faults.close()
    undisturbed, disturbed = found
    of_killed = {("orderbook", "binance"), ("ticker", "upbit"), ("trade", "upbit")}
    compare_runs(undisturbed, disturbed, of_killed)


def disturb(faults: Collected, killed: tuple[str, ...]) -> None:
    """Break every process except two collectors while the feed plays."""
    faults.restart(BOOK_WORKER)
    faults.kill_server()
    faults.restart(killed[0])
    faults.restart(TICKER_WORKER)
    faults.pause_server(5)
    faults.restart(killed[1])
    faults.pause(BOOK_WORKER, 3)
    faults.until(faults.caught_up)
    faults.change_columns(
        "alter table trade drop column size",
        "alter table orderbook alter column bid type boolean",
    )
    faults.suspend("ticker", 2)


def compare_runs(undisturbed: Rows, disturbed: Rows, killed: set[tuple[str, str]]) -> None:
    """Compare the market data of rows.

    A killed collector misses frames on their way to it, and publishes the market's state again
    after its restart. Rows of both runs must be equal.
    """
    for which, rows in undisturbed.items():
        assert len(rows) > 50, which
        if which not in killed:
            assert disturbed[which] == rows, which
            continue
        common = rows.keys() & disturbed[which].keys()
        assert len(common) > 0.5 * len(rows), which
        if which[0] != "ticker":
            # by the exchange's id of a book or trade; a book that was fetched again may have fewer
            # known levels than are stored
            end = 4 if which[0] == "orderbook" else None
            once = {row[:3]: row[:end] for row in rows}
            wrong = [row for row in disturbed[which] if once.get(row[:3], row[:end]) != row[:end]]
            assert not wrong, (which, wrong[:3])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_journal_disk_leaves_a_row_for_every_lost_message(short_path: Path) -> None:
    """Without a journal, exactly the messages that a killed worker missed are in `gap`."""
    faults = Faults(short_path, rate=100, COINSPACE_JOURNAL__MIN_FREE_BYTES=str(1 << 62))
    try:
        faults.start()
        time.sleep(2)
        faults.restart(BOOK_WORKER)
        faults.until(faults.caught_up)
        time.sleep(3)
        # only a worker that heard them knows the messages since the last heartbeat
        faults.stop_feeders()
        faults.until(
            lambda: (
                not faults.sql("select 1 from gap where status = 'open'")
                and not any(faults.counter(name, "rows_pending") for name in WORKERS)
                and faults.sql("select sum(sequencerTxn - writerTxn) from wal_tables()") == [(0,)]
            )
        )
        lost = sum(
            check_topic(faults, publisher, kind, market)
            for publisher, kinds in (
                (BOOKS, ("orderbook", "state")),
                (TICKERS, ("ticker", "trade", "state")),
            )
            for kind in kinds
            for market in MARKETS
        )
        check_books(faults)
        report = faults.reconcile()
        total = report["total"]
        assert total["journalled"] == 0
        # reconciling counts a lost repeat as lost; each loss is explained
        assert 0 < total["lost"] <= lost
        assert faults.sql("select sum(count) from gap where status = 'lost'") == [(lost,)]
        assert report["unexplained"] == []
        faults.figures["messages, lost"] = total["lost"]
        save(faults, "journal's disk full, worker killed")
    finally:
        faults.close()


def check_topic(faults: Faults, publisher: str, kind: str, market: str) -> int:
    """Compare every published message with its row or its gap. Returns: the number of lost ones."""
    # a feeder publishes the state once
    sent = 1 if kind == "state" else int(faults.counter(publisher, "sent"))
    where = f"market = '{market}'" + (f" and publisher = '{publisher}'" if kind == "state" else "")
    stored = {seq for (seq,) in faults.sql(f"select seq from {kind} where {where}")}
    ranges = faults.sql(
        f"select first, last, count from gap where kind = '{kind}' and market = '{market}'"
        f" and publisher = '{publisher}' and status = '{gaps.LOST}'"
    )
    lost = [seq for first, last, _ in ranges for seq in range(first, last + 1)]
    assert len(lost) == len(set(lost)) == sum(count for *_, count in ranges)
    # a message is in a row, in a gap, or a repeat of a book; never in two of them
    assert not stored & set(lost)
    repeats = {seq for seq in range(1, sent + 1) if kind == "orderbook" and not seq % 10}
    assert stored | (set(lost) - repeats) == set(range(1, sent + 1)) - repeats
    return len(lost)


def check_books(faults: Faults) -> None:
    """Compare every stored book with the published one."""
    for number, market in enumerate(MARKETS):
        for seq, bids, asks in faults.sql(
            f"select seq, bids, asks from orderbook where market = '{market}'"
        ):
            assert [*bids[0], *bids[1], *asks[0], *asks[1]] == book(seq - 1, number).tolist()
