"""A WebSocket on the loopback for the stage `receive`: a thread sends, this thread reads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import queue
import socket
import threading
import time
from typing import Any

import uvloop
from picows import WSTransport, ws_connect

from coinspace._ext.collector import Collector
from coinspace._ext.collector_listener import FrameListener
from coinspace.errors import CoinSpaceError
from coinspace.simulator.connection import TEXT, encode_frame

# RFC 6455, 1.3: what a server appends to the client's key
ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TIMEOUT_S = 10.0


class Wire:
    """One connection whose frames reach a collector through the live listener."""

    def __init__(self, collector: Collector[Any], frames: list[bytes]) -> None:
        self._collector = collector
        self._block = b"".join(encode_frame(TEXT, frame) for frame in frames)
        self._count = len(frames)
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="wire", daemon=True)
        self._thread.start()
        self._loop = uvloop.new_event_loop()
        self._transport, self._listener = self._loop.run_until_complete(self._connect())

    async def _connect(self) -> tuple[WSTransport, FrameListener]:
        port = self._listening.getsockname()[1]
        transport, listener = await ws_connect(
            lambda: FrameListener(self._collector, 1, self), f"ws://127.0.0.1:{port}/"
        )
        assert isinstance(listener, FrameListener)
        return transport, listener

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            key = next(
                line.partition(b":")[2].strip()
                for line in request.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key:")
            )
            accepted = base64.b64encode(hashlib.sha1(key + ACCEPT).digest())
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
            )
            while (block := self._orders.get()) is not None:
                connection.sendall(block)

    def run(self) -> None:
        """Send all frames once, and read them.

        Raises: CoinSpaceError when frames do not arrive.
        """
        self._orders.put(self._block)
        self._loop.run_until_complete(self._read(self._listener.frames + self._count))

    async def _read(self, expected: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while self._listener.frames < expected:
            if time.monotonic() > deadline:
                missing = expected - self._listener.frames
                raise CoinSpaceError(f"receive: {missing} frames did not arrive in {TIMEOUT_S:g} s")
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self._orders.put(None)
        self._transport.disconnect(False)
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self._thread.join(TIMEOUT_S)
        self._listening.close()

    # callbacks of the listener

    def on_open(self, transport: WSTransport) -> None: ...
    def on_close(self, code: int, reason: str) -> None: ...
    def on_lost(self, error: BaseException | None) -> None: ...
    def on_failure(self, error: Exception, frame: bytes) -> None: ...
