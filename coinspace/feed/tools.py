"""What a recording holds, whether it is whole, and parts and sums of recordings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from coinspace.errors import FeedError
from coinspace.feed.format import FeedReader, FeedWriter, Record
from coinspace.feed.merge import merge
from coinspace.feed.progress import reading
from coinspace.feed.recorded import LocalBook, depth_symbol, label

_IDS = re.compile(rb'"U":(\d+),"u":(\d+)')
_TRADE = re.compile(rb'"t":(\d+)')
SNAPSHOT_LEVELS = 5000
ERRORS_KEPT = 20


@dataclass
class IdSequence:
    """Ids of one stream: gaps are ranges that are missing."""

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
    """What one feed holds. frames: (kind, symbol) -> number; sizes in bytes; times in ns."""

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
    sequences: dict[tuple[str, str], IdSequence] = field(default_factory=dict)

    def error(self, text: str) -> None:
        """Keep the first errors, count all."""
        self.n_errors += 1
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(text)

    @property
    def gaps(self) -> int:
        """Gaps of all sequences; a mark of a disconnect in between is no excuse."""
        return sum(one.gaps for one in self.sequences.values())

    def facts(self) -> dict[str, Any]:
        """Return everything as JSON takes it."""
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
            "ids_missing": sum(one.missing for one in self.sequences.values()),
            "torn": self.torn,
            "errors": self.errors,
            "n_errors": self.n_errors,
        }


def summarise(reader: FeedReader, *, check: bool = False) -> Summary:
    """Read a feed to its end.

    Args: check: also parse every frame as JSON and collect what is wrong instead of raising.
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
        summary.marks[name] += 1
        if name in ("connect", "disconnect"):
            # ids begin anew with a connection
            summary.sequences.update({key: IdSequence() for key in summary.sequences})
        return
    if check:
        try:
            orjson.loads(record.payload)
        except orjson.JSONDecodeError as error:
            summary.error(f"feed {reader.path}, line {reader.line}: expected JSON, {error}")
    if record.direction == "<":
        _count_frame(summary, reader.exchange, record.payload)


def _count_frame(summary: Summary, exchange: str, payload: bytes) -> None:
    what = label(exchange, payload)
    kind = what.kinds[0] if what.kinds else "other"
    summary.frames[kind, what.symbol] += 1
    if exchange != "binance" or not what.kinds:
        return
    found = _IDS.search(payload) if kind.startswith("depth") else None
    if found is not None:
        sequence = summary.sequences.setdefault((kind, what.symbol), IdSequence())
        sequence.see(int(found[1]), int(found[2]))
    elif kind == "trade":
        found = _TRADE.search(payload)
        if found is not None:
            sequence = summary.sequences.setdefault((kind, what.symbol), IdSequence())
            sequence.see(int(found[1]), int(found[1]))


def cut(
    source: Path,
    target: Path,
    *,
    start_ns: int = 0,
    end_ns: int | None = None,
    symbols: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> int:
    """Write part of a feed; return its records.

    A cut through a Binance feed begins with a snapshot of each book as it was then, so that it can
    be replayed. symbols: as the exchange spells them. kinds: orderbook frames of Binance are
    `depth@100ms` and so on.
    """
    wanted = {symbol.upper() for symbol in symbols}
    # the part before the cut is read too, where books have to be carried over it
    carries = FeedReader(source)
    binance = carries.exchange == "binance"
    carries.close()
    with FeedReader(source, start_ns=0 if binance else start_ns, end_ns=end_ns) as reader:
        header = {**reader.header, "cut_from": source.name}
        books: dict[str, LocalBook] = {}
        with reading([reader], f"cut {source.name}"), FeedWriter(target, header) as writer:
            begun = not (binance and start_ns)
            for record in reader:
                if record.received_ns < start_ns:
                    _carry(books, record)
                    continue
                if not begun:
                    begun = True
                    _write_books(writer, books, record.received_ns, wanted)
                if _is_wanted(reader.exchange, record, wanted, kinds):
                    writer.write(*record)
            return writer.records


def _carry(books: dict[str, LocalBook], record: Record) -> None:
    symbol = depth_symbol(record)
    if symbol is not None:
        books.setdefault(symbol, LocalBook()).restart(record.payload)
    elif record.direction == "<":
        what = label("binance", record.payload)
        if what.kinds and what.kinds[0] in ("depth", "depth@100ms"):
            books.setdefault(what.symbol.upper(), LocalBook()).apply(record.payload)


def _write_books(
    writer: FeedWriter, books: dict[str, LocalBook], now_ns: int, wanted: set[str]
) -> None:
    for symbol, book in sorted(books.items()):
        if book.id and (not wanted or symbol in wanted):
            path = f"/api/v3/depth?symbol={symbol}&limit={SNAPSHOT_LEVELS}"
            writer.write(now_ns, "GET", path, book.answer(SNAPSHOT_LEVELS))


def _is_wanted(exchange: str, record: Record, symbols: set[str], kinds: Sequence[str]) -> bool:
    if record.direction == "GET" and symbols:
        symbol = depth_symbol(record)
        return symbol is None or symbol in symbols
    if record.direction != "<" or not (symbols or kinds):
        return True
    what = label(exchange, record.payload)
    if not what.kinds:
        return True
    if symbols and what.symbol.upper() not in symbols:
        return False
    return not kinds or any(kind in kinds for kind in what.kinds)


def merge_feeds(sources: Iterable[Path], target: Path) -> int:
    """Write feeds of one exchange as one, by receive time; return its records.

    Raises: FeedError when the feeds are of several exchanges.
    """
    readers = [FeedReader(path) for path in sources]
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
        with reading(readers, "merge"), FeedWriter(target, header) as writer:
            for _, record in merge(readers):
                writer.write(*record)
            return writer.records
    finally:
        for reader in readers:
            reader.close()
