"""One stage of one exchange, connected to sockets, REST and clocks. Its messages go to any sink.

In a collector's process the sink is the publisher. `record` adds recorders and drops the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import structlog

from coinspace._ext.collector_book import BookMarket
from coinspace._ext.links import Links
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.beside import BesideTickers
from coinspace.collector.connection import Connection
from coinspace.collector.demand import budget
from coinspace.collector.facts import FactStage
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.grouped import GroupedBooks, GroupStage, grouped_markets
from coinspace.collector.limits import Leftover, Window, shared
from coinspace.collector.markets import (
    ListingChange,
    MarketList,
    checked,
    has_patterns,
    matches,
    needed_markets,
    resolve,
)
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.pairs import Pair
from coinspace.collector.stage import Stage, State, Status
from coinspace.collector.ticker import TickerStage
from coinspace.config import TuningSettings
from coinspace.errors import UNREADABLE, ConfigError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import (
    CHANNELS,
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
# time between two requests for the market list …
MARKETS_INTERVAL_NS = 60 * SECOND_NS
# … and where patterns bring in what is listed: Binance counts 20 of 6,000 for it
LISTINGS_INTERVAL_NS = 25 * SECOND_NS
# each interval is shorter or longer by up to this share, so that processes do not ask together
LISTINGS_JITTER = 0.2
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
        # beside the tickers; None in a collector of books
        self.facts: FactStage | None = None
        self.log = structlog.get_logger(f"{stream}-{exchange}")
        self._open_recorder = recorders
        self._assets = assets
        self._named = named
        self._groups_file = groups_file
        self._tuning = tuning
        self._tls = tls_context(settings)
        self._connects = Window(shared(self.exchange.CONNECT_LIMIT, stream))
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
        # when the market list is requested next
        self._list_due_ns = 0
        # symbols that were listed after the start, and the connections of each of their
        # subscriptions: the other connections do not change for them
        self._added: list[str] = []
        self._later: list[list[Connection]] = []
        # symbols that the last list did not have -> since when
        self._missing_ns: dict[str, int] = {}
        # market -> time since which it is not synced, by the monotonic clock
        self._unsynced_ns: dict[str, int] = {}
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
            self.market_list.update(listings)
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
        if self.stream == "ticker":
            self.facts = FactStage(self.exchange, entries, self.sink, now_ns)
        self.stage.marker = self._mark
        self.stage.wall = now_ns
        self.stage.wanted = self._fetch_soon
        await self.prepare()
        symbols = [symbol for symbol, _ in entries]
        if self.settings.format == "sbe" and not self.settings.api_key.get_secret_value():
            self.stage.on_key_refused("no API key is set")
        for subscription in self._subscriptions(symbols):
            self._open(subscription)
        if self.stream == "orderbook":
            self._add_groups(entries)
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

    def _subscriptions(self, symbols: Sequence[str]) -> list[Subscription]:
        return self.exchange.subscriptions(self.settings, self.channels, symbols)

    def _open(self, subscription: Subscription) -> list[Connection]:
        n_links = self.settings.links if _is_main(subscription) else 1
        links = [self._connect(subscription, number) for number in range(n_links)]
        if len(links) > 1:
            self.pairs.append(Pair(links))
        return links

    def _connect(self, subscription: Subscription, address: int) -> Connection:
        recorder = self._open_recorder(len(self.recorders))
        if recorder is not None:
            self.recorders.append(recorder)
        self._note_recorder(subscription, recorder)
        connection = Connection(
            self.exchange,
            subscription,
            self._stage_of(subscription),
            self._connects,
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

    def _note_recorder(self, subscription: Subscription, recorder: Recorder | None) -> None:
        # answers and marks go into the feed of the first connection
        if recorder is not None:
            for symbol in subscription.symbols:
                self._recorder_of.setdefault(symbol, recorder)

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

    def _add_groups(self, entries: Sequence[tuple[str, str]]) -> None:
        """Extend the books of markets by price groups, where the settings want it."""
        needed = needed_markets(self.exchange, entries, self._assets)
        first = needed_markets(self.exchange, entries, self._named)
        order = {name: int(name not in first) for name in needed if name != FX_MARKET}
        symbols = {market: symbol for symbol, market in entries}
        chosen = grouped_markets(self.exchange, self.settings, list(symbols), order)
        if chosen and self.grouped is None:
            self.grouped = GroupedBooks(
                self.exchange,
                self.settings,
                self._connect_groups,
                self.fetcher.submit,
                self._groups_file,
            )
        for market in chosen:
            if self.grouped is not None:
                book = self.stage.entry(symbols[market])
                self.grouped.add(book, self.stage.groups_of(book))

    def _connect_groups(self, subscription: Subscription, stage: GroupStage) -> Connection:
        (symbol,) = subscription.symbols
        recorder = self._recorder_of.get(symbol)
        connection = Connection(
            self.exchange,
            subscription,
            stage,
            # the books' own connections come first
            Leftover(self._connects),
            ssl_context=self._tls,
            recorder=None if recorder is None else FramesOnly(recorder),
            tuning=self._tuning,
        )
        self._tasks.spawn(f"groups {symbol}", connection.run(), ends=True)
        return connection

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
        if now >= self._list_due_ns:
            self._list_due_ns = now + self._list_interval_ns()
            self.fetcher.submit(self.exchange.markets_request())
        if self.grouped is not None:
            self.grouped.on_timer(now)
        if self.facts is not None:
            for request in self.facts.take_requests(now):
                self.fetcher.submit(request)
            self.facts.on_timer(now, self.stage.suspended_symbols, self.stage.delistings)
        self._fetch()
        for number, frames in self.stage.take_frames().items():
            for connection in self.connections:
                connection.send(number, frames)
        for stage in (self.stage, *self.beside):
            for number, reason in stage.take_reconnects().items():
                for connection in self.connections:
                    connection.replace(number, reason)
        self._report()

    def _list_interval_ns(self) -> int:
        patterns = has_patterns(self.settings.markets)
        interval_ns = LISTINGS_INTERVAL_NS if patterns else MARKETS_INTERVAL_NS
        jitter = random.uniform(1 - LISTINGS_JITTER, 1 + LISTINGS_JITTER)
        return int(interval_ns * jitter)

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
            return [f"{len(missing)} of {len(self.stage.states)} not synced: {shown}"]
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
            return self._on_list(request, payload)
        if request.purpose == "groups":
            if self.grouped is not None:
                self.grouped.on_list(payload)
            return None
        if request.purpose == "facts":
            return self._on_facts(request, payload)
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

    async def _on_facts(self, request: Request, payload: bytes) -> None:
        # the list of markets is read by collectors of books too
        if self.facts is None or not self.facts.wants(request):
            return
        try:
            said = await asyncio.to_thread(self.exchange.read_facts, request, payload)
        except UNREADABLE as error:
            self.facts.on_unreadable(request, error, monotonic_ns())
        else:
            self.facts.on_said(request, said, monotonic_ns())

    async def _on_list(self, request: Request, payload: bytes) -> None:
        await self._on_facts(request, payload)
        try:
            # a list of thousands of markets is read in a thread, so that frames do not wait
            listings = await asyncio.to_thread(self.exchange.read_markets, payload)
            events = self.market_list.update(listings)
        except UNREADABLE as error:
            self.log.warning("market list cannot be read", error=repr(error))
            return
        if isinstance(self.stage, TickerStage):
            self.stage.listed = frozenset(listing.symbol for listing in listings)
        self._follow(events, monotonic_ns())

    # markets that are listed and delisted

    def _follow(self, events: list[ListingChange], now_ns: int) -> None:
        """Take the changes of the exchange's list."""
        # a market that two lists in a row lack is delisted, unless it still brings data: the lists
        # may be incomplete
        for symbol, since_ns in list(self._missing_ns.items()):
            if symbol not in self.market_list.listings:
                if self.stage.entry(symbol).heard_ns > since_ns:
                    self._missing_ns[symbol] = now_ns
                else:
                    self._remove([symbol], now_ns, "delisted")
        # changes of collected markets come first
        events.sort(key=lambda event: not self.stage.collects(event.listing.symbol))
        if len(events) > EVENTS_LIMIT:
            self.log.warning("market list changed", changes=len(events), reported=EVENTS_LIMIT)
        added = self._new_markets(events)
        for event in events[:EVENTS_LIMIT]:
            if event.listing.symbol not in added:
                self.stage.on_listing(event.change, event.listing, now_ns)
        again = [one.listing.symbol for one in events if self._is_silent(one)]
        self._add(added, now_ns, again)
        for event in events:
            if event.change == "delisted" and self.stage.collects(event.listing.symbol):
                self._missing_ns[event.listing.symbol] = now_ns

    def _new_markets(self, events: list[ListingChange]) -> dict[str, str]:
        # (symbol, market) of listed markets that the settings name and that are not collected
        return {
            one.listing.symbol: str(one.listing.market)
            for one in events
            if one.change in ("listed", "resumed")
            and one.listing.trading
            and not self.stage.collects(one.listing.symbol)
            and matches(self.settings.markets, str(one.listing.market))
        }

    def _is_silent(self, event: ListingChange) -> bool:
        # a collected market is listed again, and its old subscription has brought nothing since
        symbol = event.listing.symbol
        if event.change != "listed" or not self.stage.collects(symbol):
            return False
        heard_ns: int = self.stage.entry(symbol).heard_ns
        return heard_ns <= self._missing_ns.pop(symbol, monotonic_ns())

    def _add(self, markets: Mapping[str, str], now_ns: int, again: Sequence[str] = ()) -> None:
        """Collect more markets, and subscribe some others again.

        Args: markets: symbol -> market.
        """
        entries = list(markets.items())
        needed = needed_markets(self.exchange, entries, self._assets)
        self.stage.needed |= needed
        for symbol, market in entries:
            self.stage.add(symbol, market, now_ns, "listed")
            if self.stream == "orderbook":
                equip(self.stage.entry(symbol), self.settings)
        if self.stream == "orderbook":
            self._add_groups(entries)
        if self.facts is not None:
            self.facts.add(entries)
        for status in self.stage.of(tuple(one for one in again if one in self._added)):
            self.stage.want_reconnect(status, f"{status.market} is listed again")
        if symbols := [*markets, *(one for one in again if one not in self._added)]:
            self._subscribe_later(symbols)

    def _subscribe_later(self, symbols: list[str]) -> None:
        # connections of their own, since on some exchanges another subscription on a connection
        # replaces the first; all later listings share them
        self._added += symbols
        for number, subscription in enumerate(filter(_is_main, self._subscriptions(self._added))):
            if number == len(self._later):
                self._later.append(self._open(subscription))
                continue
            for connection in self._later[number]:
                connection.subscribe(subscription)
                self._note_recorder(subscription, cast(Recorder | None, connection.recorder))
        for subscription in self._subscriptions(symbols):
            if not _is_main(subscription):
                self._open(subscription)

    def _remove(self, symbols: Sequence[str], now_ns: int, reason: str) -> None:
        """Stop collecting markets; their connections go on for the others."""
        for symbol in symbols:
            self._missing_ns.pop(symbol, None)
            if self.stage.collects(symbol):
                self.stage.remove(symbol, now_ns, reason)
            if self.grouped is not None:
                self.grouped.remove(symbol)
        if self.facts is not None:
            self.facts.remove(symbols)
        self._added = [one for one in self._added if one not in symbols]
        for connection in list(self.connections):
            self._leave_out(connection, symbols)

    def _leave_out(self, connection: Connection, symbols: Sequence[str]) -> None:
        before = connection.subscription
        kept = [one for one in before.symbols if one not in symbols]
        if len(kept) == len(before.symbols) or not _is_main(before):
            return
        if kept:
            connection.subscribe(next(filter(_is_main, self._subscriptions(kept))))
            return
        connection.end()
        self.connections.remove(connection)
        self.pairs = [one for one in self.pairs if connection not in one.connections]
        self._later = [one for one in self._later if connection not in one]

    def _on_refused(self, request: Request, refusal: Refusal, received_ns: int) -> None:
        if self.facts is not None and self.facts.wants(request):
            self.facts.on_refused(request, refusal, received_ns)
        if request.purpose not in ("markets", "facts", "groups"):
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
        if self.facts is not None:
            found.update(self.facts.counters())
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
        equip(market, settings)
    return stage


def equip(market: BookMarket, settings: ExchangeSettings) -> None:
    """Give a market what the settings ask for."""
    market.corrects = settings.correct_touch
    market.links = Links() if settings.links > 1 else None


def _is_main(subscription: Subscription) -> bool:
    # whether it decides the states of its markets
    return not subscription.aside
