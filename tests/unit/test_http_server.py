"""The HTTP server alone, over real sockets: forms, bounds and time-outs of requests and answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from coinspace.config import EndpointSettings
from coinspace.endpoint.http import connection as limits
from coinspace.endpoint.http.connection import HttpConnection, Receive, Scope, Send, State, Timeouts
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.http.server import HttpServer
from coinspace.endpoint.http.websocket import WebSocketConnection
from tests.waiting import until

HOST = b"Host: localhost\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
# short, so that tests see the time-outs; long enough that none passes by chance
SHORT = Timeouts(idle=1.0, request=1.0, write=1.0, linger=1.0, ping=1.0, pong=1.0, sweep=0.05)
# a bound for events that come sooner on any machine
SOON_S = 60.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Echoes the request; `/endless` never ends, `/large` is larger than socket buffers."""
    path = scope["path"]
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if path == "/broken":
        raise ValueError("made to fail")
    if path == "/silent":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if path == "/large":
        await send({"type": "http.response.body", "body": bytes(64 << 20)})
        return
    if path == "/parts":
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    while path == "/endless":
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    if path == "/breaks":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise ValueError("made to fail")
    facts = {"method": scope["method"], "path": path, "query": scope["query_string"].decode()}
    await send({"type": "http.response.body", "body": orjson.dumps(facts)})


@asynccontextmanager
async def serving(
    timeouts: Timeouts | None = None, application: Any = app, **settings: Any
) -> AsyncIterator[HttpServer]:
    server = HttpServer(application, EndpointSettings(port=0, **settings), timeouts)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Peer:
    """A client that may send any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def rest(self) -> bytes:
        """Return all bytes until the server closes."""
        found = b""
        try:
            async with asyncio.timeout(SOON_S):
                while data := await self.reader.read(1 << 16):
                    found += data
        except ConnectionError:
            found += b"<reset>"
        return found

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Return status, headers and body of the next answer that has a length."""
        async with asyncio.timeout(SOON_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head[:-4].split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
            body = await self.reader.readexactly(int(headers.get(b"content-length", 0)))
        return int(lines[0].split(b" ")[1]), headers, body


@asynccontextmanager
async def connected(server: HttpServer, *parts: bytes) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
        yield Peer(reader, writer)
    finally:
        writer.close()


def get(path: bytes = b"/", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = b"".join(one + b"\r\n" for one in headers)
    return b"GET %b HTTP/%b\r\n%b%b\r\n" % (path, version, HOST, lines)


async def refused(raw: bytes, status: int, name: str) -> None:
    """Check that a request is answered with a problem, and the connection closed."""
    async with serving() as server, connected(server, raw) as peer:
        found, headers, body = await peer.answer()
        assert found == status, body
        assert headers[b"content-type"] == b"application/problem+json"
        assert headers[b"connection"] == b"close"
        assert b"server" not in headers
        assert headers[b"x-content-type-options"] == b"nosniff"
        problem = orjson.loads(body)
        assert problem["type"] == f"urn:coinspace:problem:{name}"
        assert problem["status"] == status
        assert await peer.rest() == b""
        assert server.counters()["requests_unreadable"] == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / \r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"get / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET ftp://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        get(b"/", b"X: a", b" folded"),
        get(b"/", b"X: a\x00b"),
        get(b"/\xff"),
        get(b"/%"),
        get(b"/%z1"),
        get(b"/%ff"),
        get(b"/%ed%a0%80"),
        get(b"/%00"),
        get(b"/a%0d%0aX:1"),
        get(b"/a#b"),
        get(b"/", b"Content-Length: -1"),
        get(b"/", b"Content-Length: +1"),
        get(b"/", b"Content-Length: 0, 44"),
        get(b"/", b"Content-Length: 0", b"Content-Length: 44"),
        get(b"/", b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        get(b"/", b"Transfer-Encoding: xchunked"),
        get(b"/", b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
        get(b"/", b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
        get(b"/", b"Transfer-Encoding: chunked") + b"FFFFFFFFFFFFFFFFF\r\n",
        get(b"/", b"Transfer-Encoding: chunked") + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n",
        UPGRADE + KEY + KEY + b"\r\n",
        UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n\r\n",
        UPGRADE + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xff\xff\r\n\r\n",
    ],
)
async def test_malformed_requests_are_refused(raw: bytes) -> None:
    if b"Version: 13\r\nSec-WebSocket-Key" in raw and KEY * 2 in raw:
        await refused(raw, 426, "upgrade-required")
    else:
        await refused(raw, 400, "invalid-request")


@pytest.mark.parametrize("version", [b"8", b"14", b"13, 8", b"", b"\xff", b"1" * 4000])
async def test_another_websocket_version_gets_the_supported_one(version: bytes) -> None:
    raw = UPGRADE + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    async with (
        serving() as server,
        connected(server, raw + b"Sec-WebSocket-Version: %b\r\n\r\n" % version) as peer,
    ):
        status, headers, _ = await peer.answer()
        assert (status, headers[b"sec-websocket-version"]) == (426, b"13")


@pytest.mark.parametrize("size", [limits.TARGET_BYTES + 1, 20_000, 60_000, 70_000, 300_000])
@pytest.mark.parametrize("begin", [b"/", b"/?a=", b"http://localhost/"])
async def test_a_long_target_is_refused(begin: bytes, size: int) -> None:
    await refused(get(begin + b"a" * (size - len(begin))), 414, "target-too-long")


async def test_a_target_at_the_limit_is_answered() -> None:
    path = b"/" + b"a" * (limits.TARGET_BYTES - 1)
    async with serving() as server, connected(server, get(path)) as peer:
        assert (await peer.answer())[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        [b"X: a"] * limits.HEADERS_LIMIT,
        [b"X: a"] * 10_000,
        [b"X: " + b"a" * limits.HEADERS_BYTES],
        [b"X: " + b"a" * 300_000],
        [b"a" * 20_000 + b": x"],
        [b"X: " + b"a" * 3000] * 6,
    ],
)
@pytest.mark.parametrize("upgrade", [False, True])
async def test_many_or_large_headers_are_refused(headers: list[bytes], upgrade: bool) -> None:
    lines = b"".join(one + b"\r\n" for one in headers)
    raw = UPGRADE + KEY + lines + b"\r\n" if upgrade else get(b"/", *headers)
    await refused(raw, 431, "headers-too-large")


@pytest.mark.parametrize("size", [limits.BODY_BYTES + 1, 50_000_000, (1 << 63) - 1])
async def test_a_large_body_is_refused_unread(size: int) -> None:
    await refused(get(b"/", b"Content-Length: %d" % size), 413, "body-too-large")


@pytest.mark.parametrize(
    "body",
    [
        (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 100,
        b"1\r\na\r\n" * 100_000,
        b"1;" + b"e" * 1_000_000,
        b"0\r\nX: " + b"t" * 1_000_000,
        b"0\r\n" + b"X: t\r\n" * 100_000,
    ],
)
async def test_a_large_body_in_chunks_is_refused(body: bytes) -> None:
    """Chunks, their extensions and trailers alike, before the request is whole."""
    await refused(get(b"/", b"Transfer-Encoding: chunked") + body, 413, "body-too-large")


async def test_trailers_are_no_headers() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["headers"])
        await app(scope, receive, send)

    raw = get(b"/", b"Transfer-Encoding: chunked") + b"0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    async with serving(application=keep) as server, connected(server, raw) as peer:
        assert (await peer.answer())[0] == 200
    assert [name for name, _ in seen[0]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 4096", b"a" * 4096),
        (b"Content-Length: 0", b""),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Transfer-Encoding:\tchunked", b"0\r\nTrailer: x\r\n\r\n"),
    ],
)
async def test_a_small_body_is_dropped_and_the_connection_kept(head: bytes, body: bytes) -> None:
    async with serving() as server, connected(server, get(b"/a", head) + body) as peer:
        assert orjson.loads((await peer.answer())[2])["path"] == "/a"
        peer.writer.write(get(b"/b?c=d"))
        assert orjson.loads((await peer.answer())[2]) == {
            "method": "GET",
            "path": "/b",
            "query": "c=d",
        }


async def test_a_body_that_is_announced_is_asked_for() -> None:
    head = get(b"/", b"Expect: 100-continue", b"Content-Length: 5")
    async with serving() as server, connected(server, head) as peer:
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.writer.write(b"hello")
        assert (await peer.answer())[0] == 200


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a%2Fb", "/a/b"),
        (b"/%C3%A9", "/é"),
        (b"http://localhost", "/"),
        (b"HTTP://localhost/x?y", "/x"),
        (b"//x", "//x"),
        (b"*", "*"),
    ],
)
async def test_forms_of_targets(target: bytes, path: str) -> None:
    async with serving() as server, connected(server, get(target)) as peer:
        assert orjson.loads((await peer.answer())[2])["path"] == path


async def test_an_absolute_target_names_the_host() -> None:
    seen: list[list[tuple[bytes, bytes]]] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["headers"])
        await app(scope, receive, send)

    async with (
        serving(application=keep) as server,
        connected(server, get(b"http://other:1/")) as peer,
    ):
        await peer.answer()
    assert [value for name, value in seen[0] if name == b"host"] == [b"other:1"]


@pytest.mark.parametrize("path", [b"/", b"/parts"])
@pytest.mark.parametrize("more", [[], [b"Connection: keep-alive"]])
async def test_http_1_0_gets_no_chunks_and_an_end(path: bytes, more: list[bytes]) -> None:
    async with serving() as server, connected(server, get(path, *more, version=b"1.0")) as peer:
        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"connection: close" in head
        assert body == b"onetwo" if path == b"/parts" else body.startswith(b"{")


async def test_http_1_1_gets_chunks_of_what_has_no_length() -> None:
    async with serving() as server, connected(server, get(b"/parts", b"Connection: close")) as peer:
        head, _, body = (await peer.rest()).partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize("path", [b"/", b"/parts", b"/large"])
async def test_head_has_no_body(path: bytes) -> None:
    raw = get(path).replace(b"GET", b"HEAD", 1) + get(b"/after", b"Connection: close")
    async with serving() as server, connected(server, raw) as peer:
        answers = (await peer.rest()).split(b"HTTP/1.1 200 OK\r\n")
        assert len(answers) == 3
        assert answers[1].endswith(b"\r\n\r\n")
        assert answers[1].count(b"\r\n\r\n") == 1
        assert b"/after" in answers[2]


async def test_connection_close_is_honoured_and_ends_the_pipeline() -> None:
    raw = get(b"/1") + get(b"/2", b"Connection: close") + get(b"/3")
    async with serving() as server, connected(server, raw) as peer:
        found = await peer.rest()
        assert found.count(b"HTTP/1.1 200 OK") == 2
        assert found.count(b"connection: close") == 1
        assert b"/2" in found


async def test_a_half_closed_client_gets_its_answer() -> None:
    async with serving() as server, connected(server, get(b"/x") + get(b"/y")) as peer:
        peer.writer.write_eof()
        found = await peer.rest()
        assert b"/x" in found
        assert b"/y" in found


async def test_pipelining_is_bounded_and_in_order() -> None:
    raw = b"".join(get(b"/%d" % number) for number in range(5000))
    async with serving() as server, connected(server, raw) as peer:
        found = await peer.rest()
    answers = found.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(answers) == limits.PIPELINE_LIMIT
    for number, answer in enumerate(answers):
        assert b'"path":"/%d"' % number in answer
    assert b"connection: close" in answers[-1]


async def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async with serving() as server, connected(server, get(b"/1") + b"rubbish\r\n\r\n") as peer:
        assert orjson.loads((await peer.answer())[2])["path"] == "/1"
        assert (await peer.answer())[0] == 400


async def test_another_protocol_is_answered_in_http() -> None:
    raw = get(b"/", b"Connection: Upgrade", b"Upgrade: h2c")
    async with serving() as server, connected(server, raw) as peer:
        assert (await peer.answer())[0] == 200
        assert await peer.rest() == b""


@pytest.mark.parametrize("path", [b"/broken", b"/silent"])
async def test_an_application_that_fails_is_a_problem(path: bytes) -> None:
    async with serving() as server, connected(server, get(path)) as peer:
        status, headers, _ = await peer.answer()
        assert (status, headers[b"content-type"]) == (500, b"application/problem+json")


async def test_a_broken_answer_does_not_look_complete() -> None:
    async with serving() as server, connected(server, get(b"/breaks")) as peer:
        found = await peer.rest()
        assert b"begun" in found or b"<reset>" in found
        assert not found.endswith(b"0\r\n\r\n")


async def test_an_answer_that_cannot_go_on_is_one_line_of_the_log() -> None:
    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        raise Problem("database-unavailable", "history cannot be read now")

    with capture_logs() as logged:
        async with serving(application=cut) as server, connected(server, get()) as peer:
            found = await peer.rest()
    assert not found.endswith(b"0\r\n\r\n")
    assert [(one["event"], one["reason"]) for one in logged] == [
        ("answer cut", "history cannot be read now")
    ]
    assert "exc_info" not in logged[0]


# time


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"G", 408),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n", 408),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a", 408),
        (get(b"/", b"Content-Length: 100") + b"abc", 408),
        (get(b"/", b"Transfer-Encoding: chunked") + b"5\r\nhe", 408),
        (get(b"/") + b"GET /li", 408),
        (get(b"/"), None),
        (UPGRADE + KEY, 408),
        (UPGRADE + KEY + b"\r\n", None),
        (b"rubbish\r\n\r\n", None),
    ],
)
async def test_every_silent_connection_ends(sent: bytes, status: int | None) -> None:
    async with serving(SHORT) as server, connected(server, sent) as peer:
        found = await peer.rest()
        assert (b" 408 Request Timeout" in found) == (status == 408)
        # this client does not close either
        await until(lambda: not server.open)


async def test_a_slow_request_ends_although_it_sends_often() -> None:
    async with serving(SHORT) as server, connected(server, b"GET / HTTP/1.1\r\n") as peer:

        async def drip() -> None:
            while not peer.writer.is_closing():
                peer.writer.write(b"X: a\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        try:
            assert b" 408 Request Timeout" in await peer.rest()
        finally:
            dripping.cancel()


@pytest.mark.parametrize("path", [b"/large", b"/endless"])
async def test_a_reader_that_never_reads_is_dropped(path: bytes) -> None:
    async with serving(SHORT) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(get(path))
        await until(lambda: server.unread == 1)
        await until(lambda: not server.open and not len(server.tasks))
        client.close()


class Buffer:
    """A transport whose client takes as much as the test sets."""

    def __init__(self) -> None:
        self.unsent = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("taken", "refilled", "dropped"),
    [
        (0, 0, True),
        (1, 0, True),
        (limits.WRITE_BYTES // 4, limits.WRITE_BYTES, True),
        (limits.WRITE_BYTES, 0, False),
        # the answer continues, so as much waits as before
        (limits.WRITE_BYTES, limits.WRITE_BYTES, False),
        (limits.WRITE_BYTES, 2 * limits.WRITE_BYTES, False),
    ],
)
async def test_a_reader_must_take_a_part_in_each_time_out(
    taken: int, refilled: int, dropped: bool
) -> None:
    wait = Timeouts().write
    state = State(app, Timeouts(), WebSocketConnection)
    transport: Any = Buffer()
    connection = HttpConnection(state)
    connection.transport = transport
    connection.write(bytes(100 * limits.WRITE_BYTES))
    connection.check(0.0)
    for number in range(1, 50):
        transport.unsent -= taken
        connection.write(bytes(refilled))
        if not transport.aborted:
            connection.check(number * (wait - 1))
    assert transport.aborted == dropped
    assert state.unread == dropped


async def test_an_answer_may_have_a_limit_of_its_own() -> None:
    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        limits.connection(scope).limit_answer(0.3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # endless, and slow enough that the peer does not have megabytes to read
        while True:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0.01)

    async with serving(SHORT, limited) as server, connected(server, get()) as peer:
        found = await peer.rest()
        assert b" 200 OK" in found
        assert server.late == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_work_for_a_client_that_left_is_cancelled(begun: bool) -> None:
    cancelled = asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if begun:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(application=slow) as server:
        with capture_logs() as logged:
            await leave(server, begun, cancelled)
        # clients that leave are not an error of the server, however many do
        assert logged == []


async def leave(server: HttpServer, begun: bool, cancelled: asyncio.Event) -> None:
    async with connected(server, get()) as peer:
        await until(lambda: len(server.tasks) == 1)
        client = peer.writer.get_extra_info("socket")
        if begun:
            await peer.reader.readuntil(b"begun")
        else:
            # before the answer, a client may have closed only its sending side
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.transport.abort()
        async with asyncio.timeout(SOON_S):
            await cancelled.wait()
    await until(lambda: not server.open and len(server.tasks) == 0)


async def test_a_websocket_that_answers_no_ping_is_closed() -> None:
    async with serving(SHORT) as server, connected(server, UPGRADE + KEY + b"\r\n") as peer:
        found = await peer.rest()
        assert b" 101 " in found
        assert b"\x89\x09coinspace" in found
        assert b"\x03\xf0no answer to a ping" in found


async def test_a_websocket_that_answers_pings_stays() -> None:
    times = Timeouts(ping=0.1, pong=10.0, sweep=0.05)
    async with serving(times) as server, connected(server, UPGRADE + KEY + b"\r\n") as peer:
        await peer.reader.readuntil(b"\r\n\r\n")
        for _ in range(4):
            async with asyncio.timeout(SOON_S):
                assert await peer.reader.readexactly(11) == b"\x89\x09coinspace"
            peer.writer.write(b"\x8a\x89\0\0\0\0coinspace")
        assert server.connections == 1


# number


async def test_half_open_connections_leave_an_ordinary_client_its_latency() -> None:
    async def latency(server: HttpServer) -> float:
        # of server and client on this thread, whatever else the machine does
        taken = []
        for _ in range(60):
            started = time.thread_time()
            async with connected(server, get()) as peer:
                assert (await peer.answer())[0] == 200
            taken.append(time.thread_time() - started)
        return sorted(taken)[len(taken) // 2]

    states = (b"", b"G", b"GET / HTTP/1.1\r\nX: a\r\n", get(b"/", b"Content-Length: 9"), UPGRADE)
    held: list[socket.socket] = []
    async with serving() as server:
        before = await latency(server)
        try:
            for number in range(2000):
                one = socket.create_connection(("127.0.0.1", server.port))
                held.append(one)
                one.sendall(states[number % len(states)])
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: server.connections >= 2000)
            assert await latency(server) < 10 * before + 0.05
        finally:
            for one in held:
                one.close()
        await until(lambda: server.connections == 0)


@pytest.mark.parametrize("setting", ["max_connections", "connections_per_address"])
async def test_connections_are_bounded_in_number(setting: str) -> None:
    chosen: dict[str, Any] = {setting: 3}
    async with serving(limit_loopback=True, **chosen) as server:
        async with connected(server) as one, connected(server), connected(server):
            await until(lambda: server.connections == 3)
            async with connected(server) as fourth:
                status, headers, body = await fourth.answer()
                assert status == 503
                assert int(headers[b"retry-after"]) > 0
                assert orjson.loads(body)["type"].endswith("too-many-connections")
                assert await fourth.rest() == b""
            one.writer.write(get())
            assert (await one.answer())[0] == 200
        await until(lambda: not server.open)
        assert server.counters()["connections_rejected"] == 1
        async with connected(server, get()) as again:
            assert (await again.answer())[0] == 200


async def test_an_endless_head_costs_no_memory() -> None:
    """Bytes are dropped once the head is too large, however many follow."""
    async with serving(SHORT) as server, connected(server, b"GET / HTTP/1.1\r\nX: ") as peer:
        async with asyncio.timeout(SOON_S):
            with contextlib.suppress(ConnectionError):
                while True:
                    peer.writer.write(b"a" * 65_536)
                    await peer.writer.drain()
        assert server.refused == 1
