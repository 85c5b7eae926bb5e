"""What every process shares: uvloop, signals, logging to stderr, the health file."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
import structlog
import uvloop

from coinspace._ext.latency import Latency
from coinspace.clock import SECOND_NS, ClockSteps, monotonic_ns, now_ns
from coinspace.config import Settings, read_venues, venues_path
from coinspace.errors import ConfigError
from coinspace.exporter import Exporter
from coinspace.files import replace_file
from coinspace.health_file import HEALTH_INTERVAL_S, health_path
from coinspace.lock import Lease
from coinspace.log import configure_logging, lost_lines
from coinspace.metrics import as_health, exposition, own_use
from coinspace.notify import Notifier
from coinspace.tasks import WORK, TaskEndedError, Tasks, within
from coinspace.text import without_numbers
from coinspace.tuning import tune_garbage_collector, tune_loop, tune_process

if TYPE_CHECKING:
    from coinspace.bus.beats import Beats

# -P: a folder that somebody happens to stand in has no modules of ours
COMMAND = (sys.executable, "-P", "-m", "coinspace")
State = Literal["starting", "ready", "degraded", "stopping", "stopped"]
# processes that must know which assets have an index
INDEX_PROCESSES = ("orderbook-aggregator", "index-calculator", "index-endpoint", "alerter")
# a process that still runs this long after a request to stop exits without clean-up; shorter than
# the supervisor's limit, longer than a storage worker needs for its last rows
STOP_LIMIT_S = 18.0
# a thread that hangs in a system call keeps the interpreter from exiting
THREADS_LIMIT_S = 5.0
# how often a standby looks whether the process before it has ended
STANDBY_POLL_S = 0.02
# in the environment of a standby
STANDBY = "COINSPACE_STANDBY"
# repeated work without a sign of life for this long counts as hung
SILENT_LIMIT_S = 30
# a step of the clock or an internal error is shown for this long
TROUBLE_NS = 60 * SECOND_NS
# a clock that is set this often within `TROUBLE_NS` is not trusted after the last step
UNSTEADY_STEPS = 3
# counters of work that was lost by an internal error
ERRORS = frozenset(("callback_errors", "bus_callback_errors", "failures", "counter_failures"))
# every error of a callback is counted; this many are logged per minute
ERRORS_LOGGED = 10
LOG_INTERVAL_NS = 60 * SECOND_NS
PR_SET_PDEATHSIG = 1


class Process:
    """A running process: its settings, its counters and its state, written to a file every second.

    Attributes:
        counters: called once a second; its result goes into the health file.
        latencies: leg of a message's way -> its durations, for the health file.
        stopping: set by SIGTERM and SIGINT.
        tasks: background tasks; when one fails, the process ends and is restarted.
        hands_over: a standby waits for the end of this process; SIGUSR1 sets it and `stopping`.
        failure: what ended a background task, None while all run. The process then ends with exit
            code 1, so that the supervisor starts it again.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        notifier: Notifier | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.name = name
        self._lease = lease
        # a standby takes over at once: the process ends without a farewell to its readers
        self.hands_over = False
        # the process works under its name; it has given the name up before its end
        self._began = self._released = False
        self.settings = settings
        self.started_ns = now_ns()
        self.state: State = "starting"
        self.reason: str | None = None
        self._kind = ""
        self._started = False
        self.counters: Callable[[], dict[str, int | float]] = dict
        self.latencies: dict[str, Latency] = {}
        self.exporter = Exporter(self._metrics)
        self._health: dict[str, Any] = {}
        self._exposed = b""
        # whether Prometheus can find the exporter
        self._announced = not settings.metrics.enabled
        self._announce_failing = False
        self.stopping = asyncio.Event()
        self.log: structlog.stdlib.BoundLogger = structlog.get_logger(name)
        self.failure: BaseException | None = None
        self.tasks = Tasks(self.failed, self.restarting)
        self.notifier = notifier or Notifier({})
        self.clock = HostClock()
        self._errors = InternalErrors()
        # when the process was last ready
        self._well_ns = monotonic_ns()
        # called once, when the process begins to stop
        self.on_stop: Callable[[], None] = lambda: None
        self._path = health_path(settings, name)
        # publishes the health for other hosts, None on a single host
        self.beats: Beats | None = None
        self._health_failing = False
        self._counters_failing = False
        self._limited = False
        # repeated work -> (seconds without a sign of life, limit)
        self._rounds: dict[str, tuple[float, int]] = {}
        self._logged: list[int] = []
        counted = (
            "health_failures",
            "counter_failures",
            "loop_errors",
            "task_restarts",
            "takeovers",
        )
        self._counts = dict.fromkeys(counted, 0)

    def failed(self, name: str, error: BaseException) -> None:
        """Record that a background task failed, and end the process."""
        if self.stopping.is_set() and isinstance(error, TaskEndedError):
            # the whole process is stopping
            return
        first = self.failure is None
        if first:
            self.failure = error
        self._end_soon()
        self.log.error("task failed", task=name, error=repr(error), exc_info=error)
        if first and self.state != "stopping":
            self.state, self.reason = "degraded", f"{name} failed: {error!r}"
            self.notifier.status(self.reason)
            self.write_health()

    def restarting(self, name: str, error: BaseException) -> None:
        self._counts["task_restarts"] += 1
        self.log.error("task restarts", task=name, error=repr(error), exc_info=error)

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception of a callback: the loop's exception handler."""
        error = context.get("exception")
        if WORK in context:
            self.failed(context[WORK], error or RuntimeError(context["message"]))
            return
        self._counts["loop_errors"] += 1
        now = monotonic_ns()
        self._logged = [at for at in self._logged if now - at < LOG_INTERVAL_NS]
        if len(self._logged) < ERRORS_LOGGED:
            self._logged.append(now)
            message = str(context.get("message"))[:300]
            self.log.error("callback failed", message=message, exc_info=error)

    def ready(self) -> None:
        if not self._started:
            # most processes are degraded first, while they wait for another one
            self._started = True
            tune_garbage_collector(self.settings.tuning)
        if self.settings.bus.url:
            # imported here: only some platforms have such a connection
            from coinspace.bus.transport import problems

            if found := problems():
                self.degraded("; ".join(found))
                return
        self._change("ready", None)

    def degraded(self, reason: str, kind: str | None = None) -> None:
        """Report that the process runs but something that it needs is missing.

        Args: kind: a change of the reason within one kind is not logged; by default the reason
            without its numbers.
        """
        self._change("degraded", reason, kind)

    @property
    def leads(self) -> bool:
        """Whether this process works under its name; False for a standby."""
        return self._lease is None or self._lease.held

    @property
    def took_over(self) -> bool:
        """Whether this process waited for the end of the one before it."""
        return self._counts["takeovers"] > 0

    async def lead(self, warm: Callable[[], bool] = lambda: True) -> bool:
        """Wait until no other process works under this name, then do so.

        Args: warm: whether this process could take over without a loss; reported to the supervisor.
        Returns: False when the process was asked to stop first.
        """
        if self._lease is None or self._began:
            return True
        reported = waited = False
        while not self._lease.try_take():
            if not reported and warm():
                reported = True
                self.log.info("standby: waits for the end of the process of this name")
                self.notifier.send("STANDBY=1")
            if await within(STANDBY_POLL_S, self.stopping):
                return False
            waited = True
        self._began = True
        self.started_ns = now_ns()
        if waited:
            self._counts["takeovers"] += 1
            self.log.warning("took over from the process before")
        if self.state in ("ready", "degraded"):
            self.notifier.send("READY=1")
        if self.settings.bus.beat_endpoint(self.name):
            # imported here: a single host does not need it
            from coinspace.bus.beats import Beats

            self.beats = Beats(self.settings, self.name, self.started_ns)
        return True

    def release(self) -> None:
        """Give up the name before the end: from now on a standby works under it. Idempotent."""
        if self._released or not self.leads:
            return
        self.ended(None)
        self.withdraw()
        self._released = True
        self._close_beats()
        if self._lease is not None:
            self._lease.release()

    def _close_beats(self) -> None:
        if self.beats is not None:
            self.beats.close()
            self.beats = None

    def stop(self) -> None:
        """Ask the process to end, as SIGTERM does."""
        self._end_soon()
        self.notifier.send("STOPPING=1")
        self._change("stopping", None)

    def limit_stop(self) -> None:
        """Make the process end in time, even when a part of it hangs."""
        if not self._limited:
            self._limited = True
            exit_after(STOP_LIMIT_S, 1, self._log_late)

    def expect(self, name: str, limit_s: int = SILENT_LIMIT_S) -> Callable[[], None]:
        """Watch repeated work. Returns: a function that the work calls each time.

        Work that does not call it for `limit_s` hangs although the loop runs: the process ends. The
        time is counted in rounds of `watch`, so that a process that a signal stopped does not look
        hung.
        """
        self._rounds[name] = (0, limit_s)

        def beat() -> None:
            self._rounds[name] = (0, limit_s)

        return beat

    def _check_rounds(self, seconds: float) -> None:
        for name, (silent_s, limit_s) in self._rounds.items():
            self._rounds[name] = (silent_s + seconds, limit_s)
            if silent_s + seconds > limit_s and not self.stopping.is_set():
                error = TimeoutError(f"expected a sign of life within {limit_s} s, was none")
                self.failed(name, error)

    def _end_soon(self) -> None:
        # first of all, since the next steps may fail
        if not self.stopping.is_set():
            self.stopping.set()
            self.on_stop()

    def _log_late(self) -> None:
        self.log.error(
            "stop took too long, exit without clean-up",
            seconds=STOP_LIMIT_S,
            tasks=self.tasks.names,
        )

    def ended(self, error: BaseException | None) -> None:
        """Write the last health file: it shows `coinspace status` how the process ended."""
        if error is not None and self.failure is None:
            self.state, self.reason = "degraded", f"{type(error).__name__}: {error}"
        elif self.failure is None:
            self.state, self.reason = "stopped", None
        self.write_health()

    def _change(self, state: State, reason: str | None, kind: str | None = None) -> None:
        if self.state == "stopping" or self.failure is not None:
            return
        if (state, reason) == (self.state, self.reason):
            return
        known = self.state in ("ready", "degraded")
        # numbers may change each second
        kind = without_numbers(kind or reason or "")
        changed = (state, kind) != (self.state, self._kind)
        self.state, self.reason, self._kind = state, reason, kind
        if not changed:
            # only an age or a count has grown: the health file shows it within a second
            return
        if not known and state in ("ready", "degraded") and self.leads:
            self.notifier.send("READY=1")
        self.notifier.status(f"{state}: {reason}" if reason else state)
        self.log.info("state", state=state, reason=reason)
        self.write_health()

    def write_health(self) -> None:
        """Replace the health file atomically. A failure is logged and counted, never raised."""
        if self._released or not self.leads:
            # the file is another process's
            return
        try:
            self._write_health()
        except Exception as error:
            self._counts["health_failures"] += 1
            if not self._health_failing:
                self._health_failing = True
                self.log.error("health file not written", error=repr(error))
            # the folder may have been deleted
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True)
        else:
            self._health_failing = False

    def _write_health(self) -> None:
        counters = self._all_counters()
        state, reason = self._judge(counters)
        if state == "ready":
            self._well_ns = monotonic_ns()
        health = {
            "process": self.name,
            "pid": os.getpid(),
            "started_ns": self.started_ns,
            "updated_ns": now_ns(),
            # by the monotonic clock: a step of the wall clock does not change the age
            "beat_ns": monotonic_ns(),
            "state": state,
            # a file name in it may not be UTF-8
            "reason": reason and reason.encode(errors="backslashreplace").decode(),
            "unwell_s": round((monotonic_ns() - self._well_ns) / SECOND_NS, 1),
            "counters": counters,
            "latency": as_health(self.latencies),
            "metrics": self.exporter.address,
        }
        self._health, self._exposed = health, b""
        text = orjson.dumps(health, default=str, option=orjson.OPT_SERIALIZE_NUMPY)
        if self.beats is not None:
            # first of all: a full disk must not look like a broken link
            self.beats.publish(text)
        replace_file(self._path, text)

    def _all_counters(self) -> dict[str, int | float]:
        counters: dict[str, int | float] = {}
        try:
            counters = self.counters()
            self._counters_failing = False
        except Exception as error:
            self._counts["counter_failures"] += 1
            if not self._counters_failing:
                self._counters_failing = True
                self.log.error("counters not read", error=repr(error), exc_info=error)
        own = {
            **self._counts,
            **self.clock.counters(),
            **own_use(),
            "log_lines_lost": lost_lines(),
            "metrics_scrapes": self.exporter.scrapes,
            "metrics_refused": self.exporter.refused,
        }
        return {**counters, **own}

    def _metrics(self) -> bytes:
        # made once per reading of the counters, however many scrapers ask
        if not self._exposed:
            self._exposed = exposition([self._health], self._health["updated_ns"])
        return self._exposed

    async def _announce(self) -> None:
        """Serve metrics, and write where: a file for Prometheus' file_sd_configs."""
        path = target_path(self.settings, self.name)
        chosen = self.settings.metrics
        try:
            if self.exporter.address is None:
                await self.exporter.start(chosen.host, chosen.port_of(self.name))
            path.parent.mkdir(parents=True, exist_ok=True)
            found = [{"targets": [self.exporter.address], "labels": {"instance": self.name}}]
            replace_file(path, orjson.dumps(found))
            self._announced = True
        except OSError as error:
            if not self._announce_failing:
                self._announce_failing = True
                self.log.error("metrics not served", error=str(error), again_in_s=1)

    def withdraw(self) -> None:
        """Stop serving metrics: Prometheus must not report a process that ended as it should."""
        self.exporter.close()
        with contextlib.suppress(OSError):
            target_path(self.settings, self.name).unlink()

    def _judge(self, counters: dict[str, int | float]) -> tuple[State, str | None]:
        """Return state and reason, completed by steps of the clock and internal errors."""
        if self.state not in ("ready", "degraded"):
            return self.state, self.reason
        trouble = self._errors.trouble(counters)
        reasons = [text for text in (self.reason, self.clock.reason(), trouble) if text]
        worse = trouble is not None or self.clock.unsteady()
        return "degraded" if worse else self.state, "; ".join(reasons) or None

    async def watch(self) -> None:
        """Write the health file and give signs of life until cancelled."""
        interval_s = min(HEALTH_INTERVAL_S, self.notifier.interval_s or HEALTH_INTERVAL_S)
        written_ns = 0
        while True:
            self.notifier.beat()
            step_s = self.clock.look()
            if step_s:
                self.log.warning("host clock stepped", seconds=round(step_s, 3))
            now = monotonic_ns()
            if now - written_ns >= int(HEALTH_INTERVAL_S * SECOND_NS * 0.9):
                written_ns = now
                self.write_health()
                if not self._announced and self.leads:
                    await self._announce()
            await asyncio.sleep(interval_s)
            self._check_rounds(interval_s)


class HostClock:
    """Notices steps of the wall clock and remembers the last one.

    A clock that was set once is trusted afterwards: the process goes on, and its health names the
    step for a minute. A clock that is set repeatedly is not trusted.

    Attributes: steps: their number. step_s: size of the last step, negative = backwards.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.step_s = 0.0
        # times of the last steps, by the monotonic clock
        self._times: deque[int] = deque(maxlen=UNSTEADY_STEPS)
        # looked up now, so that tests can replace the clocks
        self._watch = ClockSteps(now_ns, monotonic_ns)

    def look(self) -> float:
        """Compare the clocks. Returns: the step since the last call, seconds."""
        by_ns = self._watch.look()
        if by_ns:
            self.steps += 1
            self._times.append(monotonic_ns())
            self.step_s = by_ns / SECOND_NS
        return by_ns / SECOND_NS

    def unsteady(self) -> bool:
        """Return whether the clock was set several times within the last minute."""
        times = self._times
        return len(times) == UNSTEADY_STEPS and monotonic_ns() - times[0] <= TROUBLE_NS

    def reason(self) -> str | None:
        """Return a line about a step of the last minute, None without a step."""
        if not self._times:
            return None
        age_ns = monotonic_ns() - self._times[-1]
        if age_ns > TROUBLE_NS:
            return None
        way = "back" if self.step_s < 0 else "forward"
        return (
            f"this host's clock was set {way} by {abs(self.step_s):.1f} s {age_ns // SECOND_NS} s"
            " ago: let chrony or systemd-timesyncd slew it instead of setting it"
        )

    def counters(self) -> dict[str, int | float]:
        """Return the number of steps, and size and age of the last one."""
        if not self._times:
            return {"host_clock_steps": 0}
        return {
            "host_clock_steps": self.steps,
            "host_clock_step_s": round(self.step_s, 3),
            "host_clock_step_age_s": (monotonic_ns() - self._times[-1]) // SECOND_NS,
        }


class InternalErrors:
    """Notices growing counters of errors, which should stay at zero."""

    def __init__(self) -> None:
        self._last: dict[str, int | float] = {}
        self._grown_ns: dict[str, int] = {}

    def trouble(self, counters: dict[str, int | float]) -> str | None:
        """Compare with the last call. Returns: a line for a minute after an error, else None."""
        now = monotonic_ns()
        for name in ERRORS & counters.keys():
            if counters[name] > self._last.get(name, 0):
                self._grown_ns[name] = now
            self._last[name] = counters[name]
        recent = sorted(name for name, at in self._grown_ns.items() if now - at < TROUBLE_NS)
        if not recent:
            return None
        counts = ", ".join(f"{name} {self._last[name]}" for name in recent)
        return f"internal errors lost work ({counts}): see the log"


def target_path(settings: Settings, name: str) -> Path:
    """Return where a process writes the address of its metrics."""
    return settings.data / "run" / "targets" / f"{name}.json"


def exit_after(seconds: float, code: int, before: Callable[[], None] | None = None) -> None:
    """End the process after a time, even when a coroutine, a thread or the loop hangs."""

    def end() -> None:
        try:
            if before is not None:
                before()
        finally:
            os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def run(
    name: str,
    settings: Settings,
    main: Callable[[Process], Awaitable[None]],
    *,
    warm: bool = False,
) -> None:
    """Run `main` on uvloop until it returns; SIGTERM and SIGINT set `process.stopping`.

    With COINSPACE_STANDBY in the environment, the process waits for the end of the one that has its
    name, and takes over.

    Args: warm: `main` prepares its work while it waits, and calls `process.lead` itself.
    Raises: ConfigError when the data folder cannot be written, when a process of this name runs on
    it already, or when it is not known which assets the patterns in `index.assets` mean.
    """
    if name in INDEX_PROCESSES and settings.index.patterns and not read_venues(settings.data):
        raise ConfigError(
            f"index.assets: expected {venues_path(settings.data)} to say which assets"
            f" {', '.join(settings.index.patterns)} means, found none;"
            " `coinspace assets --update` asks the exchanges"
        )
    configure_logging()
    die_with_parent()
    lease = Lease(settings, name)
    if not os.environ.pop(STANDBY, ""):
        lease.take()
    else:
        lease.try_take()
    try:
        tune_process(name, settings.tuning)
        code = uvloop.run(_run(name, settings, main, lease, warm))
    finally:
        lease.release()
    if code:
        raise SystemExit(code)


async def _run(
    name: str,
    settings: Settings,
    main: Callable[[Process], Awaitable[None]],
    lease: Lease,
    warm: bool,
) -> int:
    process = Process(name, settings, Notifier(os.environ), lease)
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: object) -> None:
        # a plain handler, since the loop may hang; an idle uvloop runs it at once, too
        process.hands_over = process.hands_over or number == signal.SIGUSR1
        process.limit_stop()
        loop.call_soon_threadsafe(process.stop)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, on_signal)
    loop.set_exception_handler(process.on_loop_error)
    threading.excepthook = lambda failed: _thread_failed(process, loop, failed)
    tune_loop(name, settings.tuning, loop)
    process.on_stop = process.limit_stop
    process.tasks.spawn("health", process.watch())
    error: BaseException | None = None
    try:
        if (warm and not process.leads) or await process.lead():
            await main(process)
    except BaseException as raised:
        error = raised
        raise
    finally:
        await process.tasks.cancel()
        code = int(process.failure is not None)
        if error is None and not code:
            process.release()
        else:
            process.ended(error)
            process._close_beats()
        # loop and interpreter wait for the executor's threads without a limit
        exit_after(THREADS_LIMIT_S, code or int(error is not None))
    return code


def _thread_failed(
    process: Process, loop: asyncio.AbstractEventLoop, failed: threading.ExceptHookArgs
) -> None:
    error = failed.exc_value or RuntimeError(str(failed.exc_type))
    name = failed.thread.name if failed.thread is not None else "thread"
    with contextlib.suppress(RuntimeError):
        # the loop may have been closed
        loop.call_soon_threadsafe(process.failed, name, error)


def die_with_parent() -> None:
    """End this process when its supervisor ends, even by SIGKILL.

    The supervisor sets COINSPACE_PARENT to its pid. A process without it has no supervisor.
    """
    parent = os.environ.pop("COINSPACE_PARENT", None)
    if parent is None:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # the parent may have ended before the line above
    if os.getppid() != int(parent):
        raise SystemExit(f"supervisor {parent} is gone")


def stop_event(duration_s: float | None) -> asyncio.Event:
    """Return an event that SIGTERM, SIGINT or the end of the duration sets."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if duration_s is not None:
        loop.call_later(duration_s, stopping.set)
    return stopping


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as an error does: what it has begun is undone."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
