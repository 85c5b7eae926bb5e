"""Read a journal folder: its ranges and the records of a range. Needs no running writer."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import structlog

from coinspace._ext.message import Message
from coinspace._ext.segment import (
    SEGMENT_HEAD_SIZE,
    SegmentIndex,
    messages,
    read_head,
    select,
)
from coinspace.clock import SECOND_NS
from coinspace.errors import JournalError

SUFFIX = ".journal"
# bytes read at once while looking for records: bounds memory, not the answer
WINDOW_BYTES = 4 << 20
# larger than any record: the bus accepts messages of 16 MiB at most
WINDOW_LIMIT = 32 << 20
# the first word of a record, which the writer stores last
WORD_BYTES = 8
CHUNK_BYTES = 1 << 20
FOR_EVER_NS = (1 << 63) - 1
# the newest segments, which cover minutes to hours
RATE_SEGMENTS = 16

# half-open ranges of sequences by epoch and topic
Ranges = dict[int, dict[bytes, list[tuple[int, int]]]]

log = structlog.get_logger("segments")


class Run(NamedTuple):
    """Consecutive sequences of one topic within one segment; offsets are bytes of the file."""

    topic: bytes
    first: int
    last: int
    offset: int
    end: int
    started_ns: int
    ended_ns: int


@dataclass
class Chunk:
    """A part of an answer, oldest first: records, and the missing ranges before `next`.

    Attributes:
        records: bytes of the journal.
        n_records: number of records.
        next: first sequence of the next chunk.
        missing: half-open ranges of sequences that the journal does not have.
        done: whether this chunk completes the range.
    """

    records: bytes
    n_records: int
    next: int
    missing: list[tuple[int, int]]
    done: bool

    @cached_property
    def messages(self) -> list[Message]:
        """The messages of the records. Raises: MessageError."""
        return messages(self.records)


def segment_path(folder: Path, epoch: int, number: int) -> Path:
    """Return the path of a segment; sorted names are in the order of writing."""
    return folder / f"{epoch:020}-{number:08}{SUFFIX}"


def segment_paths(folder: Path) -> list[Path]:
    """Return a folder's segments, oldest first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(SUFFIX)]


def oldest_ns(folder: Path) -> int | None:
    """Return the start of the oldest readable segment in ns, None when there is none."""
    for path in segment_paths(folder):
        with contextlib.suppress(JournalError, OSError):
            return SegmentFile(path).created_ns
    return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a segment for reading. Raises: JournalError for a pipe or a folder, OSError."""
    # opening a pipe without a writer would block for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise JournalError(f"{path}: expected a regular file, was a pipe, folder or device")
        yield descriptor
    finally:
        os.close(descriptor)


def horizon_s(folder: Path, max_bytes: int) -> float | None:
    """Return how many seconds fit in a journal of `max_bytes` at its latest write rate.

    None when too little was written to know the rate.
    """
    sizes: list[tuple[int, int]] = []
    for path in segment_paths(folder)[-RATE_SEGMENTS:]:
        with contextlib.suppress(JournalError, OSError):
            sizes.append((SegmentFile(path).created_ns, path.stat().st_size))
    if len(sizes) < 3:
        return None
    # The newest segment is reserved and the one before is being written: both are left out. The
    # keeper makes a segment when the writing of the one before begins.
    written = sum(size for _, size in sizes[:-2])
    took_ns = sizes[-1][0] - sizes[1][0]
    if took_ns <= 0 or written <= 0:
        return None
    return max_bytes * took_ns / SECOND_NS / written


class SegmentFile:
    """One segment and the index of its records so far.

    Raises: JournalError when the head is damaged; OSError when the file is gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            head = os.pread(file, SEGMENT_HEAD_SIZE, 0)
        try:
            self.epoch, self.number, self.created_ns = read_head(head)
        except JournalError as error:
            raise JournalError(f"{path}: {error}") from None
        self.index = SegmentIndex()
        self._complete = False
        self._runs: list[Run] | None = None

    def refresh(self) -> None:
        """Index the records that were added since the last call."""
        if self._complete:
            return
        index, size = self.index, WINDOW_BYTES
        with _opened(self.path) as file:
            # the writer closed the segment and cut it after its last record
            self._complete = os.fstat(file).st_size == index.end
            while any(os.pread(file, WORD_BYTES, index.end)):
                data = os.pread(file, size, index.end)
                before = index.end
                index.extend(data)
                self._runs = None
                if index.end == before:
                    if len(data) < size or size >= WINDOW_LIMIT:
                        # no whole record up to the end of the file, or an oversized one
                        return
                    size *= 2

    @property
    def runs(self) -> list[Run]:
        if self._runs is None:
            self._runs = [Run(*run) for run in self.index.runs]
        return self._runs

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the file. It is not mapped: the writer may cut it."""
        with _opened(self.path) as file:
            return os.pread(file, size, offset)


class JournalReader:
    """Reads the segments of one process, of all its epochs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: dict[Path, str] = {}
        self._files: dict[Path, SegmentFile] = {}
        # (path, topic) -> (sequence, offset) at the end of the last answer
        self._resume: dict[tuple[Path, bytes], tuple[int, int]] = {}

    def refresh(self) -> list[SegmentFile]:
        """Read the folder again. Returns: its readable segments, oldest first."""
        paths = segment_paths(self.folder)
        self.damaged = {path: self.damaged[path] for path in paths if path in self.damaged}
        for path in self._files.keys() - set(paths):
            del self._files[path]
            self._resume = {key: at for key, at in self._resume.items() if key[0] != path}
        for path in paths:
            try:
                if path not in self._files and path not in self.damaged:
                    self._files[path] = SegmentFile(path)
                if path in self._files:
                    self._files[path].refresh()
            except OSError:
                # removed meanwhile, or unreadable for now
                self._files.pop(path, None)
            except JournalError as error:
                self._files.pop(path, None)
                self.damaged[path] = str(error)
        return [self._files[path] for path in paths if path in self._files]

    def ranges(self) -> Ranges:
        """Return the half-open ranges of sequences by epoch and topic."""
        found: Ranges = {}
        for file in self.refresh():
            for run in file.runs:
                ranges = found.setdefault(file.epoch, {}).setdefault(run.topic, [])
                if ranges and ranges[-1][1] == run.first:
                    ranges[-1] = (ranges[-1][0], run.last + 1)
                else:
                    ranges.append((run.first, run.last + 1))
        return found

    def fetch(
        self,
        topic: bytes,
        epoch: int,
        first: int,
        end: int | None = None,
        limit: int = CHUNK_BYTES,
    ) -> Chunk:
        """Return the oldest records of [first, end), about `limit` bytes; None = to the last.

        The last record may exceed the limit. A record that was removed meanwhile counts as missing.
        """
        parts: list[bytes] = []
        missing: list[tuple[int, int]] = []
        count, room, want = 0, limit, first
        for file in self.refresh():
            if file.epoch != epoch:
                continue
            for run in file.runs:
                if run.topic != topic or run.last < want:
                    continue
                if end is not None and run.first >= end:
                    break
                stop = run.last + 1 if end is None else min(run.last + 1, end)
                start = max(want, run.first)
                try:
                    part, n, reached = self._select(file, run, start, stop, room)
                except (OSError, JournalError):
                    continue
                if not n:
                    continue
                if start > want:
                    missing.append((want, start))
                parts.append(part)
                count, room, want = count + n, room - len(part), reached
                if reached < stop or room <= 0:
                    return Chunk(b"".join(parts), count, want, missing, want == end)
        if end is not None and want < end:
            missing.append((want, end))
            want = end
        return Chunk(b"".join(parts), count, want, missing, True)

    def _select(
        self, file: SegmentFile, run: Run, first: int, end: int, limit: int
    ) -> tuple[bytes, int, int]:
        key = (file.path, run.topic)
        sequence, offset = self._resume.get(key, (0, 0))
        if not (run.offset < offset <= run.end and sequence <= first):
            offset = run.offset
        parts, count, size, full = [], 0, WINDOW_BYTES, False
        while offset < run.end and first < end and limit > 0 and not full:
            data = file.read(offset, min(size, run.end - offset))
            part, n, first, consumed, full = select(data, run.topic, first, end, limit)
            if not consumed and not full:
                if len(data) >= run.end - offset:
                    break
                # one record larger than the window
                size = run.end - offset
                continue
            parts.append(part)
            count, limit, offset = count + n, limit - len(part), offset + consumed
        self._resume[key] = (first, offset)
        return b"".join(parts), count, first


def read_journal(folder: Path, from_ns: int = 0, to_ns: int = FOR_EVER_NS) -> Iterator[Message]:
    """Yield every recorded message of a journal folder, in order of writing.

    Segments outside [from_ns, to_ns) are skipped. A segment is read up to its first incomplete
    record. Damaged segments and messages of another release are skipped and logged.
    """
    for path in segment_paths(folder):
        try:
            file = SegmentFile(path)
            file.refresh()
            if all(run.ended_ns < from_ns or run.started_ns >= to_ns for run in file.runs):
                continue
            data = file.read(SEGMENT_HEAD_SIZE, file.index.end - SEGMENT_HEAD_SIZE)
        except FileNotFoundError:
            # removed meanwhile: the writer removes the oldest segments
            continue
        except (OSError, JournalError) as error:
            log.error("segment skipped", path=str(path), reason=str(error)[:300])
            continue
        if file.index.unreadable:
            log.error("messages skipped", path=str(path), messages=file.index.unreadable)
        yield from messages(data, strict=False)
