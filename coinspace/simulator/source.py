"""The interface of a source of frames and REST answers, and that of its server."""

from __future__ import annotations

from typing import Any, Protocol

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


class Source(Protocol):
    """The source of frames and REST answers."""

    exchanges: tuple[str, ...]
    simulated: bool

    # frames go to `server.connections` from here on
    async def start(self, server: Host) -> None: ...
    async def stop(self) -> None: ...
    # prepares a new connection's session
    def connected(self, connection: Connection) -> None: ...
    def disconnected(self, connection: Connection) -> None: ...
    # answers a GET; stale: with the book kept by `keep_snapshots`
    async def rest(
        self, exchange: str, path: str, query: dict[str, str], *, stale: bool = False
    ) -> Answer: ...
    # keeps the current books of a symbol ("" = all) for stale answers
    def keep_snapshots(self, symbol: str) -> None: ...
    # the exchanges' time
    def now_ns(self) -> int: ...
    # begins or ends a fault of simulated markets; only called when `simulated` is true
    def apply(self, fault: Fault, *, on: bool) -> None: ...
