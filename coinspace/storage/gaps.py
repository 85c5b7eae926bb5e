"""Writes rows of `gap`: holes in a publisher's sequence, refused rows, outages of venues.

Each function returns False when the sender's memory is full.
"""

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

# (publisher, exchange, market)
VenueKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Damage:
    """A table whose columns were changed; the worker has to store its messages again."""

    worker: str
    table: str
    reason: str
    found_ns: int


@dataclass
class Outage:
    """A time without data of a venue. closed_ns: 0 while it lasts.

    Attributes: lost: trades of that time that the exchange no longer reports; the venue worked.
    """

    epoch: int
    since_ns: int
    reason: str
    closed_ns: int = 0
    lost: int = 0


def write_hole(
    sender: Sender,
    stream: Stream,
    hole: Hole,
    status: str,
    *,
    reason: str | None = None,
    closed_ns: int = 0,
    part: tuple[int, int] | None = None,
) -> bool:
    """Write the row of a hole or of a part of it."""
    return _write(
        sender,
        hole.found_ns,
        status,
        stream.name.kind,
        stream.publisher,
        stream.name.exchange,
        stream.name.market,
        reason=reason or hole.reason,
        epoch=stream.epoch,
        sequences=part or (hole.first, hole.last),
        closed_ns=closed_ns,
    )


def write_repaired(sender: Sender, damage: Damage, closed_ns: int) -> bool:
    """Write that all damaged messages are in holes now."""
    return _write(
        sender,
        damage.found_ns,
        FILLED,
        damage.table,
        damage.worker,
        reason=damage.reason,
        closed_ns=closed_ns,
    )


def write_dead(sender: Sender, key: Key, reason: str, at_ns: int) -> bool:
    """Write that the database refused a row."""
    publisher, topic, epoch, sequence = key
    name = parse(topic.encode())
    return _write(
        sender,
        at_ns,
        DEAD,
        name.kind,
        publisher,
        name.exchange,
        name.market,
        reason=reason,
        epoch=epoch,
        sequences=(sequence, sequence),
        closed_ns=at_ns,
    )


def write_outage(sender: Sender, key: VenueKey, outage: Outage) -> bool:
    """Write the row of an outage, or of trades that were lost in a time."""
    return _write(
        sender,
        outage.since_ns,
        LOST if outage.lost else FILLED if outage.closed_ns else OPEN,
        TRADE if outage.lost else VENUE,
        *key,
        reason=outage.reason,
        epoch=outage.epoch,
        count=outage.lost,
        closed_ns=outage.closed_ns,
    )


def _write(
    sender: Sender,
    at_ns: int,
    status: str,
    kind: str,
    publisher: str,
    exchange: str | None = None,
    market: str | None = None,
    *,
    reason: str,
    epoch: int = 0,
    sequences: tuple[int, int] | None = None,
    count: int = 0,
    closed_ns: int,
) -> bool:
    first, last = sequences or (0, 0)
    return sender.row(
        "gap",
        symbols={
            "exchange": exchange,
            "market": market,
            "kind": kind,
            "publisher": publisher,
            "status": status,
        },
        columns={
            "reason": reason,
            "epoch": epoch,
            "first": first,
            "last": last,
            "count": last - first + 1 if sequences else count,
            "closed_ts": TimestampNanos(closed_ns) if closed_ns else None,
        },
        at_ns=at_ns,
    )
