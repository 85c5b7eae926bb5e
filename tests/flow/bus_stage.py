"""Helpers of the bus's tests: settings below a short folder, a collecting subscriber, waiting."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coinspace._ext.message import Message
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.config import BusSettings, Settings

PROCESS = "orderbook-collector-upbit"
BOOK = b"orderbook.upbit.BTC/KRW."
TIMEOUT_S = 60.0
_epochs = itertools.count(1_000_000_000)


def settings_in(folder: Path, **bus: Any) -> Settings:
    """Return settings whose sockets fit into the 107 bytes of an ipc path."""
    # a path relative to the working folder is shorter than pytest's own
    short = Path(os.path.relpath(folder))
    data = short if len(str(short)) < len(str(folder)) else folder
    return Settings(data=data, bus=BusSettings(**bus))


def next_epoch() -> int:
    """Return an epoch that no publisher of this test run has had."""
    return next(_epochs)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a condition holds. Raises: AssertionError naming the condition."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        assert loop.time() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


class Listener(Subscriber):
    """A subscriber that keeps every message that it receives."""

    def __init__(self, endpoints: list[str], topics: list[bytes], **options: Any) -> None:
        self.messages: list[Message] = []
        self.lost: list[tuple[bytes, int, int, int]] = []
        super().__init__(
            endpoints,
            topics,
            self.messages.append,
            on_gap=lambda *gap: self.lost.append(gap),
            **options,
        )

    def sequences(self, topic: bytes = BOOK) -> list[int]:
        return [message.sequence for message in self.messages if message.topic == topic]


async def joined(publisher: Publisher, *listeners: Subscriber) -> None:
    """Start listeners and wait until each one hears the publisher's heartbeats."""
    for listener in listeners:
        listener.start()
    before = [listener.counters()["received"] for listener in listeners]

    def heard() -> bool:
        publisher.heartbeat()
        return all(
            listener.counters()["received"] > old
            for listener, old in zip(listeners, before, strict=True)
        )

    await until(heard, "a heartbeat at every listener")
