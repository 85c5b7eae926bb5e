"""A process's subscriber: one plain SUB socket for several publishers, read by the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
import zmq

from coinspace._ext.message import Message
from coinspace._ext.receiver import Receiver
from coinspace.bus.context import close_socket, open_socket
from coinspace.bus.topics import HEARTBEATS
from coinspace.bus.transport import MESSAGE_SIZE_LIMIT, Wire, transport_of
from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import BusSettings
from coinspace.tasks import Repeat, report

# messages per callback: other callbacks wait for some hundred µs at most
DRAIN_LIMIT = 256
# the FD is edge-triggered: this poll reads on after a missed edge
SAFETY_POLL_S = 0.1
LOG_INTERVAL_NS = 60 * SECOND_NS

log = structlog.get_logger("subscriber")


class Subscriber:
    """Receives the messages of several publishers and counts what is missing.

    Args:
        endpoints: of the publishers.
        topics: prefixes to receive; heartbeats are read in any case.
        on_message: called with each message. It may keep the message and its payload.
        on_gap: called with (topic, epoch, expected, found): [expected, found) did not arrive.
        conflate: deliver only the newest order book or aggregate per topic of one drain. Displays
            and an index at each update need no older ones.
        on_drained: called after each drain that took messages.
        pause_s: shortest time between two drains, so that the messages of a busy bus are read
            together; 0 = each message is read at once.
        bus: the settings with high-water mark and CURVE keys.
        message_bytes: a publisher that sends a larger message is disconnected.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        topics: Sequence[bytes],
        on_message: Callable[[Message], object],
        *,
        on_gap: Callable[[bytes, int, int, int], object] | None = None,
        conflate: bool = False,
        on_drained: Callable[[], object] | None = None,
        pause_s: float = 0.0,
        bus: BusSettings | None = None,
        message_bytes: int = MESSAGE_SIZE_LIMIT,
    ) -> None:
        self._endpoints = list(endpoints)
        # those to connect to
        self._waiting = list(endpoints)
        self._wires: list[Wire] = []
        self._socket = open_socket(zmq.SUB)
        self._socket.rcvhwm = bus.high_water_mark if bus else BusSettings().high_water_mark
        self._socket.maxmsgsize = message_bytes
        # only subscriptions are sent; libzmq drops those beyond the mark, by default 1,000
        self._socket.sndhwm = 0
        # heartbeats last: after the first heartbeat all other subscriptions are active
        for prefix in (*topics, HEARTBEATS):
            self._socket.subscribe(prefix)
        self._bus = bus
        self._receiver = Receiver(
            self._socket.underlying,
            topics,
            on_message,
            # the receiver counts gaps
            on_loss=on_gap or (lambda *gap: None),
            on_malformed=lambda reason: self._report("malformed message", reason=reason),
            on_error=lambda error: self._report("callback failed", error=error),
            conflate=conflate,
            on_drained=on_drained,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._poll: Repeat | None = None
        self._again: asyncio.Handle | None = None
        self._pause_s = pause_s
        # whether messages wait for the end of a pause, and none calls
        self._paused = False
        self._logged: dict[str, int] = {}

    def connect(self) -> None:
        """Connect, if not yet connected: messages wait until `drain` or `start`.

        Raises: BusError when an endpoint is invalid.
        """
        waiting, self._waiting = self._waiting, []
        for endpoint in waiting:
            wire = transport_of(endpoint).subscribe(self._socket, endpoint, self._bus)
            self._wires.append(wire)

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Connect and read from now on.

        Raises: BusError when an endpoint is invalid.
        """
        self.connect()
        self._loop = loop or asyncio.get_running_loop()
        self._fd = self._socket.FD
        self._loop.add_reader(self._fd, self._drain)
        self._poll = Repeat(self._loop, "bus poll", SAFETY_POLL_S, self._safety_poll)

    def add(self, topic: bytes) -> None:
        """Receive one more topic of a market from now on."""
        self._receiver.want(topic)
        self._socket.subscribe(topic)

    def drain(self, limit: int | None = None) -> int:
        """Read waiting messages without an event loop. Returns: their number.

        Args: limit: of messages, about; None = all that wait.
        """
        before = self._receiver.received
        while self._receiver.drain(min(DRAIN_LIMIT, limit or DRAIN_LIMIT)):
            if limit is not None and self._receiver.received - before >= limit:
                break
        return self._receiver.received - before

    def counters(self) -> dict[str, int]:
        receiver = self._receiver
        return {
            "received": receiver.received,
            "received_bytes": receiver.received_bytes,
            "gaps": receiver.gaps,
            "missed": receiver.missed,
            "repeated": receiver.repeated,
            "conflated": receiver.conflated,
            "malformed": receiver.malformed,
            "callback_errors": receiver.errors,
            # with a wrong key or address libzmq reports no error: no message arrives
            "publishers_unheard": max(0, len(self._endpoints) - receiver.n_processes),
        }

    def close(self) -> None:
        """Stop reading and close the socket; delivered messages stay valid."""
        if self._loop is not None:
            if not self._paused:
                self._loop.remove_reader(self._fd)
            if self._poll is not None:
                self._poll.stop()
            if self._again is not None:
                self._again.cancel()
            self._loop = None
        self._receiver.detach()
        close_socket(self._socket)
        for wire in self._wires:
            wire.close()
        self._wires.clear()

    def _drain(self) -> None:
        if self._loop is None:
            return
        self._again = None
        before = self._receiver.received
        try:
            # the edge is consumed: the remaining messages cause no further event
            if self._receiver.drain(DRAIN_LIMIT):
                self._again = self._loop.call_soon(self._drain)
                return
        except Exception as error:
            report(self._loop, "bus reader", error)
        if self._pause_s and self._loop is not None:
            self._pause(self._loop, busy=self._receiver.received > before)

    def _pause(self, loop: asyncio.AbstractEventLoop, *, busy: bool) -> None:
        """Read on after a pause while messages come, otherwise with the next message."""
        if busy:
            self._again = loop.call_later(self._pause_s, self._drain)
        if busy and not self._paused:
            loop.remove_reader(self._fd)
        elif self._paused and not busy:
            loop.add_reader(self._fd, self._drain)
        self._paused = busy

    def _safety_poll(self) -> None:
        if self._again is None:
            self._drain()

    def _report(self, event: str, *, reason: str = "", error: Exception | None = None) -> None:
        now = now_ns()
        if now - self._logged.get(event, 0) >= LOG_INTERVAL_NS:
            self._logged[event] = now
            log.error(event, reason=reason or repr(error), exc_info=error)
