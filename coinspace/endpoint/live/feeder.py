"""Makes the hub's events from bus messages.

An event is made only when its channel has clients, or had clients within the resume time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from coinspace._ext.message import AGGREGATE, INDEX, STATE, TICKER, TRADE, Message
from coinspace.clock import MILLISECOND_NS, monotonic_ns
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.live.health import processes
from coinspace.endpoint.live.market import ticker, trade
from coinspace.endpoint.live.venues import venues
from coinspace.tasks import Tasks

# the page cannot show more books per second, and a book is by far the largest event
BOOK_INTERVAL_NS = 200 * MILLISECOND_NS
BOOK_LEVELS = 50
TABLES_INTERVAL_S = 1.0


class Feeder:
    """Makes events from bus messages; sends tables and heartbeats at intervals."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._book_ns: dict[str, int] = {}
        self._gaps_sent = 0
        self._make: dict[int, Callable[[Message], None]] = {
            INDEX: self._index,
            AGGREGATE: self._book,
            TICKER: self._ticker,
            TRADE: self._trade,
            STATE: self._state,
        }
        context.live.listeners.append(self.on_message)

    def on_message(self, message: Message) -> None:
        """Publish the event of a message."""
        make = self._make.get(message.kind)
        if make is not None:
            make(message)

    def _index(self, message: Message) -> None:
        asset = message.topic.split(b".")[1].decode()
        channel = f"index.{asset}"
        latest = self.context.live.indices.get(asset)
        if latest is not None and self.context.hub.wants(channel):
            body = latest.body(self.context.now_ms(), self.context.stale_ms)
            self.context.hub.publish(channel, "index", body)

    def _book(self, message: Message) -> None:
        asset = message.topic.split(b".")[1].decode()
        channel = f"book.{asset}"
        if not self.context.hub.wants(channel):
            return
        now = monotonic_ns()
        if now - self._book_ns.get(asset, -BOOK_INTERVAL_NS) < BOOK_INTERVAL_NS:
            return
        self._book_ns[asset] = now
        book = consolidated(self.context, asset, BOOK_LEVELS)
        if book is not None:
            self.context.hub.publish(channel, "book", encode(book))

    def _ticker(self, message: Message) -> None:
        exchange, market = self.context.live.key(message)
        channel = f"ticker.{exchange}:{market}"
        if self.context.hub.wants(channel):
            self.context.hub.publish(channel, "ticker", encode(ticker(self.context, message)))

    def _trade(self, message: Message) -> None:
        exchange, market = self.context.live.key(message)
        channel = f"trade.{exchange}:{market}"
        if self.context.hub.wants(channel):
            self.context.hub.publish(channel, "trade", encode(trade(self.context, message)))

    def _state(self, message: Message) -> None:
        # a change of state is sent at once, ages once a second
        self._venues()

    def _venues(self) -> None:
        if self.context.hub.wants("venues"):
            self.context.hub.publish("venues", "venues", encode(venues(self.context)))

    def start(self, tasks: Tasks) -> None:
        """Send tables and heartbeats and sweep the hub, until the tasks are cancelled."""
        # restarted after a failure: the other events do not depend on it
        tasks.keep("tables and heartbeats", self._tick)

    async def _tick(self) -> None:
        hub, elapsed = self.context.hub, 0.0
        while True:
            await asyncio.sleep(TABLES_INTERVAL_S)
            hub.sweep()
            self._venues()
            self._gaps()
            if hub.wants("pipeline"):
                hub.publish("pipeline", "pipeline", encode(processes(self.context)))
            elapsed += TABLES_INTERVAL_S
            if elapsed >= self.context.settings.endpoint.heartbeat_s:
                elapsed = 0.0
                hub.broadcast("heartbeat", b'{"ts":%d}' % self.context.now_ms())

    def _gaps(self) -> None:
        live = self.context.live
        fresh = live.gaps_total - self._gaps_sent
        self._gaps_sent = live.gaps_total
        if fresh and self.context.hub.wants("gaps"):
            newest = list(live.gaps)[-min(fresh, len(live.gaps)) :]
            self.context.hub.publish("gaps", "gaps", orjson.dumps({"gaps": newest}))
