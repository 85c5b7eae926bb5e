"""The NATS transport: each socket of a stage gets a pump on the link's thread."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import CancelledError

from coinspace.bus.context import Socket, close_socket
from coinspace.bus.nats.link import Link, open_link
from coinspace.bus.nats.pumps import Asker, Inlet, Maker, Outlet, Pump, Service
from coinspace.config import NATS_SCHEME, BusSettings
from coinspace.errors import BusError
from coinspace.lock import lock_file

# requests and answers queued per socket
QUEUED = 64


class NatsWire:
    """A socket of this process, joined to its pump."""

    def __init__(self, socket: Socket, endpoint: str, bus: BusSettings | None, make: Maker) -> None:
        self.endpoint = endpoint
        self._link, self._give_back = open_link(bus)
        self._closed = False
        try:
            self.pump: Pump = self._link.call(_made(self._link, endpoint, socket, make))
            socket.connect(self.pump.address)
        except BaseException:
            self._give_back()
            raise

    def close(self, linger_ms: int = 0) -> None:
        """End the pump. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._link.call(self.pump.close())
        self._give_back()


class NatsBound(NatsWire):
    """A wire under a name that one process of this host has."""

    def __init__(self, socket: Socket, endpoint: str, bus: BusSettings | None, make: Maker) -> None:
        self._socket = socket
        self._lock = _lock(endpoint, bus)
        try:
            super().__init__(socket, endpoint, bus, make)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def dropped(self) -> int:
        return self.pump.dropped if isinstance(self.pump, Outlet) else 0

    def close(self, linger_ms: int = 0) -> None:
        """Send queued messages, close the socket and free the name. Idempotent."""
        if self._closed:
            return
        if linger_ms and isinstance(self.pump, Outlet):
            with contextlib.suppress(TimeoutError, CancelledError):
                self._link.call(self.pump.finish(), linger_ms / 1000)
        close_socket(self._socket)
        super().close()
        os.close(self._lock)


class NatsTransport:
    """NATS between processes; an endpoint is `nats:` and the first words of its subjects."""

    def publish(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> NatsBound:
        return NatsBound(socket, endpoint, bus, Outlet)

    def subscribe(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> NatsWire:
        return NatsWire(socket, endpoint, bus, Inlet)

    def serve(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> NatsBound:
        return NatsBound(socket, endpoint, bus, Service)

    def ask(self, socket: Socket, endpoint: str, bus: BusSettings | None) -> NatsWire:
        return NatsWire(socket, endpoint, bus, Asker)


async def _made(link: Link, endpoint: str, socket: Socket, make: Maker) -> Pump:
    queued = max(socket.sndhwm, socket.rcvhwm, QUEUED)
    pump = make(link, endpoint.removeprefix(NATS_SCHEME), queued)
    await link.add(pump)
    return pump


def _lock(endpoint: str, bus: BusSettings | None) -> int:
    if bus is None:
        raise BusError(f"{endpoint}: expected the settings of the bus, found none")
    path = bus.lock_path(endpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    return lock_file(path, endpoint, BusError)
