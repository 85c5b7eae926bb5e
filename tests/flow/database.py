"""Queries to QuestDB beside the product.

An acknowledged row becomes visible some time later. The rows of two requests or of two tables
become visible in any order.
"""

from __future__ import annotations

from typing import Any

import psycopg

from coinspace.config import Settings, StorageSettings
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.tables import TABLES
from tests.waiting import wait_for

OFF = StorageSettings(ttl="off")
_PENDING = "SELECT name FROM wal_tables() WHERE sequencerTxn != writerTxn AND NOT suspended"


def query(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    """Run a statement; return its rows."""
    with psycopg.connect(address(settings).sql, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return cursor.fetchall() if cursor.description else []


def applied(settings: Settings) -> None:
    """Wait until every acknowledged row and change is visible."""
    wait_for(lambda: not query(settings, _PENDING), shown=lambda: query(settings, _PENDING))


def emptied(settings: Settings, *tables: str) -> None:
    """Delete all rows of tables and wait until none is visible."""
    for table in tables:
        query(settings, f"TRUNCATE TABLE {table}")
    applied(settings)


def whole(settings: Settings) -> None:
    """Create the tables; repair what other tests have changed, also views whose table they emptied.

    Needed where views or the whole schema are read.
    """
    found = address(settings)
    schema.create(found, OFF)
    tables = {table.name for table in TABLES}
    invalid = "SELECT view_name FROM materialized_views() WHERE view_status = 'invalid'"
    wait_for(
        lambda: not schema.repair(found, tables, OFF) and not query(settings, invalid),
        shown=lambda: (schema.differences(found, OFF), query(settings, invalid)),
    )
    applied(settings)
