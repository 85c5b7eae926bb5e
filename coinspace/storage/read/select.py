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

Kind = Literal["number", "integer", "flag", "instant", "text"]
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

    Raises: StorageError for a statement that may write, and for an error of the database.
    """
    text = statement.check(text)
    try:
        async with database.connection() as connection:
            cursor = connection.cursor()
            columns: Columns = {}
            rows: list[Row] = []
            # as bytes: a user's statement has no values to bind
            async for row in cursor.stream(text.encode(), binary=True):
                if not columns:
                    columns = _columns(cursor)
                rows.append({name: _value(value) for name, value in row.items()})
                if len(rows) == size:
                    yield columns, rows
                    rows = []
            yield columns or _columns(cursor), rows
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
        columns[column.name] = KINDS.get(kind.name, "text") if kind is not None else "text"
    return columns


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
