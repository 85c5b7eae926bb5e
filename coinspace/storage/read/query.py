"""One statement on a connection of `schema.connect`, which reports its errors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from coinspace.storage.schema import Connection

APPLY_TIMEOUT_S = 10.0
POLL_S = 0.05

Row = tuple[Any, ...]


def rows(connection: Connection, sql: str, values: Sequence[Any] = ()) -> list[Row]:
    return connection.execute(sql, values, binary=True).fetchall()


def number(connection: Connection, sql: str, values: Sequence[Any] = ()) -> int | None:
    """Return the one number that a statement selects, None when there is none."""
    found = rows(connection, sql, values)
    return found[0][0] if found else None


def wait_applied(connection: Connection, table: str) -> None:
    """Wait until all acknowledged rows of a table can be read, for 10 s at most."""
    deadline = time.monotonic() + APPLY_TIMEOUT_S
    while time.monotonic() < deadline:
        found = rows(
            connection,
            "SELECT writerTxn, sequencerTxn FROM wal_tables() WHERE name = %s",
            (table,),
        )
        if not found or found[0][0] == found[0][1]:
            return
        time.sleep(POLL_S)
