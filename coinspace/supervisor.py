"""`coinspace up`: processes started in order, restarted when they die or hang, stopped in order.

Readers start before writers, so that the first message already finds its subscribers; writers
stop before readers, so that the last one is still stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from pathlib import Path
from typing import Any

import click
import orjson
import structlog
import uvloop

from coinspace import preflight
from coinspace.child import Child
from coinspace.config import (
    ALERTER,
    COLLECTORS,
    RATE_COLLECTOR,
    Settings,
    config_option,
    load,
    read_venues,
)
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.forkserver import ForkServer
from coinspace.hosts import GROUPS, is_here, matching
from coinspace.lock import lock_name
from coinspace.log import configure_logging
from coinspace.notify import Notifier
from coinspace.observe.doctor import OPEN_FILES, check_limits
from coinspace.observe.health import health_of
from coinspace.observe.screen import StatusScreen
from coinspace.options import EXCHANGE
from coinspace.process import COMMAND, STANDBY
from coinspace.restart import differences, is_reloaded, readers_of, refusal, serve
from coinspace.simulator.markets.offer import offer, usual_markets, whole_markets
from coinspace.simulator.rates import SIMULATED_SOURCES
from coinspace.storage.forecast import forecast
from coinspace.storage.questdb.address import root
from coinspace.tasks import WORK, Tasks

READY_TIMEOUT_S = 90.0  # QuestDB on a busy machine needs 10 s, its first download more
FEWEST_FILES = 512  # the database starts with fewer, and then stores nothing
DOUBLED = ("orderbook-aggregator", "index-calculator")
STANDBY_SUFFIX = "-standby"
HAND_OVER_S = 120.0  # a new collector may wait for the request limit of its exchange
STARTS = 3  # `up` gives up when a process has ended this often during the start
ENDPOINT = "index-endpoint"
# commands that serve exchanges of their own instead of the real ones
SIMULATOR, REPLAY = "simulate", "replay"
BEAT_INTERVAL_S = 1.0
RELOAD_S = 20.0
# a log line that says why a process ended: CoinSpace's own, or the last one of a traceback
_REASON = re.compile(r"coinspace: .+|[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*")

log = structlog.get_logger("supervisor")


class Supervisor:
    """All processes of one machine.

    Attributes:
        processes: those to start, with the arguments of their commands.
        forks: makes the processes, None = they are executed.
        stopping: set by signals, and when the supervisor itself fails.
        failure: the first error of the supervisor itself, None without one.
    """

    def __init__(
        self,
        settings: Settings,
        environment: dict[str, str],
        processes: dict[str, list[str]],
        forks: ForkServer | None = None,
    ) -> None:
        self.settings = settings
        self.environment = environment
        self.processes = processes
        self.forks = forks
        self.children: list[Child] = []
        self.stopping = asyncio.Event()
        self.failure: BaseException | None = None
        self.tasks = Tasks(self.failed, self.restarting)
        self._replacing, self._reloading = asyncio.Lock(), asyncio.Lock()
        self._started = False
        # the processes that run twice, of which one is the standby
        self.doubled = (
            set(DOUBLED).intersection(processes) if settings.supervisor.standby else set()
        )

    def failed(self, name: str, error: BaseException) -> None:
        """Record that a task of the supervisor failed, and stop everything."""
        self.failure = self.failure or error
        self.stopping.set()
        log.error("task failed", task=name, error=repr(error), exc_info=error)

    def restarting(self, name: str, error: BaseException) -> None:
        log.error("task restarts", task=name, error=repr(error), exc_info=error)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception of a callback: the loop's exception handler."""
        error = context.get("exception")
        if WORK in context:
            self.failed(context[WORK], error or RuntimeError(context["message"]))
        else:
            log.error("callback failed", message=str(context.get("message")), exc_info=error)

    async def start(self, exchanges: list[str] | None = None) -> None:
        """Start everything in dependency order; a group must be ready before the next one starts.

        Args: exchanges: the command that serves exchanges, None = the real ones.
        Raises: ConfigError naming the process that did not become ready, and why.
        """
        if exchanges is not None:
            report(f"starting the exchanges of `coinspace {exchanges[0]}` …")
            self.environment |= await start_exchanges(self, exchanges)
        if self.settings.index.patterns:
            await find_assets(self.settings, self.environment)
        for group in filter(None, start_groups(list(self.processes))):
            report(f"starting {', '.join(group)} …")
            children = [self._launch(name) for name in group]
            for child in children:
                await self._ready(child)
                if child.name in self.doubled:
                    self._launch(child.name, STANDBY_SUFFIX)
        self._started = True

    def _launch(self, name: str, suffix: str = "") -> Child:
        # of two processes of one name, the one that ends comes back as the standby
        environment = {STANDBY: "1"} if name in self.doubled else {}
        return self.launch(name + suffix, self.processes[name], **environment)

    def launch(self, name: str, arguments: list[str], **environment: str) -> Child:
        """Start one process and keep it running. Args: environment: of this process only."""
        watched = name not in (SIMULATOR, REPLAY)
        child = Child(name, arguments, self.settings, self.tasks, watched=watched, forks=self.forks)
        self.children.append(child)
        child.start(self.environment | environment)
        return child

    async def replace(self, name: str) -> None:
        """Start a process anew: the new one takes over when it could do so without a loss.

        Raises: ConfigError when the new process cannot take over; the old one then goes on.
        """
        async with self._replacing:
            if name in self.doubled:
                await self._swap(name)
                return
            old = next(child for child in self.children if child.name == name)
            new = self.launch(name, old.arguments, **{STANDBY: "1"})
            try:
                await self._could_take_over(new)
            except BaseException:
                self.children.remove(new)
                await new.stop()
                raise
            await old.stop(number=signal.SIGUSR1)
            self.children.remove(old)
            await self._ready(new)

    async def _swap(self, name: str) -> None:
        """Restart the standby, let it take over, then restart the other process as standby."""
        pair = [one for one in self.children if one.name in (name, name + STANDBY_SUFFIX)]
        leader = health_of(self.settings, name).pid
        for child in sorted(pair, key=lambda one: one.pid == leader):
            before = child.restarts
            await child.restart()
            while child.restarts == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await self._could_take_over(child)

    async def replaced(self, roles: list[str]) -> AsyncIterator[str]:
        """Replace the processes of some roles, all but the database without one, in order.

        Yields: the name of each process once it is replaced.
        Raises: ConfigError for a role without a process, or when a process cannot be replaced.
        """
        if self.forks is not None:
            await self.forks.end()
        names = [name for name in self.processes if name != "questdb"]
        if roles:
            names = within_roles(roles, self.processes)
        for group in start_groups(names):
            for name in group:
                await self.replace(name)
                yield name

    async def reloaded(self) -> AsyncIterator[str]:
        """Read the configuration again and apply the changes that need no restart.

        Yields: each setting that was applied.
        Raises: ConfigError for a wrong configuration, which changes nothing, and for changes that
            need a restart. Beside them, only changes of alerts are applied: other processes would
            read them too.
        """
        async with self._reloading:
            new = load()
            preflight.check_start(new)
            changed = differences(self.settings, new)
            alerts = [one for one in changed if one.startswith("alerts.")]
            # with or without markets, an exchange has other processes
            whole = [
                f"exchanges.{name}.markets"
                for name in set(self.settings.collected).symmetric_difference(new.collected)
            ]
            live = [one for one in changed if is_reloaded(one) and one not in whole]
            others = [one for one in changed if one not in (*alerts, *live)]
            if live and others:
                raise ConfigError(f"nothing was applied: {refusal(others, whole)}")
            if alerts:
                async with self._replacing:
                    await self._reload_alerts(new)
                self.settings.alerts = new.alerts
            for one in alerts:
                yield one
            if live:
                await self._reload_markets(new, live)
            for one in live:
                yield one
            if others:
                raise ConfigError(refusal(others, whole))

    async def _reload_markets(self, new: Settings, changed: list[str]) -> None:
        before = self.settings.index.patterns
        if new.index.patterns and new.index.patterns != before:
            await find_assets(new, self.environment)
        replaced: list[str] = []
        for name in readers_of(changed):
            if name not in self.processes:
                continue
            try:
                await self.replace(name)
            except ConfigError as error:
                done = (
                    f"; applied by {', '.join(replaced)}" if replaced else ", nothing was applied"
                )
                raise ConfigError(f"{error}{done}") from None
            replaced.append(name)
        self.settings.exchanges, self.settings.index = new.exchanges, new.index

    def on_hangup(self) -> None:
        """Read the configuration again; the log says what came of it."""
        if not self._started:
            log.warning("configuration not read again: the start goes on")
            return
        self.tasks.spawn("reload", self._reload(), ends=True)

    async def _reload(self) -> None:
        try:
            applied = [one async for one in self.reloaded()]
            log.info("configuration read again", applied=", ".join(applied) or "no change")
        except (CoinSpaceError, OSError) as error:
            log.error("configuration not applied", reason=str(error))

    async def _reload_alerts(self, new: Settings) -> None:
        child = next((one for one in self.children if one.name == ALERTER), None)
        if child is None:
            if new.alerts.rules and new.here(ALERTER):
                self.processes[ALERTER] = [ALERTER]
                await self._ready(self._launch(ALERTER))
            return
        before = self._reloads()
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGHUP)
        started = time.monotonic()
        while (now := self._reloads()) == before:
            if time.monotonic() - started > RELOAD_S:
                raise ConfigError(
                    f"{ALERTER}: expected it to read the configuration within {RELOAD_S:.0f} s"
                )
            await asyncio.sleep(0.05)
        if now[1] > before[1]:
            raise ConfigError(f"{ALERTER}: it refused the configuration, see its log")

    def _reloads(self) -> tuple[float, float]:
        counters = health_of(self.settings, ALERTER).counters
        return counters.get("reloads", 0), counters.get("reloads_refused", 0)

    async def _could_take_over(self, child: Child) -> None:
        started, restarts = time.monotonic(), child.restarts
        while not (child.standby or self._works(child)):
            waited_s = time.monotonic() - started
            if child.restarts > restarts:
                raise ConfigError(f"{self._not_ready(child, waited_s)}; the old process goes on")
            if waited_s > HAND_OVER_S:
                if not health_of(self.settings, child.name.removesuffix(STANDBY_SUFFIX)).ok:
                    # there is nothing to lose
                    return
                raise ConfigError(
                    f"{child.name}: expected a new process to be synced within {HAND_OVER_S:.0f} s,"
                    " was not; the old process goes on"
                )
            await asyncio.sleep(0.05)

    async def _ready(self, child: Child) -> None:
        started = time.monotonic()
        while not self._works(child):
            waited_s = time.monotonic() - started
            if child.restarts >= STARTS or waited_s > READY_TIMEOUT_S:
                raise ConfigError(self._not_ready(child, waited_s))
            await asyncio.sleep(0.05)

    def _works(self, child: Child) -> bool:
        if child.ready:
            return True
        # where signs of life do not arrive; the file of an earlier run has another pid
        health = health_of(self.settings, child.name)
        return health.pid == child.pid is not None and health.state in ("ready", "degraded")

    def _not_ready(self, child: Child, waited_s: float) -> str:
        path = self.settings.data / "logs" / f"{child.name}.log"
        ended = f"ended {child.restarts} times" if child.restarts else "still starts"
        problems = [one for one in check_limits(self.settings) if one.level == "problem"]
        advice = "".join(f"; {one.subject}: {one.text}" for one in problems)
        reason = child.refusal or last_reason(path, child.log_begin)
        return (
            f"{child.name}: expected it to become ready, {ended} after {waited_s:.0f} s:"
            f" {reason} (see {path}){advice}"
        )

    async def stop(self) -> None:
        """Stop everything, writers before their readers.

        No child is left, even when a step fails.
        """
        try:
            for group in stop_groups([child.name for child in self.children]):
                children = [child for child in self.children if child.name in group]
                stops = [child.stop() for child in children]
                for child, error in zip(
                    children, await asyncio.gather(*stops, return_exceptions=True), strict=True
                ):
                    if isinstance(error, BaseException):
                        log.error("not stopped in order", process=child.name, exc_info=error)
        finally:
            await asyncio.gather(*(child.kill() for child in self.children), return_exceptions=True)
            if self.forks is not None:
                await self.forks.end()
            await self.tasks.cancel()

    async def beat(self, notifier: Notifier) -> None:
        """Report to systemd that the supervisor works, until cancelled."""
        while True:
            notifier.beat()
            await asyncio.sleep(min(BEAT_INTERVAL_S, notifier.interval_s or BEAT_INTERVAL_S))


def last_reason(path: Path, begin: int = 0) -> str:
    """Return the last line of a log, from `begin` on, that says why a process ended."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            # a log that has become shorter is a new file
            file.seek(max(begin if begin <= size else 0, size - (64 << 10)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    reasons = [line.strip() for line in lines if _REASON.match(line)]
    if reasons:
        return reasons[-1].removeprefix("coinspace: ")
    return lines[-1].strip() if lines else "it wrote nothing"


def all_processes(settings: Settings) -> dict[str, list[str]]:
    """Return process -> arguments of its command, for all processes of this machine.

    Raises: ConfigError when there are several hosts and it is not known which one this is.
    """
    if settings.hosts and not settings.own_host:
        shown = ", ".join(f"{name} {one.address}" for name, one in settings.hosts.items())
        raise ConfigError(
            "hosts: expected one of them to have an address of this machine, found none or"
            f" several ({shown}): name it with --host or COINSPACE_HOST"
        )
    found = {name: words for name, words in settings.processes() if settings.here(name)}
    if settings.private_server:
        found["questdb"] = ["questdb", "start", "--foreground"]
    return found


def chosen(settings: Settings, only: Iterable[str]) -> dict[str, list[str]]:
    """Return process -> arguments of its command, all of this machine or those of some roles.

    Raises: ConfigError naming a role that this machine does not have.
    """
    processes = all_processes(settings)
    if not only:
        return processes
    return {name: processes[name] for name in within_roles(only, processes)}


def within_roles(roles: Iterable[str], processes: Iterable[str]) -> list[str]:
    """Return the processes of some roles, in their order. Raises: ConfigError for one without."""
    processes = list(processes)
    wanted: set[str] = set()
    for role in roles:
        found = matching(role, processes)
        if not found:
            raise ConfigError(
                f"role {role!r}: expected one of {', '.join([*GROUPS, *sorted(processes)])};"
                " a collector needs markets of its exchange"
            )
        wanted |= set(found)
    return [name for name in processes if name in wanted]


# beginnings of the names in each group; for the start: the store, then the readers of the bus, then
# its writers; for the stop: along the flow
_STORAGE = ("orderbook-storage", "ticker-storage")
_AGGREGATOR = ("orderbook-aggregator",)
_INDEX = ("index-calculator",)
_ENDPOINT = (ENDPOINT,)
_COLLECTORS = (*COLLECTORS, RATE_COLLECTOR)
_ALERTER = (ALERTER,)
_START = (("questdb",), _STORAGE, _INDEX, _AGGREGATOR, _ENDPOINT, _ALERTER, _COLLECTORS)
# the stop of the others is nothing to alert about
_STOP = (_ALERTER, _COLLECTORS, _AGGREGATOR, _INDEX, _STORAGE, _ENDPOINT)


def start_groups(names: list[str]) -> list[list[str]]:
    """Order processes for the start; a group starts together."""
    return [[name for name in names if name.startswith(one)] for one in _START]


def stop_groups(names: list[str]) -> list[list[str]]:
    """Order processes for the stop; the store and the simulated exchanges come last."""
    groups = [[name for name in names if name.startswith(one)] for one in _STOP]
    ordered = {name for group in groups for name in group}
    return [*groups, [name for name in names if name not in ordered]]


async def start_exchanges(supervisor: Supervisor, arguments: list[str]) -> dict[str, str]:
    """Start simulated or replayed exchanges; return the settings that lead the collectors there.

    Args: arguments: command and options.
    """
    command, *options = arguments
    child = supervisor.launch(command, [command, "--port", "0", *options])
    try:
        line = await asyncio.wait_for(child.first_line, 30)
        ready = orjson.loads(line)
    except (TimeoutError, orjson.JSONDecodeError):
        path = supervisor.settings.data / "logs" / f"{command}.log"
        raise ConfigError(
            f"exchanges of `coinspace {command}`: expected them to start:"
            f" {last_reason(path, child.log_begin)} (see {path})"
        ) from None
    # the collectors keep these addresses: a restarted server must use the same port
    child.arguments = [command, "--port", str(ready["port"]), *options]
    found = {"COINSPACE_RATES__URLS": orjson.dumps(ready["rates"]).decode()}
    return found | {
        f"COINSPACE_EXCHANGES__{exchange.upper()}__{key.upper()}": url
        for exchange, urls in ready["exchanges"].items()
        for key, url in urls.items()
    }


async def find_assets(settings: Settings, environment: dict[str, str]) -> None:
    """Ask the exchanges which assets the patterns of `index.assets` mean, and use the answer.

    Raises: ConfigError when an exchange does not answer and no earlier answer is kept.
    """
    report("asking the exchanges for their assets …")
    child = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("assets", "--update"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        _, errors = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        raise
    venues = read_venues(settings.data)
    if child.returncode:
        reason = errors.decode(errors="replace").strip()
        if not venues:
            raise ConfigError(f"index.assets: expected an answer of the exchanges: {reason}")
        log.warning("assets as kept: the exchanges do not answer", reason=reason)
    settings.index.share(venues)


def report(text: str) -> None:
    """Tell the person who started everything what happens."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def check_port(settings: Settings) -> None:
    """Refuse to start beside another server.

    Raises: ConfigError when the endpoint's port is taken.
    """
    host, port = settings.endpoint.host, settings.endpoint.port
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except socket.gaierror as error:
        raise ConfigError(
            f"endpoint.host: expected an address of this machine, was {host!r}, {error.strerror}"
        ) from None
    except OSError as error:
        shown = f"[{host}]" if ":" in host else host
        raise ConfigError(
            f"endpoint port {shown}:{port}: expected a free port, {error};"
            " set endpoint.port or COINSPACE_ENDPOINT__PORT"
        ) from None


def claim(settings: Settings) -> int:
    lock = lock_name(settings, "supervisor")
    # health files of an earlier run must not look like this run's
    folder = settings.data / "run"
    for stale in (*folder.glob("*.json"), *folder.glob("targets/*.json")):
        stale.unlink()
    return lock


def check_start(settings: Settings, processes: Iterable[str]) -> None:
    """Check before the start what no restart would change.

    Raises: ConfigError, BusError or EndpointError saying what to set.
    """
    preflight.check_start(settings)
    if settings.hosts:
        check_host(settings)
    if ENDPOINT in processes:
        # imported here, since the web framework takes 1 s to import
        from coinspace.endpoint.worker import check_keys

        check_keys(settings)
        check_port(settings)


def check_host(settings: Settings) -> None:
    """Refuse to run roles of another machine, and to run without this machine's keys.

    Raises: ConfigError.
    """
    address = settings.hosts[settings.own_host].address
    if not is_here(address):
        raise ConfigError(
            f"host {settings.own_host}: expected {address} to be an address of this machine:"
            " another machine has its roles"
        )
    pair, expected = settings.bus.keys(), settings.hosts[settings.own_host].public_key
    if pair is not None and pair[0] != expected:
        raise ConfigError(
            f"hosts.{settings.own_host}.public_key: expected {pair[0]}, which `coinspace keys"
            f" curve` prints here, was {expected}"
        )


def raise_open_files() -> None:
    """Raise the limit of open files as far as allowed; the processes inherit it.

    Raises: ConfigError when the limit is too low for the database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEWEST_FILES:
        raise ConfigError(
            f"open files: expected at least {OPEN_FILES}, was {soft}: raise nofile in limits.conf,"
            " LimitNOFILE in the unit file, or `ulimit -n`"
        )


async def supervise(
    settings: Settings,
    environment: dict[str, str],
    processes: dict[str, list[str]],
    exchanges: list[str] | None,
    seconds: float,
) -> int:
    """Run everything until SIGINT or SIGTERM, or for a number of seconds (0 = no limit).

    Args:
        environment: of the processes.
        processes: those to run, with the arguments of their commands.
        exchanges: the command that serves exchanges, None = the real ones.
    Returns: the exit code, 1 when the supervisor itself failed.
    """
    forks = ForkServer()
    supervisor = Supervisor(settings, environment, processes, forks)
    notifier = Notifier(os.environ)
    stopping, tasks = supervisor.stopping, supervisor.tasks
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(supervisor.on_loop_error)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    # a terminal that closes sends it, too
    terminal = sys.stdin is not None and sys.stdin.isatty()
    loop.add_signal_handler(signal.SIGHUP, stopping.set if terminal else supervisor.on_hangup)
    if seconds:
        loop.call_later(seconds, stopping.set)
    tasks.spawn("orphans", forks.reap_orphans())
    try:
        await _unless(stopping, supervisor.start(exchanges))
        if not stopping.is_set():
            notifier.send("READY=1")
            tasks.spawn("watchdog", supervisor.beat(notifier))
            requests = serve(settings, supervisor.replaced, stopping, supervisor.reloaded)
            tasks.spawn("requests", requests, ends=True)
            tasks.keep("status", lambda: StatusScreen(settings, processes).run(stopping), ends=True)
            await stopping.wait()
    finally:
        notifier.send("STOPPING=1")
        report("stopping …")
        await supervisor.stop()
    return int(supervisor.failure is not None)


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await work until it is done or everything is to stop. Raises: what the work raises."""
    # an error is raised below
    tasks = Tasks(lambda name, error: None)
    starting = tasks.spawn("start", work, ends=True)
    stopped = tasks.spawn("stopped", stopping.wait(), ends=True)
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
    finally:
        await tasks.cancel()


only_option = click.option(
    "--only",
    multiple=True,
    metavar="ROLE",
    help="only collectors, storage, index, endpoint, or processes by name; repeatable",
)


@click.command()
@config_option
@click.argument("feeds", nargs=-1, type=click.Path(path_type=Path), metavar="[FEED]...")
@click.option("--simulate", is_flag=True, help="use simulated exchanges instead of the real ones")
@click.option("--replay", is_flag=True, help="use the recordings FEED… instead of real exchanges")
@click.option("--seed", default=7, show_default=True, help="seed of the simulated exchanges")
@click.option("--scenario", default=None, help="scenario of the simulated exchanges")
@click.option("--fault", "faults", multiple=True, help="with --simulate: a fault of the exchanges")
@click.option(
    "--markets",
    "offered",
    type=click.Choice(["all"]),
    help="with --simulate: whole exchanges, collected whole, and an index of each shared asset",
)
@click.option(
    "--with",
    "added",
    multiple=True,
    type=EXCHANGE,
    help="also the usual markets of an exchange that is off by default; repeatable",
)
@click.option("--seconds", default=0.0, help="stop after this time; 0 = run until Ctrl-C")
@only_option
@click.option("--host", default=None, help="this machine's name in [hosts] of the configuration")
def up(
    feeds: tuple[Path, ...],
    config_path: str | None,
    simulate: bool,
    replay: bool,
    seed: int,
    scenario: str | None,
    faults: tuple[str, ...],
    offered: str | None,
    added: tuple[str, ...],
    seconds: float,
    only: tuple[str, ...],
    host: str | None,
) -> None:
    """Run everything: QuestDB, collectors, workers, aggregator, calculator, endpoint.

    With --simulate the simulated exchanges offer the configured markets. With --replay FEED… the
    exchanges, markets and assets are those of the recordings, which start again at their end.

    With several hosts in the configuration it runs the roles of this one.
    """
    if bool(feeds) != replay:
        raise click.UsageError("expected --replay and recordings together: --replay FEED…")
    if simulate and replay:
        raise click.UsageError("expected --simulate or --replay, was both")
    configure_logging()
    if config_path:
        os.environ["COINSPACE_CONFIG"] = str(Path(config_path).absolute())
    if host is not None:
        os.environ["COINSPACE_HOST"] = host
    settings = load(config_path)
    if (offered or faults) and not simulate:
        raise click.UsageError("expected --simulate with --markets all and with --fault")
    if offered:
        os.environ |= whole_markets(settings)
        settings = load(config_path)
    if added:
        os.environ |= usual_markets(settings, added)
    if simulate and "sources" not in settings.rates.model_fields_set:
        os.environ["COINSPACE_RATES__SOURCES"] = ",".join(SIMULATED_SOURCES)
    settings = load(config_path)
    processes = chosen(settings, only)
    check_start(settings, processes)
    raise_open_files()
    environment: dict[str, str] = {}
    exchanges = None
    if replay:
        # imported here, since it needs the collectors
        from coinspace.replayed import narrow

        environment = narrow(settings, feeds)
        processes.pop(RATE_COLLECTOR, None)
        paths = [str(path.absolute()) for path in feeds]
        exchanges = [REPLAY, "--loop", "--no-limits", *paths]
    # without collectors nothing asks the simulated exchanges
    if simulate and any(name.startswith(_COLLECTORS) for name in processes):
        exchanges = [
            SIMULATOR,
            "--seed",
            str(seed),
            *(["--scenario", scenario] if scenario else []),
            *(f"--fault={one}" for one in faults),
            *(["--markets", offered] if offered else []),
        ]
        for exchange, markets in offer(settings).items():
            exchanges += [f"--market={exchange}:{market}" for market in markets]
    if not settings.storage.ilp and not root(settings).exists():
        click.echo(f"expected storage: {forecast(settings).text()}", err=True)
    lock = claim(settings)
    try:
        if code := uvloop.run(supervise(settings, environment, processes, exchanges, seconds)):
            sys.exit(code)
    finally:
        os.close(lock)
