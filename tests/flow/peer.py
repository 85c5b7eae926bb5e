"""A WebSocket server that follows a script, and a connection to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from structlog.testing import capture_logs

from coinspace._ext.sink import ListSink
from coinspace.collector.connection import Connection
from coinspace.collector.limits import Window
from coinspace.collector.ticker import TickerStage
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Limit, Subscription
from tests.waiting import until

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SYMBOL, MARKET = "KRW-BTC", "BTC/KRW"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Caller:
    """One connection as the server sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """Read the request for an upgrade; return its key."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = [line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line]
        return {name.lower(): value for name, value in lines}[b"sec-websocket-key"]

    async def accept(self) -> None:
        """Answer the upgrade."""
        key = await self.request()
        accepted = base64.b64encode(hashlib.sha1(key + GUID).digest())
        await self.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accepted + b"\r\n\r\n"
        )

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_frame(self, opcode: int, payload: bytes = b"", first: int = 0x80) -> None:
        """Send a frame. Args: first: bits of the first byte beside the opcode."""
        n = len(payload)
        size = bytes([n]) if n < 126 else b"\x7e" + struct.pack("!H", n)
        await self.send(bytes([first | opcode]) + size + payload)

    async def frame(self) -> tuple[int, bytes]:
        """Read a frame of the client; return its opcode and payload."""
        first, second = await self.reader.readexactly(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        mask = await self.reader.readexactly(4)
        masked = await self.reader.readexactly(size)
        return first & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(masked))

    async def until_closed(self) -> int | None:
        """Read until the end of the connection; return the client's close code, if it sent one."""
        code = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
        return code

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Caller], Awaitable[None]]


class Calls:
    """A connection to a scripted server, and what it reported."""

    def __init__(self, port: int, exchange: str = "upbit", seed: int = 1) -> None:
        self.sink = ListSink()
        chosen = exchange_named(exchange)
        self.stage = TickerStage(chosen, [(SYMBOL, MARKET)], self.sink)
        subscription = Subscription(f"ws://127.0.0.1:{port}/", (b"[]",), (SYMBOL,))
        window = Window(Limit(100, 1.0))
        self.connection = Connection(chosen, subscription, self.stage, window, seed=seed)
        # asyncio's complaints about futures and callbacks whose errors were never read
        self.unowned: list[dict[str, Any]] = []
        self.lines: list[Any] = []

    @property
    def reasons(self) -> list[str]:
        """Return the reasons of connects and disconnects, in the order of the reports."""
        states = [message.json() for message in self.sink.messages if message.kind_name == "state"]
        return [state["reason"] for state in states if state["reason"]]

    def warnings(self) -> list[Any]:
        return [line for line in self.lines if line["log_level"] in ("warning", "error")]

    async def until(self, condition: Callable[[], object], what: str) -> None:
        await until(condition, what, shown=lambda: (self.reasons, self.lines))


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[int]:
    """Serve one script to every caller; yields the port."""
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(Caller(reader, writer))
        finally:
            handlers.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def calling(port: int, **options: Any) -> AsyncIterator[Calls]:
    """Keep a connection to a port; no task may be left at the end."""
    calls = Calls(port, **options)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: calls.unowned.append(context))
    with capture_logs() as calls.lines:
        task = asyncio.create_task(calls.connection.run())
        try:
            yield calls
        finally:
            calls.connection.end()
            await asyncio.wait_for(task, 60)
    # asyncio reports a future whose error was never read when the future is collected
    import gc

    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert not calls.unowned
    assert not calls.connection.links
