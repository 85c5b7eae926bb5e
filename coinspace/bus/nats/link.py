"""This process's connection to the NATS servers and the thread that owns it.

The first socket on NATS opens the link, the last one closes it. The connection comes back by itself
after any outage: the client changes servers, and where it gives up, a new client takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import nats.errors
import structlog
import uvloop
from nats.aio.client import Client

from coinspace.clock import MINUTE_NS, monotonic_ns
from coinspace.config import BusSettings
from coinspace.errors import BusError
from coinspace.tasks import Tasks, within

RETRY_S = 0.25
CONNECT_S = 2
# a server is asked this often for a sign of life, and is given up without one for so long
PING_S = 3.0
ANSWER_S = 5
# nats-py gives up such a server too, but first waits for it to take what is queued
CLIENT_PING_S = 120
CLOSE_S = 1.0
# bytes that wait for a slow or absent server; what exceeds them is dropped and counted
PENDING_BYTES = 8 << 20
# longer than the end of a task that does not react
CALL_S = 15.0
POLL_S = 0.005
LOG_INTERVAL_NS = MINUTE_NS
FAILURES = (OSError, TimeoutError, nats.errors.Error, ValueError)

log = structlog.get_logger("nats")

T = TypeVar("T")


class Pump(Protocol):
    """What a link serves: called with each new client, before messages flow."""

    async def join(self, client: Client) -> None: ...


class Link:
    """One connection for all sockets of a process on the same servers.

    Attributes:
        client: the connected client; None before the first connection.
        problem: why there is no connection now; None = connected.
        troubles: why something else does not work now, by its name.
    """

    def __init__(self, bus: BusSettings) -> None:
        self.client: Client | None = None
        # the client that is connected or connects
        self._trying = Client()
        self.problem: str | None = "not connected yet"
        self.troubles: dict[str, str] = {}
        self.users = 0
        self._bus = bus
        self._pumps: list[Pump] = []
        self._logged_ns: int | None = None
        self.loop = uvloop.new_event_loop()
        self.tasks = Tasks(on_restart=lambda name, error: self.report(f"{name}: {error!r}"))
        self._closed = asyncio.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="nats link", daemon=True)
        self._thread.start()
        self.call(self._begin())

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = CALL_S) -> T:
        """Run a coroutine on the link's thread and wait for its result."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(timeout_s)

    async def connected(self, limit_s: float) -> Client | None:
        """Return the client once it is connected, None when it is not in time."""
        end = self.loop.time() + limit_s
        while self.problem is not None and self.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return self.client if self.problem is None else None

    async def add(self, pump: Pump) -> None:
        self._pumps.append(pump)
        if self.client is not None:
            await self._join(pump, self.client)

    def remove(self, pump: Pump) -> None:
        self._pumps.remove(pump)

    def report(self, problem: str) -> None:
        """Log a problem, at most once a minute."""
        now = monotonic_ns()
        if self._logged_ns is None or now - self._logged_ns >= LOG_INTERVAL_NS:
            self._logged_ns = now
            log.warning("problem on NATS", problem=problem, servers=self._shown())

    def close(self) -> None:
        """End the connection and the thread; the pumps have ended before."""
        self.call(self._end(), None)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def _begin(self) -> None:
        self.tasks.keep("nats connection", self._stay_connected, ends=True)

    async def _end(self) -> None:
        self._ended = True
        self._closed.set()
        await self.tasks.cancel()
        # those of a client that did not end in time
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _stay_connected(self) -> None:
        while not self._ended:
            self._closed.clear()
            client = self._trying = Client()
            try:
                await client.connect(
                    **options(self._bus),
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    closed_cb=self._on_closed,
                )
                self.client = client
                self._connected()
                for pump in list(self._pumps):
                    await self._join(pump, client)
                while not (await within(PING_S, self._closed) or client.is_closed or self._ended):
                    if client.is_connected:
                        await client.flush(ANSWER_S)
                if not self._ended:
                    self._lost(str(client.last_error or "the client gave up"))
            except FAILURES as error:
                self._lost(str(error) or repr(error))
            finally:
                self.client = None
                await _close(client, lost=not self._ended)
            if not self._ended:
                await asyncio.sleep(RETRY_S)

    async def _join(self, pump: Pump, client: Client) -> None:
        try:
            await pump.join(client)
        except FAILURES as error:
            # the connection was lost meanwhile: the client or the next one subscribes again
            self.report(repr(error))

    async def _on_error(self, error: Exception) -> None:
        if not self._trying.is_connected:
            # nats-py forgets the socket of a failed attempt without closing it
            _abort(self._trying)
            self._lost(str(error) or repr(error))
        else:
            self.report(str(error) or repr(error))

    async def _on_disconnected(self) -> None:
        self._lost("connection lost")

    async def _on_reconnected(self) -> None:
        self._connected()

    async def _on_closed(self) -> None:
        self._closed.set()

    def _lost(self, reason: str) -> None:
        if self.problem is None:
            self._logged_ns = None
        self.problem = reason
        self.report(reason)

    def _connected(self) -> None:
        self.problem = None
        self._logged_ns = None
        log.info("connected", servers=self._shown())

    def _shown(self) -> list[str]:
        return [one.rpartition("@")[2] for one in _servers(self._bus)]


def options(bus: BusSettings) -> dict[str, Any]:
    """Return what the settings say to a client: servers, who we are, when to give up a server."""
    found: dict[str, Any] = {}
    if bus.credentials:
        found["user_credentials"] = os.path.expanduser(bus.credentials)
    if bus.ca_file:
        found["tls"] = ssl.create_default_context(cafile=os.path.expanduser(bus.ca_file))
    return found | {
        "servers": _servers(bus),
        "name": f"coinspace {bus.platform} {os.getpid()}",
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RETRY_S,
        "connect_timeout": CONNECT_S,
        "ping_interval": CLIENT_PING_S,
        # the pumps keep less: beyond this nats-py would wait without a limit
        "pending_size": 2 * PENDING_BYTES,
    }


async def _close(client: Client, *, lost: bool) -> None:
    # what a server that has stopped reading did not take would keep the client waiting
    if lost:
        _abort(client)
    with contextlib.suppress(*FAILURES):
        await asyncio.wait_for(client.close(), CLOSE_S)
    _abort(client)


def _abort(client: Client) -> None:
    writer = getattr(client._transport, "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def _servers(bus: BusSettings) -> list[str]:
    found = [one.strip() for one in bus.url.split(",") if one.strip()]
    return [one if "://" in one else f"nats://{one}" for one in found]


class _Shared:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.links: dict[tuple[str, str, str], Link] = {}


_shared = _Shared()


def _after_fork() -> None:
    # the thread exists in the parent process only
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_after_fork)


def open_link(bus: BusSettings | None) -> tuple[Link, Callable[[], None]]:
    """Return the process's link to the servers of the settings, and a function that gives it back.

    Raises: BusError without bus.url.
    """
    if bus is None or not bus.url:
        raise BusError("expected bus.url for an endpoint on NATS, found none")
    key = (bus.url, bus.credentials, bus.ca_file)
    shared = _shared
    with shared.lock:
        link = shared.links.get(key)
        if link is None:
            link = shared.links[key] = Link(bus)
        link.users += 1

    def give_back() -> None:
        with shared.lock:
            link.users -= 1
            if link.users:
                return
            del shared.links[key]
        link.close()

    return link, give_back


def problems() -> list[str]:
    """Return a line for each connection of this process that is down, and what else fails."""
    found = []
    for one in list(_shared.links.values()):
        if one.problem:
            found.append(f"no connection to NATS: {one.problem}")
        else:
            found += one.troubles.copy().values()
    return found
