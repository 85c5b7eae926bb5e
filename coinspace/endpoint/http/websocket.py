"""A WebSocket connection: frames in, messages to the application; a stream writes frames itself.

The protocol is that of `websockets`, without its sockets and without compression. Frames of a
client are bounded in size and number: a small frame costs as much as a message.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State as Phase
from websockets.server import ServerProtocol

from coinspace.endpoint.http.connection import ClientConnection, Message, Scope, State
from coinspace.endpoint.http.problem import Problem

MESSAGE_BYTES = 16 * 1024
FRAMES_PER_SECOND = 200
# bytes parsed at a time, so that a flood is noticed before all of it is parsed
SLICE_BYTES = 4096
GOING_AWAY, INVALID_TEXT, POLICY = 1001, 1007, 1008

_HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: {}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class WebSocketConnection(ClientConnection):
    """A connection on which a WebSocket handshake was asked for."""

    def __init__(self, state: State, transport: asyncio.Transport, scope: Scope, key: str) -> None:
        super().__init__(state)
        self.transport = transport
        self.scope = scope
        scope["extensions"]["coinspace.connection"] = self
        self._key = key
        self._protocol = ServerProtocol(max_size=MESSAGE_BYTES)
        self._messages: deque[Message] = deque([{"type": "websocket.connect"}])
        self._arrived: asyncio.Future[None] | None = None
        self._early = b""
        self._accepted = False
        self._disconnected = False
        # after a flood nothing is parsed any more
        self._deaf = False
        self._status, self._headers = 0, []  # type: int, list[tuple[bytes, bytes]]
        self._parts: list[bytes] = []
        self._text = True
        self._frames = 0
        self._second = self._heard = self.loop.time()
        self._pinged: float | None = None

    def begin(self, rest: bytes) -> None:
        """Start the application. Args: rest: bytes that the client sent after its handshake."""
        self._early = rest
        self.deadline = self.loop.time() + self.state.timeouts.request
        self.read(False)
        self.state.tasks.spawn("websocket", self._run(), ends=True)

    async def _run(self) -> None:
        try:
            await self.state.app(self.scope, self.receive, self.send)
        except Exception as error:
            self.state.log.error("websocket failed", error=repr(error), exc_info=error)
            self._failed()
            return
        if self._accepted:
            self._close(1000, "")

    def _failed(self) -> None:
        if self._accepted:
            self._close(1011, "internal error, which is logged")
        elif not self.ended:
            self.refuse(Problem("internal-error", "the error is logged; try again"))

    # what the application sees

    async def receive(self) -> Message:
        """Return the next message; the last one is always a disconnect."""
        while not self._messages:
            if self._disconnected:
                return {"type": "websocket.disconnect", "code": 1005}
            self._arrived = self.loop.create_future()
            await self._arrived
        message = self._messages.popleft()
        if not self._messages and self._accepted and not self._paused:
            self.read(True)
        return message

    async def send(self, message: Message) -> None:
        """Accept, refuse or close; a stream writes its frames itself."""
        kind = message["type"]
        if self.transport.is_closing():
            return
        if kind == "websocket.accept":
            self._accept()
        elif kind == "websocket.close":
            self._close(message.get("code", 1000), message.get("reason", ""))
        elif kind == "websocket.http.response.start":
            self._status, self._headers = message["status"], message["headers"]
        else:
            head = self.state.head(self._status, [*self._headers, (b"connection", b"close")])
            self.write(head + b"\r\n" + message["body"])
            self.finish()

    def _accept(self) -> None:
        self._protocol.receive_data(_HANDSHAKE.format(self._key).encode())
        [request] = self._protocol.events_received()
        assert isinstance(request, Request)
        self._protocol.send_response(self._protocol.accept(request))
        self._flush()
        self._accepted = True
        self.deadline = math.inf
        self._heard = self.loop.time()
        self.read(True)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)

    def _is_open(self) -> bool:
        return self._protocol.state is Phase.OPEN

    def _close(self, code: int, reason: str) -> None:
        self._disconnect()
        if self._is_open():
            self._protocol.send_close(code, reason)
            self._flush()
        if not self.ended:
            # wait for the client's close frame
            self.linger()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.write(data)
            elif not self.transport.is_closing():
                self.finish()

    # what the client sends

    def data_received(self, data: bytes) -> None:
        self._heard, self._pinged = self.loop.time(), None
        if not self._accepted or self._deaf:
            return
        for start in range(0, len(data), SLICE_BYTES):
            if not self._parse(data[start : start + SLICE_BYTES]):
                break
        if self._messages and not self.ended:
            self.read(False)

    def _parse(self, data: bytes) -> bool:
        """Parse received bytes. Returns: whether to parse more."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            self._on_frame(event)
        self._flush()
        if not self._is_open():
            # the client closes, or violated the protocol and has got an answer
            self._disconnect()
            if not self.ended:
                self.linger()
        return not self._deaf

    def _on_frame(self, frame: Any) -> None:
        if not isinstance(frame, Frame) or self._deaf:
            return
        if self._heard - self._second >= 1:
            self._second, self._frames = self._heard, 0
        self._frames += 1
        if self._frames > FRAMES_PER_SECOND:
            self._deaf = True
            self._close(POLICY, f"more than {FRAMES_PER_SECOND} frames a second")
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if frame.opcode is not Opcode.CONT:
                self._text, self._parts = frame.opcode is Opcode.TEXT, []
            self._parts.append(bytes(frame.data))
            if frame.fin:
                self._on_message(b"".join(self._parts))

    def _on_message(self, data: bytes) -> None:
        self._parts = []
        if self._disconnected:
            return
        if not self._text:
            self._put({"type": "websocket.receive", "bytes": data})
            return
        try:
            self._put({"type": "websocket.receive", "text": data.decode()})
        except UnicodeDecodeError:
            self._close(INVALID_TEXT, "text: expected UTF-8")

    def _put(self, message: Message) -> None:
        self._messages.append(message)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _disconnect(self) -> None:
        if not self._disconnected:
            self._disconnected = True
            # messages behind the end are not answered
            self._messages.clear()
            self._put({"type": "websocket.disconnect", "code": 1005})

    # the connection

    def pause_writing(self) -> None:
        super().pause_writing()
        # each message costs an answer: a client that does not read may not ask
        self.read(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._messages:
            self.read(True)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disconnect()

    def check(self, now: float) -> None:
        super().check(now)
        if not self._accepted or self.ended or self.transport.is_closing():
            return
        if self._pinged is None:
            if now - self._heard > self.state.timeouts.ping:
                self._pinged = now
                self._protocol.send_ping(b"coinspace")
                self._flush()
        elif now - self._pinged > self.state.timeouts.pong and not self._paused:
            self.state.late += 1
            self._close(POLICY, "no answer to a ping")

    def shutdown(self) -> None:
        if self._accepted:
            self._close(GOING_AWAY, "the endpoint is stopping")
        else:
            self.transport.close()
