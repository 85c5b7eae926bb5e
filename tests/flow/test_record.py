"""`coinspace record` against the simulated exchanges, and the recording replayed."""

import asyncio
import math
from pathlib import Path

import aiohttp
import orjson

from coinspace.config import load
from coinspace.feed.capture import CHANNELS, Capture, capture
from coinspace.feed.format import FeedReader
from coinspace.feed.playback import Playback
from coinspace.feed.recorder import Recorder
from coinspace.feed.server import ExchangeServer


def only(folder: Path, exchange: str) -> Path:
    [path] = folder.glob(f"{exchange}-*.feed.zst")
    return path


async def test_recording_all_exchanges(tmp_path: Path) -> None:
    async with ExchangeServer() as server:
        settings = load().exchanges
        for name, urls in server.urls.items():
            settings[name].websocket, settings[name].rest = urls["websocket"], urls["rest"]
        stopping = asyncio.Event()
        asyncio.get_running_loop().call_later(3.0, stopping.set)
        counters = await capture(
            settings, tmp_path, CHANNELS, stopping, max_bytes=1 << 30, segment_s=60
        )
    for name in ("upbit", "bithumb", "binance"):
        assert counters[name]["frames"] > 50
        assert counters[name]["record_dropped"] == counters[name]["gaps"] == 0
        path = only(tmp_path, name)
        with FeedReader(path) as reader:
            records = list(reader)
            assert not reader.torn
        assert sum(r.direction == "<" for r in records) == counters[name]["frames"]
        assert records[0].mark()["mark"] == "connect"
    snapshots = [r for r in records if r.direction == "GET"]
    assert len(snapshots) == counters["binance"]["snapshots"] == 4
    await replay_continues(only(tmp_path, "binance"))


async def replay_continues(path: Path) -> None:
    source = Playback([path], speed=math.inf, settle_s=0.1)
    async with ExchangeServer(source) as server, aiohttp.ClientSession() as client:
        urls = server.urls["binance"]
        url = f"{urls['websocket']}/ws/ethusdt@depth@100ms"
        async with client.ws_connect(url) as socket:
            depth = f"{urls['rest']}/api/v3/depth?symbol=ETHUSDT&limit=5000"
            async with client.get(depth) as answer:
                last = (await answer.json())["lastUpdateId"]
            applied = 0
            while applied < 10:
                diff = orjson.loads((await socket.receive(timeout=5)).data)
                if diff["u"] > last:
                    assert diff["U"] <= last + 1
                    last, applied = diff["u"], applied + 1


async def test_an_interruption_is_marked_and_healed(tmp_path: Path) -> None:
    async with ExchangeServer() as server:
        settings = load().exchanges["upbit"]
        settings.websocket = server.urls["upbit"]["websocket"]
        recorder = Recorder(tmp_path, "upbit", "all", settings.websocket)
        one = Capture("upbit", settings, ["trade"], recorder)
        task = asyncio.create_task(one.run())
        await asyncio.sleep(0.5)
        for connection in server.all_connections():
            connection.abort()
        await asyncio.sleep(2.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        recorder.close()
    path = only(tmp_path, "upbit")
    with FeedReader(path) as reader:
        marks = [record.mark()["mark"] for record in reader if record.direction == "!"]
    assert marks == ["connect", "disconnect", "connect"]
