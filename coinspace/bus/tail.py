"""Reads a journal behind its writer, batch after batch, and finds what it no longer has.

`Tail` reads; `Checkpoints` remembers up to where the readers of a stream have stored it; `Progress`
is the file that both are kept in, so that a restart goes on where the last process ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import structlog

from coinspace._ext.segment import SEGMENT_HEAD_SIZE, SegmentIndex
from coinspace.bus.segments import WINDOW_LIMIT, WORD_BYTES, SegmentFile, segment_paths
from coinspace.bus.streams import SIZE_BYTES, Lost
from coinspace.errors import UNREADABLE, JournalError
from coinspace.files import replace_file

FILE = "stream.json"
# further places are joined: after a loss of the stream a little more is sent again
CHECKPOINTS = 64

log = structlog.get_logger("tail")


class Place(NamedTuple):
    """A place in a journal. The default is before all records."""

    epoch: int = 0
    segment: int = 0
    offset: int = SEGMENT_HEAD_SIZE


BEGIN = Place()


@dataclass
class Mark:
    """A place, the last sequence of each topic of its epoch before it, and the epochs before it.

    Epochs are no order: a clock that was set back gives a later process a smaller one.
    """

    place: Place = BEGIN
    lasts: dict[bytes, int] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def pass_to(self, place: Place, lasts: Mapping[bytes, int]) -> None:
        """Move on. Args: lasts: those that have changed; all of a new epoch."""
        if place.epoch != self.place.epoch:
            self.lasts = {}
            if self.place.epoch:
                self.done.add(self.place.epoch)
        self.place = place
        self.lasts |= lasts

    def copy(self) -> Mark:
        return Mark(self.place, dict(self.lasts), set(self.done))


@dataclass
class Piece:
    """A run of records.

    Attributes:
        lost: sequences that the journal does not have, in their places before or in the run.
        lasts: last sequence of each topic of the run.
        count: number of records.
    """

    begin: Place
    end: Place
    records: memoryview
    lost: list[Lost]
    lasts: dict[bytes, int]
    count: int

    @property
    def name(self) -> str:
        """Names the run's bytes: another run has another name."""
        return f"{self.begin.epoch}.{self.begin.segment}.{self.begin.offset}-{self.end.offset}"


class Tail:
    """Reads a journal's folder from a mark on.

    Args: mark: None = from the oldest record; what was removed before is not reported.
    """

    def __init__(self, folder: Path, mark: Mark | None) -> None:
        self.folder = folder
        self._file = -1
        self.mark = Mark()
        # whether all of the epoch was followed: a topic's first sequence is then 1
        self._followed = False
        self.seek(mark)

    def seek(self, mark: Mark | None) -> None:
        """Go on from a mark."""
        self.close()
        self.mark = mark.copy() if mark else Mark()
        self._followed = mark is not None and mark.place.epoch > 0

    def next(self, size: int) -> Piece | None:
        """Return the records behind the last ones, about `size` bytes or one larger record.

        Returns: None when no record has been written meanwhile.
        """
        while True:
            if self._file < 0 and not self._open():
                return None
            piece = self._read(size)
            if piece is None and self._finished():
                # records that were written before the segment counted as finished
                piece = self._read(size)
                if piece is None:
                    self._move_on()
                    continue
            return piece

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def behind(self) -> int:
        """Return the number of bytes in later segments of the journal."""
        size = 0
        for path in self._later(self.mark.place.segment + 1):
            with contextlib.suppress(OSError):
                size += path.stat().st_blocks * 512
        return size

    def _later(self, segment: int) -> list[Path]:
        """Return the segments of the mark's epoch from a number on, then those of other epochs."""
        own, others = [], []
        epoch, done = self.mark.place.epoch, self.mark.done
        for path in segment_paths(self.folder):
            found, number = _numbers(path)
            if found == epoch and number >= segment:
                own.append(path)
            elif found not in done and found != epoch:
                others.append(path)
        return own + others

    def _open(self) -> bool:
        """Open the segment of the mark, or the first one after it."""
        for path in self._later(self.mark.place.segment):
            try:
                found = SegmentFile(path)
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except (JournalError, OSError) as error:
                log.error("segment skipped", path=str(path), reason=str(error)[:300])
                continue
            place = self.mark.place
            if (found.epoch, found.number) != place[:2]:
                if found.epoch != place.epoch:
                    self.mark.done &= {_numbers(one)[0] for one in segment_paths(self.folder)}
                    # the first of all may be an epoch whose beginning was removed long ago
                    self._followed = bool(place.epoch) or found.number == 1
                self.mark.pass_to(Place(found.epoch, found.number), {})
            return True
        return False

    def _read(self, size: int) -> Piece | None:
        begin = self.mark.place
        if not any(os.pread(self._file, WORD_BYTES, begin.offset)):
            return None
        data = os.pread(self._file, size, begin.offset)
        index = SegmentIndex()
        index.extend(data)
        if index.end == SEGMENT_HEAD_SIZE and len(data) == size:
            # one record that is larger; a record begins with its size
            whole = min(int.from_bytes(data[:SIZE_BYTES], "little"), WINDOW_LIMIT)
            data = os.pread(self._file, whole, begin.offset)
            index.extend(data)
        used = index.end - SEGMENT_HEAD_SIZE
        if not used:
            return None
        lost: list[Lost] = []
        lasts: dict[bytes, int] = {}
        for topic, first, last, *_ in index.runs:
            known = lasts.get(topic, self.mark.lasts.get(topic))
            expected = known + 1 if known is not None else 1 if self._followed else first
            if first > expected:
                lost.append(Lost(topic, begin.epoch, expected, first - 1))
            lasts[topic] = max(last, known or 0)
        end = begin._replace(offset=begin.offset + used)
        self.mark.pass_to(end, lasts)
        return Piece(begin, end, memoryview(data)[:used], lost, lasts, index.records)

    def _finished(self) -> bool:
        """Return whether the segment gets no further record: a later one has some."""
        place = self.mark.place
        if os.fstat(self._file).st_size <= place.offset:
            return True
        for path in self._later(place.segment + 1):
            if _numbers(path)[0] != place.epoch:
                return True
            with contextlib.suppress(OSError), path.open("rb") as file:
                if any(os.pread(file.fileno(), WORD_BYTES, SEGMENT_HEAD_SIZE)):
                    return True
        return False

    def _move_on(self) -> None:
        self.close()
        place = self.mark.place
        self.mark.place = Place(place.epoch, place.segment + 1)


class Checkpoints:
    """Which part of a stream the readers have stored, as a mark of the journal.

    After the stream itself is lost, the journal is sent again from there.
    """

    def __init__(self, stored: Mark) -> None:
        self.stored = stored
        # (sequence in the stream, place behind it, lasts that changed since the one before)
        self._waiting: list[tuple[int, Place, dict[bytes, int]]] = []

    def add(self, sequence: int, place: Place, lasts: Mapping[bytes, int]) -> None:
        """Note that the stream has taken all before a place."""
        self._waiting.append((sequence, place, dict(lasts)))
        if len(self._waiting) > CHECKPOINTS:
            self._waiting = [
                later if later[1].epoch != place_before.epoch else (*later[:2], before | later[2])
                for (_, place_before, before), later in zip(
                    self._waiting[::2], self._waiting[1::2], strict=False
                )
            ] + self._waiting[len(self._waiting) // 2 * 2 :]

    def release(self, sequence: int) -> None:
        """Note that the readers have stored all up to a sequence of the stream."""
        done = 0
        for at, place, lasts in self._waiting:
            if at > sequence:
                break
            self.stored.pass_to(place, lasts)
            done += 1
        del self._waiting[:done]

    def clear(self) -> None:
        self._waiting.clear()


@dataclass
class Progress:
    """What a process has to know of its stream after a restart.

    Attributes:
        created: when the stream was made; another time is another stream.
        sequence: the last that the stream has acknowledged.
        sent: behind all that the stream has acknowledged; None = nothing yet.
        stored: behind all that is known as stored.
    """

    created: str = ""
    sequence: int = 0
    sent: Mark | None = None
    stored: Mark = field(default_factory=Mark)

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Return the progress of a journal; a missing or damaged file means none."""
        try:
            found = orjson.loads((folder / FILE).read_bytes())
            return cls(
                str(found["created"]),
                int(found["sequence"]),
                _mark(found["sent"]) if found["sent"] else None,
                _mark(found["stored"]),
            )
        except FileNotFoundError:
            return cls()
        except (OSError, *UNREADABLE) as error:
            log.warning("progress unreadable: the whole journal is sent", reason=repr(error))
            return cls()

    def write(self, folder: Path) -> None:
        """Raises: OSError."""
        facts = {
            "created": self.created,
            "sequence": self.sequence,
            "sent": _plain(self.sent) if self.sent else None,
            "stored": _plain(self.stored),
        }
        replace_file(folder / FILE, orjson.dumps(facts))


def _plain(mark: Mark) -> dict[str, Any]:
    lasts = {topic.decode(): last for topic, last in mark.lasts.items()}
    return {"place": list(mark.place), "lasts": lasts, "done": sorted(mark.done)}


def _mark(facts: Mapping[str, Any]) -> Mark:
    epoch, segment, offset = (int(one) for one in facts["place"])
    lasts = {topic.encode(): int(last) for topic, last in facts["lasts"].items()}
    return Mark(Place(epoch, segment, offset), lasts, {int(one) for one in facts["done"]})


def _numbers(path: Path) -> tuple[int, int]:
    """Return the epoch and the number of a segment, (0, 0) for a name that is none."""
    try:
        epoch, number = path.stem.split("-")
        return int(epoch), int(number)
    except ValueError:
        return 0, 0
