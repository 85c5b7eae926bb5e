"""Faults on real processes: what was published is in the database exactly once, and reconciles.

The short form runs in the normal suite, the long one with `make faults`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.faults import BOOKS, TICKERS, WORKERS, Faults

# where `make report` looks for figures
FIGURES = Path(__file__).resolve().parents[2] / "build" / "figures"
BOOK_WORKER, TICKER_WORKER = WORKERS


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose sockets' paths are short enough."""
    return tmp_path_factory.mktemp("f")


@pytest.fixture
def faults(short_path: Path) -> Iterator[Faults]:
    made = Faults(short_path, rate=100)
    try:
        made.start()
        yield made
    finally:
        made.close()


def finish(faults: Faults, name: str, timeout_s: float) -> dict[str, Any]:
    """Stop publishing, wait until all is stored, compare and reconcile."""
    faults.stop_feeders()
    began = time.monotonic()
    faults.until(faults.settled, timeout_s)
    faults.figures["settled_s"] = round(time.monotonic() - began, 2)
    outcome = faults.compare()
    report = faults.reconcile()
    faults.figures |= {"outcome": outcome, "reconcile": report["total"], "load": os.getloadavg()}
    faults.figures["reconnections"] = {
        worker: faults.counter(worker, "flush_retries") for worker in WORKERS
    }
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(faults.figures, indent=2))
    assert outcome["published"] > 0
    assert {k: v for k, v in outcome.items() if k != "published"} == {
        "lost": 0,
        "duplicated": 0,
        "wrong": 0,
        "unknown": 0,
    }
    assert report["unexplained"] == []
    assert report["exit_code"] == 0
    return report


@pytest.mark.timeout(240)
def test_short_matrix(faults: Faults) -> None:
    time.sleep(1)
    # the worker dies in the middle of a batch
    faults.restart(BOOK_WORKER)
    # the database dies and comes back by itself
    faults.figures["first_row_after_return_s"] = faults.kill_server()
    # the database hangs: the loops go on
    faults.pause_server(3)
    # a collector dies and is started again: a new epoch, a few trades twice
    faults.restart(TICKERS)
    # somebody changes a column
    faults.until(lambda: faults.state(BOOK_WORKER) == "ready", 60)
    faults.sql("alter table orderbook alter column ask_size type varchar")
    faults.until(faults.mended, 60)
    report = finish(faults, "faults_short", 90)
    assert report["total"]["lost"] == report["total"]["dead"] == 0
    assert faults.sql("select distinct status from gap where kind != 'venue'") == [("filled",)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_long_matrix(short_path: Path) -> None:
    """Every fault of the list, twenty kills among them, in one run."""
    seed = int(os.environ.get("COINSPACE_SEED", "1"))
    rng = random.Random(seed)
    faults = Faults(short_path, rate=200, COINSPACE_STORAGE__MEMORY_MB="16")
    faults.figures["seed"] = seed
    try:
        faults.start()
        for _ in range(20):
            time.sleep(rng.uniform(0.2, 3))
            faults.restart(rng.choice(WORKERS))
        faults.until(lambda: all(faults.state(name) == "ready" for name in WORKERS), 120)

        faults.figures["first_row_after_kill_s"] = [faults.kill_server() for _ in range(3)]
        faults.pause_server(60)
        faults.figures["drain"] = outage(faults, 120)

        # a subscriber that stops loses what its queue cannot hold
        pid = faults.processes[BOOK_WORKER].pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(30)
        os.kill(pid, signal.SIGCONT)

        faults.restart(BOOKS)
        faults.restart(TICKERS)

        faults.sql("alter table orderbook suspend wal")
        faults.until(lambda: "suspended" in faults.reason(BOOK_WORKER), 30)
        assert "ALTER TABLE orderbook RESUME WAL" in faults.reason(BOOK_WORKER)
        time.sleep(5)
        faults.sql("alter table orderbook resume wal")
        faults.until(lambda: faults.state(BOOK_WORKER) == "ready", 60)

        faults.sql("alter table trade alter column price type boolean")
        faults.sql("alter table orderbook drop column asks")
        faults.until(faults.mended, 120)
        finish(faults, "faults_long", 300)
        assert max(faults.figures["worker_rss_mb"].values()) < 400
    finally:
        faults.close()


def outage(faults: Faults, seconds: float) -> dict[str, float]:
    """Stop the database for a while, start it, measure the return and the drain of the backlog."""
    os.kill(faults.processes["questdb"].pid, signal.SIGTERM)
    faults.processes["questdb"].wait(60)
    began = time.monotonic()
    time.sleep(seconds)
    before = {name: faults.counter(name, "rows_stored") for name in WORKERS}
    faults.spawn("questdb")
    faults.until(lambda: faults.state("questdb") == "ready", 120)
    returned = time.monotonic()
    away = returned - began
    faults.until(lambda: faults.counter(BOOK_WORKER, "rows_stored") > before[BOOK_WORKER], 60)
    first_row = time.monotonic() - returned
    faults.until(
        lambda: all(
            faults.counter(name, "messages_missing") == 0
            and faults.counter(name, "oldest_pending_s") < 1
            for name in WORKERS
        ),
        300,
    )
    drained = time.monotonic() - returned
    rows = sum(faults.counter(name, "rows_stored") - before[name] for name in WORKERS)
    live = faults.rate * 2 * 2.9
    return {
        "down_s": round(away, 1),
        "first_row_s": round(first_row, 2),
        "drained_s": round(drained, 2),
        "rows_per_s": round(rows / drained),
        "times_live_rate": round(rows / drained / live, 1),
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_journal_disk_full_leaves_a_row_for_every_lost_message(short_path: Path) -> None:
    """Without a journal to ask, what a killed worker missed is in `gap` instead."""
    faults = Faults(short_path, rate=100, COINSPACE_JOURNAL__MIN_FREE_BYTES=str(1 << 62))
    try:
        faults.start()
        time.sleep(2)
        faults.restart(BOOK_WORKER)
        faults.until(lambda: faults.state(BOOK_WORKER) == "ready", 60)
        time.sleep(3)
        faults.stop_feeders()
        faults.until(lambda: not faults.counter(BOOK_WORKER, "messages_missing"), 60)
        report = faults.reconcile()
        assert report["total"]["journalled"] == 0
        assert report["total"]["lost"] > 0
        assert report["total"]["unexplained"] <= report["total"]["published"] * 0.1, (
            "repeats cannot be told from losses without a journal"
        )
    finally:
        faults.close()
