"""Journal segments: written, read, cut and damaged at every byte, bounded, full."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from coinspace._ext.message import ORDERBOOK, STATE
from coinspace._ext.publisher import ZmqSink
from coinspace._ext.segment import SEGMENT_HEAD_SIZE, SegmentIndex, messages, select
from coinspace.bus import journal as journal_module
from coinspace.bus.commands import journal as journal_command
from coinspace.bus.journal import Journal
from coinspace.bus.publisher import Publisher
from coinspace.bus.segments import (
    JournalReader,
    SegmentFile,
    oldest_ns,
    read_journal,
    segment_paths,
)
from coinspace.clock import monotonic_ns, now_ns
from coinspace.config import JournalSettings, Settings
from coinspace.errors import JournalError
from tests.flow.bus_stage import BOOK, PROCESS, next_epoch, settings_in
from tests.waiting import wait_for

OTHER = b"orderbook.upbit.ETH/KRW."
SMALL = JournalSettings(segment_bytes=1 << 16, max_bytes=1 << 20, min_free_bytes=0)


class Written:
    """A publisher with a small journal and no subscriber."""

    def __init__(self, folder: Path, settings: JournalSettings = SMALL) -> None:
        self.settings = settings_in(folder)
        self.folder = self.settings.data / "journal" / PROCESS
        self.journal = Journal(self.folder, settings, next_epoch())
        self.publisher = Publisher(
            PROCESS, self.settings.bus, self.journal.epoch, journal=self.journal
        )

    def send(self, n: int, topic: bytes = BOOK, *, wait: bool = True) -> None:
        handle = self.publisher.topic(topic)
        for _ in range(n):
            if wait:
                # the test would be faster than the keeper, unlike a live feed
                self.wait()
            levels = np.full(8, handle.sequence + 1.0)
            self.publisher.publish(handle, ORDERBOOK, levels, n_bids=2, n_asks=2)

    def wait(self) -> None:
        wait_for(lambda: self.journal.writer.has_next or self.journal.problem)

    def close(self) -> None:
        self.publisher.close()


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path)
    yield written
    written.close()


def sequences(folder: Path, topic: bytes = BOOK) -> list[int]:
    return [m.sequence for m in read_journal(folder) if m.topic == topic]


def test_written_messages_are_read_back(written: Written) -> None:
    written.send(3)
    state = written.publisher.topic(b"state.upbit.BTC/KRW.")
    written.publisher.publish(state, STATE, b'{"state":"synced"}', received_ns=5, id=9)
    written.publisher.heartbeat()
    read = list(read_journal(written.folder))
    assert [(m.topic, m.sequence) for m in read] == [
        (BOOK, 1),
        (BOOK, 2),
        (BOOK, 3),
        (state.name, 1),
    ]
    assert all(m.epoch == written.publisher.epoch and m.published_ns for m in read)
    assert all(m.bids.flags.aligned for m in read[:3])
    assert read[1].asks.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert (read[3].json(), read[3].received_ns, read[3].id) == ({"state": "synced"}, 5, 9)
    counters = written.publisher.counters()
    assert (counters["journal_written"], counters["journal_skipped"]) == (4, 0)


def test_segments_follow_each_other_without_a_gap(written: Written) -> None:
    written.send(2000)
    assert sequences(written.folder) == list(range(1, 2001))
    assert len(segment_paths(written.folder)) >= 5
    written.close()
    paths = segment_paths(written.folder)
    assert [SegmentFile(path).number for path in paths] == list(range(1, len(paths) + 1))
    # closed segments are cut to their content: only whole records
    for path in paths:
        messages(path.read_bytes()[SEGMENT_HEAD_SIZE:])


def test_segments_of_other_times_are_left_out(written: Written) -> None:
    written.send(2000)
    written.close()
    paths = segment_paths(written.folder)
    files = [SegmentFile(path) for path in paths]
    for file in files:
        file.refresh()
    assert oldest_ns(written.folder) == files[0].created_ns
    ((middle,), (following,)) = (files[2].runs, files[3].runs)
    found = list(read_journal(written.folder, middle.started_ns, following.started_ns))
    assert [m.sequence for m in found] == list(range(middle.first, middle.last + 1))
    assert list(read_journal(written.folder, files[-1].runs[-1].ended_ns + 1)) == []
    # a segment that was deleted before it is read, as a live writer deletes the oldest
    paths[0].unlink()
    assert sequences(written.folder)[0] == files[1].runs[0].first
    assert oldest_ns(written.folder / "none") is None


def test_a_tail_cut_at_every_byte_loses_only_its_record(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(5)
    written.close()
    (path,) = segment_paths(written.folder)
    whole = path.read_bytes()
    index = SegmentIndex()
    index.extend(whole[SEGMENT_HEAD_SIZE:])
    assert (index.records, index.end, index.torn) == (5, len(whole), False)
    record = (len(whole) - SEGMENT_HEAD_SIZE) // 5
    for size in range(len(whole) - record, len(whole)):
        path.write_bytes(whole[:size])
        assert sequences(written.folder) == [1, 2, 3, 4], size
        file = SegmentFile(path)
        file.refresh()
        # a cut between records is not reported, a cut through a record is
        assert file.index.torn == (size > len(whole) - record)
        # zeros follow it, as in a segment with reserved blocks
        path.write_bytes(whole[:size] + bytes(4096))
        assert sequences(written.folder) == [1, 2, 3, 4], size


def test_damage_at_every_byte_is_seen(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(3)
    written.close()
    (path,) = segment_paths(written.folder)
    whole = path.read_bytes()
    record = (len(whole) - SEGMENT_HEAD_SIZE) // 3
    start = SEGMENT_HEAD_SIZE + record
    for at in range(start, start + record):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        assert sequences(written.folder) == [1], at
    for at in range(SEGMENT_HEAD_SIZE):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        with pytest.raises(JournalError, match="segment head"):
            SegmentFile(path)


def test_a_record_without_its_first_word_is_the_end(tmp_path: Path) -> None:
    # a kill between the body and the first word leaves this behind
    written = Written(tmp_path)
    written.send(3)
    written.close()
    (path,) = segment_paths(written.folder)
    data = bytearray(path.read_bytes())
    record = (len(data) - SEGMENT_HEAD_SIZE) // 3
    data[-record : -record + 8] = bytes(8)
    path.write_bytes(data)
    assert sequences(written.folder) == [1, 2]


@pytest.mark.parametrize("limit", [1, 200, 1000, 1 << 20])
def test_a_range_is_fetched_oldest_first_in_parts(written: Written, limit: int) -> None:
    for _ in range(300):
        written.send(1)
        written.send(2, OTHER)
    reader = JournalReader(written.folder)
    reader.refresh()
    assert reader.ranges() == {written.publisher.epoch: {BOOK: [(1, 301)], OTHER: [(1, 601)]}}
    first, found = 5, []
    for _ in range(700):
        chunk = reader.fetch(OTHER, written.publisher.epoch, first, 590, limit)
        found += messages(chunk.records)
        assert len(chunk.records) <= limit + 168
        assert chunk.missing == []
        first = chunk.next
        if chunk.done:
            break
    assert [m.sequence for m in found] == list(range(5, 590))
    assert {m.topic for m in found} == {OTHER}
    # the same again from the middle, and beyond the end
    chunk = reader.fetch(OTHER, written.publisher.epoch, 599, 610)
    assert [m.sequence for m in messages(chunk.records)] == [599, 600]
    assert (chunk.missing, chunk.next, chunk.done) == ([(601, 610)], 610, True)
    assert reader.fetch(OTHER, 77, 1, 3).missing == [(1, 3)]
    assert reader.fetch(b"trade.upbit.BTC/KRW.", written.publisher.epoch, 1, 3).n_records == 0


def test_a_reader_follows_the_writer(written: Written) -> None:
    reader = JournalReader(written.folder)
    for n in range(1, 40):
        written.send(25)
        reader.refresh()
        assert reader.ranges()[written.publisher.epoch][BOOK] == [(1, 25 * n + 1)]


def test_old_segments_go_by_size_oldest_first(tmp_path: Path) -> None:
    written = Written(tmp_path)
    # 1 MiB holds 16 segments of 64 KiB; this needs about 40
    written.send(14_000)
    written.close()
    assert sum(path.stat().st_size for path in segment_paths(written.folder)) <= 1 << 20
    held = sequences(written.folder)
    assert held == list(range(held[0], 14_001))
    assert 4_000 < len(held) < 8_000
    reader = JournalReader(written.folder)
    reader.refresh()
    chunk = reader.fetch(BOOK, written.publisher.epoch, 1, held[0] + 3)
    assert chunk.missing == [(1, held[0])]
    assert [m.sequence for m in messages(chunk.records)] == [held[0], held[0] + 1, held[0] + 2]
    assert written.journal.counters()["journal_segments_removed"] > 10


def test_old_segments_go_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(tmp_path)
    written.send(1500)
    before = len(segment_paths(written.folder))
    assert before > 4
    later_ns = 86_401 * 10**9
    wall, steady = now_ns, monotonic_ns
    monkeypatch.setattr(journal_module, "now_ns", lambda: wall() + later_ns)
    # setting a clock forward by days makes no segment older
    written.journal._prune(0)
    assert len(segment_paths(written.folder)) >= before
    monkeypatch.setattr(journal_module, "monotonic_ns", lambda: steady() + later_ns)
    written.journal._wake.set()
    wait_for(lambda: len(segment_paths(written.folder)) <= 2)
    # the open segment stays, and writing continues
    written.send(10)
    held = sequences(written.folder)
    assert held == list(range(held[0], 1511))
    written.close()


def test_a_journal_that_is_too_short_is_reported_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with capture_logs() as lines:
        written = Written(tmp_path)
        written.send(14_000)
        written.close()
    assert written.journal.removed > 10
    (short,) = [one for one in lines if "journal shorter" in one["event"]]
    assert short["log_level"] == "warning"
    # in whole seconds
    assert 0 <= short["age_s"] <= time.monotonic() - began + 1
    assert (short["max_age_s"], short["max_bytes"]) == (SMALL.max_age_s, SMALL.max_bytes)
    assert "journal.max_bytes" in short["event"]


def test_epochs_are_kept_over_restarts(tmp_path: Path) -> None:
    epochs = []
    for n in (10, 20, 30):
        written = Written(tmp_path)
        written.send(n)
        epochs.append(written.publisher.epoch)
        written.close()
    reader = JournalReader(written.folder)
    reader.refresh()
    assert {epoch: topics[BOOK] for epoch, topics in reader.ranges().items()} == {
        epochs[0]: [(1, 11)],
        epochs[1]: [(1, 21)],
        epochs[2]: [(1, 31)],
    }


def test_one_writer_per_folder(written: Written) -> None:
    with pytest.raises(JournalError, match="expected no other process, found process"):
        Journal(written.folder, SMALL, next_epoch())


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="expected a writable folder"):
        Journal(tmp_path / "file" / "journal", SMALL, next_epoch())


def test_a_message_larger_than_a_segment_is_published_and_counted(written: Written) -> None:
    topic = written.publisher.topic(b"state.upbit.BTC/KRW.")
    written.publisher.publish(topic, STATE, bytes(1 << 16))
    written.send(1)
    assert written.publisher.counters()["journal_skipped"] == 1
    assert sequences(written.folder) == [1]


def test_little_disk_stops_journalling_and_room_resumes_it(tmp_path: Path) -> None:
    settings = SMALL.model_copy()
    written = Written(tmp_path, settings)
    written.send(10)
    # less free than wanted: no further segment is made
    settings.min_free_bytes = 1 << 60
    written.send(2000, wait=False)
    written.journal._wake.set()
    wait_for(lambda: written.publisher.problem)
    assert "bytes free" in (written.publisher.problem or "")
    written.send(2000, wait=False)
    counters = written.publisher.counters()
    assert counters["journal_stopped"] == 1
    assert counters["journal_skipped"] > 0
    assert (
        counters["journal_skipped"] + counters["journal_written"] == counters["published"] == 4010
    )
    settings.min_free_bytes = 0
    written.journal._wake.set()
    wait_for(lambda: not written.publisher.counters()["journal_stopped"])
    written.send(50)
    held = sequences(written.folder)
    assert held[-50:] == list(range(3961 + 50, 4061))
    reader = JournalReader(written.folder)
    reader.refresh()
    chunk = reader.fetch(BOOK, written.publisher.epoch, 1, 4061, 1 << 30)
    missing = sum(end - first for first, end in chunk.missing)
    assert missing == counters["journal_skipped"]
    assert chunk.n_records + missing == 4060
    written.close()


def test_select_copies_only_the_range(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(5)
    written.send(5, OTHER)
    written.close()
    (path,) = segment_paths(written.folder)
    data = path.read_bytes()[SEGMENT_HEAD_SIZE:]
    records, count, following, _, full = select(data, OTHER, 2, 4, 1 << 20)
    assert [m.sequence for m in messages(records)] == [2, 3]
    assert (count, following, full) == (2, 4, False)
    with pytest.raises(JournalError, match="cut or damaged at byte"):
        messages(records[:-1])


def test_a_sink_without_a_journal_writes_none(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    publisher = Publisher(PROCESS, settings.bus, next_epoch())
    assert isinstance(publisher, ZmqSink)
    assert publisher.problem is None
    publisher.close()
    assert not (settings.data / "journal").exists()


def run_command(settings: Settings, *args: str) -> tuple[int, list[dict[str, object]], str]:
    folder = f"{settings.data}/journal/{PROCESS}"
    result = CliRunner().invoke(journal_command, [args[0], folder, *args[1:]])
    rows = [orjson.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, rows, result.stdout


def test_the_commands_print_the_contents_of_the_journal(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(10)
    written.send(4, OTHER)
    written.close()
    code, rows, _ = run_command(written.settings, "ls", "--json")
    assert code == 0
    assert [(row["topic"], row["ranges"], row["messages"]) for row in rows] == [
        (BOOK.decode(), [[1, 11]], 10),
        (OTHER.decode(), [[1, 5]], 4),
    ]
    code, rows, _ = run_command(
        written.settings,
        "cat",
        "--json",
        "--topic",
        "orderbook.upbit.ETH",
        "--first",
        "2",
        "--end",
        "4",
    )
    assert [(row["sequence"], row["bids"]) for row in rows] == [
        (2, [[2.0, 2.0], [2.0, 2.0]]),
        (3, [[3.0, 3.0], [3.0, 3.0]]),
    ]
    _, _, text = run_command(written.settings, "cat", "--limit", "1")
    assert text.count("\n") == 1
    assert "bids=2 asks=2" in text
    code, rows, _ = run_command(written.settings, "verify", "--json")
    assert (code, [row["problems"] for row in rows]) == (0, [[]])
    (path,) = segment_paths(written.folder)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, rows, _ = run_command(written.settings, "verify", "--json")
    assert code == 1
    assert "not a whole record" in str(rows[0]["problems"])
