"""Any SELECT as pages of rows, for `coinspace query sql`, as the read-only database user."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg import postgres

from coinspace.config import Settings
from coinspace.errors import DatabaseUnavailable, QueryTimeout, StorageError
from coinspace.storage.read import statement
from coinspace.storage.read.pool import Database, Row
from coinspace.storage.schema import first_line

Kind = Literal[
    "number", "integer", "flag", "instant", "text", "array", "array1", "array2", "array3"
]
Columns = dict[str, Kind]
# PostgreSQL's name of a type -> kind of column; other types are text
KINDS: dict[str, Kind] = {
    "float4": "number",
    "float8": "number",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "bool": "flag",
    "timestamp": "instant",
    "timestamptz": "instant",
}
Page = tuple[Columns, list[Row]]
ARRAYS: tuple[Kind, ...] = ("array1", "array2", "array3")
# a page of rows with arrays is shorter
PAGE_NUMBERS = 500_000
# rows in memory until each array column has shown its number of dimensions
UNKNOWN_ROWS = 100_000


def check_reader(settings: Settings) -> None:
    """Check that a read-only user is configured: users' SQL must not write.

    Raises: StorageError when the only configured user may write.
    """
    storage = settings.storage
    if storage.sql and not storage.readonly_sql:
        raise StorageError(
            "storage.readonly_sql: expected the address of a user that can only read, was none;"
            " `query sql` needs it"
        )


async def pages_of(database: Database, text: str, size: int) -> AsyncIterator[Page]:
    """Yield (columns, rows) of each page of `size` rows; at least one page, in bounded memory.

    Arrays are nested lists of numbers, with null for NaN.
    Raises: StorageError for a statement that may write, and for an error of the database.
    """
    text = statement.check(text)
    try:
        async with database.connection() as connection:
            cursor = connection.cursor()
            columns: Columns = {}
            rows: list[Row] = []
            numbers = 0
            # as bytes: a user's statement has no values to bind
            async for row in cursor.stream(text.encode(), binary=True):
                if not columns:
                    columns = _columns(cursor)
                rows.append({name: _value(value) for name, value in row.items()})
                for name, kind in columns.items():
                    if kind.startswith("array") and row[name]:
                        columns[name] = _shape(name, row[name], kind)
                        numbers += _size(row[name])
                if len(rows) >= size or numbers >= PAGE_NUMBERS:
                    if "array" not in columns.values():
                        yield columns, rows
                        rows, numbers = [], 0
                    elif len(rows) >= UNKNOWN_ROWS:
                        raise StorageError(_unknown(columns))
            if not columns:
                # streaming shows the columns only with a row
                columns = _columns(await cursor.execute(text.encode(), binary=True))
            # a column without any array may have any dimensions
            yield {name: "array1" if k == "array" else k for name, k in columns.items()}, rows
    except (DatabaseUnavailable, QueryTimeout) as error:
        if database.error:
            raise StorageError(f"the database cannot be read: {database.error}") from None
        raise error
    except psycopg.Error as error:
        raise StorageError(f"sql: {first_line(error)}") from None


def _columns(cursor: psycopg.AsyncCursor[Any]) -> Columns:
    columns: Columns = {}
    for column in cursor.description or ():
        kind = postgres.types.get(column.type_code)
        if kind is not None and column.type_code == kind.array_oid:
            columns[column.name] = "array"
        else:
            columns[column.name] = KINDS.get(kind.name, "text") if kind is not None else "text"
    return columns


def _shape(name: str, value: Any, known: Kind) -> Kind:
    """Return the kind of an array's column. Raises: StorageError for too many dimensions."""
    if known != "array":
        return known
    depth, part = 0, value
    while isinstance(part, list):
        depth += 1
        part = part[0] if part else None
    if depth > len(ARRAYS):
        raise StorageError(
            f"sql: {name}: expected at most {len(ARRAYS)} dimensions, was {depth}; select a part"
            " of the array"
        )
    return ARRAYS[depth - 1]


def _size(value: Any) -> int:
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _unknown(columns: Columns) -> str:
    names = ", ".join(name for name, kind in columns.items() if kind == "array")
    return (
        f"sql: {names}: expected an array in the first {UNKNOWN_ROWS:,} rows, found only nulls;"
        f" add a condition such as `{names.partition(',')[0]} != null`"
    )


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_value(None if one != one else one) for one in value]
    return str(value)
