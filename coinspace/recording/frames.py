"""Identify recorded frames and REST answers by their exchange's rules."""

from __future__ import annotations

from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import NOTHING, Exchange, Label, RecordedBook
from coinspace.recording.format import Record


def label(exchange: str, payload: bytes) -> Label:
    """Return kind and symbol of a recorded frame, NOTHING when it has no market data."""
    return exchange_named(exchange).label(payload) if exchange in EXCHANGES else NOTHING


def snapshot_symbol(exchange: str, record: Record) -> str | None:
    """Return the symbol of a recorded snapshot, None for other records."""
    if record.direction != "GET" or exchange not in EXCHANGES:
        return None
    request = exchange_named(exchange).request_of(record.path)
    if request is None or request.purpose != "snapshot":
        return None
    return request.symbols[0]


class RecordedBooks:
    """The books of recordings, from all records so far.

    Attributes: books: (exchange, symbol in capitals) -> book.
    """

    def __init__(self) -> None:
        self.books: dict[tuple[str, str], RecordedBook] = {}

    def take(self, exchange: Exchange, record: Record) -> None:
        """Take the next record: a snapshot, an update, or one that changes no book."""
        if not exchange.UPDATES:
            return
        symbol = snapshot_symbol(exchange.NAME, record)
        if symbol is not None:
            self._book(exchange, symbol).restart(record.payload)
        elif record.direction == "<":
            what = exchange.label(record.payload)
            is_book = bool(what.kinds) and what.kinds[0].startswith(exchange.BOOK_KIND)
            if is_book and exchange.ids_of(what, record.payload) is not None:
                self._book(exchange, what.symbol).apply(record.payload)

    def _book(self, exchange: Exchange, symbol: str) -> RecordedBook:
        key = exchange.NAME, symbol.upper()
        if key not in self.books:
            book = exchange.recorded_book()
            assert book is not None, f"{exchange.NAME} has updates of books"
            self.books[key] = book
        return self.books[key]
