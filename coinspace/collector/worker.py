"""The collector processes: each has one exchange, one stage, its connections and REST requests."""

from __future__ import annotations

import asyncio
from collections import deque

import click

from coinspace.bus.journal import journal_folder
from coinspace.bus.publisher import open_publisher
from coinspace.bus.sockets import SETTLE_S
from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.collector.collection import Collection, numbered
from coinspace.collector.memory import read_memory
from coinspace.collector.ticker import TickerStage
from coinspace.config import Settings, config_option, load
from coinspace.exchanges.exchange import Stream
from coinspace.options import EXCHANGE
from coinspace.process import Process, run
from coinspace.recording.recorder import Recorder

# readings of about a minute
OFFSET_READINGS = 60


def process_name(stream: Stream, exchange: str) -> str:
    return f"{stream}-collector-{exchange}"


class Worker(Collection):
    """A collection that publishes on the bus and reports the health of its process."""

    def __init__(self, settings: Settings, exchange: str, stream: Stream, process: Process) -> None:
        self.process = process
        self.name = process_name(stream, exchange)
        self.publisher = open_publisher(self.name, settings, process.started_ns)
        process.latencies |= {
            "exchange_to_received": self.publisher.transit,
            "received_to_published": self.publisher.publishing,
        }
        self._offsets_ns: deque[int] = deque(maxlen=OFFSET_READINGS)
        super().__init__(
            settings.exchanges[exchange],
            exchange,
            stream,
            self.publisher,
            process,
            tuning=settings.tuning,
            recorders=lambda number: open_recorder(settings, exchange, stream, number),
            assets=settings.index.assets,
            named=settings.index.named,
        )

    async def start(self) -> None:
        # subscribers would have to fetch messages that are published before they are connected
        await asyncio.sleep(SETTLE_S)
        await super().start()

    async def prepare(self) -> None:
        """Continue where the earlier process ended; start heartbeats and counters."""
        if isinstance(self.stage, TickerStage) and self.publisher.journal is not None:
            folder = journal_folder(self.process.settings, self.name)
            self.stage.resume(await asyncio.to_thread(read_memory, folder), monotonic_ns())
        self.process.counters = self.counters
        self.publisher.start_heartbeats(asyncio.get_running_loop(), lambda: self.stage.states)

    async def stop(self) -> None:
        """Close everything after all queued messages are sent."""
        await super().stop()
        if self.stage is not None:
            self.publisher.heartbeat(self.stage.states)
        self.publisher.close()

    def problems(self) -> list[str]:
        journal = self.publisher.problem
        return super().problems() + (
            [f"messages are not written to the journal: {journal}"] if journal else []
        )

    def counters(self) -> dict[str, int | float]:
        found = {**super().counters(), **self.publisher.counters()}
        least_ns = self.publisher.transit.take_least_ns()
        if least_ns is not None:
            self._offsets_ns.append(least_ns)
        if self._offsets_ns:
            label = f'{{exchange="{self.exchange.NAME}"}}'
            found[f"exchange_clock_offset_s{label}"] = min(self._offsets_ns) / SECOND_NS
        return found


def open_recorder(
    settings: Settings, exchange: str, stream: Stream, number: int
) -> Recorder | None:
    """Return a recorder of a connection's raw frames, None unless the settings ask for one."""
    chosen = settings.exchanges[exchange]
    if not chosen.record:
        return None
    name = numbered(stream, number)
    return Recorder(settings.data / "archive", exchange, name, chosen.websocket)


def start_command(stream: Stream, exchange: str, config_path: str | None) -> None:
    """Run a collector until it is stopped."""
    settings = load(config_path)

    async def main(process: Process) -> None:
        worker = Worker(settings, exchange, stream, process)
        try:
            await worker.start()
            await process.stopping.wait()
        finally:
            await worker.stop()

    run(process_name(stream, exchange), settings, main)


@click.command("orderbook-collector")
@click.argument("exchange", type=EXCHANGE)
@config_option
def orderbook_collector(exchange: str, config_path: str | None) -> None:
    """Collect one exchange's order books and publish them on the bus."""
    start_command("orderbook", exchange, config_path)


@click.command("ticker-collector")
@click.argument("exchange", type=EXCHANGE)
@config_option
def ticker_collector(exchange: str, config_path: str | None) -> None:
    """Collect one exchange's tickers and trades and publish them on the bus."""
    start_command("ticker", exchange, config_path)
