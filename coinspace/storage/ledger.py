"""Which sequences of each (publisher, topic, epoch) are accounted for, and which are holes.

Accounted for means given to the sender (or a repeat, which is not stored). A hole becomes a row in
`gap` before anything behind it is stored; so after a crash the database alone says what is missing:
the open rows of `gap`, and whatever comes after the highest stored sequence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from coinspace.bus.topics import TopicName, parse
from coinspace.errors import MessageError
from coinspace.storage.rows import Venue

StreamKey = tuple[str, bytes, int]
# some 200 bytes each: topics of all publishers, times the epochs that are not finished
STREAMS_LIMIT = 1 << 18
# epochs of one publisher that wait for its journal; what is dropped is fetched once more if it is
# ever found there, and replaces itself
EPOCHS_LIMIT = 64
# holes of one stream kept here; the others stand in `gap` alone, and are read from there in turn
HOLES_LIMIT = 1000


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

    Attributes:
        last: highest sequence that is accounted for or part of a hole.
        put_off: its holes that only the database knows.
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
    put_off: int = 0

    @property
    def missing(self) -> bool:
        """Whether anything of it is in a hole."""
        return bool(self.holes or self.put_off)

    @property
    def key(self) -> StreamKey:
        """What tells it from all others."""
        return (self.publisher, self.topic, self.epoch)


class Ledger:
    """The streams of one storage worker that can still miss something.

    Attributes:
        finished: publisher -> ended epochs whose journal was compared and of which nothing is
            missing: their streams are forgotten.
    """

    def __init__(self) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.finished: dict[str, set[int]] = {}
        self.holes_found = 0
        self.holes_put_off = 0
        self.sequences_missed = 0

    def stream(self, publisher: str, topic: bytes, epoch: int) -> Stream:
        """Return the stream, made at its first mention.

        Raises: MessageError for a bad topic, or one stream too many.
        """
        key = (publisher, topic, epoch)
        found = self.streams.get(key)
        if found is None:
            if len(self.streams) >= STREAMS_LIMIT:
                raise MessageError(f"streams: expected at most {STREAMS_LIMIT}, was one more")
            name = parse(topic)
            venue = Venue(publisher, topic.decode(), name.exchange, name.market)
            found = self.streams[key] = Stream(publisher, topic, epoch, name, venue)
        return found

    def finish(self, publisher: str, before: int, held: Collection[int]) -> None:
        """Forget the epochs of a publisher before this one of which nothing is missing.

        Args: held: epochs that its journal holds, after all of them were compared.
        """
        own = [s for s in self.streams.values() if s.publisher == publisher and s.epoch < before]
        waiting = {stream.epoch for stream in own if stream.missing}
        ended = {stream.epoch for stream in own} - waiting
        for stream in own:
            if stream.epoch in ended:
                del self.streams[stream.key]
        # what the journal has removed cannot come up again
        self.finished[publisher] = (ended | self.finished.get(publisher, set())) & set(held)

    def drop_oldest(self, publisher: str) -> None:
        """Bound the epochs of a publisher that starts again and again, its journal out of reach."""
        epochs = sorted({s.epoch for s in self.streams.values() if s.publisher == publisher})
        if len(epochs) > EPOCHS_LIMIT:
            finished = self.finished.get(publisher, set())
            self.finish(publisher, epochs[-EPOCHS_LIMIT // 2], finished)

    def reopen(self, publisher: str, epoch: int, lasts: Mapping[bytes, int]) -> None:
        """Take up a finished epoch again, since some of it is to be stored once more."""
        self.finished.get(publisher, set()).discard(epoch)
        for topic, last in lasts.items():
            self.restore(self.stream(publisher, topic, epoch), last, [])

    def restore(self, stream: Stream, last: int, holes: list[Hole]) -> None:
        """Take over what the database says of a stream."""
        stream.last = max([stream.last, last, *(hole.last for hole in holes)])
        self._keep(stream, holes)

    def read_again(self, stream: Stream, holes: list[Hole], *, all_read: bool) -> None:
        """Take up holes that were put off.

        Args: all_read: the database has no others of this stream.
        """
        stream.put_off = 0 if all_read else max(1, stream.put_off - len(holes))
        self._keep(stream, holes)

    def _keep(self, stream: Stream, holes: list[Hole]) -> None:
        room = max(0, HOLES_LIMIT - len(stream.holes))
        stream.holes += holes[:room]
        self._put_off(stream, len(holes[room:]))

    def _put_off(self, stream: Stream, holes: int) -> None:
        stream.put_off += holes
        self.holes_put_off += holes

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
        if len(stream.holes) > HOLES_LIMIT:
            # its row is all that is needed to find it again
            stream.holes.remove(hole)
            self._put_off(stream, 1)

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
