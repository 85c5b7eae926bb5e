"""Fan-out: an event is framed once, and its bytes are written to every client of its channel.

While a client's socket is full, only the newest event per channel is kept for it, and it is dropped
after the stall time. In place of an event that carries changes, it then gets the whole state.
Trades and gaps are not states: those that are not kept are counted, and a `gap` event reports their
number. So memory per client is bounded by the socket's high-water mark plus one event and one count
per channel.

Event ids are `BOOT-N`: N counts all events of this process. A client resumes from a ring of the
last seconds, or gets a `gap` event where the ring no longer has the missed events.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from coinspace.endpoint.http.connection import ClientConnection
from coinspace.endpoint.http.problem import retry_later
from coinspace.endpoint.models import Shutdown, StreamGap

RING_BYTES = 64 << 20
RING_EVENTS = 50_000
# events that the next one of their channel does not replace
COUNTED = ("trade", "gaps")
# events that carry changes only: a client that missed one gets the whole state of its channel
CHANGES = ("premiums",)

# text: server-sent events to a client of HTTP/1.0, which has no chunks
Kind = Literal["sse", "text", "websocket"]


@dataclass(slots=True, eq=False)
class StreamEvent:
    """One event, framed at first use per kind of stream.

    Attributes: number (0 = not resumable), channel, name, data (JSON bytes).
    """

    number: int
    channel: str
    name: str
    data: bytes
    boot: str
    time: float = 0.0
    _sse: bytes | None = None
    _websocket: bytes | None = None

    @property
    def sse(self) -> bytes:
        """The event as one chunk of a chunked HTTP body."""
        if self._sse is None:
            text = self.sse_text
            self._sse = b"%x\r\n%b\r\n" % (len(text), text)
        return self._sse

    @property
    def sse_text(self) -> bytes:
        """The event as text/event-stream."""
        head = b"id: %b-%d\n" % (self.boot.encode(), self.number) if self.number else b""
        return b"%bevent: %b\ndata: %b\n\n" % (head, self.name.encode(), self.data)

    @property
    def websocket(self) -> bytes:
        """The event as one unmasked text frame."""
        if self._websocket is None:
            body = b'{"event":"%b","id":%b,"channel":"%b","data":%b}' % (
                self.name.encode(),
                b'"%b-%d"' % (self.boot.encode(), self.number) if self.number else b"null",
                self.channel.encode(),
                self.data,
            )
            size = len(body)
            if size < 126:
                head = bytes((0x81, size))
            elif size < 1 << 16:
                head = b"\x81\x7e" + size.to_bytes(2, "big")
            else:
                head = b"\x81\x7f" + size.to_bytes(8, "big")
            self._websocket = head + body
        return self._websocket


class Client:
    """One stream: its connection, its channels, and events that wait while its socket is full."""

    def __init__(self, hub: Hub, connection: ClientConnection, kind: Kind) -> None:
        self.hub = hub
        self.connection = connection
        self.kind: Kind = kind
        self.channels: set[str] = set()
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.paused_at: float | None = None
        self.pending: dict[str, StreamEvent] = {}
        self.missed: dict[str, int] = {}

    def send(self, event: StreamEvent) -> None:
        """Write an event, or keep the newest of its channel while the socket is full."""
        if self.paused_at is not None:
            self._keep(event)
        elif not self.closed.done() and not self.connection.finished:
            if self.kind == "sse":
                frame = event.sse
            else:
                frame = event.websocket if self.kind == "websocket" else event.sse_text
            self.connection.transport.write(frame)

    def _keep(self, event: StreamEvent) -> None:
        self.hub.conflated += 1
        # a gap event is not a state of its channel: neither may replace the other
        key = f"gap:{event.channel}" if event.name == "gap" else event.channel
        before = self.pending.get(key)
        if before is not None and before.name in COUNTED:
            self.missed[key] = self.missed.get(key, 0) + 1
        self.pending[key] = event

    def pause(self) -> None:
        """Note that the socket is full."""
        if self.paused_at is None:
            self.paused_at = time.monotonic()

    def resume(self) -> None:
        """Send what waited for the socket: counts, then the newest event of each channel.

        The socket may become full again. The rest then waits on, and later events are added.
        """
        self.paused_at = None
        for channel in tuple(self.missed):
            if self._full:
                return
            gap = StreamGap(channel=channel, reason="slow", missed=self.missed.pop(channel))
            self.send(self.hub.gap_event(gap))
        for key in sorted(self.pending, key=lambda one: self.pending[one].number):
            if self._full:
                return
            self.send(self._whole(self.pending.pop(key)))

    def _whole(self, event: StreamEvent) -> StreamEvent:
        # earlier changes may have been replaced by this event
        whole = self.hub.whole(event.channel) if event.name in CHANGES else None
        if whole is None:
            return event
        return StreamEvent(self.hub.number, event.channel, event.name, whole, self.hub.boot)

    @property
    def _full(self) -> bool:
        return self.paused_at is not None

    def lost(self) -> None:
        """Note that the connection is lost."""
        self.hub.leave(self, "left")


@dataclass(slots=True, eq=False)
class Channel:
    """The clients of one channel, and since which number all its events are made."""

    made_since: int
    clients: set[Client] = field(default_factory=set)
    idle_since: float | None = None


class Hub:
    """All streams of this process."""

    def __init__(self, *, max_streams: int, stall_s: float, resume_s: float, boot: str) -> None:
        self.boot = boot
        self.max_streams = max_streams
        self.stall_s = stall_s
        self.resume_s = resume_s
        self.clients: set[Client] = set()
        self.channels: dict[str, Channel] = {}
        self.ring: deque[StreamEvent] = deque()
        self.ring_bytes = 0
        # 0 means not resumable, so the state before the first event is 1
        self.number = 1
        # the first number from which the ring is complete
        self.ring_from = 2
        self.closing = False
        # returns the whole state of a channel of changes
        self.whole: Callable[[str], bytes | None] = lambda channel: None
        self.opened = self.left = self.dropped = self.refused = 0
        self.events = self.deliveries = self.conflated = self.resumed = self.gaps = 0

    def wants(self, channel: str) -> bool:
        """Return whether an event of this channel would be used."""
        return channel in self.channels

    def publish(self, channel: str, name: str, data: bytes) -> None:
        """Send an event to all clients of a channel and remember it for resuming."""
        entry = self.channels.get(channel)
        if entry is None:
            return
        self.number += 1
        event = StreamEvent(self.number, channel, name, data, self.boot, time.monotonic())
        self.events += 1
        self.ring.append(event)
        self.ring_bytes += len(data)
        self._trim(event.time)
        self.deliveries += len(entry.clients)
        # a copy: a client whose write fails leaves during the loop
        for client in tuple(entry.clients):
            client.send(event)

    def _trim(self, now: float) -> None:
        ring = self.ring
        while ring and (
            ring[0].time < now - self.resume_s
            or self.ring_bytes > RING_BYTES
            or len(ring) > RING_EVENTS
        ):
            gone = ring.popleft()
            self.ring_bytes -= len(gone.data)
            self.ring_from = gone.number + 1

    def check_room(self) -> None:
        """Raise Problem 503 when the server has no room for another stream."""
        if len(self.clients) >= self.max_streams or self.closing:
            self.refused += 1
            text = "the server is stopping" if self.closing else f"{self.max_streams} are open"
            raise retry_later("too-many-streams", f"no room for another stream, {text}", 5)

    def join(self, connection: ClientConnection, kind: Kind, channels: set[str]) -> Client:
        """Add a client; the caller has called `check_room`."""
        client = Client(self, connection, kind)
        connection.client_stream = client
        self.clients.add(client)
        self.opened += 1
        self.subscribe(client, channels)
        return client

    def subscribe(self, client: Client, channels: set[str]) -> None:
        """Add channels to a client."""
        for name in channels:
            entry = self.channels.get(name)
            if entry is None:
                entry = self.channels[name] = Channel(self.number + 1)
            entry.clients.add(client)
            entry.idle_since = None
            client.channels.add(name)

    def unsubscribe(self, client: Client, channels: set[str]) -> None:
        """Remove channels from a client."""
        for name in channels & client.channels:
            client.channels.discard(name)
            client.pending.pop(name, None)
            client.missed.pop(name, None)
            entry = self.channels[name]
            entry.clients.discard(client)
            if not entry.clients:
                # events are made for the resume time: the client may come back
                entry.idle_since = time.monotonic()

    def leave(self, client: Client, reason: str) -> None:
        """Remove a client from everything."""
        if client not in self.clients:
            return
        self.clients.discard(client)
        self.unsubscribe(client, set(client.channels))
        client.pending.clear()
        client.connection.client_stream = None
        if reason == "stalled":
            self.dropped += 1
        else:
            self.left += 1
        if not client.closed.done():
            client.closed.set_result(reason)

    def missed_events(self, last_id: str, channels: set[str]) -> list[StreamEvent] | None:
        """Return the events after `last_id` on some channels; None when some are lost."""
        boot, _, text = last_id.partition("-")
        if boot != self.boot or not (text.isascii() and text.isdigit()) or len(text) > 18:
            return None
        number = int(text)
        if number > self.number or number + 1 < self.ring_from:
            return None
        for name in channels:
            entry = self.channels.get(name)
            if entry is None or entry.made_since > number + 1:
                return None
        return [event for event in self.ring if event.number > number and event.channel in channels]

    def gap_event(self, gap: StreamGap) -> StreamEvent:
        """Return the event that reports lost events."""
        self.gaps += 1
        return StreamEvent(0, gap.channel, "gap", msgspec.json.encode(gap), self.boot)

    def sweep(self) -> None:
        """Drop stalled clients, close idle channels, trim the ring; called once a second."""
        now = time.monotonic()
        for client in tuple(self.clients):
            if client.paused_at is not None and now - client.paused_at > self.stall_s:
                self.leave(client, "stalled")
                client.connection.transport.abort()
        for name, entry in tuple(self.channels.items()):
            if entry.idle_since is not None and now - entry.idle_since > self.resume_s:
                del self.channels[name]
        self._trim(now)

    def broadcast(self, name: str, data: bytes) -> None:
        """Send an event outside any channel to every client."""
        event = StreamEvent(0, "", name, data, self.boot)
        for client in tuple(self.clients):
            if client.paused_at is None:
                client.send(event)

    def shutdown(self) -> None:
        """Announce the end to every client and close the streams."""
        self.closing = True
        self.broadcast("shutdown", msgspec.json.encode(Shutdown("the endpoint is stopping")))
        for client in tuple(self.clients):
            self.leave(client, "shutdown")

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        kinds = [client.kind for client in self.clients]
        return {
            'streams{kind="sse"}': kinds.count("sse") + kinds.count("text"),
            'streams{kind="websocket"}': kinds.count("websocket"),
            "streams_opened": self.opened,
            "streams_left": self.left,
            "streams_dropped": self.dropped,
            "streams_refused": self.refused,
            "stream_events": self.events,
            "stream_deliveries": self.deliveries,
            "stream_conflated": self.conflated,
            "stream_resumed": self.resumed,
            "stream_gaps": self.gaps,
            "stream_ring_events": len(self.ring),
            "stream_ring_bytes": self.ring_bytes,
        }
