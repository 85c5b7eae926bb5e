"""Makes the hub's events from bus messages.

An event is made only when its channel has clients, or had clients within the resume time.
"""

from __future__ import annotations

import asyncio

import orjson

from coinspace._ext.message import AGGREGATE, INDEX, STATE, TICKER, TRADE, Message
from coinspace.clock import MILLISECOND_NS, monotonic_ns
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live.channel_state import state
from coinspace.endpoint.live.market import trade
from coinspace.endpoint.models import Heartbeat
from coinspace.tasks import Tasks

# The page cannot show more books per second, and a book is by far the largest event. The table of
# venues is as expensive: a lost connection changes the states of hundreds of markets at once.
INTERVAL_NS = 200 * MILLISECOND_NS
TABLES_INTERVAL_S = 1.0
# trades of premiums are made in small parts, so that no event waits long for them
TRADES_INTERVAL_S, TRADES_AT_ONCE = 0.1, 10
# kind of message -> name of its event
NAMES = {INDEX: "index", AGGREGATE: "book", TICKER: "ticker", TRADE: "trade"}


class Feeder:
    """Makes events from bus messages; sends tables and heartbeats at intervals."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._made_ns: dict[str, int] = {}
        self._gaps_sent = 0
        context.live.listeners.append(self.on_message)
        context.hub.whole = lambda channel: state(context, channel)

    def on_message(self, message: Message) -> None:
        """Publish the event of a message, which `Live` has applied."""
        if message.kind == STATE:
            # a change of state is sent at once, ages and further changes once a second
            if self.context.hub.wants("venues") and self._is_due("venues"):
                self._publish("venues", "venues")
        elif (name := NAMES.get(message.kind)) in ("index", "book"):
            self._publish(name, f"{name}.{message.topic.split(b'.')[1].decode()}")
        elif name is not None:
            exchange, market = self.context.live.key(message)
            self._publish(name, f"{name}.{exchange}:{market}", message)

    def _publish(self, name: str, channel: str, message: Message | None = None) -> None:
        hub = self.context.hub
        if not hub.wants(channel) or (name == "book" and not self._is_due(channel)):
            return
        if name == "trade" and message is not None:
            data: bytes | None = encode(trade(self.context, message))
        else:
            data = state(self.context, channel)
        if data is not None:
            hub.publish(channel, name, data)

    def _is_due(self, channel: str) -> bool:
        now = monotonic_ns()
        if now - self._made_ns.get(channel, -INTERVAL_NS) < INTERVAL_NS:
            return False
        self._made_ns[channel] = now
        return True

    def start(self, tasks: Tasks) -> None:
        """Send tables and heartbeats and sweep the hub, until the tasks are cancelled."""
        # restarted after a failure: the other events do not depend on it
        tasks.keep("tables and heartbeats", self._tick)
        tasks.keep("trades of premiums", self._trades)

    async def _trades(self) -> None:
        while True:
            await asyncio.sleep(TRADES_INTERVAL_S)
            self.context.premiums.make_trades(TRADES_AT_ONCE)

    async def _tick(self) -> None:
        hub, elapsed = self.context.hub, 0.0
        while True:
            await asyncio.sleep(TABLES_INTERVAL_S)
            hub.sweep()
            self._publish("venues", "venues")
            self._gaps()
            self._publish("pipeline", "pipeline")
            self._premiums()
            elapsed += TABLES_INTERVAL_S
            if elapsed >= self.context.settings.endpoint.heartbeat_s:
                elapsed = 0.0
                hub.broadcast("heartbeat", encode(Heartbeat(self.context.now_ms())))

    def _premiums(self) -> None:
        premiums = self.context.premiums
        if not self.context.hub.wants("premiums"):
            premiums.forget()
        elif (data := premiums.delta()) is not None:
            self.context.hub.publish("premiums", "premiums", data)

    def _gaps(self) -> None:
        live = self.context.live
        fresh = live.gaps_total - self._gaps_sent
        self._gaps_sent = live.gaps_total
        if fresh and self.context.hub.wants("gaps"):
            newest = list(live.gaps)[-min(fresh, len(live.gaps)) :]
            self.context.hub.publish("gaps", "gaps", orjson.dumps({"gaps": newest}))
