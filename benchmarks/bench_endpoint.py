"""The cost of an answer and of a delivery of the endpoint, over the whole server process.

The latest value is the route that programs ask most, and every open page and bot takes each
tick: a dearer request or delivery is what limits how many of them one core serves. The same
body is served by a bare ASGI handler and by FastAPI on the same server, and the same event is
written to every client by a protocol that does nothing else: these are the limits. History is
compared with the same statement sent to the database directly: the difference is our cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import uvloop

from benchmarks.endpoint_servers import open_files
from benchmarks.measure import Bench, Result, gated
from benchmarks.processes import ENVIRONMENT, cpu_ns
from coinspace.bench.measure import OURS, interleaved

CONNECTIONS = 32
REQUESTS = 6000
CLIENTS = 1000
FAN_OUT_S = 6.0
ROUNDS = 3
BARE, FASTAPI, RAW = "bare ASGI", "FastAPI", "one pre-framed write"
REQUEST = b"GET /v1/indices/BTC HTTP/1.1\r\nHost: localhost\r\n\r\n"
SSE = b"GET /v1/stream?indices=BTC HTTP/1.1\r\nHost: localhost\r\n\r\n"
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# masked with zeros, so that the text stays readable here
_TEXT = b'{"op":"subscribe","channels":["index.BTC"]}'
SUBSCRIBE = b"\x81" + bytes((0x80 | len(_TEXT),)) + b"\0\0\0\0" + _TEXT


@contextlib.contextmanager
def server(name: str, *more: str) -> Iterator[tuple[int, int]]:
    """Run a server; yields (port, pid)."""
    command = [sys.executable, "-m", "benchmarks.endpoint_servers", name, *more]
    with (
        tempfile.TemporaryDirectory(prefix="cs-") as folder,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, "COINSPACE_DATA": folder},
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{name} did not start"
        try:
            yield int(line), process.pid
        finally:
            process.terminate()


class Asker(asyncio.Protocol):
    """Asks again as soon as an answer is whole."""

    def __init__(self, left: list[int], done: asyncio.Future[None]) -> None:
        self._left, self._done = left, done
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            self._missing = int(length) - len(body)
        else:
            self._missing -= len(data)
        if self._missing:
            return
        self._left[0] -= 1
        if self._left[0] > 0:
            self._transport.write(REQUEST)
        elif not self._done.done():
            self._done.set_result(None)


async def ask(port: int, requests: int) -> None:
    loop = asyncio.get_running_loop()
    left, done = [requests], loop.create_future()
    made = [
        await loop.create_connection(lambda: Asker(left, done), "127.0.0.1", port)
        for _ in range(CONNECTIONS)
    ]
    await asyncio.wait_for(done, 30)
    for transport, _ in made:
        transport.close()
    # the loop closes them in its next round
    await asyncio.sleep(0.05)


def test_latest_value(bench: Bench) -> None:
    pytest.importorskip("fastapi", reason="fastapi is not installed: `pip install fastapi`")

    def measure() -> Result:
        with server("ours") as own, server("bare ASGI") as bare, server("FastAPI") as fast:
            sites = {OURS: own, BARE: bare, FASTAPI: fast}
            for port, _ in sites.values():
                uvloop.run(ask(port, 500))

            def cost(name: str) -> float:
                port, pid = sites[name]
                before = cpu_ns(pid)
                uvloop.run(ask(port, REQUESTS))
                return (cpu_ns(pid) - before) / REQUESTS

            timing = interleaved({name: partial(cost, name) for name in sites}, 3 * ROUNDS)
        result = Result("endpoint", "latest value", "CPU ns/request", "one BTC record", timing)
        result.limits = [BARE]
        over = 1 / timing.ratio(BARE)
        result.check("CPU of the bare handler's", over, gate=1.5, goal=1.1, better="lower")
        result.ratio(FASTAPI, gate=2)
        return result

    gated(bench, measure)


class Listener(asyncio.Protocol):
    """Counts events and how long they took from their stamp."""

    def __init__(self, first: bytes, second: bytes, delays_ms: list[float]) -> None:
        self._first, self._second, self._delays_ms = first, second, delays_ms

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, not the base class
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 101") and self._second:
            self._transport.write(self._second)
        at = data.find(b'"ts":')
        # the stamp is in the event's first packet; the rest of an event has none
        if at >= 0 and b'"asset":"BTC"' in data:
            stamp = int(data[at + 5 : at + 18])
            self._delays_ms.append(time.time_ns() / 1e6 - stamp)


async def listen(port: int, pid: int, first: bytes, second: bytes) -> tuple[float, list[float]]:
    """Return CPU ns per delivery and the delays in ms, after everyone has joined."""
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    made = []
    for number in range(CLIENTS):
        made.append(
            await loop.create_connection(lambda: Listener(first, second, delays), "127.0.0.1", port)
        )
        if number % 100 == 99:
            await asyncio.sleep(0.02)
    await asyncio.sleep(1.5)
    delays.clear()
    before = cpu_ns(pid)
    await asyncio.sleep(FAN_OUT_S)
    cost = (cpu_ns(pid) - before) / max(1, len(delays))
    for transport, _ in made:
        transport.close()
    await asyncio.sleep(0.5)
    return cost, delays


def resident_kib(pid: int) -> int:
    """Return a process's resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


@pytest.mark.parametrize(
    ("kind", "first", "second", "gate"),
    [("SSE", SSE, b"", 3.5), ("WebSocket", HANDSHAKE, SUBSCRIBE, 3.0)],
    ids=["sse", "websocket"],
)
def test_fan_out(bench: Bench, kind: str, first: bytes, second: bytes, gate: float) -> None:
    open_files()

    def measure() -> Result:
        delays: dict[str, list[float]] = {OURS: [], RAW: []}
        with server("ours", "events") as own, server("raw", "events") as limit:
            sites = {OURS: own, RAW: limit}
            empty = resident_kib(own[1])

            def cost(name: str) -> float:
                port, pid = sites[name]
                found, late = uvloop.run(listen(port, pid, first, second))
                delays[name] += late
                return found

            timing = interleaved({name: partial(cost, name) for name in sites}, ROUNDS)
            grown = max(0, resident_kib(own[1]) - empty)
        case = f"{CLIENTS} {kind} clients, 5 events/s"
        result = Result("endpoint", case, "CPU ns/delivery", "one BTC record", timing)
        result.limits = [RAW]
        over = 1 / timing.ratio(RAW)
        result.check("CPU of the pre-framed write's", over, gate=gate, goal=1.5, better="lower")
        ordered = sorted(delays[OURS])
        result.figures = {
            "p50 delivery, ms": statistics.median(ordered),
            "p99 delivery, ms": ordered[int(len(ordered) * 0.99)],
            "memory per client, KiB (peak growth)": grown / CLIENTS,
        }
        return result

    gated(bench, measure)
