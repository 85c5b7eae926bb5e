"""Identify recorded frames and REST answers by their exchange's rules."""

from __future__ import annotations

from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import NOTHING, Exchange, Label
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


def is_update(exchange: Exchange, what: Label, payload: bytes) -> bool:
    """Return whether a recorded frame is an update of a book."""
    return (
        bool(what.kinds)
        and what.kinds[0].startswith(exchange.BOOK_KIND)
        and exchange.ids_of(what, payload) is not None
    )
