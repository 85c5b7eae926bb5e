"""One client's connection; the simulator encodes its frames itself.

A server's frame is not masked: it is only a header and a payload. Writing the bytes directly to the
transport allows faults that a WebSocket library would never send.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from coinspace.exchanges import exchange as exchange_named
from coinspace.tasks import Tasks

if TYPE_CHECKING:
    from coinspace.simulator.session import Session

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
# an exchange cuts a client that does not read; a replay waits for the client instead
BUFFER_LIMIT = 16 << 20
LOW_WATER = 1 << 18


def encode_frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a server's frame (RFC 6455, not masked)."""
    first = opcode | (0x80 if final else 0)
    n = len(payload)
    if n < 126:
        head = bytes((first, n))
    elif n < 1 << 16:
        head = bytes((first, 126)) + n.to_bytes(2, "big")
    else:
        head = bytes((first, 127)) + n.to_bytes(8, "big")
    return head + payload


def reset_on_close(raw: socket.socket | None) -> None:
    """Make the close of a socket's connection a TCP reset."""
    if raw is not None:
        # no time to linger: closing sends RST instead of FIN
        with socket.socket(fileno=os.dup(raw.fileno())) as copy:
            copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _cut(data: bytes, n: int) -> list[bytes]:
    size = max(1, -(-len(data) // max(1, n)))
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


class Disorder(Protocol):
    """The faults that alter frames."""

    alters_frames: bool

    def deliver(self, connection: Connection, payload: bytes, kind: str, symbol: str) -> None: ...


class Connection:
    """A connection.

    Attributes: sent (number of data frames), opened_s, active_s (last traffic of either side),
    pinged_s, unanswered_s (first ping without a pong), deaf (neither reads nor writes).
    """

    def __init__(
        self,
        disorder: Disorder,
        tasks: Tasks,
        exchange: str,
        request: web.Request,
    ) -> None:
        self.disorder = disorder
        self._tasks = tasks
        self.exchange = exchange
        self.request = request
        self.sent = 0
        self.deaf = False
        self.is_open = False
        self.data: dict[Any, Any] = {}
        self._slow: deque[tuple[bytes, float]] = deque()
        # bytes in `_slow`
        self._slow_size = 0
        self._together_size = 0
        self._slow_task: asyncio.Task[None] | None = None
        self._together: list[bytes] = []

    def open(self, session: Session) -> None:
        """Start after the handshake."""
        self.session = session
        self.opcode = BINARY if exchange_named(self.exchange).BINARY_FRAMES else TEXT
        # of data frames
        self.data_opcode = BINARY if session.is_binary else self.opcode
        transport = self.request.transport
        assert transport is not None
        # uvloop's transports are not a subclass of asyncio's
        self.transport: asyncio.Transport = transport
        self.loop = asyncio.get_running_loop()
        now_s = self.loop.time()
        self.opened_s = self.active_s = self.pinged_s = now_s
        self.unanswered_s: float | None = None
        self.is_open = True

    @property
    def age_s(self) -> float:
        return self.loop.time() - self.opened_s

    # out

    def reply(self, payload: bytes) -> None:
        """Send a protocol answer (ack, status, error)."""
        self.write(encode_frame(self.opcode, payload))

    def deliver(self, payload: bytes, kind: str = "", symbol: str = "") -> None:
        if self.disorder.alters_frames:
            self.disorder.deliver(self, payload, kind, symbol)
        else:
            self.send(payload)

    def send(self, payload: bytes) -> None:
        """Send a data frame."""
        if self.is_open and not self.session.ended:
            self.sent += 1
            self.write(encode_frame(self.data_opcode, payload))

    def send_split(self, payload: bytes, n: int) -> None:
        """Send one message in n frames."""
        parts = _cut(payload, n)
        frames = [
            encode_frame(self.data_opcode if i == 0 else 0, part, final=i == len(parts) - 1)
            for i, part in enumerate(parts)
        ]
        self.sent += 1
        self.write(b"".join(frames))

    def send_chopped(self, payload: bytes, n: int, gap_s: float) -> None:
        """Send one frame in n writes, `gap_s` apart; later frames wait."""
        self.sent += 1
        for part in _cut(encode_frame(self.data_opcode, payload), n):
            self._wait(part, gap_s)
        if self._slow_task is None or self._slow_task.done():
            slow = self._write_slowly()
            self._slow_task = self._tasks.spawn("slow writing", slow, ends=True)

    async def _write_slowly(self) -> None:
        while self._slow and self.is_open:
            data, gap_s = self._slow.popleft()
            self._slow_size -= len(data)
            self._write_now(data)
            await asyncio.sleep(gap_s)

    def send_together(self, payload: bytes, n: int) -> None:
        """Keep frames until there are n, then send them in one write."""
        self._together.append(payload)
        self._together_size += len(payload)
        if len(self._together) >= n or self._together_size > BUFFER_LIMIT // 2:
            self.sent += len(self._together)
            self.write(b"".join(encode_frame(self.data_opcode, one) for one in self._together))
            self._together.clear()
            self._together_size = 0

    def write(self, data: bytes) -> None:
        """Write bytes after those that still wait in `_slow`."""
        if self._slow:
            self._wait(data, 0.0)
        else:
            self._write_now(data)

    def _wait(self, data: bytes, gap_s: float) -> None:
        # a fault may delay more than is ever written: then cut, as with a client that does not read
        self._slow.append((data, gap_s))
        self._slow_size += len(data)
        if self._slow_size > BUFFER_LIMIT:
            self._slow.clear()
            self._slow_size = 0
            self.abort()

    def _write_now(self, data: bytes) -> None:
        if not self.is_open or self.deaf or self.transport.is_closing():
            return
        self.active_s = self.loop.time()
        self.transport.write(data)
        if self.transport.get_write_buffer_size() > BUFFER_LIMIT:
            self.abort()

    async def drain(self) -> None:
        """Wait until the client has read most of the written bytes."""
        while self.is_open and self.transport.get_write_buffer_size() > LOW_WATER:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def end(self, code: int, reason: str, delay_s: float) -> None:
        """Send a close frame after a delay, then close."""
        self.loop.call_later(delay_s, self._close, code, reason)

    def _close(self, code: int, reason: str) -> None:
        self.write(encode_frame(CLOSE, code.to_bytes(2, "big") + reason.encode()))
        if self.is_open:
            self.loop.call_later(0.05, self.transport.close)

    def abort(self) -> None:
        """Cut the connection without a close frame."""
        if self.is_open:
            self.transport.abort()

    def set_deaf(self, deaf: bool) -> None:
        """Stop or resume reading and writing, as on a broken network path."""
        if self.is_open and deaf != self.deaf:
            self.deaf = deaf
            if deaf:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        reset_on_close(self.transport.get_extra_info("socket"))
        self.abort()

    def cut(self) -> None:
        """End the connection without a close frame."""
        if self.is_open:
            self.transport.close()

    # keep-alive

    def ping(self, now_s: float) -> None:
        """Ping with the time as payload."""
        self.pinged_s = now_s
        if self.unanswered_s is None:
            self.unanswered_s = now_s
        self.write(encode_frame(PING, str(int(now_s * 1000)).encode()))

    def pong(self, payload: bytes) -> None:
        self.write(encode_frame(PONG, payload))
