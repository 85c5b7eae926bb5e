"""Helpers of the bus's tests: settings below a short folder, a collecting subscriber."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from coinspace._ext.message import Message
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.config import BusSettings, Settings
from tests.waiting import until

PROCESS = "orderbook-collector-upbit"
BOOK = b"orderbook.upbit.BTC/KRW."
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


def listen(publisher: Publisher, topics: list[bytes], **options: Any) -> Listener:
    """Return a listener on the publisher's transport."""
    return Listener([publisher.endpoint], topics, **{"bus": publisher._bus} | options)


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
