"""Clients that only receive: one a process, each reporting what a frame cost it.

`python -m benchmarks.receivers NAME PORT`. CPU time of the whole process is read after a warm-up
and again after a window; both ends of the ratio read the same stream.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import cast

import orjson
import uvloop

WARM_UP = 5_000
WINDOW_S = 0.7


class Window:
    """Counts frames; after the warm-up measures the CPU time of a window, then is done."""

    def __init__(self) -> None:
        self.frames = 0
        self.done = asyncio.Event()
        self._start: tuple[int, int, int] | None = None
        self.result: dict[str, float] = {}

    def check(self) -> None:
        """Look whether the window begins or ends; called now and then, not per frame."""
        now = time.perf_counter_ns()
        if self._start is None:
            if self.frames >= WARM_UP:
                self._start = self.frames, time.process_time_ns(), now
            return
        frames, cpu, wall = self._start
        if now - wall > WINDOW_S * 1e9 and not self.done.is_set():
            count = self.frames - frames
            self.result = {
                "cpu_ns": (time.process_time_ns() - cpu) / count,
                "frames": count,
            }
            self.done.set()


async def raw(port: int, window: Window, frame_size: int) -> None:
    """A bare uvloop protocol: bytes arrive in its buffer and are counted, frames not looked at."""

    class Raw(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(256 * 1024)
            self.total = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport = cast(asyncio.Transport, transport)
            key = base64.b64encode(os.urandom(16))
            transport.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: " + key + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            asyncio.get_running_loop().call_later(0.1, transport.write, b"\x81\x80\0\0\0\0")

        def get_buffer(self, _hint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, size: int) -> None:
            self.total += size
            window.frames = self.total // frame_size

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Raw, "127.0.0.1", port)
    await ticking(window)
    transport.close()


async def ticking(window: Window) -> None:
    while not window.done.is_set():
        window.check()
        await asyncio.sleep(0.01)


async def ours(port: int, window: Window, _frame_size: int) -> None:
    """The collectors' own Cython listener, with a parser that reads nothing."""
    from picows import WSMsgType, WSTransport, ws_connect

    from benchmarks.native import limits
    from coinspace._ext.collector_listener import FrameListener

    class Owner:
        def on_open(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b"[]")

        def on_close(self, code: int, reason: str) -> None:
            raise AssertionError(f"closed: {code} {reason}")

        def on_failure(self, error: Exception, frame: bytes) -> None:
            raise error

        def on_lost(self, error: BaseException | None) -> None:
            pass

    listener = FrameListener(limits().IdleCollector(), 1, Owner())
    transport, _ = await ws_connect(lambda: listener, f"ws://127.0.0.1:{port}/")
    while not window.done.is_set():
        window.frames = listener.frames
        window.check()
        await asyncio.sleep(0.01)
    transport.disconnect(False)


async def picows_python(port: int, window: Window, _frame_size: int) -> None:
    """picows with a listener written in Python that takes each payload as bytes."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b"[]")

        def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
            frame.get_payload_as_bytes()
            window.frames += 1

    transport, _ = await ws_connect(Listener, f"ws://127.0.0.1:{port}/")
    await ticking(window)
    transport.disconnect(False)


async def counted(messages: AsyncIterable[object], window: Window) -> None:
    """Count messages until the window is done, then end the process at once."""
    async for _message in messages:
        window.frames += 1
        if not window.frames & 255:
            window.check()
            if window.done.is_set():
                os._exit(_report(window))


async def websockets(port: int, window: Window, _frame_size: int) -> None:
    """websockets as documented, compression off."""
    from websockets.asyncio.client import connect

    url = f"ws://127.0.0.1:{port}/"
    async with connect(url, compression=None, max_size=None, ping_interval=None) as socket:
        await socket.send("[]")
        await counted(socket, window)


async def aiohttp(port: int, window: Window, _frame_size: int) -> None:
    """aiohttp as documented."""
    from aiohttp import ClientSession

    async with ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}/") as ws:
        await ws.send_str("[]")
        await counted(ws, window)


CLIENTS: dict[str, Callable[[int, Window, int], Awaitable[None]]] = {
    "raw uvloop protocol": raw,
    "CoinSpace": ours,
    "picows, Python listener": picows_python,
    "aiohttp": aiohttp,
    "websockets": websockets,
}


def _report(window: Window) -> int:
    print(orjson.dumps(window.result).decode(), flush=True)
    return 0


async def main() -> None:
    name, port, frame_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    window = Window()
    await CLIENTS[name](port, window, frame_size)
    _report(window)


if __name__ == "__main__":
    uvloop.run(main())
