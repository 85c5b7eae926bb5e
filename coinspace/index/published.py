"""Which ticks have a published record.

A published record never changes. When the wall clock is set back, instants with a record come a
second time. So an index remembers its published ticks as spans of time. A `not_computed` tick is in
no span: the tick gets its record when the clock reaches it again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from operator import itemgetter

# each step of the clock adds a span; beyond this number the two oldest spans are merged
SPANS_KEPT = 64


class Published:
    """Spans of ticks, sorted, both ends included.

    Args: reach_ns: longest distance between ticks of one span.
    """

    def __init__(self, reach_ns: int) -> None:
        self._reach_ns = reach_ns
        self.spans: list[tuple[int, int]] = []

    @property
    def last_ns(self) -> int:
        """The latest tick with a record, 0 = none."""
        return self.spans[-1][1] if self.spans else 0

    def _begun(self, ts_ns: int) -> int:
        """Return how many spans begin at an instant or before it."""
        return bisect_right(self.spans, ts_ns, key=itemgetter(0))

    def span(self, ts_ns: int) -> tuple[int, int] | None:
        """Return the span that a tick lies in, None = the tick has no record."""
        begun = self._begun(ts_ns)
        found = self.spans[begun - 1] if begun else None
        return found if found is not None and ts_ns <= found[1] else None

    def add(self, first_ns: int, last_ns: int | None = None) -> None:
        """Add a tick or a span of ticks; spans within reach become one."""
        spans = self.spans
        last_ns = first_ns if last_ns is None else last_ns
        begin = end = self._begun(first_ns)
        if begin and first_ns - spans[begin - 1][1] <= self._reach_ns:
            begin -= 1
            first_ns, last_ns = spans[begin][0], max(last_ns, spans[begin][1])
        while end < len(spans) and spans[end][0] - last_ns <= self._reach_ns:
            last_ns = max(last_ns, spans[end][1])
            end += 1
        spans[begin:end] = [(first_ns, last_ns)]
        if len(spans) > SPANS_KEPT:
            # the merged span also covers free ticks: no published record can be replaced
            spans[:2] = [(spans[0][0], spans[1][1])]

    def remove(self, first_ns: int, last_ns: int) -> None:
        """Remove a span of ticks: an operator has declared its records void."""
        self.spans = [
            part
            for first, last in self.spans
            for part in ((first, min(last, first_ns - 1)), (max(first, last_ns + 1), last))
            if part[0] <= part[1]
        ]

    def free(self, first_ns: int, last_ns: int, step_ns: int) -> Iterator[tuple[int, int]]:
        """Yield the parts without a record of a range of ticks, multiples of `step_ns`."""
        for first, last in self.spans:
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
