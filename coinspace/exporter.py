"""Serves a process's metrics over HTTP on its event loop, for Prometheus.

The text is made at most once per reading of the counters, however many scrapers ask, and their
connections are bounded: scraping does not disturb the work.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable
from typing import cast

from coinspace.metrics import CONTENT_TYPE

# open connections; a scraper beyond them is refused
CONNECTIONS_LIMIT = 32
REQUEST_BYTES = 8192
# longer than the usual intervals between scrapes
IDLE_S = 75.0
# On loopback, the host of a request is localhost or an address: a web page can point a domain name
# of its own here and read what is served under that name ("DNS rebinding").
LOCAL = re.compile(
    rb"\r\nhost:[ \t]*(?:localhost|[\d.]+|\[[\da-f:.]+\])(?::\d{1,5})?[ \t]*\r\n", re.IGNORECASE
)


class Exporter:
    """Answers GET /metrics with the bytes that `text` returns.

    Attributes: address: "host:port" while it listens, else None. scrapes, refused: numbers.
    """

    def __init__(self, text: Callable[[], bytes]) -> None:
        self.text = text
        self.address: str | None = None
        self.open: set[ScrapeConnection] = set()
        self.scrapes = self.refused = 0
        self.loopback = False
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen. Args: port: 0 = any free one. Raises: OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ScrapeConnection(self), host, port)
        name, number = self._server.sockets[0].getsockname()[:2]
        self.loopback = ipaddress.ip_address(name).is_loopback
        self.address = f"[{name}]:{number}" if ":" in name else f"{name}:{number}"

    def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        self.address = None
        for connection in list(self.open):
            connection.end()


class ScrapeConnection(asyncio.Protocol):
    """One scraper's connection."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._request = b""
        # the scraper has not read the last answer yet
        self._full = False
        # no further request is answered; the last answer may still be in the buffer
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._exporter.open.add(self)
        self._wait()
        if len(self._exporter.open) > CONNECTIONS_LIMIT:
            self._refuse()

    def connection_lost(self, error: Exception | None) -> None:
        self._exporter.open.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def data_received(self, data: bytes) -> None:
        if len(self._request) + len(data) > REQUEST_BYTES:
            self._refuse()
            return
        self._request += data
        while self._transport is not None and not self._ended and b"\r\n\r\n" in self._request:
            head, _, self._request = self._request.partition(b"\r\n\r\n")
            if self._full:
                self._refuse()
                return
            self._answer(self._transport, head)

    def end(self) -> None:
        """End the connection at once, also while the scraper does not read its last answer."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self) -> None:
        self._exporter.refused += 1
        self.end()

    def _wait(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.end)

    def _answer(self, transport: asyncio.Transport, head: bytes) -> None:
        self._wait()
        line, _, fields = head.partition(b"\r\n")
        method, _, rest = line.partition(b" ")
        path, _, version = rest.partition(b" ")
        status, body = b"200 OK", b""
        if method not in (b"GET", b"HEAD"):
            status = b"405 Method Not Allowed"
        elif path.partition(b"?")[0] != b"/metrics":
            status = b"404 Not Found"
        elif self._exporter.loopback and not LOCAL.search(b"\r\n" + fields + b"\r\n"):
            status = b"421 Misdirected Request"
        else:
            self._exporter.scrapes += 1
            body = self._exporter.text()
        # a body that is not read would be taken for the next request
        last = (
            version != b"HTTP/1.1" or b"connection: close" in fields.lower() or status[:1] != b"2"
        )
        transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b"
            % (
                status,
                CONTENT_TYPE.encode(),
                len(body),
                b"Connection: close\r\n" if last else b"",
                b"" if method == b"HEAD" else body,
            )
        )
        if last:
            self._ended = True
            transport.close()
