"""What serves frames and REST answers, and what it sees of the server around it."""

from __future__ import annotations

from typing import Any, Protocol

from coinspace.simulator.connection import Connection
from coinspace.simulator.faults import Fault
from coinspace.simulator.rest import Answer
from coinspace.tasks import Tasks


class FaultList(Protocol):
    """Where faults are put in force."""

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
        """Where frames come from."""

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
    """Where the frames and REST answers come from."""

    exchanges: tuple[str, ...]
    simulated: bool

    async def start(self, server: Host) -> None:
        """Begin; frames go to `server.connections`."""

    async def stop(self) -> None:
        """End."""

    def connected(self, connection: Connection) -> None:
        """Prepare a new connection's session."""

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""

    async def rest(
        self, exchange: str, path: str, query: dict[str, str], *, stale: bool = False
    ) -> Answer:
        """Answer a GET; stale: depth as it was at `keep_snapshots`."""

    def keep_snapshots(self, symbol: str) -> None:
        """Keep the books of a symbol ("" = all) as they are now."""

    def now_ns(self) -> int:
        """Return the exchanges' time."""

    def shift_clock(self, exchange: str, symbol: str, by_s: float) -> None:
        """Set an exchange's clock wrong."""

    def use_budget(self, weight: int) -> None:
        """Count so much weight a minute (Binance) as used by other programs of the address."""

    def set_market(self, exchange: str, symbol: str, status: str) -> None:
        """Let a market be "active", "halt" (listed, nothing happens) or "delist" (not listed)."""
