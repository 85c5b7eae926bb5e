"""What every process shares: uvloop, signals, logging to stderr, the health file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog
import uvloop

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.errors import ConfigError
from coinspace.lock import hold
from coinspace.tasks import Tasks
from coinspace.tuning import tune_collector_of_garbage, tune_loop, tune_process

State = Literal["starting", "ready", "degraded", "stopping"]
HEALTH_INTERVAL_S = 1.0
PR_SET_PDEATHSIG = 1


class Process:
    """A running process: its settings, its counters and its state, written down every second.

    Attributes:
        counters: called once a second; its result goes into the health file.
        stopping: set by SIGTERM and SIGINT.
        failure: what ended a background task, None while all run. The process then ends with exit
            code 1, so that the supervisor starts it again.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.started_ns = now_ns()
        self.state: State = "starting"
        self.reason: str | None = None
        self._started = False
        self.counters: Callable[[], dict[str, int | float]] = dict
        self.stopping = asyncio.Event()
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(name)
        self.failure: BaseException | None = None
        self.tasks = Tasks(self.failed)
        self._path = health_path(settings, name)
        self._health_failures = 0

    def spawn(
        self, name: str, work: Coroutine[Any, Any, Any], *, ends: bool = False
    ) -> asyncio.Task[Any]:
        """Start a background task. When it fails, the process ends for its supervisor.

        Args: ends: the task may return; without it, returning is a failure as well.
        """
        return self.tasks.spawn(name, work, ends=ends)

    def failed(self, name: str, error: BaseException) -> None:
        """Record that a background task failed, and end the process."""
        if self.failure is None:
            self.failure = error
        self.stopping.set()
        self._log("error", "task failed", task=name, error=repr(error), exc_info=error)
        self._change("degraded", f"task {name} failed: {error!r}")

    def ready(self) -> None:
        """Say that the process does its work."""
        if not self._started:
            # most are degraded first, waiting for something
            self._started = True
            tune_collector_of_garbage(self.settings.tuning)
        self._change("ready", None)

    def degraded(self, reason: str) -> None:
        """Say that the process runs but something that it needs is missing."""
        self._change("degraded", reason)

    def stop(self) -> None:
        """Ask the process to end, as SIGTERM does."""
        self.stopping.set()
        self._change("stopping", None)

    def _log(self, level: str, event: str, **facts: Any) -> None:
        # stderr may be a closed pipe or a file on a full disk: work goes on without the line
        with contextlib.suppress(OSError, ValueError):
            getattr(self.log, level)(event, **facts)

    def _change(self, state: State, reason: str | None) -> None:
        if self.state == "stopping" or (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason = state, reason
        self._log("info", "state", state=state, reason=reason)
        self.write_health()

    def write_health(self) -> None:
        """Replace the health file atomically. A failure is logged and counted, never raised."""
        try:
            self._write_health()
        except OSError as error:
            self._health_failures += 1
            if self._health_failures == 1:
                self._log("error", "health file not written", error=str(error))
        else:
            self._health_failures = 0

    def _write_health(self) -> None:
        health = {
            "process": self.name,
            "pid": os.getpid(),
            "started_ns": self.started_ns,
            "updated_ns": now_ns(),
            "state": self.state,
            "reason": self.reason,
            "counters": self.counters(),
        }
        part = self._path.with_suffix(".part")
        part.write_bytes(orjson.dumps(health, option=orjson.OPT_SERIALIZE_NUMPY))
        part.replace(self._path)

    async def watch(self) -> None:
        """Write the health file until cancelled."""
        while True:
            self.write_health()
            await asyncio.sleep(HEALTH_INTERVAL_S)


def health_path(settings: Settings, name: str) -> Path:
    """Return where a process writes its health file."""
    return settings.data / "run" / f"{name}.json"


def run(
    name: str,
    settings: Settings,
    main: Callable[[Process], Awaitable[None]],
    *,
    level: str = "info",
) -> None:
    """Run `main` on uvloop until it returns; SIGTERM and SIGINT set `process.stopping`.

    Raises: ConfigError when the data folder cannot be written, or when a process of this name
    runs on it already.
    """
    configure_logging(level)
    die_with_parent()
    folder = settings.data / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write {folder}")
        lock = hold(folder / f"{name}.lock", name)
    except OSError as error:
        raise ConfigError(
            f"data folder {settings.data}: expected a writable folder, {error};"
            " set `data` or COINSPACE_DATA"
        ) from None
    try:
        tune_process(name, settings.tuning)
        uvloop.run(_run(name, settings, main))
    finally:
        os.close(lock)


async def _run(name: str, settings: Settings, main: Callable[[Process], Awaitable[None]]) -> None:
    process = Process(name, settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop)
    tune_loop(name, settings.tuning, loop)
    process.spawn("health", process.watch())
    try:
        await main(process)
    finally:
        await process.tasks.cancel()
        process.state = "stopping"
        process.write_health()
    if process.failure is not None:
        raise SystemExit(1)


def die_with_parent() -> None:
    """End this process when its supervisor ends, however that happens (Linux).

    The supervisor puts its pid into COINSPACE_PARENT; without it a process stands alone.
    """
    parent = os.environ.pop("COINSPACE_PARENT", None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # the parent may have ended before the line above
    if os.getppid() != int(parent):
        raise SystemExit(f"supervisor {parent} is gone")


def configure_logging(level: str = "info") -> None:
    """Log key=value lines to stderr; standard library loggers go the same way."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
            if sys.stderr.isatty()
            else structlog.processors.KeyValueRenderer(
                key_order=["timestamp", "level", "event"], sort_keys=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)


def read_health(settings: Settings, name: str) -> dict[str, Any] | None:
    """Return a process's last health file, None where there is none."""
    try:
        health: dict[str, Any] = orjson.loads(health_path(settings, name).read_bytes())
    except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
        return None
    return health
