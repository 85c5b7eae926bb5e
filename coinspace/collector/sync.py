"""What the synchronisation of a local book remembers per symbol: kept updates and the snapshot's
fate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
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
# so many answers over so long a time that are older than what the stream had: its ids are suspected
SUSPECT_AFTER = 5
SUSPECT_NS = 60 * SECOND_NS
# the same of updates, which say it more surely
BELOW_NS = 5 * SECOND_NS


class Update(NamedTuple):
    """One kept update."""

    first: int
    final: int
    received_ns: int
    frame: bytes


@dataclass(slots=True)
class Sync:
    """One symbol's synchronisation. The buffer is contiguous: a gap in it drops what came
    before.
    """

    buffer: deque[Update] = field(default_factory=deque)
    buffer_bytes: int = 0
    requested: bool = False
    # levels of the last snapshot
    levels: int = 0
    # the newest id that was published or that cannot be applied: an older snapshot is refused
    floor: int = 0
    # answers of REST in a row that were too old, and since when
    old: int = 0
    old_ns: int = 0
    # updates in a row below the ids known before, each with a higher id, and since when
    low: int = 0
    low_id: int = 0
    low_ns: int = 0
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
    # a side has no level within the known range: nothing is published
    range_left: bool = False
    # an answer that is ahead of the stream, and since when
    early: tuple[Request, bytes] | None = None
    early_ns: int = 0

    def add(self, update: Update, believed: bool) -> tuple[int, int]:
        """Keep an update; `believed` = it comes from the leading connection.

        Returns: (gaps found, updates dropped to stay within the bound).
        """
        gaps = dropped = 0
        if self.buffer:
            last = self.buffer[-1].final
            if update.final <= last:
                return 0, 0
            if update.first > last + 1:
                if not believed:
                    return 0, 0
                gaps = 1
                self.clear()
        self.buffer.append(update)
        self.buffer_bytes += len(update.frame)
        while len(self.buffer) > BUFFER_UPDATES or (
            self.buffer_bytes > BUFFER_BYTES and len(self.buffer) > 1
        ):
            # what is left still fits a snapshot that is new enough
            self.buffer_bytes -= len(self.buffer.popleft().frame)
            dropped += 1
        return gaps, dropped

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

    def too_old(self, now_ns: int) -> bool:
        """Count an answer that is older than what is known.

        Returns: whether so many came that what is known is suspected: ids that started again.
        """
        if not self.old:
            self.old_ns = now_ns
        self.old += 1
        return self.old >= SUSPECT_AFTER and now_ns - self.old_ns >= SUSPECT_NS

    def below(self, final: int, now_ns: int) -> bool:
        """Count an update whose id is below those known before.

        Returns: whether nothing else has come for so long that its ids have started again.
        """
        if final >= max(self.floor, self.buffer[-1].final if self.buffer else 0):
            self.low = 0
            return False
        if not self.low:
            self.low_ns = now_ns
        elif final <= self.low_id:
            return False
        self.low_id = final
        self.low += 1
        return self.low >= SUSPECT_AFTER and now_ns - self.low_ns >= BELOW_NS

    def trust(self) -> None:
        """Forget what made answers look too old."""
        self.floor = self.old = self.low = 0

    def narrow(self, span: float, now_ns: int) -> bool:
        """Tell whether the known range has become so narrow that a new snapshot is due."""
        if span > min(REFRESH_SPAN, REFRESH_SHARE * self.fresh_span) or self.requested:
            return False
        # a range that the price has left is useless, so it is asked for sooner
        wait = REFRESH_INTERVAL_NS if span > 0 else REFRESH_INTERVAL_NS // 10
        return now_ns - self.loaded_ns > wait and now_ns >= self.not_before_ns
