"""Long ranges: fetched in parts, each of them whole or not at all, so that no row is doubled.

A part whose connection is lost, as when the endpoint restarts, is asked for again. The width of the
parts follows their size.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from coinspace.client.errors import ApiError, ConnectionLost, InvalidArgument
from coinspace.clock import MILLISECOND_NS
from coinspace.instant import instant_ms, shown

Time = datetime | int | str

HOUR_MS = 3_600_000
# a server refuses more than 366 days at once
WIDEST_MS = 300 * 24 * HOUR_MS
SMALL_BYTES, LARGE_BYTES = 2 << 20, 16 << 20
# how long a lost connection may stay lost in the middle of a range
PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
# an answer that a restarting server or its database gives
UNAVAILABLE = 503


def milliseconds(value: Time, name: str = "time") -> int:
    """Return a time as epoch milliseconds.

    Raises: InvalidArgument for a time without a zone, for seconds, and for anything else.
    """
    if isinstance(value, datetime):
        text = value.isoformat()
    elif isinstance(value, int | str) and not isinstance(value, bool):
        text = str(value)
    else:
        kind = type(value).__name__
        raise InvalidArgument(f"{name}: expected a datetime, an int or a str, was a {kind}")
    try:
        return instant_ms(text)
    except ValueError as error:
        raise InvalidArgument(f"{name}: {error}") from None


async def parts(
    fetch: Callable[[int, int], Awaitable[bytes]],
    first: int,
    last: int,
    step: int,
    done: Callable[[float], object],
) -> AsyncIterator[bytes]:
    """Yield the answers of consecutive parts of [first, last), oldest first.

    Args:
        fetch: (start, end) in ms -> answer.
        step: every part is a multiple of it, ms; `first` is one, too.
        done: called with the fraction of the range that has arrived.
    Raises: what `fetch` raises; a lost connection only at the first part, or after `PATIENCE_S`.
    """
    width, position = max(HOUR_MS // step, 5000) * step if step > 1 else HOUR_MS, first
    while position < last:
        end = min(last, position + width)
        answer = await _again(fetch, position, end, first)
        yield answer
        done((end - first) / (last - first))
        position = end
        if len(answer) < SMALL_BYTES:
            width = min(width * 4, WIDEST_MS // step * step)
        elif len(answer) > LARGE_BYTES:
            width = max(width // 4 // step, 1) * step


async def _again(
    fetch: Callable[[int, int], Awaitable[bytes]], start: int, end: int, first: int
) -> bytes:
    deadline, pause_s = time.monotonic() + PATIENCE_S, FIRST_PAUSE_S
    while True:
        try:
            return await fetch(start, end)
        except ConnectionLost as error:
            # nothing has arrived: most likely no endpoint runs
            if start == first and not error.begun:
                raise
            reason: ConnectionLost | ApiError = error
        except ApiError as error:
            if start == first or error.status != UNAVAILABLE:
                raise
            # at most as long as this waits at all
            reason, pause_s = error, min(error.retry_after_s or pause_s, PATIENCE_S)
        if time.monotonic() > deadline:
            at = shown(start * MILLISECOND_NS)
            raise ConnectionLost(
                f"{reason}; it was lost for {PATIENCE_S:.0f} s, after the rows before {at} had"
                " arrived: ask for the range again"
            ) from reason
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
