"""One statement on a given connection: returns its rows or raises StorageError with the table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from coinspace.errors import StorageError
from coinspace.storage.schema import Connection, first_line

APPLY_TIMEOUT_S = 10.0
POLL_S = 0.05

Row = tuple[Any, ...]


def stream(
    connection: Connection,
    table: str,
    sql: str,
    values: Sequence[Any] = (),
    *,
    binary: bool = False,
) -> Iterator[Row]:
    """Yield the rows of a statement. Raises: StorageError when the database cannot answer."""
    try:
        yield from connection.execute(sql, values, binary=binary)
    except psycopg.Error as error:
        raise StorageError(f"{table}: expected rows, {first_line(error)}", table) from None


def rows(
    connection: Connection,
    table: str,
    sql: str,
    values: Sequence[Any] = (),
    *,
    binary: bool = False,
) -> list[Row]:
    """Return the rows of a statement. Raises: StorageError when the database cannot answer."""
    return list(stream(connection, table, sql, values, binary=binary))


def value(connection: Connection, table: str, sql: str, values: Sequence[Any] = ()) -> Any:
    """Return the first column of the first row, None when there is none."""
    found = rows(connection, table, sql, values)
    return found[0][0] if found else None


def wait_applied(connection: Connection, table: str) -> None:
    """Wait until all acknowledged rows of a table can be read, for 10 s at most."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while time.monotonic() < deadline:
        found = rows(
            connection,
            table,
            "SELECT writerTxn, sequencerTxn FROM wal_tables() WHERE name = %s",
            (table,),
        )
        if not found or found[0][0] == found[0][1]:
            return
        time.sleep(POLL_S)
