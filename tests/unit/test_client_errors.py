"""The client against servers that are broken, hostile or not CoinSpace, and in a running loop."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from coinspace import query
from coinspace.cli import coinspace
from coinspace.client import (
    ApiError,
    AsyncClient,
    BadAnswer,
    Client,
    ConnectionLost,
    InvalidArgument,
    asynchronous,
)
from coinspace.client.events import EVENT_LIMIT, EventParser
from coinspace.errors import CoinSpaceError, EndpointError
from tests.waiting import wait_for


class Server:
    """Answers each connection with the same bytes, and keeps the requests."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            # a client may close the connection before it has read all
            with connection, suppress(ConnectionError):
                request = b""
                while b"\r\n\r\n" not in request:
                    data = connection.recv(65_536)
                    if not data:
                        return
                    request += data
                self.requests.append(request)
                connection.sendall(self.answer)

    def close(self) -> None:
        with socket.create_connection(self._socket.getsockname()):
            pass
        self._thread.join(60)
        self._socket.close()


@contextmanager
def serving(
    body: bytes = b"{}", status: str = "200 OK", *headers: str, kind: str = "application/json"
) -> Iterator[Server]:
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}", *headers]
    server = Server("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    try:
        yield server
    finally:
        server.close()


# a running loop


async def test_it_works_inside_a_running_loop() -> None:
    """A notebook has a running loop, and its cells call plain functions."""
    with serving(b'{"asset":"BTC"}') as server, Client(server.url) as client:
        assert client.index("BTC") == {"asset": "BTC"}


async def test_streams_work_inside_a_running_loop() -> None:
    events = b"".join(b'id: x-%d\nevent: index\ndata: {"n":%d}\n\n' % (n, n) for n in range(3))
    with serving(events, kind="text/event-stream") as server, Client(server.url) as client:
        found = [event.data["n"] for event in client.stream(indices=["BTC"], reconnect=False)]
        assert found == [0, 1, 2]


def test_both_clients_have_the_same_methods() -> None:
    public = [{name for name in dir(kind) if name[0] != "_"} for kind in (AsyncClient, Client)]
    assert public[0] ^ public[1] <= {"aclose", "close", "pages", "chunks"}


def test_a_client_that_is_not_closed_leaves_nothing_open() -> None:
    with serving() as server:
        before = set(threading.enumerate())
        client = Client(server.url)
        client.json("/")
        (own,) = set(threading.enumerate()) - before
        del client
        gc.collect()
        wait_for(lambda: not own.is_alive())


def test_a_closed_client_refuses_calls() -> None:
    client = Client("http://127.0.0.1:1")
    client.close()
    client.close()
    with pytest.raises(InvalidArgument, match="expected an open one"):
        client.index("BTC")


# errors of the caller


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:9300",
        "localhost",
        "ftp://localhost",
        "http://",
        "http://:80",
        "http://localhost:99999",
        "http://localhost:x",
        "http://[::1",
        "http://localhost/?a=1",
        "http://key@localhost",
        "",
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_bad_url_is_one_clear_line(kind: Callable[[str], Any], url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^url: expected http://HOST:PORT, was "):
        kind(url)


def test_bad_arguments_are_named_without_the_secret() -> None:
    with pytest.raises(InvalidArgument, match=r"^key: expected one line of ASCII") as refused:
        Client("http://127.0.0.1:1", key="se\r\ncret")
    assert "cret" not in str(refused.value)
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(CoinSpaceError, match=r"start: .* it has no zone"),
    ):
        client.values("BTC", start=datetime(2026, 1, 1))


def test_an_asset_is_one_part_of_the_path() -> None:
    with serving() as server, Client(server.url) as client:
        client.index("../../x?y#z")
        assert server.requests[0].startswith(b"GET /v1/indices/..%2F..%2Fx%3Fy%23z HTTP/1.1")


# answers of servers


def test_an_error_names_route_parameter_and_remedy() -> None:
    problem = (
        b'{"type":"urn:coinspace:problem:invalid-parameter","detail":"expected >= 1",'
        b'"parameter":"limit"}'
    )
    with serving(problem, "400 Bad Request") as server, Client(server.url) as client:
        with pytest.raises(ApiError) as refused:
            client.json("/v1/trades", limit=0)
        error = refused.value
        assert (error.route, error.parameter) == ("GET /v1/trades", "limit")
        assert str(error) == (
            "GET /v1/trades: 400 invalid-parameter: expected >= 1 (parameter limit)"
        )
    with (
        serving(b"{}", "401 Unauthorized") as server,
        Client(server.url) as client,
        pytest.raises(ApiError, match="coinspace keys new"),
    ):
        client.index("BTC")
    with pytest.raises(ConnectionLost, match=r"/v1/indices/BTC: .*coinspace up"):
        Client("http://127.0.0.1:1").index("BTC")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("²", None), ("9" * 5000, None), ("999999999", 3600), ("-1", None), ("soon", None)],
)
def test_the_wait_that_a_server_asks_for_is_bounded(text: str, seconds: int | None) -> None:
    assert ApiError(503, {}, text).retry_after_s == seconds


@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"[1]", b"null", b'{"detail":1}', b"\xff\xfe", b"x" * 1_000_000]
)
def test_a_refusal_in_any_form_is_an_api_error(body: bytes) -> None:
    with serving(body, "502 Bad Gateway") as server, Client(server.url) as client:
        with pytest.raises(ApiError) as refused:
            client.index("BTC")
        assert refused.value.status == 502
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a":', b"NaN", b"[" * 100_000, b"\xff"])
def test_broken_json_is_named(body: bytes) -> None:
    with (
        serving(body) as server,
        Client(server.url) as client,
        pytest.raises(BadAnswer, match="GET /v1/indices/BTC: expected JSON, was "),
    ):
        client.index("BTC")


@pytest.mark.parametrize("body", [b"[]", b"{}", b"1", b"null"])
def test_json_of_another_form_is_named(body: bytes) -> None:
    with (
        serving(body) as server,
        Client(server.url) as client,
        pytest.raises(BadAnswer, match="expected indices"),
    ):
        client.indices()


def test_a_table_of_another_type_is_named() -> None:
    with serving(b"<html>", kind="text/html") as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match=r"expected application/vnd\.apache\.arrow\.stream"):
            client.values("BTC")
        with pytest.raises(BadAnswer, match="expected text/event-stream, was text/html"):
            next(client.stream(indices=["BTC"]))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_does_not_take_the_key_along(status: str) -> None:
    with serving() as other:
        place = f"Location: {other.url}/v1/indices/BTC"
        with serving(b"", status, place) as server, Client(server.url, key="secret") as client:
            for ask in (lambda: client.index("BTC"), lambda: next(client.stream(indices=["BTC"]))):
                with pytest.raises(BadAnswer, match="redirect to 'http://127"):
                    ask()
            assert b"secret" in server.requests[0]
        assert other.requests == []


def test_an_answer_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "ANSWER_BYTES", 1000)
    with serving(b"x" * 1001) as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match="expected at most 1000 bytes"):
            client.get("/v1/venues")
        assert len(b"".join(client.chunks("/v1/venues"))) == 1001


HOSTILE = "\x1b[31m\u202e\x9b"


@pytest.mark.parametrize("body", [HOSTILE * 1000, [HOSTILE], {HOSTILE: 1}])
def test_an_answer_of_another_form_is_named_without_its_codes(body: Any) -> None:
    with serving(orjson.dumps(body)) as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match="expected indices") as refused:
            client.indices()
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 3000


@pytest.mark.parametrize("ts", ["1" * 30, str(10**18), '"soon"', "[1]", "1e300"])
def test_a_time_that_cannot_be_is_named(ts: str) -> None:
    with serving(b'{"ts":%b}' % ts.encode()) as server, Client(server.url) as client:
        with pytest.raises(BadAnswer, match="expected ts in ms"):
            client.values("BTC", start=0)
        index = client.index("BTC")
        with pytest.raises(BadAnswer, match=r"IndexValue\.ts"):
            repr(index)


@pytest.mark.parametrize("body", [b'{"gaps":1}', b'{"gaps":["x"]}', b'{"gaps":[],"cursor":"a"}'])
def test_a_page_of_another_form_is_named(body: bytes) -> None:
    with (
        serving(body) as server,
        Client(server.url) as client,
        pytest.raises(BadAnswer, match="expected gaps"),
    ):
        client.gaps()


def test_pages_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "PAGES_LIMIT", 3)
    with serving(b'{"gaps":[{}],"cursor":"a","next":"/v1/gaps?cursor=a"}') as server:
        with Client(server.url) as client, pytest.raises(BadAnswer, match="at most 3 pages"):
            client.gaps()
        assert len(server.requests) == 3


def test_a_name_that_is_not_text_is_refused() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidArgument, match="UTF-8"):
        client.index("\ud800")


def test_interim_answers_have_an_end() -> None:
    """A server that never sends the answer itself must neither hold nor fill the client."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    for answer in (interim * 20, interim * 100_000):
        server = Server(answer + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        try:
            with Client(server.url) as client, pytest.raises(ConnectionLost):
                client.json("/")
        finally:
            server.close()
    server = Server(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    try:
        with Client(server.url) as client:
            assert client.json("/") == {}
    finally:
        server.close()


def test_a_burst_of_short_events_is_no_flood() -> None:
    """A client that was busy gets thousands of events in one read, each of them a chunk."""
    event = b'id: x-1\nevent: trade\ndata: {"n":1}\n\n'
    chunks = (b"%x\r\n%b\r\n" % (len(event), event)) * 20_000
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    server = Server(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    try:
        with Client(server.url) as client:
            found = sum(1 for _ in client.stream(indices=["BTC"], reconnect=False))
    finally:
        server.close()
    assert found == 20_000


# events


def test_a_hostile_stream_neither_grows_nor_waits_without_a_bound() -> None:
    parser = EventParser()
    for _ in range(EVENT_LIMIT // 65_536):
        assert list(parser.feed(b"x" * 65_536)) == []
    with pytest.raises(ValueError, match="expected at most"):
        list(parser.feed(b"x"))
    for retry in (b"9" * 5000, b"999999999", "²".encode(), b"0"):
        parser = EventParser()
        list(parser.feed(b"retry: %b\n\n" % retry))
        assert 0.1 <= parser.retry_s <= 60


@pytest.mark.parametrize("identity", ["a" * 65, "a\rb", "é", "\x00", "a\tb"])
def test_an_id_that_cannot_be_sent_back_is_dropped(identity: str) -> None:
    parser = EventParser()
    [event] = parser.feed(f"id: {identity}\ndata: 1\n\n".encode())
    assert event.id == ""


def test_a_large_event_in_small_pieces_is_searched_once() -> None:
    """The work grows with the event's size, not with its square."""
    parser = EventParser()
    looked: list[int] = []

    class Counting(bytearray):
        def find(self, what: Any, start: int = 0) -> int:  # type: ignore[override]
            looked.append(len(self) - start)
            return super().find(what, start)

    parser._buffer = Counting()
    for _ in range(1000):
        list(parser.feed(b"x" * 100))
    assert sum(looked) < 3 * 100_000
    assert [one.data for one in parser.feed(b"\ndata: 7\n\n")] == [7]


def test_an_event_of_many_lines_costs_no_more_than_its_size() -> None:
    """Bytes that are joined line by line would be copied for each line."""

    def parsing_s(lines: int, times: int) -> float:
        started = time.thread_time()
        for _ in range(times):
            (event,) = EventParser().feed(b'data: "\n%bdata: "\n\n' % (b"data: 1\n" * lines))
            assert event.data == "1" * lines
        return time.thread_time() - started

    assert parsing_s(200_000, 1) < 20 * parsing_s(2_000, 100)


async def test_a_stream_of_rubbish_ends_without_reconnecting() -> None:
    with serving(b"data: {\n\n", kind="text/event-stream") as server:
        async with AsyncClient(server.url) as client:
            events = client.stream(indices=["BTC"], reconnect=False)
            with pytest.raises(ConnectionLost):
                await asyncio.wait_for(anext(events), 60)


# the command


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"x" * 2000, "expected at most 1000 bytes"),
        (b"<html>", "expected JSON, was b'<html>'"),
        (b"[1]", "expected a JSON object, was list"),
    ],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_query_names_an_answer_of_another_form(
    body: bytes, text: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "ANSWER_BYTES", 1000)
    with serving(body) as server:
        arguments = ["query", "venues", "--format", form, "--url", server.url]
        done = CliRunner().invoke(coinspace, arguments)
    assert isinstance(done.exception, EndpointError)
    assert text in str(done.exception)


def test_query_names_an_answer_that_is_nested_too_deep() -> None:
    with serving(b'{"a":' * 1000 + b"1" + b"}" * 1000) as server:
        done = CliRunner().invoke(
            coinspace, ["query", "venues", "--format", "table", "--url", server.url]
        )
    assert isinstance(done.exception, EndpointError)


@pytest.mark.parametrize("body", [b'{"gaps":1}', b'{"gaps":["x"]}', b"{}"])
def test_query_names_a_list_of_another_form(body: bytes) -> None:
    with serving(body) as server:
        done = CliRunner().invoke(
            coinspace, ["query", "gaps", "--format", "csv", "--url", server.url]
        )
    assert isinstance(done.exception, EndpointError)
    assert "expected a list of gaps" in str(done.exception)


def test_query_ends_when_the_pages_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "ROWS_LIMIT", 3)
    with serving(b'{"gaps":[{},{}],"next":"/v1/gaps?cursor=a"}') as server:
        done = CliRunner().invoke(
            coinspace, ["query", "gaps", "--format", "csv", "--url", server.url]
        )
        assert len(server.requests) == 2
    assert "at most 3 gaps" in str(done.exception)


def test_query_ends_when_empty_pages_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAGES_LIMIT", 3)
    with serving(b'{"gaps":[],"next":"/v1/gaps?cursor=a"}') as server:
        done = CliRunner().invoke(
            coinspace, ["query", "gaps", "--format", "csv", "--url", server.url]
        )
        assert len(server.requests) == 3
    assert "at most 3 pages" in str(done.exception)
