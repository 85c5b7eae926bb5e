"""Connect to exchanges and record what they send, without any of the platform's stages."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import orjson
import structlog

from coinspace.clock import now_ns
from coinspace.config import ExchangeSettings
from coinspace.feed.recorder import Recorder
from coinspace.market import Market, dashed_symbol, joined_symbol

CHANNELS = ("orderbook", "ticker", "trade")
BINANCE_STREAMS = {
    "orderbook": ("depth@100ms", "bookTicker"),
    "ticker": ("ticker",),
    "trade": ("trade",),
}
PING_S = 15.0
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
STABLE_S = 30.0
# Binance: one snapshot of 5,000 levels weighs 250 of 6,000 a minute
SNAPSHOT_SPACING_S = 3.0
_DIFF = re.compile(rb'"s":"([A-Z0-9]+)","U":(\d+),"u":(\d+)')


class Capture:
    """Record one exchange until stopped; reconnects by itself and marks every interruption."""

    def __init__(
        self,
        exchange: str,
        settings: ExchangeSettings,
        channels: Sequence[str],
        recorder: Recorder,
    ) -> None:
        self.exchange = exchange
        self.settings = settings
        self.channels = channels
        self.recorder = recorder
        self.markets = [Market.parse(text) for text in settings.markets if "*" not in text]
        self._log = structlog.get_logger("record").bind(exchange=exchange)
        self._ids: dict[bytes, int] = {}
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        self.counters = {"frames": 0, "connects": 0, "gaps": 0, "snapshots": 0}

    def _url(self) -> str:
        if self.exchange != "binance":
            return self.settings.websocket
        streams = [
            f"{joined_symbol(market).lower()}@{stream}"
            for market in self.markets
            for channel in self.channels
            for stream in BINANCE_STREAMS[channel]
        ]
        return f"{self.settings.websocket}/stream?streams={'/'.join(streams)}"

    def _request(self) -> bytes | None:
        if self.exchange == "binance":
            return None
        codes = [dashed_symbol(market) for market in self.markets]
        return orjson.dumps(
            [
                {"ticket": f"coinspace-{now_ns()}"},
                *({"type": channel, "codes": codes} for channel in self.channels),
                {"format": "DEFAULT"},
            ]
        )

    async def run(self) -> None:
        """Record until cancelled."""
        retry_s = FIRST_RETRY_S
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession() as client:
            snapshots = asyncio.create_task(self._take_snapshots(client))
            try:
                while True:
                    begin_s = loop.time()
                    reason = await self._connection(client)
                    self.recorder.mark("disconnect", reason=reason)
                    if loop.time() - begin_s > STABLE_S:
                        retry_s = FIRST_RETRY_S
                    self._log.warning("disconnected", reason=reason, retry_s=retry_s)
                    await asyncio.sleep(retry_s * (0.8 + 0.4 * random.random()))
                    retry_s = min(LAST_RETRY_S, retry_s * 2)
            finally:
                snapshots.cancel()

    async def _connection(self, client: aiohttp.ClientSession) -> str:
        try:
            async with client.ws_connect(
                self._url(), heartbeat=PING_S, max_msg_size=0, compress=0
            ) as socket:
                self.counters["connects"] += 1
                self.recorder.mark("connect")
                self._ids.clear()
                request = self._request()
                if request is not None:
                    self.recorder.sent(now_ns(), request)
                    await socket.send_bytes(request)
                async for message in socket:
                    received_ns = now_ns()
                    data = message.data
                    payload = data.encode() if isinstance(data, str) else bytes(data)
                    self.counters["frames"] += 1
                    self.recorder.frame(received_ns, payload)
                    if self.exchange == "binance":
                        self._follow(payload)
                return f"closed with {socket.close_code}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"

    def _follow(self, payload: bytes) -> None:
        found = _DIFF.search(payload, 0, 200)
        if found is None:
            return
        symbol, first, final = found[1], int(found[2]), int(found[3])
        last = self._ids.get(symbol)
        if last is None:
            self._wanted.put_nowait(symbol.decode())
        elif first > last + 1:
            self.counters["gaps"] += 1
            self.recorder.mark("gap", symbol=symbol.decode(), expected=last + 1, found=first)
            self._wanted.put_nowait(symbol.decode())
        self._ids[symbol] = final

    async def _take_snapshots(self, client: aiohttp.ClientSession) -> None:
        while True:
            symbol = await self._wanted.get()
            query = {"symbol": symbol, "limit": self.settings.snapshot_depth}
            path = f"/api/v3/depth?{urlencode(query)}"
            try:
                async with client.get(self.settings.rest + path) as answer:
                    body = await answer.read()
                    wait_s = float(answer.headers.get("Retry-After", SNAPSHOT_SPACING_S))
                    if answer.status == 200:
                        self.counters["snapshots"] += 1
                        self.recorder.rest(now_ns(), path, body)
                    else:
                        self.recorder.mark("refused", path=path, status=answer.status)
                        self._wanted.put_nowait(symbol)
                        await asyncio.sleep(wait_s)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.recorder.mark("refused", path=path, reason=str(error))
                self._wanted.put_nowait(symbol)
                await asyncio.sleep(SNAPSHOT_SPACING_S)
            await asyncio.sleep(SNAPSHOT_SPACING_S / 10)


async def capture(
    settings: dict[str, ExchangeSettings],
    folder: Path,
    channels: Sequence[str],
    stopping: asyncio.Event,
    *,
    max_bytes: int,
    segment_s: float,
) -> dict[str, dict[str, int | float]]:
    """Record several exchanges until `stopping`; return the counters of each."""
    captures = []
    for exchange, one in settings.items():
        recorder = Recorder(
            folder,
            exchange,
            "-".join(channels),
            one.websocket,
            max_bytes=max_bytes // len(settings),
            segment_s=segment_s,
        )
        captures.append(Capture(exchange, one, channels, recorder))
    tasks = [asyncio.create_task(one.run()) for one in captures]
    try:
        await stopping.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for done in captures:
            await asyncio.to_thread(done.recorder.close)
    return {done.exchange: {**done.counters, **done.recorder.counters()} for done in captures}
