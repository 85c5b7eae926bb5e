"""What is stored of a market: levels, and how many messages a second (`storage.policy`)."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from coinspace.clock import SECOND_NS
from coinspace.config import Settings, StoragePolicy
from coinspace.constituents import named

ORDERBOOK, TICKER = "orderbook", "ticker"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is stored of one market's messages of one kind.

    Attributes:
        depth: levels a side.
        slot_ns: only the first message of each slot of this length is stored, 0 = every message.
    """

    depth: int
    slot_ns: int = 0

    def slot(self, published_ns: int) -> int:
        """Return the number of the slot that a message lies in."""
        return published_ns // self.slot_ns


class Policies:
    """The rule of each market; the first entry that matches it counts, without one all is stored.

    Args: depth: levels a side where an entry has none.
    """

    def __init__(self, entries: list[StoragePolicy], depth: int) -> None:
        self._entries = entries
        self._depth = depth

    def of(self, kind: str, exchange: str, market: str) -> Rule:
        """Return the rule of a market. Args: kind: orderbook, ticker, trade or state."""
        entry = self._entry(f"{exchange}:{market}")
        a_second = {
            ORDERBOOK: entry.books_per_second,
            TICKER: entry.tickers_per_second,
        }.get(kind, 0)
        return Rule(entry.depth or self._depth, round(SECOND_NS / a_second) if a_second else 0)

    def archived(self, exchange: str, market: str) -> bool:
        """Return whether a market's rows are archived."""
        return self._entry(f"{exchange}:{market}").archive

    def _entry(self, venue: str) -> StoragePolicy:
        for entry in self._entries:
            if any(fnmatchcase(venue, pattern) for pattern in entry.markets):
                return entry
        return EVERYTHING


EVERYTHING = StoragePolicy(markets=["*"])
# a disk of 1 TB then lasts for a year with the whole markets of all exchanges
OF_PATTERNS = StoragePolicy(markets=["*"], depth=10, books_per_second=0.2, tickers_per_second=0.02)


def policies(settings: Settings) -> Policies:
    """Return what is stored: by `storage.policy`, or by default less of what patterns bring in.

    By default, all is stored of the markets and assets that the configuration names, and of the
    USDT rate.
    """
    whole = [
        *(
            f"{exchange}:{one}"
            for exchange in settings.exchanges
            for one in named(settings, exchange)
        ),
        *(f"*:{asset}/*" for asset in settings.index.named),
        "*:USDT/KRW",
    ]
    entries = settings.storage.policy or [StoragePolicy(markets=whole), OF_PATTERNS]
    return Policies(entries, settings.storage.depth)
