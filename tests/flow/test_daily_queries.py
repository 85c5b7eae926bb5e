"""The documents' daily queries on a real database, with answers known beforehand."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coinspace.config import Settings, StorageSettings
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.sender import Sender
from tests.flow.database import applied, query, whole
from tests.waiting import until

DOCUMENT = Path(__file__).parents[2] / "docs" / "messages.md"
# title -> statement, with parameters as psycopg takes them
QUESTIONS = dict(re.findall(r"^([^\n]+):\n\n```sql\n(.*?)```", DOCUMENT.read_text(), re.M | re.S))
MINUTE_NS = 60_000_000_000
# a day of its own: the database is shared
START = datetime(2022, 5, 17, 12, 0)
START_NS = int((START - datetime(1970, 1, 1)).total_seconds()) * 1_000_000_000
ASSET, EXCHANGE, MARKET = "DLY", "upbit", "DLY/KRW"
# gets a late trade
LATE_MARKET = "DLL/KRW"
PARAMETERS = {
    "asset": ASSET,
    "exchange": EXCHANGE,
    "market": MARKET,
    "start": START.isoformat(),
    "end": (START + timedelta(minutes=10)).isoformat(),
}


@pytest.fixture
async def filled(questdb: Settings, tmp_path: Path) -> Settings:
    """Three minutes of ticks, books and trades; the second minute has no index value."""
    whole(questdb)
    found = address(questdb)
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    sender = Sender(Settings(data=tmp_path, storage=storage), "daily")
    sender.start()
    for minute in range(3):
        for second in range(0, 60, 10):
            at_ns = START_NS + minute * MINUTE_NS + second * 1_000_000_000
            _tick(sender, at_ns, minute)
            _book(sender, at_ns, minute)
        for market in (MARKET, LATE_MARKET):
            _trades(sender, market, START_NS + minute * MINUTE_NS + 5_000_000_000, minute)
    assert await sender.close(60)
    applied(questdb)
    # a view shows rows some time after its table
    for complete in (
        f"SELECT sum(ticks) = 18 FROM index_1m WHERE asset = '{ASSET}'",
        f"SELECT sum(trades) = 9 FROM trade_1m WHERE market = '{MARKET}'",
        f"SELECT sum(trades) >= 9 FROM trade_1m WHERE market = '{LATE_MARKET}'",
    ):
        await until(partial(_is_true, questdb, complete), complete)
    return questdb


def _is_true(settings: Settings, text: str) -> bool:
    return query(settings, text) == [(True,)]


def ask(settings: Settings, text: str) -> list[tuple[Any, ...]]:
    with schema.connect(address(settings)) as connection:
        return list(connection.execute(text, PARAMETERS).fetchall())


def _tick(sender: Sender, at_ns: int, minute: int) -> None:
    null = minute == 1
    sender.row(
        "index_tick",
        symbols={"asset": ASSET, "status": "null" if null else "ok"},
        columns={
            "value": None if null else 100.0 + minute,
            "value_krw": None if null else 140_000.0 + minute,
            "premium": None if null else 0.02,
            "fx": 1400.0,
        },
        at_ns=at_ns,
    )
    for venue, used in (("upbit:DLY/KRW", True), ("binance:DLY/USDT", minute != 2)):
        sender.row(
            "index_venue",
            symbols={"asset": ASSET, "role": "constituent", "venue": venue},
            columns={"used": used, "mid": 1.0},
            at_ns=at_ns,
        )


def _book(sender: Sender, at_ns: int, minute: int) -> None:
    # levels every 5 bp from 4 bp on, one unit each, one more a minute
    steps = np.arange(1, 31) * 5e-4 - 1e-4
    bids = np.array([1000 * (1 - steps), np.full(30, 1.0 + minute)])
    asks = np.array([1000 * (1 + steps), np.full(30, 2.0 + minute)])
    sender.row(
        "orderbook",
        symbols={"exchange": EXCHANGE, "market": MARKET},
        columns={
            "bid": bids[0, 0].item(),
            "ask": asks[0, 0].item(),
            "bids": bids,
            "asks": asks,
            "epoch": 1,
            "seq": at_ns,
        },
        at_ns=at_ns,
    )


def _trades(sender: Sender, market: str, at_ns: int, minute: int) -> None:
    # trades of one instant, out of order: the candle follows their ids
    for trade_id in (3, 1, 2):
        sender.row(
            "trade",
            symbols={"exchange": EXCHANGE, "market": market, "side": "buy"},
            columns={
                "price": 141_000.0 + trade_id,
                "size": 1.0,
                "trade_id": 10 * minute + trade_id,
            },
            at_ns=at_ns,
        )


def minute(n: int) -> datetime:
    return START + timedelta(minutes=n)


async def test_daily_questions(filled: Settings) -> None:
    assert len(QUESTIONS) == 5, "a question of the document is not asked here"
    premium = ask(filled, QUESTIONS["Premium by the minute"])
    assert premium == [
        (minute(0), 0.02, 140_000.0, 1400.0),
        (minute(1), None, None, 1400.0),
        (minute(2), 0.02, 140_002.0, 1400.0),
    ]

    trades = ask(filled, QUESTIONS["Trades beside the index"])
    assert len(trades) == 9
    by_id = {row[1]: row for row in trades}
    assert by_id[1][5:] == (140_000.0, pytest.approx(141_001 / 140_000 - 1))
    assert by_id[11][5] is None
    assert by_id[22][5:] == (140_002.0, pytest.approx(141_002 / 140_002 - 1))

    depth = ask(filled, QUESTIONS["Depth at 10, 25 and 50 bp"])
    for n, row in enumerate(depth):
        bid_10, ask_10, bid_25, ask_25, bid_50, ask_50 = row[1:]
        for found, levels, size in (
            (bid_10, 2, 1 + n),
            (ask_10, 2, 2 + n),
            (bid_25, 5, 1 + n),
            (ask_25, 5, 2 + n),
            (bid_50, 10, 1 + n),
            (ask_50, 10, 2 + n),
        ):
            assert found == levels * size, row
    assert len(depth) == 3

    assert ask(filled, QUESTIONS["Venue uptime"]) == [
        ("binance:DLY/USDT", pytest.approx(2 / 3), 18),
        ("upbit:DLY/KRW", 1.0, 18),
    ]
    assert ask(filled, QUESTIONS["Minutes without a value"]) == [(minute(1), 6)]


async def test_candles_go_by_trade_id_and_a_late_trade_changes_them(
    filled: Settings, tmp_path: Path
) -> None:
    candles = (
        "SELECT ts, open, high, low, close, volume, trades FROM trade_1m"
        f" WHERE market = '{LATE_MARKET}' ORDER BY ts"
    )
    assert query(filled, candles)[0] == (
        minute(0),
        141_001.0,
        141_003.0,
        141_001.0,
        141_003.0,
        3.0,
        3,
    )
    found = address(filled)
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    sender = Sender(Settings(data=tmp_path / "late", storage=storage), "late")
    sender.start()
    late_ns = START_NS + 5_000_000_000
    sender.row(
        "trade",
        symbols={"exchange": EXCHANGE, "market": LATE_MARKET, "side": "buy"},
        columns={"price": 142_000.0, "size": 1.0, "trade_id": 4},
        at_ns=late_ns,
    )
    assert await sender.close(60)
    late = (minute(0), 141_001.0, 142_000.0, 141_001.0, 142_000.0, 4.0, 4)
    await until(lambda: query(filled, candles)[0] == late, shown=lambda: query(filled, candles))
