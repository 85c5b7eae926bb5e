"""History from a real QuestDB through the endpoint."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from coinspace.config import Settings
from coinspace.endpoint.worker import Endpoint
from coinspace.storage import schema
from coinspace.storage.address import address
from tests.flow.endpoint_stage import running, settings

# an asset and times of our own on the shared server: 2026-01-01T00:00:00Z, a tick a second
ASSET = "HST"
START_MS = 1_767_225_600_000
TICKS = 130
Site = tuple[Endpoint, aiohttp.ClientSession]

_TICK = (
    "INSERT INTO index_tick (asset, status, reason, value, kr, gl, fx, fx_status, premium,"
    " n_used, siblings, flagged, method_version, parameter_hash, ts)"
    " VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)"
)


def fill(found: Any) -> None:
    """Store ticks (the 10th null, 60 to 69 missing), venues, books, trades, gaps."""
    with psycopg.connect(found.sql, autocommit=True) as connection:
        for second in [*range(60), *range(70, TICKS)]:
            value = None if second == 10 else 1000.0 + second
            ns = (START_MS + second * 1000) * 1_000_000
            status, reason = ("ok", None) if value else ("null", "too_few_venues")
            row = (ASSET, status, reason, value, 1.4e6, 1000.0, 1400.0, "ok", 0.001, 3)
            connection.execute(_TICK, (*row, "{}", "", 1, "abc", ns))
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


@pytest.fixture(scope="module")
def stored(questdb: Settings) -> Settings:
    found = address(questdb)
    schema.create(found, ttl=False)
    fill(found)
    deadline = time.monotonic() + 30
    with psycopg.connect(found.sql, autocommit=True) as connection:
        while True:
            ready = [
                connection.execute(f"SELECT count() FROM {table} WHERE {where}").fetchall()[0][0]
                for table, where in (
                    ("index_1s", f"asset='{ASSET}'"),
                    ("index_1m", f"asset='{ASSET}'"),
                    ("index_1h", f"asset='{ASSET}'"),
                    ("trade", "market='HST/KRW'"),
                    ("gap", "market='HST/KRW'"),
                    ("orderbook", "market='HST/KRW'"),
                )
            ]
            if ready == [TICKS - 10, 3, 1, 50, 7, 1]:
                return questdb
            assert time.monotonic() < deadline, ready
            time.sleep(0.1)


@pytest_asyncio.fixture
async def site(stored: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    async with on_database(stored, tmp_path) as found:
        yield found


def configured(stored: Settings, folder: Path) -> Settings:
    found = address(stored)
    chosen = settings(folder)
    chosen.index.assets = [ASSET, "ETH", "XRP", "SOL"]
    for name in ("upbit", "bithumb"):
        chosen.exchanges[name].markets = [*chosen.exchanges[name].markets, "HST/KRW"]
    chosen.storage.ilp, chosen.storage.sql = found.ilp, found.readonly_sql
    return chosen


class on_database:
    def __init__(self, stored: Settings, folder: Path) -> None:
        self._running = running(configured(stored, folder))

    async def __aenter__(self) -> Site:
        _, endpoint = await self._running.__aenter__()
        self._session = aiohttp.ClientSession(endpoint.server.url)
        return endpoint, self._session

    async def __aexit__(self, *error: Any) -> None:
        await self._session.close()
        await self._running.__aexit__(*error)


async def get(session: aiohttp.ClientSession, path: str, **more: Any) -> tuple[int, Any, Any]:
    async with session.get(path, **more) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


def window(seconds: int) -> str:
    return f"start={START_MS}&end={START_MS + seconds * 1000}"


async def test_values_are_half_open_and_paged(site: Site) -> None:
    path: str | None = f"/v1/indices/{ASSET}/values?{window(TICKS)}&limit=50"
    seen: list[int] = []
    pages = 0
    while path:
        status, body, _ = await get(site[1], path)
        assert status == 200, body
        seen += [one["ts"] for one in body["values"]]
        path, pages = body["next"], pages + 1
    expected = [START_MS + s * 1000 for s in (*range(60), *range(70, TICKS))]
    assert seen == expected
    assert pages == 3
    _, body, _ = await get(site[1], f"/v1/indices/{ASSET}/values?{window(11)}&limit=11")
    assert len(body["values"]) == 11
    assert body["next"] is None
    null = body["values"][10]
    assert (null["value"], null["status"], null["reason"]) == (None, "null", "too_few_venues")
    assert body["values"][9]["value"] == "1009"


async def test_times_are_epoch_ms_or_iso(site: Site) -> None:
    for start, end in (
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"),
        ("2026-01-01T09:00:00+09:00", str(START_MS + 5000)),
        (str(START_MS), "2026-01-01T00:00:05.000Z"),
    ):
        _, body, _ = await get(
            site[1], f"/v1/indices/{ASSET}/values?start={quote(start)}&end={quote(end)}"
        )
        assert len(body["values"]) == 5, start


@pytest.mark.parametrize(
    "query",
    [
        "start=5&end=4",
        "start=0&end=99999999999",
        "start=2026-01-01T00:00:00",
        "start=yesterday",
        "start=-5",
        "limit=1001",
        "limit=0",
        "cursor=%21%21",
        "cursor=kaFh",
        "cursor=" + "A" * 300,
        "cursor=gaFh",
        "cursor=kf8",
        "order=desc",
    ],
)
async def test_bad_ranges_and_cursors(site: Site, query: str) -> None:
    status, body, _ = await get(site[1], f"/v1/indices/{ASSET}/values?{query}")
    assert status == 400, body
    assert body["detail"]


async def test_candles_have_nulls_for_holes(site: Site) -> None:
    path = f"/v1/indices/{ASSET}/ohlc?interval=1s&{window(80)}"
    status, body, headers = await get(site[1], path)
    assert status == 200, body
    candles = {one["ts"]: one for one in body["candles"]}
    assert len(candles) == 80
    assert candles[START_MS]["open"] == "1000"
    assert candles[START_MS + 65_000] == {
        **dict.fromkeys(("open", "high", "low", "close", "kr", "gl", "premium", "fx")),
        "ts": START_MS + 65_000,
        "ticks": 0,
        "valid": 0,
        "closed": True,
    }
    null = candles[START_MS + 10_000]
    assert (null["close"], null["ticks"], null["valid"]) == (None, 1, 0)
    assert "immutable" in headers["Cache-Control"]
    async with site[1].get(path, headers={"If-None-Match": headers["ETag"]}) as answer:
        assert answer.status == 304
        assert await answer.read() == b""


@pytest.mark.parametrize(
    ("interval", "first"),
    [
        ("1m", ("1000", "1059", "1000", "1059", 60)),
        ("5m", ("1000", "1129", "1000", "1129", 120)),
        ("1h", ("1000", "1129", "1000", "1129", 120)),
        ("1d", ("1000", "1129", "1000", "1129", 120)),
    ],
)
async def test_candles_of_each_interval(site: Site, interval: str, first: tuple[Any, ...]) -> None:
    _, body, _ = await get(site[1], f"/v1/indices/{ASSET}/ohlc?interval={interval}&{window(60)}")
    candle = body["candles"][0]
    assert tuple(candle[key] for key in ("open", "high", "low", "close", "ticks")) == first
    assert (candle["kr"], candle["premium"], candle["fx"]) == ("1400000", "0.001", "1400")


async def test_unsettled_candles_are_not_cached(site: Site) -> None:
    _, body, headers = await get(site[1], f"/v1/indices/{ASSET}/ohlc?interval=1m&limit=3")
    assert "immutable" not in headers["Cache-Control"]
    assert body["candles"][-1]["closed"] is False


async def test_candle_pages(site: Site) -> None:
    path: str | None = f"/v1/indices/{ASSET}/ohlc?interval=1s&{window(25)}&limit=10"
    sizes = []
    while path:
        _, body, _ = await get(site[1], path)
        sizes.append(len(body["candles"]))
        path = body["next"]
    assert sizes == [10, 10, 5]


async def test_explain_a_stored_tick(site: Site) -> None:
    _, body, _ = await get(site[1], f"/v1/indices/{ASSET}/explain?ts={START_MS}")
    assert body["live"] is False
    assert body["index"]["value"] == "1000"
    assert [one["venue"] for one in body["used"]] == ["upbit:HST/KRW"]
    assert [(one["venue"], one["reason"]) for one in body["excluded"]] == [("x:HST/USDT", "frozen")]
    assert body["inputs"]["upbit:HST/KRW"]["sequence"] == "6"
    status, body, _ = await get(site[1], f"/v1/indices/{ASSET}/explain?ts=86400000")
    assert (status, body["type"]) == (404, "urn:coinspace:problem:no-data")
    _, body, _ = await get(site[1], f"/v1/indices/{ASSET}/explain")
    assert body["live"] is True


async def test_trades_of_several_exchanges_are_paged_without_loss(site: Site) -> None:
    path: str | None = f"/v1/trades?market=HST/KRW&{window(60)}&limit=3"
    seen = []
    while path:
        status, body, _ = await get(site[1], path)
        assert status == 200, body
        seen += [(one["ts"], one["exchange"], one["trade_id"]) for one in body["trades"]]
        path = body["next"]
    assert len(seen) == len(set(seen)) == 50
    assert body["trades"][0]["size"] == "0.00001"


async def test_gaps_are_paged_newest_first(site: Site) -> None:
    path: str | None = f"/v1/gaps?market=HST/KRW&{window(1)}&limit=2"
    seen = []
    while path:
        _, body, _ = await get(site[1], path)
        seen += [(one["ts"], one["first"]) for one in body["gaps"]]
        path = body["next"]
    assert len(seen) == len(set(seen)) == 7
    assert [ts for ts, _ in seen] == sorted((ts for ts, _ in seen), reverse=True)


async def test_past_book(site: Site) -> None:
    path = f"/v1/orderbooks/upbit/HST/KRW?at={START_MS + 500}"
    _, body, _ = await get(site[1], path)
    assert body["bids"] == [["10", "1"], ["9", "2"]]
    assert body["asks"] == [["11", "0.0000001"]]
    assert (body["age_ms"], body["status"]) == (500, "stored")
    status, _, _ = await get(site[1], f"/v1/orderbooks/upbit/HST/KRW?at={START_MS - 1}")
    assert status == 404


async def test_bulk_formats_carry_the_whole_range(site: Site) -> None:
    path = f"/v1/indices/{ASSET}/values?{window(TICKS)}"

    async def fetch(accept: str, address: str = path) -> bytes:
        async with site[1].get(address, headers={"Accept": accept}) as answer:
            assert answer.status == 200
            assert answer.content_type == accept.split(";")[0]
            return await answer.read()

    rows = list(csv.DictReader(io.StringIO((await fetch("text/csv")).decode())))
    assert len(rows) == TICKS - 10
    assert (rows[0]["ts"], rows[0]["value"], rows[10]["value"]) == (str(START_MS), "1000", "")
    table = pa.ipc.open_stream(await fetch("application/vnd.apache.arrow.stream")).read_all()
    assert table.num_rows == TICKS - 10
    assert table["value"][10].as_py() is None
    parquet = pq.read_table(io.BytesIO(await fetch("application/vnd.apache.parquet")))
    assert parquet.equals(table)
    candles = await fetch("text/csv", f"/v1/indices/{ASSET}/ohlc?interval=1s&{window(80)}")
    assert len(candles.splitlines()) == 81
    trades = await fetch("text/csv", f"/v1/trades?market=HST/KRW&{window(60)}")
    assert len(trades.splitlines()) == 51
    async with site[1].get(path, headers={"Accept": "image/png"}) as answer:
        assert answer.status == 406


INJECTIONS = [
    "' OR 1=1 --",
    "BTC'; DROP TABLE index_tick; --",
    "1 UNION SELECT * FROM trade",
    "\\'; SELECT 1",
    "%00",
    "${1+1}",
    "x" * 500,
]


@pytest.mark.parametrize("text", INJECTIONS)
async def test_injection_in_every_parameter_reaches_no_sql(site: Site, text: str) -> None:
    endpoint, session = site
    document = (await get(session, "/openapi.json"))[1]
    before = endpoint.database.failures
    for path, methods in document["paths"].items():
        if path == "/v1/stream":
            continue
        parameters = [one for one in methods["get"]["parameters"] if one["in"] != "header"]
        for attacked in parameters:
            filled, query = path, ""
            for one in parameters:
                good = {"asset": ASSET, "exchange": "upbit", "base": "HST", "quote": "KRW"}
                value = text if one is attacked else good.get(one["name"])
                if one["in"] == "path":
                    filled = filled.replace("{" + one["name"] + "}", quote(value or "", safe=""))
                elif one is attacked:
                    query = f"?{one['name']}={quote(text, safe='')}"
            status, body, _ = await get(session, filled + query)
            assert status in (200, 400, 404), (filled, query, body)
            if status == 200:
                # a free text that matched nothing
                assert not any(body.get(key) for key in ("trades", "gaps")), (filled, query)
    assert endpoint.database.failures == before
    _, body, _ = await get(session, f"/v1/indices/{ASSET}/values?{window(TICKS)}&limit=1000")
    assert len(body["values"]) == TICKS - 10


async def test_the_database_user_can_only_read(site: Site) -> None:
    async with site[0].database.connection() as connection:
        with pytest.raises(psycopg.Error, match=r"(?i)read-only|readonly|denied|permission"):
            await connection.execute("DROP TABLE index_tick")


async def test_database_down(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    chosen.storage.ilp = "http::addr=127.0.0.1:1;"
    chosen.storage.sql = "postgresql://user:secret@127.0.0.1:1/qdb"
    async with (
        running(chosen) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        status, body, headers = await get(session, "/v1/indices/BTC/values")
        assert (status, body["type"]) == (503, "urn:coinspace:problem:database-unavailable")
        assert int(headers["Retry-After"]) > 0
        assert "secret" not in str(body)
        started = time.monotonic()
        await asyncio.gather(*(get(session, "/v1/indices/BTC/ohlc") for _ in range(50)))
        assert time.monotonic() - started < 5
        status, body, _ = await get(session, "/v1/indices/BTC")
        assert status == 200
        assert body["age_ms"] >= 0
        _, body, _ = await get(session, "/v1/methodology")
        assert body["announced"] is None
        assert body["definitions"][0]["parameters"]["max_spread"] == 0.005
