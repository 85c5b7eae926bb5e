"""Which sequences of each (publisher, topic, epoch) are accounted for, and which are holes.

A sequence is accounted for when the sender has it, or when it is a repeat, which is not stored. A
hole gets its row in `gap` before any later message is stored. So after a crash the database alone
shows what is missing: the open rows of `gap`, and all sequences after the highest stored one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from coinspace.bus.topics import TopicName, parse
from coinspace.errors import MessageError
from coinspace.storage.policy import Rule
from coinspace.storage.rows import TopicRows

StreamKey = tuple[str, bytes, int]
# about 200 bytes each: topics of all publishers times their unfinished epochs
STREAMS_LIMIT = 1 << 18
# epochs of one publisher that wait for its journal; messages of a dropped epoch that a journal has
# are fetched again and replace their rows
EPOCHS_LIMIT = 64
# holes of one stream in memory; further holes are only in `gap` and read from there later
HOLES_LIMIT = 1000


@dataclass(eq=False, slots=True)
class Hole:
    """Sequences first..last, both included, that were not stored when they should have been.

    Attributes:
        found_ns: when the hole was found; part of the key of its row.
        announced: whether the sender has its row of `gap`.
    """

    first: int
    last: int
    found_ns: int
    reason: str
    announced: bool = False

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(eq=False, slots=True)
class Stream:
    """One topic of one epoch of a publisher.

    Attributes:
        last: highest sequence that is accounted for or part of a hole.
        put_off: number of holes that are only in the database.
        rule: what is stored of the market, None until the first message.
        slot: slot of the last stored message, see `Rule`.
    """

    publisher: str
    topic: bytes
    epoch: int
    name: TopicName
    rows: TopicRows
    last: int = 0
    holes: list[Hole] = field(default_factory=list)
    # the newest hole, which may grow until it has a row in `gap`
    growing: Hole | None = None
    put_off: int = 0
    rule: Rule | None = None
    slot: int = -1

    @property
    def missing(self) -> int:
        """Number of missing sequences in the holes in memory."""
        return sum(hole.count for hole in self.holes)

    @property
    def key(self) -> StreamKey:
        return (self.publisher, self.topic, self.epoch)


class Ledger:
    """The streams of one storage worker that may have missing messages.

    Attributes:
        finished: publisher -> ended epochs that were compared with the journal and miss nothing.
            Their streams are forgotten.
    """

    def __init__(self) -> None:
        self.streams: dict[StreamKey, Stream] = {}
        self.finished: dict[str, set[int]] = {}
        self.holes_found = 0
        self.holes_put_off = 0
        self.sequences_missed = 0

    def stream(self, publisher: str, topic: bytes, epoch: int) -> Stream:
        """Return the stream; the first call makes it.

        Raises: MessageError for an invalid topic, or one stream too many.
        """
        key = (publisher, topic, epoch)
        found = self.streams.get(key)
        if found is None:
            if len(self.streams) >= STREAMS_LIMIT:
                raise MessageError(f"streams: expected at most {STREAMS_LIMIT}, was one more")
            name = parse(topic)
            rows = TopicRows(publisher, topic.decode(), name.exchange, name.market)
            found = self.streams[key] = Stream(publisher, topic, epoch, name, rows)
        return found

    def of(self, publisher: str) -> list[Stream]:
        """Return a publisher's streams."""
        return [stream for stream in self.streams.values() if stream.publisher == publisher]

    def finish(self, publisher: str, before: int, journalled: Collection[int]) -> None:
        """Forget a publisher's earlier epochs that miss nothing.

        Args:
            before: the epoch to keep.
            journalled: epochs in the publisher's journal, all of which were compared.
        """
        own = [stream for stream in self.of(publisher) if stream.epoch < before]
        waiting = {stream.epoch for stream in own if stream.holes or stream.put_off}
        ended = {stream.epoch for stream in own} - waiting
        for stream in own:
            if stream.epoch in ended:
                del self.streams[stream.key]
        # the journal cannot list an epoch again that it has removed
        self.finished[publisher] = (ended | self.finished.get(publisher, set())) & set(journalled)

    def drop_oldest(self, publisher: str) -> None:
        """Limit the epochs of a publisher that restarts often while its journal is unreachable."""
        epochs = sorted({stream.epoch for stream in self.of(publisher)})
        if len(epochs) > EPOCHS_LIMIT:
            finished = self.finished.get(publisher, set())
            self.finish(publisher, epochs[-EPOCHS_LIMIT // 2], finished)

    def reopen(self, publisher: str, epoch: int, lasts: Mapping[bytes, int]) -> None:
        """Make the streams of a finished epoch again: some messages have to be stored again."""
        self.finished.get(publisher, set()).discard(epoch)
        for topic, last in lasts.items():
            self.restore(self.stream(publisher, topic, epoch), last, [])

    def restore(self, stream: Stream, last: int, holes: list[Hole]) -> None:
        """Take a stream's position and holes from the database."""
        stream.last = max([stream.last, last, *(hole.last for hole in holes)])
        self._keep(stream, holes)

    def read_again(self, stream: Stream, holes: list[Hole], *, all_read: bool) -> None:
        """Take holes that were put off.

        Args: all_read: whether the database has no further holes of this stream.
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

    def expect(self, stream: Stream, last: int, now_ns: int) -> None:
        """Note that sequences up to `last` exist; the new ones are a hole until they arrive."""
        if last > stream.last:
            self._hole(stream, stream.last + 1, last, now_ns)
            stream.last = last

    def arrive(self, stream: Stream, sequence: int, now_ns: int) -> bool:
        """Note a live message. Returns: False when it was accounted for before."""
        if sequence <= stream.last:
            return False
        if sequence > stream.last + 1:
            self._hole(stream, stream.last + 1, sequence - 1, now_ns)
        stream.last = sequence
        return True

    def shed(self, stream: Stream, sequence: int, now_ns: int) -> None:
        """Note that memory had no room for the newest message."""
        self._hole(stream, sequence, sequence, now_ns, "database behind")

    def _hole(
        self, stream: Stream, first: int, last: int, now_ns: int, reason: str = "not received"
    ) -> None:
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
        """Note that the sender has the hole's row; the hole no longer grows."""
        hole.announced = True
        if stream.growing is hole:
            stream.growing = None
        if len(stream.holes) > HOLES_LIMIT:
            # the row in `gap` is enough to find the hole again
            stream.holes.remove(hole)
            self._put_off(stream, 1)

    def close(self, stream: Stream, hole: Hole) -> None:
        """Forget a hole that has been filled or given up."""
        stream.holes.remove(hole)
        if stream.growing is hole:
            stream.growing = None

    def holes(self, publisher: str) -> list[tuple[Stream, Hole]]:
        """Return a publisher's holes, the oldest first."""
        found = [(stream, hole) for stream in self.of(publisher) for hole in stream.holes]
        found.sort(key=lambda one: (one[0].epoch, one[1].found_ns, one[1].first))
        return found

    def missing(self) -> int:
        return sum(stream.missing for stream in self.streams.values())


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges, both ends included, in order; adjacent ranges are joined."""
    whole: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole
