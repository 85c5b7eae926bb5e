"""History from a real QuestDB through the endpoint."""

from __future__ import annotations

import asyncio
import csv
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio

from coinspace.client import AsyncClient, ConnectionLost
from coinspace.clock import MILLISECOND_NS
from coinspace.config import Settings
from coinspace.endpoint.history import bulk
from coinspace.endpoint.live.premium_stats import PremiumStats
from coinspace.endpoint.live.state import Live
from coinspace.storage.questdb.address import address
from tests.flow.database import applied
from tests.flow.endpoint_stage import running, settings
from tests.flow.line import Line
from tests.flow.stored_history import (
    ASSET,
    START_MS,
    TICKS,
    Site,
    configured,
    history_site,
    store_history,
)
from tests.waiting import until


@pytest.fixture(scope="module")
def stored(questdb: Settings) -> Settings:
    return store_history(questdb)


@pytest_asyncio.fixture
async def site(stored: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    async with history_site(stored, tmp_path) as found:
        yield found


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
    assert (null["value"], null["status"], null["reason"]) == (None, "no_value", "too_few_venues")
    assert body["values"][9]["value"] == "1009"


async def test_the_statistics_of_a_premium_begin_with_the_stored_rows(site: Site) -> None:
    """The last tick is of second 129: two minutes and the running one, one hour."""
    now_ms = START_MS + TICKS * 1000
    stats = PremiumStats(Live(lambda: now_ms * MILLISECOND_NS), [ASSET])
    await stats.load(site[0].database)
    fiat = stats.of(ASSET)["fiat"]
    day, week = fiat.statistics("24h"), fiat.statistics("7d")
    assert (day.samples, day.high, day.low) == (3, 0.00329, 0.00259)
    assert day.mean == pytest.approx((0.00259 + 0.00319 + 0.00329) / 3)
    assert (week.samples, week.high) == (1, 0.00329)
    # the changes of minutes have the premium of each 5 s
    backs = (0, 1, 11, 12, 13, 14)
    expected = [329_000, 324_000, 274_000, None, None, 259_000]
    assert [fiat.seconds.at(back) for back in backs] == expected
    coin = stats.of(ASSET)["coin"].statistics("1h")
    assert (coin.samples, coin.high, coin.low, coin.deviation) == (3, 0.001, 0.001, 0)
    assert stats.usdt.statistics("24h").high == 0.000999


async def test_stored_premiums_on_every_basis(site: Site) -> None:
    _, page, _ = await get(site[1], f"/v1/premium/{ASSET}/values?{window(11)}&limit=3")
    assert page["values"][1] == {
        "ts": START_MS + 1000, "status": "ok", "reason": None, "coin": "0.001", "fiat": "0.00201",
        "usdt": "0.000999", "kr": "1400000", "gl": "1000", "fx": "1400", "fx_status": "ok",
    }  # fmt: skip
    _, page, _ = await get(site[1], page["next"])
    assert [one["fiat"] for one in page["values"]] == ["0.00203", "0.00204", "0.00205"]
    _, page, _ = await get(site[1], f"/v1/premium/usdt/values?{window(2)}")
    (first, _) = page["values"]
    assert (first["coin"], first["fiat"], first["kr"]) == (None, "0.000999", None)
    async with site[1].get(
        f"/v1/premium/{ASSET}/values?{window(11)}", headers={"Accept": "text/csv"}
    ) as answer:
        lines = (await answer.text()).splitlines()
    assert len(lines) == 12
    assert lines[2].split(",")[3:6] == ["0.001", "0.00201", "0.000999"]


async def test_candles_of_a_premium(site: Site) -> None:
    path = f"/v1/premium/{ASSET}/ohlc"
    _, page, headers = await get(site[1], f"{path}?basis=fiat&{window(240)}")
    first, *_, last = page["candles"]
    assert len(page["candles"]) == 4
    assert first == {
        "ts": START_MS, "open": "0.002", "high": "0.00259", "low": "0.002", "close": "0.00259",
        "kr": "1400000", "gl": "1000", "fx": "1400", "ticks": 60, "valid": 60, "closed": True,
    }  # fmt: skip
    assert (last["open"], last["ticks"], last["valid"]) == (None, 0, 0)
    async with site[1].get(
        f"{path}?basis=fiat&{window(240)}", headers={"If-None-Match": headers["etag"]}
    ) as answer:
        assert answer.status == 304
    for interval in ("5m", "1h", "1d"):
        _, page, _ = await get(site[1], f"{path}?interval={interval}&basis=fiat&{window(1)}")
        (one,) = page["candles"]
        assert (one["open"], one["high"], one["close"]) == ("0.002", "0.00329", "0.00329")
        assert one["valid"] == TICKS - 10
    _, page, _ = await get(site[1], f"/v1/premium/usdt/ohlc?interval=1h&{window(1)}")
    assert (page["basis"], page["candles"][0]["close"]) == ("fiat", "0.000999")
    # 90 days without a row
    start = START_MS - 90 * 86_400_000
    _, page, _ = await get(site[1], f"{path}?interval=1d&start={start}&end={START_MS}")
    assert {one["close"] for one in page["candles"]} == {None}
    assert len(page["candles"]) == 90
    for bad in ("interval=1s", "basis=usdt", "limit=0", "start=5&end=4", "cursor=x", "size=1"):
        status, body, _ = await get(site[1], f"{path}?{bad}")
        assert (status, body["status"]) == (400, 400), bad
    for bad in ("/v1/premium/usdt/ohlc?basis=coin", "/v1/premium/usdt/values?limit=nan"):
        status, _, _ = await get(site[1], bad)
        assert status == 400, bad
    for rest in ("values", "ohlc", "stats"):
        status, body, _ = await get(site[1], f"/v1/premium/NONE/{rest}")
        assert (status, body["type"]) == (404, "urn:coinspace:problem:unknown-asset")


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


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/indices/{ASSET}/values?start={START_MS // 1000}",
        f"/v1/indices/{ASSET}/ohlc?end={START_MS // 1000}",
        f"/v1/indices/{ASSET}/explain?ts={START_MS // 1000}",
        f"/v1/trades?start={START_MS // 1000}",
        f"/v1/gaps?start={START_MS // 1000}",
    ],
)
async def test_times_in_seconds_are_refused_with_the_milliseconds(site: Site, path: str) -> None:
    status, body, _ = await get(site[1], path)
    assert status == 400, body
    assert f"did you mean milliseconds, {START_MS}?" in body["detail"]


async def test_candles_have_nulls_for_intervals_without_values(site: Site) -> None:
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


async def stream_refuses_or_begins(
    session: aiohttp.ClientSession, path: str, headers: dict[str, str]
) -> None:
    async with session.get(path, headers=headers) as answer:
        if answer.status == 200:
            # no stream can be resumed from this text: a gap is announced
            assert "indices=" in path
            while b"event: gap" not in (line := await answer.content.readline()):
                assert line, "no gap was announced"
        else:
            assert answer.status in (400, 404), path


@pytest.mark.parametrize("text", INJECTIONS)
async def test_injection_in_every_parameter_reaches_no_sql(site: Site, text: str) -> None:
    endpoint, session = site
    document = (await get(session, "/openapi.json"))[1]
    before = endpoint.database.failures
    for path, methods in document["paths"].items():
        for attacked in methods["get"]["parameters"]:
            filled, query, headers = path, "", {}
            for one in methods["get"]["parameters"]:
                good = {"asset": ASSET, "exchange": "upbit", "base": "HST", "quote": "KRW"}
                value = text if one is attacked else good.get(one["name"])
                if one["in"] == "path":
                    filled = filled.replace("{" + one["name"] + "}", quote(value or "", safe=""))
                elif one is attacked:
                    if one["in"] == "header":
                        headers[one["name"]] = text
                    else:
                        query = f"?{one['name']}={quote(text, safe='')}"
            if path == "/v1/stream":
                if attacked["in"] == "header" or attacked["name"] == "last_event_id":
                    query += f"{'&' if query else '?'}indices={ASSET}"
                await stream_refuses_or_begins(session, filled + query, headers)
                continue
            status, body, _ = await get(session, filled + query, headers=headers)
            assert status in (200, 400, 404, 426), (filled, query, body)
            if status == 200 and attacked["in"] != "header":
                # a free text without a match
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
        # none waits until the others have tried
        async with asyncio.timeout(60):
            answers = await asyncio.gather(
                *(get(session, "/v1/indices/BTC/ohlc") for _ in range(50))
            )
        assert {status for status, _, _ in answers} == {503}
        status, body, _ = await get(session, "/v1/indices/BTC")
        assert status == 200
        assert body["age_ms"] >= 0
        _, body, _ = await get(session, "/v1/methodology")
        assert body["announced"] is None
        assert body["definitions"][0]["parameters"]["max_spread"] == 0.005


@asynccontextmanager
async def behind_a_line(chosen: Settings) -> AsyncIterator[tuple[Line, Site]]:
    line = Line(chosen.storage.readonly_sql)
    await line.open()
    chosen.storage.readonly_sql = line.url
    try:
        async with (
            running(chosen) as (_, endpoint),
            aiohttp.ClientSession(endpoint.server.url) as session,
        ):
            yield line, (endpoint, session)
    finally:
        await line.cut()


async def test_a_database_that_goes_away_and_comes_back(stored: Settings, tmp_path: Path) -> None:
    async with behind_a_line(configured(stored, tmp_path)) as (line, (_, session)):
        path = f"/v1/indices/{ASSET}/values?{window(5)}"
        assert (await get(session, path))[0] == 200
        await line.cut()
        status, body, headers = await get(session, path)
        assert (status, body["type"]) == (503, "urn:coinspace:problem:database-unavailable")
        assert int(headers["Retry-After"]) > 0
        # the bus's values are still served, with their age
        ages = []
        for _ in range(2):
            status, body, _ = await get(session, f"/v1/indices/{ASSET}")
            assert (status, body["value"]) == (200, "100004.45")
            ages.append(body["age_ms"])
            await asyncio.sleep(0.05)
        assert ages[1] > ages[0]
        status, body, _ = await get(session, "/readyz")
        assert status == 503
        assert "the database cannot be reached" in body["reasons"]
        await line.open()

        async def answered() -> bool:
            return (await get(session, path))[0] == 200

        # the endpoint asks again a second after a failure
        await until(answered)


# an asset of its own, far more rows than a socket holds
LONG, LONG_TICKS = "LNG", 200_000


@pytest.fixture(scope="module")
def long_history(stored: Settings) -> Settings:
    first_ns = START_MS * 10**6
    with psycopg.connect(address(stored).sql, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO index_tick (asset, status, value, ts)"
            f" SELECT '{LONG}', 'ok', 1000.0 + x, ({first_ns} + x * 200000000)::timestamp_ns"
            f" FROM long_sequence({LONG_TICKS})".encode()
        )
    applied(stored)
    return stored


LONG_PATH = f"/v1/indices/{LONG}/values?start={START_MS}&end={START_MS + LONG_TICKS * 200 + 1000}"


def long_settings(stored: Settings, folder: Path) -> Settings:
    chosen = configured(stored, folder)
    chosen.index.assets = [LONG]
    return chosen


@pytest.mark.parametrize("media", ["text/csv", "application/vnd.apache.arrow.stream"])
async def test_a_long_range_waits_for_its_reader(
    long_history: Settings, tmp_path: Path, media: str
) -> None:
    async with running(long_settings(long_history, tmp_path)) as (_, endpoint):
        # small buffers at both ends: otherwise the kernel would keep megabytes
        endpoint.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client = socket.create_connection(("127.0.0.1", endpoint.server.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        reader, writer = await asyncio.open_connection(sock=client)
        before, pages = endpoint.database.queries, LONG_TICKS // bulk.PAGE_ROWS
        request = (
            f"GET {LONG_PATH} HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: {media}\r\nConnection: close\r\n\r\n"
        )
        try:
            writer.write(request.encode())
            # nothing is read: no more pages may be read from the database
            asked, quiet = -1, 0
            async with asyncio.timeout(60):
                while quiet < 5:
                    await asyncio.sleep(0.1)
                    quiet = quiet + 1 if endpoint.database.queries == asked else 0
                    asked = endpoint.database.queries
            assert asked - before < pages / 2
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            body = await reader.read()
        finally:
            writer.close()
        if media == "text/csv":
            assert body.count(b"\n") >= LONG_TICKS + 1
        assert endpoint.database.queries - before >= pages


async def test_downloads_are_bounded_and_end_with_their_clients(
    long_history: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WAIT_S", 0.2)
    chosen = long_settings(long_history, tmp_path)
    chosen.endpoint.downloads = chosen.endpoint.connections = 1
    async with (
        running(chosen) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        endpoint.server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        accept = {"Accept": "text/csv"}
        async with session.get(LONG_PATH, headers=accept) as held:
            await held.content.readuntil(b"\n")
            async with session.get(LONG_PATH, headers=accept) as refused:
                assert refused.status == 503
                assert int(refused.headers["Retry-After"]) > 0
                problem = await refused.json(content_type=None)
                assert problem["type"].endswith("too-many-downloads")
            # a reader that stops keeps no connection of the database
            async with session.get(LONG_PATH) as page:
                assert page.status == 200
            await until(lambda: len(endpoint.server.tasks) == 1)
            held.close()
        await until(lambda: not len(endpoint.server.tasks))
        # a download ends at its time limit, however slowly it is read
        endpoint.context.downloads.timeout_s = 3.0
        async with session.get(LONG_PATH, headers=accept) as slow:
            assert slow.status == 200
            await until(lambda: endpoint.server.late == 1)
            with pytest.raises(aiohttp.ClientError):
                await slow.read()
        assert endpoint.server.late == 1


async def test_an_interrupted_range_does_not_look_complete(
    long_history: Settings, tmp_path: Path
) -> None:
    async with (
        behind_a_line(long_settings(long_history, tmp_path)) as (line, (endpoint, _)),
        AsyncClient(endpoint.server.url) as client,
    ):
        parts = client.chunks(LONG_PATH, accept="text/csv")
        assert (await anext(parts)).startswith(b"ts,status")
        await line.cut()
        with pytest.raises(ConnectionLost):
            async for _ in parts:
                pass
