"""WebSockets and server-sent events of clients that break the rules or reach the limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from coinspace.endpoint.http.websocket import WebSocketConnection
from coinspace.endpoint.live.channel_state import state
from coinspace.endpoint.routes import streams
from coinspace.endpoint.worker import Endpoint
from tests.flow.endpoint_stage import running, settings
from tests.waiting import until

SOON_S = 60.0
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
)
TEXT, BINARY, CONTINUED, CLOSE, PING = 1, 2, 0, 8, 9
PING_COMMAND = b'{"op":"ping"}'


@pytest_asyncio.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[Endpoint]:
    async with running(settings(tmp_path)) as (_, found):
        yield found


def frame(
    opcode: int, data: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0
) -> bytes:
    first, mask, size = (0x80 if fin else 0) | reserved | opcode, 0x80 if masked else 0, len(data)
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 1 << 16:
        head = bytes((first, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + data


class Socket:
    """A WebSocket whose client may send anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, command: bytes) -> None:
        self.writer.write(frame(TEXT, command))

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(SOON_S):
            first, size = await self.reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            return first & 15, await self.reader.readexactly(size)

    async def event(self, *names: str) -> Any:
        """Return the next event of these names."""
        while True:
            opcode, data = await self.frame()
            assert opcode == TEXT, (opcode, data)
            event = orjson.loads(data)
            if event["event"] in names:
                return event["data"]

    async def closed(self) -> tuple[int, str]:
        """Return code and reason of the close frame that comes."""
        while True:
            opcode, data = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(data[:2]), data[2:].decode()


@asynccontextmanager
async def opened(endpoint: Endpoint, headers: bytes = b"") -> AsyncIterator[Socket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    writer.write(HANDSHAKE % headers)
    async with asyncio.timeout(SOON_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"permessage" not in head
    try:
        yield Socket(reader, writer)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, PING_COMMAND, masked=False), 1002),
        (frame(TEXT, PING_COMMAND, reserved=0x40), 1002),
        (frame(3), 1002),
        (frame(CONTINUED, PING_COMMAND), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, PING_COMMAND), 1002),
        (frame(PING, b"a" * 126), 1002),
        (frame(PING, b"a", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\0\0"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, b"a" * 16_385), 1009),
        (frame(TEXT, b"a" * 10_000, fin=False) + frame(CONTINUED, b"a" * 10_000), 1009),
        (b"\x81\xff" + b"\x7f" + b"\xff" * 7 + b"\0\0\0\0", 1009),
        (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0", 1009),
    ],
)
async def test_frames_that_break_the_protocol(endpoint: Endpoint, sent: bytes, code: int) -> None:
    async with opened(endpoint, b"Sec-WebSocket-Extensions: permessage-deflate\r\n") as ws:
        ws.writer.write(sent)
        assert (await ws.closed())[0] == code
        await until(lambda: not endpoint.hub.clients)


async def test_a_frame_that_breaks_the_protocol_before_the_handshake_is_answered(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[WebSocketConnection] = []
    monkeypatch.setattr(WebSocketConnection, "_failed", lambda one: failed.append(one))
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    writer.write(HANDSHAKE % b"" + frame(TEXT, PING_COMMAND, masked=False))
    async with asyncio.timeout(SOON_S):
        await reader.readuntil(b"\r\n\r\n")
    assert (await Socket(reader, writer).closed())[0] == 1002
    await until(lambda: not endpoint.hub.clients)
    async with opened(endpoint) as ws:
        await ws.event("hello")
    writer.close()
    assert not failed


BAD_COMMANDS = [
    b"",
    b"[" * 8000,
    b'{"a":' * 3000,
    b'{"op":"subscribe","channels":' + b"[" * 7000,
    b'{"op":"ping","id":' + b"9" * 5000 + b"}",
    *(
        b'{"op":"ping","id":%b}' % one
        for one in (
            *(b"1e999", b"1.5", b"-1e-9", b"true", b"[]", b"{}", b'["a"]', b'"\\ud800"'),
            *(b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"),
            *(b'"%b"' % (b"a" * 101), b'"%b"' % (b"a" * 15_000), b"NaN", b"0x1"),
        )
    ),
    b'{"op":"\\ud800"}',
    b'{"op":1}',
    b'{"op":"' + b"a" * 15_000 + b'"}',
    b'{"op":"subscribe"}',
    b'{"op":"subscribe","channels":[""]}',
    b'{"op":"subscribe","channels":["\\ud800"]}',
    b'{"op":"subscribe","channels":["index.' + b"A" * 15_000 + b'"]}',
    b'{"op":"subscribe","channels":[' + b",".join([b'"x"'] * 3000) + b"]}",
    b'{"op":"subscribe","channels":[null]}',
    b'{"op":"subscribe","channels":{"a":1}}',
    b'{"op":"subscribe","channels":["index.BTC"],"last_event_id":"' + b"a" * 65 + b'"}',
    b'{"op":"subscribe","channels":["index.BTC"],"last_event_id":1}',
    b"\x00",
]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_bad_commands_are_answered(endpoint: Endpoint, opcode: int) -> None:
    for command in BAD_COMMANDS:
        async with opened(endpoint) as ws:
            ws.writer.write(frame(opcode, command))
            problem = await ws.event("error")
            assert 400 <= problem["status"] < 500, command[:100]
            ws.send(PING_COMMAND)
            await ws.event("pong")


@pytest.mark.parametrize("text", ["0", "-1", str((1 << 63) - 1), str(-(1 << 63)), '"é"', '""'])
async def test_ids_come_back_as_they_were(endpoint: Endpoint, text: str) -> None:
    async with opened(endpoint) as ws:
        ws.send(b'{"op":"ping","id":%b}' % text.encode())
        assert (await ws.event("pong"))["id"] == orjson.loads(text)


@pytest.mark.parametrize(
    "last_id", ["x-²", "-", "x-", "BOOT-²", "BOOT--1", "BOOT-" + "9" * 40, "BOOT-1_0", "BOOT- 1"]
)
async def test_any_id_to_resume_from_is_answered(endpoint: Endpoint, last_id: str) -> None:
    """A stream that cannot be resumed announces a gap and continues."""
    text = last_id.replace("BOOT", endpoint.hub.boot)
    async with opened(endpoint) as ws:
        ws.send(orjson.dumps({"op": "subscribe", "channels": ["index.BTC"], "last_event_id": text}))
        assert (await ws.event("gap"))["reason"] == "resume"
        await ws.event("index")
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    writer.write(
        b"GET /v1/stream?indices=BTC HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %b\r\n\r\n"
        % text.encode("latin-1")
    )
    async with asyncio.timeout(SOON_S):
        await reader.readuntil(b"event: gap")
        await reader.readuntil(b"event: index")
    writer.close()


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, b"p" * 125) * 2000,
        frame(0xA, b"p" * 125) * 2000,
        frame(TEXT, b"{", fin=False) + frame(CONTINUED, fin=False) * 20_000,
        frame(TEXT, PING_COMMAND) * 2000,
    ],
)
async def test_floods_are_closed(endpoint: Endpoint, flood: bytes) -> None:
    async with opened(endpoint) as ws:
        ws.writer.write(flood)
        code, reason = await ws.closed()
        assert code == 1008
        assert reason
        await until(lambda: not endpoint.hub.clients)


async def test_a_flood_that_reads_no_answer_costs_bounded_memory(endpoint: Endpoint) -> None:
    """The server does not read from a client that does not read its answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.write(HANDSHAKE % b"")
    await until(lambda: len(endpoint.hub.clients) == 1)
    (client,) = endpoint.hub.clients
    book = b'{"op":"subscribe","channels":["book.BTC","venues","pipeline"]}'
    leave = b'{"op":"unsubscribe","channels":["book.BTC","venues","pipeline"]}'
    largest = 0
    for _ in range(300):
        if client.connection.transport.is_closing():
            break
        writer.write(frame(TEXT, book) + frame(TEXT, leave))
        await asyncio.sleep(0.01)
        largest = max(largest, client.connection.transport.get_write_buffer_size())
    # the high-water mark and what one command brings
    assert largest < 1 << 20
    writer.transport.abort()
    assert reader is not None


async def test_many_subscriptions_make_the_first_state_once(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(context: Any, name: str) -> bytes | None:
        made.append(name)
        return state(context, name)

    monkeypatch.setattr("coinspace.endpoint.routes.streams.state", counted)
    monkeypatch.setattr(streams, "STATE_S", 3600.0)
    async with opened(endpoint) as one, opened(endpoint) as other:
        for _ in range(5):
            for ws in (one, other):
                ws.send(b'{"op":"subscribe","channels":["book.BTC","venues"]}')
                assert (await ws.event("book"))["asset"] == "BTC"
                ws.send(b'{"op":"unsubscribe","channels":["book.BTC","venues"]}')
                await ws.event("unsubscribed")
    assert sorted(made) == ["book.BTC", "venues"]


async def test_server_sent_events_without_chunks_for_http_1_0(endpoint: Endpoint) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    writer.write(b"GET /v1/stream?indices=BTC HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(SOON_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"connection: close" in head
        assert await reader.readuntil(b"\n\n") == b"retry: 1000\n\n"
        event = (await reader.readuntil(b"\n\n")).split(b"\n")
    assert [line.split(b": ")[0] for line in event[:3]] == [b"id", b"event", b"data"]
    assert orjson.loads(event[2][6:])["asset"] == "BTC"
    writer.close()


HOSTS: list[tuple[str, int | None]] = [
    ("evil.example", 421),
    ("evil.example:9200", 421),
    ("localhost.evil.example", 421),
    ("127.0.0.1.evil.example", 421),
    ("10.0.0.1", 421),
    ("[::2]", 421),
    ("", 400),
    ("localhost:", 400),
    ("localhost:x", 400),
    ("localhost:123456", 400),
    ("user@localhost", 400),
    ("localhost/x", 400),
    ("localhost, evil.example", 400),
    ("localhost evil.example", 400),
    ("\xe9", 400),
    ("a" * 300, 400),
    ("localhost", None),
    ("LOCALHOST.:80", None),
    ("127.0.0.1:1", None),
    ("[::1]:8080", None),
]


@pytest.mark.parametrize("path", ["/v1/indices/BTC", "/v1/stream?indices=BTC", "/v1/ws", "/"])
async def test_only_known_hosts_are_served(endpoint: Endpoint, path: str) -> None:
    """A page whose name points to this machine gets no answer on any route."""
    plain = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()
    raw = HANDSHAKE % b"" if path == "/v1/ws" else plain
    for host, status in HOSTS:
        head = await head_of(endpoint, raw.replace(b"localhost", host.encode("latin-1"), 1))
        found = int(head.split(b" ")[1])
        assert found == (status or (101 if path == "/v1/ws" else 200)), host
        assert (b"problem+json" in head) == (found >= 400)


async def head_of(endpoint: Endpoint, raw: bytes) -> bytes:
    """Return the head of the answer to one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port)
    writer.write(raw)
    try:
        async with asyncio.timeout(SOON_S):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


async def test_exactly_one_host_header_is_required(endpoint: Endpoint) -> None:
    for headers in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
        head = await head_of(endpoint, b"GET /livez HTTP/1.1\r\n%b\r\n" % headers)
        assert head.startswith(b"HTTP/1.1 400 ")


async def test_a_page_under_a_foreign_name_opens_no_websocket(endpoint: Endpoint) -> None:
    """Its origin equals its Host, so comparing the two is not enough."""
    raw = HANDSHAKE % b"Origin: http://evil.example\r\n"
    head = await head_of(endpoint, raw.replace(b"localhost", b"evil.example"))
    assert head.startswith(b"HTTP/1.1 421 ")


async def test_a_websocket_on_another_path_is_not_found(endpoint: Endpoint) -> None:
    for path in (b"/livez", b"/v1/indices/BTC", b"/nowhere", b"/v1/ws/"):
        head = await head_of(endpoint, (HANDSHAKE % b"").replace(b"/v1/ws", path))
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"problem+json" in head
