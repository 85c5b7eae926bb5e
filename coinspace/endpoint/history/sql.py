"""Any SELECT as pages of rows: what `coinspace query sql` runs as the user that can only read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import postgres

from coinspace.config import Settings
from coinspace.endpoint.history import bulk, statement
from coinspace.endpoint.history.database import Database
from coinspace.endpoint.http.problem import Problem
from coinspace.errors import EndpointError

# PostgreSQL's name of a type -> kind of column; any other is written as text
KINDS: dict[str, bulk.Kind] = {
    "float4": "number",
    "float8": "number",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "bool": "flag",
    "timestamp": "instant",
    "timestamptz": "instant",
}
Page = tuple[bulk.Columns, bulk.Rows]


def check_reader(settings: Settings) -> None:
    """Raise EndpointError when the only user known may write: SQL of anybody must not."""
    storage = settings.storage
    if storage.sql and not storage.readonly_sql:
        raise EndpointError(
            "storage.readonly_sql: expected the address of a user that can only read, was none;"
            " `query sql` runs as no other"
        )


async def pages(database: Database, text: str) -> AsyncIterator[Page]:
    """Yield the columns with each page of rows, one page at least, in bounded memory.

    Raises: EndpointError for a statement that does not only read, or with what the database says
    against it.
    """
    statement.check(text)
    try:
        async with database.connection() as connection:
            cursor = connection.cursor()
            columns: bulk.Columns = {}
            rows: bulk.Rows = []
            # given as bytes: a statement of a user's own has no parts to bind
            async for row in cursor.stream(text.encode(), binary=True):
                if not columns:
                    columns = _columns(cursor)
                rows.append({name: _value(value) for name, value in row.items()})
                if len(rows) == bulk.PAGE_ROWS:
                    yield columns, rows
                    rows = []
            yield columns or _columns(cursor), rows
    except Problem as problem:
        if database.error:
            raise EndpointError(f"the database cannot be read: {database.error}") from None
        raise EndpointError(problem.detail) from None
    except psycopg.Error as error:
        raise EndpointError(f"sql: {str(error).splitlines()[0]}") from None


def _columns(cursor: psycopg.AsyncCursor[Any]) -> bulk.Columns:
    columns: bulk.Columns = {}
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
