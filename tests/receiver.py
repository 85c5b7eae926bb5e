"""A local receiver of alerts whose answers a test sets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

# what an answer may be, besides its bytes
NEVER, CLOSE = "never", "close"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Receiver:
    """Gives each request the next answer of the script, and 200 at its end.

    Attributes:
        requests: (path, headers, JSON body) of each request, whatever was answered.
        taken: the bodies of those that were answered with 200.
    """

    def __init__(self) -> None:
        self.script: list[bytes | str] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.taken: list[Any] = []
        self.port = 0
        self._ended = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/a-secret-path"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError),
        ):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            body = orjson.loads(await reader.readexactly(int(headers["content-length"])))
            self.requests.append((first.split()[1], headers, body))
            said = self.script.pop(0) if self.script else OK
            if said == NEVER:
                await self._ended.wait()
            elif said != CLOSE:
                assert isinstance(said, bytes)
                if said.startswith(b"HTTP/1.1 200"):
                    self.taken.append(body)
                writer.write(said)
                await writer.drain()

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Receiver]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._ended.set()
            server.close()
            if self._serving:
                await asyncio.wait(self._serving, timeout=10)
