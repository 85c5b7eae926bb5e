"""The proof: every sequence that a publisher gave out is stored, a repeat, or explained in `gap`.

Compares, sequence by sequence, what the journals hold with what the database holds. A trade that
was published twice is one row; the message whose row was replaced counts as a duplicate. Where no
journal is left, rows tell of the repeats before them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from coinspace._ext.message import (
    ORDERBOOK,
    REPEAT,
    REPEATS_BITS,
    REPEATS_MOST,
    TRADE,
    Message,
)
from coinspace.bus.catchup import JournalClient
from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import read_journal, segment_paths
from coinspace.bus.topics import build
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.errors import JournalError, MessageError, StorageError
from coinspace.storage import gaps, schema
from coinspace.storage.address import address
from coinspace.storage.ledger import joined
from coinspace.storage.position import PUBLISHERS

MINUTE_NS = 60 * SECOND_NS
KINDS = ("orderbook", "ticker", "trade", "state")
COLLECTORS = ("orderbook-collector", "ticker-collector")

Seen = tuple[str, bytes, int]
Progress = Callable[[str], object]


@dataclass(slots=True)
class Line:
    """One publisher's topic in one minute (of publishing); all but the names are messages.

    Attributes:
        received: from the exchange; the rest are the collector's own words (states).
        repeats: of these, books identical to the one before, not stored by design.
        journalled: in a journal now.
        published: sequences given out.
        stored: rows; duplicates: trades whose row carries a later message's sequence.
        gaps: named by rows of `gap`, whatever became of them.
        lost, dead, open: accounted for in `gap` by that status.
        unexplained: what is left; 0 is the proof.
    """

    publisher: str
    topic: str
    minute_ns: int
    received: int = 0
    repeats: int = 0
    journalled: int = 0
    published: int = 0
    stored: int = 0
    duplicates: int = 0
    gaps: int = 0
    lost: int = 0
    dead: int = 0
    open: int = 0
    unexplained: int = 0


@dataclass(slots=True)
class Report:
    """The lines, and what was unexplained in full.

    Attributes: unexplained = (publisher, topic, epoch, sequence), at most the first thousand.
    """

    from_ns: int
    to_ns: int
    lines: list[Line] = field(default_factory=list)
    unexplained: list[tuple[str, str, int, int]] = field(default_factory=list)

    @property
    def total(self) -> Line:
        """The sum of all lines."""
        total = Line("", "", 0)
        for line in self.lines:
            for name in COUNTS:
                setattr(total, name, getattr(total, name) + getattr(line, name))
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, times in ns."""
        total = {name: getattr(self.total, name) for name in COUNTS}
        return {
            "from_ns": self.from_ns,
            "to_ns": self.to_ns,
            "total": total,
            "lines": [asdict(line) for line in self.lines],
            "unexplained": [list(one) for one in self.unexplained],
        }


COUNTS = (
    "received",
    "repeats",
    "journalled",
    "published",
    "stored",
    "duplicates",
    "gaps",
    "lost",
    "dead",
    "open",
    "unexplained",
)
UNEXPLAINED_LIMIT = 1000


# the worst first: a range may be lost within one that is still open
EXPLAINED = (gaps.DEAD, gaps.LOST, gaps.OPEN)


class _Ranges:
    """Sequences as ranges, both ends included."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        self._sorted = True

    def add(self, first: int, last: int) -> None:
        self._ranges.append((first, last))
        self._sorted = False

    def __contains__(self, sequence: int) -> bool:
        if not self._sorted:
            self._ranges, self._sorted = joined(self._ranges), True
        at = bisect_right(self._ranges, sequence, key=lambda one: one[0]) - 1
        return at >= 0 and sequence <= self._ranges[at][1]


@dataclass(slots=True)
class _Stream:
    # sequence -> published_ns
    journalled: dict[int, int] = field(default_factory=dict)
    stored: dict[int, int] = field(default_factory=dict)
    # sequence of a book -> repeats directly before it
    before: dict[int, int] = field(default_factory=dict)
    repeats: _Ranges = field(default_factory=_Ranges)
    # sequence -> (trade time, id)
    trades: dict[int, tuple[int, int]] = field(default_factory=dict)
    # by status
    gaps: dict[str, _Ranges] = field(default_factory=lambda: defaultdict(_Ranges))
    # ranges that explain themselves, found within the time: first, last, found_ns
    found: list[tuple[int, int, int]] = field(default_factory=list)

    def note_repeats(self) -> None:
        """Turn the counts of repeats into their sequences."""
        stored = sorted(self.stored)
        for sequence, count in self.before.items():
            if count == REPEATS_MOST:
                # or more: whatever stands between it and the row before
                at = bisect_left(stored, sequence)
                count = max(count, sequence - stored[at - 1] - 1 if at else 0)
            if count:
                self.repeats.add(sequence - count, sequence - 1)

    def sequences(self) -> Iterator[tuple[int, int]]:
        """Yield (sequence, time), 0 = that of its neighbour, of all that is known to exist."""
        held = self.journalled.keys() | self.stored.keys()
        first, last = (min(held), max(held)) if held else (0, -1)
        outside: dict[int, int] = {}
        for start, end, found_ns in self.found:
            for sequence in itertools.chain(
                range(start, min(end, first - 1) + 1), range(max(start, last + 1), end + 1)
            ):
                outside[sequence] = found_ns
        for sequence in sorted([*outside, *range(first, last + 1)]):
            yield (
                sequence,
                self.journalled.get(sequence)
                or self.stored.get(sequence)
                or outside.get(sequence, 0),
            )


def reconcile(
    settings: Settings, from_ns: int, to_ns: int, progress: Progress = lambda text: None
) -> Report:
    """Compare journals and database for messages published in [from_ns, to_ns).

    Raises: StorageError when the database cannot be read or shows its rows late.
    """
    streams: dict[Seen, _Stream] = defaultdict(_Stream)
    publishers = {f"{kind}-{name}" for kind in COLLECTORS for name in settings.exchanges}
    for publisher in sorted(publishers):
        progress(f"journal of {publisher}")
        for message in _journal(settings, publisher, from_ns, to_ns):
            if from_ns <= message.published_ns < to_ns:
                _note(streams, publisher, message)
    progress("database")
    try:
        with schema.connect(address(settings)) as connection:
            _read_rows(connection, streams, publishers, from_ns, to_ns)
            _read_gaps(connection, streams, publishers, from_ns, to_ns)
            known = _trades_known(connection, streams)
    except psycopg.Error as error:
        raise StorageError(f"reconcile: {str(error).splitlines()[0]}") from None
    return _report(streams, known, from_ns, to_ns)


def _journal(settings: Settings, publisher: str, from_ns: int, to_ns: int) -> Iterable[Message]:
    folder = journal_folder(settings, publisher)
    if segment_paths(folder):
        yield from read_journal(folder, from_ns, to_ns)
        return
    # another host's journal; a publisher that was never started has none
    client = JournalClient(settings.bus.replay_endpoint(publisher), settings.bus, timeout_s=1.0)
    try:
        for epoch, topics in client.list().ranges.items():
            for topic in topics:
                for fetched in client.fetch_all(topic, epoch, 1):
                    yield from fetched.messages
    except JournalError:
        return
    finally:
        client.close()


def _note(streams: dict[Seen, _Stream], publisher: str, message: Message) -> None:
    if message.topic.split(b".", 1)[0].decode() not in KINDS:
        return
    stream = streams[publisher, message.topic, message.epoch]
    stream.journalled[message.sequence] = message.published_ns
    if message.kind == ORDERBOOK and message.flags & REPEAT:
        stream.repeats.add(message.sequence, message.sequence)
    elif message.kind == ORDERBOOK:
        stream.before[message.sequence] = message.flags >> REPEATS_BITS
    elif message.kind == TRADE:
        at_ns = message.exchange_ns or message.received_ns or message.published_ns
        stream.trades[message.sequence] = (at_ns, message.id)


def _read_rows(
    connection: psycopg.Connection[Any],
    streams: dict[Seen, _Stream],
    publishers: set[str],
    from_ns: int,
    to_ns: int,
) -> None:
    for kind in KINDS:
        publisher = "publisher" if kind == "state" else "''"
        flags = "flags" if kind == "orderbook" else "0"
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {publisher}, exchange, market, epoch, seq, published_ts::long, {flags}"
                f" FROM {kind}"
                f" WHERE published_ts >= {from_ns}::timestamp_ns"
                f" AND published_ts < {to_ns}::timestamp_ns"
            )
            for name, exchange, market, epoch, sequence, published_ns, bits in cursor:
                process = name or PUBLISHERS[kind] + exchange
                if process in publishers:
                    stream = streams[process, build(kind, exchange, market), epoch]
                    stream.stored[sequence] = published_ns
                    stream.before.setdefault(sequence, (bits or 0) >> REPEATS_BITS)


def _read_gaps(
    connection: psycopg.Connection[Any],
    streams: dict[Seen, _Stream],
    publishers: set[str],
    from_ns: int,
    to_ns: int,
) -> None:
    rows = connection.execute(
        "SELECT kind, publisher, exchange, market, epoch, first, last, status, ts::long FROM gap"
        f" WHERE kind != '{gaps.VENUE}'"
    )
    for kind, publisher, exchange, market, epoch, first, last, status, ts in rows.fetchall():
        if publisher not in publishers:
            continue
        try:
            key = (publisher, build(kind, exchange, market), epoch)
        except MessageError:
            continue
        within = from_ns <= ts < to_ns and status in EXPLAINED
        if within or key in streams:
            streams[key].gaps[status].add(first, last)
        if within:
            streams[key].found.append((first, last, ts))


def _trades_known(
    connection: psycopg.Connection[Any], streams: dict[Seen, _Stream]
) -> set[tuple[bytes, int, int]]:
    """Return (topic, time, id) of stored trades, as far as a missing sequence asks for them."""
    known: set[tuple[bytes, int, int]] = set()
    asked: dict[bytes, list[int]] = defaultdict(list)
    for (_, topic, _), stream in streams.items():
        asked[topic] += [
            at_ns for sequence, (at_ns, _) in stream.trades.items() if sequence not in stream.stored
        ]
    for topic, times in asked.items():
        if not times:
            continue
        _, exchange, market, _ = topic.decode().split(".")
        rows = connection.execute(
            f"SELECT ts::long, trade_id FROM trade WHERE ts >= {min(times)}::timestamp_ns"
            f" AND ts <= {max(times)}::timestamp_ns AND exchange = %s AND market = %s",
            (exchange, market),
        )
        known |= {(topic, at_ns, trade_id) for at_ns, trade_id in rows.fetchall()}
    return known


def _report(
    streams: dict[Seen, _Stream],
    known: set[tuple[bytes, int, int]],
    from_ns: int,
    to_ns: int,
) -> Report:
    report = Report(from_ns, to_ns)
    lines: dict[tuple[str, bytes, int], Line] = {}
    for (publisher, topic, epoch), stream in sorted(streams.items()):
        stream.note_repeats()
        received = not topic.startswith(b"state.")
        minute_ns = 0
        for sequence, at_ns in stream.sequences():
            # a sequence that nobody holds belongs where its neighbour is
            minute_ns = (at_ns - at_ns % MINUTE_NS) if at_ns else minute_ns
            key = (publisher, topic, minute_ns)
            line = lines.get(key)
            if line is None:
                line = lines[key] = Line(publisher, topic.decode(), minute_ns)
            line.published += 1
            line.received += received
            line.journalled += sequence in stream.journalled
            line.gaps += any(sequence in ranges for ranges in stream.gaps.values())
            found = _explain(stream, topic, sequence, known)
            setattr(line, found, getattr(line, found) + 1)
            if found == "unexplained" and len(report.unexplained) < UNEXPLAINED_LIMIT:
                report.unexplained.append((publisher, topic.decode(), epoch, sequence))
    report.lines = [lines[key] for key in sorted(lines)]
    return report


def _explain(
    stream: _Stream, topic: bytes, sequence: int, known: set[tuple[bytes, int, int]]
) -> str:
    if sequence in stream.stored:
        return "stored"
    if sequence in stream.repeats:
        return "repeats"
    trade = stream.trades.get(sequence)
    if trade is not None and (topic, *trade) in known:
        return "duplicates"
    for status in EXPLAINED:
        if sequence in stream.gaps[status]:
            return status
    return "unexplained"
