"""What one connection does when its exchange ends it, breaks the protocol, or never answers."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from coinspace.clock import SECOND_NS
from coinspace.collector import connection as module
from coinspace.collector import limits
from coinspace.collector.connection import Link
from tests.flow.peer import BINARY, CLOSE, PING, PONG, TEXT, Caller, Script, calling, peer

NEVER_S = 3600
# of the tests in which it is waited for
HANDSHAKE_S = 0.4


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(module, "POLL_S", 0.1)
    monkeypatch.setattr(limits, "FIRST_WAIT_S", 0.1)


@contextmanager
def blackhole() -> Iterator[int]:
    """Listen so that a new connection is never answered; yields the port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            # fills the queue of connections that wait to be accepted
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for one in waiting:
                one.close()


async def answered(caller: Caller, answer: bytes) -> None:
    await caller.request()
    await caller.send(answer)


async def vanish(caller: Caller) -> None:
    await caller.request()


async def vanish_at_once(caller: Caller) -> None:
    pass


async def hang(caller: Caller) -> None:
    await asyncio.sleep(NEVER_S)


async def reset_request(caller: Caller) -> None:
    await caller.request()
    caller.reset()


async def half_header(caller: Caller) -> None:
    await answered(caller, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs")
    await asyncio.sleep(NEVER_S)


async def half_header_and_close(caller: Caller) -> None:
    await answered(caller, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs")


async def endless_header(caller: Caller) -> None:
    await answered(caller, b"HTTP/1.1 101 Switching Protocols\r\n")
    while True:
        await caller.send(b"X-A: " + bytes(60_000).replace(b"\0", b"b") + b"\r\n")


async def wrong_accept(caller: Caller) -> None:
    await answered(
        caller,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: bm9uc2Vuc2U=\r\n\r\n",
    )
    await asyncio.sleep(NEVER_S)


def says(answer: bytes) -> Script:
    async def script(caller: Caller) -> None:
        await answered(caller, answer)

    return script


# failure of a dial -> the cause that is counted and a part of the reason
BEFORE_OPEN: dict[str, tuple[Script, str, str]] = {
    "closed after accept": (vanish_at_once, "handshake", "before the handshake was answered"),
    "closed after the request": (vanish, "handshake", "before the handshake was answered"),
    "reset after the request": (reset_request, "handshake", "before the handshake was answered"),
    "no answer": (hang, "timeout", "no handshake within"),
    "half a header": (half_header, "timeout", "no handshake within"),
    "half a header, closed": (half_header_and_close, "handshake", "before the handshake"),
    "a header without end": (endless_header, "handshake", "headers exceed"),
    "another key": (wrong_accept, "handshake", "invalid sec-websocket-accept"),
    "no HTTP": (says(b"\x00\xff\x16\x03 garbage\r\n\r\n"), "handshake", "handshake, was"),
    "an unknown status": (says(b"HTTP/1.1 999 ?\r\n\r\n"), "handshake", "handshake, was"),
    "a status that is no number": (says(b"HTTP/1.1 OK\r\n\r\n"), "handshake", "handshake, was"),
    "HTTP 200": (says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "http", "HTTP 200"),
    "HTTP 302": (says(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n"), "http", "302"),
    "HTTP 503": (says(b"HTTP/1.1 503 Down\r\n\r\n"), "http", "maintenance: HTTP 503"),
}


@pytest.mark.parametrize("name", BEFORE_OPEN)
async def test_a_connection_that_ends_before_it_is_open_is_dialled_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, cause, reason = BEFORE_OPEN[name]
    if cause == "timeout":
        monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", HANDSHAKE_S)
    async with peer(script) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.failures[cause] >= 2, f"{name} is counted")
        assert calls.connection.connect_failures == calls.connection.failures.total()
        assert any(reason in one for one in calls.reasons), calls.reasons
    assert [line["event"] for line in calls.warnings()] == ["connection failed"]


async def test_a_refused_connection_is_dialled_again() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        async with calling(closed.getsockname()[1]) as calls:
            await calls.until(lambda: calls.connection.failures["connect"] >= 2, "refusals")


async def test_an_unanswered_dial_ends_with_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", HANDSHAKE_S)
    with blackhole() as port:
        async with calling(port) as calls:
            await calls.until(lambda: calls.connection.failures["timeout"] >= 1, "a time-out")
            assert f"no TCP connection within {HANDSHAKE_S:g} s" in calls.reasons


async def test_an_unresolved_name_ends_with_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: Any, **__: Any) -> list[Any]:
        await asyncio.sleep(NEVER_S)
        return []

    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", HANDSHAKE_S)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with calling(1) as calls:
        await calls.until(lambda: calls.connection.failures["timeout"] >= 1, "a time-out")
        assert f"no address within {HANDSHAKE_S:g} s" in calls.reasons


async def test_a_silent_address_does_not_delay_the_next_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with blackhole() as dead:
        async with peer(open_and_wait) as port:
            addresses(monkeypatch, dead, port)
            async with calling(1) as calls:
                await calls.until(lambda: calls.connection.links, "the second address")
                assert not calls.connection.failures


async def test_an_address_that_hung_is_tried_last_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_TIMEOUT_S", 2.0)
    async with peer(hang) as dead, peer(open_and_wait) as port:
        addresses(monkeypatch, dead, port)
        async with calling(1) as calls:
            await calls.until(lambda: calls.connection.links, "the second address")
            assert calls.connection.failures == {"timeout": 1}


def addresses(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
        for port in ports
    ]

    loop = asyncio.get_running_loop()
    resolve_before = loop.getaddrinfo

    async def resolve(host: Any, port: Any, **options: Any) -> Any:
        # a loop may resolve an address that needs no resolving
        return found if port == 1 else await resolve_before(host, port, **options)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)


async def open_and_wait(caller: Caller) -> None:
    await caller.accept()
    await caller.until_closed()


def sends(*frames: tuple[int, bytes, int]) -> Script:
    async def script(caller: Caller) -> None:
        await caller.accept()
        for opcode, payload, first in frames:
            await caller.send_frame(opcode, payload, first)
        await caller.until_closed()

    return script


def close_with(payload: bytes) -> Script:
    return sends((CLOSE, payload, 0x80))


async def masked(caller: Caller) -> None:
    await caller.accept()
    await caller.send(b"\x81\x85\x00\x00\x00\x00hello")
    await caller.until_closed()


async def too_large(caller: Caller) -> None:
    await caller.accept()
    await caller.send(b"\x81\x7f" + (17 << 20).to_bytes(8, "big"))
    await caller.until_closed()


async def too_many_parts(caller: Caller) -> None:
    await caller.accept()
    part = b"\x00\x7f" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)
    await caller.send_frame(TEXT, b"{", 0)
    for _ in range(17):
        await caller.send(part)
    await caller.until_closed()


def flood(frames: bytes) -> Script:
    async def script(caller: Caller) -> None:
        await caller.accept()
        await caller.send(frames)
        await caller.until_closed()

    return script


async def close_twice(caller: Caller) -> None:
    await caller.accept()
    await caller.send(b"\x88\x02\x03\xe8\x88\x02\x03\xe8")
    await caller.until_closed()


async def reset_open(caller: Caller) -> None:
    await caller.accept()
    caller.reset()


async def close_open(caller: Caller) -> None:
    await caller.accept()


# end of an open connection -> the cause that is counted and a part of the reason
AFTER_OPEN: dict[str, tuple[Script, str, str]] = {
    "closed": (close_open, "lost", "connection lost"),
    "reset": (reset_open, "lost", "connection lost"),
    "close 1001": (close_with(b"\x03\xe9away"), "closed", "closed by the exchange: 1001 away"),
    "close 4321": (close_with(b"\x10\xe1"), "closed", "closed by the exchange: 4321"),
    "close without a code": (close_with(b""), "closed", "closed by the exchange: 0"),
    "close with half a code": (close_with(b"\x03"), "protocol", "protocol error 1002"),
    "close below 1000": (close_with(b"\x00\x05"), "protocol", "protocol error 1002"),
    "close with a reserved code": (close_with(b"\x03\xed"), "protocol", "protocol error 1002"),
    "a reason that is no UTF-8": (close_with(b"\x03\xe8\xff\xfe"), "protocol", "error 1007"),
    "a reason with colours": (
        close_with(b"\x03\xe8\x1b[31mred\n"),
        "closed",
        r"closed by the exchange: 1000 \x1b[31mred\n",
    ),
    "two closes": (close_twice, "protocol", "protocol error 1002"),
    "masked": (masked, "protocol", "protocol error 1002: Received masked frame"),
    "too large": (too_large, "protocol", "protocol error 1009"),
    "too large in parts": (too_many_parts, "protocol", "protocol error 1009: a message in parts"),
    "small frames": (
        flood(b'\x81\x0f{"status":"UP"}' * 2000),
        "protocol",
        "error 1008: more than 1000 small",
    ),
    "empty parts": (flood(b"\x01\x00" + b"\x00\x00" * 2000), "protocol", "protocol error 1008"),
    "pings": (flood((b"\x89\x7d" + bytes(125)) * 2000), "protocol", "protocol error 1008"),
    "reserved bits": (sends((TEXT, b"x", 0xC0)), "protocol", "error 1002: reserved bits"),
    "unknown opcode": (sends((3, b"x", 0x80)), "protocol", "protocol error 1002"),
    "a ping in parts": (sends((PING, b"x", 0)), "protocol", "protocol error 1002"),
    "a long ping": (sends((PING, bytes(126), 0x80)), "protocol", "protocol error 1002"),
    "a continuation of nothing": (sends((0, b"x", 0x80)), "protocol", "a continuation of no"),
    "a message in a message": (
        sends((TEXT, b"[", 0), (TEXT, b"[]", 0x80)),
        "protocol",
        "began before the last one ended",
    ),
}


@pytest.mark.parametrize("name", AFTER_OPEN)
async def test_the_end_of_an_open_connection_is_counted_with_its_reason(name: str) -> None:
    script, cause, reason = AFTER_OPEN[name]
    async with peer(script) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.failures[cause] >= 2, f"{name} is counted")
        assert set(calls.connection.failures) == {cause}
        assert any(reason in one for one in calls.reasons), calls.reasons
        assert calls.stage.counts["disconnects"] == calls.connection.failures.total()
    # one log line for all of them
    assert [line["event"] for line in calls.warnings()] == ["connection failed"]


async def test_an_exchange_that_opens_and_closes_is_dialled_at_growing_intervals() -> None:
    dials: list[float] = []

    async def script(caller: Caller) -> None:
        dials.append(asyncio.get_running_loop().time())
        await caller.accept()

    async with peer(script) as port, calling(port) as calls:
        await calls.until(lambda: len(dials) == 6, "six dials")
    waits = [later - earlier for earlier, later in pairwise(dials)]
    for wait, base in zip(waits, (0.1, 0.2, 0.4, 0.8, 1.6), strict=True):
        assert wait > 0.79 * base


@pytest.mark.parametrize("exchange", ["upbit", "bithumb", "binance", "coinone"])
async def test_a_half_open_connection_is_lost_on_every_exchange(
    exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(caller: Caller) -> None:
        await caller.accept()
        await asyncio.sleep(NEVER_S)

    async with peer(silent) as port, calling(port, exchange=exchange) as calls:
        monkeypatch.setattr(calls.connection.exchange, "PING_INTERVAL_S", 0.2)
        await calls.until(lambda: calls.connection.failures["no_pong"], "no pong")
        assert "no pong" in " ".join(calls.reasons)


@pytest.mark.parametrize("opcode", [TEXT, PING, PONG])
async def test_any_frame_is_a_sign_of_life(opcode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    async def lively(caller: Caller) -> None:
        await caller.accept()
        while True:
            heard.append((await caller.frame())[0])
            if heard[-1] != PONG:
                # an answer to each pong would be a flood
                await caller.send_frame(opcode, b'{"status":"UP"}')

    async with peer(lively) as port, calling(port) as calls:
        monkeypatch.setattr(calls.connection.exchange, "PING_INTERVAL_S", 0.5)
        await calls.until(lambda: heard.count(PING) >= 5, "five pings")
        assert not calls.connection.failures
    assert (opcode == PING) == (PONG in heard)


async def test_a_peer_that_never_reads_does_not_fill_our_memory() -> None:
    async def silent(caller: Caller) -> None:
        await caller.accept()
        await caller.until_closed()

    async with peer(silent) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.links, "a link")
        listener = calls.connection.links[0].listener
        assert listener is not None
        # as the transport does while its buffer is full
        listener.pause_writing()
        await calls.until(lambda: calls.connection.failures["stuck"], "it is cut")


async def test_our_close_frames_have_a_standard_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OVERLAP_S", 0.1)
    codes: list[int | None] = []

    async def script(caller: Caller) -> None:
        await caller.accept()
        codes.append(await caller.until_closed())

    async with peer(script) as port:
        async with calling(port) as calls:
            await calls.until(lambda: calls.connection.links, "open")
            [link] = calls.connection.links
            calls.connection.replace(link.number, "a test")
            await calls.until(lambda: codes, "the old one is closed")
        await calls.until(lambda: len(codes) == 2, "the new one is closed")
    # replaced: 1000, a normal end; stopped: 1001, going away
    assert codes == [1000, 1001]


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9bye", b"\x0b\xb8"])
async def test_a_close_frame_is_answered_with_its_code(payload: bytes) -> None:
    codes: list[int | None] = []

    async def script(caller: Caller) -> None:
        await caller.accept()
        await caller.send_frame(CLOSE, payload)
        codes.append(await caller.until_closed())

    async with peer(script) as port, calling(port) as calls:
        await calls.until(lambda: codes, "an answer")
    assert codes[0] == (int.from_bytes(payload[:2], "big") or 1000)


class Doors:
    """A server that accepts one caller, and the next ones only when `open` is set."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.open = asyncio.Event()

    async def script(self, caller: Caller) -> None:
        self.callers.append(caller)
        if len(self.callers) > 1:
            await self.open.wait()
        await caller.accept()
        await caller.until_closed()


async def test_the_old_link_is_watched_while_the_new_one_is_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a link that lived so long is replaced and dialled at once
    monkeypatch.setattr(limits, "STABLE_NS", 0)
    doors = Doors()
    async with peer(doors.script) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.links, "open")
        [old] = calls.connection.links
        calls.connection.replace(old.number, "a test")
        await calls.until(lambda: len(doors.callers) == 2, "a new dial")
        doors.callers[0].reset()
        await calls.until(lambda: not calls.connection.links, "the loss")
        assert calls.reasons[-1] == "connection lost"
        doors.open.set()
        await calls.until(lambda: calls.connection.links, "the new link")
        [new] = calls.connection.links
        await asyncio.sleep(0.5)
        # the request ended with its link
        assert calls.connection.links == [new]
        assert len(doors.callers) == 2


async def test_a_request_to_replace_an_older_link_keeps_the_newer_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OVERLAP_S", 60.0)
    monkeypatch.setattr(limits, "STABLE_NS", 0)
    async with peer(open_and_wait) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.links, "open")
        [old] = calls.connection.links
        calls.connection.replace(old.number, "a test")
        await calls.until(lambda: len(calls.connection.links) == 2, "both are open")
        calls.connection.replace(old.number, "a test")
        doors = calls.connection.links[-1]
        await asyncio.sleep(0.3)
        assert calls.connection.links == [old, doors]


async def test_links_that_are_replaced_early_are_replaced_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OVERLAP_S", 0.0)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.0)
    dials: list[float] = []
    open_link = module.Connection._open

    async def noted(connection: module.Connection, link: Link) -> None:
        dials.append(asyncio.get_running_loop().time())
        await open_link(connection, link)

    monkeypatch.setattr(module.Connection, "_open", noted)

    def replaced() -> bool:
        for link in calls.connection.links[-1:]:
            calls.connection.replace(link.number, "again")
        assert len(calls.connection.links) <= 2
        return len(dials) >= 6

    async with peer(open_and_wait) as port, calling(port) as calls:
        await calls.until(replaced, "six dials")
    assert dials[4] - dials[3] > 0.79 * 0.8
    assert dials[5] - dials[4] > 0.79 * 1.6


def failing(*_: Any) -> None:
    raise RuntimeError("an internal fault")


@pytest.mark.parametrize("place", ["tune_socket", "on_connected", "subscribe"])
async def test_an_internal_error_leaves_no_open_connection_without_an_owner(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int | None] = []

    async def script(caller: Caller) -> None:
        await caller.accept()
        ends.append(await caller.until_closed())

    async with peer(script) as port, calling(port) as calls:
        with monkeypatch.context() as patch:
            if place == "tune_socket":
                patch.setattr(module, "tune_socket", failing)
            elif place == "on_connected":
                patch.setattr(calls.stage, "on_connected", failing)
            else:
                patch.setattr(module.Connection, "_subscribe", failing)
            await calls.until(lambda: len(ends) >= 1, "it is closed")
            await calls.until(lambda: not calls.connection.links, "it is forgotten")
        await calls.until(lambda: calls.connection.links, "once more, without the error")
    errors = [line for line in calls.lines if line["log_level"] == "error"]
    assert "an internal fault" in errors[0]["error"]


async def test_an_error_while_a_loss_is_reported_does_not_end_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    callers: list[Caller] = []

    async def script(caller: Caller) -> None:
        callers.append(caller)
        await open_and_wait(caller)

    async with peer(script) as port, calling(port) as calls:
        await calls.until(lambda: calls.connection.links, "open")
        with monkeypatch.context() as patch:
            patch.setattr(calls.stage, "on_disconnected", failing)
            callers[0].reset()
            await calls.until(lambda: not calls.connection.links, "lost")
        await calls.until(lambda: calls.connection.links, "open again")


async def test_frames_reach_the_stage_when_the_recorder_fails() -> None:
    async def script(caller: Caller) -> None:
        await caller.accept()
        for _ in range(3):
            await caller.send_frame(BINARY, b'{"status":"UP"}')
        await caller.until_closed()

    async with peer(script) as port, calling(port) as calls:
        opened_before = calls.connection._opened

        def opened(link: Link) -> None:
            opened_before(link)
            assert link.listener is not None
            link.listener.recorder = failing

        calls.connection._opened = opened  # type: ignore[method-assign]
        await calls.until(lambda: calls.stage.frames == 3, "three frames")
        assert calls.stage.counts["failures"] == 3
        assert len(calls.connection.links) == 1


async def test_a_wait_that_the_exchange_asks_for_is_respected_and_bounded() -> None:
    for asked, least_s, most_s in (
        (b"7", 6, 8),
        (b"259200", limits.LONGEST_BLOCK_S - 1, limits.LONGEST_BLOCK_S),
        (b"inf", limits.BLOCK_S - 1, limits.BLOCK_S),
        (b"1e300", limits.BLOCK_S - 1, limits.BLOCK_S),
        (b"nan", limits.BLOCK_S - 1, limits.BLOCK_S),
        (b"-5", limits.BLOCK_S - 1, limits.BLOCK_S),
        (b"soon", limits.BLOCK_S - 1, limits.BLOCK_S),
    ):
        began = time.monotonic()
        answer = b"HTTP/1.1 429 Slow\r\nRetry-After: " + asked + b"\r\n\r\n"
        async with peer(says(answer)) as port, calling(port) as calls:
            await calls.until(lambda: calls.connection.connect_failures == 1, "refused")
            wait_s = calls.connection._wait_ns() / SECOND_NS
            passed_s = time.monotonic() - began
            assert least_s - passed_s <= wait_s <= most_s, (asked, wait_s)
