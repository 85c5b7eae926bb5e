"""`coinspace up`: every process started in order, restarted when it dies, stopped in order.

Readers start before writers, so that the first message already finds its subscribers; writers
stop before readers, so that the last one is still stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import IO

import click
import orjson
import structlog
import uvloop

from coinspace.config import Settings, config_option, load
from coinspace.errors import CoinSpaceError, ConfigError
from coinspace.feed.simulator.offer import offer
from coinspace.observe.health import Health, all_health, health_of
from coinspace.observe.screen import StatusScreen
from coinspace.preflight import check_start
from coinspace.process import configure_logging

READY_TIMEOUT_S = 90.0  # QuestDB on a busy machine needs 10 s, its first download more
STOP_TIMEOUT_S = 20.0  # a storage worker may wait for one last slow flush
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STABLE_S = 60.0  # a process that ran this long starts again with the first back-off
LOG_BYTES = 10 << 20  # per log file; one older file is kept

log = structlog.get_logger("supervisor")


class LogFile:
    """A child's stderr on disk, bounded to two files of LOG_BYTES."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: IO[bytes] = path.open("ab")

    def write(self, line: bytes) -> None:
        if self._file.tell() > LOG_BYTES:
            self._file.close()
            self._path.replace(self._path.with_suffix(".log.1"))
            self._file = self._path.open("ab")
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Child:
    """One process: started, watched, restarted with back-off, stopped."""

    def __init__(self, name: str, arguments: list[str], settings: Settings) -> None:
        self.name = name
        self.restarts = 0
        self._arguments = arguments
        self._settings = settings
        self._environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self.first_line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def start(self, environment: dict[str, str]) -> None:
        """Start the process and keep it running until `stop`."""
        self._environment = environment
        self._spawned = time.monotonic()
        await self._spawn()
        self._watch = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        self._spawned = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "coinspace",
            *self._arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # a group of its own: Ctrl-C reaches the supervisor alone, which stops in order
            start_new_session=True,
            env={**os.environ, **self._environment, "COINSPACE_PARENT": str(os.getpid())},
        )

    async def _keep(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        output = LogFile(self._settings.data / "logs" / f"{self.name}.log")
        try:
            while True:
                assert self._process is not None
                await asyncio.gather(
                    self._pump(self._process.stdout, output, first=True),
                    self._pump(self._process.stderr, output),
                )
                code = await self._process.wait()
                if self._stopping:
                    return
                if time.monotonic() - self._spawned > STABLE_S:
                    backoff_s = FIRST_BACKOFF_S
                log.warning("ended", process=self.name, code=code, restart_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
                self.restarts += 1
                await self._spawn()
        finally:
            output.close()

    async def _pump(
        self, stream: asyncio.StreamReader | None, output: LogFile, *, first: bool = False
    ) -> None:
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line beyond the reader's limit, cut off
                continue
            if not line:
                return
            if first and not self.first_line.done():
                self.first_line.set_result(line)
            output.write(line)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the process with SIGTERM, after the time-out with SIGKILL."""
        self._stopping = True
        if self._watch is not None and not self.running:
            self._watch.cancel()  # it sleeps in a back-off
        if self._process is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), timeout_s)
            except TimeoutError:
                log.error("killed", process=self.name, after_s=timeout_s)
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
        if self._watch is not None:
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(self._watch, 2.0)


class Supervisor:
    """All processes of one machine."""

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        self.settings = settings
        self.environment = environment
        self.children: list[Child] = []

    async def start(self) -> None:
        """Start everything in dependency order; each must be ready before the next kind starts.

        Raises: ConfigError naming the process that did not become ready, and why.
        """
        by_name = dict(self.settings.processes())
        if not self.settings.storage.ilp:
            by_name["questdb"] = ["questdb", "start", "--foreground"]
        for group in start_groups(list(by_name)):
            for name in group:
                await self._launch(name, by_name[name])
            for name in group:
                await self._ready(name)

    async def _launch(self, name: str, arguments: list[str]) -> Child:
        child = Child(name, arguments, self.settings)
        self.children.append(child)
        await child.start(self.environment)
        return child

    async def _ready(self, name: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        child = next(child for child in self.children if child.name == name)
        launched = time.time_ns()
        while time.monotonic() < deadline:
            health = health_of(self.settings, name)
            fresh = health.started_ns > launched - int(READY_TIMEOUT_S * 1e9)
            if fresh and health.state in ("ready", "degraded") and child.running:
                return
            if child.restarts >= 3:
                break
            await asyncio.sleep(0.05)
        raise ConfigError(
            f"{name}: expected it to become ready within {READY_TIMEOUT_S:.0f} s,"
            f" see {self.settings.data / 'logs' / (name + '.log')}: {self._last_line(name)}"
        )

    def _last_line(self, name: str) -> str:
        path = self.settings.data / "logs" / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return lines[-1] if lines else "(no output)"

    async def stop(self) -> None:
        """Stop everything, those that write before those that read what they write."""
        by_name = {child.name: child for child in self.children}
        for group in stop_groups(list(by_name)):
            await asyncio.gather(*(by_name[name].stop() for name in group))

    def healths(self) -> list[Health]:
        return all_health(self.settings)


def _kind(names: list[str], *kinds: str) -> list[str]:
    return [name for name in names if name.startswith(kinds)]


def start_groups(names: list[str]) -> list[list[str]]:
    """Order processes for the start: the store, then readers of the bus, then its writers."""
    return [
        _kind(names, "questdb"),
        _kind(names, "orderbook-storage", "ticker-storage"),
        _kind(names, "index-calculator"),
        _kind(names, "orderbook-aggregator"),
        _kind(names, "index-endpoint"),
        _kind(names, "orderbook-collector", "ticker-collector"),
    ]


def stop_groups(names: list[str]) -> list[list[str]]:
    """Order processes for the stop: along the flow, the store and the simulated exchanges last."""
    return [
        _kind(names, "orderbook-collector", "ticker-collector"),
        _kind(names, "orderbook-aggregator"),
        _kind(names, "index-calculator"),
        _kind(names, "orderbook-storage", "ticker-storage"),
        _kind(names, "index-endpoint"),
        _kind(names, "questdb", "simulate"),
    ]


async def start_simulator(supervisor: Supervisor, arguments: list[str]) -> dict[str, str]:
    """Start the simulated exchanges; return the settings that point the collectors at them."""
    child = await supervisor._launch("simulate", ["simulate", "--port", "0", *arguments])
    try:
        line = await asyncio.wait_for(child.first_line, 30)
        ready = orjson.loads(line)
    except (TimeoutError, orjson.JSONDecodeError):
        path = supervisor.settings.data / "logs" / "simulate.log"
        raise ConfigError(f"simulated exchanges: expected them to start, see {path}") from None
    return {
        f"COINSPACE_EXCHANGES__{exchange.upper()}__{key.upper()}": url
        for exchange, urls in ready["exchanges"].items()
        for key, url in urls.items()
    }


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


def claim(settings: Settings) -> IO[str]:
    """Take the data folder for this supervisor.

    Raises: ConfigError when another supervisor runs on the same folder, or it cannot be written.
    """
    folder = settings.data / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "supervisor.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"data folder {settings.data}: expected a writable folder, {error};"
            " set `data` or COINSPACE_DATA"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(
            f"data folder {settings.data}: another `coinspace up` runs on it;"
            " stop that one or set COINSPACE_DATA"
        ) from None
    # states of an earlier run must not look like this one's
    for stale in folder.glob("*.json"):
        stale.unlink()
    return lock


async def supervise(settings: Settings, simulate: list[str] | None, seconds: float) -> None:
    """Run everything until SIGINT or SIGTERM, or for a number of seconds (0 = no limit)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(settings, {})
    if seconds:
        loop.call_later(seconds, stop.set)
    stopped = asyncio.create_task(stop.wait())
    try:
        if simulate is not None:
            supervisor.environment |= await start_simulator(supervisor, simulate)
        starting = asyncio.create_task(supervisor.start())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await StatusScreen(settings).run(stopped)
        else:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, CoinSpaceError):
                await starting
    finally:
        print("stopping …", file=sys.stderr)
        await supervisor.stop()
        stopped.cancel()


@click.command()
@config_option
@click.option("--simulate", is_flag=True, help="use simulated exchanges instead of the real ones")
@click.option("--seed", default=7, show_default=True, help="of the simulated exchanges")
@click.option("--scenario", default=None, help="of the simulated exchanges")
@click.option("--seconds", default=0.0, help="stop after this time; 0 = run until Ctrl-C")
def up(
    config_path: str | None, simulate: bool, seed: int, scenario: str | None, seconds: float
) -> None:
    """Run everything: QuestDB, collectors, workers, aggregator, calculator, endpoint."""
    configure_logging()
    if config_path:
        os.environ["COINSPACE_CONFIG"] = str(Path(config_path).absolute())
    settings = load(config_path)
    check_start(settings)
    check_port(settings)
    arguments = None
    if simulate:
        arguments = ["--seed", str(seed), *(["--scenario", scenario] if scenario else [])]
        for exchange, markets in offer(settings).items():
            arguments += [f"--market={exchange}:{market}" for market in markets]
    lock = claim(settings)
    try:
        uvloop.run(supervise(settings, arguments, seconds))
    finally:
        lock.close()
