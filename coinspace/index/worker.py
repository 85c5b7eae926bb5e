"""`coinspace index-calculator`: the calculator on uvloop, ZMQ and QuestDB."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator

import click

from coinspace._ext.message import INDEX, Message
from coinspace._ext.sink import Topic
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import MILLISECOND_NS, SECOND_NS, STEP_NS, monotonic_ns, now_ns
from coinspace.config import config_option, load
from coinspace.errors import CoinSpaceError, MessageError, StorageError
from coinspace.index.backlog import Backlog, Entry, read_entries
from coinspace.index.calculator import IndexCalculator
from coinspace.index.chain import DAY_NS, stored_links
from coinspace.index.governance import announce, definitions
from coinspace.index.memory import (
    Memory,
    read_ahead,
    read_memory,
    read_resets,
    remember,
)
from coinspace.index.outage import Outage
from coinspace.index.pulse import Pulse
from coinspace.index.spool import Spool
from coinspace.instant import shown
from coinspace.log import Summary
from coinspace.method.aggregate import Aggregate, decode
from coinspace.method.record import IndexRecord, encode
from coinspace.process import COMMAND, Process, run
from coinspace.storage import schema
from coinspace.storage.gaps import LOST
from coinspace.storage.questdb.address import address
from coinspace.storage.read.memory import holes
from coinspace.storage.read.query import wait_applied
from coinspace.storage.records import Row, tick_ns, tick_row, venue_rows
from coinspace.storage.sender import Sender
from coinspace.storage.tables import INDEX_TICK, INDEX_VENUE
from coinspace.tasks import Tasks

NAME = "index-calculator"
AGGREGATOR = "orderbook-aggregator"
# a tick without an aggregate is given up this long after it
GIVE_UP_NS = 2 * SECOND_NS
# how often closed days get their links of the hash chain
CHAIN_INTERVAL_S = 600.0
# how long a start waits for the last records in the database
RESTORE_TIMEOUT_S = 20.0
# records of outages are stored in batches, so that a live tick waits for a few ms at most, and
# only while the sender has fewer pending rows than FILL_PENDING
FILL_ROWS = 100
FILL_INTERVAL_S = 0.05
FILL_PENDING = 2000
# records on disk while the database does not answer: about four hours of them
SPOOL_BYTES = 1 << 30
# while stored ticks lie in the future: how often operators' clock resets are read
RESETS_INTERVAL_S = 5.0
# shortest time between stored steps of the clock: two clocks may alternate
STEPS_APART_NS = 60 * SECOND_NS


class Worker:
    """Binds the calculator to sockets and the database."""

    def __init__(self, process: Process, config_path: str | None = None) -> None:
        self._process = process
        self._config_path = config_path
        settings = self._settings = process.settings
        index = settings.index
        self.publisher = Publisher(NAME, settings.bus, process.started_ns)
        self.sender = Sender(settings, NAME, on_failure=process.failed)
        depths = settings.depths
        interval_ns = index.interval_ms * MILLISECOND_NS
        intervals = {one: index.interval_ms_of(one) * MILLISECOND_NS for one in index.assets}
        self._intervals = intervals
        self.calculator = IndexCalculator(
            index.parameters_of,
            self._emit,
            interval_ns=interval_ns,
            intervals=intervals,
            depths=depths,
            on_outage=self._on_outage,
            on_step=self._on_step,
            assets=index.assets,
        )
        self.backlog = Backlog(NAME, process.started_ns, self._give)
        self.spool = Spool(settings.data / "spool" / f"{NAME}.jsonl", SPOOL_BYTES)
        self.candidate = (
            IndexCalculator(
                functools.partial(index.parameters_of, candidate=True),
                self._emit_candidate,
                interval_ns=interval_ns,
                intervals=intervals,
                depths=depths,
                assets=index.assets,
            )
            if index.next
            else None
        )
        self.subscriber = Subscriber(
            [settings.bus.endpoint(AGGREGATOR)],
            [b"aggregate."],
            self._on_message,
            # on a grid every tick counts; at each update, ticks may be skipped under load
            conflate=not interval_ns,
            bus=settings.bus,
        )
        self._topics: dict[str, Topic] = {}
        self._fx_ts_ns = 0
        # asset -> the first tick of this process
        self._first_ns: dict[str, int] = {}
        # time of the last aggregate, or of the start, by the monotonic clock
        self._heard_ns = monotonic_ns()
        self._heard = False
        # the aggregator's clock differs from this one: aggregates then show which ticks are missed
        self._apart = False
        # when a step of the clock was last stored, and how many steps were not stored since then
        self._stepped_ns = -STEPS_APART_NS
        self._steps_unstored = 0
        # asset -> the last published tick that comes a second time
        self._repeats: dict[str, int] = {}
        self._summary = Summary(process.log, "asset")
        # whether the outages that an earlier process left open are known
        self._resumed = False
        # whether gaps have been searched since a record may last have been lost
        self._complete = False
        self.pulse = Pulse(index.assets, lambda asset: index.parameters_of(asset).failed_s)
        self.counts = {"malformed_aggregates": 0, "records_refused": 0, "latency_us": 0}
        self.ahead_ns = 0

    def counters(self) -> dict[str, int | float]:
        """Return the counters of stage, bus and storage."""
        return {
            **self.subscriber.counters(),
            **self.publisher.counters(),
            **self.sender.counters(),
            **self.calculator.counts,
            **self.counts,
            **self.pulse.counters(),
            "backlog_ticks": self.backlog.ticks,
            "records_spooled": self.spool.records,
            "records_torn": self.spool.torn,
            "history_ahead_s": self.ahead_ns // SECOND_NS,
        }

    async def run(self) -> None:
        """Compute until the process stops."""
        loop = asyncio.get_running_loop()
        self.sender.start()
        if self._process.took_over:
            # the aggregates that come while the last records are read are computed afterwards
            self.subscriber.connect()
        remembered = await self._restore()
        for row in announce(self._settings, now_ns()):
            self._store(row)
        self.subscriber.start(loop)
        self.publisher.start_heartbeats(loop)
        tasks = Tasks(self._process.failed, self._process.restarting)
        tasks.spawn("watch", self._watch())
        tasks.spawn("records of outages", self._fill())
        # the index goes on without these tasks
        tasks.keep("hash chain", self._chain)
        tasks.spawn("clock resets", self._watch_resets())
        if not remembered:
            tasks.keep("memory", self._recover, ends=True)
        tasks.keep("gaps", self._find_gaps)
        self._process.ready()
        try:
            await self._process.stopping.wait()
        finally:
            await tasks.cancel()
            self.subscriber.close()
            self.publisher.close()
            self.spool.close()
            if not await self.sender.close():
                self._process.log.error("records not stored", rows=self.sender.pending)

    async def _restore(self) -> bool:
        # the first tick needs the memory: without its flag a bad venue would count again
        deadline = asyncio.get_running_loop().time() + RESTORE_TIMEOUT_S
        while not self._process.stopping.is_set():
            try:
                await asyncio.to_thread(self._prepare)
                await self._unspool()
                await asyncio.to_thread(self._read_back)
                self._resume(await asyncio.to_thread(self._left_open))
            except CoinSpaceError as error:
                if asyncio.get_running_loop().time() > deadline:
                    self._process.log.error("started without memory", error=str(error))
                    return False
                self._process.degraded(f"waiting for the last records: {error}")
                await asyncio.sleep(0.5)
                continue
            return True
        return False

    async def _recover(self) -> None:
        # the database answers late: outages of an earlier process are still to be stored
        while True:
            await asyncio.sleep(1.0)
            if self.spool.pending or self.sender.pending:
                continue
            try:
                entries = await asyncio.to_thread(self._left_open)
                await asyncio.to_thread(self._read_ahead)
            except CoinSpaceError:
                continue
            self._resume(entries)
            return

    async def _find_gaps(self) -> None:
        """Record outages for ticks that have no record although later ticks have one.

        An earlier process may have ended before the database answered, or may have lost records
        in its memory.
        """
        while True:
            await asyncio.sleep(1.0)
            begun = self._resumed and len(self._first_ns) == len(self._settings.index.assets)
            if self._complete or not begun or self.spool.pending or self.sender.pending:
                continue
            self._complete = True
            try:
                outages = await asyncio.to_thread(self._gaps, now_ns())
            except CoinSpaceError:
                self._complete = False
                continue
            for outage in outages:
                if not self.backlog.holds(outage.asset, outage.first_ns, outage.last_ns):
                    self._make_up(outage)
            self.backlog.cut(now_ns())

    def _gaps(self, until_ns: int) -> list[Outage]:
        outages: list[Outage] = []
        if not self._settings.index.interval_ms:
            # without a grid no tick can be missed
            return outages
        with schema.connect(address(self._settings)) as connection:
            wait_applied(connection, INDEX_TICK.name)
            # a day with a link of the chain gets no more records; an earlier process may have lost
            # some of any later day, which were in its memory before those that it spooled
            closed_ns = max((one.day_ns + DAY_NS for one in stored_links(connection)), default=0)
            for asset in self._settings.index.assets:
                index = self.calculator.index(asset)
                step_ns = index.interval_ns
                last = read_memory(connection, asset, 0, self._first_ns[asset])
                since_ns = min(until_ns - DAY_NS, last.ts_ns if last else until_ns, closed_ns)
                for first_ns, last_ns in holes(connection, asset, step_ns, since_ns, until_ns):
                    free_ns = max(first_ns, -(-closed_ns // step_ns) * step_ns)
                    if free_ns <= last_ns:
                        memory = read_memory(connection, asset, 0, first_ns) or Memory(first_ns)
                        outages.append(memory.outage(index, free_ns, last_ns, step_ns))
        return outages

    def _left_open(self) -> list[Entry]:
        with schema.connect(address(self._settings)) as connection:
            entries = read_entries(connection, NAME, self.calculator.indices, self.calculator.make)
        return [one for one in entries if one.epoch != self._process.started_ns]

    def _resume(self, entries: list[Entry]) -> None:
        self.backlog.resume(entries)
        self._resumed = True
        # a clock that was ahead may have left outages in the future
        self.backlog.cut(now_ns())

    def _prepare(self) -> None:
        schema.create(address(self._settings), self._settings.storage)

    async def _unspool(self) -> None:
        # records of an earlier process are stored before new ones and before the memory is read
        while (self.spool.pending or self.sender.pending) and not self._process.stopping.is_set():
            if self.sender.trouble:
                raise StorageError(self.sender.trouble, INDEX_TICK.name)
            self.spool.drain(self._give, FILL_ROWS)
            await asyncio.sleep(0.01)

    def _read_back(self) -> None:
        with schema.connect(address(self._settings)) as connection:
            wait_applied(connection, INDEX_TICK.name)
            wait_applied(connection, INDEX_VENUE.name)
            # a clock that was ahead made later ticks: the index goes on in the present
            before_ns = now_ns() + STEP_NS
            for asset in self._settings.index.assets:
                remember(connection, self.calculator.index(asset), before_ns)
                if self.candidate is not None:
                    remember(connection, self.candidate.index(asset), before_ns, candidate=True)
        self._read_ahead()

    def _read_ahead(self) -> None:
        # stored ticks of the future, without those that an operator has declared void
        now = now_ns()
        with schema.connect(address(self._settings)) as connection:
            for asset in self._settings.index.assets:
                index = self.calculator.index(asset)
                if index.last_ts_ns:
                    index.published.add(1, index.last_ts_ns)
                for first_ns, last_ns in read_ahead(connection, asset, now + STEP_NS):
                    index.published.add(first_ns, last_ns)
            self._void(read_resets(connection))
        latest_ns = self.calculator.latest_published_ns
        if latest_ns > now + STEP_NS:
            self._process.log.warning("stored ticks lie in the future", until=shown(latest_ns))

    def _void(self, resets: list[tuple[int, int]]) -> None:
        now = now_ns()
        for index in self.calculator.indices.values():
            for at_ns, last_ns in resets:
                index.published.remove(max(at_ns, now, index.last_ts_ns + 1), last_ns)

    async def _watch_resets(self) -> None:
        while True:
            await asyncio.sleep(RESETS_INTERVAL_S)
            if not self.ahead_ns:
                continue
            try:
                self._void(await asyncio.to_thread(self._resets))
            except CoinSpaceError:
                continue

    def _resets(self) -> list[tuple[int, int]]:
        with schema.connect(address(self._settings)) as connection:
            return read_resets(connection)

    async def _fill(self) -> None:
        while True:
            await asyncio.sleep(FILL_INTERVAL_S)
            if self.sender.pending >= FILL_PENDING:
                continue
            if self.spool.pending:
                self.spool.drain(self._give, FILL_ROWS)
            else:
                self.backlog.step(FILL_ROWS, now_ns())

    async def _chain(self) -> None:
        # a child process: hashing a day takes longer than a tick may wait
        while True:
            await asyncio.sleep(CHAIN_INTERVAL_S)
            if not self._complete:
                # a closed day may still get records
                continue
            command = [*COMMAND, "verify-chain", "--append", "--no-check"]
            if self._config_path is not None:
                command += ["--config", self._config_path]
            child = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            try:
                _, errors = await child.communicate()
            except asyncio.CancelledError:
                child.kill()
                raise
            if child.returncode:
                text = errors.decode(errors="replace")[-300:]
                self._process.log.error("hash chain not extended", error=text)

    async def _watch(self) -> None:
        beat = self._process.expect("watch")
        while True:
            beat()
            await asyncio.sleep(0.25)
            self._summary.flush()
            now = now_ns()
            interval_ns = self._settings.index.interval_ms * MILLISECOND_NS
            silent_ns = monotonic_ns() - self._heard_ns
            if self.calculator.last_ts_ns > now + GIVE_UP_NS and silent_ns > GIVE_UP_NS:
                # the clock was set back, and no aggregate shows it
                self.calculator.set_back(now - GIVE_UP_NS)
            if interval_ns and self._heard and (not self._apart or silent_ns > GIVE_UP_NS):
                due_ns = (now - GIVE_UP_NS) // interval_ns * interval_ns
                self.calculator.on_time(due_ns)
                if self.candidate is not None:
                    self.candidate.on_time(due_ns)
            latest_ns = self.calculator.latest_published_ns
            self.ahead_ns = latest_ns - now if latest_ns > now + GIVE_UP_NS else 0
            if troubles := list(self._troubles(silent_ns)):
                self._process.degraded("; ".join(troubles))
            else:
                self._process.ready()

    def _troubles(self, silent_ns: int) -> Iterator[str]:
        if silent_ns > 5 * SECOND_NS:
            yield "no aggregate arrives"
        elif failed := self.pulse.problem():
            yield failed
        elif self.sender.trouble:
            yield f"records wait: {self.sender.trouble}"
        # shown beside other problems: the operator has to wait or act
        if self.ahead_ns:
            yield (
                "stored ticks lie in the future until"
                f" {shown(self.calculator.latest_published_ns)}: the clock was set back, and"
                " these instants get no second record; wait until then, or run"
                " `coinspace index-reset-clock` to see these ticks and to declare them void"
            )

    def _on_message(self, message: Message) -> None:
        try:
            aggregate = decode(message.payload, epoch=message.epoch, sequence=message.sequence)
        except MessageError as error:
            self.counts["malformed_aggregates"] += 1
            self._process.log.warning("aggregate not read", error=str(error))
            return
        if self._settings.index.admit(aggregate.asset):
            self._admit(aggregate)
        self._heard, self._heard_ns = True, monotonic_ns()
        self._apart = abs(now_ns() - aggregate.ts_ns) > GIVE_UP_NS
        self.calculator.on_aggregate(aggregate)
        if self.candidate is not None:
            self.candidate.on_aggregate(aggregate)

    def _admit(self, aggregate: Aggregate) -> None:
        """Begin the index of an asset that the aggregator has found to be listed."""
        asset = aggregate.asset
        self._intervals[asset] = self._settings.index.interval_ms_of(asset) * MILLISECOND_NS
        self.pulse.add(asset)
        self._process.log.info("index begins", asset=asset)
        for row in definitions(self._settings, asset, aggregate.ts_ns):
            self._store(row)

    def _emit(self, record: IndexRecord, aggregate: Aggregate | None) -> None:
        self.pulse.tick(record)
        asset, at_ns = record.asset, tick_ns(record)
        topic = self._topics.get(asset)
        if topic is None:
            topic = self._topics[asset] = self.publisher.topic(f"index.{asset}.".encode())
        record.latency_ns = now_ns() - at_ns
        self.publisher.publish(topic, INDEX, encode(record), received_ns=at_ns)
        if record.repeated:
            self._on_repeat(asset, at_ns)
            return
        # published before it is stored: subscribers wait
        self._first_ns.setdefault(asset, at_ns)
        self.counts["latency_us"] = record.latency_ns // 1000
        rows = [tick_row(record, aggregate=aggregate)]
        if aggregate is not None:
            rows += venue_rows(record, fx=at_ns != self._fx_ts_ns)
            self._fx_ts_ns = at_ns
        self._keep(rows)

    def _on_repeat(self, asset: str, at_ns: int) -> None:
        # a published record stays; a row of `gap` records the ticks without a second record
        if at_ns <= self._repeats.get(asset, 0):
            return
        index = self.calculator.index(asset)
        span = index.published.span(at_ns)
        last_ns = self._repeats[asset] = at_ns if span is None else span[1]
        outage = Outage(asset, at_ns, last_ns, index.interval_ns or 1)
        reason = "clock_stepped: these instants have a record from before"
        repeats = Entry(outage, now_ns(), self._process.started_ns, at_ns, reason=reason)
        self._store(repeats.row(NAME, LOST))

    def _on_step(self, last_ns: int, next_ns: int) -> None:
        self._repeats.clear()
        if next_ns < last_ns:
            self.backlog.cut(next_ns)
        monotonic = monotonic_ns()
        if monotonic - self._stepped_ns < STEPS_APART_NS:
            self._steps_unstored += 1
            return
        detail = f"from {shown(last_ns)} to {shown(next_ns)}"
        if self._steps_unstored:
            detail += f", {self._steps_unstored} more since the last row"
        self._stepped_ns, self._steps_unstored = monotonic, 0
        self._process.log.warning("clock stepped", detail=detail)
        self._store(
            Row(
                "operator_log",
                now_ns(),
                {"operator": NAME, "action": "clock_stepped"},
                {"target": "index", "detail": detail, "entry": 0},
            )
        )

    def _emit_candidate(self, record: IndexRecord, aggregate: Aggregate | None) -> None:
        if record.repeated:
            return
        self._store(tick_row(record, table="index_next", aggregate=aggregate))

    def _on_outage(self, outage: Outage) -> None:
        # before the resume, ticks that an earlier process stored are unknown: `_find_gaps` finds
        # the missing ones once the database answers
        if self._resumed:
            self._make_up(outage)

    def _make_up(self, outage: Outage) -> None:
        """Add an outage to the backlog, which stores its records."""
        facts = {"ticks": len(outage), "first_ns": outage.first_ns}
        self._summary.add("warning", "ticks missed", outage.asset, **facts)
        self.backlog.add(outage, now_ns())

    def _keep(self, rows: list[Row]) -> None:
        # spooled records come first, so that the database has every record up to some tick
        given = not self.spool.pending and all(self._give(row) for row in rows)
        if not given and not self.spool.add(rows):
            self.counts["records_refused"] += 1
            self._complete = False

    def _store(self, row: Row) -> None:
        self.counts["records_refused"] += not self._give(row)

    def _give(self, row: Row) -> bool:
        return self.sender.row(row.table, symbols=row.symbols, columns=row.columns, at_ns=row.at_ns)


async def main(process: Process, config_path: str | None = None) -> None:
    """Run until the process has to stop."""
    worker = Worker(process, config_path)
    process.counters = worker.counters
    process.latencies["tick_to_published"] = worker.publisher.publishing
    await worker.run()


@click.command("index-calculator")
@config_option
def index_calculator(config_path: str | None) -> None:
    """Compute one index record per asset and tick, publish and store it."""
    run(NAME, load(config_path), functools.partial(main, config_path=config_path))
