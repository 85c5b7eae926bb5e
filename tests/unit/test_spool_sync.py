"""The spool reaches the disk: one fsync for many records, none in the event loop."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coinspace.index import spool as spools
from coinspace.index.spool import Spool
from coinspace.storage.records import Row

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
    # the disk hangs, and no caller waits for it
    for _ in range(1000):
        assert spool.add([ROW])
    go.set()
    spool.close()
    assert (spool.syncs, spool.sync_failures) == (2, 0)
    assert threading.main_thread().name not in threads


def test_a_failed_sync_is_counted_and_a_drained_file_is_not_synced(
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


def _row(number: int) -> Row:
    return Row("index_tick", number, {"asset": "BTC"}, {"value": 1.0})


def _into(found: list[int]) -> Callable[[Row], bool]:
    def take(row: Row) -> bool:
        found.append(row.at_ns)
        return True

    return take


def _full(spool: Spool) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_records_wait_in_memory_in_order_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "_open", _full)
        assert all(spool.add([_row(number)]) for number in (1, 2))
        assert spool.pending
    assert spool.add([_row(3)])
    spool.close()
    again = Spool(tmp_path / "spool.jsonl", 1 << 20)
    found: list[int] = []
    assert again.drain(_into(found), 10) == 3
    assert found == [1, 2, 3]
    assert not again.pending


def test_records_in_memory_are_read_while_the_disk_is_full_and_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
    found: list[int] = []
    monkeypatch.setattr(Spool, "_open", _full)
    line = len(b'[["index_tick",0,{"asset":"BTC"},{"value":1.0}]]\n')
    monkeypatch.setattr(spools, "MEMORY_BYTES", 2 * line)
    taken = [spool.add([_row(number)]) for number in range(5)]
    assert taken == [True, True, False, False, False]
    assert spool.drain(_into(found), 1) == 1
    assert spool.drain(lambda row: False, 10) == 0
    assert spool.pending
    assert spool.drain(_into(found), 10) == 1
    assert found == [0, 1]
    assert not spool.pending


def test_a_line_that_a_full_disk_took_in_part_is_written_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl", 1 << 20)
    found: list[int] = []
    spool.add([_row(1)])
    file = spool._file
    assert file is not None

    class Short(io.BytesIO):
        def write(self, line: Any) -> int:
            assert file is not None
            file.seek(0, os.SEEK_END)
            return file.write(bytes(line)[:9])

    spool._file = Short()
    assert spool.add([_row(2)])
    spool._file = file
    assert spool.drain(_into(found), 10) == 2
    assert found == [1, 2]
    assert spool.torn == 0
    assert not (tmp_path / "spool.jsonl").exists()
