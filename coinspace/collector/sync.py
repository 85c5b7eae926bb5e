"""What a local book needs beside its place in the ids: kept updates and the fate of snapshots.

The rules are in `coinspace._ext.sequence`; what follows from a verdict is in `orderbook`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.exchanges.exchange import Request

# 100 s of updates every 100 ms; a snapshot takes about one
BUFFER_UPDATES = 1000
BUFFER_BYTES = 16 << 20
# wait between snapshots that did not fit, doubling
RETRY_NS = 200 * MILLISECOND_NS
RETRY_LIMIT_NS = 30 * SECOND_NS
# so many failures in a row put a symbol into quarantine until one succeeds
QUARANTINE_AFTER = 5
# a new snapshot is taken before the known range shrinks below 1 % around the mid …
REFRESH_SPAN = 0.012
# … or, where even a fresh snapshot is narrower than that, to this part of what it had
REFRESH_SHARE = 0.75
REFRESH_INTERVAL_NS = 30 * SECOND_NS


class Verdict(IntEnum):
    """What a book's sequence says of an update or a snapshot."""

    APPLY = 1
    IGNORE = 2
    GAP = 3
    NEED_SNAPSHOT = 4
    RESTARTED = 5
    WAIT = 6
    CUT = 7


class Condition(IntEnum):
    """What a book has become."""

    WHOLE = 1
    CROSSED = 2
    RANGE_LEFT = 3


class Phase(IntEnum):
    """What a market's book is at the moment.

    EMPTY: nothing is known. KEEPING: updates are kept for a snapshot. USED: the book is complete.
    REFRESHING: it is, and updates are kept for a deeper snapshot. LEFT: it is, but the price has
    left the known range, so that nothing is published.
    """

    EMPTY = 0
    KEEPING = 1
    USED = 2
    REFRESHING = 3
    LEFT = 4


# a book is lost from every phase; the others follow each other so
PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.EMPTY: frozenset({Phase.KEEPING, Phase.USED}),
    Phase.KEEPING: frozenset({Phase.EMPTY, Phase.USED}),
    Phase.USED: frozenset({Phase.EMPTY, Phase.REFRESHING, Phase.LEFT}),
    Phase.REFRESHING: frozenset({Phase.EMPTY, Phase.USED, Phase.LEFT}),
    Phase.LEFT: frozenset({Phase.EMPTY, Phase.USED, Phase.REFRESHING}),
}


class Update(NamedTuple):
    """One kept update."""

    first: int
    final: int
    received_ns: int
    frame: bytes


@dataclass(slots=True)
class Sync:
    """One symbol's kept updates and snapshots."""

    buffer: deque[Update] = field(default_factory=deque)
    buffer_bytes: int = 0
    # a snapshot is on its way, or waits for the stream
    requested: bool = False
    # levels of the last snapshot
    levels: int = 0
    # the book has differed from REST, and no update has come since
    drifted_ns: int = 0
    # the book has been crossed
    crossed_ns: int = 0
    not_before_ns: int = 0
    failures: int = 0
    loaded_ns: int = 0
    # known range of the last snapshot when it was fresh, as a share of the mid
    fresh_span: float = 0.0
    # a book nobody has updated yet is published as it was fetched at this time
    announce_ns: int = 0
    lost_ns: int = 0
    # an answer that is ahead of the stream, and since when
    early: tuple[Request, bytes] | None = None
    early_ns: int = 0

    def add(self, update: Update) -> int:
        """Keep an update; return how many older ones were dropped to stay within the bound."""
        self.buffer.append(update)
        self.buffer_bytes += len(update.frame)
        dropped = 0
        while len(self.buffer) > BUFFER_UPDATES or (
            self.buffer_bytes > BUFFER_BYTES and len(self.buffer) > 1
        ):
            # what is left still fits a snapshot that is new enough
            self.buffer_bytes -= len(self.buffer.popleft().frame)
            dropped += 1
        return dropped

    def clear(self) -> None:
        """Forget the kept updates."""
        self.buffer.clear()
        self.buffer_bytes = 0

    def failed(self, now_ns: int) -> None:
        """A snapshot did not come or did not fit: wait longer each time."""
        self.requested = False
        wait = min(RETRY_NS << min(self.failures, 20), RETRY_LIMIT_NS)
        self.failures += 1
        self.not_before_ns = now_ns + wait

    def narrow(self, span: float, now_ns: int) -> bool:
        """Tell whether the known range has become so narrow that a new snapshot is due."""
        if span > min(REFRESH_SPAN, REFRESH_SHARE * self.fresh_span) or self.requested:
            return False
        # a range that the price has left is useless, so it is asked for sooner
        wait = REFRESH_INTERVAL_NS if span > 0 else REFRESH_INTERVAL_NS // 10
        return now_ns - self.loaded_ns > wait and now_ns >= self.not_before_ns
