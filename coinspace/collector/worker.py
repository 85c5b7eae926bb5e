"""The collector processes: each has one exchange, one stage, its connections and REST requests."""

from __future__ import annotations

import asyncio
from collections import deque

import click

from coinspace.bus.journal import journal_folder
from coinspace.bus.publisher import open_journal, open_publisher
from coinspace.bus.transport import SETTLE_S
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
        self.publisher = open_publisher(
            self.name, settings, process.started_ns, quiet=not process.leads
        )
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
            groups_file=settings.data / f"groups-{exchange}.json",
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
        if self.process.leads:
            self._start_heartbeats()

    def _start_heartbeats(self) -> None:
        self.publisher.start_heartbeats(asyncio.get_running_loop(), lambda: self.stage.states)

    async def lead(self) -> bool:
        """Publish; a standby does so once it is synced and the process before it has ended.

        Returns: False when the process was asked to stop first.
        """
        process = self.process
        if process.leads or self.stage is None:
            return process.leads
        if not await process.lead(lambda: not self.problems()):
            return False
        epoch_ns = process.started_ns
        self.publisher.succeed(epoch_ns, open_journal(self.name, process.settings, epoch_ns))
        # subscribers would have to fetch messages that are published before they are connected
        await asyncio.sleep(SETTLE_S)
        self.publisher.quiet = False
        # first of all, so that readers know of the new process when its states arrive
        self.publisher.heartbeat(self.stage.states)
        self.stage.announce(monotonic_ns())
        self._start_heartbeats()
        return True

    async def stop(self) -> None:
        """Close everything after all queued messages are sent."""
        if self.process.hands_over:
            # the successor waits: the states of closing connections concern nobody
            self._close_publisher()
            self.process.release()
        await super().stop()
        self._close_publisher()

    def _close_publisher(self) -> None:
        if self.stage is not None and not self.publisher.quiet:
            self.publisher.heartbeat(self.stage.states)
        # frames may still arrive
        self.publisher.quiet = True
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
            if await worker.lead():
                await process.stopping.wait()
        finally:
            await worker.stop()

    # trades since the end of the process before are requested, which needs its whole journal
    warm = stream == "orderbook"
    run(process_name(stream, exchange), settings, main, warm=warm)


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
