"""The spool reaches the disk: one fsync for many records, none on the loop's time."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from coinspace.index import spool as spools
from coinspace.index.records import Row
from coinspace.index.spool import Spool

ROW = Row("index_tick", 5, {"asset": "BTC"}, {"value": 1.0})


def test_records_that_come_during_a_sync_share_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    threads: set[str] = set()

    def slow(descriptor: int) -> None:
        threads.add(threading.current_thread().name)
        begun.set()
        assert go.wait(60)

    monkeypatch.setattr(os, "fsync", slow)
    spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
    assert spool.add([ROW])
    assert begun.wait(60)
    # the disk stands still, and nobody waits for it
    for _ in range(1000):
        assert spool.add([ROW])
    go.set()
    spool.close()
    assert (spool.syncs, spool.sync_failures) == (2, 0)
    assert threading.main_thread().name not in threads


def test_a_sync_that_fails_is_counted_and_a_drained_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
        assert spool.add([ROW])
        spool.close()
    assert (spool.syncs, spool.sync_failures) == (0, 1)
    again = Spool(tmp_path / "spool.jsonl", 1 << 20)
    assert again.drain(lambda row: True, 10) == 1
    again._sync()
    assert (again.syncs, again.sync_failures) == (0, 0)
    again.close()


def test_the_folder_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(spools, "sync_folder", synced.append)
    spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
    spool.add([ROW])
    spool.close()
    assert synced == [tmp_path]
