"""Bus messages to rows; values are copied once, into the sender's buffer.

A row's `ts` comes from the message. So a message always gives the same row, whether it is live,
comes from a journal or is stored again.
"""

from __future__ import annotations

import re

import msgspec

from coinspace._ext.message import (
    FACT,
    ORDERBOOK,
    RATE,
    SELL,
    STATE,
    TICKER,
    TRADE,
    WINDOWS,
    Message,
)
from coinspace.errors import MessageError, StorageError
from coinspace.exchanges.facts import decode_facts
from coinspace.method.reference import decode_quotation
from coinspace.storage.sender import Sender
from coinspace.storage.transport import TimestampNanos

Key = tuple[str, str, int, int]
SYMBOL_LIMIT = 64
# bits 3 and 4 of a ticker's flags, in the order of WINDOWS
SPAN = 24
SPANS = (0, 8, 16, 24)
# kinds of messages that are stored
STORED = frozenset((ORDERBOOK, TICKER, TRADE, STATE, RATE, FACT))
# kinds of messages whose repeats are not stored
REPEATED = frozenset((ORDERBOOK, RATE, FACT))


class TopicRows:
    """The values that all rows of one topic share.

    Attributes:
        publisher, topic.
        symbols: for `Sender.row`.
        heads: beginning of a line, by the flags of a ticker's span or a trade's side.
    """

    __slots__ = ("heads", "publisher", "symbols", "topic")

    def __init__(self, publisher: str, topic: str, exchange: str, market: str) -> None:
        self.publisher = publisher
        self.topic = topic
        self.symbols: dict[str, str | None] = {"exchange": exchange, "market": market}
        kind = topic.partition(".")[0]
        head = f"{kind},exchange={_escaped(exchange)},market={_escaped(market)}"
        more = {
            "ticker": {
                flags: f",span={span}" if span else ""
                for flags, span in zip(SPANS, WINDOWS, strict=True)
            },
            "trade": {0: ",side=buy", SELL: ",side=sell"},
        }.get(kind, {0: ""})
        self.heads = {flags: f"{head}{text} ".encode() for flags, text in more.items()}


def _escaped(text: str) -> str:
    # names from the bus are not trusted: no name may end a symbol or a line
    return re.sub(r"([ ,=\\])", r"\\\1", re.sub(r"[\r\n]", "_", text))


def _time(ns: int) -> TimestampNanos | None:
    return TimestampNanos(ns) if 0 < ns < 1 << 63 else None


def store(sender: Sender, rows: TopicRows, message: Message, depth: int) -> bool:
    """Store a book with at most `depth` levels a side, a ticker, a trade, a state, rate or facts.

    A value that the exchange does not send is null. A repeated trade replaces its row.
    Returns: False when the sender's memory is full.
    """
    key = (rows.publisher, rows.topic, message.epoch, message.sequence)
    kind = message.kind
    if kind == STATE:
        return _store_state(sender, rows, message, key)
    if kind == RATE:
        return _store_rate(sender, rows, message, key)
    if kind == FACT:
        return _store_facts(sender, rows, message, key)
    lines = sender.lines(message.kind_name)
    if lines is None:
        return False
    if kind == ORDERBOOK:
        size = lines.orderbook(rows.heads[0], message, depth)
    elif kind == TICKER:
        size = lines.ticker(rows.heads[message.flags & SPAN], message)
    else:
        size = lines.trade(rows.heads[message.flags & SELL], message)
    sender.took(size, key)
    return True


def _store_rate(sender: Sender, rows: TopicRows, message: Message, key: Key) -> bool:
    try:
        found = decode_quotation(message)
    except MessageError as error:
        raise StorageError(str(error), "rate") from None
    return sender.row(
        "rate",
        symbols=rows.symbols,
        columns={
            "rate": found.rate,
            "daily": found.daily,
            "round": found.round,
            "epoch": message.epoch,
            "seq": message.sequence,
            "exchange_ts": _time(found.observed_ns),
            "published_ts": _time(message.published_ns),
        },
        at_ns=message.received_ns,
        key=key,
    )


def _store_facts(sender: Sender, rows: TopicRows, message: Message, key: Key) -> bool:
    try:
        found = decode_facts(message.payload)
    except MessageError as error:
        raise StorageError(str(error), "fact") from None
    notices = None if found.notices is None else msgspec.json.encode(found.notices).decode()
    return sender.row(
        "fact",
        symbols={
            **rows.symbols,
            "deposit": found.deposit,
            "withdraw": found.withdraw,
            "trading": found.trading,
            "warning": found.warning,
        },
        columns={
            "flags": ",".join(found.flags),
            "detail": found.detail or None,
            "delisting": found.delisting or None,
            "networks": msgspec.json.encode(found.networks).decode(),
            "notices": notices,
            "epoch": message.epoch,
            "seq": message.sequence,
            "published_ts": _time(message.published_ns),
        },
        at_ns=message.received_ns,
        key=key,
    )


def _store_state(sender: Sender, rows: TopicRows, message: Message, key: Key) -> bool:
    try:
        facts = message.json()
        state, reason = str(facts["state"]), facts.get("reason")
        since_ns = int(facts.get("since_ns") or 0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        # store a row anyway: the sequence must count as stored
        state, reason, since_ns = "unreadable", bytes(message.payload[:200]).decode("latin-1"), 0
    return sender.row(
        "state",
        symbols={**rows.symbols, "publisher": rows.publisher, "state": state[:SYMBOL_LIMIT]},
        columns={
            "reason": None if reason is None else str(reason),
            "since_ts": _time(since_ns),
            "epoch": message.epoch,
            "seq": message.sequence,
            "published_ts": _time(message.published_ns),
        },
        # a state has no receive time when the collector made it
        at_ns=message.received_ns or message.published_ns,
        key=key,
    )
