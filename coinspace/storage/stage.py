"""The storage stage: turns bus messages into rows and accounts for every sequence.

It has no socket, no event loop and no wall clock; `worker` connects it to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from coinspace._ext.message import HEARTBEAT, REPEAT, STATE, Message
from coinspace.clock import Clock, now_ns
from coinspace.errors import MessageError, StorageError
from coinspace.storage import gaps
from coinspace.storage.ledger import Hole, Ledger, Stream
from coinspace.storage.outages import Outages
from coinspace.storage.policy import Policies
from coinspace.storage.rows import REPEATED, STORED, Key, store
from coinspace.storage.sender import Sender

# a larger sequence comes from a damaged or hostile message
SEQUENCE_LIMIT = 1 << 53


class StorageStage:
    """Stores messages of the wanted topics.

    Args:
        sender: where rows go.
        topics: prefixes of the topics to store, as subscribed.
        policies: what is stored of each market.
        on_hole: called when a hole was found, to fetch its messages.
        on_restart: called with the name of a publisher that has a new epoch.
        streamed: messages come from a stream by `take`, in any part and order; what is missing is
            reported by `miss`. Live messages only show outages of venues.
    """

    def __init__(
        self,
        sender: Sender,
        topics: tuple[bytes, ...],
        policies: Policies,
        *,
        clock: Clock = now_ns,
        on_hole: Callable[[], object] = lambda: None,
        on_restart: Callable[[str], object] = lambda publisher: None,
        streamed: bool = False,
    ) -> None:
        self.sender = sender
        self.ledger = Ledger()
        self.outages = Outages(sender)
        self.topics = topics
        self._policies = policies
        self._clock = clock
        self._on_hole = on_hole
        self._on_restart = on_restart
        self._streamed = streamed
        # publisher -> epoch of its last heartbeat
        self.epochs: dict[str, int] = {}
        # (publisher, topic) -> stream of its last message; saves making the ledger's key
        self._current: dict[tuple[str, bytes], Stream] = {}
        # refused rows whose row of `gap` the sender had no memory for
        self._unaccounted: deque[tuple[Key, str, int]] = deque()
        self.stored: dict[str, int] = {}
        # messages left out by the policy; a stored message is in the same slot
        self.thinned: dict[str, int] = {}
        self.repeats = self.shed = self.known = self.malformed = 0
        self.heard_ns: dict[str, int] = {}

    def on_message(self, publisher: str, message: Message) -> None:
        now = self._clock()
        if message.kind == HEARTBEAT:
            self._heartbeat(publisher, message, now)
            return
        stream = self._current.get((publisher, message.topic))
        if stream is None or stream.epoch != message.epoch:
            stream = self._stream(publisher, message)
            if stream is None:
                return
        if self._streamed:
            if message.kind == STATE:
                self.outages.on_state(publisher, stream, message, now)
            return
        sequence = message.sequence
        if not self.ledger.arrive(stream, sequence, now):
            self.known += 1
            return
        if message.kind == STATE:
            self.outages.on_state(publisher, stream, message, now)
        if message.kind in REPEATED and message.flags & REPEAT:
            self.repeats += 1
            if stream.growing is not None and self.sender.full:
                # extend the growing hole, so that the next message does not begin another one
                self.ledger.shed(stream, sequence, now)
            return
        if stream.growing is not None:
            self._on_hole()
            if not self.announce(stream):
                self._shed(stream, sequence, now)
                return
        if not self.store(stream, message):
            self._shed(stream, sequence, now)

    def take(self, publisher: str, message: Message) -> bool:
        """Store a message of a stream, which may come again. Returns: False when memory is full."""
        stream = self._current.get((publisher, message.topic))
        if stream is None or stream.epoch != message.epoch:
            stream = self._stream(publisher, message)
            if stream is None:
                return True
        if message.kind in REPEATED and message.flags & REPEAT:
            self.repeats += 1
        stream.last = max(stream.last, message.sequence)
        return self.store(stream, message)

    def miss(self, publisher: str, topic: bytes, epoch: int, hole: Hole) -> bool:
        """Note messages that a stream does not have. Returns: False when memory is full."""
        if not topic.startswith(self.topics):
            return True
        try:
            stream = self.ledger.stream(publisher, topic, epoch)
        except MessageError:
            self.malformed += 1
            return True
        known = any(
            (one.first, one.found_ns) == (hole.first, hole.found_ns) for one in stream.holes
        )
        if not known:
            self.ledger.restore(stream, hole.last, [hole])
            self.ledger.sequences_missed += hole.count
            self.ledger.holes_found += 1
        self._on_hole()
        return self.announce(stream)

    def store(self, stream: Stream, message: Message) -> bool:
        """Store a message, live or fetched. Returns: False when memory is full."""
        if message.kind in REPEATED and message.flags & REPEAT:
            return True
        kind, rule = stream.name.kind, stream.rule
        if rule is None:
            rule = stream.rule = self._policies.of(kind, stream.name.exchange, stream.name.market)
        slot = rule.slot(message.published_ns) if rule.slot_ns else -1
        if rule.slot_ns and slot == stream.slot:
            self.thinned[kind] = self.thinned.get(kind, 0) + 1
            return True
        try:
            taken = store(self.sender, stream.rows, message, rule.depth)
        except StorageError as error:
            # a value that cannot be stored is accounted for like a row that the database refused
            self.malformed += 1
            key = (stream.publisher, stream.rows.topic, stream.epoch, message.sequence)
            self.on_rejected(key, error.table or "", str(error), self._clock())
            return True
        if taken:
            stream.slot = slot
            self.stored[kind] = self.stored.get(kind, 0) + 1
        return taken

    def announce(self, stream: Stream) -> bool:
        """Give the rows of new holes to the sender. Returns: False when memory is full."""
        wrote = False
        for hole in list(stream.holes):
            if hole.announced:
                continue
            if not gaps.write_hole(self.sender, stream, hole, gaps.OPEN):
                return False
            self.ledger.announced(stream, hole)
            wrote = True
        if wrote:
            # the tables of one request are committed separately: rows of `gap` go in an earlier one
            self.sender.seal()
        return True

    def close(self, stream: Stream, hole: Hole, lost: list[tuple[int, int]], reason: str) -> bool:
        """Write the end of a hole: filled, except the lost ranges. Returns: False when full."""
        # the messages must be committed before the hole counts as filled
        self.sender.seal()
        now = self._clock()
        because = f"{hole.reason}; {reason}"
        ends = [(gaps.LOST, because, part) for part in reversed(lost)]
        # A lost range that begins with the hole's first sequence replaces the hole's row. This row
        # is written last, so that the hole stays open until all rows are written.
        if not lost or lost[0][0] != hole.first:
            ends.append((gaps.FILLED, hole.reason, (hole.first, hole.last)))
        for status, text, part in ends:
            if not gaps.write_hole(
                self.sender, stream, hole, status, reason=text, closed_ns=now, part=part
            ):
                return False
        self.ledger.close(stream, hole)
        return True

    def on_rejected(self, key: Key | None, table: str, reason: str, at_ns: int) -> None:
        """Account for a refused row; calls with the same `at_ns` give one row of `gap`."""
        if key is None:
            return
        self._unaccounted.append((key, f"{table}: {reason}"[:500], at_ns))
        self.settle()

    def settle(self) -> None:
        """Write pending rows of `gap`, as far as the sender has memory."""
        while self._unaccounted:
            key, reason, at_ns = self._unaccounted[0]
            if not gaps.write_dead(self.sender, key, reason, at_ns):
                return
            self._unaccounted.popleft()
        self.outages.settle()

    def counters(self) -> dict[str, int | float]:
        counts: dict[str, int | float] = {
            f'stored{{kind="{kind}"}}': count for kind, count in self.stored.items()
        }
        counts |= {f'thinned{{kind="{kind}"}}': count for kind, count in self.thinned.items()}
        return counts | {
            "repeats": self.repeats,
            "shed": self.shed,
            "already_stored": self.known,
            "malformed_rows": self.malformed,
            "gaps": self.ledger.holes_found,
            "gaps_open": sum(
                len(stream.holes) + stream.put_off for stream in self.ledger.streams.values()
            ),
            "gaps_put_off": self.ledger.holes_put_off,
            "messages_missed": self.ledger.sequences_missed,
            "messages_missing": self.ledger.missing(),
            "streams": len(self.ledger.streams),
            "outages_dropped": self.outages.dropped,
        }

    def _stream(self, publisher: str, message: Message) -> Stream | None:
        topic = message.topic
        if message.kind not in STORED or not topic.startswith(self.topics):
            return None
        try:
            stream = self.ledger.stream(publisher, topic, message.epoch)
        except MessageError:
            self.malformed += 1
            return None
        self._current[publisher, topic] = stream
        return stream

    def _shed(self, stream: Stream, sequence: int, now: int) -> None:
        self.shed += 1
        self.ledger.shed(stream, sequence, now)
        self._on_hole()

    def _heartbeat(self, publisher: str, message: Message, now: int) -> None:
        """Find published messages that did not arrive: a lost tail, or a whole topic."""
        try:
            facts = message.json()
            epoch = int(facts["epoch"])
            sequences = {str(name).encode(): int(n) for name, n in facts["sequences"].items()}
            if not 0 < epoch < 1 << 63 or any(n > SEQUENCE_LIMIT for n in sequences.values()):
                raise ValueError(f"expected an epoch and sequences of 64 bits, was {epoch}")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            self.malformed += 1
            return
        before, heard_ns = self.epochs.get(publisher), self.heard_ns.get(publisher, now)
        self.heard_ns[publisher] = now
        if before is not None and before != epoch:
            self.outages.on_restart(publisher, before, min(heard_ns, epoch))
        if before != epoch:
            self.epochs[publisher] = epoch
            self.ledger.drop_oldest(publisher)
            self._forget_streams()
            self._on_restart(publisher)
        if self._streamed:
            return
        for topic, last in sequences.items():
            self.expect(publisher, topic, epoch, last)

    def finish(self, publisher: str, journalled: Collection[int]) -> None:
        """Forget ended epochs that miss nothing.

        Args: journalled: epochs in the publisher's journal, all of which were compared.
        """
        current = self.epochs.get(publisher)
        if current is not None:
            self.ledger.finish(publisher, current, journalled)
            self._forget_streams()

    def _forget_streams(self) -> None:
        streams = self.ledger.streams
        self._current = {
            key: stream for key, stream in self._current.items() if stream.key in streams
        }

    def expect(self, publisher: str, topic: bytes, epoch: int, last: int) -> None:
        """Note that a publisher has published sequences up to `last` on a topic."""
        if not topic.startswith(self.topics):
            return
        try:
            if not (0 < epoch < 1 << 63 and last <= SEQUENCE_LIMIT):
                raise MessageError(f"epoch and sequence: expected 64 and 53 bits, {epoch}, {last}")
            stream = self.ledger.stream(publisher, topic, epoch)
        except MessageError:
            self.malformed += 1
            return
        if last > stream.last:
            self.ledger.expect(stream, last, self._clock())
            self._on_hole()
