"""The recorder keeps every frame, never blocks, bounds the disk and counts losses."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from coinspace.errors import FeedError
from coinspace.recording import recorder as module
from coinspace.recording.format import FeedReader, FeedWriter, Record
from coinspace.recording.recorder import Recorder
from tests.waiting import wait_for


def read(folder: Path) -> list[Record]:
    records: list[Record] = []
    for path in sorted(folder.glob("*.feed.zst")):
        with FeedReader(path) as reader:
            records += reader
            assert not reader.torn
    return records


def is_recorded(recorder: Recorder, records: int) -> bool:
    return recorder.counters()["recorded"] == records


def test_everything_is_kept_in_order(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "archive", "binance", "orderbook", "wss://x")
    recorder.sent(1, b"subscribe")
    for n in range(20_000):
        recorder.frame(10 + n, b'{"n":%d}' % n)
    recorder.rest(30_000, "/api/v3/depth?symbol=BTCUSDT&limit=5", b"{}")
    recorder.mark("disconnect", reason="reset")
    recorder.close(60)
    records = read(tmp_path / "archive")
    assert [r.payload for r in records if r.direction == "<"] == [
        b'{"n":%d}' % n for n in range(20_000)
    ]
    assert records[0].direction == ">"
    assert records[-2].path == "/api/v3/depth?symbol=BTCUSDT&limit=5"
    assert records[-1].mark() == {"mark": "disconnect", "reason": "reset"}
    counters = recorder.counters()
    assert counters["recorded"] == 20_003
    assert counters["record_dropped"] == counters["record_lost"] == 0


def test_a_stuck_disk_costs_counted_records_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FeedWriter.write

    def slow(*args: object) -> None:
        time.sleep(0.01)
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(FeedWriter, "write", slow)
    recorder = Recorder(tmp_path, "upbit", "trade", "wss://x", queue_records=100)
    begin = time.perf_counter()
    for n in range(50_000):
        recorder.frame(n, b"x")
    # the disk would need minutes
    assert time.perf_counter() - begin < 60
    # room for the last one
    written = recorder.counters()["recorded"]
    wait_for(lambda: recorder.counters()["recorded"] > written + 2)
    recorder.frame(60_000, b"last")
    recorder.close(60)
    records = read(tmp_path)
    dropped = sum(r.mark()["records"] for r in records if r.direction == "!")
    frames = sum(r.direction == "<" for r in records)
    assert dropped == recorder.counters()["record_dropped"] > 40_000
    assert frames + dropped == 50_001
    assert records[-1].payload == b"last"


def test_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "upbit", "trade", "wss://x", queue_bytes=1 << 20)
    for n in range(100):
        recorder.frame(n, bytes(1 << 16))
    assert recorder.counters()["record_dropped"] > 50
    recorder.close(60)


def test_files_rotate_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    recorder = Recorder(
        tmp_path, "upbit", "book", "wss://x", segment_bytes=20_000, max_bytes=100_000
    )
    for n in range(30):
        recorder.frame(n * 10**9, os.urandom(10_000))
        wait_for(partial(is_recorded, recorder, n + 1))
    recorder.close(60)
    counters = recorder.counters()
    assert counters["record_segments"] > 8
    assert counters["record_segments_removed"] > 0
    total = sum(path.stat().st_size for path in tmp_path.glob("*.feed.zst"))
    assert total < 100_000 + 2 * 30_000
    # the newest part is left
    kept = read(tmp_path)
    assert kept[-1].received_ns == 29 * 10**9
    assert kept[0].received_ns > 0


def test_a_disk_that_refuses_writes_is_counted_and_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 3600.0)
    write = FeedWriter.write
    failing = [True]

    def refuse(*args: object) -> None:
        if failing[0]:
            raise OSError(28, "No space left on device")
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(FeedWriter, "write", refuse)
    recorder = Recorder(tmp_path, "upbit", "book", "wss://x")
    recorder.frame(1, b"lost")
    wait_for(lambda: recorder.counters()["record_errors"] == 1)
    recorder.frame(2, b"lost too")
    wait_for(lambda: recorder.counters()["record_lost"] == 2)
    # the time of the next try has come
    failing[0], recorder._retry_s = False, 0.0
    recorder.frame(3, b"kept")
    recorder.close(60)
    counters = recorder.counters()
    assert counters["record_errors"] == 1
    assert counters["record_lost"] == 2
    assert [r.payload for r in read(tmp_path) if r.direction == "<"] == [b"kept"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FeedError, match="expected a folder"):
        Recorder(tmp_path / "file" / "archive", "upbit", "book", "wss://x")
