"""`coinspace orderbook-aggregator`: the aggregator on uvloop and ZMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import click
import orjson

from coinspace._ext.latency import Latency
from coinspace._ext.message import Message
from coinspace.aggregator.stage import COLLECTOR, OrderbookAggregator
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import MILLISECOND_NS, SECOND_NS, ClockSteps, monotonic_ns, now_ns
from coinspace.config import RATE_COLLECTOR, config_option, keep_venues, load, read_venues
from coinspace.errors import ConfigError
from coinspace.files import replace_file
from coinspace.process import Process, run

NAME = "orderbook-aggregator"
TOPICS = [b"state.", b"heartbeat.", b"rate."]
# waiting messages are read together: a tick needs them only some ms later
PAUSE_S = 0.005
STATE_INTERVAL_NS = SECOND_NS


class Worker:
    """Connects the stage to sockets and the wall clock; keeps the FX memory in a file."""

    def __init__(self, process: Process) -> None:
        self._process = process
        settings = self._settings = process.settings
        self.publisher = Publisher(NAME, settings.bus, process.started_ns, quiet=not process.leads)
        self.stage = OrderbookAggregator(
            settings, self.publisher, coalesce=True, clock=now_ns, on_assets=self._on_assets
        )
        # a collector without markets never runs; to retry its socket 50 times a second costs time
        endpoints = [
            settings.bus.endpoint(f"{COLLECTOR}{name}")
            for name, exchange in settings.exchanges.items()
            if exchange.markets
        ]
        if settings.has_rates:
            endpoints.append(settings.bus.endpoint(RATE_COLLECTOR))
        self.subscriber = Subscriber(
            endpoints,
            # exchanges have many more markets than the index
            [*self.stage.topics, *TOPICS],
            self._on_message,
            on_drained=self.stage.flush,
            pause_s=PAUSE_S if self.stage.interval_ns else 0.0,
            bus=settings.bus,
        )
        arrival = self._arrival = Latency()
        process.latencies |= {
            "published_to_aggregated": arrival,
            "tick_to_published": self.publisher.publishing,
        }
        # the FX rate's memory
        self._path = settings.data / "run" / f"{NAME}.state"
        self._saved_ns = 0
        self._behind = 0
        # number of failed writes of the state in a row
        self._unsaved = 0
        self._steps = ClockSteps()

    def _on_message(self, message: Message) -> None:
        self._arrival.observe(now_ns() - message.published_ns)
        self.stage.on_message(message)

    def _on_assets(self, topics: list[bytes], venues: Mapping[str, int]) -> None:
        for topic in topics:
            self.subscriber.add(topic)
        self._process.log.info("assets listed", assets=len(self._settings.index.assets))
        try:
            # a process that starts later has the same assets
            keep_venues(self._settings.data, read_venues(self._settings.data) | dict(venues))
        except ConfigError as error:
            self._process.log.error("assets not kept", error=str(error))

    def counters(self) -> dict[str, int | float]:
        return {
            **self.subscriber.counters(),
            **self.publisher.counters(),
            **self.stage.counters(),
            "ticks_skipped": self._behind,
        }

    async def run(self) -> None:
        """Make ticks until the process stops; a standby makes them without publishing them."""
        self._restore()
        self.subscriber.start(asyncio.get_running_loop())
        ticks = self._process.tasks.spawn("ticks", self._ticks())
        try:
            if await self._lead():
                await self._process.stopping.wait()
        finally:
            await self._process.tasks.end(ticks)
            self._save()
            self.subscriber.close()
            self.publisher.close()

    async def _lead(self) -> bool:
        process = self._process
        if not process.leads:
            if not await process.lead(lambda: bool(self.stage.counters()["venues_usable"])):
                return False
            self.publisher.succeed(process.started_ns, None)
            self.publisher.quiet = False
        self.publisher.start_heartbeats(asyncio.get_running_loop())
        return True

    async def _ticks(self) -> None:
        interval_ns = self.stage.interval_ns
        grace_ns = self._settings.index.grace_ms * MILLISECOND_NS
        step_ns = interval_ns or SECOND_NS
        next_ns = (now_ns() // step_ns + 1) * step_ns
        beat = self._process.expect("ticks")
        while True:
            beat()
            # the loop sleeps by the monotonic clock, at most one interval: so a step of the wall
            # clock causes no delay
            wait_ns = min(next_ns + grace_ns - now_ns(), step_ns)
            await asyncio.sleep(max(0, wait_ns) / SECOND_NS)
            if by_ns := self._steps.look():
                self._process.log.warning("clock stepped", by_ms=by_ns // MILLISECOND_NS)
                self.stage.clock_stepped()
                next_ns = (now_ns() - grace_ns) // step_ns * step_ns
            # after a pause only the newest tick is made; the calculator records the missed ones
            newest_ns = (now_ns() - grace_ns) // step_ns * step_ns
            if newest_ns < next_ns:
                # set back by less than a clock step: the stage drops repeated ticks
                next_ns = min(next_ns, newest_ns + step_ns)
                continue
            self._behind += (newest_ns - next_ns) // step_ns
            if interval_ns:
                self.stage.tick(newest_ns)
            next_ns = newest_ns + step_ns
            if monotonic_ns() - self._saved_ns >= STATE_INTERVAL_NS:
                self._saved_ns = monotonic_ns()
                self._save()
                if self.stage.counters()["venues_usable"]:
                    self._process.ready()
                else:
                    self._process.degraded("no venue has a usable book")

    def _restore(self) -> None:
        try:
            # old rates expire, flags do not
            self.stage.restore(orjson.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            self._process.log.error("started without FX memory", error=str(error))

    def _save(self) -> None:
        if not self._process.leads:
            return
        try:
            replace_file(self._path, orjson.dumps(self.stage.state()))
        except OSError as error:
            self._unsaved += 1
            if self._unsaved == 1:
                self._process.log.error("state not written", error=str(error))
        else:
            self._unsaved = 0


async def main(process: Process) -> None:
    """Run until the process has to stop."""
    worker = Worker(process)
    process.counters = worker.counters
    process.ready()
    await worker.run()


@click.command("orderbook-aggregator")
@config_option
def orderbook_aggregator(config_path: str | None) -> None:
    """Merge the books of all exchanges into one book per asset and tick."""
    run(NAME, load(config_path), main, warm=True)
