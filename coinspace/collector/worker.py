"""The collector processes: one exchange, one stage, its connections and its REST requests."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import Callable
from typing import Any

import click

from coinspace.bus.journal import journal_folder
from coinspace.bus.publisher import open_publisher
from coinspace.clock import SECOND_NS, now_ns
from coinspace.collector.connection import Connection
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.grouped import GroupedBooks
from coinspace.collector.limits import Window
from coinspace.collector.markets import MarketList, has_patterns, resolve
from coinspace.collector.memory import read_memory
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.ticker import TickerStage
from coinspace.config import EXCHANGES, ExchangeSettings, Settings, config_option, load
from coinspace.errors import ConfigError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import Exchange, Refusal, Request, Stream, Subscription
from coinspace.feed.recorder import Recorder
from coinspace.market import Market
from coinspace.process import Process, run

TIMER_S = 0.25
# a market list is asked for again so often
MARKETS_INTERVAL_NS = 60 * SECOND_NS
# wait between attempts to get the market list that patterns need
MARKETS_RETRY_S = 5.0
# how long open connections may take to close
STOP_S = 3.0


def process_name(stream: Stream, exchange: str) -> str:
    """Return the name of a collector's process."""
    return f"{stream}-collector-{exchange}"


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


class Worker:
    """Binds a stage to sockets and time."""

    def __init__(self, settings: Settings, exchange: str, stream: Stream, process: Process) -> None:
        self.settings = settings.exchanges[exchange]
        self._tuning = settings.tuning
        self.exchange = exchange_named(exchange)
        self.stream = stream
        self.process = process
        self.name = process_name(stream, exchange)
        self.publisher = open_publisher(self.name, settings, process.started_ns)
        self.connections: list[Connection] = []
        self.market_list = MarketList()
        self._tls = tls_context(self.settings)
        self.recorder = open_recorder(settings, self.exchange, stream)
        self.fetcher = Fetcher(
            self.exchange,
            self.settings.rest,
            self._on_answer,
            self._on_refused,
            ssl_context=self._tls,
            recorder=self.recorder.rest if self.recorder else None,
        )
        self.stage: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ticker: asyncio.Task[None] | None = None
        self._markets_ns = 0
        self.grouped: GroupedBooks | None = None

    async def start(self) -> None:
        """Connect; returns once the connections are being made.

        Raises: ConfigError when no market is left to collect.
        """
        listings = None
        if has_patterns(self.settings.markets):
            listings = await self._first_list()
        entries = resolve(self.exchange, self.settings.markets, listings)
        self.stage = make_stage(self.exchange, self.stream, self.settings, entries, self.publisher)
        if isinstance(self.stage, TickerStage) and self.publisher.journal is not None:
            folder = journal_folder(self.process.settings, self.name)
            self.stage.resume(await asyncio.to_thread(read_memory, folder), now_ns())
        self.process.counters = self.counters
        self.publisher.start_heartbeats(asyncio.get_running_loop(), lambda: self.stage.states)
        connects = Window(self.exchange.CONNECT_LIMIT)
        symbols = [symbol for symbol, _ in entries]
        for subscription in self.exchange.subscriptions(self.settings, self.stream, symbols):
            stage = self._extend(subscription) if subscription.grouped else self.stage
            connection = Connection(
                self.exchange,
                subscription,
                stage,
                connects,
                ssl_context=self._tls,
                # a feed holds one connection's frames, and grouped books would pass for fine ones
                recorder=None if subscription.grouped else self.recorder,
                tuning=self._tuning,
            )
            self.connections.append(connection)
            self._tasks.append(asyncio.create_task(connection.run()))
        self._ticker = asyncio.create_task(self._tick())
        # what lives as long as the process is not looked at by the collector again
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        """Close everything; messages that are queued leave."""
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
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)
        if self.stage is not None:
            self.publisher.heartbeat(self.stage.states)
        self.publisher.close()

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

    async def _first_list(self) -> Any:
        while True:
            try:
                payload = await self.fetcher.get(self.exchange.markets_request())
                return self.exchange.read_markets(payload)
            except RefusedError as error:
                self.process.degraded(f"no market list of {self.exchange.NAME}: {error}")
            stopping = asyncio.ensure_future(self.process.stopping.wait())
            done, _ = await asyncio.wait([stopping], timeout=MARKETS_RETRY_S)
            stopping.cancel()
            if done:
                return []

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
        refused = [c.fatal.text for c in self.connections if c.fatal is not None]
        # a market that the exchange has halted is as it should be
        fine = ("synced", "halted")
        missing = [s.market for s in self.stage.statuses if s.state not in fine]
        if refused:
            self.process.degraded(
                f"{self.exchange.NAME} refused the subscription: {refused[0]}; check the markets"
            )
        elif missing:
            shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            self.process.degraded(
                f"{len(missing)} of {len(self.stage.statuses)} not synced: {shown}"
            )
        else:
            self.process.ready()

    def _on_answer(self, request: Request, payload: bytes, received_ns: int) -> None:
        if request.purpose != "markets":
            self.stage.on_answer(request, payload, received_ns)
            return
        try:
            listings = self.exchange.read_markets(payload)
        except (ValueError, KeyError, TypeError) as error:
            self.process.log.warning("market list not readable", error=repr(error))
            return
        for event in self.market_list.update(listings):
            self.stage.on_listing(event.change, event.listing, received_ns)

    def _on_refused(self, request: Request, refusal: Refusal, received_ns: int) -> None:
        if request.purpose != "markets":
            self.stage.on_refused(request, refusal, received_ns)

    def counters(self) -> dict[str, int | float]:
        """Return everything counted in this process."""
        found = {**self.stage.counters(), **self.fetcher.counts, **self.publisher.counters()}
        for connection in self.connections:
            for name, count in connection.counters().items():
                found[name] = found.get(name, 0) + count
        if self.grouped is not None:
            found["grouped_frames"] = self.grouped.frames
        if self.recorder is not None:
            found.update(self.recorder.counters())
        return found


def make_stage(
    exchange: Any,
    stream: Stream,
    settings: ExchangeSettings,
    entries: list[tuple[str, str]],
    sink: Any,
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


def open_recorder(settings: Settings, exchange: Exchange, stream: Stream) -> Recorder | None:
    """Return the archive of raw frames when the settings ask for one."""
    chosen = settings.exchanges[exchange.NAME]
    if not chosen.record:
        return None
    return Recorder(settings.data / "archive", exchange.NAME, stream, chosen.websocket)


def start_command(stream: Stream, exchange: str, config_path: str | None) -> None:
    """Run a collector until it is told to stop."""
    settings = load(config_path)

    async def main(process: Process) -> None:
        worker = Worker(settings, exchange, stream, process)
        try:
            await worker.start()
            await process.stopping.wait()
        finally:
            await worker.stop()

    run(process_name(stream, exchange), settings, main)


def collector_command(stream: Stream) -> Callable[[Any], click.Command]:
    """Make the click command of one stream."""

    def decorate(function: Any) -> click.Command:
        named = click.argument("exchange", type=click.Choice(EXCHANGES))(config_option(function))
        return click.command(f"{stream}-collector")(named)

    return decorate


@collector_command("orderbook")
def orderbook_collector(exchange: str, config_path: str | None) -> None:
    """Collect one exchange's order books onto the bus."""
    start_command("orderbook", exchange, config_path)


@collector_command("ticker")
def ticker_collector(exchange: str, config_path: str | None) -> None:
    """Collect one exchange's tickers and trades onto the bus."""
    start_command("ticker", exchange, config_path)


__all__ = ["Worker", "orderbook_collector", "ticker_collector"]
