"""Every fault can be seen by a client, and ends when it should."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest

from coinspace.errors import ConfigError
from coinspace.simulator.faults import parse
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation

STREAM = "/ws/btcusdt@depth@100ms"


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    async with ExchangeServer(Simulation(5), limits=False) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


class Listener:
    """A Binance connection that keeps what it receives."""

    def __init__(self, server: ExchangeServer, client: aiohttp.ClientSession) -> None:
        self.server = server
        self.client = client
        self.raw: list[bytes] = []

    async def __aenter__(self) -> "Listener":
        url = self.server.urls["binance"]["websocket"] + STREAM
        self.socket = await self.client.ws_connect(url, max_msg_size=0)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.socket.close()

    async def frames(self, n: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        frames = []
        for _ in range(n):
            message = await self.socket.receive(timeout=timeout_s)
            assert message.type == aiohttp.WSMsgType.TEXT, message
            frames.append(orjson.loads(message.data))
        return frames

    async def gaps(self, n: int) -> list[int]:
        """Return U - (last u + 1) between n frames."""
        frames = await self.frames(n)
        pairs = pairwise(frames)
        return [after["U"] - before["u"] - 1 for before, after in pairs]


async def test_without_faults_nothing_is_missing(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        assert set(await listener.gaps(10)) == {0}


async def test_drop_in_the_middle_makes_one_gap(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("drop:binance:BTCUSDT:every=4:count=1")
        gaps = await listener.gaps(8)
    assert sum(gap > 0 for gap in gaps) == 1


async def test_duplicate(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("duplicate:binance:every=3")
        ids = [frame["u"] for frame in await listener.frames(8)]
    assert len(ids) - len(set(ids)) == 2


async def test_reorder(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("reorder:binance:every=3:count=1")
        ids = [frame["u"] for frame in await listener.frames(8)]
    assert ids != sorted(ids)
    assert len(set(ids)) == 8


async def test_delay(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("delay:binance:ms=700")
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        frames = await listener.frames(3)
        assert loop.time() - begin_s > 0.6
    assert [f["u"] for f in frames] == sorted(f["u"] for f in frames)


@pytest.mark.parametrize("kind", ["split", "chop:ms=2", "coalesce:n=4"])
async def test_pieces_change_nothing_for_a_right_client(
    server: ExchangeServer, client: aiohttp.ClientSession, kind: str
) -> None:
    name, _, rest = kind.partition(":")
    async with Listener(server, client) as listener:
        server.disorder.add(f"{name}:binance:{rest}" if rest else f"{name}:binance")
        assert set(await listener.gaps(8)) == {0}


async def test_stall_holds_back_and_then_sends_all(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        [first] = await listener.frames(1)
        server.disorder.add("stall:binance:BTCUSDT:for=1")
        with pytest.raises(TimeoutError):
            await listener.frames(2, 0.6)
        frames = [first, *await listener.frames(10)]
    pairs = pairwise(frames)
    assert sum(after["U"] - before["u"] - 1 > 0 for before, after in pairs) <= 1


async def test_mute_is_alive_and_sends_nothing(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("mute:binance:for=30")
        await asyncio.sleep(0.05)
        await listener.socket.send_str('{"method":"UNSUBSCRIBE","params":[],"id":9}')
        [answer] = await listener.frames(1)
        assert answer == {"result": None, "id": 9}
        with pytest.raises(TimeoutError):
            await listener.frames(1, 0.5)


async def test_halfopen_sends_nothing_and_reads_nothing(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("halfopen:binance:for=1")
        await asyncio.sleep(0.05)
        await listener.socket.send_str('{"method":"UNSUBSCRIBE","params":[],"id":9}')
        with pytest.raises(TimeoutError):
            await listener.frames(3, 0.5)
        found = await listener.frames(8)
        assert {"result": None, "id": 9} in found


async def test_reset(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("reset:binance")
        while True:
            message = await listener.socket.receive(timeout=3)
            if message.type != aiohttp.WSMsgType.TEXT:
                break
        assert listener.socket.close_code == 1006


async def test_close_code_and_reason(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("close:binance:code=1012:reason=maintenance")
        message = await listener.socket.receive(timeout=3)
        while message.type == aiohttp.WSMsgType.TEXT:
            message = await listener.socket.receive(timeout=3)
        assert (message.data, message.extra) == (1012, "maintenance")


async def test_shutdown_is_announced(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("shutdown:binance:n=1")
        frames = await listener.frames(3)
        assert "serverShutdown" in [frame["e"] for frame in frames]
        while (message := await listener.socket.receive(timeout=3)).type == aiohttp.WSMsgType.TEXT:
            pass
        assert message.data == 1001


@pytest.mark.parametrize("kind", ["garbage", "truncate", "flip"])
async def test_spoiled_frames(
    server: ExchangeServer, client: aiohttp.ClientSession, kind: str
) -> None:
    request = [{"ticket": "t"}, {"type": "orderbook", "codes": ["KRW-BTC"]}]
    async with client.ws_connect(server.urls["upbit"]["websocket"]) as socket:
        server.disorder.add(f"{kind}:upbit:KRW-BTC:count=2")
        await socket.send_json(request)
        payloads = [(await socket.receive(timeout=3)).data for _ in range(5)]
    spoiled = 0
    for payload in payloads:
        try:
            whole = orjson.loads(payload)["orderbook_units"]
            spoiled += len(whole) != 30 or b'"code":"KRW-BTC"' not in payload
        except (orjson.JSONDecodeError, KeyError):
            spoiled += 1
    assert spoiled <= 2
    assert kind == "flip" or spoiled == 2


async def test_huge(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("huge:binance:count=1:bytes=3000000")
        frames = await listener.frames(3)
    assert sum(len(frame.get("padding", "")) == 3_000_000 for frame in frames) == 1


async def test_error_frame_then_close(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with client.ws_connect(server.urls["upbit"]["websocket"]) as socket:
        server.disorder.add("error:upbit")
        assert "error" in orjson.loads((await socket.receive(timeout=2)).data)
        assert (await socket.receive(timeout=2)).data == 1000


@pytest.mark.parametrize("status", [418, 429, 500, 503])
async def test_refused_requests(
    server: ExchangeServer, client: aiohttp.ClientSession, status: int
) -> None:
    server.disorder.add(f"rest:binance:status={status}:retry=7:path=depth:count=1")
    url = server.urls["binance"]["rest"]
    async with client.get(url + "/api/v3/time") as answer:
        assert answer.status == 200
    async with client.get(url + "/api/v3/depth?symbol=BTCUSDT") as answer:
        assert answer.status == status
        assert answer.headers["Retry-After"] == "7"
    async with client.get(url + "/api/v3/depth?symbol=BTCUSDT") as answer:
        assert answer.status == 200


async def test_refused_handshake(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    server.disorder.add("handshake:binance:status=418:count=1")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await client.ws_connect(server.urls["binance"]["websocket"] + STREAM)
    assert caught.value.status == 418
    async with Listener(server, client) as listener:
        assert await listener.frames(1)


async def test_stale_snapshot(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    server.disorder.add("stale:binance:BTCUSDT:count=1")
    url = server.urls["binance"]["rest"] + "/api/v3/depth?symbol=BTCUSDT&limit=5000"
    await asyncio.sleep(0.4)
    async with Listener(server, client) as listener:
        [first] = await listener.frames(1)
        async with client.get(url) as answer:
            stale = await answer.json()
        async with client.get(url) as answer:
            fresh = await answer.json()
    assert stale["lastUpdateId"] < first["U"]
    assert fresh["lastUpdateId"] >= first["U"]
    assert len(stale["bids"]) > 1000


async def test_clock(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        [before] = await listener.frames(1)
        server.disorder.add("clock:binance:by=-3h")
        await listener.frames(1)
        [after] = await listener.frames(1)
    assert -10_800_000 <= after["E"] - before["E"] < -10_790_000


async def test_control_address(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    control = f"http://127.0.0.1:{server.port}/control"
    async with Listener(server, client) as listener:
        async with client.post(
            control + "/faults", json={"fault": "mute:binance:BTCUSDT"}
        ) as answer:
            assert answer.status == 201
            number = (await answer.json())["id"]
        await asyncio.sleep(0.2)
        with pytest.raises(TimeoutError):
            await listener.frames(4, 0.4)
        async with client.get(control) as answer:
            state = await answer.json()
            assert state["faults"][0]["hits"] > 0
            assert state["connections"][0]["exchange"] == "binance"
        async with client.delete(f"{control}/faults/{number}") as answer:
            assert answer.status == 200
        assert await listener.frames(2)
    async with client.post(control + "/faults", json={"fault": "drop:nowhere"}) as answer:
        assert answer.status == 400
        assert "expected an exchange" in (await answer.json())["error"]
    async with client.get(control, headers={"Origin": "http://evil"}) as answer:
        assert answer.status == 403


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("explode:upbit", "a kind out of"),
        ("drop", "an exchange out of"),
        ("drop:upbit:KRW-BTC:often", "key=value"),
        ("drop:upbit:ms=5", "a key out of"),
        ("delay:upbit:ms=soon", "a number or time"),
        ("drop:upbit:channel=books", "a number or time"),
    ],
)
def test_wrong_faults_say_what_was_expected(spec: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse(spec)


def test_times_and_symbols() -> None:
    fault = parse("stall:binance:btc/usdt:after=500ms:for=2m")
    assert (fault.symbol, fault.after_s, fault.for_s) == ("BTCUSDT", 0.5, 120.0)
    assert parse("clock:upbit:by=-3h").values["by"] == -10_800


async def test_halt_and_delist(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    info = server.urls["binance"]["rest"] + "/api/v3/exchangeInfo"
    listed = server.urls["upbit"]["rest"] + "/v1/market/all"
    halt = server.disorder.add("halt:binance:BTCUSDT")
    server.disorder.add("delist:upbit:KRW-SOL")
    async with Listener(server, client) as listener:
        await asyncio.sleep(0.3)
        async with client.get(info) as answer:
            rows = {row["symbol"]: row["status"] for row in (await answer.json())["symbols"]}
        assert (rows["BTCUSDT"], rows["ETHUSDT"]) == ("HALT", "TRADING")
        async with client.get(listed) as answer:
            assert "KRW-SOL" not in {row["market"] for row in await answer.json()}
        server.disorder.remove(halt.id)
        # after the halt diffs go on without a gap
        assert set(await listener.gaps(5)) == {0}
        async with client.get(info + "?symbol=BTCUSDT") as answer:
            assert (await answer.json())["symbols"][0]["status"] == "TRADING"
    with pytest.raises(ConfigError, match="a symbol after"):
        server.disorder.add("halt:upbit")
