"""A TCP line to the database that a test cuts and opens again."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tests.waiting import free_port


class Line:
    """A line to a database's address.

    Attributes:
        url: the address by this line.
        made: how many connections were made.
        silent: whether new connections get no answer.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._port = free_port()
        login = self._target.netloc.rpartition("@")[0]
        self.url = self._target._replace(netloc=f"{login}@127.0.0.1:{self._port}").geturl()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.made = 0
        self.silent = False

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """End every connection and refuse others."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a connection may have been accepted just before the line was cut
        if self._server is None:
            writer.transport.abort()
            return
        self.made += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.silent:
                await reader.read()
                return
            host, port = self._target.hostname or "", self._target.port
            back_reader, back_writer = await asyncio.open_connection(host, port)
            self._writers.add(back_writer)
            await asyncio.gather(_copy(reader, back_writer), _copy(back_reader, writer))
            self._writers.discard(back_writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()
