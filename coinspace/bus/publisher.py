"""A process's publisher: one PUB socket, numbered messages, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import orjson
import zmq

from coinspace._ext import message
from coinspace._ext.publisher import ZmqSink
from coinspace.bus import topics
from coinspace.bus.context import close_socket, open_socket
from coinspace.bus.journal import Journal, journal_folder
from coinspace.bus.journal_server import ReplayServer
from coinspace.bus.streams import Shipment
from coinspace.bus.transport import Bound, ship, transport_of
from coinspace.config import BusSettings, Settings
from coinspace.tasks import Repeat

HEARTBEAT_INTERVAL_S = 1.0
# how long `close` waits for subscribers to take what is still queued
LINGER_MS = 500

States = Callable[[], Mapping[str, str]]


def open_publisher(
    process: str, settings: Settings, epoch_ns: int, *, quiet: bool = False
) -> Publisher:
    """Return a process's publisher, with a journal if journal.enabled.

    Args: quiet: another process still publishes under this name, see `take_over`.
    Raises: BusError when another process uses its endpoint.
    """
    if quiet:
        return Publisher(process, settings.bus, epoch_ns, settings=settings, quiet=True)
    journal = open_journal(process, settings, epoch_ns)
    return Publisher(process, settings.bus, epoch_ns, journal=journal, settings=settings)


def open_journal(process: str, settings: Settings, epoch_ns: int) -> Journal | None:
    """Return a process's journal, None without journal.enabled. Raises: JournalError."""
    if not settings.journal.enabled:
        return None
    return Journal(journal_folder(settings, process), settings.journal, epoch_ns)


class Publisher(ZmqSink):
    """Publishes under a process's name; from Cython through `Sink.send`.

    Never blocks: each subscriber has a queue of bus.high_water_mark messages. Messages that do not
    fit are dropped and counted in `dropped` (see ZmqSink for the exact meaning).
    """

    def __init__(
        self,
        process: str,
        bus: BusSettings,
        epoch_ns: int,
        *,
        journal: Journal | None = None,
        endpoint: str | None = None,
        settings: Settings | None = None,
        quiet: bool = False,
    ) -> None:
        """Bind `endpoint`, by default bus.endpoint(process); `close` closes the journal too.

        Args:
            settings: the journal is sent to a stream where these say so.
            quiet: publish nothing until `take_over`.
        Raises: BusError when another process publishes there.
        """
        self.process = process
        self.journal = journal
        self.endpoint = endpoint or bus.endpoint(process)
        self._bus = bus
        self._settings = settings
        self._replay: ReplayServer | None = None
        self._shipment: Shipment | None = None
        self._bound: Bound | None = None
        self._beats: Repeat | None = None
        # PUB, not XPUB: an XPUB that is never read queues subscriptions without a limit
        self._socket = open_socket(zmq.PUB)
        self._socket.sndhwm = bus.high_water_mark
        try:
            writer = journal.writer if journal else None
            super().__init__(epoch_ns, self._socket.underlying, journal=writer)
            self._heartbeats = self.topic(topics.build("heartbeat", process))
            self.quiet = quiet
            if not quiet:
                self._open()
        except BaseException:
            self._release(0)
            raise

    def _open(self) -> None:
        transport = transport_of(self.endpoint)
        self._bound = transport.publish(self._socket, self.endpoint, self._bus)
        self.endpoint = self._bound.endpoint
        if self.journal is not None:
            self._replay = ReplayServer(self.process, self.journal, self._bus)
            if self._settings is not None:
                self._shipment = ship(self.process, self.journal.folder, self._settings)

    def succeed(self, epoch_ns: int, journal: Journal | None) -> None:
        """Bind in place of an earlier process of this name; still publish nothing.

        Raises: BusError when that process still publishes.
        """
        self.journal = journal
        self.take_over(epoch_ns, journal.writer if journal else None)
        self._open()

    def heartbeat(self, states: Mapping[str, str] | None = None, **more: object) -> None:
        """Publish the last sequence of every topic, so that subscribers find a lost tail.

        Args: more: further facts.
        """
        sequences = {name.decode(): last for name, last in self.sequences.items()}
        facts = {
            "process": self.process,
            "epoch": self.epoch,
            "sequences": sequences,
            "states": dict(states or {}),
            **more,
        }
        self.publish(self._heartbeats, message.HEARTBEAT, orjson.dumps(facts))

    def start_heartbeats(
        self, loop: asyncio.AbstractEventLoop, states: States | None = None
    ) -> None:
        """Publish a heartbeat now and every second until `close`."""
        self._beats = Repeat(
            loop,
            "bus heartbeat",
            HEARTBEAT_INTERVAL_S,
            lambda: self.heartbeat(states() if states else None),
        )

    def counters(self) -> dict[str, int]:
        """Return counts of published and dropped messages, and the journal's counters."""
        dropped = self.dropped + (self._bound.dropped if self._bound is not None else 0)
        counters = {"published": self.published, "dropped": dropped}
        if self.journal is not None:
            counters |= self.journal.counters()
        if self._replay is not None:
            counters |= self._replay.counters()
        if self._shipment is not None:
            counters |= self._shipment.counters()
        return counters

    @property
    def problem(self) -> str | None:
        """Why messages are not journalled now; None = no problem."""
        return self.journal.problem if self.journal else None

    def close(self) -> None:
        """Send queued messages for at most 0.5 s and release the endpoint. Idempotent."""
        if self._socket.closed:
            return
        if self._beats is not None:
            self._beats.stop()
            self._beats = None
        self.detach()
        self._release(LINGER_MS)

    def _release(self, linger_ms: int) -> None:
        if self._replay is not None:
            self._replay.close()
            self._replay = None
        if self.journal is not None:
            self.journal.close()
        if self._shipment is not None:
            self._shipment.close(linger_ms / 1000)
        if self._bound is not None:
            self._bound.close(linger_ms)
        close_socket(self._socket)
