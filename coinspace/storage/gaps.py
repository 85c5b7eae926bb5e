"""Writes rows of `gap`: holes in a publisher's sequence, refused rows, outages of venues."""

from __future__ import annotations

from dataclasses import dataclass

from coinspace.bus.topics import parse
from coinspace.storage.ledger import Hole, Stream
from coinspace.storage.rows import Key
from coinspace.storage.sender import Sender
from coinspace.storage.transport import TimestampNanos

OPEN = "open"
FILLED = "filled"
LOST = "lost"
DEAD = "dead"
VENUE = "venue"
TRADE = "trade"


def write_hole(
    sender: Sender,
    stream: Stream,
    hole: Hole,
    status: str,
    *,
    reason: str | None = None,
    closed_ns: int = 0,
    first: int | None = None,
    last: int | None = None,
) -> bool:
    """Write the row of a hole or of a part of it. Returns: False when memory is full."""
    first = hole.first if first is None else first
    last = hole.last if last is None else last
    return sender.row(
        "gap",
        symbols={**stream.venue.symbols, "kind": stream.name.kind, "publisher": stream.publisher}
        | {"status": status},
        columns={
            "reason": reason or hole.reason,
            "epoch": stream.epoch,
            "first": first,
            "last": last,
            "count": last - first + 1,
            "closed_ts": TimestampNanos(closed_ns) if closed_ns else None,
        },
        at_ns=hole.found_ns,
    )


@dataclass(frozen=True, slots=True)
class Damage:
    """A table whose columns were changed; the worker has to store its messages again."""

    worker: str
    table: str
    reason: str
    found_ns: int


def write_repaired(sender: Sender, damage: Damage, closed_ns: int) -> bool:
    """Write that all damaged messages are in holes now. Returns: False when memory is full."""
    return sender.row(
        "gap",
        symbols={"kind": damage.table, "publisher": damage.worker, "status": FILLED},
        columns={
            "reason": damage.reason,
            "epoch": 0,
            "first": 0,
            "last": 0,
            "count": 0,
            "closed_ts": TimestampNanos(closed_ns),
        },
        at_ns=damage.found_ns,
    )


def write_dead(sender: Sender, key: Key, reason: str, at_ns: int) -> bool:
    """Write that the database refused a row. Returns: False when memory is full."""
    publisher, topic, epoch, sequence = key
    name = parse(topic.encode())
    return sender.row(
        "gap",
        symbols={
            "exchange": name.exchange,
            "market": name.market,
            "kind": name.kind,
            "publisher": publisher,
            "status": DEAD,
        },
        columns={
            "reason": reason,
            "epoch": epoch,
            "first": sequence,
            "last": sequence,
            "count": 1,
            "closed_ts": TimestampNanos(at_ns),
        },
        at_ns=at_ns,
    )


def write_outage(
    sender: Sender,
    publisher: str,
    exchange: str,
    market: str,
    *,
    epoch: int,
    since_ns: int,
    reason: str,
    closed_ns: int = 0,
    lost: int = 0,
) -> bool:
    """Write that a venue sent nothing from `since_ns` to `closed_ns`, 0 = until now.

    Args: lost: trades of that time that the exchange no longer reports; the venue itself worked.
    Returns: False when memory is full.
    """
    status = FILLED if closed_ns else OPEN
    return sender.row(
        "gap",
        symbols={
            "exchange": exchange,
            "market": market,
            "kind": TRADE if lost else VENUE,
            "publisher": publisher,
            "status": LOST if lost else status,
        },
        columns={
            "reason": reason,
            "epoch": epoch,
            "first": 0,
            "last": 0,
            "count": lost,
            "closed_ts": TimestampNanos(closed_ns) if closed_ns else None,
        },
        at_ns=since_ns,
    )
