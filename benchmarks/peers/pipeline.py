"""cryptofeed end to end: its feed handler, Upbit feed and ZMQ backend, all as documented.

Only addresses are replaced: cryptofeed insists on wss, and the server here speaks plain ws, which
spares it the cost of TLS; its backend takes tcp, and is given the ipc endpoint that all use here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import orjson
import uvloop
from cryptofeed import FeedHandler
from cryptofeed.backends.zmq import BookZMQ
from cryptofeed.connection import WSAsyncConn
from cryptofeed.defines import L2_BOOK
from cryptofeed.exchanges import Upbit

from benchmarks.peers.cryptofeed_peer import know_symbols
from benchmarks.receivers import Window

OPTIONS = {"ping_interval": 10, "ping_timeout": None, "max_size": None, "max_queue": None}


class PlainSocket(WSAsyncConn):  # type: ignore[misc]
    """The same connection to an address without TLS."""

    def __init__(self, address: str, subscription: dict[str, Any]) -> None:
        super().__init__("wss://127.0.0.1", "UPBIT", subscription=subscription, **OPTIONS)
        self.address = address


class LocalUpbit(Upbit):  # type: ignore[misc]
    """cryptofeed's Upbit feed, connected to our server."""

    url = ""

    def connect(self) -> list[tuple[Any, ...]]:
        socket = PlainSocket(self.url, dict(self.subscription))
        return [(socket, self.subscribe, self.message_handler)]


async def measure(handler: FeedHandler, feed: Any) -> None:
    """Measure a window of frames that the feed's connection has received and handled."""
    running = asyncio.ensure_future(handler.run_async(install_signal_handlers=False))
    window = Window()
    while not window.done.is_set():
        if running.done():
            # the feed ended: its error
            running.result()
            raise RuntimeError("cryptofeed ended before the measurement")
        if connections := getattr(feed, "connection_handlers", None):
            window.frames = connections[0].conn.received
        window.check()
        await asyncio.sleep(0.01)
    print(orjson.dumps(window.result).decode(), flush=True)
    # its orderly end would wait for messages that nobody reads any more
    os._exit(0)


def main() -> None:
    port, endpoint = sys.argv[1:]
    know_symbols()
    # the backend connects, so the subscriber binds
    backend = BookZMQ()
    backend.url = endpoint
    LocalUpbit.url = f"ws://127.0.0.1:{port}/"
    feed = LocalUpbit(symbols=["BTC-KRW"], channels=[L2_BOOK], callbacks={L2_BOOK: backend})
    handler = FeedHandler()
    handler.add_feed(feed)
    # as cryptofeed runs itself where uvloop is installed
    uvloop.run(measure(handler, feed))


if __name__ == "__main__":
    main()
