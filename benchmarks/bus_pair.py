"""One candidate's publisher and subscriber, two processes: bursts over a socket, CPU time of both.

A burst is smaller than the queues, so neither side waits or drops; the next one begins when
the subscriber has taken the whole of it. Prints one JSON line: CPU ns per message of each side.

    python -m benchmarks.bus_pair CANDIDATE ENDPOINT PAYLOAD_BYTES
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import orjson
import zmq
from zmq.backend.cython import _zmq

from benchmarks.native import compiled, limits
from benchmarks.pipelines import TOPIC
from coinspace._ext.message import ORDERBOOK, encode_header
from coinspace._ext.publisher import ZmqSink
from coinspace._ext.sink import Topic
from coinspace.bus.context import ZERO_COPY_RECV

BURST = 10_000
BURSTS = 4
QUEUE = 4 * BURST
LEVEL_BYTES = 16
WAIT_MS = 10_000


class Side(ABC):
    """A publisher's and a subscriber's way to move messages; each process uses one half."""

    # messages carry a header that our receiver accepts
    parts: list[bytes]

    def __init__(self, payload_bytes: int) -> None:
        levels = payload_bytes // LEVEL_BYTES
        self.n_bids = levels // 2
        self.n_asks = levels - self.n_bids
        self.payload = np.arange(2.0 * levels)
        header = encode_header(
            ORDERBOOK,
            n_bids=self.n_bids,
            n_asks=self.n_asks,
            payload_size=self.payload.nbytes,
            epoch=1,
            sequence=1,
        )
        self.parts = [TOPIC, header, self.payload.tobytes()]
        self.context = zmq.Context[zmq.Socket[bytes]]()

    def bind(self, endpoint: str) -> None:
        self.socket = self.context.socket(zmq.PUB)
        self.socket.sndhwm = QUEUE
        self.socket.bind(endpoint)

    def connect(self, endpoint: str) -> None:
        # as our Subscriber sets it, for all alike
        self.context.set(ZERO_COPY_RECV, 0)
        self.socket = self.context.socket(zmq.SUB)
        self.socket.rcvhwm = QUEUE
        self.socket.rcvtimeo = WAIT_MS
        self.socket.subscribe(b"")
        self.socket.connect(endpoint)

    @abstractmethod
    def send(self, n: int) -> None: ...

    @abstractmethod
    def receive(self, n: int) -> None: ...


class Multipart(Side):
    def send(self, n: int) -> None:
        # as documented: the array itself is a part, its buffer is taken
        topic, header = self.parts[:2]
        parts: list[Any] = [topic, header, self.payload]
        for _ in range(n):
            self.socket.send_multipart(parts)

    def receive(self, n: int) -> None:
        for _ in range(n):
            self.socket.recv_multipart()


class PlainC(Side):
    # topic, and all behind it joined: 1 joins the topic too
    n_parts = 3

    def __init__(self, payload_bytes: int) -> None:
        super().__init__(payload_bytes)
        self.library = library()
        self.zmq = ctypes.CDLL(_zmq.__file__)
        kept = self.parts[: self.n_parts - 1]
        self.parts = [*kept, b"".join(self.parts[self.n_parts - 1 :])]

    def _handle(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.socket.underlying)

    def send(self, n: int) -> None:
        count = len(self.parts)
        data = (ctypes.c_char_p * count)(*self.parts)
        sizes = (ctypes.c_size_t * count)(*map(len, self.parts))
        sent = self.library.send_messages(
            self.zmq.zmq_send, self._handle(), data, sizes, count, ctypes.c_long(n)
        )
        assert sent == n

    def receive(self, n: int) -> None:
        names = ("msg_init", "msg_recv", "msg_more", "msg_close")
        functions = [getattr(self.zmq, f"zmq_{name}") for name in names]
        assert self.library.receive_messages(*functions, self._handle(), ctypes.c_long(n)) == n


class PlainCJoined(PlainC):
    n_parts = 1


class Ours(Side):
    """Cython at both ends: Sink.send in a C loop, a Receiver whose messages stay in Cython."""

    def bind(self, endpoint: str) -> None:
        super().bind(endpoint)
        self.native = limits()
        self.sink = ZmqSink(time.time_ns(), self.socket.underlying)
        self.topic: Topic = self.sink.topic(TOPIC)

    def connect(self, endpoint: str) -> None:
        super().connect(endpoint)
        self.target = 0
        self.receiver = limits().counting_receiver(self.socket.underlying)
        # as an event loop waits for it: readable once something has come since the last drain
        self.arrivals = select.poll()
        self.arrivals.register(self.socket.FD, select.POLLIN)

    def send(self, n: int) -> None:
        self.native.publish_all(self.sink, self.topic, self.parts[2], self.n_bids, self.n_asks, n)
        assert self.sink.dropped == 0

    def receive(self, n: int) -> None:
        # a drain takes all waiting messages, even more than requested
        self.target += n
        while self.receiver.taken < self.target:
            if not self.receiver.drain(256) and self.receiver.taken < self.target:
                assert self.arrivals.poll(WAIT_MS), "nothing arrived"
        assert self.receiver.missed == 0


CANDIDATES: dict[str, type[Side]] = {
    "CoinSpace": Ours,
    "C, one part": PlainCJoined,
    "C, three parts": PlainC,
    "send_multipart": Multipart,
}


def library() -> ctypes.CDLL:
    """Compile bus.c once and load it."""
    return ctypes.CDLL(str(compiled("bus.c", "cc", "-O3")))


def subscribe(side: Side, endpoint: str, reports: int) -> None:
    """Be the subscriber: receive the bursts, reporting after each one."""
    side.connect(endpoint)
    # the first message shows that the subscription is complete
    side.receive(1)
    os.write(reports, b"1")
    side.receive(BURST)
    os.write(reports, b"1")
    before = time.process_time_ns()
    for _ in range(BURSTS):
        side.receive(BURST)
        os.write(reports, b"1")
    cpu = (time.process_time_ns() - before) / (BURST * BURSTS)
    os.write(reports, orjson.dumps(cpu) + b"\n")


def publish(side: Side, endpoint: str, replies: int) -> dict[str, float]:
    """Be the publisher. Returns: both sides' CPU ns per message and the wall time of one."""
    side.bind(endpoint)
    os.set_blocking(replies, False)
    deadline = time.monotonic() + WAIT_MS / 1000
    while True:
        side.send(1)
        time.sleep(0.005)
        try:
            os.read(replies, 1)
            break
        except BlockingIOError:
            assert time.monotonic() < deadline, "no subscriber"
    os.set_blocking(replies, True)
    # the calls before the subscription was seen are part of the first burst
    side.send(BURST)
    os.read(replies, 1)
    before, started = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(BURSTS):
        side.send(BURST)
        os.read(replies, 1)
    n = BURST * BURSTS
    cpu = (time.process_time_ns() - before) / n
    wall = (time.perf_counter_ns() - started) / n
    other = float(os.read(replies, 100))
    return {"publisher": cpu, "subscriber": other, "cpu_ns": cpu + other, "wall_ns": wall}


def main() -> None:
    kind, endpoint, payload_bytes = CANDIDATES[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    # compiled before both processes would do it
    limits()
    library()
    replies, reports = os.pipe()
    # before any thread of libzmq exists
    child = os.fork()
    if not child:
        try:
            subscribe(kind(payload_bytes), endpoint, reports)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(0)
    os.close(reports)
    print(orjson.dumps(publish(kind(payload_bytes), endpoint, replies)).decode(), flush=True)
    os.waitpid(child, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
