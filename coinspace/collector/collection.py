"""One stage of one exchange bound to sockets, REST and time; where its messages go is not asked.

A collector's process puts its publisher behind it; `record` nothing at all, only recorders.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, now_ns
from coinspace.collector.connection import Connection
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.grouped import GroupedBooks
from coinspace.collector.limits import Window, shared
from coinspace.collector.markets import MarketList, has_patterns, resolve
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.ticker import TickerStage
from coinspace.config import ExchangeSettings, TuningSettings
from coinspace.errors import ConfigError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import (
    CHANNELS,
    UNREADABLE,
    Channel,
    Exchange,
    Listing,
    Refusal,
    Request,
    Stream,
    Subscription,
)
from coinspace.feed.recorder import Recorder
from coinspace.market import Market

TIMER_S = 0.25
# a market list is asked for again so often
MARKETS_INTERVAL_NS = 60 * SECOND_NS
# wait between attempts to get the market list that patterns need
MARKETS_RETRY_S = 5.0
# how long open connections may take to close
STOP_S = 3.0

# makes the recorder of a connection, numbered from 0; None = nothing is recorded
Recorders = Callable[[int], Recorder | None]


def numbered(name: str, number: int) -> str:
    """Return what the archive of a connection is called: orderbook, orderbook2 …"""
    return f"{name}{number + 1}" if number else name


class Health(Protocol):
    """Who is told how it goes: a `Process`, or whoever stands in for one."""

    stopping: asyncio.Event

    def ready(self) -> None: ...
    def degraded(self, reason: str) -> None: ...


def tls_context(settings: ExchangeSettings) -> ssl.SSLContext | None:
    """Return how certificates are verified; None for exchanges without TLS (simulated ones).

    Raises: ConfigError when the file of authorities cannot be read.
    """
    if not (settings.websocket.startswith("wss:") or settings.rest.startswith("https:")):
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca_file {settings.ca_file}: expected a PEM file of certificates, {error}"
        ) from None


class Collection:
    """Collects one stream of one exchange into a sink.

    Args:
        channels: what to subscribe to, the stream's own channels by default.
        recorders: a feed holds one connection's frames, so each connection gets its own.
    """

    def __init__(
        self,
        settings: ExchangeSettings,
        exchange: str,
        stream: Stream,
        sink: Sink,
        health: Health,
        *,
        channels: Sequence[Channel] = (),
        tuning: TuningSettings | None = None,
        recorders: Recorders = lambda number: None,
    ) -> None:
        self.settings = settings
        self.exchange = exchange_named(exchange)
        self.stream = stream
        self.sink = sink
        self.health = health
        self.channels = tuple(channels) or CHANNELS[stream]
        self.connections: list[Connection] = []
        self.recorders: list[Recorder] = []
        self.market_list = MarketList()
        self.grouped: GroupedBooks | None = None
        self.stage: Any = None
        self.log = structlog.get_logger(f"{stream}-{exchange}")
        self._open_recorder = recorders
        self._tuning = tuning
        self._tls = tls_context(settings)
        limits = self.exchange.REST_LIMITS
        if len(limits) == 1:
            # counted by kind, each kind is one stream's own but for the rare market list
            limits = {name: shared(limit, stream) for name, limit in limits.items()}
        self.fetcher = Fetcher(
            self.exchange,
            settings.rest,
            self._on_answer,
            self._on_refused,
            limits=limits,
            ssl_context=self._tls,
            recorder=self._record,
        )
        self._recorder_of: dict[str, Recorder] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ticker: asyncio.Task[None] | None = None
        self._markets_ns = 0

    async def start(self) -> None:
        """Connect; returns once the connections are being made.

        Raises: ConfigError when no market is left to collect.
        """
        listings = None
        if has_patterns(self.settings.markets):
            listings = await self._first_list()
            if listings is None:
                return
        entries = resolve(self.exchange, self.settings.markets, listings)
        self.stage = make_stage(self.exchange, self.stream, self.settings, entries, self.sink)
        self.stage.marker = self._mark
        await self.prepare()
        connects = Window(shared(self.exchange.CONNECT_LIMIT, self.stream))
        symbols = [symbol for symbol, _ in entries]
        for subscription in self.exchange.subscriptions(self.settings, self.channels, symbols):
            self._connect(subscription, connects)
        self._ticker = asyncio.create_task(self._tick())

    async def prepare(self) -> None:
        """Called when the stage is there and before anything reaches it."""

    async def stop(self) -> None:
        """Close everything."""
        for connection in self.connections:
            await connection.stop()
        if self._ticker is not None:
            self._tasks.append(self._ticker)
            self._ticker.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.fetcher.close()
        for recorder in self.recorders:
            await asyncio.to_thread(recorder.close)

    def _connect(self, subscription: Subscription, connects: Window) -> None:
        # grouped books in a feed would pass for fine ones
        recorder = None if subscription.grouped else self._open_recorder(len(self.recorders))
        if recorder is not None:
            self.recorders.append(recorder)
            self._recorder_of.update(dict.fromkeys(subscription.symbols, recorder))
        connection = Connection(
            self.exchange,
            subscription,
            self._extend(subscription) if subscription.grouped else self.stage,
            connects,
            ssl_context=self._tls,
            recorder=recorder,
            tuning=self._tuning,
        )
        self.connections.append(connection)
        self._tasks.append(asyncio.create_task(connection.run()))

    def _record(self, request: Request, received_ns: int, payload: bytes) -> None:
        # an answer goes where the frames of its market are
        symbol = request.symbols[0] if request.symbols else ""
        recorder = self._recorder_of.get(symbol) or next(iter(self.recorders), None)
        if recorder is not None:
            recorder.rest(received_ns, request.path, payload)

    def _mark(self, name: str, symbol: str, facts: dict[str, Any]) -> None:
        recorder = self._recorder_of.get(symbol)
        if recorder is not None:
            recorder.mark(name, symbol=symbol, **facts)

    def _extend(self, subscription: Subscription) -> GroupedBooks:
        levels = {
            self.exchange.symbol_of(Market.parse(market)): float(level)
            for market, level in self.settings.group_levels.items()
        }
        self.grouped = GroupedBooks(
            self.exchange, {symbol: levels[symbol] for symbol in subscription.symbols}
        )
        for far in self.grouped.markets:
            near = self.stage.entry(far.symbol.decode())
            near.extension = far
        return self.grouped

    async def _first_list(self) -> list[Listing] | None:
        # None = told to stop before there was one
        while True:
            try:
                payload = await self.fetcher.get(self.exchange.markets_request())
                return self.exchange.read_markets(payload)
            except (RefusedError, *UNREADABLE) as error:
                self.health.degraded(f"no market list of {self.exchange.NAME}: {error}")
            stopping = asyncio.ensure_future(self.health.stopping.wait())
            done, _ = await asyncio.wait([stopping], timeout=MARKETS_RETRY_S)
            stopping.cancel()
            if done:
                return None

    async def _tick(self) -> None:
        while True:
            self._judge(now_ns())
            await asyncio.sleep(TIMER_S)

    def _judge(self, now: int) -> None:
        self.stage.on_timer(now)
        if now - self._markets_ns > MARKETS_INTERVAL_NS:
            self._markets_ns = now
            self.fetcher.submit(self.exchange.markets_request())
        for request in self.stage.take_requests():
            self.fetcher.submit(request)
        for number, reason in self.stage.take_reconnects().items():
            for connection in self.connections:
                if any(link.number == number for link in connection.links):
                    connection.replace(reason)
        self._report()

    def _report(self) -> None:
        problems = self.problems()
        if problems:
            self.health.degraded("; ".join(problems))
        else:
            self.health.ready()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        refused = [c.fatal.text for c in self.connections if c.fatal is not None]
        # a market that the exchange has halted is as it should be
        fine = ("synced", "halted")
        missing = [s.market for s in self.stage.statuses if s.state not in fine]
        if refused:
            return [
                f"{self.exchange.NAME} refused the subscription: {refused[0]}; check the markets"
            ]
        if missing:
            shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            return [f"{len(missing)} of {len(self.stage.statuses)} not synced: {shown}"]
        return []

    def _on_answer(self, request: Request, payload: bytes, received_ns: int) -> None:
        if request.purpose != "markets":
            self.stage.on_answer(request, payload, received_ns)
            return
        try:
            listings = self.exchange.read_markets(payload)
        except UNREADABLE as error:
            self.log.warning("market list not readable", error=repr(error))
            return
        for event in self.market_list.update(listings):
            self.stage.on_listing(event.change, event.listing, received_ns)

    def _on_refused(self, request: Request, refusal: Refusal, received_ns: int) -> None:
        if request.purpose != "markets":
            self.stage.on_refused(request, refusal, received_ns)

    def counters(self) -> dict[str, int | float]:
        """Return everything counted here."""
        found: dict[str, int | float] = {**self.stage.counters(), **self.fetcher.counts}
        parts = [connection.counters() for connection in self.connections]
        parts += [recorder.counters() for recorder in self.recorders]
        for part in parts:
            for name, count in part.items():
                found[name] = found.get(name, 0) + count
        if self.grouped is not None:
            found["grouped_frames"] = self.grouped.frames
        return found


def make_stage(
    exchange: Exchange,
    stream: Stream,
    settings: ExchangeSettings,
    entries: list[tuple[str, str]],
    sink: Sink,
) -> OrderBookStage | TickerStage:
    """Return the stage of a stream over (symbol, market) pairs."""
    if stream == "ticker":
        return TickerStage(exchange, entries, sink)
    return OrderBookStage(
        exchange,
        entries,
        sink,
        depth=settings.depth,
        snapshot_depth=settings.snapshot_depth,
        stale_after_s=settings.stale_after_s,
        compare_interval_s=settings.compare_interval_s,
    )
