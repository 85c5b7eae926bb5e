"""Any bytes, cut anywhere: a connection sends complete answers or waits, and never fails."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace.endpoint.http import connection as limits
from coinspace.endpoint.http.connection import HttpConnection, Receive, Scope, Send, State, Timeouts
from coinspace.endpoint.http.websocket import WebSocketConnection

HOST = b"Host: localhost\r\n"
SEEDS = [
    b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /a?b=c HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /%C3%A9 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    b"GET / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"GET http://localhost:80/x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n",
    b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /" + b"a" * limits.TARGET_BYTES + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * limits.HEADERS_LIMIT + HOST + b"\r\n",
    b"\x81\x84\0\0\0\0ping\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8",
    b"\x01\x81\0\0\0\0a\x80\x81\0\0\0\0b\x82\xfe\x01\x00\0\0\0\0",
]
# one change: position, number of bytes removed, bytes inserted
CHANGE = st.tuples(st.integers(0, 400), st.integers(0, 20), st.binary(max_size=20))
ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


class Transport:
    """Keeps written bytes, and refuses what a real transport would refuse."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = self.ended = False
        self.protocol: Any = None

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def write(self, data: bytes) -> None:
        assert not self.closing
        assert not self.ended, "written behind the end"
        assert isinstance(data, bytes)
        self.written += data

    def write_eof(self) -> None:
        assert not self.closing
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        assert not self.closing

    resume_reading = pause_reading

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0


class Failing(State):
    """Records errors that are otherwise only logged."""

    def __init__(self) -> None:
        super().__init__(app, Timeouts(), WebSocketConnection)
        self.failures: list[BaseException] = []

    def _failed(self, name: str, error: BaseException) -> None:
        self.failures.append(error)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


@given(
    st.lists(st.tuples(st.sampled_from(SEEDS), st.lists(CHANGE, max_size=3)), max_size=4),
    st.lists(st.integers(1, 300), max_size=8),
)
@settings(max_examples=600)
def test_any_bytes_are_answered_or_waited_for(
    seeds: list[tuple[bytes, list[tuple[int, int, bytes]]]], cuts: list[int]
) -> None:
    data = b"".join(_changed(seed, changes) for seed, changes in seeds)
    asyncio.run(_feed(data, cuts))


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, size, instead in changes:
        start = place % (len(data) + 1)
        data = data[:start] + instead + data[start + size :]
    return data


async def _feed(data: bytes, cuts: list[int]) -> None:
    state, transport = Failing(), Transport()
    transport.protocol = HttpConnection(state)
    transport.protocol.connection_made(transport)
    for size in [*cuts, len(data)]:
        part, data = data[:size], data[size:]
        if part and not transport.closing:
            transport.protocol.data_received(part)
        await _settle()
    now = asyncio.get_running_loop().time()
    # time-outs of a request, a ping, a pong and the close
    for waited in (1000, 2000, 3000):
        if not transport.closing:
            transport.protocol.check(now + waited)
            await _settle()
    assert transport.closing, "a silent client is kept for ever"
    transport.protocol.connection_lost(None)
    await _settle()
    assert state.failures == []
    assert len(state.tasks) == 0
    assert not state.open
    _check_answers(transport.written)


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _check_answers(written: bytes) -> None:
    """Check that the written bytes are complete answers, up to an upgrade."""
    while written:
        match = ANSWER.match(written)
        assert match, written[:200]
        written = written[match.end() :]
        status = int(match[1])
        assert status in (100, 101, 200, 400, 408, 413, 414, 426, 431), status
        if status == 101:
            return
        size = re.search(rb"content-length: (\d+)", match[2])
        if size and not _is_head(written):
            written = written[int(size[1]) :]


def _is_head(rest: bytes) -> bool:
    """Return whether the rest begins with another answer or is empty, as behind a HEAD's answer."""
    return not rest or rest.startswith(b"HTTP/1.1 ")
