"""Times that people read and write: epoch milliseconds or ISO 8601.

The API, its client and every command read a time here.
"""

import re
from datetime import UTC, datetime, timedelta

from coinspace.clock import MILLISECOND_NS, SECOND_NS, check_ms

# the end of 2199: every time fits into int64 ns
LATEST_MS = 7_258_118_400_000
EXPECTED = "expected epoch milliseconds or ISO 8601 with a zone (2026-01-31T09:00:00Z)"
_NUMBER = re.compile(r"(\d{1,19})(?:\.(\d{1,6}))?", re.ASCII)
_EPOCH = datetime.fromtimestamp(0, UTC)
_MICROSECOND = timedelta(microseconds=1)


def instant_ms(text: str) -> int:
    """Read a time of a request as ms since the epoch; ISO 8601 needs a zone.

    Raises: ValueError that says what was expected.
    """
    return _read(text, typed=False) // MILLISECOND_NS


def typed_ns(text: str) -> int:
    """Read a time of a command as ns since the epoch; ms may have decimals, no zone means UTC.

    Raises: ValueError that says what was expected.
    """
    return _read(text, typed=True)


def iso_ns(text: str, *, utc: bool) -> int:
    """Read ISO 8601 as ns since the epoch. Args: utc: no zone means UTC, instead of an error.

    Raises: ValueError that says what is wrong.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("it is neither") from None
    if moment.tzinfo is None:
        if not utc:
            raise ValueError("it has no zone")
        moment = moment.replace(tzinfo=UTC)
    # whole numbers: float64 cannot store a time in ns exactly
    return (moment - _EPOCH) // _MICROSECOND * 1000


def shown(time_ns: int) -> str:
    """Return a time as 2026-01-31T12:00:00.200Z, or in ns where no such date exists."""
    try:
        at = datetime.fromtimestamp(time_ns / SECOND_NS, UTC)
    except (OverflowError, ValueError):
        return f"{time_ns} ns"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(text: str, *, typed: bool) -> int:
    number = _NUMBER.fullmatch(text)
    try:
        if number and (typed or not number[2]):
            check_ms(int(number[1]))
            found_ns = int(number[1]) * MILLISECOND_NS + int((number[2] or "").ljust(6, "0"))
        else:
            found_ns = iso_ns(text, utc=typed)
        if not 0 <= found_ns <= LATEST_MS * MILLISECOND_NS:
            raise ValueError("it is not between 1970 and 2200")
    except ValueError as error:
        raise ValueError(f"{EXPECTED}, was {text[:40]!r}: {error}") from None
    return found_ns
