"""One stage of one exchange, connected to sockets, REST and clocks. Its messages go to any sink.

In a collector's process the sink is the publisher. `record` adds recorders and drops the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from coinspace._ext.links import Links
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.beside import BesideTickers
from coinspace.collector.connection import Connection
from coinspace.collector.demand import budget
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.grouped import GroupedBooks, GroupStage, grouped_markets
from coinspace.collector.limits import Window, shared
from coinspace.collector.markets import (
    MarketList,
    checked,
    has_patterns,
    needed_markets,
    resolve,
)
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.pairs import Pair
from coinspace.collector.stage import Stage, State, Status
from coinspace.collector.ticker import TickerStage
from coinspace.config import TuningSettings
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
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import FX_MARKET
from coinspace.recording.recorder import Recorder
from coinspace.tasks import Tasks

TIMER_S = 0.25
# time between two requests for the market list
MARKETS_INTERVAL_NS = 60 * SECOND_NS
# wait between attempts to get the market list that patterns need
MARKETS_RETRY_S = 5.0
# a larger answer of a comparison, in bytes, is read in a thread, so that frames do not wait
LARGE_ANSWER = 1 << 16
# changes of one market list that become messages at most
EVENTS_LIMIT = 500
# how long open connections may take to close
STOP_S = 3.0

# makes the recorder of a connection, whose number starts at 0; None = nothing is recorded
Recorders = Callable[[int], Recorder | None]


def numbered(name: str, number: int) -> str:
    """Return the name of a connection's archive: orderbook, orderbook2 …"""
    return f"{name}{number + 1}" if number else name


class FramesOnly:
    """Records the frames of a second connection into the feed of a first one.

    The marks and sent frames of a feed are about the first one. A frame of price groups shows
    itself what it is.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.frame = recorder.frame

    def sent(self, sent_ns: int, payload: bytes) -> None:
        """Record nothing."""

    def mark(self, name: str, **facts: Any) -> None:
        """Record nothing."""


class Health(Protocol):
    """Receives the state of a collection: a `Process`, or a substitute for one."""

    stopping: asyncio.Event

    def failed(self, name: str, error: BaseException) -> None: ...
    def ready(self) -> None: ...
    def degraded(self, reason: str, kind: str | None = None) -> None: ...


def tls_context(settings: ExchangeSettings) -> ssl.SSLContext | None:
    """Return how certificates are verified; None for an exchange without TLS (a simulated one).

    Raises: ConfigError when `ca_file` cannot be read.
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
        assets: assets of the index. Their markets are requested before others.
        named: the assets whose markets are requested first.
        recorders: make a recorder for each connection: a feed has the frames of one connection,
            and the price groups of its markets.
        groups_file: remembers the price groups that the exchange refused.
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
        assets: Sequence[str] = (),
        named: Sequence[str] = (),
        groups_file: Path | None = None,
    ) -> None:
        self.settings = settings
        self.exchange = exchange_named(exchange)
        self.stream = stream
        self.sink = sink
        self.health = health
        self.channels = tuple(channels) or CHANNELS[stream]
        if settings.correct_touch and stream == "orderbook" and "top" not in self.channels:
            self.channels += ("top",)
        self.connections: list[Connection] = []
        self.recorders: list[Recorder] = []
        self.market_list = MarketList()
        self.grouped: GroupedBooks | None = None
        self.beside: list[BesideTickers] = []
        self.pairs: list[Pair] = []
        self.stage: Any = None
        self.log = structlog.get_logger(f"{stream}-{exchange}")
        self._open_recorder = recorders
        self._assets = assets
        self._named = named
        self._groups_file = groups_file
        self._tuning = tuning
        self._tls = tls_context(settings)
        self.fetcher = Fetcher(
            self.exchange,
            settings.rest,
            self._on_answer,
            self._on_refused,
            limits=budget(self.exchange, stream),
            ssl_context=self._tls,
            recorder=self._record,
        )
        self._recorder_of: dict[str, Recorder] = {}
        self._tasks = Tasks(health.failed)
        self._ticker: asyncio.Task[None] | None = None
        self._markets_ns = -MARKETS_INTERVAL_NS
        # market -> time since which it is not synced, by the monotonic clock
        self._unsynced_ns: dict[str, int] = {}
        self._symbols: frozenset[str] = frozenset()
        self._fetching = False

    async def start(self) -> None:
        """Start all connections; return before they are open.

        Raises: ConfigError when no market is left to collect.
        """
        listings = None
        if has_patterns(self.settings.markets):
            listings = await self._first_list()
            if listings is None:
                return
        entries = resolve(self.exchange, self.settings.markets, listings)
        self.stage = make_stage(
            self.exchange,
            self.stream,
            self.settings,
            entries,
            self.sink,
            self._assets,
            self._named,
        )
        self.stage.marker = self._mark
        self.stage.wall = now_ns
        self.stage.wanted = self._fetch_soon
        await self.prepare()
        self._symbols = frozenset(symbol for symbol, _ in entries)
        connects = Window(shared(self.exchange.CONNECT_LIMIT, self.stream))
        symbols = [symbol for symbol, _ in entries]
        if self.settings.format == "sbe" and not self.settings.api_key.get_secret_value():
            self.stage.on_key_refused("no API key is set")
        for subscription in self.exchange.subscriptions(self.settings, self.channels, symbols):
            links = [
                self._connect(subscription, connects, number)
                for number in range(1 if subscription.aside else self.settings.links)
            ]
            if len(links) > 1:
                self.pairs.append(Pair(links))
        if self.stream == "orderbook":
            self._add_groups(entries, connects)
        self._ticker = self._tasks.spawn("timer", self._tick())

    async def prepare(self) -> None:
        """Prepare the new stage; called before it gets any data."""

    async def stop(self) -> None:
        for connection in (*self.connections, *(self.grouped.connections if self.grouped else ())):
            connection.end()
        if self._ticker is not None:
            await self._tasks.end(self._ticker)
        await self._tasks.finish(STOP_S)
        await self.fetcher.close()
        if self.stage is not None:
            self.stage.summary.flush()
        for recorder in self.recorders:
            await asyncio.to_thread(recorder.close)

    def _connect(self, subscription: Subscription, connects: Window, address: int) -> Connection:
        recorder = self._open_recorder(len(self.recorders))
        if recorder is not None:
            self.recorders.append(recorder)
            # answers and marks go into the feed of the first connection
            for symbol in subscription.symbols:
                self._recorder_of.setdefault(symbol, recorder)
        connection = Connection(
            self.exchange,
            subscription,
            self._stage_of(subscription),
            connects,
            ssl_context=self._tls,
            recorder=recorder,
            tuning=self._tuning,
            address=address,
        )
        self.connections.append(connection)
        name = f"connection {len(self.connections)}"
        # the task ends when the exchange refused the subscription for good; `problems` reports it
        self._tasks.spawn(name, connection.run(), ends=True)
        return connection

    def _record(self, request: Request, received_ns: int, payload: bytes) -> None:
        # an answer is recorded in the feed that has the frames of its market
        symbol = request.symbols[0] if request.symbols else ""
        recorder = self._recorder_of.get(symbol) or next(iter(self.recorders), None)
        if recorder is not None:
            recorder.rest(received_ns, request.path, payload)

    def _mark(self, name: str, symbol: str, facts: dict[str, Any]) -> None:
        recorder = self._recorder_of.get(symbol)
        if recorder is not None:
            recorder.mark(name, symbol=symbol, **facts)

    def _stage_of(self, subscription: Subscription) -> Stage:
        if subscription.aside:
            beside = BesideTickers(self.stage, subscription.symbols)
            self.beside.append(beside)
            return beside
        stage: Stage = self.stage
        return stage

    def _add_groups(self, entries: list[tuple[str, str]], connects: Window) -> None:
        assets, named = self._assets, self._named
        needed = needed_markets(self.exchange, entries, assets)
        first = needed_markets(self.exchange, entries, named)
        order = {name: int(name not in first) for name in needed if name != FX_MARKET}
        names = [market for _, market in entries]
        chosen = set(grouped_markets(self.exchange, self.settings, names, order))
        books = [one for one in self.stage.markets if one.market in chosen]
        if not books:
            return

        def connect(subscription: Subscription, stage: GroupStage) -> Connection:
            recorder = self._recorder_of.get(subscription.symbols[0])
            connection = Connection(
                self.exchange,
                subscription,
                stage,
                connects,
                ssl_context=self._tls,
                recorder=None if recorder is None else FramesOnly(recorder),
                tuning=self._tuning,
            )
            self._tasks.spawn(f"groups {subscription.symbols[0]}", connection.run(), ends=True)
            return connection

        self.grouped = GroupedBooks(
            self.exchange,
            self.settings,
            [(book, self.stage.groups_of(book)) for book in books],
            connect,
            self.fetcher.submit,
            self._groups_file,
        )

    async def _first_list(self) -> list[Listing] | None:
        # None = the process was stopped before a list came
        while True:
            try:
                payload = await self.fetcher.get(self.exchange.markets_request())
                return checked(await asyncio.to_thread(self.exchange.read_markets, payload))
            except (RefusedError, *UNREADABLE) as error:
                self.health.degraded(f"no market list of {self.exchange.NAME}: {error}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.health.stopping.wait(), MARKETS_RETRY_S)
                return None

    async def _tick(self) -> None:
        while True:
            self._judge(monotonic_ns())
            await asyncio.sleep(TIMER_S)

    def _judge(self, now: int) -> None:
        self.stage.on_timer(now)
        for beside in self.beside:
            beside.on_timer(now)
        for pair in self.pairs:
            pair.on_timer(now)
        if now - self._markets_ns > MARKETS_INTERVAL_NS:
            self._markets_ns = now
            self.fetcher.submit(self.exchange.markets_request())
        if self.grouped is not None:
            self.grouped.on_timer(now)
        self._fetch()
        for number, frames in self.stage.take_frames().items():
            for connection in self.connections:
                connection.send(number, frames)
        for stage in (self.stage, *self.beside):
            for number, reason in stage.take_reconnects().items():
                for connection in self.connections:
                    connection.replace(number, reason)
        self._report()

    def _fetch_soon(self) -> None:
        # one call of `_fetch` serves everything that one event asked for
        if not self._fetching:
            self._fetching = True
            asyncio.get_running_loop().call_soon(self._fetch)

    def _fetch(self) -> None:
        self._fetching = False
        for request in self.stage.take_requests():
            self.fetcher.submit(request)

    def _report(self) -> None:
        problems = self.problems()
        if problems:
            # the markets that a problem names change with each tick while many are synced
            kinds = (problem.partition(": ")[0] for problem in problems)
            self.health.degraded("; ".join(problems), "; ".join(kinds))
        else:
            self.health.ready()

    def problems(self) -> list[str]:
        refused = [c.fatal.text for c in self.connections if c.fatal is not None]
        # a market that the exchange has halted is no problem
        fine = (State.SYNCED, State.HALTED)
        missing = [s for s in self.stage.statuses if s.state not in fine]
        self._note_unsynced(missing)
        if refused:
            return [
                f"{self.exchange.NAME} refused the subscription: {refused[0]}; check the markets"
            ]
        if missing:
            shown = ", ".join(map(self._shown, missing[:5])) + (" …" if len(missing) > 5 else "")
            return [f"{len(missing)} of {len(self.stage.statuses)} not synced: {shown}"]
        if self.grouped is not None and self.grouped.problems:
            return self.grouped.problems
        return ["no connection for tickers"] if any(one.is_silent for one in self.beside) else []

    def _note_unsynced(self, missing: list[Status]) -> None:
        now = monotonic_ns()
        self._unsynced_ns = {
            status.market: self._unsynced_ns.get(status.market, now) for status in missing
        }

    def _shown(self, status: Status) -> str:
        minutes = (monotonic_ns() - self._unsynced_ns[status.market]) // (60 * SECOND_NS)
        if not minutes:
            return status.market
        why = f": {status.reason}" if status.reason else ""
        return f"{status.market} ({status.state} for {minutes} min{why})"

    def _on_answer(
        self, request: Request, payload: bytes, received_ns: int
    ) -> Awaitable[None] | None:
        if request.purpose == "markets":
            return self._on_list(payload)
        if request.purpose == "groups":
            if self.grouped is not None:
                self.grouped.on_list(payload)
            return None
        if request.purpose == "compare" and len(payload) > LARGE_ANSWER:
            return self._on_books(request, payload)
        self.stage.on_answer(request, payload, received_ns)
        # the answer may have made room for requests that wait
        self._fetch_soon()
        return None

    async def _on_books(self, request: Request, payload: bytes) -> None:
        try:
            books = await asyncio.to_thread(self.exchange.read_books, request, payload)
        except UNREADABLE as error:
            self.stage.on_unreadable(request, error, monotonic_ns())
        else:
            self.stage.on_books(request, books, monotonic_ns())

    async def _on_list(self, payload: bytes) -> None:
        try:
            # a list of thousands of markets is read in a thread, so that frames do not wait
            listings = await asyncio.to_thread(self.exchange.read_markets, payload)
            events = self.market_list.update(listings)
        except UNREADABLE as error:
            self.log.warning("market list cannot be read", error=repr(error))
            return
        if isinstance(self.stage, TickerStage):
            self.stage.listed = frozenset(listing.symbol for listing in listings)
        # changes of collected markets come first
        events.sort(key=lambda event: event.listing.symbol not in self._symbols)
        if len(events) > EVENTS_LIMIT:
            self.log.warning("market list changed", changes=len(events), reported=EVENTS_LIMIT)
        for event in events[:EVENTS_LIMIT]:
            self.stage.on_listing(event.change, event.listing, monotonic_ns())

    def _on_refused(self, request: Request, refusal: Refusal, received_ns: int) -> None:
        if request.purpose not in ("markets", "groups"):
            self.stage.on_refused(request, refusal, received_ns)
            self._fetch_soon()

    def counters(self) -> dict[str, int | float]:
        found: dict[str, int | float] = {**self.stage.counters(), **self.fetcher.counters()}
        parts = [connection.counters() for connection in self.connections]
        parts += [one.added() for one in self.beside]
        parts += [recorder.counters() for recorder in self.recorders]
        for part in parts:
            for name, count in part.items():
                found[name] = found.get(name, 0) + count
        now = monotonic_ns()
        found["unsynced"] = len(self._unsynced_ns)
        found["unsynced_age_s"] = (
            max((now - since for since in self._unsynced_ns.values()), default=0) // SECOND_NS
        )
        if self.pairs:
            found["links_missing"] = sum(pair.missing for pair in self.pairs)
        if self.grouped is not None:
            found |= self.grouped.counters()
        return found


def make_stage(
    exchange: Exchange,
    stream: Stream,
    settings: ExchangeSettings,
    entries: list[tuple[str, str]],
    sink: Sink,
    assets: Sequence[str] = (),
    named: Sequence[str] = (),
) -> OrderBookStage | TickerStage:
    """Return the stage of a stream over (symbol, market) pairs.

    Args: assets: assets of the index. named: those whose markets are requested first.
    """
    needed = needed_markets(exchange, entries, assets)
    if stream == "ticker":
        return TickerStage(exchange, entries, sink, needed=needed)
    stage = OrderBookStage(
        exchange,
        entries,
        sink,
        depth=settings.depth,
        snapshot_depth=settings.snapshot_depth,
        needed=needed,
        first=needed_markets(exchange, entries, named),
        stale_after_s=settings.stale_after_s,
        compare_interval_s=settings.compare_interval_s,
    )
    for market in stage.markets:
        market.corrects = settings.correct_touch
        market.links = Links() if settings.links > 1 else None
    return stage
