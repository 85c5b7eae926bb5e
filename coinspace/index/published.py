"""Which ticks have a published record.

A published record never changes. When the wall clock is set back, instants come a second time that
have their record already, so an index remembers what it published as spans of time. A tick that was
only ever `not_computed` is in no span: it gets its record when the clock reaches it again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

# each step of the clock makes one more; where there are too many, the oldest two become one
SPANS_KEPT = 64


class Published:
    """Spans of ticks, sorted, both ends included.

    Args: reach_ns: ticks that are not farther apart belong to one span.
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
        """Return the span that a tick lies in, None = it has no record."""
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
            # rather a tick too many that keeps its record than one too few
            del firsts[1], lasts[0]

    def remove(self, first_ns: int, last_ns: int) -> None:
        """Take a span of ticks out: an operator has declared its records void."""
        left = [
            part
            for first, last in self
            for part in ((first, min(last, first_ns - 1)), (max(first, last_ns + 1), last))
            if part[0] <= part[1]
        ]
        self._firsts = [first for first, _ in left]
        self._lasts = [last for _, last in left]

    def free(self, first_ns: int, last_ns: int, step_ns: int) -> Iterator[tuple[int, int]]:
        """Yield what of a range of ticks, multiples of `step_ns`, has no record."""
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
