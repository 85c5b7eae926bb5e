"""Records of outages, written in the background beside the live ones: in batches, oldest first.

Each outage is a row of `gap` (kind `index`, market = asset, first and last = ticks in ns). The row
is stored before later records and is open until the outage's last record is stored. So the next
process continues an unfinished outage, and a day with an open outage does not count as complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from coinspace.index.calculator import Index
from coinspace.index.memory import Memory, read_memory, remember
from coinspace.index.outage import NOT_COMPUTED, Outage
from coinspace.storage.gaps import FILLED, OPEN
from coinspace.storage.read.memory import last_tick_ns, open_outages
from coinspace.storage.records import Row, tick_row
from coinspace.storage.schema import Connection
from coinspace.storage.transport import TimestampNanos

KIND = "index"
# reason of an open gap that a crash left, where the whole outage is longer
SUPERSEDED = "part of a longer one"
# reason of a gap whose end lay in the future when the clock was set back
CUT = "not_computed, cut short: the clock was set back"


@dataclass(slots=True)
class Entry:
    """One outage on its way into the database.

    Attributes:
        found_ns, epoch, outage.first_ns: identity of its row of `gap`.
        next_ns: its first tick that is not stored. announced: whether its row is stored.
    """

    outage: Outage
    found_ns: int
    epoch: int
    next_ns: int
    announced: bool = False
    reason: str = NOT_COMPUTED

    def row(self, publisher: str, status: str, closed_ns: int = 0) -> Row:
        """Return the row of `gap`."""
        outage = self.outage
        return Row(
            "gap",
            self.found_ns,
            {"kind": KIND, "publisher": publisher, "market": outage.asset, "status": status},
            {
                "reason": self.reason,
                "epoch": self.epoch,
                "first": outage.first_ns,
                "last": outage.last_ns,
                "count": len(outage),
                "closed_ts": TimestampNanos(closed_ns) if closed_ns else None,
            },
        )


class Backlog:
    """Outages whose records are still to be stored.

    Args:
        publisher: name of the process in `gap`. epoch: its start.
        store: takes a row; False = no room now, and the row is given again later.
    """

    def __init__(self, publisher: str, epoch: int, store: Callable[[Row], bool]) -> None:
        self._publisher = publisher
        self._epoch = epoch
        self._store = store
        self._entries: deque[Entry] = deque()

    def add(self, outage: Outage, now_ns: int) -> None:
        """Take an outage; its row of `gap` is stored before any later row."""
        entry = Entry(outage, now_ns, self._epoch, outage.first_ns)
        self._entries.append(entry)
        self._announce(entry)

    def resume(self, entries: list[Entry]) -> None:
        """Continue the outages that an earlier process left open."""
        self._entries.extend(entries)

    def holds(self, asset: str, first_ns: int, last_ns: int) -> bool:
        """Return whether records of some of these ticks are still to be stored."""
        return any(
            one.outage.asset == asset
            and one.outage.first_ns <= last_ns
            and one.outage.last_ns >= first_ns
            for one in self._entries
        )

    def cut(self, next_ns: int) -> int:
        """Drop ticks from `next_ns` on: the clock was set back, and these ticks are still to come.

        Returns: how many ticks are dropped.
        """
        before = self.ticks
        for entry in self._entries:
            outage = entry.outage
            step_ns = outage.step_ns
            before_ns = (next_ns - 1) // step_ns * step_ns
            last_ns = max(before_ns, outage.first_ns - step_ns)
            if last_ns < outage.last_ns:
                entry.outage = replace(outage, last_ns=last_ns)
                entry.next_ns = min(entry.next_ns, last_ns + step_ns)
                entry.reason = CUT
                entry.announced = False
        return before - self.ticks

    @property
    def ticks(self) -> int:
        """Ticks whose records are not stored yet."""
        return sum(
            (one.outage.last_ns - one.next_ns) // one.outage.step_ns + 1 for one in self._entries
        )

    def step(self, limit: int, now_ns: int) -> int:
        """Store at most `limit` records. Returns: how many; fewer where there was no room."""
        done = 0
        for entry in self._entries:
            if not self._announce(entry):
                return 0
        while self._entries:
            entry = self._entries[0]
            for record in entry.outage.records(entry.next_ns):
                if done >= limit or not self._store(tick_row(record)):
                    return done
                entry.next_ns += entry.outage.step_ns
                done += 1
            if not self._store(entry.row(self._publisher, FILLED, now_ns)):
                return done
            self._entries.popleft()
        return done

    def _announce(self, entry: Entry) -> bool:
        if not entry.announced:
            entry.announced = self._store(entry.row(self._publisher, OPEN))
        return entry.announced


def read_entries(
    connection: Connection,
    publisher: str,
    indices: Mapping[str, Index],
    make: Callable[[str], Index],
) -> list[Entry]:
    """Return the outages that an earlier process left open, without the records already stored.

    Args:
        indices: asset -> its index with the memory of its last stored tick.
        make: makes an index for an asset that is no longer configured.
    Raises: StorageError when the database cannot answer.
    """
    entries = []
    for found in open_outages(connection, KIND, publisher):
        asset, first_ns, last_ns = found.market, found.first_ns, found.last_ns
        index = indices.get(asset)
        if index is None:
            index = make(asset)
            remember(connection, index)
        step_ns = max((last_ns - first_ns) // max(found.ticks - 1, 1), 1)
        stored_ns = last_tick_ns(connection, asset, first_ns, last_ns)
        next_ns = first_ns if stored_ns is None else stored_ns + step_ns
        memory = read_memory(connection, asset, 0, first_ns) or Memory(first_ns)
        outage = memory.outage(index, first_ns, last_ns, step_ns)
        entry = Entry(outage, found.found_ns, found.epoch, next_ns, announced=True)
        if first_ns > index.last_ts_ns:
            # nothing after this outage was stored: the new process records a longer one
            entry.next_ns = last_ns + outage.step_ns
            entry.reason = SUPERSEDED
        entries.append(entry)
    return entries
