"""One connection of the HTTP server: bytes in, requests to the application, answers out.

A request reaches the application when it has arrived completely, with its body. No route reads a
body: one of at most 4 KiB is read and dropped, a longer one is refused. A request that is refused
before it reaches the application is also answered with a problem, which ends the connection. Memory
and waiting time for a client are bounded; the server calls `check` each second.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import httptools
import structlog

from coinspace.endpoint.http.problem import MEDIA, Problem
from coinspace.errors import StorageError
from coinspace.tasks import Tasks

CONNECTION = "coinspace.connection"
HEADERS_LIMIT = 100
HEADERS_BYTES = 16 * 1024
TARGET_BYTES = 8 * 1024
BODY_BYTES = 4096
# requests that a client may send before it has read the first answer
PIPELINE_LIMIT = 32
# allows for a body in chunks of one byte
REQUEST_BYTES = TARGET_BYTES + HEADERS_BYTES + 8 * BODY_BYTES
# a client must read this many bytes in each write time-out
WRITE_BYTES = 16 * 1024
# WebSocket of RFC 6455; there is no other
WEBSOCKET_VERSION = b"13"

_CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none';"
    b" form-action 'none'; frame-ancestors 'none'"
)
# every answer carries them
SECURITY = (
    b"content-security-policy: %b\r\nx-content-type-options: nosniff\r\n"
    b"referrer-policy: no-referrer\r\ncross-origin-resource-policy: same-origin\r\n" % _CSP
)
STATUS_LINES = {one.value: b"HTTP/1.1 %d %b\r\n" % (one, one.phrase.encode()) for one in HTTPStatus}

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
# state, transport, scope, key of the handshake
WebSocketMaker = Callable[["State", asyncio.Transport, Scope, str], Any]


@dataclass(frozen=True)
class Timeouts:
    """How long a client may take, in seconds.

    Attributes: idle (until the next request), request (from a request's first byte to its last),
    write (to read `WRITE_BYTES` of an answer), linger (to close after the last answer), ping
    (silence of a WebSocket before a ping), pong (to answer the ping), sweep (between checks).
    """

    idle: float = 75.0
    request: float = 10.0
    write: float = 30.0
    linger: float = 2.0
    ping: float = 20.0
    pong: float = 20.0
    sweep: float = 1.0


class State:
    """Shared state of a server's connections.

    Args: websocket: makes the connection after a handshake.
    """

    def __init__(self, app: App, timeouts: Timeouts, websocket: WebSocketMaker) -> None:
        self.app = app
        self.websocket = websocket
        self.timeouts = timeouts
        self.open: set[ClientConnection] = set()
        self.tasks = Tasks(self._failed)
        self.date = b""
        self.log = structlog.get_logger("index-endpoint")
        self.refused = self.late = self.unread = 0
        self.closing = False

    def _failed(self, name: str, error: BaseException) -> None:
        self.log.error("task failed", task=name, error=repr(error), exc_info=error)

    def admit(self, connection: ClientConnection) -> Problem | None:
        """Return why a new connection is refused, None when it is not."""
        return None

    def gone(self, connection: ClientConnection) -> None:
        """Remove a closed connection."""
        self.open.discard(connection)

    def head(self, status: int, headers: Headers) -> bytes:
        """Return the head of an answer without its last empty line."""
        parts = [STATUS_LINES[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (self.date, SECURITY)
        return b"".join(parts)


class Stream(Protocol):
    """Writes to a connection while it is open, and is notified of how the client reads."""

    def pause(self) -> None:
        """Note that the socket is full."""

    def resume(self) -> None:
        """Note that the socket has room again."""

    def lost(self) -> None:
        """Note that the connection is lost."""


class ClientConnection(asyncio.Protocol):
    """A client's connection; the common part of HTTP and WebSocket."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.address = ""
        # the stream that writes to this connection, None without one
        self.client_stream: Stream | None = None
        # tells whether the key that its stream was opened with is still in force; None without one
        self.in_force: Callable[[], bool] | None = None
        self.deadline = math.inf
        # no further request is accepted; later bytes are dropped until the client closes
        self.ended = False
        # nothing more may be written
        self.finished = False
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self._written = self._taken = 0
        self._taken_at = 0.0

    def write(self, data: bytes) -> None:
        """Send bytes; `check` watches whether the client reads them."""
        if not self.transport.is_closing() and not self.finished:
            self._written += len(data)
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the socket is full."""
        if self._paused:
            if self._drained is None:
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def pause_writing(self) -> None:
        self._paused = True
        if self.client_stream is not None:
            self.client_stream.pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None
        if self.client_stream is not None:
            self.client_stream.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.gone(self)
        if self.client_stream is not None:
            self.client_stream.lost()
        if self._paused:
            self.resume_writing()

    def check(self, now: float) -> None:
        """End the connection when the client is too slow."""
        self._check_reader(now)
        if self.client_stream is not None and self.in_force is not None and not self.in_force():
            self.transport.abort()
        if now >= self.deadline:
            self.deadline = math.inf
            self.expire(now)

    def _check_reader(self, now: float) -> None:
        unsent = self.transport.get_write_buffer_size()
        taken = self._written - unsent
        if not unsent or self.client_stream is not None or taken >= self._taken + WRITE_BYTES:
            self._taken, self._taken_at = taken, now
        elif now - self._taken_at > self.state.timeouts.write:
            self.state.unread += 1
            self.transport.abort()

    def expire(self, now: float) -> None:
        """Handle the end of the deadline."""
        self.transport.abort()

    def shutdown(self) -> None:
        """End the connection when the answer in progress is sent, since the server stops."""
        raise NotImplementedError

    def refuse(self, problem: Problem) -> None:
        """Send a problem as the last answer."""
        self.state.refused += 1
        body = problem.body()
        headers = [
            *problem.fields(),
            (b"content-type", MEDIA),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        self.write(self.state.head(problem.status, headers) + b"\r\n" + body)
        self.finish()

    def finish(self) -> None:
        """Send nothing more, and close after the client or after a time-out.

        An immediate close with unread bytes of the client would reset the connection and lose the
        answer.
        """
        self.linger()
        if not self.transport.is_closing() and not self.finished:
            self.finished = True
            self.transport.write_eof()

    def linger(self) -> None:
        """Accept no more requests, and give the client a moment to close."""
        self.ended = True
        self.deadline = self.loop.time() + self.state.timeouts.linger
        self.read(True)

    def read(self, wanted: bool) -> None:
        """Resume or pause reading from the client."""
        if self.transport.is_closing():
            return
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class HttpConnection(ClientConnection):
    """An HTTP/1 connection, which can become the sink of a stream or a WebSocket."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self._parser: Any = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange | Problem] = deque()
        self._answer: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._handshake: Exchange | None = None
        self._refusal: Problem | None = None
        self._half_closed = False
        # between the first and the last byte of a request, and of its head
        self._in_request = self._in_head = self._began = False
        self._bytes = self._body_bytes = self._header_bytes = 0
        self._target = b""
        self._headers: Headers = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.client = (peer[0], peer[1]) if peer else ("", 0)
        local = transport.get_extra_info("sockname")
        self.local = (local[0], local[1]) if local else ("", 0)
        self.address = self.client[0]
        problem = self.state.admit(self)
        self.state.open.add(self)
        if problem is not None:
            self.refuse(problem)
        else:
            self.deadline = self.loop.time() + self.state.timeouts.request

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._waiting.clear()
        self._parser = None
        if self._task is not None:
            # without a client the request need not be answered
            self.state.tasks.drop(self._task)

    def eof_received(self) -> bool:
        # some clients close their sending side before they read the answer
        if self._waiting or (self._answer is not None and not self._answer.started):
            self._half_closed = True
            return True
        return False

    def data_received(self, data: bytes) -> None:
        if self.ended:
            return
        self._began = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refusal = self._refusal or Problem(
                "invalid-request", f"request: expected HTTP/1.1, {str(error)[:100]}"
            )
        if self._in_request and not self._began:
            # the parser keeps a header or a trailer in memory until it is complete
            self._bytes += len(data)
            if self._bytes > REQUEST_BYTES:
                self._too_large()
        if self._refusal is not None and not self.ended:
            self._take(self._refusal)
        if self._waiting and not self.ended:
            # the client waits for its answers first
            self.read(False)

    # callbacks of the parser

    def on_message_begin(self) -> None:
        self._in_request = self._in_head = self._began = True
        self._bytes = self._body_bytes = self._header_bytes = 0
        self._target = b""
        self._headers = []
        if self._answer is None:
            self.deadline = self.loop.time() + self.state.timeouts.request

    def on_url(self, url: bytes) -> None:
        if len(self._target) + len(url) > TARGET_BYTES:
            self._refusal = self._refusal or _target_too_long()
        else:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        if not self._in_head:
            # a trailer is not a header: a proxy may not have checked it
            return
        if len(self._headers) >= HEADERS_LIMIT or self._header_bytes > HEADERS_BYTES:
            self._too_large()
        else:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = values(self._headers, b"content-length")
        if any(not one.isdigit() or len(one) > 18 or int(one) > BODY_BYTES for one in size):
            self._refusal = self._refusal or _body_too_large()
        elif values(self._headers, b"expect") and not self._busy and not self._refusal:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES:
            self._refusal = self._refusal or _body_too_large()

    def on_message_complete(self) -> None:
        self._in_request = False
        if self.ended or self._refusal is not None:
            return
        try:
            exchange = self._exchange()
        except Problem as problem:
            self._refusal = problem
            return
        if len(self._waiting) + (self._answer is not None) + 1 >= PIPELINE_LIMIT:
            exchange.keep_alive = False
        if exchange.scope["type"] == "websocket":
            self._handshake = exchange
        else:
            self._take(exchange)

    @property
    def _busy(self) -> bool:
        return self._answer is not None or bool(self._waiting)

    def _too_large(self) -> None:
        if self._refusal is not None:
            return
        if self._in_head:
            self._refusal = Problem(
                "headers-too-large",
                f"headers: expected at most {HEADERS_LIMIT}, with at most {HEADERS_BYTES} bytes",
            )
        else:
            self._refusal = _body_too_large()

    def _exchange(self) -> Exchange:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Problem("invalid-request", f"request: expected HTTP/1.1, was HTTP/{version}")
        method = self._parser.get_method().decode("ascii")
        upgrade = self._parser.should_upgrade()
        websocket = (
            upgrade
            and method == "GET"
            and version == "1.1"
            and b",".join(values(self._headers, b"upgrade")).strip().lower() == b"websocket"
        )
        if websocket and self._busy:
            raise Problem("invalid-request", "upgrade: expected no other request before it")
        raw, _, query = self._origin_form().partition(b"?")
        path = _path(raw)
        scope: Scope = {
            "type": "websocket" if websocket else "http",
            "asgi": {"version": "3.0"},
            "http_version": version,
            "method": method,
            "scheme": "ws" if websocket else "http",
            "path": path,
            # made from `path`, so that the framework cannot find another path in it
            "raw_path": quote(path, safe="/:@!$&'()*+,;=~").encode(),
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self.client,
            "server": self.local,
            "extensions": {CONNECTION: self},
        }
        keep = version == "1.1" and self._parser.should_keep_alive() and not upgrade
        return Exchange(self, scope, keep and not self.state.closing)

    def _origin_form(self) -> bytes:
        """Return the target as path and query; an absolute target also sets the host."""
        target = self._target
        if target.startswith(b"/") or target == b"*":
            return target
        scheme, mark, rest = target.partition(b"://")
        if mark and scheme.lower() == b"http":
            host, slash, path = rest.partition(b"/")
            self._headers[:] = [one for one in self._headers if one[0] != b"host"]
            self._headers.append((b"host", host))
            return slash + path if slash else b"/"
        raise Problem(
            "invalid-request", f"target: expected a path, was {target[:60].decode('latin-1')!r}"
        )

    # requests and their answers, in order

    def _take(self, one: Exchange | Problem) -> None:
        if isinstance(one, Problem) or not one.keep_alive:
            self.ended = True
        self._waiting.append(one)
        if self._answer is None:
            self._next()

    def _next(self) -> None:
        one = self._waiting.popleft()
        if isinstance(one, Problem):
            self.refuse(one)
            return
        self._answer = one
        self.deadline = math.inf
        self._task = self.state.tasks.spawn("request", one.run(), ends=True)

    def answers(self, exchange: Exchange) -> bool:
        """Return whether this exchange's answer is in progress."""
        return self._answer is exchange and not self.transport.is_closing()

    def answered(self, exchange: Exchange) -> None:
        """Continue with the next request after a complete answer."""
        self._answer = self._task = None
        if self.transport.is_closing():
            return
        if self._waiting:
            self._next()
        elif not exchange.keep_alive or self._half_closed or self.state.closing:
            self.finish()
        else:
            timeouts = self.state.timeouts
            wait = timeouts.request if self._in_request else timeouts.idle
            self.deadline = self.loop.time() + wait
        if not self._waiting:
            self.read(True)

    def finish(self) -> None:
        self._answer = None
        self._waiting.clear()
        super().finish()

    def limit_answer(self, seconds: float) -> None:
        """End the connection unless the answer in progress is sent within some seconds."""
        self.deadline = self.loop.time() + seconds

    def expire(self, now: float) -> None:
        if self._answer is not None:
            self.state.late += 1
            self.transport.abort()
        elif self.ended:
            self.transport.abort()
        elif self._in_request:
            self.state.late += 1
            seconds = self.state.timeouts.request
            self.refuse(Problem("request-timeout", f"the request took more than {seconds:g} s"))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        if not self._busy:
            self.transport.close()

    def _upgrade(self, rest: bytes) -> None:
        exchange, self._handshake = self._handshake, None
        if self._refusal is not None and not self.ended:
            self._take(self._refusal)
        if exchange is None or self.ended:
            # an upgrade to another protocol than WebSocket is answered in HTTP
            return
        try:
            key = websocket_key(self._headers)
        except Problem as problem:
            self._take(problem)
            return
        socket = self.state.websocket(self.state, self.transport, exchange.scope, key)
        socket.address = self.address
        self.state.open.discard(self)
        self.state.open.add(socket)
        self.transport.set_protocol(socket)
        socket.begin(rest)


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and its answer. Attributes: started: whether the answer has begun."""

    connection: HttpConnection
    scope: Scope
    keep_alive: bool
    started: bool = False
    _status: int = 0
    _head: Headers = field(default_factory=list)
    _chunked: bool = False
    _asked: bool = False

    async def run(self) -> None:
        """Let the application answer."""
        state = self.connection.state
        try:
            await state.app(self.scope, self.receive, self.send)
        except (Problem, StorageError) as error:
            # during an answer the database became unavailable, or the disk full
            state.log.warning("answer cut", path=self.scope["path"][:200], reason=str(error))
            self._failed()
        except Exception as error:
            state.log.error(
                "request failed", path=self.scope["path"][:200], error=repr(error), exc_info=error
            )
            self._failed()
        else:
            if self.connection.answers(self):
                state.log.error("request not answered", path=self.scope["path"][:200])
                self._failed()

    def _failed(self) -> None:
        if self.started:
            # the client must notice that the answer is incomplete
            self.connection.transport.abort()
        else:
            self.connection.refuse(Problem("internal-error", "the error is logged; try again"))

    async def receive(self) -> Message:
        """Return the empty body; a second call waits until the client leaves."""
        if self._asked:
            # the end of the connection cancels this task
            await self.connection.loop.create_future()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            # this class frames the body itself
            self._head = [one for one in message["headers"] if one[0] != b"transfer-encoding"]
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        connection = self.connection
        if connection.transport.is_closing():
            return
        parts = [] if self.started else [self._start(len(body), more)]
        if self.scope["method"] == "HEAD" or self._status in (204, 304):
            pass
        elif not self._chunked:
            parts.append(body)
        elif body:
            parts += (b"%x\r\n" % len(body), body, b"\r\n")
        if self._chunked and not more and self.scope["method"] != "HEAD":
            parts.append(b"0\r\n\r\n")
        if any(parts):
            connection.write(b"".join(parts))
        if not more:
            connection.answered(self)
        else:
            await connection.drain()

    def _start(self, size: int, more: bool) -> bytes:
        self.started = True
        names = {name for name, _ in self._head}
        framing = b""
        if b"content-length" not in names and self._status not in (204, 304):
            if not more:
                framing = b"content-length: %d\r\n" % size
            elif self.scope["http_version"] == "1.1":
                self._chunked = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                # HTTP/1.0 has no chunks: the end of the connection is the end of the answer
                self.keep_alive = False
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        return self.connection.state.head(self._status, self._head) + framing + b"\r\n"


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return all values of a header."""
    return [value for key, value in headers if key == name]


def websocket_key(headers: Headers) -> str:
    """Return the handshake's key. Raises: Problem 400 or 426 for an invalid handshake."""
    versions = values(headers, b"sec-websocket-version")
    if versions != [WEBSOCKET_VERSION]:
        raise Problem(
            "upgrade-required",
            "Sec-WebSocket-Version: expected 13, was"
            f" {b', '.join(versions)[:40].decode('latin-1')!r}",
            headers={"Sec-WebSocket-Version": "13", "Upgrade": "websocket"},
        )
    keys = values(headers, b"sec-websocket-key")
    try:
        if len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16:
            return keys[0].decode("ascii")
    except ValueError:
        pass
    raise Problem("invalid-request", "Sec-WebSocket-Key: expected 16 bytes in base64, once")


def connection(scope: Any) -> Any:
    """Return the connection of a request; None for a request of this process."""
    return scope.get("extensions", {}).get(CONNECTION)


def _path(raw: bytes) -> str:
    decoded = unquote_to_bytes(raw)
    try:
        path = decoded.decode("utf-8")
        valid = path.isprintable() and raw.isascii() and b"#" not in raw and _percents(raw)
    except UnicodeDecodeError:
        valid = False
    if not valid:
        raise Problem(
            "invalid-request",
            "path: expected printable text in UTF-8, percent-encoded,"
            f" was {raw[:60].decode('latin-1')!r}",
        )
    return path


def _percents(raw: bytes) -> bool:
    """Return whether two hexadecimal digits follow each percent sign."""
    digits = b"0123456789abcdefABCDEF"
    parts = raw.split(b"%")[1:]
    return all(len(part) > 1 and part[0] in digits and part[1] in digits for part in parts)


def _target_too_long() -> Problem:
    return Problem("target-too-long", f"target: expected at most {TARGET_BYTES} bytes")


def _body_too_large() -> Problem:
    return Problem("body-too-large", f"body: expected none, was more than {BODY_BYTES} bytes")
