"""The processes of an end-to-end run: a peer's collector, libzmq alone, and their subscriber.

`python -m benchmarks.pipelines NAME ARGUMENT…`; each but `drain`, which counts, prints one JSON
line with what a frame cost, CPU time of the whole process, libzmq's thread included.
"""

from __future__ import annotations

import asyncio
import signal
import struct
import sys
import time
from typing import Any

import orjson
import uvloop
import zmq

from benchmarks.receivers import Window
from benchmarks.stream import paced

HIGH_WATER = 1_000_000
HEADER = struct.Struct("<BBHIIIqqqqqq")
TOPIC = b"orderbook.upbit.BTC/KRW."


def publisher(endpoint: str, high_water: int = HIGH_WATER) -> zmq.Socket[bytes]:
    """Return a bound PUB socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(zmq.PUB)
    # applies to endpoints bound after it
    socket.sndhwm = high_water
    socket.linger = 0
    socket.bind(endpoint)
    return socket


async def documented(port: int, endpoint: str) -> None:
    """picows, orjson, numpy and send_multipart, as their documentation has it."""
    import numpy as np
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    socket = publisher(endpoint)
    window = Window()
    sequence = 0

    class Listener(WSListener):
        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b"[]")

        def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
            nonlocal sequence
            received_ns = time.time_ns()
            book = orjson.loads(frame.get_payload_as_memoryview())
            units = book["obu"]
            bids = np.array([[unit["bp"], unit["bs"]] for unit in units]).T
            asks = np.array([[unit["ap"], unit["as"]] for unit in units]).T
            levels = np.concatenate((bids.ravel(), asks.ravel()))
            sequence += 1
            header = HEADER.pack(
                1, 1, 0, len(units), len(units), levels.nbytes, 1, sequence,
                book["tms"] * 1_000_000, received_ns, time.time_ns(), 0,
            )  # fmt: skip
            socket.send_multipart([TOPIC, header, levels.data])
            window.frames += 1

    transport, _ = await ws_connect(Listener, f"ws://127.0.0.1:{port}/")
    while not window.done.is_set():
        window.check()
        await asyncio.sleep(0.01)
    transport.disconnect(False)
    print(orjson.dumps(window.result).decode())


def libzmq(endpoint: str, size: int) -> None:
    """Send messages of two parts from C, as fast as a subscriber takes them."""
    from benchmarks.native import limits

    # the sender waits for a full queue, so that only sent messages are counted
    socket = publisher(endpoint, 1000)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    send_parts = limits().send_parts
    body = bytes(HEADER.size + size)
    time.sleep(0.3)
    window = Window()
    while not window.done.is_set():
        window.frames += send_parts(socket.underlying, TOPIC, body, 1000)
        window.check()
    print(orjson.dumps(window.result).decode())


def drain(endpoint: str, seconds: float, way: str) -> None:
    """Receive, forget and count; SIGTERM ends it when all has come, and the count is printed.

    Args: way: connect, or bind for a publisher that connects.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(zmq.SUB)
    socket.rcvhwm = HIGH_WATER
    socket.subscribe(b"")
    socket.rcvtimeo = 200
    socket.bind(endpoint) if way == "bind" else socket.connect(endpoint)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.recv_multipart(copy=False)
            count += 1
        except zmq.Again:
            if asked:
                break
    print(count, flush=True)


def source(endpoint: str, rate: int, size: int) -> None:
    """Send paced messages whose payload begins with the time of sending, ns."""
    socket = publisher(endpoint)
    header, rest = bytes(HEADER.size), bytes(size - 8)
    for _ in paced(rate):
        payload = time.time_ns().to_bytes(8, "little") + rest
        socket.send_multipart([TOPIC, header, payload])


def relay(from_endpoint: str, to_endpoint: str) -> None:
    """Pass every message on."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    incoming = context.socket(zmq.SUB)
    incoming.subscribe(b"")
    incoming.connect(from_endpoint)
    outgoing = publisher(to_endpoint)
    while True:
        outgoing.send_multipart(incoming.recv_multipart(copy=False), copy=False)


def main() -> None:
    name, *rest = sys.argv[1:]
    run: dict[str, Any] = {
        "documented": lambda: uvloop.run(documented(int(rest[0]), rest[1])),
        "libzmq": lambda: libzmq(rest[0], int(rest[1])),
        "source": lambda: source(rest[0], int(rest[1]), int(rest[2])),
        "relay": lambda: relay(rest[0], rest[1]),
        "drain": lambda: drain(rest[0], float(rest[1]), rest[2]),
    }
    run[name]()


if __name__ == "__main__":
    main()
