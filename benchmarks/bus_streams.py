"""What keeping messages costs: the live bus on ZMQ and NATS beside streams, all with journals.

Each line is one publisher and one reader; bursts are taken whole before the next one begins. A line
of streams has the live path of NATS in it, and its reader takes batches instead of messages.
Prints a table.

    python -m benchmarks.bus_streams
"""

from __future__ import annotations

import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.bus_transports import (
    LEVELS,
    PROCESS,
    SPAWN,
    TOPIC,
    server_ns,
    transports,
    wait,
)
from benchmarks.bus_transports import subscribe as receive
from coinspace._ext.message import ORDERBOOK
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import open_publisher
from coinspace.bus.transport import read_stream
from coinspace.clock import now_ns
from coinspace.config import Settings, StreamSettings

BURST, BURSTS = 2000, 10
SINGLE, PAUSE_S = 300, 0.01
LIMIT_S, LOOK_S = 30, 0.01


def take(
    settings: Settings, received: Synchronized[int], cpu_ns: Synchronized[int], waits: list[int]
) -> None:
    """Take batches until the parent ends this process; count messages and record their latency."""

    async def read() -> None:
        reader = read_stream(settings, "orderbook")
        while True:
            batches = await reader.pull()
            for batch in batches:
                messages, _ = batch.read()
                now = now_ns()
                if ages := [now - one.published_ns for one in messages if one.id]:
                    waits.extend(ages)
                received.value += len(messages)
            await reader.confirm(batches)
            cpu_ns.value = time.process_time_ns()

    uvloop.run(read())


def measure(settings: Settings, servers: Cluster | None, levels: int) -> str:
    """Return one line: CPU µs per message of publisher, reader, servers; latency in ms."""
    with SPAWN.Manager() as manager:
        received, cpu = SPAWN.Value("q", 0), SPAWN.Value("q", 0)
        waits = manager.list()
        streamed = settings.streams.enabled
        child = SPAWN.Process(
            target=take if streamed else receive,
            args=(settings if streamed else settings.bus, received, cpu, waits),
        )
        publisher = open_publisher(PROCESS, settings, now_ns())
        topic, book = publisher.topic(TOPIC), np.arange(4.0 * levels)
        sent = 0

        def send(n: int, number: int = 0) -> None:
            nonlocal sent
            sent += n
            for _ in range(n):
                # a burst is faster than the keeper of the journal, unlike a live feed
                while publisher.journal is not None and not publisher.journal.writer.has_next:
                    time.sleep(0.001)
                publisher.publish(topic, ORDERBOOK, book, n_bids=levels, n_asks=levels, id=number)

        child.start()
        try:
            while not received.value:
                send(1)
                time.sleep(0.05)
            # what was sent before the live reader had subscribed is not counted
            time.sleep(1)
            offset = sent - received.value
            for number in range(BURSTS + 4):
                if number == 4:
                    begun = time.process_time_ns(), cpu.value, server_ns(servers)
                send(BURST)
                wait(received, sent - offset, LIMIT_S, LOOK_S)
            ended = time.process_time_ns(), cpu.value, server_ns(servers)
            costs = [
                (end - start) / (BURST * BURSTS) / 1000
                for end, start in zip(ended, begun, strict=True)
            ]
            for number in range(SINGLE):
                send(1, number + 1)
                time.sleep(PAUSE_S)
            wait(received, sent - offset, LIMIT_S, LOOK_S)
            p50, p99 = np.percentile(list(waits), [50, 99]) / 1e6
        finally:
            child.terminate()
            child.join()
            publisher.close()
    publish, taken, serve = costs
    return f"{publish:8.1f} {taken:10.1f} {serve:8.1f} {p50:8.1f} {p99:8.1f}"


def main() -> None:
    print(f"{'':26} {'bytes':>6} {'publish':>8} {'read':>10} {'servers':>8}", end="")
    print(f" {'p50 ms':>8} {'p99 ms':>8}   (CPU µs a message)")
    with tempfile.TemporaryDirectory() as folder, transports(Path(folder)) as found:
        lines = dict(found)
        for name, (settings, servers) in found.items():
            if servers is not None:
                streams = StreamSettings(enabled=True, max_bytes=1 << 30)
                own = {"streams": streams, "data": settings.data / "streams"}
                lines[f"{name}, streams"] = settings.model_copy(update=own), servers
        for levels in LEVELS:
            for name, (settings, servers) in lines.items():
                line = measure(settings, servers, levels)
                print(f"{name:26} {64 + 32 * levels:6} {line}", flush=True)


if __name__ == "__main__":
    main()
