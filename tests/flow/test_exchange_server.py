"""The simulated exchanges over real sockets: protocol, keep-alive, limits, REST."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from coinspace.errors import FeedError
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation

TEXT, BINARY = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def get(client: aiohttp.ClientSession, url: str, **headers: str) -> tuple[Any, Any, Any]:
    async with client.get(url, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


def subscription(kind: str, *codes: str, **more: Any) -> list[Any]:
    return [{"ticket": "t"}, {"type": kind, "codes": codes, **more}]


async def until_closed(socket: aiohttp.ClientWebSocketResponse, timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        while (message := await socket.receive()).type in (TEXT, BINARY, aiohttp.WSMsgType.PING):
            pass
    return message


async def silence(socket: aiohttp.ClientWebSocketResponse) -> None:
    # a timeout of receive() would start again with each pong
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(socket.receive(), 1)


async def test_upbit_and_bithumb_streams(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        for name in ("upbit", "bithumb"):
            async with client.ws_connect(server.urls[name]["websocket"]) as socket:
                codes = ("KRW-BTC", "KRW-ETH", "krw-xrp", "KRW-NOPE")
                await socket.send_json(subscription("orderbook", *codes))
                seen: dict[str, list[str]] = {}
                for _ in range(20):
                    message = await socket.receive(timeout=60)
                    assert message.type == BINARY
                    book = orjson.loads(message.data)
                    seen.setdefault(book["code"], []).append(book["stream_type"])
                assert set(seen) == {"KRW-BTC", "KRW-ETH"}
                for types in seen.values():
                    assert types == ["SNAPSHOT"] + ["REALTIME"] * (len(types) - 1)
                # the new subscription replaces the old one
                await socket.send_json([*subscription("trade", "KRW-SOL"), {"format": "SIMPLE"}])
                async with asyncio.timeout(60):
                    while "ty" not in (frame := orjson.loads((await socket.receive()).data)):
                        pass
                assert (frame["ty"], frame["cd"], frame["st"]) == ("trade", "KRW-SOL", "SNAPSHOT")
                await socket.send_str("PING")
                async with asyncio.timeout(60):
                    while "status" not in orjson.loads((await socket.receive()).data):
                        pass
                only = subscription("ticker", "KRW-BTC", isOnlySnapshot=True)
                await socket.send_json(only)
                async with asyncio.timeout(60):
                    while orjson.loads((await socket.receive()).data).get("type") != "ticker":
                        pass
                await silence(socket)


async def test_an_error_is_sent_and_the_connection_closed_with_1000(
    client: aiohttp.ClientSession,
) -> None:
    async with (
        ExchangeServer() as server,
        client.ws_connect(server.urls["upbit"]["websocket"]) as socket,
    ):
        await socket.send_json([{"type": "orderbook", "codes": ["KRW-BTC"]}])
        error = orjson.loads((await socket.receive(timeout=60)).data)
        assert error["error"]["name"] == "NO_TICKET"
        assert (await socket.receive(timeout=60)).data == 1000


async def test_snapshot_and_diffs_fit_together(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        urls = server.urls["binance"]
        url = urls["websocket"] + "/stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker"
        async with client.ws_connect(url + "&timeUnit=MICROSECOND") as socket:
            diffs: list[dict[str, Any]] = []
            tops: dict[int, tuple[str, str]] = {}

            async def read(n: int) -> None:
                while len(diffs) < n:
                    message = await socket.receive(timeout=60)
                    assert message.type == TEXT
                    frame = orjson.loads(message.data)
                    data = frame["data"]
                    if frame["stream"].endswith("bookTicker"):
                        tops[data["u"]] = (data["b"], data["a"])
                    else:
                        diffs.append(data)

            await read(2)
            _, snapshot, headers = await get(
                client, urls["rest"] + "/api/v3/depth?symbol=BTCUSDT&limit=5000"
            )
            assert headers["X-MBX-USED-WEIGHT-1M"] == "250"
            await read(20)
        last = snapshot["lastUpdateId"]
        assert len(str(diffs[0]["E"])) == 16
        sides = {"b": dict(snapshot["bids"]), "a": dict(snapshot["asks"])}
        checked = 0
        for diff in diffs:
            if diff["u"] <= last:
                continue
            assert diff["U"] <= last + 1
            last = diff["u"]
            for side, levels in sides.items():
                for price, size in diff[side]:
                    if float(size):
                        levels[price] = size
                    else:
                        levels.pop(price, None)
            known = [u for u in tops if u <= last]
            if known:
                best = max(sides["b"], key=float), min(sides["a"], key=float)
                assert best == tops[max(known)]
                checked += 1
        assert checked > 10


async def test_an_idle_connection_is_cut_and_pings_keep_it(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer(idle_s=4.0) as server:
        url = server.urls["upbit"]["websocket"]
        async with client.ws_connect(url) as idle, client.ws_connect(url) as kept:
            await idle.send_json(subscription("orderbook", "KRW-NOPE"))
            await kept.send_json(subscription("orderbook", "KRW-NOPE"))

            async def ping() -> None:
                while True:
                    await kept.ping()
                    await asyncio.sleep(0.2)

            pinging = asyncio.create_task(ping())
            await until_closed(idle, 60)
            assert idle.close_code == 1006
            await silence(kept)
            pinging.cancel()


async def test_binance_pings_and_closes_a_client_without_pongs(
    client: aiohttp.ClientSession,
) -> None:
    async with ExchangeServer(ping_s=0.5, pong_s=4.0) as server:
        url = server.urls["binance"]["websocket"] + "/ws"
        async with (
            client.ws_connect(url, autoping=False) as silent,
            client.ws_connect(url) as answering,
        ):
            reader = asyncio.create_task(answering.receive())
            assert (await silent.receive(timeout=60)).type == aiohttp.WSMsgType.PING
            message = await until_closed(silent, 60)
            assert (message.data, message.extra) == (1008, "Pong timeout")
            await asyncio.sleep(0.5)
            assert not reader.done()
            reader.cancel()


async def test_binance_ends_a_connection_after_its_life(client: aiohttp.ClientSession) -> None:
    async with (
        ExchangeServer(life_s=0.5, ping_s=0.5) as server,
        client.ws_connect(server.urls["binance"]["websocket"] + "/ws") as socket,
    ):
        assert (await until_closed(socket, 60)).data == 1001


async def test_connection_limits(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        url = server.urls["upbit"]["websocket"]
        sockets = []

        async def connect() -> None:
            # five a second are allowed
            while True:
                sockets.append(await client.ws_connect(url))

        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await asyncio.wait_for(connect(), 60)
        assert caught.value.status == 429
        assert len(sockets) >= 5
        for socket in sockets:
            await socket.close()
        rest = server.urls["upbit"]["rest"] + "/v1/market/all"
        assert (await get(client, rest, Origin="http://page"))[0] == 200
        assert (await get(client, rest, Origin="http://page"))[0] == 429
        assert (await get(client, rest))[0] == 200


async def test_upbit_rest(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        url = server.urls["upbit"]["rest"]
        status, markets, headers = await get(client, url + "/v1/market/all?is_details=true")
        assert status == 200
        assert headers["Remaining-Req"].startswith("group=market; min=")
        assert {"KRW-BTC", "KRW-USDT"} <= {row["market"] for row in markets}
        assert "market_event" in markets[0]
        _, books, _ = await get(client, url + "/v1/orderbook?markets=KRW-BTC,krw-eth&count=5")
        assert [len(book["orderbook_units"]) for book in books] == [5, 5]
        status, body, _ = await get(client, url + "/v1/orderbook?markets=KRW-BTC,KRW-NO")
        assert (status, body["error"]) == (404, {"name": 404, "message": "Code not found"})
        assert (await get(client, url + "/v1/orderbook"))[0] == 400
        assert (await get(client, url + "/v1/nothing"))[1]["error"]["name"] == "not_found"
        _, trades, _ = await get(client, url + "/v1/trades/ticks?market=KRW-BTC&count=3")
        assert len(str(trades[0]["sequential_id"])) == 17
        # ten a second
        async with asyncio.timeout(60):
            while (await get(client, url + "/v1/ticker?markets=KRW-BTC"))[0] != 429:
                pass


async def test_bithumb_rest(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        url = server.urls["bithumb"]["rest"]
        _, [one], headers = await get(client, url + "/v1/orderbook?markets=KRW-BTC")
        assert "x-ratelimit-remaining" in headers
        _, several, _ = await get(client, url + "/v1/orderbook?markets=KRW-BTC,KRW-ETH")
        assert len(one["orderbook_units"]) == 15
        assert [len(book["orderbook_units"]) for book in several] == [15, 15]
        status, body, _ = await get(client, url + "/v1/orderbook?markets=KRW-NO")
        assert (status, body["error"]["name"]) == (200, 404)
        _, [ticker], _ = await get(client, url + "/v1/ticker?markets=KRW-BTC")
        ahead_h = (ticker["timestamp"] - one["timestamp"]) / 3_600_000
        assert 8.99 < ahead_h < 9.01


async def test_binance_rest_limits(client: aiohttp.ClientSession) -> None:
    async with ExchangeServer() as server:
        url = server.urls["binance"]["rest"] + "/api/v3"
        _, info, _ = await get(client, url + "/exchangeInfo")
        assert {row["baseAsset"] for row in info["symbols"]} == {"BTC", "ETH", "XRP", "SOL"}
        _, trades, _ = await get(client, url + "/trades?symbol=BTCUSDT&limit=5")
        ids = [trade["id"] for trade in trades]
        assert ids == sorted(ids)
        status, body, _ = await get(client, url + "/depth?symbol=NOPE")
        assert (status, body["code"]) == (400, -1121)
        depth = url + "/depth?symbol=BTCUSDT&limit=5000"
        statuses, found = [], None
        for _ in range(40):
            status, body, headers = await get(client, depth)
            statuses.append(status)
            if status != 200:
                found = (body["code"], int(headers["Retry-After"]) > 0)
        assert statuses.count(200) == 23
        assert found == (-1003, True)
        assert {429, 418} <= set(statuses)
        assert statuses.index(429) < statuses.index(418)


async def test_a_taken_port_is_a_clear_error() -> None:
    async with ExchangeServer() as server:
        with pytest.raises(FeedError, match=f"port {server.port} on 127.0.0.1: expected a free"):
            await ExchangeServer(Simulation(), port=server.port).start()


@pytest.mark.parametrize("fault", ["chop:binance:n=2:ms=3600000", "coalesce:binance:n=1000000000"])
async def test_the_bytes_that_a_fault_delays_are_bounded(
    client: aiohttp.ClientSession, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinspace.simulator.connection.BUFFER_LIMIT", 1 << 16)
    async with ExchangeServer(faults=[fault]) as server:
        url = server.urls["binance"]["websocket"] + "/ws/btcusdt@depth@100ms"
        async with client.ws_connect(url):
            (connection,) = server.all_connections()
            payload = b"x" * 1000
            for _ in range(200):
                connection.deliver(payload, "depth@100ms", "BTCUSDT")
            assert connection._slow_size <= 1 << 16
            assert connection._together_size <= 1 << 16
            # a client with too many delayed bytes is cut, another one gets its frames
            assert connection.transport.is_closing() is fault.startswith("chop")
