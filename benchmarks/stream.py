"""A WebSocket server that sends frames as fast as they are read, or paced: the source of every run.

`python -m benchmarks.stream --kind upbit-book` prints one JSON line with its port. It answers any
upgrade request, and sends once the client has sent anything (its subscription). Times inside the
frames are rewritten to now, so that a collector sees a live market. Paced frames carry their number
as their time: see `PACED_BASE_MS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import click
import uvloop
from picows import WSFrame, WSListener, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.frames import frames
from coinspace.simulator.connection import BINARY, encode_frame

TIME = re.compile(rb'"(?:timestamp|tms|E)":(\d{13})')
HIGH_WATER = 1 << 20
# paced frames: their exchange times are this plus their number, in ms
PACED_BASE_MS = 1_700_000_000_000


def paced(rate: int) -> Iterator[int]:
    """Yield 0, 1, 2 … `rate` times a second, late numbers at once; blocks in between.

    A loop's timers count whole ms: one that is due sooner would never let the loop sleep.
    """
    start, number = time.monotonic(), 0
    while True:
        wait_s = start + number / rate - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        yield number
        number += 1


def framed(payload: bytes) -> bytes:
    """Return a whole server frame, unmasked."""
    return encode_frame(BINARY, payload)


class Batch:
    """Framed frames in one buffer, with the positions of their times."""

    def __init__(self, payloads: list[bytes]) -> None:
        made = [framed(payload) for payload in payloads]
        self.data = bytearray(b"".join(made))
        self.times = [match.start(1) for match in TIME.finditer(self.data)]
        self.starts = [0]
        for one in made:
            self.starts.append(self.starts[-1] + len(one))

    def stamp_all(self, time_ms: int) -> None:
        text = b"%d" % time_ms
        for at in self.times:
            self.data[at : at + 13] = text

    def one(self, index: int, time_ms: int) -> bytearray:
        start, end = self.starts[index], self.starts[index + 1]
        frame = self.data[start:end]
        at = self.times[index] - start
        frame[at : at + 13] = b"%d" % time_ms
        return frame


class Stream(WSListener):
    """One client's connection; the library answers its handshake and pings."""

    def __init__(self, batch: Batch, rate: int, sent_ns: array[int]) -> None:
        self.batch = batch
        self.rate = rate
        self.sent_ns = sent_ns
        self.started = False
        self.paused = False
        self.lost = False
        self.flooding = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport: asyncio.Transport = transport.underlying_transport
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.start()

    def start(self) -> None:
        if self.started:
            return
        self.started = True
        loop = asyncio.get_running_loop()
        if self.rate:
            threading.Thread(target=self.pace, args=(loop,), daemon=True).start()
        else:
            loop.call_soon(self.flood)

    def flood(self) -> None:
        # one batch a turn of the loop: a lost client is reported only between turns
        if self.paused or self.lost or self.transport.is_closing():
            self.flooding = False
            return
        self.flooding = True
        self.batch.stamp_all(time.time_ns() // 1_000_000)
        self.transport.write(bytes(self.batch.data))
        asyncio.get_running_loop().call_soon(self.flood)

    def pace(self, loop: asyncio.AbstractEventLoop) -> None:
        # the loop may end before this thread notices
        with contextlib.suppress(RuntimeError):
            for _ in paced(self.rate):
                if self.lost:
                    return
                loop.call_soon_threadsafe(self.send_one)

    def send_one(self) -> None:
        if self.lost:
            return
        # numbers continue over connections: each belongs to one time of sending
        number = len(self.sent_ns)
        frame = self.batch.one(number % (len(self.batch.starts) - 1), PACED_BASE_MS + number)
        # the wall clock: readers compare it with stamps of other processes
        self.sent_ns.append(time.time_ns())
        self.transport.write(frame)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if not self.rate and not self.flooding:
            self.flood()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.lost = True


async def serve(kind: str, rate: int) -> array[int]:
    """Serve until stdin is closed. Returns: the send times of paced frames, int64 ns."""
    batch = Batch(frames(kind))
    sent_ns = array("q")

    def accept(request: WSUpgradeRequest) -> Stream:
        return Stream(batch, rate, sent_ns)

    server = await ws_create_server(accept, "127.0.0.1", 0)
    print(f'{{"ready":true,"port":{server.sockets[0].getsockname()[1]}}}', flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    return sent_ns


@click.command()
@click.option("--kind", default="upbit-book", help="of benchmarks.frames")
@click.option("--rate", default=0, help="frames per second; 0 = as fast as they are read")
@click.option("--sent", type=click.Path(path_type=Path), help="file for the send times")
def main(kind: str, rate: int, sent: Path | None) -> None:
    """Send frames over a WebSocket until stdin is closed."""
    sent_ns = uvloop.run(serve(kind, rate))
    if sent is not None:
        sent.write_bytes(sent_ns.tobytes())


if __name__ == "__main__":
    main()
