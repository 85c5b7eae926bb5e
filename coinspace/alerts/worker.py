"""`coinspace alerter`: index records, states and health in, messages to targets out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import click
import msgspec

from coinspace._ext.message import INDEX, Message
from coinspace.alerts import outbox
from coinspace.alerts.check import check
from coinspace.alerts.delivery import Poster
from coinspace.alerts.forms import body
from coinspace.alerts.outbox import Content, Outbox, Undelivered
from coinspace.alerts.rules import Event, Moment, Record, Rules
from coinspace.alerts.samples import Samples
from coinspace.alerts.venues import Venues
from coinspace.bus.beats import RemoteHealth
from coinspace.bus.subscriber import Subscriber
from coinspace.bus.topics import HEARTBEATS
from coinspace.clock import MILLISECOND_NS, SECOND_NS, monotonic_ns, now_ns
from coinspace.config import ALERTER, Settings, config_option, load
from coinspace.errors import ConfigError, StorageError
from coinspace.log import Summary
from coinspace.observe.health import all_health
from coinspace.process import Process, run
from coinspace.storage.disk import free_bytes
from coinspace.storage.read import history
from coinspace.storage.read.pool import Database, readonly_address
from coinspace.tasks import Tasks, within

NAME = ALERTER
CALCULATOR = "index-calculator"
CHECK_S = 1.0
# waiting messages of the bus are read together
PAUSE_S = 0.02
# without a database the next attempt to read earlier premiums follows after this time
RETRY_S = 10.0
QUERY_S = 60.0
# a target without anything to send is looked at this often; a new event wakes it earlier
IDLE_S = 3600.0
# no index record for this long is reported, where a rule needs records
UNHEARD_NS = 30 * SECOND_NS
# how long a refused configuration is shown
REFUSED_NS = 600 * SECOND_NS

_record = msgspec.json.Decoder(Record).decode


def state_path(settings: Settings) -> Path:
    """Return the file with standing alerts and with what is not delivered."""
    return settings.data / "outbox.json"


def host_name(settings: Settings) -> str:
    """Return the name of this machine in messages."""
    return settings.own_host or socket.gethostname()


def moment() -> Moment:
    return Moment(monotonic_ns(), now_ns() // MILLISECOND_NS)


class Alerter:
    """Rules, queues and their file, bound to bus, health files and targets.

    Raises: ConfigError when rules or targets cannot work.
    """

    def __init__(self, process: Process, config_path: str | None = None) -> None:
        self._process = process
        self._config_path = config_path
        settings = self._settings = process.settings
        self._addresses = check(settings)
        content, at = self._read(), moment()
        self.counts = {"malformed": 0, "reloads": 0, "reloads_refused": 0}
        self._summary = Summary(process.log, "subject")
        self.outbox = Outbox(state_path(settings), content)
        self._poster = Poster(settings.alerts.timeout_s)
        self._tasks = Tasks(process.failed, process.restarting)
        # one for each target, which ends when the process stops
        self._senders = Tasks(process.failed, process.restarting)
        # target -> set when there may be something to send
        self._wake: dict[str, asyncio.Event] = {}
        self._changed = True
        self._closing = False
        self._refused: tuple[int, str] | None = None
        self._use_targets(settings, at)
        self.rules = Rules(settings, self._on_event, at, content.standing, content.lost)
        self._venues = Venues(settings, at.now_ns)
        bus = settings.bus
        self._subscriber = Subscriber(
            [bus.endpoint(one) for one in (CALCULATOR, *self._venues.publishers)],
            [b"index.", b"state.", HEARTBEATS],
            self._on_message,
            pause_s=PAUSE_S,
            bus=bus,
        )
        self._remote: RemoteHealth | None = None
        self._database = Database(lambda: readonly_address(settings), size=1, timeout_s=QUERY_S)
        self._heard_ns = at.now_ns

    def _read(self) -> Content:
        path = state_path(self._settings)
        try:
            return outbox.read(path)
        except (OSError, ValueError) as error:
            kept = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(kept)
            self._process.log.error("alerts not read", file=str(kept), error=str(error))
            return Content()

    def counters(self) -> dict[str, int | float]:
        """Counters for the health file."""
        counts = self._subscriber.counters()
        counts["malformed"] += self.counts["malformed"] + self._venues.malformed
        return {
            **self.counts,
            **counts,
            **self.rules.counters(),
            **self.outbox.counters(),
        }

    async def run(self) -> None:
        """Watch and deliver until the process stops; an attempt that runs is finished."""
        if self._settings.hosts:
            self._remote = RemoteHealth(self._settings, on_loop=True)
        self._subscriber.start()
        self._tasks.keep("earlier premiums", self._fill, ends=True)
        beat = self._process.expect("rules")
        try:
            while not self._process.stopping.is_set():
                beat()
                self._check()
                self._save()
                self._judge_itself()
                await within(CHECK_S, self._process.stopping)
        finally:
            await self._close()

    async def _close(self) -> None:
        self._closing = True
        self._subscriber.close()
        if self._remote is not None:
            self._remote.close()
        for event in self._wake.values():
            event.set()
        await self._senders.finish(self._settings.alerts.timeout_s + 1)
        await self._tasks.cancel()
        self._changed = True
        self._save()
        await self._poster.close()
        await self._database.close()

    def _on_message(self, message: Message) -> None:
        if message.kind != INDEX:
            self._venues.on_message(message, monotonic_ns())
            return
        try:
            record = _record(message.payload)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self.counts["malformed"] += 1
            return
        at = moment()
        self._heard_ns = at.now_ns
        if self._settings.index.admit(record.asset):
            # its index begins: the rules about all assets are about it too
            self.rules.apply(self._settings, at)
        self.rules.on_record(record, at)

    def _check(self) -> None:
        at = moment()
        healths = [one for one in all_health(self._settings, self._remote) if one.process != NAME]
        free = free_bytes(self._settings) >> 20
        self.rules.check(at, self._venues.problems(at.now_ns), healths, free or None)
        self._summary.flush()

    def _judge_itself(self) -> None:
        found = [
            f"target {name}: {queue.waiting} alerts wait: {queue.problem}"
            if queue.sending
            else f"target {name}: the last message was not delivered: {queue.problem}"
            for name, queue in self.outbox.queues.items()
            if queue.problem
        ]
        if self.outbox.unwritten:
            found.append(f"alerts are not kept on disk: {self.outbox.unwritten}")
        unheard_ns = monotonic_ns() - self._heard_ns
        if unheard_ns > UNHEARD_NS and self.rules.needs_records:
            found.append(f"no index record for {unheard_ns // SECOND_NS} s: is {CALCULATOR} ready?")
        if self._refused and monotonic_ns() - self._refused[0] < REFUSED_NS:
            found.append(f"a new configuration was refused: {self._refused[1]}")
        if found:
            self._process.degraded("; ".join(found))
        else:
            self._process.ready()

    def _on_event(self, event: Event) -> None:
        self._changed = True
        level = "warning" if event.state == "raised" else "info"
        self._summary.add(
            level, f"alert {event.state}", event.subject, rule=event.rule, reason=event.text
        )
        rule, now = self._settings.alerts.rules.get(event.rule), monotonic_ns()
        chosen = {"*"} if rule is None else {one.lower() for one in rule.targets}
        for name, queue in self.outbox.queues.items():
            if "*" in chosen or name in chosen:
                queue.add(event, now)
                self._wake[name].set()

    def _use_targets(self, settings: Settings, at: Moment) -> None:
        chosen = settings.alerts
        limits = (chosen.group_s, chosen.interval_s, chosen.give_up_s)
        for one in self.outbox.apply(chosen.targets, limits, at.wall_ms):
            self._log(one)
        for name in chosen.targets.keys() - self._wake.keys():
            self._wake[name] = asyncio.Event()
            self._senders.spawn(f"deliver to {name}", self._deliver(name), ends=True)

    async def _deliver(self, name: str) -> None:
        """Deliver to one target until the process stops or the target is removed."""
        wake = self._wake[name]
        while not self._closing and (queue := self.outbox.queues.get(name)) is not None:
            at = moment()
            message = queue.next(at.now_ns, at.wall_ms)
            if message is None:
                due = queue.due_ns(at.now_ns)
                wake.clear()
                await within(IDLE_S if due is None else (due - at.now_ns) / SECOND_NS, wake)
                continue
            self._changed = True
            # on disk before the attempt begins
            self._save()
            address = self._addresses[name]
            content = body(address, message, host_name(self._settings))
            outcome = await self._poster.post(address, content, message.id)
            at = moment()
            reason = queue.settle(outcome, at.now_ns)
            if reason is not None:
                self._log(
                    self.outbox.give_up(name, message.events, message.omitted, reason, at.wall_ms)
                )
                queue.drop()
            elif outcome.reason and message.attempts == 1:
                self._process.log.warning("alert not delivered", target=name, reason=outcome.reason)
            self._changed = True
            self._save()
        self._wake.pop(name, None)

    def _log(self, one: Undelivered) -> None:
        self._process.log.error(
            "alert undelivered",
            target=one.target,
            alerts=one.alerts,
            reason=one.reason,
            text=one.text,
        )

    def _save(self) -> None:
        if not self._changed:
            return
        before = self.outbox.unwritten
        self.outbox.save(self.rules.standing.values(), self.rules.lost)
        # without room on the disk the next round tries again
        self._changed = self.outbox.unwritten is not None
        if self.outbox.unwritten and not before:
            self._process.log.error("alerts not kept on disk", error=self.outbox.unwritten)

    async def _fill(self) -> None:
        """Fill in the stored premiums of the windows of percentiles, one asset after another."""
        for (asset, basis), samples in list(self.rules.samples.items()):
            if not samples.filled:
                await self._fill_one(asset, basis, samples)
                samples.filled = True

    async def _fill_one(self, asset: str, basis: str, samples: Samples) -> None:
        for interval_ms, ring in samples.rings.items():
            end_ms = now_ns() // MILLISECOND_NS // interval_ms * interval_ms
            start_ms = end_ms - len(ring) * interval_ms
            while True:
                try:
                    rows = await history.premium_samples(
                        self._database, asset, interval_ms, start_ms, end_ms
                    )
                    break
                except StorageError:
                    await asyncio.sleep(RETRY_S)
            for row in rows:
                if row[basis] is not None:
                    ring.fill(row["ns"] // MILLISECOND_NS, row[basis])

    def reload(self) -> None:
        """Read the configuration again and use its rules and targets; a wrong one changes nothing.

        What else it changes has no effect here.
        """
        try:
            settings = load(self._config_path)
            addresses = check(settings)
        except ConfigError as error:
            self.counts["reloads_refused"] += 1
            self._refused = (monotonic_ns(), str(error))
            self._process.log.error("configuration refused, nothing changed", reason=str(error))
            return
        self._refused = None
        self.counts["reloads"] += 1
        at = moment()
        self._addresses = addresses
        self._settings.alerts = settings.alerts
        self._poster.timeout_s = settings.alerts.timeout_s
        self._use_targets(settings, at)
        for name, queue in self.outbox.queues.items():
            queue.retry_at_once()
            self._wake[name].set()
        self.rules.apply(self._settings, at)
        self._tasks.keep("earlier premiums", self._fill, ends=True)
        self._changed = True
        self._process.log.info(
            "configuration read again",
            rules=len(settings.alerts.rules),
            targets=len(settings.alerts.targets),
        )


async def main(process: Process, config_path: str | None = None) -> None:
    """Run until the process has to stop."""
    found = Alerter(process, config_path)
    process.counters = found.counters
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, found.reload)
    await found.run()


@click.command("alerter")
@config_option
def alerter(config_path: str | None) -> None:
    """Watch the rules of the configuration and send alerts to its targets.

    SIGHUP reads rules and targets again.
    """
    run(NAME, load(config_path), lambda process: main(process, config_path))
