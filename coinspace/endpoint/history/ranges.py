"""Half-open time ranges of requests: defaults, checks, and the address of the next page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.http.problem import Problem, invalid
from coinspace.endpoint.values import Instant, decode_cursor

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


def candles_span(
    start: Instant | None, end: Instant | None, now_ms: int, length: int, limit: int
) -> tuple[int, int]:
    """Return [start, end) widened to whole candles of `length` ms; by default the newest `limit`.

    Raises: Problem 400, as `span`.
    """
    first, last = span(start, end, now_ms, limit * length)
    first, last = first // length * length, -(-last // length) * length
    if start is None:
        # the newest candle is not complete; it replaces the oldest one
        first = max(first, last - limit * length)
    return first, last


def candles_begin(cursor: str | None, start: int, end: int, length: int) -> int:
    """Return the begin of a page of candles. Raises: Problem 400 for one of another range."""
    if cursor is None:
        return start
    (position,) = decode_cursor(cursor, 1)
    if position % length or not start <= position < end:
        raise Problem(
            "invalid-cursor", "cursor: expected one of the same range", parameter="cursor"
        )
    return position


def values_begin_ns(cursor: str | None, start: int) -> int:
    """Return the first ns of a page of values: after the last one shown. Raises: Problem 400."""
    begin_ns = start * MILLISECOND_NS
    return begin_ns if cursor is None else max(begin_ns, decode_cursor(cursor, 1)[0] + 1)


def next_link(path: str, cursor: str | None, **parameters: Any) -> str | None:
    """Return the address of the next page, None without one; absent parameters are left out."""
    if cursor is None:
        return None
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode({**given, 'cursor': cursor})}"
