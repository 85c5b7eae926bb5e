"""The interface of a source of frames and REST answers, and that of its server."""

from __future__ import annotations

from typing import Any, Protocol

from coinspace.simulator.connection import Connection
from coinspace.simulator.faults import Fault
from coinspace.simulator.rest import Answer
from coinspace.tasks import Tasks


class FaultList(Protocol):
    """The list of faults in force."""

    def add(self, fault: str | Fault) -> Fault:
        """Put a fault in force."""


class Host(Protocol):
    """The server as its source and its faults see it."""

    limits: bool
    connections: dict[str, set[Connection]]
    tasks: Tasks

    @property
    def disorder(self) -> FaultList:
        """The faults in force."""

    @property
    def source(self) -> Source:
        """The source of frames."""

    @property
    def is_secure(self) -> bool:
        """Whether the server speaks TLS."""

    def all_connections(self) -> list[Connection]:
        """Return every connection."""

    def open_port(self) -> None:
        """Listen again."""

    def close_port(self) -> None:
        """Refuse connections."""

    def state(self) -> dict[str, Any]:
        """Return counters and connections."""


class Source(Protocol):
    """The source of frames and REST answers."""

    exchanges: tuple[str, ...]
    simulated: bool

    async def start(self, server: Host) -> None:
        """Start; frames go to `server.connections`."""

    async def stop(self) -> None:
        """Stop."""

    def connected(self, connection: Connection) -> None:
        """Prepare a new connection's session."""

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""

    async def rest(
        self, exchange: str, path: str, query: dict[str, str], *, stale: bool = False
    ) -> Answer:
        """Answer a GET; stale: with the book kept by `keep_snapshots`."""

    def keep_snapshots(self, symbol: str) -> None:
        """Keep the current books of a symbol ("" = all) for stale answers."""

    def now_ns(self) -> int:
        """Return the exchanges' time."""

    def apply(self, fault: Fault, *, on: bool) -> None:
        """Begin or end a fault of simulated markets; only called when `simulated` is true."""
