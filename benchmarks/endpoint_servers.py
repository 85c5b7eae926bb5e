"""Servers that the endpoint is measured against: `python -m benchmarks.endpoint_servers NAME`.

All on uvloop; the HTTP ones on the HTTP server of the endpoint. The first line on stdout is the
port. Settings come from the environment, the data folder too. Fan-out servers send 5 events a
second, the same bytes as ours, to everyone connected.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, cast

import uvloop
from msgspec.structs import replace

from coinspace._ext.message import INDEX, Message, encode_header
from coinspace.config import EndpointSettings, load
from coinspace.endpoint.http.server import HttpServer
from coinspace.endpoint.live.hub import StreamEvent
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.worker import Endpoint
from coinspace.method.record import encode
from tests.flow.endpoint_stage import record

EVENT_INTERVAL_S = 0.2


def open_files() -> None:
    """Allow as many sockets as the machine does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))


def message() -> Message:
    """An index message stamped now, as the calculator publishes it."""
    payload = encode(replace(record(), ts_ms=time.time_ns() // 1_000_000))
    return Message.decode(b"index.BTC.", encode_header(INDEX, payload_size=len(payload)), payload)


async def ours(events: bool) -> int:
    settings = load(os.devnull)
    settings.endpoint.port = 0
    (settings.data / "run").mkdir()
    endpoint = Endpoint(settings)
    await endpoint.start()
    endpoint.live.on_message(message())

    async def publish() -> None:
        while True:
            await asyncio.sleep(EVENT_INTERVAL_S)
            endpoint.live.on_message(message())

    if events:
        _keep(publish())
    return endpoint.server.port


async def bare_asgi(events: bool) -> int:
    latest = Latest(record())

    async def app(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        body = latest.body(time.time_ns() // 1_000_000, 3000)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return await _serve(app)


async def fastapi(events: bool) -> int:
    from fastapi import FastAPI
    from fastapi.responses import Response

    app = FastAPI()
    latest = Latest(record())

    @app.get("/v1/indices/{asset}")
    async def index(asset: str) -> Response:
        body = latest.body(time.time_ns() // 1_000_000, 3000)
        return Response(body, media_type="application/json")

    return await _serve(app)


async def _serve(app: Any) -> int:
    server = HttpServer(app, EndpointSettings(port=0))
    await server.start()
    return server.port


class Raw(asyncio.Protocol):
    """Answers the head of a stream or handshake, then only writes the given bytes."""

    clients: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if b"Upgrade: websocket" in data:
            self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        elif data.startswith(b"GET"):
            self.transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        else:
            return
        self.clients.add(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.clients.discard(self.transport)


async def raw(events: bool) -> int:
    server = await asyncio.get_running_loop().create_server(Raw, "127.0.0.1", 0, backlog=2048)

    async def publish() -> None:
        while True:
            await asyncio.sleep(EVENT_INTERVAL_S)
            body = Latest(record()).body(time.time_ns() // 1_000_000, 3000)
            frame = StreamEvent(1, "index.BTC", "index", body, "boot").sse
            for transport in Raw.clients:
                transport.write(frame)

    _keep(publish())
    return int(server.sockets[0].getsockname()[1])


_tasks: set[asyncio.Task[None]] = set()


def _keep(work: Any) -> None:
    _tasks.add(asyncio.create_task(work))


SERVERS = {"ours": ours, "bare ASGI": bare_asgi, "FastAPI": fastapi, "raw": raw}


async def main(name: str, events: bool) -> None:
    """Serve until the parent closes our stdin."""
    open_files()
    port = await SERVERS[name](events)
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], len(sys.argv) > 2))
