"""One side of a simulated book in integers: ticks of the market, units of its size."""

from __future__ import annotations

from bisect import bisect_left, insort


class Side:
    """Levels of one side. `sizes`: tick -> units; `ticks`: ascending, so the best bid is last."""

    __slots__ = ("is_bid", "sizes", "ticks")

    def __init__(self, is_bid: bool) -> None:
        self.is_bid = is_bid
        self.sizes: dict[int, int] = {}
        self.ticks: list[int] = []

    def put(self, tick: int, size: int) -> None:
        """Set a level; size 0 keeps it as dust."""
        if tick not in self.sizes:
            insort(self.ticks, tick)
        self.sizes[tick] = size

    def drop(self, tick: int) -> None:
        """Remove a level that exists."""
        del self.sizes[tick]
        del self.ticks[bisect_left(self.ticks, tick)]

    def best(self) -> int:
        """Return the best tick; the side must not be empty."""
        return self.ticks[-1] if self.is_bid else self.ticks[0]

    def at(self, depth: int) -> int:
        """Return the tick at a depth, 0 = best."""
        return self.ticks[-1 - depth] if self.is_bid else self.ticks[depth]

    def top(self, n: int) -> list[tuple[int, int]]:
        """Return up to n (tick, size), best first."""
        ticks = self.ticks[: -n - 1 : -1] if self.is_bid else self.ticks[:n]
        sizes = self.sizes
        return [(tick, sizes[tick]) for tick in ticks]

    def beyond(self, tick: int, steps: int) -> int:
        """Return the tick `steps` further from the touch."""
        return tick - steps if self.is_bid else tick + steps

    def __len__(self) -> int:
        return len(self.ticks)
