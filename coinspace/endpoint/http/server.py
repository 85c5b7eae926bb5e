"""The HTTP server: a listening socket, its connections, and their bounds in number and time.

CoinSpace has its own server, on httptools' parser and `websockets`' protocol, for three reasons. It
runs on the loop that also reads the bus. Each limit and each answer is CoinSpace's. And the hub
writes to transports directly: an event is framed once and needs no task per client.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from email.utils import formatdate

from coinspace.config import EndpointSettings
from coinspace.endpoint.http.addresses import Proxies, group, is_loopback
from coinspace.endpoint.http.connection import (
    App,
    ClientConnection,
    HttpConnection,
    State,
    Timeouts,
)
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.endpoint.http.websocket import WebSocketConnection
from coinspace.errors import EndpointError

SOCKET_BACKLOG = 2048
STOP_CHECKS, STOP_CHECK_S = 300, 0.01
# file descriptors that the process needs besides clients' connections
RESERVED_FILES = 200
# seconds after which a refused client may try again
RETRY_S = 5


class HttpServer(State):
    """The listening socket and the server on it."""

    def __init__(
        self, app: App, settings: EndpointSettings, timeouts: Timeouts | None = None
    ) -> None:
        super().__init__(app, timeouts or Timeouts(), WebSocketConnection)
        self.socket = bind(settings.host, settings.port)
        self.host: str = self.socket.getsockname()[0]
        self.port: int = self.socket.getsockname()[1]
        self.most = min(settings.max_connections, _open_files() - RESERVED_FILES)
        self.most_per_address = settings.connections_per_address
        self.limit_loopback = settings.limit_loopback
        self.proxies = Proxies(settings.trusted_proxies)
        self.rejected = 0
        self._groups: dict[str, int] = {}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def url(self) -> str:
        """Base URL, for users and tools on this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self.open)

    async def start(self) -> None:
        """Start to accept connections."""
        loop = asyncio.get_running_loop()
        self._sweep()
        self._server = await loop.create_server(
            lambda: HttpConnection(self), sock=self.socket, backlog=SOCKET_BACKLOG
        )

    async def stop(self) -> None:
        """Stop accepting, let requests finish for at most 3 s, close everything."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.open):
            connection.shutdown()
        for _ in range(STOP_CHECKS):
            if not self.open:
                break
            await asyncio.sleep(STOP_CHECK_S)
        for connection in tuple(self.open):
            connection.transport.abort()
        await self.tasks.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self.socket.close()

    def admit(self, connection: ClientConnection) -> Problem | None:
        name = group(connection.address)
        count = self._groups[name] = self._groups.get(name, 0) + 1
        if len(self.open) >= self.most:
            reason = f"{self.most} connections are open"
        elif self._counted(connection) and count > self.most_per_address:
            reason = f"{self.most_per_address} connections of {name} are open"
        else:
            return None
        self.rejected += 1
        return retry_later(
            "too-many-connections", f"no room for another connection, {reason}", RETRY_S
        )

    def gone(self, connection: ClientConnection) -> None:
        super().gone(connection)
        name = group(connection.address)
        self._groups[name] -= 1
        if not self._groups[name]:
            del self._groups[name]

    def _counted(self, connection: ClientConnection) -> bool:
        address = connection.address
        if self.proxies.trusted(address):
            return False
        return self.limit_loopback or not is_loopback(address)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timeouts.sweep, self._sweep)
        self.date = b"date: %b\r\n" % formatdate(usegmt=True).encode()
        now = loop.time()
        for connection in tuple(self.open):
            connection.check(now)

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        return {
            "connections": self.connections,
            "connections_rejected": self.rejected,
            "connections_late": self.late,
            "connections_unread": self.unread,
            "requests_unreadable": self.refused,
        }


def _open_files() -> int:
    """Raise the limit of open files as far as allowed, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


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
