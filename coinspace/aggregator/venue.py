"""The last state of one venue, and what can be said of it alone at a tick."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numpy.typing import NDArray

from coinspace._ext.ladder import VenueBook
from coinspace.clock import SECOND_NS
from coinspace.market import Market
from coinspace.method.aggregate import VenueFacts
from coinspace.method.parameters import region_of

# a collector's or a snapshot's word for a venue -> the reason published for it
STATE_REASONS = {
    "ok": None,
    "synced": None,
    # its age decides
    "stale": None,
    "connecting": "disconnected",
    "disconnected": "disconnected",
    "subscribed": "resyncing",
    "buffering": "resyncing",
    "resyncing": "resyncing",
    "quarantined": "resyncing",
    "halted": "halted",
    "operator": "operator",
}


# two heartbeats of one second, and half of one for their way
LOST_NS = 5 * SECOND_NS // 2
# how far a collector's clock may differ from that of the ticks, in either direction
CLOCK_OFF_NS = 2 * SECOND_NS
# the clock of a venue's collector is wrong: nobody knows how old its book is
CLOCK = "clock"
# the clock of this host was set, and no book has arrived since
CLOCK_STEPPED = "clock_stepped"
# reasons that come from elsewhere than an exchange's frames
TOLD = ("operator", "disconnected", CLOCK, CLOCK_STEPPED)


class Input(NamedTuple):
    """What a stored record names of one venue: its book's receive time (0 = none), its reason."""

    received_ns: int
    reason: str | None


class Venue:
    """One market of one exchange as an index constituent.

    Attributes:
        book: its last book. received_ns: its last proof of life, repeats included. changed_ns: of
        the last change.
        state: as the collector says; unknown words count as resyncing.
        heard_ns: the arrival of its collector's last heartbeat, 0 = never heard: the age of its
        books alone counts.
        clock_wrong: by that heartbeat, the collector's clock differs too much from that of ticks.
        stepped: the clock was set after its last book.
        assets: whose ticks its updates concern.
        excluded: by an operator.
        told: reason that a stored record gives for want of anything else, see `recall`.
    """

    __slots__ = (
        "assets",
        "book",
        "changed_ns",
        "clock_wrong",
        "epoch",
        "exchange",
        "excluded",
        "heard_ns",
        "market",
        "market_name",
        "name",
        "publisher",
        "received_ns",
        "region",
        "sequence",
        "state",
        "stepped",
        "told",
    )

    def __init__(self, exchange: str, market: Market, *, state: str = "disconnected") -> None:
        self.exchange = exchange
        self.market = market
        self.market_name = str(market)
        self.name = f"{exchange}:{market}"
        self.region = region_of(exchange, market.quote)
        self.book = VenueBook()
        self.state = state
        self.excluded = False
        self.heard_ns = 0
        self.clock_wrong = False
        self.stepped = False
        self.assets: tuple[str, ...] = ()
        self.told: str | None = None
        self.received_ns = 0
        self.changed_ns = 0
        self.publisher = ""
        self.epoch = 0
        self.sequence = 0

    def on_book(self, bids: NDArray[Any], asks: NDArray[Any], received_ns: int) -> None:
        """Replace the book: float64[2, n] each, row 0 prices, row 1 sizes."""
        changed = self.book.load(bids, asks)
        if changed or not self.changed_ns:
            self.changed_ns = received_ns
        self.received_ns = received_ns
        self.stepped = False

    def on_heartbeat(self, lead_ns: int, at_ns: int) -> None:
        """Take its collector's heartbeat, known at `at_ns`: its clock was ahead by `lead_ns`."""
        self.clock_wrong = abs(lead_ns) > CLOCK_OFF_NS
        # the arrival says that it lives; a clock that is behind makes no collector silent
        self.heard_ns = at_ns

    def forget(self) -> None:
        """Forget book and heartbeats: the clock was set, and their times mean nothing any more."""
        self.book = VenueBook()
        self.received_ns = self.changed_ns = self.heard_ns = 0
        self.clock_wrong = False
        self.stepped = True

    def recall(self, given: Input) -> None:
        """Take from a stored record what no recording holds.

        That is an operator's exclusion, a collector that was not heard, and the books that an
        aggregator had not seen since its start.
        """
        unseen = not given.received_ns
        self.told = given.reason if unseen or given.reason in TOLD else None
        if unseen:
            self.book = VenueBook()
            self.received_ns = self.changed_ns = 0

    def facts(self, ts_ns: int, lag_ns: int, fx: float | None) -> VenueFacts:
        """Judge the venue alone: the first rule that matches gives the reason."""
        book = self.book
        bid = book.best_bid if book.n_bids else None
        ask = book.best_ask if book.n_asks else None
        life = self._life(ts_ns, lag_ns)
        shape = _shape(bid, ask)
        # in the order of its fields: by name each costs as much as the work
        facts = VenueFacts(
            self.name,
            self.exchange,
            self.market_name,
            self.region,
            self.market.quote,
            life,
            life is None and shape is None,
            fx if fx is not None and math.isfinite(fx) and fx > 0 else None,
            bid,
            ask,
            self.received_ns,
            self.changed_ns,
            self.publisher,
            self.epoch,
            self.sequence,
            book.n_bids,
            book.n_asks,
        )
        if life is None:
            facts.reason = "no_fx" if facts.fx is None else shape or _converted(facts)
        return facts

    def _life(self, ts_ns: int, lag_ns: int) -> str | None:
        if self.told is not None:
            return self.told
        if self.excluded:
            return "operator"
        reason = STATE_REASONS.get(self.state, "resyncing")
        if reason == "operator":
            return reason
        if reason == "disconnected" or (self.heard_ns and ts_ns - self.heard_ns > LOST_NS):
            return "disconnected"
        if reason:
            return reason
        if not self.received_ns:
            return CLOCK_STEPPED if self.stepped else "delayed"
        age_ns = ts_ns - self.received_ns
        if self.clock_wrong or age_ns < -CLOCK_OFF_NS:
            return CLOCK
        # a book from after the tick is no proof of life at it
        return None if 0 <= age_ns < lag_ns else "delayed"


def _shape(bid: float | None, ask: float | None) -> str | None:
    if bid is None or ask is None:
        return "empty"
    return "crossed" if bid >= ask else None


def _converted(facts: VenueFacts) -> str | None:
    # an absurd rate can push prices out of float64's range
    mid = facts.mid
    return None if mid is not None and math.isfinite(mid) and mid > 0 else "empty"
