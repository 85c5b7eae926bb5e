"""Keys, rate limits, CORS and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.client import AsyncClient
from coinspace.endpoint.http.keys import Keys
from coinspace.endpoint.worker import Endpoint
from coinspace.errors import EndpointError
from coinspace.query import endpoint_url
from tests.flow.endpoint_stage import running, settings
from tests.waiting import until


async def test_keys_are_required_and_have_roles(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    reader, operator = keys.new("page", "reader"), keys.new("grafana", "operator")
    async with (
        running(settings(tmp_path, require_keys=True)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):

        async def status(path: str, key: str | None = None, header: str = "X-API-Key") -> int:
            async with session.get(path, headers={header: key} if key else {}) as answer:
                return answer.status

        assert await status("/v1/indices/BTC") == 401
        assert await status("/v1/indices/BTC", reader) == 200
        assert await status("/v1/indices/BTC", f"Bearer {reader}", "Authorization") == 200
        assert await status("/v1/indices/BTC", reader[:-1] + "!") == 401
        assert await status("/v1/indices/BTC", reader[:-3] + "abc") == 401
        assert await status("/v1/indices/BTC", "cs_" + "0" * 12 + "_" + "a" * 43) == 401
        assert await status("/metrics", reader) == 403
        assert await status("/metrics", operator) == 200
        # the router accepts other spellings of a path, too
        for path in ("/METRICS", "/metrics/", "/v1/Pipeline", "/v1/pipeline/", "/%6detrics"):
            assert await status(path, reader) == 403, path
            assert await status(path) == 401, path
        assert await status("/v1/stream?platform=pipeline", reader) == 403
        assert await status("/v1/stream?platform=venues,pipeline", operator) == 200
        async with session.ws_connect("/v1/ws", headers={"X-API-Key": reader}) as ws:
            await ws.receive_json()
            await ws.send_json({"op": "subscribe", "channels": ["pipeline"]})
            assert (await ws.receive_json())["data"]["type"].endswith("role-required")
        for public in ("/livez", "/", "/openapi.json", "/docs"):
            assert await status(public) == 200
        async with session.get("/v1/indices/BTC") as answer:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect("/v1/ws")
        assert refused.value.status == 401
        async with session.ws_connect("/v1/ws", headers={"X-API-Key": reader}) as ws:
            assert (await ws.receive_json())["event"] == "hello"
        keys.revoke(reader.split("_")[1])

        async def refused_now() -> bool:
            return await status("/v1/indices/BTC", reader) == 401

        await until(refused_now, "a revoked key is refused")


async def test_streams_end_with_the_key_that_they_were_opened_with(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    leaving, staying = keys.new("leaving", "reader"), keys.new("staying", "reader")
    async with (
        running(settings(tmp_path, require_keys=True)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
        contextlib.AsyncExitStack() as streams,
    ):
        for key in (leaving, staying):
            headers = {"X-API-Key": key}
            events = session.get("/v1/stream?platform=venues", headers=headers)
            await streams.enter_async_context(events)
            await streams.enter_async_context(session.ws_connect("/v1/ws", headers=headers))
        await until(lambda: len(endpoint.hub.clients) == 4)
        keys.revoke(leaving.split("_")[1])
        await until(lambda: len(endpoint.hub.clients) == 2)
        await asyncio.sleep(2.5)
        assert len(endpoint.hub.clients) == 2


def test_only_hashes_are_kept_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    secret = keys.new("one", "reader").split("_", 2)[2]
    assert secret not in keys.file.read_text()
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    assert keys.find("") is None
    assert keys.find("cs_") is None
    with pytest.raises(EndpointError, match="expected an id"):
        keys.revoke("nobody")
    keys.file.write_text("{}")
    with pytest.raises(EndpointError, match="expected a list of keys"):
        Keys(keys.file)


async def test_another_address_than_loopback_needs_a_key(tmp_path: Path) -> None:
    chosen = settings(tmp_path, host="0.0.0.0")
    with pytest.raises(EndpointError, match="coinspace keys new"):
        Endpoint(chosen)


async def test_rate_limits_show_the_requests_left(tmp_path: Path) -> None:
    chosen = settings(tmp_path, limit_loopback=True, rate_per_address="5/day")
    chosen.endpoint.rate_per_key = "50/day"
    key = Keys(tmp_path / "keys.json").new("one", "reader")
    async with (
        running(chosen) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        left = []
        for _ in range(5):
            async with session.get("/v1/indices/BTC") as answer:
                assert answer.status == 200
                assert answer.headers["RateLimit-Policy"] == '"address";q=5;w=86400'
                left.append(answer.headers["RateLimit"].split(";")[1])
        assert left == ["r=4", "r=3", "r=2", "r=1", "r=0"]
        async with session.get("/v1/indices/BTC") as answer:
            assert answer.status == 429
            assert 0 < int(answer.headers["Retry-After"]) <= 86_400
            assert answer.content_type == "application/problem+json"
        async with session.get("/v1/indices/BTC", headers={"X-API-Key": key}) as answer:
            assert answer.status == 200
            assert answer.headers["RateLimit-Policy"].startswith('"key"')


async def test_browsers_of_other_origins_are_allowed_only_when_configured(tmp_path: Path) -> None:
    origin = {"Origin": "https://example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "GET"}
    async with (
        running(settings(tmp_path)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        async with session.get("/v1/indices", headers=origin) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
        async with session.options("/v1/indices", headers=preflight) as answer:
            assert answer.status == 405
    async with (
        running(settings(tmp_path, cors_origins=["https://example.org"])) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        async with session.get("/v1/indices", headers=origin) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
        async with session.options("/v1/indices", headers=preflight) as answer:
            assert answer.status == 204
            assert "GET" in answer.headers["Access-Control-Allow-Methods"]
        async with session.get("/v1/indices", headers={"Origin": "https://evil.org"}) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_pages_of_other_origins_cannot_open_a_websocket(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path, cors_origins=["https://example.org"])) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        for origin in (endpoint.server.url, "https://example.org"):
            async with session.ws_connect("/v1/ws", origin=origin) as ws:
                assert (await ws.receive_json())["event"] == "hello"
        for origin in ("https://evil.org", "null", endpoint.server.url + "0"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect("/v1/ws", origin=origin)
            assert refused.value.status == 403


async def test_an_ipv6_endpoint_is_found_by_tools_and_clients(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    async with running(settings(tmp_path, host="::1")) as (stage, endpoint):
        assert endpoint.server.url == f"http://[::1]:{endpoint.server.port}"
        stage.publish_index("BTC", 1234.5)
        async with AsyncClient(endpoint.server.url) as client:
            await until(lambda: endpoint.live.indices["BTC"].record.value == 1234.5)
            assert (await client.index("BTC"))["value"] == "1234.5"
        # tools find the address in the written file
        assert endpoint_url(endpoint.settings) == endpoint.server.url


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    async with running(settings(tmp_path)) as (_, endpoint):
        with pytest.raises(EndpointError, match="expected a free port"):
            Endpoint(settings(tmp_path, port=endpoint.server.port))


@pytest.mark.parametrize("size", [5000, 50_000_000])
async def test_a_large_body_is_refused_unread(tmp_path: Path, size: int) -> None:
    async with running(settings(tmp_path)) as (_, endpoint):
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
        head = b"GET /v1/indices HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % size)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 60)
        assert b" 413 " in head
        writer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/indices HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/stream?indices=" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/indices/%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
async def test_garbage_is_answered_and_harms_no_other_client(tmp_path: Path, raw: bytes) -> None:
    async with (
        running(settings(tmp_path)) as (_, endpoint),
        aiohttp.ClientSession(endpoint.server.url) as session,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
        writer.write(raw)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 414"))
        assert b"content-type: application/problem+json" in answer.lower()
        writer.close()
        async with session.get("/v1/indices/BTC") as good:
            assert good.status == 200


def test_keys_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    run = CliRunner()
    made = run.invoke(coinspace, ["keys", "new", "ci", "--role", "operator"])
    assert made.exit_code == 0
    identity = made.output.split("_")[1]
    listed = run.invoke(coinspace, ["keys", "list"])
    assert f"{identity}  operator" in listed.output
    assert run.invoke(coinspace, ["keys", "revoke", identity]).exit_code == 0
    assert "revoked" in run.invoke(coinspace, ["keys", "list"]).output
    assert isinstance(run.invoke(coinspace, ["keys", "revoke", "x"]).exception, EndpointError)
