"""History of an asset of our own on the shared QuestDB, and an endpoint that reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg

from coinspace.config import Settings
from coinspace.endpoint.worker import Endpoint
from coinspace.storage.questdb.address import address
from tests.flow.database import applied, query, whole
from tests.flow.endpoint_stage import running, settings
from tests.waiting import wait_for

# an asset and times of our own on the shared server: 2026-01-01T00:00:00Z, a tick a second
ASSET = "HST"
START_MS = 1_767_225_600_000
TICKS = 130
Site = tuple[Endpoint, aiohttp.ClientSession]

_TICK = (
    "INSERT INTO index_tick (asset, status, reason, value, kr, gl, fx, fx_status, premium,"
    " premium_a, premium_c, n_used, siblings, flagged, method_version, parameter_hash, ts)"
    " VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
)


def fill(found: Any) -> None:
    """Store ticks (the 10th null, 60 to 69 missing), venues, books, trades, gaps."""
    with psycopg.connect(found.sql, autocommit=True) as connection:
        for second in [*range(60), *range(70, TICKS)]:
            value = None if second == 10 else 1000.0 + second
            ns = (START_MS + second * 1000) * 1_000_000
            status, reason = ("ok", None) if value else ("null", "too_few_venues")
            row = (ASSET, status, reason, value, 1.4e6, 1000.0, 1400.0, "ok")
            # against USDT, against USD, of USDT
            premiums = (0.001, 0.002 + second / 1e5, 0.000999)
            connection.execute(_TICK, (*row, *premiums, 3, "{}", "", 1, "abc", ns))
        for venue, used, reason in (("upbit:HST/KRW", True, None), ("x:HST/USDT", False, "frozen")):
            connection.execute(
                "INSERT INTO index_venue (asset, role, venue, mid, age_ms, used, reason, share,"
                " publisher, epoch, seq, received_ts, ts) VALUES (%s,'constituent',%s,1000.5,12,%s,"
                "%s,%s,'p',5,6,%s,%s)",
                (ASSET, venue, used, reason, float(used), START_MS * 10**6, START_MS * 10**6),
            )
        for number in range(25):
            # five trades at each instant, on two exchanges with the same ids
            for exchange in ("upbit", "bithumb"):
                connection.execute(
                    "INSERT INTO trade (exchange, market, side, price, size, trade_id, ts)"
                    " VALUES (%s,'HST/KRW','sell',1400000.0,0.00001,%s,%s)",
                    (exchange, number, (START_MS + number // 5 * 1000) * 10**6),
                )
        for number in range(7):
            connection.execute(
                "INSERT INTO gap (kind, publisher, exchange, market, status, reason, epoch, first,"
                " last, count, ts)"
                " VALUES ('trade','p','upbit','HST/KRW','lost','bus',1,%s,%s,1,%s)",
                (number, number, (START_MS + number // 3) * 10**6),
            )
        connection.execute(
            "INSERT INTO orderbook (exchange, market, bids, asks, ts) VALUES ('upbit','HST/KRW',"
            "ARRAY[[10.0,9.0],[1.0,2.0]],ARRAY[[11.0],[0.0000001]],%s)",
            (START_MS * 10**6,),
        )


def store_history(questdb: Settings) -> Settings:
    """Store it, which changes nothing the second time, and wait until the views contain it."""
    whole(questdb)
    fill(address(questdb))
    applied(questdb)
    views = ("index_1s", "index_1m", "index_1h", "premium_1m", "premium_1h")
    sums = [f"SELECT count(), sum(ticks) FROM {view} WHERE asset='{ASSET}'" for view in views]
    wait_for(
        lambda: (
            [query(questdb, text)[0] for text in sums]
            == [(rows, TICKS - 10) for rows in (TICKS - 10, 3, 1, 3, 1)]
        ),
        "the views",
        shown=lambda: [query(questdb, text) for text in sums],
    )
    return questdb


def configured(stored: Settings, folder: Path) -> Settings:
    """Return settings with their own data folder on the stored history."""
    found = address(stored)
    chosen = settings(folder)
    chosen.index.assets = [ASSET, "ETH", "XRP", "SOL"]
    for name in ("upbit", "bithumb"):
        chosen.exchanges[name].markets = [*chosen.exchanges[name].markets, "HST/KRW"]
    chosen.storage.ilp, chosen.storage.sql = found.ilp, found.sql
    chosen.storage.readonly_sql = found.readonly_sql
    return chosen


@asynccontextmanager
async def history_site(stored: Settings, folder: Path) -> AsyncIterator[Site]:
    """Run an endpoint on the stored history."""
    async with (
        running(configured(stored, folder)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        yield endpoint, session
