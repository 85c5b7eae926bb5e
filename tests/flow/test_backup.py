"""A backup of a running platform, restored on an empty folder, where everything goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from coinspace.clock import now_ns
from tests.flow.platform import Platform, environment, platform, query
from tests.waiting import wait_for

TABLES = ("orderbook", "ticker", "trade", "index_tick")


def rows(data: Path) -> dict[str, int]:
    return {table: query(data, f"select count() from {table}")[0][0] for table in TABLES}


def stored(running: Platform, begin_ms: int, end_ms: int) -> bool:
    """Return whether all messages of a time are stored or explained."""
    times = ("--from", str(begin_ms), "--to", str(end_ms))
    done = running.run("reconcile", "--json", *times)
    total = orjson.loads(done.stdout)["total"] if done.stdout else {}
    return done.returncode == 0 and total["received"] > 0


def restore(made: Path, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coinspace", "restore", str(made)],
        env=environment(data, 0),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.timeout(600)
def test_a_backup_of_a_running_platform_loses_nothing(tmp_path: Path) -> None:
    first, second, made = (tmp_path / name for name in ("a", "b", "backup"))
    first.mkdir()
    begin_ms = now_ns() // 1_000_000
    with platform(first) as running:
        wait_for(lambda: running.get("/readyz"), "a working platform", limit_s=240)
        wait_for(lambda: all(rows(first).values()), "rows in every table")
        before, end_ms = rows(first), now_ns() // 1_000_000
        done = running.run("backup", str(made))
        assert done.returncode == 0, done.stderr
        # neither the backup nor the data of a platform is overwritten
        assert "expected no such file or folder" in running.run("backup", str(made)).stderr
        assert "expected an empty one, found files" in restore(made, first).stderr
        # the server goes on storing rows
        wait_for(lambda: rows(first)["orderbook"] > before["orderbook"], "later rows")
        running.stop()
    shutil.rmtree(first)
    done = restore(made, second)
    assert done.returncode == 0, done.stderr
    with platform(second) as running:
        wait_for(lambda: running.get("/readyz"), "a working platform", limit_s=240)
        assert all(count >= before[table] for table, count in rows(second).items())
        # what the database did not have yet comes from the journals
        wait_for(lambda: stored(running, begin_ms, end_ms), "all earlier messages", limit_s=120)
