"""A process's publisher: one PUB socket, numbered messages, heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import orjson
import zmq

from coinspace._ext import message
from coinspace._ext.publisher import ZmqSink
from coinspace.bus import topics
from coinspace.bus.sockets import Bound, bind
from coinspace.clock import Clock
from coinspace.config import BusSettings

HEARTBEAT_INTERVAL_S = 1.0
# how long `close` waits for subscribers to take what is still queued
LINGER_MS = 500

States = Callable[[], Mapping[str, str]]


class Publisher(ZmqSink):
    """Publishes under a process's name; from Cython through `Sink.send`.

    Never blocks: each subscriber has a queue of bus.high_water_mark messages, and what does not
    fit is counted in `dropped` (see ZmqSink for what that number means).
    """

    def __init__(
        self,
        process: str,
        bus: BusSettings,
        epoch_ns: int,
        *,
        endpoint: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Bind bus.endpoint(process), or `endpoint` instead.

        Raises: BusError when another process publishes there.
        """
        self.process = process
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # PUB, not XPUB: an XPUB that nobody reads queues subscriptions without a limit
        self._socket = self._context.socket(zmq.PUB)
        self._socket.sndhwm = bus.high_water_mark
        self._socket.linger = LINGER_MS
        self._bound: Bound | None = None
        try:
            self._bound = bind(self._socket, endpoint or bus.endpoint(process), bus)
            super().__init__(epoch_ns, self._socket.underlying, clock=clock)
        except BaseException:
            self._release(0)
            raise
        self.endpoint = self._bound.endpoint
        self._heartbeats = self.topic(topics.build("heartbeat", process))
        self._timer: asyncio.TimerHandle | None = None

    def heartbeat(self, states: Mapping[str, str] | None = None) -> None:
        """Publish the last sequence of every topic, so that subscribers see a lost tail."""
        sequences = {name.decode(): last for name, last in self.sequences.items()}
        facts = {
            "process": self.process,
            "epoch": self.epoch,
            "sequences": sequences,
            "states": dict(states or {}),
        }
        self.publish(self._heartbeats, message.HEARTBEAT, orjson.dumps(facts))

    def start_heartbeats(
        self, loop: asyncio.AbstractEventLoop, states: States | None = None
    ) -> None:
        """Publish a heartbeat now and every second from now on, until `close`."""
        self.heartbeat(states() if states else None)
        self._timer = loop.call_later(HEARTBEAT_INTERVAL_S, self.start_heartbeats, loop, states)

    def counters(self) -> dict[str, int]:
        """Return messages published and known to be dropped."""
        return {"published": self.published, "dropped": self.dropped}

    def close(self) -> None:
        """Send what is queued, for at most half a second, and release the endpoint."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.detach()
        self._release(LINGER_MS)

    def _release(self, linger_ms: int) -> None:
        self._socket.close(linger_ms)
        if self._bound is not None:
            self._bound.close()
        self._context.term()
