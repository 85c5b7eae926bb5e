"""What a stage wants from REST: each wish once, the most valuable first, no more than the budget.

A wish waits here and not in the queue of the fetcher, so that a more valuable one can pass it until
the moment at which it leaves. Comparisons have a part of the budget of their own, spread evenly:
they prove that a connection on which nobody trades still delivers. Of the rest, deeper snapshots
leave a part to books that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum

from coinspace.clock import SECOND_NS
from coinspace.collector.limits import Window, shared
from coinspace.exchanges.exchange import Exchange, Limit, Request, Stream

# an answer that has not come by then is not waited for
LOST_NS = 5 * SECOND_NS


class Value(IntEnum):
    """Why something is wanted; the lowest first."""

    # books that were never there, of markets that the index needs; then of others
    FIRST = 0
    # of markets that have not had an update either
    QUIET = 1
    # books that were lost, trades that are missing
    REPAIR = 2
    COMPARE = 3
    # more levels than the first snapshot had
    DEEPEN = 4


# requests that may be unanswered at a time: a market with updates must not wait behind hundreds
# that have none
IN_FLIGHT = {
    Value.FIRST: 16,
    Value.QUIET: 4,
    Value.REPAIR: 16,
    Value.COMPARE: 8,
    Value.DEEPEN: 4,
}
# the part of the budget that a value may use, and the seconds over which it is spread at most
PARTS = {Value.COMPARE: (0.25, 5.0), Value.DEEPEN: (0.4, 60.0)}
# the part that all but comparisons may use together
OTHERS = 0.75

# one wish for each purpose and set of symbols
Key = tuple[str, tuple[str, ...]]


def budget(exchange: Exchange, stream: Stream) -> dict[str, Limit]:
    """Return what one stream's process may use of an exchange's limits, by group."""
    limits = exchange.REST_LIMITS
    if len(limits) == 1:
        # counted by kind, each kind is one stream's own but for the rare market list
        return {name: shared(limit, stream) for name, limit in limits.items()}
    return dict(limits)


class Demand:
    """The wishes of one stage.

    Args: limits: by group, what this stage may use.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._parts = {
            (group, value): Window(_part(limit, share, spread_s))
            for group, limit in limits.items()
            for value, (share, spread_s) in PARTS.items()
        }
        self._others = {group: Window(_part(limit, OTHERS)) for group, limit in limits.items()}
        # by rank: the wishes in the order in which they came
        self._waiting: dict[int, dict[Key, Request]] = {rank: {} for rank in range(2 * len(Value))}
        self._rank_of: dict[Key, int] = {}
        # asked and not answered: since when, and why
        self._asked: dict[Key, tuple[int, Value]] = {}

    def __len__(self) -> int:
        return len(self._rank_of)

    def add(self, request: Request, value: Value, needed: bool, now_ns: int) -> bool:
        """Wish for an answer; `needed`: the index needs it. Returns: whether the wish is new.

        A wish for the same that waits already takes the higher of both ranks.
        """
        key = _key(request)
        rank = 2 * value + (not needed)
        if self._waits_for(key, now_ns):
            return False
        before = self._rank_of.get(key)
        if before is not None:
            if before <= rank:
                return False
            del self._waiting[before][key]
        self._rank_of[key] = rank
        self._waiting[rank][key] = request
        return before is None

    def remove(self, request: Request) -> None:
        """Forget a wish that waits."""
        key = _key(request)
        rank = self._rank_of.pop(key, None)
        if rank is not None:
            del self._waiting[rank][key]

    def done(self, request: Request) -> None:
        """An answer, or the news that there will be none, has come."""
        self._asked.pop(_key(request), None)

    def take(self, now_ns: int) -> list[Request]:
        """Return what may be asked for now."""
        if not self._rank_of:
            return []
        for key in list(self._asked):
            self._waits_for(key, now_ns)
        taken = []
        incomplete = any(rank // 2 <= Value.QUIET for rank in self._rank_of.values())
        for rank, waiting in self._waiting.items():
            value = Value(rank // 2)
            if value == Value.DEEPEN and incomplete:
                # every book first
                break
            while waiting and self._in_flight(value) < IN_FLIGHT[value]:
                key, request = next(iter(waiting.items()))
                windows = self._windows_of(request.group, value)
                if any(window.wait_ns(now_ns, request.weight) for window in windows):
                    # what has less value has less room as well, but for comparisons
                    break
                for window in windows:
                    window.take(now_ns, request.weight)
                del waiting[key], self._rank_of[key]
                self._asked[key] = now_ns, value
                taken.append(request)
        return taken

    def _windows_of(self, group: str, value: Value) -> list[Window]:
        part = self._parts.get((group, value))
        windows = [] if part is None else [part]
        return windows if value == Value.COMPARE else [self._others[group], *windows]

    def _waits_for(self, key: Key, now_ns: int) -> bool:
        asked = self._asked.get(key)
        if asked is not None and now_ns - asked[0] > LOST_NS:
            del self._asked[key]
            return False
        return asked is not None

    def _in_flight(self, value: Value) -> int:
        return sum(why == value for _, why in self._asked.values())


def _part(limit: Limit, share: float, spread_s: float = math.inf) -> Limit:
    seconds = min(limit.seconds, spread_s)
    return replace(
        limit, count=max(1, int(limit.count * share * seconds / limit.seconds)), seconds=seconds
    )


def _key(request: Request) -> Key:
    return request.purpose, request.symbols
