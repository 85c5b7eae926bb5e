"""Helpers of the streams' tests: settings, and requests to JetStream beside the product."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from nats.aio.client import Client

from coinspace.bus.nats import jetstream
from coinspace.bus.nats.link import options
from coinspace.config import Settings, StreamSettings
from tests.flow.bus_stage import next_epoch, settings_in

T = TypeVar("T")


def streamed(folder: Path, url: str, *, platform: str = "", **streams: Any) -> Settings:
    """Return settings with streams, by default of a platform of their own."""
    found = settings_in(
        folder, url=url, platform=platform or f"streams-{os.getpid()}-{next_epoch()}"
    )
    given = {"max_bytes": 64 << 20, "batch_ms": 10, "ack_wait_s": 1} | streams
    return found.model_copy(update={"streams": StreamSettings(enabled=True, **given)})


def on_servers(settings: Settings, ask: Callable[[Client], Awaitable[T]]) -> T:
    """Ask the servers on a connection of its own."""

    async def asked() -> T:
        client = Client()
        await client.connect(**options(settings.bus) | {"allow_reconnect": False})
        try:
            return await ask(client)
        finally:
            await client.close()

    return asyncio.run(asked())


def deleted(settings: Settings, stream: str, consumer: str = "") -> None:
    """Delete a stream, or its consumer only."""
    name = jetstream.name_of(settings.bus, stream)
    what = f"CONSUMER.DELETE.{name}.{consumer}" if consumer else f"STREAM.DELETE.{name}"
    on_servers(settings, lambda client: jetstream.ask(client, what))


def state_of(settings: Settings, stream: str) -> jetstream.StreamState:
    """Return a stream's state. Raises: AssertionError without the stream."""
    states = on_servers(settings, lambda client: jetstream.all_states(client, settings))
    name = jetstream.name_of(settings.bus, stream)
    (found,) = [one for one in states if one.name == name]
    return found
