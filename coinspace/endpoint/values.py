"""Types of requests and answers: decimal strings, instants, cursors.

Answers write a number as the shortest decimal text that reads back to the same double, without an
exponent, and a time as epoch milliseconds. Requests give a time as epoch milliseconds or as ISO
8601 with a zone. A cursor is opaque to clients and checked like any other input.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.http.problem import Problem
from coinspace.instant import instant_ms
from coinspace.method.digits import RATIO_PLACES, SIGNIFICANT, WHOLE, significant

INT64_MAX = (1 << 63) - 1
# a number in a cursor
_Part = Annotated[int, Meta(ge=0, lt=INT64_MAX)]

DecimalText = Annotated[str, Meta(pattern=r"^-?\d+(\.\d+)?$", description="decimal number")]
EpochMs = Annotated[int, Meta(description="milliseconds since 1970-01-01T00:00:00Z")]
AgeMs = Annotated[int, Meta(description="milliseconds")]
Number = DecimalText | None
# levels of a book, [price, size] each, best first
Side = list[tuple[DecimalText, DecimalText]]


class Instant(int):
    """A time given by a client, in ms since the epoch."""


def decimal(value: float | int | str | None) -> str | None:
    """Write a number as a decimal string; None for None, NaN and infinities."""
    if type(value) is float:
        text = repr(value)
        if text.endswith(".0"):
            return text[:-2]
        if "e" in text:
            return format(Decimal(text), "f")
        return text if math.isfinite(value) else None
    return None if value is None else str(value)


def decimals(column: Iterable[float | None]) -> list[str | None]:
    """Write a column of numbers as `decimal` writes each, several times faster."""
    texts = orjson.dumps(list(column)).decode()[1:-1]
    # JSON writes 1.0, 1e-8, and null for None, NaN and infinities
    return [
        None
        if text == "null"
        else text[:-2]
        if text.endswith(".0")
        else format(Decimal(text), "f")
        if "e" in text
        else text
        for text in (texts.split(",") if texts else ())
    ]


def price(value: float | None) -> str | None:
    """Write a computed price with its significant digits: `decimal(significant(…))`."""
    if value is None:
        return None
    if abs(value) >= WHOLE:
        return decimal(significant(value))
    text = f"{value:.{SIGNIFICANT}g}"
    if "e" in text:
        return format(Decimal(text), "f")
    return None if value != value else text


def ratio(value: float | None) -> str | None:
    """Write a share or premium."""
    return None if value is None else decimal(round(float(value), RATIO_PLACES))


def decode_hook(kind: type, value: Any) -> Any:
    """Convert instants, which msgspec does not know."""
    if kind is Instant:
        return Instant(instant_ms(value))
    raise NotImplementedError(f"no conversion to {kind}")


def milliseconds(time_ns: int | None) -> int | None:
    """Return epoch ms of epoch ns; None for None and 0, which mean no time."""
    return time_ns // MILLISECOND_NS if time_ns else None


def encode_cursor(*parts: int) -> str:
    """Return an opaque cursor for a position."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")


def decode_cursor(text: str, count: int) -> list[int]:
    """Read the numbers of a cursor. Raises: Problem 400 unless there are `count` of them."""
    try:
        raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        parts = msgspec.msgpack.decode(raw, type=list[_Part])
        if len(parts) == count:
            return parts
    except (ValueError, msgspec.DecodeError):
        pass
    raise Problem(
        "invalid-cursor",
        f"cursor: expected the `cursor` of an earlier answer, was {text[:40]!r}",
        parameter="cursor",
    )
