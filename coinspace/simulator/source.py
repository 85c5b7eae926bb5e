"""The interface of a source of frames and REST answers, and that of its server."""

from __future__ import annotations

from typing import Any, Protocol

from coinspace.clock import now_ns
from coinspace.simulator.connection import Connection
from coinspace.simulator.faults import Fault
from coinspace.simulator.rest import Answer
from coinspace.tasks import Tasks


class FaultList(Protocol):
    """The faults in force."""

    def add(self, fault: str | Fault) -> Fault: ...


class Host(Protocol):
    """The server as its source and its faults see it."""

    limits: bool
    connections: dict[str, set[Connection]]
    tasks: Tasks

    @property
    def disorder(self) -> FaultList: ...
    @property
    def source(self) -> Source: ...
    @property
    def is_secure(self) -> bool: ...
    def all_connections(self) -> list[Connection]: ...
    def open_port(self) -> None: ...
    def close_port(self) -> None: ...
    # for the control address
    def state(self) -> dict[str, Any]: ...


class Source:
    """A source of frames and REST answers.

    Attributes: simulated: the source has markets that faults can change.
    """

    exchanges: tuple[str, ...]
    simulated = False

    async def start(self, server: Host) -> None:
        """Start; frames go to `server.connections`."""
        self.server = server

    async def stop(self) -> None:
        """Close what is open; the server has ended the tasks."""

    def connected(self, connection: Connection) -> None:
        """Prepare a new connection's session."""
        raise NotImplementedError

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""

    async def rest(
        self,
        exchange: str,
        path: str,
        query: dict[str, str],
        *,
        stale: bool = False,
        micro: bool = False,
    ) -> Answer:
        """Answer a GET.

        Args: stale: with the book kept by `keep_snapshots`. micro: with times in µs; a recording
            has them as they were received.
        """
        raise NotImplementedError

    def keep_snapshots(self, symbol: str) -> None:
        """Keep the current books of a symbol ("" = all) for stale answers."""

    def now_ns(self) -> int:
        """Return the exchanges' time."""
        return now_ns()

    def apply(self, fault: Fault, *, on: bool) -> None:
        """Begin or end a fault of simulated markets; only called when `simulated` is true."""
        raise NotImplementedError
