"""One short connection to the servers of `bus.url`: what they are, accept and keep."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from nats.aio.client import Client

from coinspace.bus.nats.jetstream import StreamState, all_states, apply
from coinspace.bus.nats.link import FAILURES, options
from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.config import BusSettings, Settings
from coinspace.errors import BusError

CONNECT_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class Servers:
    """What a server says about itself and its cluster.

    Attributes:
        max_payload: bytes of the largest message.
        round_trip_ms: of one request to the server.
        others: further servers of the cluster, as clients reach them.
    """

    name: str
    version: str
    cluster: str
    max_payload: int
    round_trip_ms: float
    others: list[str]


def servers(bus: BusSettings) -> Servers:
    """Ask the first server that answers. Raises: BusError when none does."""
    return asyncio.run(_asked(bus, _describe))


def streams(settings: Settings) -> list[StreamState]:
    """Return the state of each stream that exists. Raises: BusError without an answer."""
    return asyncio.run(_asked(settings.bus, lambda client: all_states(client, settings)))


def apply_limits(settings: Settings) -> None:
    """Make the streams, or give them the limits of the settings.

    Raises: BusError when the servers refuse them.
    """
    asyncio.run(_asked(settings.bus, lambda client: apply(client, settings)))


async def _asked(bus: BusSettings, ask: Callable[[Client], Awaitable[T]]) -> T:
    client, reasons = Client(), []

    async def on_error(error: Exception) -> None:
        reasons.append(str(error) or repr(error))

    given = options(bus) | {"allow_reconnect": False, "error_cb": on_error}
    try:
        await asyncio.wait_for(client.connect(**given), CONNECT_S)
        return await ask(client)
    except FAILURES as error:
        reason = (reasons or [str(error) or repr(error)])[-1]
        raise BusError(f"bus.url: expected a NATS server that answers, {reason}") from None
    finally:
        with contextlib.suppress(*FAILURES):
            await client.close()


async def _describe(client: Client) -> Servers:
    begun = monotonic_ns()
    await client.flush()
    took_ns = monotonic_ns() - begun
    # nats-py has no other way to what the server said
    said = client._server_info
    return Servers(
        name=str(said.get("server_name", "")),
        version=str(said.get("version", "")),
        cluster=str(said.get("cluster", "")),
        max_payload=client.max_payload,
        round_trip_ms=round(took_ns / SECOND_NS * 1e3, 3),
        others=sorted(said.get("connect_urls") or []),
    )
