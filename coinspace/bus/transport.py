"""How messages travel between processes: the interface, and the place that chooses a transport.

Every stage fills or reads a libzmq socket of its own process and knows no transport. A transport
connects this socket with other processes: ZeroMQ directly (`coinspace/bus/sockets.py`), NATS by a
thread of this process that owns the connection to the servers (`coinspace/bus/nats`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from coinspace.bus.context import Socket
from coinspace.bus.streams import Reader, Shipment
from coinspace.config import NATS_SCHEME, BusSettings, Settings

if TYPE_CHECKING:
    from coinspace.bus.nats.jetstream import StreamState
    from coinspace.bus.nats.probe import Servers

# a peer that sends larger messages is disconnected; 16 MiB is 32 times the deepest book
MESSAGE_SIZE_LIMIT = 1 << 24
# waiting subscribers on this host are connected this long after the publisher has bound
SETTLE_S = 0.1


class Wire(Protocol):
    """What connects a socket with other processes, until `close`."""

    def close(self, linger_ms: int = 0) -> None:
        """End the connection. Idempotent. Args: linger_ms: time to send queued messages."""


class Bound(Wire, Protocol):
    """A wire under a name that other processes connect to; it closes its socket too.

    Attributes:
        endpoint: where others connect.
        dropped: messages that the transport could not send.
    """

    endpoint: str

    @property
    def dropped(self) -> int: ...


class Transport(Protocol):
    """Connects sockets of this process with other processes.

    Raises (all methods): BusError when the endpoint is taken or invalid.
    """

    def publish(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> Bound:
        """Send what a PUB socket sends to each subscriber of the endpoint; never blocks it."""

    def subscribe(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> Wire:
        """Give a SUB socket what its subscriptions select of the endpoint's messages."""

    def serve(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> Bound:
        """Give a ROUTER socket the requests to the endpoint, and send its answers back."""

    def ask(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> Wire:
        """Send a DEALER socket's requests (number, text) to the endpoint, and give it the answers.

        An answer has three parts: the request's number, facts, records.
        """


def transport_of(endpoint: str) -> Transport:
    """Return the transport of an endpoint."""
    # imported here: a process loads only the transport that it uses
    if endpoint.startswith(NATS_SCHEME):
        from coinspace.bus.nats.transport import NatsTransport

        return NatsTransport()
    from coinspace.bus.sockets import ZmqTransport

    return ZmqTransport()


def ship(process: str, folder: Path, settings: Settings) -> Shipment | None:
    """Send a process's journal to its stream; None without streams."""
    if not settings.streams.enabled:
        return None
    from coinspace.bus.nats.shipment import NatsShipment

    return NatsShipment(process, folder, settings)


def read_stream(settings: Settings, stream: str) -> Reader:
    """Take batches of a stream, with the other workers of the same stream."""
    from coinspace.bus.nats.pull import NatsReader

    return NatsReader(settings, stream)


def problems() -> list[str]:
    """Return a line for each connection of this process that is down now, on any transport."""
    link = sys.modules.get("coinspace.bus.nats.link")
    found: list[str] = link.problems() if link else []
    return found


def servers(bus: BusSettings) -> Servers | None:
    """Return what the servers of the bus say; None where it has none.

    Raises: BusError when no server answers.
    """
    if not bus.url:
        return None
    from coinspace.bus.nats import probe

    return probe.servers(bus)


def streams(settings: Settings) -> list[StreamState]:
    """Return the state of each stream; [] without streams. Raises: BusError without an answer."""
    if not settings.streams.enabled:
        return []
    from coinspace.bus.nats import probe

    return probe.streams(settings)
