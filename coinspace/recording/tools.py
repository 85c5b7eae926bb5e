"""Summarise, check, cut and merge recordings."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from coinspace.errors import FeedError
from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Exchange
from coinspace.market import Market, as_named
from coinspace.recording.format import FeedReader, FeedWriter, Record
from coinspace.recording.frames import RecordedBooks, label, snapshot_symbol
from coinspace.recording.merge import merge
from coinspace.recording.progress import reading
from coinspace.text import is_binary

# ids and their sums stay within 64 bits
ID_DIGITS = 18
MOST = (1 << 63) - 1
ERRORS_KEPT = 20
# names of kinds, symbols and marks that are counted apart; further names are counted as OTHER
NAMES_KEPT = 10_000
OTHER = "other"
Key = TypeVar("Key")
# the users' name for order books; exchanges have other names
BOOK_KIND = "orderbook"


@dataclass
class IdSequence:
    """Ids of one stream; a gap is a range of missing ids."""

    last: int = 0
    gaps: int = 0
    missing: int = 0

    def see(self, first: int, final: int) -> None:
        """Take the ids of the next frame."""
        if self.last and first > self.last + 1:
            self.gaps += 1
            self.missing += first - self.last - 1
        self.last = max(self.last, final)


@dataclass
class Summary:
    """Summary of one feed. frames: (kind, symbol) -> number; sizes in bytes; times in ns."""

    path: Path
    header: dict[str, Any]
    records: Counter[str] = field(default_factory=Counter)
    frames: Counter[tuple[str, str]] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    n_errors: int = 0
    first_ns: int = 0
    last_ns: int = 0
    payload_bytes: int = 0
    file_bytes: int = 0
    longest_silence_ns: int = 0
    torn: bool = False
    blocks: int = 0
    unchecked_blocks: int = 0
    sequences: dict[tuple[str, str], IdSequence] = field(default_factory=dict)

    def error(self, text: str) -> None:
        """Count an error; keep its text if it is among the first ones."""
        self.n_errors += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(text)

    @property
    def gaps(self) -> int:
        return sum(one.gaps for one in self.sequences.values())

    def facts(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {
            "path": str(self.path),
            "exchange": self.header["exchange"],
            "url": self.header.get("url"),
            "records": dict(self.records),
            "frames": [
                {"kind": kind, "symbol": symbol, "frames": n}
                for (kind, symbol), n in sorted(self.frames.items())
            ],
            "marks": dict(self.marks),
            "first_ns": self.first_ns,
            "last_ns": self.last_ns,
            "duration_s": (self.last_ns - self.first_ns) / 1e9,
            "longest_silence_s": self.longest_silence_ns / 1e9,
            "payload_bytes": self.payload_bytes,
            "file_bytes": self.file_bytes,
            "gaps": self.gaps,
            "ids_missing": min(MOST, sum(one.missing for one in self.sequences.values())),
            "torn": self.torn,
            "blocks": self.blocks,
            "unchecked_blocks": self.unchecked_blocks,
            "errors": self.errors,
            "n_errors": self.n_errors,
        }


def summarise(reader: FeedReader, *, check: bool = False) -> Summary:
    """Read a feed to its end and return its summary.

    Args: check: also parse every frame as JSON; collect errors instead of raising them.
    Raises: FeedError for a damaged file, unless `check`.
    """
    summary = Summary(reader.path, reader.header, file_bytes=reader.size)
    try:
        for record in reader:
            _count(summary, reader, record, check)
    except FeedError as error:
        if not check:
            raise
        summary.error(str(error))
    summary.torn = reader.torn
    summary.unchecked_blocks, summary.blocks = reader.unchecked_blocks()
    if check and 0 < summary.unchecked_blocks < summary.blocks and not reader.torn:
        # a writer gives checksums to all blocks or to none
        summary.error(f"feed {reader.path}: {summary.unchecked_blocks} blocks lost their checksum")
    if check and not summary.records and not summary.n_errors:
        summary.error(f"feed {reader.path}: expected records, found none")
    if check and reader.torn:
        summary.error(f"feed {reader.path}: the end is cut, {sum(summary.records.values())} read")
    return summary


def _count(summary: Summary, reader: FeedReader, record: Record, check: bool) -> None:
    summary.records[record.direction] += 1
    summary.payload_bytes += len(record.payload)
    if summary.last_ns:
        silence_ns = record.received_ns - summary.last_ns
        summary.longest_silence_ns = max(summary.longest_silence_ns, silence_ns)
    summary.first_ns = summary.first_ns or record.received_ns
    summary.last_ns = record.received_ns
    if record.direction == "!":
        name = str(record.mark().get("mark"))
        _tally(summary.marks, name, OTHER)
        if name in ("connect", "disconnect"):
            # each connection has new ids
            for sequence in summary.sequences.values():
                sequence.last = 0
        return
    if check:
        if record.payload.endswith(b"\r"):
            summary.error(f"feed {reader.path}, line {reader.line}: ends with CR LF, expected LF")
        try:
            if not is_binary(record.payload):
                orjson.loads(record.payload)
        except orjson.JSONDecodeError as error:
            summary.error(f"feed {reader.path}, line {reader.line}: expected JSON, {error}")
    if record.direction == "<":
        _count_frame(summary, reader, record.payload)


def _tally(counts: Counter[Key], name: Key, other: Key) -> None:
    counts[name if name in counts or len(counts) < NAMES_KEPT else other] += 1


def _count_frame(summary: Summary, reader: FeedReader, payload: bytes) -> None:
    what = label(reader.exchange, payload)
    kind = what.kinds[0] if what.kinds else OTHER
    _tally(summary.frames, (kind, what.symbol), (OTHER, ""))
    if reader.exchange not in EXCHANGES:
        return
    found = exchange_named(reader.exchange).ids_of(what, payload)
    if found is None:
        return
    first, final = found
    if max(len(first), len(final)) > ID_DIGITS:
        summary.error(
            f"feed {reader.path}, line {reader.line}: expected ids of {ID_DIGITS} digits at most"
        )
    elif (kind, what.symbol) in summary.frames:
        sequence = summary.sequences.setdefault((kind, what.symbol), IdSequence())
        sequence.see(int(first), int(final))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path to write to; the finished file replaces the target, a failure keeps it."""
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        raise FeedError(f"{target}: expected a file to write, {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


class Wanted:
    """Selects frames of an exchange by the user's names and notes which names were found.

    symbols: the exchange's symbols, or markets such as BTC/KRW. kinds: as in the feed; "orderbook"
    means books of any kind.
    """

    def __init__(self, exchange: str, symbols: Sequence[str], kinds: Sequence[str]) -> None:
        self._exchange = exchange
        self.symbols = {_symbol(exchange, text) for text in symbols}
        self.kinds = set(kinds)
        self._found: set[str] = set()
        # symbols and kinds of the part, for the error about a name that was not found
        self._seen: set[str] = set()

    def takes(self, record: Record) -> bool:
        """Return whether a record is selected; sent frames, marks and other answers always are."""
        if record.direction == "GET" and self.symbols:
            symbol = snapshot_symbol(self._exchange, record)
            return symbol is None or symbol in self.symbols
        if record.direction != "<" or not (self.symbols or self.kinds):
            return True
        what = label(self._exchange, record.payload)
        if not what.kinds:
            return True
        symbol, kinds = what.symbol.upper(), self._names(what.kinds)
        if len(self._seen) < NAMES_KEPT:
            self._seen |= {symbol, *what.kinds}
        if self.symbols and symbol not in self.symbols:
            return False
        if self.kinds and not kinds & self.kinds:
            return False
        self._found |= {symbol, *kinds}
        return True

    def _names(self, kinds: Iterable[str]) -> set[str]:
        names = set(kinds)
        if any(kind.startswith(exchange_named(self._exchange).BOOK_KIND) for kind in names):
            names.add(BOOK_KIND)
        return names

    def check(self) -> None:
        """Check that all names were found. Raises: FeedError with the missing and found names."""
        missing = sorted((self.symbols | self.kinds) - self._found)
        if missing:
            seen = ", ".join(sorted(self._seen)[:ERRORS_KEPT]) or "no frame"
            raise FeedError(
                f"cut: found no frame of {', '.join(missing)} in this part, which has {seen}"
            )


def _symbol(exchange: str, text: str) -> str:
    if "/" in text:
        return exchange_named(exchange).symbol_of(Market.parse(as_named(text))).upper()
    return text.upper()


def cut(
    source: Path,
    target: Path,
    *,
    start_ns: int = 0,
    end_ns: int | None = None,
    symbols: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> int:
    """Write part of a feed. Returns: the number of records.

    A part of a feed of updates starts with a snapshot of each book, so that it can be replayed.
    symbols, kinds: see `Wanted`.
    Raises: FeedError when the part has no frame, or no frame of a symbol or kind.
    """
    # for a feed of updates, the part before the cut is read too: it gives the snapshots
    with FeedReader(source) as first:
        exchange = exchange_named(first.exchange) if first.exchange in EXCHANGES else None
    carries = exchange is not None and exchange.UPDATES
    with FeedReader(source, start_ns=0 if carries else start_ns, end_ns=end_ns) as reader:
        header = {**reader.header, "cut_from": source.name}
        wanted = Wanted(reader.exchange, symbols, kinds)
        books = RecordedBooks()
        frames = 0
        with (
            replacing(target) as part,
            reading([reader], f"cut {source.name}"),
            FeedWriter(part, header) as writer,
        ):
            begun = not (carries and start_ns)
            for record in reader:
                if exchange is not None and record.received_ns < start_ns:
                    books.take(exchange, record)
                    continue
                if exchange is not None and not begun:
                    begun = True
                    _write_books(exchange, writer, books, record.received_ns, wanted.symbols)
                if wanted.takes(record):
                    writer.write(*record)
                    frames += record.direction == "<"
            wanted.check()
            if not frames:
                raise FeedError(f"cut: expected frames in this part of {source}, found none")
            return writer.records


def _write_books(
    exchange: Exchange,
    writer: FeedWriter,
    books: RecordedBooks,
    now_ns: int,
    wanted: set[str],
) -> None:
    levels = exchange.STREAM_DEPTH
    for (_, symbol), book in sorted(books.books.items()):
        if book.id and (not wanted or symbol in wanted):
            path = exchange.snapshot_request(symbol, levels).path
            writer.write(now_ns, "GET", path, book.answer(levels))


def merge_feeds(sources: Iterable[Path], target: Path) -> int:
    """Merge feeds of one exchange by receive time. Returns: the number of records.

    Raises: FeedError when the feeds are of several exchanges, or one is given twice.
    """
    paths = list(sources)
    if len({path.resolve() for path in paths}) < len(paths):
        raise FeedError("merge: expected each feed once, found one twice")
    readers = [FeedReader(path) for path in paths]
    try:
        exchanges = sorted({reader.exchange for reader in readers})
        if len(exchanges) != 1:
            raise FeedError(
                f"merge: expected feeds of one exchange, were {', '.join(exchanges)};"
                " replay and compute-index take several feeds"
            )
        started_ns = min(int(reader.header.get("started_ns", 0)) for reader in readers)
        header = {
            **readers[0].header,
            "started_ns": started_ns,
            "merged_from": [reader.path.name for reader in readers],
        }
        with (
            replacing(target) as part,
            reading(readers, "merge"),
            FeedWriter(part, header) as writer,
        ):
            for _, record in merge(readers):
                writer.write(*record)
            return writer.records
    finally:
        for reader in readers:
            reader.close()
