"""Proves that every published sequence is stored, a repeat, or explained in `gap`.

Compares the journals with the database, sequence by sequence. A trade that was published twice is
one row; the message whose row was replaced counts as a duplicate. When the journal is gone, the
rows of books show how many repeats came before them.

Both sides are read in the order of publishing, publisher by publisher, some seconds at a time.
Memory keeps only ranges of sequences and the lines of the report, so a day needs little more than
an hour.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import psycopg

from coinspace._ext.message import (
    ORDERBOOK,
    REPEAT,
    REPEATS_BITS,
    REPEATS_MOST,
    TRADE,
    Message,
)
from coinspace.bus.journal import journal_folder
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.segments import FOR_EVER_NS, read_journal, segment_paths
from coinspace.bus.topics import build
from coinspace.clock import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS
from coinspace.config import Settings
from coinspace.errors import JournalError, MessageError
from coinspace.storage import gaps, schema
from coinspace.storage.ledger import joined
from coinspace.storage.policy import Policies, Rule, policies
from coinspace.storage.questdb.address import Address, address
from coinspace.storage.rows import REPEATED
from coinspace.storage.tables import RATE, STORED, collectors_of

# time compared at once
SLICE_NS = 10 * SECOND_NS
# time that one query sorts, and largest distance between a row's `ts` and its publishing time; a
# trade that was fetched after an outage has an old trade time
WINDOWS = {"trade": (HOUR_NS, 7 * DAY_NS)}
WINDOW = (10 * MINUTE_NS, HOUR_NS)
UNEXPLAINED_LIMIT = 1000
# lines in the report; the total counts all
LINES_LIMIT = 200_000
# journal messages that wait for their row; after a clock step the two are read far apart
PENDING_LIMIT = 100_000

Range = tuple[int, int]


@dataclass(slots=True)
class Line:
    """Counts of messages of one publisher's topic in one minute of publishing.

    Attributes:
        received: messages from the exchange; 0 for states, which the collector makes.
        repeats: books identical to the one before, which are not stored.
        journalled: in a journal now.
        published: sequences used.
        stored: rows.
        thinned: books and tickers that `storage.policy` leaves out: a stored one is in the same
            interval. Without a journal, all that is missing between two rows of such a market.
        duplicates: trades whose row has a later message's sequence.
        gaps: in rows of `gap` of any status.
        lost, dead, open: in rows of `gap` of that status. Trades that the exchange no longer
            reports count as lost too, although they were never published.
        unexplained: all other messages; 0 proves that nothing is missing.
    """

    publisher: str
    topic: str
    minute_ns: int
    received: int = 0
    repeats: int = 0
    journalled: int = 0
    published: int = 0
    stored: int = 0
    thinned: int = 0
    duplicates: int = 0
    gaps: int = 0
    lost: int = 0
    dead: int = 0
    open: int = 0
    unexplained: int = 0


COUNTS = tuple(
    name for name in Line.__dataclass_fields__ if name not in ("publisher", "topic", "minute_ns")
)
# the worst first: a part of an open range may be lost
EXPLAINED = (gaps.DEAD, gaps.LOST, gaps.OPEN)


@dataclass(slots=True)
class Report:
    """The result of a comparison.

    Attributes:
        total: the sum of all lines, also of those left out.
        lines_left_out: number of lines beyond the first LINES_LIMIT.
        unexplained: (publisher, topic, epoch, sequence) of the first UNEXPLAINED_LIMIT messages.
    """

    from_ns: int
    to_ns: int
    total: Line = field(default_factory=lambda: Line("", "", 0))
    lines: list[Line] = field(default_factory=list)
    lines_left_out: int = 0
    unexplained: list[tuple[str, str, int, int]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, times in ns."""
        return {
            "from_ns": self.from_ns,
            "to_ns": self.to_ns,
            "total": {name: getattr(self.total, name) for name in COUNTS},
            "lines": [asdict(line) for line in self.lines],
            "lines_left_out": self.lines_left_out,
            "unexplained": [list(one) for one in self.unexplained],
        }


class Ranges:
    """Sequences as sorted, separate ranges, both ends included."""

    def __init__(self, found: Iterable[Range] = ()) -> None:
        self._ranges = joined(found)

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def bounds(self) -> Range:
        """The first and the last sequence; (1, 0) when there is none."""
        return (self._ranges[0][0], self._ranges[-1][1]) if self._ranges else (1, 0)

    def add(self, first: int, last: int) -> None:
        """Add a range; cheap when it begins in or after the last range."""
        ranges = self._ranges
        if not ranges or first > ranges[-1][1] + 1:
            ranges.append((first, last))
        elif first >= ranges[-1][0]:
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        else:
            insort(ranges, (first, last))
            self._ranges = joined(ranges)

    def __contains__(self, sequence: int) -> bool:
        at = bisect_right(self._ranges, sequence, key=lambda one: one[0]) - 1
        return at >= 0 and sequence <= self._ranges[at][1]

    def split(self, first: int, last: int) -> tuple[list[Range], list[Range]]:
        """Return the parts of a range that are in these ranges, and the other parts."""
        inside: list[Range] = []
        outside: list[Range] = []
        at = max(bisect_right(self._ranges, first, key=lambda one: one[0]) - 1, 0)
        for start, end in self._ranges[at:]:
            if first > last or start > last:
                break
            if end < first:
                continue
            if first < start:
                outside.append((first, start - 1))
            inside.append((max(first, start), min(last, end)))
            first = end + 1
        if first <= last:
            outside.append((first, last))
        return inside, outside


class _Fact(NamedTuple):
    """A message in a journal or the database.

    before: number of repeats before it. repeat and trade, its time and id: in a journal only.
    """

    topic: bytes
    epoch: int
    sequence: int
    published_ns: int
    before: int
    repeat: bool = False
    trade: tuple[int, int] | None = None


@dataclass(slots=True)
class _Stream:
    topic: bytes
    epoch: int
    rule: Rule
    seen: Ranges = field(default_factory=Ranges)
    # (first, last, time of the message before): in neither the journal nor the database
    holes: list[tuple[int, int, int]] = field(default_factory=list)
    gaps: dict[str, Ranges] = field(default_factory=dict)
    # (first, last, found_ns) of rows of `gap` found within the time
    found: list[tuple[int, int, int]] = field(default_factory=list)
    # messages that are only in the journal: sequence -> time
    pending: dict[int, int] = field(default_factory=dict)
    last_stored: int = 0
    last_ns: int = 0
    # the latest slot that has a row
    slot: int = -1


def reconcile(
    settings: Settings,
    from_ns: int,
    to_ns: int,
    progress: Callable[[str], object] | None = None,
) -> Report:
    """Compare journals and database for messages published in [from_ns, to_ns).

    Args: progress: called with each publisher before it is compared.
    Raises: StorageError when the database cannot be read.
    """
    report = Report(from_ns, to_ns)
    found = address(settings)
    rules = policies(settings)
    for worker in STORED:
        for publisher, kinds in collectors_of(worker, sorted(settings.exchanges)).items():
            if progress is not None:
                progress(publisher)
            with contextlib.ExitStack() as opened:
                facts = _facts(settings, publisher, report, opened)
                # the tables are read side by side, each on its own connection
                rows = [
                    _rows(opened.enter_context(schema.connect(found)), kind, publisher, report)
                    for kind in kinds
                ]
                _Comparison(report, found, publisher, rules).run(facts, rows)
    report.lines.sort(key=lambda line: (line.publisher, line.topic, line.minute_ns))
    return report


def _facts(
    settings: Settings, publisher: str, report: Report, opened: contextlib.ExitStack
) -> list[Iterator[_Fact]]:
    """Return the messages of the journal, as iterators in the order of publishing."""
    from_ns, to_ns = report.from_ns, report.to_ns
    folder = journal_folder(settings, publisher)
    if segment_paths(folder):
        return [_within(read_journal(folder, from_ns, to_ns), from_ns, to_ns)]
    # the journal is on another host, or the publisher was never started
    client = JournalClient(settings.bus.replay_endpoint(publisher), settings.bus, timeout_s=1.0)
    opened.callback(client.close)
    try:
        ranges = client.ranges()
    except JournalError:
        return []
    return [
        _within(_fetched(client, topic, epoch), from_ns, to_ns)
        for epoch, topics in ranges.items()
        for topic in topics
    ]


def _fetched(client: JournalClient, topic: bytes, epoch: int) -> Iterator[Message]:
    with contextlib.suppress(JournalError, MessageError):
        for chunk in client.fetch_all(topic, epoch, 1):
            yield from chunk.messages


def _within(messages: Iterable[Message], from_ns: int, to_ns: int) -> Iterator[_Fact]:
    for message in messages:
        if from_ns <= message.published_ns < to_ns:
            book = message.kind == ORDERBOOK
            at_ns = message.exchange_ns or message.received_ns or message.published_ns
            repeat = message.kind in REPEATED and bool(message.flags & REPEAT)
            yield _Fact(
                message.topic,
                message.epoch,
                message.sequence,
                message.published_ns,
                message.flags >> REPEATS_BITS if book and not repeat else 0,
                repeat,
                (at_ns, message.id) if message.kind == TRADE else None,
            )


def _rows(
    connection: psycopg.Connection[Any], kind: str, publisher: str, report: Report
) -> Iterator[_Fact]:
    """Yield a publisher's rows of one table in the order of publishing; the server sorts them."""
    window, slack = WINDOWS.get(kind, WINDOW)
    flags = "flags" if kind == "orderbook" else "0"
    owner = "AND publisher = %s" if kind == "state" else ""
    # all sources of a rate have one publisher
    name = "exchange = %s" if kind != RATE.name else "exchange != %s"
    exchange = publisher.rpartition("-")[2] if kind != RATE.name else ""
    # the requested time may be years, most of them without rows
    bounds = connection.execute(
        "SELECT min(published_ts)::long, max(published_ts)::long, min(ts)::long, max(ts)::long"
        f" FROM {kind} WHERE {name} AND published_ts >= {report.from_ns}::timestamp_ns"
        f" AND published_ts < {report.to_ns}::timestamp_ns",
        (exchange,),
    ).fetchone()
    if bounds is None or None in bounds:
        return
    first_ns, last_ns, oldest_ns, newest_ns = bounds
    # with a collector's clock that was wrong by days, `ts` and `published_ts` are far apart
    apart = oldest_ns < first_ns - slack or newest_ns > last_ns + slack
    for start in range(first_ns, last_ns + 1, window):
        end = min(start + window, last_ns + 1)
        ts_from, ts_to = (oldest_ns, newest_ns + 1) if apart else (start - slack, end + slack)
        cursor = connection.cursor()
        for source, market, epoch, sequence, published_ns, bits in cursor.stream(
            f"SELECT exchange, market, epoch, seq, published_ts::long, {flags} FROM {kind}"
            f" WHERE ts >= {ts_from}::timestamp_ns AND ts < {ts_to}::timestamp_ns"
            f" AND published_ts >= {start}::timestamp_ns AND published_ts < {end}::timestamp_ns"
            f" AND {name} {owner} ORDER BY published_ts",
            (exchange, publisher) if owner else (exchange,),
        ):
            if market and epoch is not None and sequence is not None:
                topic = build(kind, source, market)
                yield _Fact(topic, epoch, sequence, published_ns, (bits or 0) >> REPEATS_BITS)


class _Ahead:
    """Reads an iterator of messages up to a time."""

    def __init__(self, found: Iterator[_Fact]) -> None:
        self._found = found
        self._next = next(found, None)

    @property
    def at_ns(self) -> int:
        """Publishing time of the next item; FOR_EVER_NS when there is none."""
        return FOR_EVER_NS if self._next is None else self._next.published_ns

    def until(self, end_ns: int) -> Iterator[_Fact]:
        """Yield the items that were published before a time."""
        while self._next is not None and self._next.published_ns < end_ns:
            yield self._next
            self._next = next(self._found, None)


class _Comparison:
    def __init__(self, report: Report, found: Address, publisher: str, policies: Policies) -> None:
        self._policies = policies
        # time of the first message in a journal
        self._journal_ns = FOR_EVER_NS
        self._report = report
        self._address = found
        self._publisher = publisher
        self._streams: dict[tuple[bytes, int], _Stream] = {}
        self._lines: dict[tuple[bytes, int], Line] = {}
        self._pending = 0
        # epochs whose rows of `gap` are read
        self._epochs: set[int] = set()

    def run(self, facts: list[Iterator[_Fact]], rows: list[Iterator[_Fact]]) -> None:
        with schema.connect(self._address) as connection:
            self._read_found(connection)
            journal = [_Ahead(one) for one in facts]
            self._journal_ns = min((one.at_ns for one in journal), default=FOR_EVER_NS)
            database = [_Ahead(one) for one in rows]
            while (start := min(one.at_ns for one in (*journal, *database))) < FOR_EVER_NS:
                end = start + SLICE_NS
                both: dict[tuple[bytes, int], tuple[dict[int, _Fact], dict[int, _Fact]]]
                both = defaultdict(lambda: ({}, {}))
                for side, sources in enumerate((journal, database)):
                    for source in sources:
                        for one in source.until(end):
                            both[one.topic, one.epoch][side][one.sequence] = one
                for key, (journalled, stored) in both.items():
                    self._read_gaps(connection, key[1])
                    self._compare(connection, self._stream(*key), journalled, stored)
        for stream in self._streams.values():
            self._finish(stream)

    def _stream(self, topic: bytes, epoch: int) -> _Stream:
        stream = self._streams.get((topic, epoch))
        if stream is None:
            rule = self._policies.of(*topic.decode().split(".")[:3])
            stream = self._streams[topic, epoch] = _Stream(topic, epoch, rule)
            if rule.slot_ns:
                # the row of the slot may have been published before the time
                stream.slot = rule.slot(self._report.from_ns)
        return stream

    def _count(self, stream: _Stream, at_ns: int, **counts: int) -> None:
        """Add counts to the total and to the line of the topic's minute."""
        key = (stream.topic, at_ns - at_ns % MINUTE_NS)
        line = self._lines.get(key)
        report = self._report
        if line is None and len(report.lines) < LINES_LIMIT:
            line = self._lines[key] = Line(self._publisher, stream.topic.decode(), key[1])
            report.lines.append(line)
        elif line is None:
            report.lines_left_out += 1
            line = self._lines[key] = Line("", "", 0)
        for name, count in counts.items():
            setattr(line, name, getattr(line, name) + count)
            setattr(report.total, name, getattr(report.total, name) + count)

    def _read_found(self, connection: psycopg.Connection[Any]) -> None:
        """Read the rows of `gap` found within the time; they may be all that is left."""
        report = self._report
        within = (
            f"ts >= {report.from_ns}::timestamp_ns AND ts < {report.to_ns}::timestamp_ns"
            f" AND status IN ({', '.join(map(repr, EXPLAINED))})"
        )
        for topic, epoch, first, last, count, status, ts in self._rows_of_gap(connection, within):
            if first:
                self._stream(topic, epoch).found.append((first, last, ts))
            elif status == gaps.LOST:
                # trades that the exchange no longer reports have no sequence
                self._count(self._stream(topic, epoch), ts, lost=count, gaps=count)
        for epoch in {epoch for _, epoch in self._streams}:
            self._read_gaps(connection, epoch)

    def _read_gaps(self, connection: psycopg.Connection[Any], epoch: int) -> None:
        """Read all rows of `gap` of an epoch, once.

        They are not selected by time: `gap` has the storage worker's clock, not the publisher's.
        """
        if epoch in self._epochs:
            return
        self._epochs.add(epoch)
        by_status: dict[tuple[bytes, str], list[Range]] = defaultdict(list)
        for topic, _, first, last, _, status, _ in self._rows_of_gap(
            connection, f"epoch = {epoch} AND first > 0"
        ):
            by_status[topic, status].append((first, last))
        for (topic, status), ranges in by_status.items():
            self._stream(topic, epoch).gaps[status] = Ranges(ranges)

    def _rows_of_gap(
        self, connection: psycopg.Connection[Any], where: str
    ) -> Iterator[tuple[bytes, int, int, int, int, str, int]]:
        rows = connection.cursor().stream(
            "SELECT kind, exchange, market, epoch, first, last, count, status, ts::long FROM gap"
            f" WHERE kind != '{gaps.VENUE}' AND publisher = %s AND {where}",
            (self._publisher,),
        )
        for kind, exchange, market, *facts in rows:
            # skip rows with a damaged name
            with contextlib.suppress(MessageError):
                yield build(kind, exchange, market), *facts

    def _compare(
        self,
        connection: psycopg.Connection[Any],
        stream: _Stream,
        journalled: dict[int, _Fact],
        stored: dict[int, _Fact],
    ) -> None:
        waiting: list[_Fact] = []
        slots = self._slots(stream, stored)
        for sequence in sorted(journalled.keys() | stored.keys()):
            fact, row = journalled.get(sequence), stored.get(sequence)
            one = fact or stored[sequence]
            at_ns = one.published_ns
            if one.before:
                self._repeats_before(stream, sequence, one.before, at_ns)
            if sequence in stream.seen:
                # after a clock was set back, a message and its row are read far apart
                self._again(stream, sequence, fact, row)
            else:
                self._arrive(stream, sequence, sequence, at_ns)
                self._count(stream, at_ns, journalled=int(fact is not None))
                if row is not None:
                    self._count(stream, at_ns, stored=1)
                elif fact is not None and fact.repeat:
                    self._count(stream, at_ns, repeats=1)
                elif fact is not None and slots and stream.rule.slot(at_ns) in slots:
                    self._count(stream, at_ns, thinned=1)
                elif fact is not None:
                    waiting.append(fact)
            if row is not None:
                stream.last_stored = max(stream.last_stored, sequence)
        self._explain(stream, waiting, _trades_known(connection, stream.topic, waiting))

    def _slots(self, stream: _Stream, stored: dict[int, _Fact]) -> set[int]:
        """Return the slots that have a row, of a market that the policy thins."""
        rule = stream.rule
        if not rule.slot_ns:
            return set()
        found = {rule.slot(row.published_ns) for row in stored.values()}
        # a message that was fetched late may come before the row of its slot
        for sequence in [n for n, at_ns in stream.pending.items() if rule.slot(at_ns) in found]:
            self._count(stream, stream.pending.pop(sequence), thinned=1)
            self._pending -= 1
        before, stream.slot = stream.slot, max(found, default=stream.slot)
        return found | {before}

    def _again(self, stream: _Stream, sequence: int, fact: _Fact | None, row: _Fact | None) -> None:
        if fact is not None:
            self._count(stream, fact.published_ns, journalled=1)
        if row is not None and stream.pending.pop(sequence, None) is not None:
            self._pending -= 1
            self._count(stream, row.published_ns, stored=1)

    def _arrive(self, stream: _Stream, first: int, last: int, at_ns: int) -> None:
        """Count sequences, and note a hole before them."""
        newest = stream.seen.bounds[1]
        if stream.seen and first > newest + 1:
            stream.holes.append((newest + 1, first - 1, stream.last_ns))
        stream.seen.add(first, last)
        stream.last_ns = at_ns
        self._exist(stream, first, last, at_ns)

    def _exist(self, stream: _Stream, first: int, last: int, at_ns: int) -> None:
        n = last - first + 1
        received = 0 if stream.topic.startswith(b"state.") else n
        self._count(stream, at_ns, published=n, received=received)
        if stream.gaps:
            parts = [ranges.split(first, last)[0] for ranges in stream.gaps.values()]
            named = joined(part for inside in parts for part in inside)
            self._count(stream, at_ns, gaps=_size(named))

    def _repeats_before(self, stream: _Stream, sequence: int, before: int, at_ns: int) -> None:
        """Count the repeats before a book that no journal has; the book has their number."""
        if before == REPEATS_MOST and stream.last_stored:
            # REPEATS_MOST means so many or more: all sequences since the row before
            before = max(before, sequence - stream.last_stored - 1)
        first = max(sequence - before, 1)
        maybe = range(first, sequence) if before < len(stream.pending) else stream.pending
        for known in [one for one in maybe if first <= one < sequence and one in stream.pending]:
            self._count(stream, stream.pending.pop(known), repeats=1)
            self._pending -= 1
        for start, end in stream.seen.split(first, sequence - 1)[1]:
            self._arrive(stream, start, end, at_ns)
            self._count(stream, at_ns, repeats=end - start + 1)

    def _explain(self, stream: _Stream, waiting: list[_Fact], known: set[tuple[int, int]]) -> None:
        for fact in waiting:
            if fact.trade in known:
                self._count(stream, fact.published_ns, duplicates=1)
                continue
            for status in EXPLAINED:
                if status in stream.gaps and fact.sequence in stream.gaps[status]:
                    self._count(stream, fact.published_ns, **{status: 1})
                    break
            else:
                if self._pending < PENDING_LIMIT:
                    self._pending += 1
                    stream.pending[fact.sequence] = fact.published_ns
                else:
                    self._unexplained(stream, fact.sequence, fact.sequence, fact.published_ns)

    def _finish(self, stream: _Stream) -> None:
        for sequence, at_ns in stream.pending.items():
            self._unexplained(stream, sequence, sequence, at_ns)
        for first, last, at_ns in stream.holes:
            # what the policy left out before the journal began is in no journal and no row
            thinned = bool(stream.rule.slot_ns) and at_ns < self._journal_ns
            for start, end in stream.seen.split(first, last)[1]:
                self._missing(stream, start, end, at_ns, thinned=thinned)
        first, last = stream.seen.bounds
        outside = Ranges()
        for start, end, found_ns in stream.found:
            parts = (
                [(start, end)]
                if not stream.seen
                else [(start, min(end, first - 1)), (max(start, last + 1), end)]
            )
            for part in parts:
                # rows of `gap` may name a sequence twice
                for new in outside.split(*part)[1]:
                    self._missing(stream, *new, found_ns)
                    outside.add(*new)

    def _missing(
        self, stream: _Stream, first: int, last: int, at_ns: int, *, thinned: bool = False
    ) -> None:
        self._exist(stream, first, last, at_ns)
        left = [(first, last)]
        for status in EXPLAINED:
            ranges = stream.gaps.get(status, Ranges())
            split = [ranges.split(*part) for part in left]
            self._count(stream, at_ns, **{status: sum(_size(inside) for inside, _ in split)})
            left = [part for _, outside in split for part in outside]
        if thinned:
            self._count(stream, at_ns, thinned=_size(left))
            return
        for start, end in left:
            self._unexplained(stream, start, end, at_ns)

    def _unexplained(self, stream: _Stream, first: int, last: int, at_ns: int) -> None:
        self._count(stream, at_ns, unexplained=last - first + 1)
        named = self._report.unexplained
        for sequence in range(first, min(last, first + UNEXPLAINED_LIMIT - len(named) - 1) + 1):
            named.append((self._publisher, stream.topic.decode(), stream.epoch, sequence))


def _size(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _trades_known(
    connection: psycopg.Connection[Any], topic: bytes, waiting: list[_Fact]
) -> set[tuple[int, int]]:
    """Return (time, id) of those trades that are stored under another message's sequence."""
    trades = {fact.trade for fact in waiting if fact.trade is not None}
    if not trades:
        return set()
    times = [at_ns for at_ns, _ in trades]
    _, exchange, market, _ = topic.decode().split(".")
    rows = connection.execute(
        f"SELECT ts::long, trade_id FROM trade WHERE ts >= {min(times)}::timestamp_ns"
        f" AND ts <= {max(times)}::timestamp_ns AND exchange = %s AND market = %s",
        (exchange, market),
    )
    # filter row by row: the times may span a day when a trade was fetched late
    return {one for one in rows if one in trades}
