"""The flush thread: no answer of the database ends it without a report."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest

from coinspace.config import Settings
from coinspace.storage import schema, sender
from coinspace.storage.questdb.address import Address
from coinspace.storage.sender import Sender
from coinspace.storage.transport import Rejected, Transport, Unavailable
from tests.waiting import until


class Script:
    """A server with given answers: an exception to raise, or None for "stored"."""

    def __init__(self, *answers: BaseException | None) -> None:
        self.answers = list(answers)
        self.sent = 0

    def __call__(self, found: Address, timeout_ms: int) -> Script:
        return self

    def send(self, lines: bytes) -> None:
        self.sent += 1
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer

    def close(self) -> None:
        """Do nothing, as nothing is open."""


ADDRESS = Address("http::addr=127.0.0.1:1;", "postgresql://127.0.0.1:1/qdb", "", "http://x", "", "")


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, script: Script, **more: object) -> Sender:
    monkeypatch.setattr(sender, "Transport", script)
    monkeypatch.setattr(sender, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(sender, "address", lambda settings: ADDRESS)
    own = Sender(Settings(data=folder), "test", **more)  # type: ignore[arg-type]
    own.start()
    assert own.row("trade", symbols={"market": "A/KRW"}, columns={"price": 1.0}, at_ns=1)
    return own


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a defect"),
        KeyError("MONTH"),
        psycopg.OperationalError("server closed the connection"),
        MemoryError(),
        Unavailable("soon back"),
        OSError(28, "No space left on device"),
    ],
    ids=repr,
)
async def test_a_batch_is_sent_again_after_any_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(error, error, None)
    own = made(tmp_path, monkeypatch, script)
    assert await own.drained(60)
    assert script.sent == 3
    assert own.trouble is None
    counters = own.counters()
    assert counters["flush_retries"] == 2
    expected = 0 if isinstance(error, Unavailable | OSError) else 2
    assert counters["flush_defects"] == expected
    assert await own.close()


async def test_a_server_that_ends_before_the_repair_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def ended(*args: object, **more: object) -> list[schema.Difference]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return []

    monkeypatch.setattr(schema, "repair", ended)
    refusal = Rejected(1, "trade", "no such column")
    own = made(tmp_path, monkeypatch, Script(refusal, refusal, refusal, None))
    assert await own.drained(60)
    assert own.counters()["rows_stored"] == 1
    assert calls == 3
    assert await own.close()


async def test_rows_are_settled_only_when_all_before_them_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "repair", lambda *args: [])
    # the second row is bad; the database is down when the first one is sent alone
    refusal = Rejected(2, "trade", "bad value")
    script = Script(refusal, refusal, refusal, *[Unavailable("down")] * 500)
    own = made(tmp_path, monkeypatch, script)
    assert own.row("trade", symbols={"market": "B/KRW"}, columns={"price": 1.0}, at_ns=2)
    own.seal()
    await until(lambda: script.sent > 4)
    assert (own.done, own.settled) == (1, 0)
    script.answers.clear()
    assert await own.drained(60)
    await until(lambda: own.settled == 2)
    assert await own.close()


async def test_a_thread_that_ends_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[tuple[str, BaseException]] = []
    ended = asyncio.Event()

    def failed(name: str, error: BaseException) -> None:
        failures.append((name, error))
        ended.set()

    own = made(tmp_path, monkeypatch, Script(SystemExit("the end")), on_failure=failed)
    own.seal()
    await asyncio.wait_for(ended.wait(), 60)
    assert failures[0][0] == "test flush"
    assert "flush thread ended" in str(own.trouble)
    own.abort()


class _Answers(BaseHTTPRequestHandler):
    body = b""
    status = 400

    def do_POST(self) -> None:
        """Give every batch the same answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            # a client does not read the rest of a huge answer
            self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], Transport]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    http = f"127.0.0.1:{server.server_port}"

    def transport(body: bytes) -> Transport:
        _Answers.body = body
        found = Address(f"http::addr={http};", "", "", f"http://{http}", "", "")
        return Transport(found, 5000)

    yield transport
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"code":"invalid"}',
        b'{"code":"invalid","line":"x"}',
        b'{"code":"invalid","line":1e30}',
        b'{"code":"invalid","line":[1]}',
        b'{"code":"invalid","message":null}',
        b'{"code":"invalid","message":"error in line ' + b"9" * 5000 + b': table: t"}',
        b'{"code":' * 20_000,
        b"x" * (8 << 20),
    ],
    ids=lambda body: f"{body[:40]!r} {len(body)}",
)
def test_any_answer_is_a_refusal_or_an_outage(
    body: bytes, answering: Callable[[bytes], Transport]
) -> None:
    transport = answering(body)
    for _ in range(2):
        with pytest.raises((Unavailable, Rejected)) as caught:
            transport.send(b"t x=1\n")
        assert len(str(caught.value)) < 2000
    transport.close()


async def test_rows_that_cannot_be_sent_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = made(tmp_path, monkeypatch, Script(*(KeyError("MONTH") for _ in range(1000))))
    own.seal()
    await until(lambda: own.counters()["flush_defects"] >= 2)
    assert "MONTH" in str(own.trouble)
    assert own.pending == 1
    own.abort()
