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
class VenueOutage:
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
    name = stream.name
    where = (name.kind, stream.publisher, name.exchange, name.market)
    first, last = part or (hole.first, hole.last)
    facts = (reason or hole.reason, stream.epoch, first, last, last - first + 1)
    return _write(sender, hole.found_ns, where, status, facts, closed_ns)


def write_repaired(sender: Sender, damage: Damage, closed_ns: int) -> bool:
    """Write that all damaged messages are in holes now."""
    where = (damage.table, damage.worker, None, None)
    facts = (damage.reason, 0, 0, 0, 0)
    return _write(sender, damage.found_ns, where, FILLED, facts, closed_ns)


def write_dead(sender: Sender, key: Key, reason: str, at_ns: int) -> bool:
    """Write that the database refused a row."""
    publisher, topic, epoch, sequence = key
    name = parse(topic.encode())
    where = (name.kind, publisher, name.exchange, name.market)
    return _write(sender, at_ns, where, DEAD, (reason, epoch, sequence, sequence, 1), at_ns)


def write_outage(sender: Sender, key: VenueKey, outage: VenueOutage) -> bool:
    """Write the row of an outage, or of trades that were lost in a time."""
    status = LOST if outage.lost else FILLED if outage.closed_ns else OPEN
    where = (TRADE if outage.lost else VENUE, *key)
    facts = (outage.reason, outage.epoch, 0, 0, outage.lost)
    return _write(sender, outage.since_ns, where, status, facts, outage.closed_ns)


def _write(
    sender: Sender,
    at_ns: int,
    where: tuple[str, str, str | None, str | None],
    status: str,
    facts: tuple[str, int, int, int, int],
    closed_ns: int,
) -> bool:
    kind, publisher, exchange, market = where
    symbols = {"kind": kind, "publisher": publisher, "exchange": exchange, "market": market}
    columns = dict(zip(("reason", "epoch", "first", "last", "count"), facts, strict=True))
    closed = {"closed_ts": TimestampNanos(closed_ns) if closed_ns else None}
    return sender.row(
        "gap", symbols=symbols | {"status": status}, columns=columns | closed, at_ns=at_ns
    )
