"""The endpoint on a real bus, asked over real sockets."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
import pytest_asyncio

from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.endpoint.worker import Endpoint
from coinspace.exchanges import every
from coinspace.method.record import PremiumRecord
from tests.flow.endpoint_stage import Stage, running, settings
from tests.waiting import until

Site = tuple[Stage, Endpoint, aiohttp.ClientSession]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with (
        running(settings(tmp_path)) as (stage, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        yield stage, endpoint, session


async def get(session: aiohttp.ClientSession, path: str, **more: Any) -> tuple[int, Any, Any]:
    async with session.get(path, **more) as answer:
        kind = answer.content_type
        body = await answer.json(content_type=None) if "json" in kind else await answer.text()
        return answer.status, body, answer.headers


async def test_latest_value_has_status_age_and_constituents(site: Site) -> None:
    stage, _, session = site

    async def fresh() -> tuple[Any, Any] | None:
        stage.publish_index("BTC")
        status, body, headers = await get(session, "/v1/indices/BTC")
        assert status == 200
        return (body, headers) if 0 <= body["age_ms"] < 3000 and not body["stale"] else None

    body, headers = await until(fresh)
    assert body["value"] == "100004.45"
    assert body["status"] == "ok"
    assert body["stale"] is False
    shares = {one["venue"]: one["share"] for one in body["constituents"]}
    assert shares == {"upbit:BTC/KRW": "0.3", "bithumb:BTC/KRW": "0.2", "binance:BTC/USDT": "0.5"}
    assert body["premium"]["coin"] == "0.0000145"
    assert body["kr"]["currency"] == "KRW"
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


async def test_null_value_is_null_with_its_reason(site: Site) -> None:
    stage, endpoint, session = site
    stage.publish_index("ETH", None)
    await until(lambda: endpoint.live.indices["ETH"].record.value is None)
    _, body, _ = await get(session, "/v1/indices/ETH")
    assert (body["value"], body["status"], body["reason"]) == (None, "no_value", "too_few_venues")


async def test_summed_book_has_each_venues_size_and_the_depth_asked_for(site: Site) -> None:
    _, body, _ = await get(site[2], "/v1/orderbooks/BTC?levels=3&within=0.3")
    # venues in the order of their names: binance, bithumb, upbit
    assert [(one["price"], one["size"]) for one in body["bids"]] == [
        ("100000", "2"),
        ("99999", "0.25"),
        ("99998", "0.5"),
    ]
    assert body["asks"][0]["venues"] == [
        {"venue": "upbit:BTC/KRW", "size": "0.5", "grouped": False}
    ]
    depth = {one["within_percent"]: (one["bid"], one["ask"]) for one in body["depth"]}
    assert depth["0.1"] == ("2.75", "2.75")
    assert depth["0.3"] == ("32.75", "32.75")
    assert list(depth) == sorted(depth, key=float)
    for bad in ("0", "-1", "51", "nan", "inf", "1e999", "half"):
        status, body, _ = await get(site[2], f"/v1/orderbooks/BTC?within={bad}")
        assert (status, body["type"]) == (400, "urn:coinspace:problem:invalid-parameter"), bad


async def test_executable_premium_at_a_size(site: Site) -> None:
    _, body, _ = await get(site[2], "/v1/premium/BTC")
    assert [one["size"] for one in body["premium"]["executable"]] == ["1"]
    _, body, _ = await get(site[2], "/v1/premium/BTC?size=0.5")
    (row,) = body["premium"]["executable"]
    # sell 0.25 at 99,999 and 0.25 at 99,998 in Korea, buy at 100,010 abroad; the other way round
    assert row["size"] == "0.5"
    assert float(row["sell_kr"]) == pytest.approx(99_998.5 / 100_010 - 1, abs=1e-8)
    assert float(row["buy_kr"]) == pytest.approx(100_008 / 100_000 - 1, abs=1e-8)
    _, body, _ = await get(site[2], "/v1/premium/BTC?size=1000")
    assert body["premium"]["executable"] == [{"size": "1000", "sell_kr": None, "buy_kr": None}]
    for bad in ("0", "-1", "nan", "inf", "one"):
        status, _, _ = await get(site[2], f"/v1/premium/BTC?size={bad}")
        assert status == 400, bad


async def test_what_a_trade_of_the_premium_leaves(site: Site) -> None:
    _, body, _ = await get(site[2], "/v1/premium/BTC")
    trades = body["trades"]
    assert {one["venue"]: one["region"] for one in trades["venues"]} == {
        "upbit:BTC/KRW": "KR", "bithumb:BTC/KRW": "KR", "binance:BTC/USDT": "GL",
    }  # fmt: skip
    assert [one["direction"] for one in trades["directions"]] == ["sell_kr", "buy_kr"]
    for one in trades["directions"]:
        sizes = [size["size_krw"] for size in one["sizes"]]
        assert sizes == ["1000000", "10000000", "100000000", "1000000000"]
        # the books are 0.01 % wide, the fees are more
        assert one["none_left_krw"] == "0"
        assert float(one["sizes"][0]["coin"]) < -0.001
    assert body["trade"]["size_krw"] == "10000000"
    status, body, _ = await get(site[2], "/v1/premium/BTC/stats")
    assert status == 200
    assert [one["window"] for one in body["coin"]["windows"]] == ["1h", "24h", "7d", "30d", "90d"]
    assert body["coin"]["windows"][0]["samples"] >= 1
    assert body["fiat"]["premium"] is None
    status, body, _ = await get(site[2], "/v1/premium/USDT/stats")
    assert (status, body["coin"], body["fiat"]["premium"]) == (200, None, None)
    for path in ("/v1/premium/NONE/stats", "/v1/premium/NONE", "/v1/premium/USDT"):
        status, body, _ = await get(site[2], path)
        assert (status, body["type"]) == (404, "urn:coinspace:problem:unknown-asset")


async def test_all_premiums_in_the_order_asked_for(site: Site) -> None:
    stage, endpoint, session = site
    for asset, coin in (("BTC", 0.01), ("ETH", -0.002), ("XRP", 0.03)):
        parts = PremiumRecord(None, coin, None)
        stage.publish_index(asset, premium=coin, premium_parts=parts)
    stage.publish_index("SOL", None, premium=None, premium_parts=None)

    async def arrived() -> bool:
        latest = endpoint.live.indices
        return latest["SOL"].value.premium is None and latest["XRP"].premium("coin") == 0.03

    await until(arrived)

    async def assets(query: str = "") -> list[str]:
        status, body, _ = await get(session, f"/v1/premiums?{query}")
        assert status == 200, body
        return [one["asset"] for one in body["premiums"]]

    _, body, _ = await get(session, "/v1/premiums")
    assert [one["premium"]["coin"] for one in body["premiums"]] == ["0.03", "0.01", "-0.002"]
    assert body["missing"] == ["SOL"]
    assert body["premiums"][0]["kr"]["currency"] == "KRW"
    assert await assets("order=asc") == ["ETH", "BTC", "XRP"]
    assert await assets("sort=asset") == ["BTC", "ETH", "XRP"]
    assert await assets("sort=asset&order=desc&min=0") == ["XRP", "BTC"]
    assert await assets("max=0.01") == ["BTC", "ETH"]
    assert await assets("assets=xrp, sol,XRP") == ["XRP"]
    assert await assets("search=b") == ["BTC"]
    assert await assets("search=none") == []
    assert await assets("basis=fiat&min=0") == []
    assert await assets("sort=percentile&window=7d&limit=2") == ["BTC", "ETH"]
    _, body, _ = await get(session, "/v1/premiums?spark=true&limit=1")
    (one,) = body["premiums"]
    assert (one["rank"], one["same_coin"], len(one["spark"])) == (1, "known", 48)
    assert one["spark"][-1] == 0.03
    assert one["stats"]["coin"]["percentile_90d"] == "1"
    assert body["usdt"] is None
    assert body["fees"].keys() == {one.NAME for one in every() if hasattr(one, "TAKER_FEE")}
    # as after a long silence of the calculator
    for latest in endpoint.live.indices.values():
        latest.heard_ns = 0
    assert await assets("stale=false") == []
    assert len(await assets("stale=true&sort=age")) == 3
    for bad in (
        "min=x",
        "min=nan",
        "sort=name",
        "order=up",
        "stale=maybe",
        "limit=0",
        "limit=1001",
        "window=2h",
        "basis=usd",
        "spark=2",
        f"search={'x' * 21}",
        "sort=z",
    ):
        status, body, _ = await get(session, f"/v1/premiums?{bad}")
        assert (status, body["parameter"]) == (400, bad.partition("=")[0]), bad
    status, body, _ = await get(session, "/v1/premiums?assets=BTC,NONE")
    assert (status, body["type"]) == (404, "urn:coinspace:problem:unknown-asset")


async def test_assets_and_markets(site: Site) -> None:
    stage, _, session = site
    _, body, _ = await get(session, "/v1/assets")
    found = {one["asset"]: one for one in body["assets"]}
    assert list(found) == sorted(found)
    bitcoin = found["BTC"]
    assert (bitcoin["index"], bitcoin["status"], bitcoin["quotes"]) == (True, "ok", ["KRW", "USDT"])
    assert bitcoin["exchanges"] == ["upbit", "bithumb", "binance"]
    assert bitcoin["markets"] == ["upbit:BTC/KRW", "bithumb:BTC/KRW", "binance:BTC/USDT"]
    # collected for the rate alone
    rate = {"index": False, "status": None, "stale": None, "quotes": ["KRW"]}
    assert rate.items() <= found["USDT"].items()

    _, body, _ = await get(session, "/v1/markets")
    markets = {one["venue"]: one for one in body["markets"]}
    assert set(markets) == {name for one in found.values() for name in one["markets"]}
    market = markets["upbit:BTC/KRW"]
    assert market["state"] == "synced"
    assert market["base"] == market["asset"] == "BTC"
    assert market["index"]
    assert not markets["upbit:USDT/KRW"]["index"]
    assert market["depth"] == stage.settings.exchanges["upbit"].depth
    for name in ("book_ts", "ticker_ts", "trade_ts"):
        assert 0 <= body["ts"] - market[name] < 3_600_000
        assert markets["binance:BTC/USDT"][name] is None
    assert markets["binance:BTC/USDT"]["state"] == "unknown"
    _, body, _ = await get(session, "/v1/markets?exchange=UPBIT&asset=btc")
    assert [one["venue"] for one in body["markets"]] == ["upbit:BTC/KRW"]
    _, body, _ = await get(session, "/v1/markets?quote=usdt")
    assert {one["quote"] for one in body["markets"]} == {"USDT"}
    status, body, _ = await get(session, "/v1/markets?exchange=krakatoa")
    assert (status, body["type"]) == (404, "urn:coinspace:problem:unknown-market")


async def test_all_indices(site: Site) -> None:
    _, body, _ = await get(site[2], "/v1/indices")
    assert [one["asset"] for one in body["indices"]] == ["BTC", "ETH", "XRP", "SOL"]
    assert body["missing"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/indices/BTC",
        "/v1/indices/BTC/explain",
        "/v1/premium/BTC",
        "/v1/orderbooks/BTC",
        "/v1/orderbooks/upbit/BTC/KRW",
        "/v1/tickers?exchange=upbit",
        "/v1/tickers?market=BTC/KRW",
        "/v1/tickers?exchange=upbit&market=BTC/KRW",
        "/v1/trades?exchange=upbit&market=BTC/KRW",
    ],
)
async def test_names_in_any_case_of_letters_are_the_same(site: Site, path: str) -> None:
    def steady(body: Any) -> str:
        # without its ages
        return re.sub(r"'(age_ms|ts|stale)': (-?\d+|True|False)", "", str(body))

    status, expected, _ = await get(site[2], path)
    assert status == 200
    for name in ("BTC/KRW", "BTC", "KRW", "upbit"):
        for other in (name.lower(), name.upper(), name.title()):
            status, body, _ = await get(site[2], path.replace(name, other))
            assert status == 200, (name, other)
            assert steady(body) == steady(expected), (name, other)


async def test_letters_that_only_look_like_a_name_are_refused(site: Site) -> None:
    # their upper-case forms are S and SS
    for name in ("\u017fol", "\u00dfol", "s\u00d6l"):
        status, body, _ = await get(site[2], f"/v1/indices/{quote(name)}")
        assert (status, body["type"]) == (404, "urn:coinspace:problem:unknown-asset"), name


async def test_channels_in_any_case_of_letters_have_one_name(site: Site) -> None:
    async with site[2].ws_connect("/v1/ws") as socket:
        asked = ["index.btc", "index.BTC", "ticker.UPBIT:btc/krw"]
        await socket.send_json({"op": "subscribe", "channels": asked, "id": 1})
        while (event := await socket.receive_json(timeout=60))["event"] != "subscribed":
            pass
        assert event["data"]["channels"] == ["index.BTC", "ticker.upbit:BTC/KRW"]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/v1/indices/DOGE", 404, "unknown-asset"),
        ("/v1/indices/BTC?x=1", 400, "invalid-parameter"),
        ("/v1/orderbooks/BTC?levels=0", 400, "invalid-parameter"),
        ("/v1/orderbooks/BTC?levels=ten", 400, "invalid-parameter"),
        ("/v1/orderbooks/BTC?levels=1&levels=2", 400, "invalid-parameter"),
        ("/v1/orderbooks/BTC?%ff=1", 400, "invalid-request"),
        ("/v1/nothing", 404, "unknown-route"),
        ("/v1/stream", 400, "invalid-parameter"),
        ("/v1/stream?indices=DOGE", 404, "unknown-asset"),
        ("/v1/stream?trades=upbit:DOGE/KRW", 404, "unknown-market"),
        ("/v1/stream?trades=kraken:BTC/USD", 404, "unknown-market"),
        ("/assets/..%2fapp.py", 404, "unknown-route"),
    ],
)
async def test_errors_are_problems(site: Site, path: str, status: int, kind: str) -> None:
    from yarl import URL

    found, body, headers = await get(site[2], URL(path, encoded=True))  # type: ignore[arg-type]
    assert (found, body["type"]) == (status, f"urn:coinspace:problem:{kind}")
    assert headers["Content-Type"] == "application/problem+json"
    assert body["status"] == status
    assert body["detail"]


async def test_other_methods_are_refused_with_allow(site: Site) -> None:
    async with site[2].post("/v1/indices", data=b"\x00" * 100) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"
        assert (await answer.json(content_type=None))["type"].endswith("method-not-allowed")
    async with site[2].delete("/v1/nothing") as answer:
        assert answer.status == 404
    async with site[2].head("/v1/indices/BTC") as answer:
        assert answer.status == 200
        assert await answer.read() == b""
    async with site[2].get("/v1/ws") as answer:
        assert answer.status == 426
        assert answer.headers["Upgrade"] == "websocket"


async def test_venues_health_and_metrics(site: Site) -> None:
    stage, endpoint, session = site
    await until(lambda: ("upbit", "BTC/KRW") in endpoint.live.states)
    _, body, _ = await get(session, "/v1/venues")
    venues = {one["venue"]: one for one in body["venues"]}
    assert venues["upbit:BTC/KRW"]["state"] == "synced"
    assert venues["upbit:BTC/KRW"]["share"] == "0.3"
    assert venues["upbit:ETH/KRW"]["age_ms"] is None
    assert (await get(session, "/livez"))[0] == 200
    (stage.settings.data / "run" / "ticker-collector-upbit.json").write_text(
        '{"process":"ticker-collector-upbit","pid":1,"started_ns":1,"updated_ns":2,'
        '"state":"ready","reason":null,"counters":{"market_frames{market=\\"BTC/KRW\\"}":7,"gaps":0}}'
    )
    _, text, _ = await get(session, "/metrics")
    process = 'process="ticker-collector-upbit"'
    assert f'coinspace_market_frames_total{{{process},market="BTC/KRW"}} 7' in text
    assert f'coinspace_state{{{process},state="ready"}} 1' in text
    assert "# TYPE coinspace_gaps_total counter" in text
    # however many scrapers ask, the text is made once a second
    endpoint.context.metrics = (monotonic_ns() + 3600 * SECOND_NS, b"made before\n")
    assert (await get(session, "/metrics"))[1] == "made before\n"


async def test_not_ready_has_reasons(tmp_path: Path) -> None:
    endpoint = Endpoint(settings(tmp_path))
    await endpoint.start()
    try:
        async with aiohttp.ClientSession(endpoint.server.url) as session:
            status, body, headers = await get(session, "/readyz")
            assert status == 503
            assert "no BTC index value has arrived" in body["reasons"]
            status, body, headers = await get(session, "/v1/indices/BTC")
            assert (status, headers["Retry-After"]) == (503, "1")
    finally:
        await endpoint.stop()


async def test_the_endpoint_is_not_ready_while_rows_cannot_be_stored(site: Site) -> None:
    stage, _, session = site
    path = stage.settings.data / "run" / "ticker-storage-worker.json"
    trouble = "table trade is suspended (disk full): ALTER TABLE trade RESUME WAL"

    async def said(state: str, age_s: int) -> list[str]:
        """Return the endpoint's reasons about storage after a report of the worker."""
        health = {"process": path.stem, "started_ns": 1, "state": state, "reason": trouble}
        health |= {"updated_ns": time.time_ns() - age_s * 1_000_000_000, "counters": {}}
        path.write_bytes(orjson.dumps(health))
        _, body, _ = await get(session, "/readyz")
        return [one for one in body["reasons"] if "storage" in one]

    assert await said("ready", 0) == []
    assert await said("degraded", 0) == [f"ticker-storage-worker: {trouble}"]
    assert (await get(session, "/readyz"))[0] == 503
    (silent,) = await said("ready", 60)
    assert re.search(r"no sign of life for 6\d s", silent)
    assert await said("stopping", 60) == []


async def test_the_endpoint_is_not_ready_without_the_states_of_processes(site: Site) -> None:
    stage, _, session = site
    run = stage.settings.data / "run"
    away = run.rename(run.with_name("away"))
    try:
        run.write_text("no folder")
        _, body, _ = await get(session, "/readyz")
        assert [one for one in body["reasons"] if "expected a folder" in one]
        run.unlink()
    finally:
        away.rename(run)
    _, body, _ = await get(session, "/readyz")
    assert not [one for one in body["reasons"] if "expected a folder" in one]


async def test_the_endpoint_is_not_ready_while_users_would_call_it_broken(site: Site) -> None:
    stage, endpoint, session = site
    run = stage.settings.data / "run"

    assets = stage.settings.index.assets
    seen: tuple[int, list[str]] = (0, [])

    async def readiness(pattern: str, value: float | None, failed: bool | None = None) -> None:
        """Publish values until the one reason of each asset or of all fits; "" = ready."""

        async def fits() -> bool:
            nonlocal seen
            for asset in assets:
                stage.publish_index(asset, value, failed=failed)
            records = [endpoint.live.indices[asset].record for asset in assets]
            status, body, _ = await get(session, "/readyz")
            seen = status, [one for one in body["reasons"] if "database" not in one]
            return (
                all((one.value, one.failed) == (value, failed) for one in records)
                and bool(seen[1]) == bool(pattern)
                and all(re.match(pattern, one) for one in seen[1])
            )

        await until(fits, pattern, shown=lambda: seen)

    await readiness("", 1.0)
    # null, but not for longer than the method allows
    await readiness("", None, failed=False)
    await readiness(r"the \w+ index has no value \(", None, failed=True)
    assert len(seen[1]) == len(assets)
    assert seen[0] == 503
    await readiness("", 2.0)

    def write(name: str, state: str, reason: str, unwell_s: float) -> None:
        facts = {"process": name, "state": state, "reason": reason, "unwell_s": unwell_s}
        facts |= {"updated_ns": time.time_ns(), "started_ns": 1, "counters": {}}
        (run / f"{name}.json").write_bytes(orjson.dumps(facts))

    collector = "orderbook-collector-upbit"
    write(collector, "degraded", "1 of 5 not synced: BTC/KRW", 59)
    await readiness("", 2.0)
    write(collector, "degraded", "1 of 5 not synced: BTC/KRW (connecting for 3 min)", 180)
    await readiness(rf"{collector}: 1 of 5 not synced: BTC/KRW \(connecting for 3 min\)$", 2.0)
    write(collector, "ready", "", 0)
    # a fault that affects every client counts at once; one clock step is only reported
    write("index-calculator", "ready", "this host's clock was set back by 5.0 s", 0)
    await readiness("", 2.0)
    write("index-calculator", "degraded", "no aggregate arrives", 1)
    await readiness("index-calculator: no aggregate arrives$", 2.0)


async def test_page_is_served_without_a_build(site: Site) -> None:
    status, text, headers = await get(site[2], "/")
    assert status == 200
    assert "CoinSpace" in text
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_document_describes_every_route(site: Site) -> None:
    _, body, _ = await get(site[2], "/openapi.json")
    assert body["openapi"] == "3.1.0"
    kinds = body["components"]["schemas"]["ProblemBody"]["properties"]["type"]["enum"]
    assert "urn:coinspace:problem:unknown-asset" in kinds
    for path, methods in body["paths"].items():
        responses = methods["get"]["responses"]
        good = "101" if path == "/v1/ws" else "200"
        assert {good, "400", "405", "429", "500"} <= set(responses), path
    parameters = body["paths"]["/v1/orderbooks/{asset}"]["get"]["parameters"]
    assert [(one["name"], one["in"]) for one in parameters] == [
        ("asset", "path"),
        ("levels", "query"),
        ("within", "query"),
    ]


async def test_the_streams_have_a_document(site: Site) -> None:
    _, body, headers = await get(site[2], "/asyncapi.json")
    assert body["asyncapi"] == "3.0.0"
    assert headers["ETag"]


async def test_gzip_when_asked(site: Site) -> None:
    async with site[2].get("/openapi.json", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert (await answer.json())["openapi"] == "3.1.0"


async def test_stop_leaves_no_task(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with running(settings(tmp_path)):
        pass
    await until(lambda: asyncio.all_tasks() == before, shown=asyncio.all_tasks)
