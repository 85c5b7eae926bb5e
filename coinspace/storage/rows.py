"""Bus messages to rows: one function per kind, nothing copied but into the sender's buffer.

A row's `ts` comes from the message, so the same message gives the same row whenever it is stored:
live, from a journal or a second time.
"""

from __future__ import annotations

from typing import Any, Protocol

from coinspace._ext.message import ORDERBOOK, STATE, TICKER, TICKER_NAMES, TRADE, Message
from coinspace.storage.sender import Sender
from coinspace.storage.transport import TimestampNanos

Key = tuple[str, str, int, int]
SYMBOL_LIMIT = 64


class Venue:
    """What is the same in every row of one topic.

    Attributes: publisher; topic; symbols as the sender takes them.
    """

    __slots__ = ("exchange", "market", "publisher", "symbols", "topic")

    def __init__(self, publisher: str, topic: str, exchange: str, market: str) -> None:
        self.publisher = publisher
        self.topic = topic
        self.exchange = exchange
        self.market = market
        self.symbols: dict[str, str | None] = {"exchange": exchange, "market": market}


class Store(Protocol):
    """Stores one message. Returns: False when the sender has no memory left for it."""

    def __call__(self, sender: Sender, venue: Venue, message: Message, depth: int, /) -> bool: ...


def _time(ns: int) -> TimestampNanos | None:
    return TimestampNanos(ns) if ns > 0 else None


def _received_ns(message: Message) -> int:
    # a message that was not received from anywhere (REST, state) has its publishing time
    return message.received_ns or message.published_ns


def _key(venue: Venue, message: Message) -> Key:
    return (venue.publisher, venue.topic, message.epoch, message.sequence)


def store_orderbook(sender: Sender, venue: Venue, message: Message, depth: int) -> bool:
    """Store a book, at most `depth` levels a side."""
    bids, asks = message.bids, message.asks
    columns: dict[str, Any] = {
        "bids": bids[:, :depth],
        "asks": asks[:, :depth],
        "n_bids": message.n_bids,
        "n_asks": message.n_asks,
        "update_id": message.id or None,
        "flags": message.flags,
        "epoch": message.epoch,
        "seq": message.sequence,
        "exchange_ts": _time(message.exchange_ns),
        "published_ts": _time(message.published_ns),
    }
    if message.n_bids:
        columns["bid"], columns["bid_size"] = bids.item(0), bids.item(message.n_bids)
    if message.n_asks:
        columns["ask"], columns["ask_size"] = asks.item(0), asks.item(message.n_asks)
    return sender.row(
        "orderbook",
        symbols=venue.symbols,
        columns=columns,
        at_ns=_received_ns(message),
        key=_key(venue, message),
    )


def store_ticker(sender: Sender, venue: Venue, message: Message, depth: int) -> bool:
    """Store a ticker; a value that the exchange does not send is null."""
    values = message.values.tolist()
    columns: dict[str, Any] = {
        name: value
        for name, value in zip(TICKER_NAMES, values, strict=True)
        if value == value  # NaN = none
    }
    columns["flags"] = message.flags
    columns["epoch"] = message.epoch
    columns["seq"] = message.sequence
    columns["exchange_ts"] = _time(message.exchange_ns)
    columns["published_ts"] = _time(message.published_ns)
    return sender.row(
        "ticker",
        symbols={**venue.symbols, "span": message.window},
        columns=columns,
        at_ns=_received_ns(message),
        key=_key(venue, message),
    )


def store_trade(sender: Sender, venue: Venue, message: Message, depth: int) -> bool:
    """Store a trade at its trade time; the same trade sent again replaces itself."""
    price, size = message.values.tolist()
    return sender.row(
        "trade",
        symbols={**venue.symbols, "side": message.side},
        columns={
            "price": price,
            "size": size,
            "trade_id": message.id,
            "flags": message.flags,
            "epoch": message.epoch,
            "seq": message.sequence,
            "received_ts": _time(message.received_ns),
            "published_ts": _time(message.published_ns),
        },
        at_ns=message.exchange_ns or _received_ns(message),
        key=_key(venue, message),
    )


def store_state(sender: Sender, venue: Venue, message: Message, depth: int) -> bool:
    """Store a venue's change of state."""
    try:
        facts = message.json()
        state, reason = str(facts["state"]), facts.get("reason")
        since_ns = int(facts.get("since_ns") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        # a row all the same: its sequence must count as stored
        state, reason, since_ns = "unreadable", bytes(message.payload[:200]).decode("latin-1"), 0
    return sender.row(
        "state",
        symbols={**venue.symbols, "publisher": venue.publisher, "state": state[:SYMBOL_LIMIT]},
        columns={
            "reason": None if reason is None else str(reason),
            "since_ts": _time(since_ns),
            "epoch": message.epoch,
            "seq": message.sequence,
            "published_ts": _time(message.published_ns),
        },
        at_ns=_received_ns(message),
        key=_key(venue, message),
    )


STORES: dict[int, Store] = {
    ORDERBOOK: store_orderbook,
    TICKER: store_ticker,
    TRADE: store_trade,
    STATE: store_state,
}
