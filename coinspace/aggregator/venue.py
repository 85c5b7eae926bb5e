"""The last state of one venue, and the reason to exclude it at a tick, if there is one.

These reasons concern the venue alone; `method.filter` compares venues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from coinspace._ext.ladder import VenueBook
from coinspace.clock import SECOND_NS
from coinspace.market import Market
from coinspace.method.aggregate import GroupFacts, VenueFacts
from coinspace.method.parameters import region_of

# state of a venue in collector messages and snapshots -> the published reason
STATE_REASONS = {
    "ok": None,
    "synced": None,
    # the age of its book decides
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


# two heartbeats of one second, and half a second for their way
LOST_NS = 5 * SECOND_NS // 2
# largest difference of a collector's clock from that of the ticks, in either direction
CLOCK_OFF_NS = 2 * SECOND_NS
# the clock of a venue's collector is wrong: the age of its book is unknown
CLOCK = "clock"
# the clock of this host was set, and no book has arrived since
CLOCK_STEPPED = "clock_stepped"
# reasons that a recording cannot show: they do not come from an exchange's frames
NOT_RECORDED = ("operator", "disconnected", CLOCK, CLOCK_STEPPED)


class Input(NamedTuple):
    """One venue in a stored record: receive time of its book (0 = no book), and its reason."""

    received_ns: int
    reason: str | None


@dataclass(slots=True, eq=False)
class Venue:
    """One market of one exchange as an index constituent.

    Attributes:
        state: from its collector; an unknown state counts as resyncing.
        name: exchange:BASE/QUOTE.
        book: its last book. received_ns: last proof of life, repeats included.
        changed_ns: last change of the book.
        publisher, epoch, sequence: of its last book.
        heard_ns: arrival of its collector's last heartbeat, 0 = none: then only the age of the
            book counts.
        clock_wrong: by that heartbeat, the collector's clock differs too much from that of ticks.
        stepped: the clock was set after its last book.
        assets: the assets whose ticks use it.
        excluded: an operator excludes it.
        groups: where its price groups begin, None = it has none.
        recalled: reason from a stored record that replaces its judgement, see `recall`.
    """

    exchange: str
    market: Market
    state: str = "disconnected"
    name: str = field(init=False)
    market_name: str = field(init=False)
    region: str = field(init=False)
    book: VenueBook = field(default_factory=VenueBook)
    received_ns: int = 0
    changed_ns: int = 0
    publisher: str = ""
    epoch: int = 0
    sequence: int = 0
    heard_ns: int = 0
    clock_wrong: bool = False
    stepped: bool = False
    assets: tuple[str, ...] = ()
    excluded: bool = False
    groups: GroupFacts | None = None
    recalled: str | None = None

    def __post_init__(self) -> None:
        self.market_name = str(self.market)
        self.name = f"{self.exchange}:{self.market}"
        self.region = region_of(self.exchange, self.market.quote)

    def on_book(self, bids: NDArray[Any], asks: NDArray[Any], received_ns: int) -> None:
        """Replace the book: float64[2, n] each, row 0 prices, row 1 sizes."""
        changed = self.book.load(bids, asks)
        if changed or not self.changed_ns:
            self.changed_ns = received_ns
        self.received_ns = received_ns
        self.stepped = False

    def on_heartbeat(self, lead_ns: int, at_ns: int) -> None:
        """Take its collector's heartbeat, known at `at_ns`; the clock was ahead by `lead_ns`."""
        self.clock_wrong = abs(lead_ns) > CLOCK_OFF_NS
        # the arrival proves life: a collector with a slow clock is not silent
        self.heard_ns = at_ns

    def forget(self) -> None:
        """Forget book and heartbeats: the clock was set, so their times are invalid."""
        self.book = VenueBook()
        self.groups = None
        self.received_ns = self.changed_ns = self.heard_ns = 0
        self.clock_wrong = False
        self.stepped = True

    def recall(self, given: Input) -> None:
        """Take facts from a stored record that no recording contains.

        These are an operator's exclusion, a silent collector, and books that the live aggregator
        had not received since its start.
        """
        unseen = not given.received_ns
        self.recalled = given.reason if unseen or given.reason in NOT_RECORDED else None
        if unseen:
            self.book = VenueBook()
            self.groups = None
            self.received_ns = self.changed_ns = 0

    def facts(self, ts_ns: int, lag_ns: int, fx: float | None) -> VenueFacts:
        """Judge the venue without the others: the first rule that matches gives the reason."""
        book = self.book
        bid = book.best_bid if book.n_bids else None
        ask = book.best_ask if book.n_asks else None
        life = self._life(ts_ns, lag_ns)
        shape = _shape(bid, ask)
        # positional arguments: keywords would double the time
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
        if self.recalled is not None:
            return self.recalled
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
        # a book received after the tick is no proof of life
        return None if 0 <= age_ns < lag_ns else "delayed"


def _shape(bid: float | None, ask: float | None) -> str | None:
    if bid is None or ask is None:
        return "empty"
    return "crossed" if bid >= ask else None


def _converted(facts: VenueFacts) -> str | None:
    # an extreme rate can push prices out of float64's range
    mid = facts.mid
    return None if mid is not None and math.isfinite(mid) and mid > 0 else "empty"
