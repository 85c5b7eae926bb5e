"""`coinspace orderbook-storage-worker` and `coinspace ticker-storage-worker`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

import click

from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import oldest_ns
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import HOUR_NS, SECOND_NS, now_ns
from coinspace.config import (
    RATE_COLLECTOR,
    STORAGE_WORKERS_LIMIT,
    config_option,
    load,
    storage_worker,
)
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.process import Process, run
from coinspace.storage import deadletter, gaps, position, retention, schema
from coinspace.storage.catchup import CatchUp
from coinspace.storage.gaps import Damage
from coinspace.storage.intake import Intake
from coinspace.storage.policy import policies
from coinspace.storage.questdb.address import address
from coinspace.storage.rows import Key
from coinspace.storage.schema import Difference
from coinspace.storage.sender import Sender
from coinspace.storage.stage import StorageStage
from coinspace.storage.tables import (
    GAP,
    INDEX_TICK,
    INDEX_VENUE,
    STORED,
    collectors_of,
    kinds_of,
)
from coinspace.storage.watch import StorageWatch
from coinspace.tasks import Tasks, within

RETRY_S = 0.5
HEALTH_S = 0.5
# shorter problems of the sender are not reported
TROUBLE_S = 2.0
# longer than a batch and a request may take: the database makes no progress
STALLED_S = 30.0
# a publisher without a heartbeat this long after the start has another key or address, or is down
UNHEARD_S = 60.0
# a batch of rows is sent after a second: waiting messages are read together
PAUSE_S = 0.02
CLOSE_S = 15.0
DRAIN_S = 30.0
# at the end a worker stores what the publishers have sent last
STREAM_S = 3.0
OLD_REQUESTS = 2
SLACK_NS = HOUR_NS
LAG_PROBE_S = 0.02
# probes of one minute
LAG_PROBES = 3000


class Worker:
    """One storage worker: subscribers, stage, sender and the watch over the database."""

    def __init__(self, process: Process) -> None:
        settings, name = process.settings, process.name
        retention.check(settings.storage)
        self.kinds = kinds_of(name)
        self.process = process
        self.settings = settings
        # rates that were collected earlier may still be in the journal
        rates = settings.has_rates or journal_folder(settings, RATE_COLLECTOR).is_dir()
        self.publishers = list(collectors_of(name, settings.exchanges, rates=rates))
        # exchanges without markets have no collector
        collected = settings.collected
        self._expected = list(collectors_of(name, collected, rates=settings.has_rates))
        topics = tuple(f"{kind}.".encode() for kind in self.kinds)
        # with streams the first worker of its kind alone watches venues and repairs tables
        self._streamed = settings.streams.enabled
        self._first = name in STORED
        self.sender = Sender(
            settings,
            name,
            on_rejected=self._on_rejected,
            on_repaired=self._on_repaired,
            on_failure=process.failed,
        )
        self.stage = StorageStage(
            self.sender,
            topics,
            policies(settings),
            on_hole=lambda: self.catchup.wake(),
            on_restart=lambda publisher: self.catchup.restarted(publisher),
            streamed=self._streamed,
        )
        self.catchup = CatchUp(settings, self.stage, self.publishers)
        self._tables = {*self.kinds, GAP.name}
        if "trade" in self.kinds:
            # the calculator does not watch its tables itself
            self._tables |= {INDEX_TICK.name, INDEX_VENUE.name}
        self.watch = StorageWatch(
            settings, self._tables, on_drift=self._repair, on_damage=self._on_damage
        )
        self._restoring: asyncio.Task[None] | None = None
        self._subscribers: list[Subscriber] = []
        self._topics = [*([b"state."] if self._streamed else topics), b"heartbeat."]
        self._intake: Intake | None = None
        self._tasks = Tasks(process.failed, process.restarting)
        self._trouble_since: float | None = None
        # rows stored or rejected, and the time of the last change
        self._done, self._done_at = 0, 0.0
        self._listening_since = 0.0
        # how late the event loop called back, over the last minute
        self._late_s: deque[float] = deque([0.0], maxlen=LAG_PROBES)

    async def start(self) -> bool:
        """Wait for the database, read the positions, then subscribe.

        Returns: False when the process was asked to stop first.
        """
        # storing works without the watch: restart it instead of ending the process
        self._tasks.keep("database watch", self.watch.run)
        self._tasks.spawn("loop lag", self._measure_lag())
        while not self.process.stopping.is_set():
            try:
                await self._repair()
                await self._restore()
                break
            except CoinSpaceError as error:
                # do not subscribe yet: the journals keep the messages meanwhile
                self.process.degraded(str(error))
            await within(RETRY_S, self.process.stopping)
        else:
            return False
        self.sender.start()
        loop = asyncio.get_running_loop()
        self._listening_since = loop.time()
        for publisher in self.publishers if self._first else ():
            subscriber = Subscriber(
                [self.settings.bus.endpoint(publisher)],
                self._topics,
                partial(self.stage.on_message, publisher),
                pause_s=PAUSE_S,
                bus=self.settings.bus,
            )
            subscriber.start(loop)
            self._subscribers.append(subscriber)
        self._tasks.spawn("catch-up", self.catchup.run(), ends=not self.publishers)
        if self._streamed:
            self._intake = Intake(self.settings, self.stage, self.process.name, self.publishers)
            self._tasks.keep("stream", self._intake.run)
            self._tasks.keep("stored batches", self._intake.confirm)
        if self._first:
            self.watch.owner = self.process.name
        self._tasks.spawn("judgement", self._health())
        return True

    async def stop(self) -> None:
        """Read and store the waiting messages, then end."""
        for subscriber in self._subscribers:
            subscriber.drain()
            subscriber.close()
        await self._tasks.cancel()
        if self._intake is not None:
            await self._intake.drain(STREAM_S)
        self.catchup.close()
        self.stage.settle()
        if not await self.sender.close(CLOSE_S):
            self.process.log.warning(
                "rows not sent; the journals have their messages", rows=self.sender.pending
            )
        if self._intake is not None:
            await self._intake.close()

    def counters(self) -> dict[str, int | float]:
        received: dict[str, int | float] = {}
        for subscriber in self._subscribers:
            for name, value in subscriber.counters().items():
                # the stage counts gaps itself, also over restarts
                if name not in ("gaps", "missed"):
                    received[name] = received.get(name, 0) + value
        counts = self.stage.counters() | self.sender.counters() | self.catchup.counters()
        if self._intake is not None:
            counts |= self._intake.counters()
        late = sorted(self._late_s)
        return {
            **received,
            **counts,
            "loop_lag_p99_ms": round(late[len(late) * 99 // 100] * 1e3, 3),
            "loop_lag_max_ms": round(late[-1] * 1e3, 3),
        }

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(LAG_PROBE_S)
            self._late_s.append(max(0.0, loop.time() - before - LAG_PROBE_S))

    async def _restore(self) -> None:
        since_ns = now_ns() - self.settings.journal.max_age_s * SECOND_NS
        # the journal of an ended publisher may be older than max_age_s and is read too
        folders = [journal_folder(self.settings, name) for name in self.publishers]
        begun = [begun_ns for folder in folders if (begun_ns := oldest_ns(folder)) is not None]
        since_ns = min([since_ns, *begun]) - SLACK_NS
        found = await position.restore(
            address(self.settings), self.stage, self.kinds, set(self.publishers), since_ns
        )
        for letter in deadletter.read(self.sender.dead_letters, since_ns):
            # the row in `gap` may not have been stored before the last end of this worker
            key = tuple(letter["key"]) if letter["key"] else None
            self.stage.on_rejected(key, letter["table"], letter["reason"], letter["at_ns"])
        self.process.log.info("positions", streams=found, missing=self.stage.ledger.missing())

    async def _repair(self) -> None:
        found = address(self.settings)
        self._on_repaired(
            await asyncio.to_thread(schema.repair, found, self._tables, self.settings.storage)
        )

    def _on_repaired(self, repaired: list[Difference]) -> None:
        for one in repaired:
            self.process.log.error("schema repaired", difference=one.text, statement=one.repair)

    def _on_damage(self, damages: list[Damage]) -> None:
        if self._restoring is None or self._restoring.done():
            work = partial(self._store_again, damages)
            self._restoring = self._tasks.keep("storing again", work, ends=True)

    async def _store_again(self, damages: list[Damage]) -> None:
        """Have the messages of damaged tables stored again, then close the damages in `gap`."""
        # the server may apply one more request with the old columns: wait until it is stored, so
        # that its messages are stored again too
        for _ in range(OLD_REQUESTS):
            if not await self.sender.drained(DRAIN_S):
                return
            await asyncio.sleep(self.settings.storage.batch_ms / 1000)
        # storing again repairs all earlier damages of a table
        for newest in {damage.table: damage for damage in damages}.values():
            if not await self.catchup.restore(newest):
                continue
            self.process.log.info("storing again", table=newest.table, reason=newest.reason)
            # the holes must be committed before the damage counts as repaired
            self.sender.seal()
            for damage in damages:
                if damage.table != newest.table:
                    continue
                while not gaps.write_repaired(self.sender, damage, now_ns()):  # noqa: ASYNC110
                    await asyncio.sleep(RETRY_S)

    def _on_rejected(self, key: Key | None, table: str, reason: str, at_ns: int) -> None:
        self.process.log.error("row refused", table=table, reason=reason, key=key)
        self.stage.on_rejected(key, table, reason, at_ns)

    async def _health(self) -> None:
        beat = self.process.expect("judgement")
        while True:
            beat()
            self.stage.settle()
            problems = self._problems()
            if problems:
                self.process.degraded("; ".join(problems))
            else:
                self.process.ready()
            await asyncio.sleep(HEALTH_S)

    def _problems(self) -> list[str]:
        problems = self.watch.findings.problems + self.catchup.problems()
        now = asyncio.get_running_loop().time()
        if self.sender.trouble is None:
            self._trouble_since = None
        elif self._trouble_since is None:
            self._trouble_since = now
        elif now - self._trouble_since >= TROUBLE_S:
            problems.append(f"rows cannot be stored: {self.sender.trouble}")
        if self._stalled() and self.sender.trouble is None:
            problems.append(
                f"{self.sender.pending} rows wait and none has been stored for {STALLED_S:.0f} s:"
                " see QuestDB's log and load"
            )
        if self._first and now - self._listening_since >= UNHEARD_S:
            problems += [
                f"no heartbeat from {name}: check that it runs, its endpoint"
                f" {self.settings.bus.endpoint(name)} and its CURVE key"
                for name in self._expected
                if name not in self.stage.heard_ns
            ]
        if self.sender.full:
            problems.append(
                f"memory for {self.sender.pending} rows is full: live messages wait in the"
                f" {'streams' if self._streamed else 'journals'}"
            )
        return problems

    def _stalled(self) -> bool:
        """Return whether rows wait but none was stored for STALLED_S."""
        now, done = asyncio.get_running_loop().time(), self.sender.done
        if done != self._done or not self.sender.pending:
            self._done, self._done_at = done, now
        return now - self._done_at >= STALLED_S


async def work(process: Process) -> None:
    """Run the storage worker of this name until the process is asked to stop."""
    worker = Worker(process)
    process.counters = worker.counters
    process.latencies["published_to_stored"] = worker.sender.stored
    try:
        if await worker.start():
            await process.stopping.wait()
    finally:
        await worker.stop()


def _numbered(kind: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the options of a storage worker's command."""
    number = click.option(
        "--number",
        type=click.IntRange(1, STORAGE_WORKERS_LIMIT),
        default=1,
        show_default=True,
        help=f"which {kind}, of those that share a stream",
    )
    return lambda command: config_option(number(command))


@click.command()
@_numbered("orderbook-storage-worker")
def orderbook_storage_worker(config_path: str | None, number: int) -> None:
    """Store order books and the states of their venues in QuestDB."""
    _run("orderbook-storage-worker", number, config_path)


@click.command()
@_numbered("ticker-storage-worker")
def ticker_storage_worker(config_path: str | None, number: int) -> None:
    """Store tickers, trades and the states of their venues in QuestDB."""
    _run("ticker-storage-worker", number, config_path)


def _run(kind: str, number: int, config_path: str | None) -> None:
    settings = load(config_path)
    if number > 1 and not settings.streams.enabled:
        raise ConfigError("--number: expected 1 without streams.enabled, as workers share streams")
    run(storage_worker(kind, number), settings, work)
