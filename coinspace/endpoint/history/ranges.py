"""Half-open time ranges of requests: defaults, checks, and the address of the next page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from coinspace.endpoint.http.problem import invalid
from coinspace.endpoint.values import Instant

# a longer scan is too expensive for one request; clients ask year by year
WIDEST_MS = 366 * 24 * 3600 * 1000


def span(
    start: Instant | None, end: Instant | None, now_ms: int, default_ms: int
) -> tuple[int, int]:
    """Return [start, end) in ms; without a start, the range is the `default_ms` before the end.

    Raises: Problem 400 for a range that is empty, backwards or too wide.
    """
    last = int(end) if end is not None else now_ms
    first = int(start) if start is not None else max(0, last - default_ms)
    if first >= last:
        raise invalid("start", f"expected before end, was {first} with end {last}")
    if last - first > WIDEST_MS:
        raise invalid(
            "end", f"expected at most {WIDEST_MS} ms (366 days) after start, was {last - first}"
        )
    return first, last


def next_link(path: str, cursor: str | None, **parameters: Any) -> str | None:
    """Return the address of the next page, None without one; absent parameters are left out."""
    if cursor is None:
        return None
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode({**given, 'cursor': cursor})}"
