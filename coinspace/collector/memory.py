"""The trades before a start, read from the end of the ticker collector's own journal.

A message is written to the journal before it is published. The journal therefore has exactly the
messages of the bus, even after a crash. Trades since its end are requested as after a reconnect.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from coinspace._ext.message import TICKER, TRADE, Message
from coinspace._ext.segment import SEGMENT_HEAD_SIZE, messages
from coinspace.bus.segments import SegmentFile, segment_paths
from coinspace.clock import SECOND_NS
from coinspace.errors import JournalError

# trades kept per market: more than one REST list has
KEPT = 2000
# bytes read from the end: a start must not wait for the whole journal
READ_BYTES = 64 << 20
# a process that lived shorter may not have filled its first hole
SETTLED_NS = 30 * SECOND_NS


@dataclass(slots=True)
class JournalEnd:
    """The end of a journal.

    Attributes:
        trades: market -> its last trades, in order of publication.
        markets: all collected markets.
        since_ns: receipt of the oldest message read; markets without a trade had none since then.
        lives: epoch of a process -> receipt of its first and last message.
    """

    trades: dict[str, deque[Message]] = field(default_factory=dict)
    markets: set[str] = field(default_factory=set)
    since_ns: int = 0
    lives: dict[int, tuple[int, int]] = field(default_factory=dict)

    def take(self, message: Message) -> None:
        """Take the next message of a segment."""
        if message.kind == TRADE:
            kept = self.trades.setdefault(message.market, deque(maxlen=KEPT))
            kept.append(message)
        if message.kind in (TRADE, TICKER):
            self.markets.add(message.market)
            self.since_ns = self.since_ns or message.received_ns
            first_ns, _ = self.lives.get(message.epoch, (message.received_ns, 0))
            self.lives[message.epoch] = (first_ns, message.received_ns)

    def settled_ns(self, market: str) -> int:
        """Return the exchange's time of the newest trade whose past is complete, 0 = none.

        Its process lived long enough to fill by REST what the process before had missed.
        """
        for trade in reversed(self.trades.get(market, ())):
            first_ns, last_ns = self.lives[trade.epoch]
            if last_ns - first_ns > SETTLED_NS:
                return trade.exchange_ns
        return 0


def read_memory(folder: Path) -> JournalEnd:
    """Read the end of a journal folder; damaged segments are skipped."""
    parts: list[bytes] = []
    size = 0
    for path in reversed(segment_paths(folder)):
        try:
            file = SegmentFile(path)
            file.refresh()
            data = file.read(SEGMENT_HEAD_SIZE, file.index.end - SEGMENT_HEAD_SIZE)
        except (JournalError, OSError):
            continue
        parts.append(data)
        size += len(data)
        if size >= READ_BYTES:
            break
    memory = JournalEnd()
    for data in reversed(parts):
        for message in messages(data):
            memory.take(message)
    return memory
