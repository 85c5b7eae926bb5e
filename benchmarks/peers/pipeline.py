"""cryptofeed end to end: its feed handler, Upbit feed and ZMQ backend, all as documented.

Only addresses are replaced: cryptofeed insists on wss, and the server here speaks plain ws, which
spares it the cost of TLS; its backend takes tcp, and is given the ipc endpoint that all use here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
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
        return [(socket, self.subscribe, self.message_handler, self.authenticate)]


async def watch(feed: Any, window: Window) -> None:
    """Measure a window of frames that the feed's connection has received and handled."""
    while not window.done.is_set():
        if feed.connection_handlers:
            window.frames = feed.connection_handlers[0].conn.received
        window.check()
        await asyncio.sleep(0.01)
    print(orjson.dumps(window.result).decode(), flush=True)
    raise SystemExit


def main() -> None:
    port, endpoint = sys.argv[1:]
    know_symbols()
    handler = FeedHandler(config={"uvloop": True, "log": {"disabled": True}})
    # the backend connects, so the subscriber binds
    backend = BookZMQ()
    backend.url = endpoint
    LocalUpbit.url = f"ws://127.0.0.1:{port}/"
    feed = LocalUpbit(symbols=["BTC-KRW"], channels=[L2_BOOK], callbacks={L2_BOOK: backend})
    handler.add_feed(feed)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    handler.run(start_loop=False, install_signal_handlers=False)
    loop.run_until_complete(watch(feed, Window()))


if __name__ == "__main__":
    main()
