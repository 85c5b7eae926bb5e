"""uvicorn inside our own process and loop, with the connection reachable from a request.

uvicorn rather than granian: it runs on the loop that also reads the bus, its WebSockets cost a
third (27.6 against 87.9 µs per delivery, 2026-11), and its transports are ours, so that a
stream's message is framed once and written to every client without a task per client waking up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from coinspace.config import EndpointSettings
from coinspace.endpoint.problem import MEDIA, Problem
from coinspace.errors import EndpointError
from coinspace.tasks import OnFailure, Tasks, log_failure

if TYPE_CHECKING:
    from coinspace.endpoint.hub import Client

CONNECTION = "coinspace.connection"
# a client that has not finished its first request by then is closed
FIRST_REQUEST_S = 20.0
SOCKET_BACKLOG = 2048
WEBSOCKET_MESSAGE_LIMIT = 16 * 1024
# requests may finish for so long; the server itself needs a moment more
GRACE_S = 3
STOP_S = GRACE_S + 2.0


class HttpConnection(HttpToolsProtocol):
    """An HTTP connection that can become the sink of a stream."""

    client_stream: Client | None = None
    _first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._first = self.loop.call_later(FIRST_REQUEST_S, self._no_request)

    def _no_request(self) -> None:
        cycle: Any = self.cycle
        if cycle is None and not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: Any = self.scope
        scope["extensions"] = {CONNECTION: self}
        if self._first is not None:
            self._first.cancel()
            self._first = None

    def send_400_response(self, msg: str) -> None:
        # what the parser refuses reaches no application; it is a problem all the same
        problem = Problem("invalid-request", f"expected HTTP/1.1 with a URL below 64 KiB; {msg}")
        body = problem.body()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\n"
            b"cache-control: no-store\r\nconnection: close\r\n\r\n%b" % (MEDIA, len(body), body)
        )
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._first is not None:
            self._first.cancel()
        super().connection_lost(exc)
        if self.client_stream is not None:
            self.client_stream.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.client_stream is not None:
            self.client_stream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.client_stream is not None:
            self.client_stream.resume()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A WebSocket connection whose text frames may be written ready-made."""

    client_stream: Client | None = None

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"][CONNECTION] = self

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.client_stream is not None:
            self.client_stream.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.client_stream is not None:
            self.client_stream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.client_stream is not None:
            self.client_stream.resume()


def connection(scope: Any) -> HttpConnection | WebSocketConnection:
    """Return the connection that a request came on."""
    found: HttpConnection | WebSocketConnection = scope["extensions"][CONNECTION]
    return found


class _Embedded(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # signals belong to coinspace.process
        yield


class HttpServer:
    """The listening socket and the server on it."""

    def __init__(
        self, app: Any, settings: EndpointSettings, on_failure: OnFailure = log_failure
    ) -> None:
        self.socket = bind(settings.host, settings.port)
        self.address: str = self.socket.getsockname()[0]
        self.port: int = self.socket.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=HttpConnection,
            ws=WebSocketConnection,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws_per_message_deflate=False,
            ws_max_size=WEBSOCKET_MESSAGE_LIMIT,
            backlog=SOCKET_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Embedded(config)
        self._tasks = Tasks(on_failure)

    @property
    def url(self) -> str:
        """Base URL, for people and tools on this machine."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Begin to accept."""
        task = self._tasks.spawn("http server", self._server.serve(sockets=[self.socket]))
        while not self._server.started:
            if task.done():
                await task
                raise EndpointError(f"the HTTP server on {self.url} ended while starting")
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Stop accepting, let requests finish for at most 3 s, close everything."""
        self._server.should_exit = True
        await self._tasks.finish(STOP_S)
        self.socket.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket.

    Raises: EndpointError saying which setting to change.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise EndpointError(
            f"endpoint.host: expected an address of this machine, was {host!r}, {error}"
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise EndpointError(
                f"endpoint.port: expected a free port, was {port} on {host}, which is in use;"
                " set endpoint.port or COINSPACE_ENDPOINT__PORT (0 takes any free one)"
            ) from None
        raise EndpointError(
            f"endpoint: cannot listen on {host} port {port}, {error.strerror}"
        ) from None
    return bound
