"""`coinspace simulate` and `coinspace replay` as separate processes, on uvloop."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson


@asynccontextmanager
async def served(*arguments: str) -> AsyncIterator[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coinspace", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        yield orjson.loads(line)
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def test_simulate_serves_every_exchange_and_takes_faults() -> None:
    async with served("simulate", "--fault", "mute:bithumb:after=3600") as ready:
        assert set(ready["exchanges"]) == {"upbit", "bithumb", "binance"}
        async with aiohttp.ClientSession() as client:
            for name in ("upbit", "bithumb"):
                async with client.ws_connect(ready["exchanges"][name]["websocket"]) as socket:
                    await socket.send_json(
                        [{"ticket": "t"}, {"type": "orderbook", "codes": ["KRW-ETH"]}]
                    )
                    for _ in range(4):
                        message = await socket.receive(timeout=60)
                        assert message.type == aiohttp.WSMsgType.BINARY
            url = ready["exchanges"]["binance"]["websocket"] + "/ws/btcusdt@depth@100ms"
            socket = await client.ws_connect(url)
            assert (await socket.receive(timeout=60)).type == aiohttp.WSMsgType.TEXT
            fault = {"fault": "reset:binance"}
            async with client.post(ready["control"] + "/faults", json=fault) as answer:
                assert answer.status == 201
            while (await socket.receive(timeout=60)).type == aiohttp.WSMsgType.TEXT:
                pass
            assert socket.close_code == 1006
            async with client.get(ready["control"]) as answer:
                assert [one["hits"] for one in (await answer.json())["faults"]] == [0, 1]


async def test_replay_serves_a_simulated_feed(tmp_path: Path) -> None:
    target = tmp_path / "demo.feed.zst"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coinspace", "simulate", "--record", str(target),
        "--duration", "5", "--exchange", "upbit",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert orjson.loads(out)["path"] == str(target)
    async with served("replay", str(target), "--speed", "max") as ready:
        url = ready["exchanges"]["upbit"]["websocket"]
        async with aiohttp.ClientSession() as client, client.ws_connect(url) as socket:
            await socket.send_json([{"ticket": "t"}, {"type": "trade", "codes": ["KRW-BTC"]}])
            trade = orjson.loads((await socket.receive(timeout=60)).data)
            assert (trade["code"], trade["stream_type"]) == ("KRW-BTC", "SNAPSHOT")


async def test_simulated_exchanges_end_with_their_supervisor() -> None:
    # starts them as the supervisor does, and is killed
    parent = (
        "import os, subprocess, sys; child = subprocess.Popen("
        "[sys.executable, '-m', 'coinspace', 'simulate', '--exchange', 'upbit'],"
        " env={**os.environ, 'COINSPACE_PARENT': str(os.getpid())}); child.wait()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    process.kill()
    # the child keeps the pipe open until it ends
    assert await asyncio.wait_for(process.stdout.read(), 60) == b""
    await process.wait()
