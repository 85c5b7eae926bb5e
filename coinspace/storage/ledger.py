"""Which sequences of each (publisher, topic, epoch) are accounted for, and which are holes.

Accounted for means given to the sender (or a repeat, which is not stored). A hole becomes a row in
`gap` before anything behind it is stored; so after a crash the database alone says what is missing:
the open rows of `gap`, and whatever comes after the highest stored sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from coinspace.bus.topics import TopicName, parse
from coinspace.storage.rows import Venue

StreamKey = tuple[str, bytes, int]


@dataclass(eq=False, slots=True)
class Hole:
    """Sequences first..last, both included, that were not stored when they should have been.

    Attributes:
        found_ns: when it was found; part of its identity in the database.
        announced: whether its row in `gap` was given to the sender.
        retry_ns: not to be asked for before.
    """

    first: int
    last: int
    found_ns: int
    reason: str
    announced: bool = False
    retry_ns: int = 0

    @property
    def count(self) -> int:
        """Number of missing sequences."""
        return self.last - self.first + 1


@dataclass(eq=False, slots=True)
class Stream:
    """One topic of one publisher since one start of it.

    Attributes: last = highest sequence that is accounted for or part of a hole.
    """

    publisher: str
    topic: bytes
    epoch: int
    name: TopicName
    venue: Venue
    last: int = 0
    holes: list[Hole] = field(default_factory=list)
    # the newest hole, while it has no row in `gap` and may still grow
    growing: Hole | None = None

    @property
    def key(self) -> StreamKey:
        """What tells it from all others."""
        return (self.publisher, self.topic, self.epoch)


class Ledger:
    """All streams of one storage worker."""

    def __init__(self) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.holes_found = 0
        self.sequences_missed = 0

    def stream(self, publisher: str, topic: bytes, epoch: int) -> Stream:
        """Return the stream, made at its first mention. Raises: MessageError for a bad topic."""
        key = (publisher, topic, epoch)
        found = self.streams.get(key)
        if found is None:
            name = parse(topic)
            venue = Venue(publisher, topic.decode(), name.exchange, name.market)
            found = self.streams[key] = Stream(publisher, topic, epoch, name, venue)
        return found

    def restore(self, stream: Stream, last: int, holes: list[Hole]) -> None:
        """Take over what the database says of a stream."""
        stream.last = max([stream.last, last, *(hole.last for hole in holes)])
        stream.holes += holes

    def expect(self, stream: Stream, last: int, now_ns: int, reason: str) -> None:
        """Note that sequences up to `last` exist: those not accounted for are a hole."""
        if last > stream.last:
            self._hole(stream, stream.last + 1, last, now_ns, reason)
            stream.last = last

    def arrive(self, stream: Stream, sequence: int, now_ns: int) -> bool:
        """Note a live message. Returns: False when it is accounted for already."""
        if sequence <= stream.last:
            return False
        if sequence > stream.last + 1:
            self._hole(stream, stream.last + 1, sequence - 1, now_ns, "not received")
        stream.last = sequence
        return True

    def shed(self, stream: Stream, sequence: int, now_ns: int) -> None:
        """Note that the newest message could not be kept in memory."""
        self._hole(stream, sequence, sequence, now_ns, "database behind")

    def _hole(self, stream: Stream, first: int, last: int, now_ns: int, reason: str) -> None:
        self.sequences_missed += last - first + 1
        growing = stream.growing
        if growing is not None and growing.last + 1 == first:
            growing.last = last
            return
        hole = Hole(first, last, now_ns, reason)
        stream.holes.append(hole)
        stream.growing = hole
        self.holes_found += 1

    def announced(self, stream: Stream, hole: Hole) -> None:
        """Note that the hole's row was given to the sender: it grows no more."""
        hole.announced = True
        if stream.growing is hole:
            stream.growing = None

    def close(self, stream: Stream, hole: Hole) -> None:
        """Forget a hole that has been filled or given up."""
        stream.holes.remove(hole)
        if stream.growing is hole:
            stream.growing = None

    def holes(self) -> Iterator[tuple[Stream, Hole]]:
        """Yield all holes, the oldest first."""
        found = [
            (stream.epoch, hole.found_ns, hole.first, number, stream, hole)
            for number, stream in enumerate(self.streams.values())
            for hole in stream.holes
        ]
        for *_, stream, hole in sorted(found, key=lambda one: one[:4]):
            yield stream, hole

    def missing(self) -> int:
        """Return how many sequences are in holes now."""
        return sum(hole.count for s in self.streams.values() for hole in s.holes)


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges, both ends included, in order; those that touch become one."""
    whole: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole
