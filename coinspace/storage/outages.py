"""Outages: times in which a venue gave no valid data, as rows of `gap` with the kind `venue`.

An outage begins when a venue leaves its working state or when its collector restarts. It ends when
the venue works again, or when it is not collected any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from coinspace._ext.message import Message
from coinspace.storage.gaps import VenueKey, VenueOutage, write_outage
from coinspace.storage.ledger import Stream
from coinspace.storage.sender import Sender

# trades and tickers have no book to synchronise
WORKING = {"synced", "subscribed", "ready"}
BOOK_WORKING = {"synced", "ready"}

# rows that the sender had no memory for, because the database does not answer; an unstable market
# makes at most two rows a second
UNWRITTEN_LIMIT = 20_000


class Outages:
    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.open: dict[VenueKey, VenueOutage] = {}
        self._unwritten: deque[tuple[VenueKey, VenueOutage]] = deque()
        self.dropped = 0
        self._venues: dict[str, set[tuple[str, str]]] = {}

    def restore(self, key: VenueKey, outage: VenueOutage) -> None:
        self.open[key] = outage
        self._venues.setdefault(key[0], set()).add(key[1:])

    def on_state(self, publisher: str, stream: Stream, message: Message, now_ns: int) -> None:
        """Begin or end an outage."""
        try:
            facts = message.json()
            state = str(facts["state"])
            since_ns, from_ns, lost = (
                _count(facts.get(n)) for n in ("since_ns", "from_ns", "lost")
            )
            reason = f"{state}: {facts['reason']}" if facts.get("reason") else state
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return
        name = stream.name
        key = (publisher, name.exchange, name.market)
        at_ns = since_ns or message.received_ns or message.published_ns or now_ns
        if facts.get("collected") is False:
            # a change of the exchange's list; the market is not, or not any more, collected
            self._forget(key, at_ns)
            return
        self._venues.setdefault(publisher, set()).add(key[1:])
        if lost:
            at_ns = message.received_ns or at_ns
            # trades that the exchange no longer reports: a loss while the venue worked
            since_ns = min(from_ns or at_ns, at_ns - 1)
            given = str(facts.get("reason"))[:500]
            self._write(key, VenueOutage(stream.epoch, since_ns, given, at_ns, lost))
        working = BOOK_WORKING if publisher.startswith("orderbook") else WORKING
        if state in working:
            self._end(key, at_ns)
        elif key not in self.open:
            self._begin(key, VenueOutage(stream.epoch, at_ns, reason[:500]))

    def on_restart(self, publisher: str, before: int, since_ns: int) -> None:
        """Begin outages of a restarted publisher's venues. Args: before: its earlier epoch."""
        for exchange, market in self._venues.get(publisher, ()):
            key = (publisher, exchange, market)
            if key not in self.open:
                self._begin(key, VenueOutage(before, since_ns, "collector restarted"))

    def on_markets(self, publisher: str, markets: Collection[str], at_ns: int) -> None:
        """End the outages of markets that a publisher does not collect any more.

        Args: markets: those of its heartbeat, none = it does not know them yet.
        """
        if not markets:
            return
        for exchange, market in list(self._venues.get(publisher, ())):
            if market not in markets:
                self._forget((publisher, exchange, market), at_ns)

    def _forget(self, key: VenueKey, at_ns: int) -> None:
        self._venues.get(key[0], set()).discard(key[1:])
        self._end(key, at_ns)

    def settle(self) -> None:
        """Write the rows that the sender had no memory for."""
        unwritten, self._unwritten = self._unwritten, deque()
        for key, outage in unwritten:
            self._write(key, outage)

    def _begin(self, key: VenueKey, outage: VenueOutage) -> None:
        self.open[key] = outage
        self._write(key, outage)

    def _end(self, key: VenueKey, at_ns: int) -> None:
        outage = self.open.pop(key, None)
        if outage is not None:
            outage.closed_ns = max(at_ns, outage.since_ns + 1)
            self._write(key, outage)

    def _write(self, key: VenueKey, outage: VenueOutage) -> None:
        if not write_outage(self._sender, key, outage):
            if self._unwritten and self._unwritten[-1][1] is outage:
                # the row of the outage's end replaces the row of its beginning
                return
            if len(self._unwritten) >= UNWRITTEN_LIMIT:
                # the journals still have the states
                self._unwritten.popleft()
                self.dropped += 1
            self._unwritten.append((key, outage))


def _count(value: Any) -> int:
    """Return a number of a state message, 0 for none. Raises: ValueError, TypeError."""
    found = int(value or 0)
    if not 0 <= found < 1 << 63:
        raise ValueError(f"expected a number of 63 bits, was {value!r}")
    return found
