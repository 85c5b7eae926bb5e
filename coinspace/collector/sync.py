"""Kept updates and requested snapshots of a local book.

`coinspace._ext.sequence` has the rules for ids; `orderbook` acts on its verdicts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.exchanges.exchange import Request

# updates of 100 s, one every 100 ms, or of 20 s, one every 20 ms; a snapshot takes about 1 s
BUFFER_UPDATES = 1000
BUFFER_BYTES = 16 << 20
# wait after a snapshot that did not fit; it doubles up to the limit
RETRY_NS = 200 * MILLISECOND_NS
RETRY_LIMIT_NS = 30 * SECOND_NS
# failures in a row after which a market is quarantined until a snapshot fits
QUARANTINE_AFTER = 5
# a new snapshot is requested when the known range shrinks to this share around the mid …
REFRESH_SPAN = 0.012
# … or to this part of the range of the last fresh snapshot, if that is less
REFRESH_SHARE = 0.75
REFRESH_INTERVAL_NS = 30 * SECOND_NS


class Verdict(IntEnum):
    """Verdict of a book's sequence on an update or a snapshot; see `sequence.pxd`."""

    APPLY = 1
    IGNORE = 2
    GAP = 3
    NEED_SNAPSHOT = 4
    RESTARTED = 5
    WAIT = 6
    CUT = 7


class Condition(IntEnum):
    """New condition of a book; see `collector_book.pxd`."""

    WHOLE = 1
    CROSSED = 2
    RANGE_LEFT = 3


class Phase(IntEnum):
    """Phase of a market's book.

    EMPTY: nothing is known. KEEPING: updates are kept for a snapshot. USED: the book is complete.
    REFRESHING: the book is complete, and updates are kept for a deeper snapshot. LEFT: the price
    has left the known range: updates are kept, and the book is not published.
    """

    EMPTY = 0
    KEEPING = 1
    USED = 2
    REFRESHING = 3
    LEFT = 4


# allowed changes; every phase can change to EMPTY
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
    """Kept updates and snapshots of one symbol."""

    buffer: deque[Update] = field(default_factory=deque)
    buffer_bytes: int = 0
    # a snapshot is requested, or it waits for the stream
    requested: bool = False
    # levels of the last snapshot
    levels: int = 0
    # when the book last differed from REST, 0 = it has not
    drifted_ns: int = 0
    # when the book was last crossed, 0 = never
    crossed_ns: int = 0
    not_before_ns: int = 0
    failures: int = 0
    loaded_ns: int = 0
    # known range right after the last snapshot, as a share of the mid
    fresh_span: float = 0.0
    # when the loaded snapshot is published if no update comes before, 0 = not at all
    announce_ns: int = 0
    lost_ns: int = 0
    # a snapshot that is ahead of the stream, and when it came
    early: tuple[Request, bytes] | None = None
    early_ns: int = 0

    def add(self, update: Update) -> int:
        """Keep an update; return the number of older ones that were dropped for room."""
        self.buffer.append(update)
        self.buffer_bytes += len(update.frame)
        dropped = 0
        while len(self.buffer) > BUFFER_UPDATES or (
            self.buffer_bytes > BUFFER_BYTES and len(self.buffer) > 1
        ):
            # the rest still fits a snapshot that is new enough
            self.buffer_bytes -= len(self.buffer.popleft().frame)
            dropped += 1
        return dropped

    def clear(self) -> None:
        self.buffer.clear()
        self.buffer_bytes = 0

    def failed(self, now_ns: int) -> None:
        """Note a snapshot that failed or did not fit; the wait doubles each time."""
        self.requested = False
        wait = min(RETRY_NS << min(self.failures, 20), RETRY_LIMIT_NS)
        self.failures += 1
        self.not_before_ns = now_ns + wait

    def narrow(self, span: float, now_ns: int) -> bool:
        """Return whether the known range is so narrow that a new snapshot is due."""
        if span > min(REFRESH_SPAN, REFRESH_SHARE * self.fresh_span) or self.requested:
            return False
        # a range that the price has left is useless, so the wait is shorter
        wait = REFRESH_INTERVAL_NS if span > 0 else REFRESH_INTERVAL_NS // 10
        return now_ns - self.loaded_ns > wait and now_ns >= self.not_before_ns
