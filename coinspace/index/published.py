"""Which ticks have a published record.

A published record never changes. When the wall clock is set back, instants with a record come a
second time. So an index remembers its published ticks as spans of time. A `not_computed` tick is in
no span: the tick gets its record when the clock reaches it again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

# each step of the clock adds a span; beyond this number the two oldest spans are merged
SPANS_KEPT = 64


class Published:
    """Spans of ticks, sorted, both ends included.

    Args: reach_ns: longest distance between ticks of one span.
    """

    def __init__(self, reach_ns: int) -> None:
        self._reach_ns = reach_ns
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    @property
    def last_ns(self) -> int:
        """The latest tick with a record, 0 = none."""
        return self._lasts[-1] if self._lasts else 0

    def span(self, ts_ns: int) -> tuple[int, int] | None:
        """Return the span that a tick lies in, None = the tick has no record."""
        at = bisect_right(self._firsts, ts_ns) - 1
        if at < 0 or ts_ns > self._lasts[at]:
            return None
        return self._firsts[at], self._lasts[at]

    def add(self, first_ns: int, last_ns: int | None = None) -> None:
        """Add a tick or a span of ticks."""
        firsts, lasts = self._firsts, self._lasts
        last_ns = first_ns if last_ns is None else last_ns
        at = bisect_right(firsts, first_ns) - 1
        if at >= 0 and first_ns - lasts[at] <= self._reach_ns:
            lasts[at] = max(lasts[at], last_ns)
        else:
            at += 1
            firsts.insert(at, first_ns)
            lasts.insert(at, last_ns)
        while at + 1 < len(firsts) and firsts[at + 1] - lasts[at] <= self._reach_ns:
            lasts[at] = max(lasts[at], lasts.pop(at + 1))
            del firsts[at + 1]
        if len(firsts) > SPANS_KEPT:
            # the merged span also covers free ticks: no published record can be replaced
            del firsts[1], lasts[0]

    def remove(self, first_ns: int, last_ns: int) -> None:
        """Remove a span of ticks: an operator has declared its records void."""
        left = [
            part
            for first, last in self
            for part in ((first, min(last, first_ns - 1)), (max(first, last_ns + 1), last))
            if part[0] <= part[1]
        ]
        self._firsts = [first for first, _ in left]
        self._lasts = [last for _, last in left]

    def free(self, first_ns: int, last_ns: int, step_ns: int) -> Iterator[tuple[int, int]]:
        """Yield the parts without a record of a range of ticks, multiples of `step_ns`."""
        for first, last in self:
            if last < first_ns:
                continue
            if first > last_ns:
                break
            before_ns = (first - 1) // step_ns * step_ns
            if before_ns >= first_ns:
                yield first_ns, before_ns
            first_ns = last // step_ns * step_ns + step_ns
        if first_ns <= last_ns:
            yield first_ns, last_ns
