"""Holes in the trades of a market, and which trades of a REST answer fill them.

* Ids count up by one (Binance): the trades whose ids are missing.
* REST and the stream have the same ids (Upbit): the trades that the stream has not brought.
* REST and the stream have different ids (Bithumb): trades are matched by time, price, size and
  side. They are filled only at times that the stream has not covered, or where the volume of the
  day proves that they are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coinspace._ext.collector_ticker import RecentIds
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.exchanges.exchange import DISORDER_NS, Request, RestTrade, TradePage

# trades younger than this may still be on their way through the stream
FRESH_NS = 5 * SECOND_NS

# (exchange_ns, price, size, sell) of a published trade
Published = tuple[int, float, float, bool]
# (exchange ms, price, size, sell), as REST reports a trade
What = tuple[int, float, float, bool]


@dataclass(frozen=True, slots=True)
class Missing:
    """Missing ids: `count` ids from `first` to `last`."""

    first: int
    last: int
    count: int


def missing(first: int, last: int, known: Sequence[int]) -> Missing | None:
    """Return the missing ids from first to last, None = none is missing.

    The time depends on the length of `known`, not on the distance of first and last.

    Args: known: known ids within the range, ascending, without repeats.
    """
    count = last - first + 1 - len(known)
    if count <= 0:
        return None
    for id in known:
        if id != first:
            break
        first += 1
    for id in reversed(known):
        if id != last:
            break
        last -= 1
    return Missing(first, last, count)


@dataclass(slots=True, eq=False)
class TradeHole:
    """A span of time or ids in which trades may be missing.

    Attributes:
        from_ns, to_ns: exchange times of the trades around the hole; to_ns 0 = still open.
        first_id, last_id: for contiguous ids, else 0.
        volume: volume that is missing, 0 = not known.
        ask_ns: when to ask REST, 0 = not yet. answers: trade lists so far, newest first.
        oldest: oldest trade that REST has answered so far.
    """

    reason: str
    from_ns: int
    to_ns: int = 0
    first_id: int = 0
    last_id: int = 0
    volume: float = 0.0
    ask_ns: int = 0
    asked: bool = False
    answers: list[list[RestTrade]] = field(default_factory=list)
    oldest: RestTrade | None = None
    _seen: set[int] = field(default_factory=set)

    def again(self, ask_ns: int) -> None:
        """Ask REST again at a time, and forget the answers."""
        self.answers.clear()
        self._seen.clear()
        self.oldest = None
        self.asked, self.ask_ns = False, ask_ns

    def take(self, request: Request, read: list[RestTrade], wall_ns: int) -> TradePage:
        """Take the checked trades of an answer."""
        self.answers.append(read)
        fresh = any(trade.trade_id not in self._seen for trade in read)
        self._seen.update(trade.trade_id for trade in read)
        if read and (self.oldest is None or self._place(read[0]) <= self._place(self.oldest)):
            self.oldest = read[0]
        return TradePage(request, read, fresh, self.oldest, self.from_ns, wall_ns)

    def _place(self, trade: RestTrade) -> int:
        return trade.trade_id if self.first_id else trade.exchange_ns

    def trades(self) -> list[RestTrade]:
        """Return the trades of all answers, each once, oldest first."""
        once = {trade.trade_id: trade for answer in reversed(self.answers) for trade in answer}
        return sorted(once.values(), key=self._place)

    def reached(self) -> bool:
        """Return whether the answers reach the beginning of the hole.

        Lists whose ids do not count up may have a younger trade after an older one.
        """
        if self.oldest is None:
            return False
        if self.first_id:
            return self.oldest.trade_id <= self.first_id
        return self.oldest.exchange_ns < self.from_ns - DISORDER_NS


@dataclass(slots=True)
class Found:
    """Trades that fill a hole. lost: trades that REST does not have any more (at least)."""

    trades: list[RestTrade]
    lost: int = 0


def by_number(hole: TradeHole, trades: Iterable[RestTrade], known: Sequence[int]) -> Found:
    """Fill a hole of ids that count up by one. known: ids within it that were published."""
    there = set(known)
    wanted = [
        trade
        for trade in trades
        if hole.first_id <= trade.trade_id <= hole.last_id and trade.trade_id not in there
    ]
    there.update(trade.trade_id for trade in wanted)
    return Found(wanted, hole.last_id - hole.first_id + 1 - len(there))


def by_id(hole: TradeHole, trades: Sequence[RestTrade], known: RecentIds, now_ns: int) -> Found:
    """Fill a hole where REST and stream share ids: trades that are not `known` are missing."""
    settled_ns = hole.to_ns or now_ns - FRESH_NS
    wanted = [
        trade
        for trade in trades
        if hole.from_ns <= trade.exchange_ns <= settled_ns and trade.trade_id not in known
    ]
    beyond = bool(trades) and trades[0].exchange_ns > hole.from_ns and trades[0] in wanted
    return Found(wanted, int(beyond))


def audit(trades: Sequence[RestTrade], known: RecentIds, now_ns: int) -> Found:
    """Return trades that the stream has not brought since the oldest trade that both have."""
    begin = next((i for i, trade in enumerate(trades) if trade.trade_id in known), len(trades))
    return Found(
        [
            trade
            for trade in trades[begin:]
            if trade.trade_id not in known and now_ns - trade.exchange_ns > FRESH_NS
        ]
    )


def what(trade: RestTrade) -> What:
    """Return time, price, size and side of a trade."""
    return (trade.exchange_ns // MILLISECOND_NS, trade.price, trade.size, trade.sell)


def counted(published: Iterable[Published]) -> Counter[What]:
    """Return the number of times that each trade was published."""
    return Counter(
        (exchange_ns // MILLISECOND_NS, price, size, sell)
        for exchange_ns, price, size, sell in published
    )


def between(hole: TradeHole, trades: Sequence[RestTrade], published: Sequence[Published]) -> Found:
    """Fill a hole by time: trades between the last one before and the first one after.

    Trades in the same ms as one of these two are missing too when REST has the two trades with the
    times that the stream gave.
    """
    streamed = counted(published)
    by_rest = {what(trade) for trade in trades}
    begin_ns = hole.from_ns
    inside_ns = [
        exchange_ns for exchange_ns, *_ in published if hole.from_ns < exchange_ns < hole.to_ns
    ]
    if inside_ns and not all(
        one in by_rest
        for one in streamed
        if hole.from_ns // MILLISECOND_NS < one[0] < hole.to_ns // MILLISECOND_NS
    ):
        # REST gives published trades other times, so only trades after all of them are taken
        begin_ns = max(inside_ns)
    edges = {begin_ns // MILLISECOND_NS, hole.to_ns // MILLISECOND_NS}
    sure = {ms for ms in edges if any(one[0] == ms and one in by_rest for one in streamed)}
    wanted = []
    for trade in trades:
        kind = what(trade)
        inside = begin_ns < trade.exchange_ns < hole.to_ns and kind[0] not in edges
        if not inside and kind[0] not in sure:
            continue
        if streamed[kind]:
            streamed[kind] -= 1
        else:
            wanted.append(trade)
    beyond = bool(trades) and trades[0].exchange_ns > begin_ns and trades[0] in wanted
    return Found(wanted, int(beyond))


def by_volume(
    hole: TradeHole, trades: Sequence[RestTrade], published: Iterable[Published], tolerance: float
) -> Found:
    """Fill a hole of a known volume: trades that were not published, if their sum matches it."""
    streamed = counted(published)
    wanted = []
    for trade in trades:
        kind = what(trade)
        if streamed[kind]:
            streamed[kind] -= 1
        elif hole.from_ns <= trade.exchange_ns <= hole.to_ns:
            wanted.append(trade)
    if abs(sum(trade.size for trade in wanted) - hole.volume) > tolerance:
        return Found([])
    return Found(wanted)
