"""`coinspace fx-collector`: asks the sources of USD/KRW and publishes their quotations."""

from __future__ import annotations

import asyncio
from functools import partial

import click

from coinspace.bus.publisher import open_publisher
from coinspace.bus.transport import SETTLE_S
from coinspace.clock import DAY_NS, SECOND_NS, ClockSteps, now_ns
from coinspace.config import RATE_COLLECTOR, config_option, load
from coinspace.errors import ConfigError
from coinspace.process import Process, run
from coinspace.rates.poller import Poller
from coinspace.rates.replay import RECORDED
from coinspace.rates.stage import RateStage
from coinspace.recording.recorder import Recorder

LOOK_S = 1.0
# how often the last quotations are published again
ANNOUNCE_ROUNDS = 10
# a day of all sources has some MB
SEGMENT_S = DAY_NS / SECOND_NS
MOST_BYTES = 512 << 20


class Worker:
    """Connects stage, sources, bus and recorder."""

    def __init__(self, process: Process) -> None:
        settings = process.settings
        self.process = process
        self.publisher = open_publisher(RATE_COLLECTOR, settings, process.started_ns)
        process.latencies["received_to_published"] = self.publisher.publishing
        self.stage = RateStage(settings.rates, self.publisher)
        self.recorder: Recorder | None = None
        if settings.rates.record:
            self.recorder = Recorder(
                settings.data / "archive",
                RECORDED,
                "usdkrw",
                "",
                segment_s=SEGMENT_S,
                max_bytes=MOST_BYTES,
                # a replay needs them
                facts={
                    "sources": settings.rates.sources,
                    "holidays": settings.rates.holidays,
                },
            )
        self.poller = Poller(
            settings.rates,
            self.stage,
            self.recorder.rest if self.recorder else lambda at_ns, path, body: None,
        )
        self._steps = ClockSteps()

    async def run(self) -> None:
        """Run until the process has to stop."""
        process = self.process
        process.counters = self.counters
        # subscribers would have to fetch messages that are published before they are connected
        await asyncio.sleep(SETTLE_S)
        self.publisher.start_heartbeats(asyncio.get_running_loop())
        for source in self.stage.sources:
            process.tasks.keep(f"rates-{source}", partial(self.poller.run, source))
        process.tasks.spawn("rates-watch", self._watch())
        await process.stopping.wait()

    async def _watch(self) -> None:
        beat = self.process.expect("rates-watch")
        rounds = 0
        while True:
            beat()
            if self._steps.look():
                # the times of all quotations come from the old clock
                self.stage.reference.forget()
                self.poller.wake()
            self.judge()
            rounds += 1
            if rounds % ANNOUNCE_ROUNDS == 0:
                self.stage.announce()
            await asyncio.sleep(LOOK_S)

    def judge(self) -> None:
        """Report the state of the rate."""
        self.stage.look(now_ns())
        problems = self.stage.problems()
        if self.publisher.problem:
            problems.append(f"messages are not written to the journal: {self.publisher.problem}")
        if problems:
            self.process.degraded("; ".join(problems))
        else:
            self.process.ready()

    def counters(self) -> dict[str, int | float]:
        recorded = self.recorder.counters() if self.recorder else {}
        return {**self.stage.counters(now_ns()), **self.publisher.counters(), **recorded}

    async def close(self) -> None:
        """Close everything after the queued messages are sent."""
        await self.process.tasks.cancel()
        await self.poller.close()
        self.publisher.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)


async def main(process: Process) -> None:
    """Run until the process has to stop."""
    worker = Worker(process)
    try:
        await worker.run()
    finally:
        await worker.close()


@click.command("fx-collector")
@config_option
def fx_collector(config_path: str | None) -> None:
    """Collect quotations of USD/KRW and publish them on the bus."""
    settings = load(config_path)
    if not settings.rates.sources:
        raise ConfigError("rates.sources: expected at least one source, was none")
    run(RATE_COLLECTOR, settings, main)
