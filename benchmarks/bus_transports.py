"""The bus on ZMQ and on NATS in one run: CPU time and latency, one publisher and one subscriber.

Each burst is taken whole before the next one begins, so nothing is dropped. NATS servers are
private ones on this machine, which share its processors. Prints a table.

    python -m benchmarks.bus_transports
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import structlog
import uvloop

from coinspace._ext.message import ORDERBOOK, Message
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import now_ns
from coinspace.config import BusSettings, Settings

PROCESS = "orderbook-collector-upbit"
TOPIC = b"orderbook.upbit.BTC/KRW."
LEVELS = (30, 94)  # per side: books of 1 and of 3 KB
BURST, BURSTS = 500, 40
SINGLE, PAUSE_S = 600, 0.005
TICKS = os.sysconf("SC_CLK_TCK")
SPAWN = multiprocessing.get_context("spawn")

# stdout has the table; the child that is spawned imports this module too
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def subscribe(
    bus: BusSettings, received: Synchronized[int], cpu_ns: Synchronized[int], waits: list[int]
) -> None:
    """Receive until the parent ends this process; count messages and record their latency."""

    def on_message(message: Message) -> None:
        if message.id:
            waits.append(now_ns() - message.published_ns)
        received.value += 1
        if not received.value % BURST:
            cpu_ns.value = time.process_time_ns()

    async def read() -> None:
        subscriber = Subscriber([bus.endpoint(PROCESS)], [b"orderbook."], on_message, bus=bus)
        subscriber.start()
        await asyncio.Event().wait()

    uvloop.run(read())


@contextmanager
def transports(folder: Path) -> Iterator[dict[str, tuple[Settings, Cluster | None]]]:
    """Yield name -> settings and servers of each transport."""
    one, three = Cluster(folder / "one"), Cluster(folder / "three", 3)
    one.start()
    three.start()
    found: dict[str, tuple[Settings, Cluster | None]] = {
        "ZMQ": (Settings(data=folder / "zmq"), None)
    }
    for name, servers in (("NATS, 1 server", one), ("NATS, 3 servers", three)):
        bus = BusSettings(url=servers.url)
        found[name] = (Settings(data=folder / name[-9:].replace(" ", ""), bus=bus), servers)
    try:
        yield found
    finally:
        one.close()
        three.close()


def server_ns(servers: Cluster | None) -> int:
    """Return the processor time of the servers so far."""
    total = 0
    for server in servers.running.values() if servers else ():
        words = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(words[11]) + int(words[12])
    return total * 1_000_000_000 // TICKS


def wait(received: Synchronized[int], n: int, limit_s: float = 20, look_s: float = 0.0005) -> None:
    """Wait for messages. Args: look_s: a look costs the publisher's time that is measured."""
    end = time.monotonic() + limit_s
    while received.value < n:
        assert time.monotonic() < end, f"expected {n} messages, was {received.value}"
        time.sleep(look_s)


def measure(settings: Settings, servers: Cluster | None, levels: int) -> str:
    """Return one line: CPU µs per message of publisher, subscriber, servers; latency in µs."""
    with SPAWN.Manager() as manager:
        received, cpu = SPAWN.Value("q", 0), SPAWN.Value("q", 0)
        waits = manager.list()
        child = SPAWN.Process(target=subscribe, args=(settings.bus, received, cpu, waits))
        publisher = Publisher(PROCESS, settings.bus, now_ns())
        topic, book = publisher.topic(TOPIC), np.arange(4.0 * levels)

        def send(number: int = 0) -> None:
            publisher.publish(topic, ORDERBOOK, book, n_bids=levels, n_asks=levels, id=number)

        child.start()
        try:
            while not received.value:
                send()
                time.sleep(0.05)
            time.sleep(0.2)
            received.value = 0
            for _ in range(4):
                before = received.value
                for _ in range(BURST):
                    send()
                wait(received, before + BURST)
            begun = time.process_time_ns(), cpu.value, server_ns(servers), time.monotonic_ns()
            first = received.value
            for number in range(BURSTS):
                for _ in range(BURST):
                    send()
                wait(received, first + (number + 1) * BURST)
            ended = time.process_time_ns(), cpu.value, server_ns(servers), time.monotonic_ns()
            n = BURST * BURSTS
            costs = [(end - start) / n / 1000 for end, start in zip(ended, begun, strict=True)]
            for number in range(SINGLE):
                send(number + 1)
                time.sleep(PAUSE_S)
            wait(received, first + n + SINGLE)
            p50, p99 = np.percentile(list(waits), [50, 99]) / 1000
        finally:
            child.terminate()
            child.join()
            publisher.close()
    publish, take, serve, wall = costs
    return f"{publish:8.1f} {take:10.1f} {serve:8.1f} {1e6 / wall:11,.0f} {p50:8.0f} {p99:8.0f}"


def main() -> None:
    print(f"{'':16} {'bytes':>6} {'publish':>8} {'subscribe':>10} {'servers':>8}", end="")
    print(f" {'messages/s':>11} {'p50 µs':>8} {'p99 µs':>8}   (CPU µs a message)")
    with tempfile.TemporaryDirectory() as folder, transports(Path(folder)) as found:
        for levels in LEVELS:
            for name, (settings, servers) in found.items():
                line = measure(settings, servers, levels)
                print(f"{name:16} {64 + 32 * levels:6} {line}", flush=True)


if __name__ == "__main__":
    main()
