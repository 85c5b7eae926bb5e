"""Reading a database of an earlier release, before storage workers have added new columns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import psycopg
import pytest

from coinspace.errors import NoSuchColumn, NoSuchTable
from coinspace.storage.read import history
from coinspace.storage.read.pool import Database, ReadConnection, Row

ROW = {"ns": 1, "exchange": "upbit", "market": "BTC/KRW", "trade_id": 7, "trades": 1}


class Connection:
    """Answers statements as the database does."""

    def __init__(self, missing: str) -> None:
        self.missing = missing

    async def execute(self, sql: str, values: Sequence[Any], *, binary: bool) -> Connection:
        assert sql.count("%s") == len(values)
        if self.missing in sql:
            raise psycopg.DatabaseError(f"Invalid column: {self.missing}\nLINE 1: SELECT")
        if "nowhere" in sql:
            raise psycopg.DatabaseError("table does not exist [table=nowhere]")
        return self

    async def fetchall(self) -> list[Row]:
        return [ROW]


class Older(Database):
    """A database whose tables lack a column."""

    def __init__(self, missing: str) -> None:
        super().__init__(lambda: "", size=1, timeout_s=5)
        self._missing = missing

    async def _take(self) -> ReadConnection:
        return cast(ReadConnection, Connection(self._missing))

    async def _give_back(self, connection: ReadConnection, whole: bool) -> None:
        assert whole


@pytest.mark.parametrize("after", [None, (1, 7, 0)])
def test_trades_are_read_without_their_number_of_trades(after: tuple[int, int, int] | None) -> None:
    found = asyncio.run(
        history.trades(Older("n_trades"), {"exchange": "upbit"}, 0, 1 << 60, after, 10)
    )
    assert found == [ROW]


def test_a_missing_column_or_table_is_reported_as_such() -> None:
    database = Older("price")
    with pytest.raises(NoSuchColumn, match="Invalid column: price"):
        asyncio.run(history.trades(database, {}, 0, 1, None, 1))
    with pytest.raises(NoSuchTable, match="no such table"):
        asyncio.run(database.rows("SELECT 1 FROM nowhere"))
