"""Reading a journal behind its writer: in order, whole, and with a name for all that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coinspace._ext.message import ORDERBOOK
from coinspace._ext.segment import messages
from coinspace.bus.segments import segment_paths
from coinspace.bus.streams import Batch, Lost, packed
from coinspace.bus.tail import CHECKPOINTS, FILE, Checkpoints, Mark, Piece, Place, Progress, Tail
from coinspace.errors import JournalError
from tests.flow.bus_stage import BOOK, PROCESS
from tests.unit.test_journal import OTHER, Written

SIZE = 4096


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path)
    yield written
    written.close()


@pytest.fixture
def tail(written: Written) -> Iterator[Tail]:
    tail = Tail(written.folder, None)
    yield tail
    tail.close()


def pieces(tail: Tail, size: int = SIZE) -> list[Piece]:
    found = []
    while (piece := tail.next(size)) is not None:
        found.append(piece)
    return found


def sequences(found: list[Piece], topic: bytes = BOOK) -> list[int]:
    return [
        one.sequence
        for piece in found
        for one in messages(piece.records, strict=False)
        if one.topic == topic
    ]


def test_all_records_come_once_in_bounded_pieces(written: Written, tail: Tail) -> None:
    assert tail.next(SIZE) is None
    found: list[Piece] = []
    sent = 0
    # several segments, read while they are written
    while len(segment_paths(written.folder)) < 5:
        written.send(100)
        written.send(10, OTHER)
        sent += 1
        found += pieces(tail)
    assert sequences(found) == list(range(1, 100 * sent + 1))
    assert sequences(found, OTHER) == list(range(1, 10 * sent + 1))
    assert all(len(piece.records) <= SIZE and not piece.lost for piece in found)
    assert sum(piece.count for piece in found) == 110 * sent
    assert len({piece.name for piece in found}) == len(found)


def test_it_goes_on_from_any_mark_also_in_a_later_epoch(written: Written, tail: Tail) -> None:
    written.send(300)
    # as after a crash: the segment is not cut to its size
    before = pieces(tail)
    crashed = [(path, path.read_bytes()) for path in segment_paths(written.folder)]
    epoch = written.publisher.epoch
    written.close()
    for path, content in crashed:
        path.write_bytes(content)
    again = Written(written.folder.parent.parent)
    try:
        again.send(20)
        after = pieces(tail)
        assert sequences(after) == list(range(1, 21))
        assert after[0].begin.epoch == again.publisher.epoch
        mark = Mark()
        for number, piece in enumerate(before):
            mark.pass_to(piece.end, piece.lasts)
            resumed = Tail(written.folder, mark)
            rest = [one for one in pieces(resumed) if one.begin.epoch == epoch]
            resumed.close()
            assert sequences(before[: number + 1] + rest) == list(range(1, 301))
            assert not any(one.lost for one in rest)
    finally:
        again.close()


def test_removed_segments_are_lost_by_name(written: Written, tail: Tail) -> None:
    written.send(50)
    first = tail.next(SIZE)
    assert first is not None
    while len(segment_paths(written.folder)) < 5:
        written.send(50)
    written.send(5, OTHER)
    last = written.publisher.topic(BOOK).sequence
    paths = segment_paths(written.folder)
    tail.seek(Mark(first.end, first.lasts))
    for path in paths[:2]:
        path.unlink()
    found = pieces(tail)
    read = sequences(found)
    (lost,) = [one for piece in found for one in piece.lost]
    assert lost == Lost(BOOK, written.publisher.epoch, first.lasts[BOOK] + 1, read[0] - 1)
    assert read == list(range(lost.last + 1, last + 1))
    # what was never followed is not reported: nobody knows whether it was sent
    fresh = Tail(written.folder, None)
    assert not any(piece.lost for piece in pieces(fresh))
    fresh.close()


def test_a_record_larger_than_a_piece_is_one_piece(written: Written, tail: Tail) -> None:
    written.send(1)
    levels = 400
    handle = written.publisher.topic(BOOK)
    written.publisher.publish(handle, ORDERBOOK, np.ones(4 * levels), n_bids=levels, n_asks=levels)
    written.send(1)
    found = pieces(tail, 1024)
    assert [piece.count for piece in found] == [1, 1, 1]
    assert len(found[1].records) > 16 * levels
    assert sequences(found) == [1, 2, 3]


def test_a_damaged_segment_does_not_end_the_reading(written: Written, tail: Tail) -> None:
    while len(segment_paths(written.folder)) < 5:
        written.send(50)
    damaged = segment_paths(written.folder)[1]
    content = bytearray(damaged.read_bytes())
    content[2000] ^= 0xFF
    damaged.write_bytes(content)
    found = pieces(tail)
    (lost,) = [one for piece in found for one in piece.lost]
    last = written.publisher.topic(BOOK).sequence
    missing = set(range(lost.first, lost.last + 1))
    assert sequences(found) == [n for n in range(1, last + 1) if n not in missing]


def test_stored_marks_follow_the_stream_in_bounded_memory() -> None:
    points = Checkpoints(Mark())
    for number in range(1, 1001):
        points.add(number, Place(1 if number < 500 else 2, 1, number), {BOOK: number})
        assert len(points._waiting) <= CHECKPOINTS + 1
    points.release(0)
    assert points.stored.place == Place()
    at = 0
    for number in range(1, 1001):
        points.release(number)
        # never ahead of what is stored
        assert points.stored.place.offset <= max(number, Place().offset)
        assert points.stored.place.offset >= at or at == Place().offset
        at = points.stored.place.offset
    assert points.stored == Mark(Place(2, 1, 1000), {BOOK: 1000})


def test_progress_is_kept_in_a_file(tmp_path: Path) -> None:
    assert Progress.read(tmp_path) == Progress()
    mark = Mark(Place(7, 2, 640), {BOOK: 9})
    progress = Progress("2026-01-01", 12, mark, Mark())
    progress.write(tmp_path)
    assert Progress.read(tmp_path) == progress
    content = (tmp_path / FILE).read_bytes()
    for size in range(len(content)):
        (tmp_path / FILE).write_bytes(content[:size])
        assert Progress.read(tmp_path) == Progress()
    (tmp_path / FILE).write_bytes(b'{"created": 1, "sequence": [], "sent": 3, "stored": null}')
    assert Progress.read(tmp_path) == Progress()


def test_a_batch_has_its_messages_and_what_is_missing(written: Written, tail: Tail) -> None:
    written.send(3)
    (piece,) = pieces(tail)
    lost = [Lost(BOOK, 7, 1, 5)]
    body = packed(piece.records, lost)
    found, missing = Batch(PROCESS, body, 1, "").read()
    assert [one.sequence for one in found] == [1, 2, 3]
    assert missing == lost
    hostile = [
        b"",
        b"\xff\xff\xff\xff",
        packed(b"rubbish"),
        body[:-1],
        b"\4\0\0\0null",
        b"\2\0\0\0[]",
        *(
            len(text).to_bytes(4, "little") + text
            for text in (
                b'{"lost": 1}',
                b'{"lost": [["a.", 1, 1, 1]]}',
                b'{"lost": [["orderbook.a.B/C.", 1, 5, 1]]}',
                b'{"lost": [["orderbook.a.B/C.", 1, 1]]}',
                b'{"lost": [["orderbook.a.B/C.", 1, 1, 99999999999999999999]]}',
                b'{"lost": [[7, 1, 1, 1]]}',
            )
        ),
    ]
    for one in hostile:
        with pytest.raises(JournalError):
            Batch(PROCESS, one, 1, "").read()
