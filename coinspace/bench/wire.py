"""A WebSocket on the loopback for the stage `receive`: a thread sends, this thread reads."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import uvloop
from picows import WSListener, WSTransport, ws_connect, ws_create_server

from coinspace._ext.collector import Collector
from coinspace._ext.collector_listener import FrameListener
from coinspace.errors import CoinSpaceError
from coinspace.simulator.connection import TEXT, encode_frame

TIMEOUT_S = 10.0


class Sender(WSListener):
    """The server's end of the connection."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport: asyncio.Transport = transport.underlying_transport
        self.opened.set()


class Wire:
    """One connection whose frames reach a collector through the live listener."""

    def __init__(self, collector: Collector[Any], frames: list[bytes]) -> None:
        self._block = b"".join(encode_frame(TEXT, frame) for frame in frames)
        self._count = len(frames)
        self._sender = Sender()
        self._sending = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._sending.run_forever, name="wire", daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._serve(), self._sending)
        self._server = started.result(TIMEOUT_S)
        self._loop = uvloop.new_event_loop()
        self._listener = FrameListener(collector, 1, self)
        self._transport = self._loop.run_until_complete(self._connect())
        self._sender.opened.wait(TIMEOUT_S)

    async def _serve(self) -> asyncio.Server:
        return await ws_create_server(lambda _request: self._sender, "127.0.0.1", 0)

    async def _connect(self) -> WSTransport:
        port = self._server.sockets[0].getsockname()[1]
        transport, _ = await ws_connect(lambda: self._listener, f"ws://127.0.0.1:{port}/")
        return transport

    def run(self) -> None:
        """Send all frames once, and read them.

        Raises: CoinSpaceError when frames do not arrive.
        """
        self._sending.call_soon_threadsafe(self._sender.transport.write, self._block)
        self._loop.run_until_complete(self._read(self._listener.frames + self._count))

    async def _read(self, expected: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while self._listener.frames < expected:
            if time.monotonic() > deadline:
                missing = expected - self._listener.frames
                raise CoinSpaceError(f"receive: {missing} frames did not arrive in {TIMEOUT_S:g} s")
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self._transport.disconnect(False)
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self._sending.call_soon_threadsafe(self._server.close)
        self._sending.call_soon_threadsafe(self._sending.stop)
        self._thread.join(TIMEOUT_S)

    # callbacks of the listener

    def on_open(self, transport: WSTransport) -> None: ...
    def on_close(self, code: int, reason: str) -> None: ...
    def on_lost(self, error: BaseException | None) -> None: ...
    def on_failure(self, error: Exception, frame: bytes) -> None: ...
