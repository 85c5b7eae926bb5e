"""Every fault can be seen by a client, and ends when it should."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest

from coinspace.errors import ConfigError
from coinspace.simulator.faults import parse
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.waiting import until

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

    async def frame(self) -> dict[str, Any]:
        message = await self.socket.receive(timeout=60)
        assert message.type == aiohttp.WSMsgType.TEXT, message
        found: dict[str, Any] = orjson.loads(message.data)
        return found

    async def frames(self, n: int) -> list[dict[str, Any]]:
        return [await self.frame() for _ in range(n)]

    async def until(self, fits: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Return the first frame that fits."""
        async with asyncio.timeout(60):
            while not fits(frame := await self.frame()):
                pass
        return frame

    async def silence(self) -> list[dict[str, Any]]:
        """Return the frames on their way, after which none comes for a second."""
        frames = []
        async with asyncio.timeout(60):
            while True:
                try:
                    frames.append(await asyncio.wait_for(self.frame(), 1))
                except TimeoutError:
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
    server.disorder.add("drop:binance:BTCUSDT:every=4:count=1")
    async with Listener(server, client) as listener:
        gaps = await listener.gaps(8)
    assert sum(gap > 0 for gap in gaps) == 1


async def test_duplicate(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    server.disorder.add("duplicate:binance:every=3")
    async with Listener(server, client) as listener:
        ids = [frame["u"] for frame in await listener.frames(8)]
    assert len(ids) - len(set(ids)) == 2


async def test_reorder(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    server.disorder.add("reorder:binance:every=3:count=1")
    async with Listener(server, client) as listener:
        ids = [frame["u"] for frame in await listener.frames(8)]
    assert ids != sorted(ids)
    assert len(set(ids)) == 8


async def test_delay(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("delay:binance:ms=700")
        begin_ms = server.source.now_ns() / 1e6
        delayed = await listener.until(lambda frame: frame["E"] > begin_ms)
        assert server.source.now_ns() / 1e6 - delayed["E"] > 600
        ids = [delayed["u"], *(frame["u"] for frame in await listener.frames(3))]
    assert ids == sorted(ids)


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
        fault = server.disorder.add("stall:binance:BTCUSDT")
        frames = [first, *await listener.silence()]
        server.disorder.remove(fault.id)
        frames += await listener.frames(10)
    pairs = pairwise(frames)
    assert sum(after["U"] - before["u"] - 1 > 0 for before, after in pairs) <= 1


async def test_mute_is_alive_and_sends_nothing(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("mute:binance")
        await listener.silence()
        await listener.socket.send_str('{"method":"UNSUBSCRIBE","params":[],"id":9}')
        assert await listener.frame() == {"result": None, "id": 9}
        assert await listener.silence() == []


async def test_halfopen_sends_nothing_and_reads_nothing(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        fault = server.disorder.add("halfopen:binance")
        await until(lambda: fault.hits)
        await listener.socket.send_str('{"method":"UNSUBSCRIBE","params":[],"id":9}')
        assert all("result" not in frame for frame in await listener.silence())
        server.disorder.remove(fault.id)
        answer = await listener.until(lambda frame: "result" in frame)
        assert answer == {"result": None, "id": 9}


async def test_reset(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        await listener.frames(1)
        server.disorder.add("reset:binance")
        while True:
            message = await listener.socket.receive(timeout=60)
            if message.type != aiohttp.WSMsgType.TEXT:
                break
        assert listener.socket.close_code == 1006


async def test_close_code_and_reason(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("close:binance:code=1012:reason=maintenance")
        message = await listener.socket.receive(timeout=60)
        while message.type == aiohttp.WSMsgType.TEXT:
            message = await listener.socket.receive(timeout=60)
        assert (message.data, message.extra) == (1012, "maintenance")


async def test_shutdown_is_announced(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    async with Listener(server, client) as listener:
        server.disorder.add("shutdown:binance:n=1")
        await listener.until(lambda frame: frame["e"] == "serverShutdown")
        while (message := await listener.socket.receive(timeout=60)).type == aiohttp.WSMsgType.TEXT:
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
        payloads = [(await socket.receive(timeout=60)).data for _ in range(5)]
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
    server.disorder.add("huge:binance:count=1:bytes=3000000")
    async with Listener(server, client) as listener:
        frames = await listener.frames(3)
    assert sum(len(frame.get("padding", "")) == 3_000_000 for frame in frames) == 1


async def test_error_frame_then_close(
    server: ExchangeServer, client: aiohttp.ClientSession
) -> None:
    async with client.ws_connect(server.urls["upbit"]["websocket"]) as socket:
        server.disorder.add("error:upbit")
        assert "error" in orjson.loads((await socket.receive(timeout=60)).data)
        assert (await socket.receive(timeout=60)).data == 1000


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
    async with Listener(server, client) as listener:
        # the first one may hold updates from before the fault
        last = (await listener.frames(3))[-1]
        async with client.get(url) as answer:
            stale = await answer.json()
        async with client.get(url) as answer:
            fresh = await answer.json()
    assert stale["lastUpdateId"] < last["U"]
    assert fresh["lastUpdateId"] >= last["U"]
    assert len(stale["bids"]) > 1000


async def test_clock(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    async with Listener(server, client) as listener:
        before = await listener.frame()
        server.disorder.add("clock:binance:by=-3h")
        after = await listener.until(lambda frame: frame["E"] < before["E"] - 1_000_000)
    passed_ms = (time.monotonic() - began) * 1000
    assert -10_800_000 <= after["E"] - before["E"] <= passed_ms - 10_800_000


async def test_control_address(server: ExchangeServer, client: aiohttp.ClientSession) -> None:
    control = f"http://127.0.0.1:{server.port}/control"
    async with Listener(server, client) as listener:
        async with client.post(
            control + "/faults", json={"fault": "mute:binance:BTCUSDT"}
        ) as answer:
            assert answer.status == 201
            number = (await answer.json())["id"]
        await listener.silence()
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
    delisting = server.disorder.add("delist:upbit:KRW-SOL")
    async with Listener(server, client) as listener:
        await until(lambda: halt.hits and delisting.hits)
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
