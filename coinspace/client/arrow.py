"""Reads Arrow streams of an endpoint that may be hostile.

pyarrow trusts a stream: wrong offsets read other memory or end the process, a compressed column or
one of a type without content can have any number of rows in a few bytes. The API sends neither.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from coinspace.client.errors import BadAnswer
from coinspace.client.frame import library

# places of fields in the flatbuffers of Arrow's Message.fbs
HEADER, COMPRESSION = 2, 3


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise BadAnswer instead of pyarrow's errors and for a missing column."""
    arrow = library("pyarrow")
    try:
        yield
    except (arrow.ArrowException, KeyError, OSError, ValueError) as error:
        raise BadAnswer(f"Arrow: expected rows of the API, {error}") from None


def read(part: bytes) -> Any:
    """Return the pyarrow.Table of a stream. Raises: BadAnswer unless it is one of the API."""
    arrow, ipc = library("pyarrow"), library("pyarrow.ipc")
    with readable():
        reader = ipc.open_stream(arrow.BufferReader(part))
        for field in reader.schema:
            if not _is_plain(arrow.types, field.type):
                raise ValueError(f"was type {field.type} of {field.name}")
        for message in ipc.MessageReader.open_stream(arrow.BufferReader(part)):
            if message.type != "schema" and not _is_batch(message):
                raise ValueError(f"was a compressed {message.type}")
        table = reader.read_all()
        table.validate(full=True)
        return table


def _is_plain(types: Any, kind: Any) -> bool:
    """Return whether each value of a type takes room."""
    if types.is_list(kind):
        return _is_plain(types, kind.value_type)
    return any(
        test(kind)
        for test in (
            types.is_timestamp,
            types.is_float64,
            types.is_int64,
            types.is_string,
            types.is_boolean,
        )
    )


def _is_batch(message: Any) -> bool:
    """Return whether a message is a record batch without compression."""
    if message.type != "record batch":
        return False
    # pyarrow has verified the flatbuffer, and does not show this field
    data = memoryview(message.metadata)

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little", signed=True)

    def field(table: int, which: int) -> int:
        """Return the offset of a field in a table, 0 = it has none."""
        places = table - number(table, 4)
        at = 4 + 2 * which
        return number(places + at, 2) if at < number(places, 2) else 0

    root = number(0, 4)
    header = root + field(root, HEADER)
    return not field(header + number(header, 4), COMPRESSION)
