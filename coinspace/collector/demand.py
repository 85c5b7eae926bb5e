"""REST requests that a stage wants: each once, the most valuable first, within the budget.

A wanted request waits here and not in the queue of the fetcher, so that a more valuable one can
overtake it until the last moment. Comparisons have their own part of the budget, spread evenly:
they prove that a connection without trades still delivers. Deeper snapshots use only a part of the
rest, so that missing books always find room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum

from coinspace.clock import SECOND_NS
from coinspace.collector.limits import Window, shared
from coinspace.exchanges.exchange import Exchange, Limit, Request, Stream

# 0: for an asset that the settings name, 1: for another one of the index, 2: for neither
TIERS = 3
# longest wait for an answer
LOST_NS = 5 * SECOND_NS


class Value(IntEnum):
    """Why a request is wanted; the lowest value is sent first."""

    # the first book of a market that has updates
    FIRST = 0
    # the first book of a market without an update so far
    QUIET = 1
    # lost books and missing trades
    REPAIR = 2
    COMPARE = 3
    # more levels than the first snapshot had
    DEEPEN = 4


# requests that may wait for an answer at a time: a market with updates must not wait behind
# hundreds of markets without any
IN_FLIGHT = {
    Value.FIRST: 16,
    Value.QUIET: 4,
    Value.REPAIR: 16,
    Value.COMPARE: 8,
    Value.DEEPEN: 4,
}
# value -> its part of the budget, and the longest window in seconds over which it is spread
PARTS = {Value.COMPARE: (0.25, 5.0), Value.DEEPEN: (0.4, 60.0)}
# part of the budget for all requests except comparisons
OTHERS = 0.75

# purpose and symbols: each pair is wanted once
Key = tuple[str, tuple[str, ...]]


def budget(exchange: Exchange, stream: Stream) -> dict[str, Limit]:
    """Return the limits of one stream's process, by group."""
    limits = exchange.REST_LIMITS
    if len(limits) == 1:
        # both streams count against the only group
        return {name: shared(limit, stream) for name, limit in limits.items()}
    # each group belongs to one stream, except for the rare market list
    return dict(limits)


class Demand:
    """The wanted requests of one stage.

    Args: limits: limits of this stage, by group.
    """

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._parts = {
            (group, value): Window(_part(limit, share, spread_s))
            for group, limit in limits.items()
            for value, (share, spread_s) in PARTS.items()
        }
        self._others = {group: Window(_part(limit, OTHERS)) for group, limit in limits.items()}
        # rank -> wanted requests in order of arrival
        self._waiting: dict[int, dict[Key, Request]] = {
            rank: {} for rank in range(TIERS * len(Value))
        }
        self._rank_of: dict[Key, int] = {}
        # requests without an answer: key -> (time of the request, value)
        self._asked: dict[Key, tuple[int, Value]] = {}

    def __len__(self) -> int:
        return len(self._rank_of)

    def add(self, request: Request, value: Value, tier: int, now_ns: int) -> bool:
        """Add a wanted request; return whether it is new.

        An equal request that waits already takes the higher of both ranks.

        Args: tier: below TIERS; of requests of one value, the lowest tier comes first.
        """
        key = _key(request)
        rank = TIERS * value + tier
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
        """Remove a request that waits."""
        key = _key(request)
        rank = self._rank_of.pop(key, None)
        if rank is not None:
            del self._waiting[rank][key]

    def done(self, request: Request) -> None:
        """Note that a request was answered or has failed."""
        self._asked.pop(_key(request), None)

    def take(self, now_ns: int) -> list[Request]:
        """Return the requests that may be sent now."""
        if not self._rank_of:
            return []
        for key in list(self._asked):
            self._waits_for(key, now_ns)
        taken = []
        incomplete = any(rank // TIERS <= Value.QUIET for rank in self._rank_of.values())
        for rank, waiting in self._waiting.items():
            value = Value(rank // TIERS)
            if value == Value.DEEPEN and incomplete:
                # all missing books come first
                break
            while waiting and self._in_flight(value) < IN_FLIGHT[value]:
                key, request = next(iter(waiting.items()))
                windows = self._windows_of(request.group, value)
                if any(window.wait_ns(now_ns, request.weight) for window in windows):
                    # lower values have no more room; only comparisons have their own part
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
