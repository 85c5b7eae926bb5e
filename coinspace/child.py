"""One process of the supervisor: started, watched, restarted with back-off, stopped; its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import IO

import structlog

from coinspace.backoff import Backoff
from coinspace.config import Settings
from coinspace.forkserver import Forked, ForkServer
from coinspace.notify import Listener
from coinspace.process import COMMAND
from coinspace.tasks import Tasks, within

STOP_TIMEOUT_S = 20.0  # a storage worker may wait for one last slow flush
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STABLE_S = 60.0  # a process that ran this long starts again with the first back-off
LOG_BYTES = 10 << 20  # per log file; one older file is kept
WATCH_INTERVAL_S = 1.0
FIRST_SIGN_S = 90.0  # of life, after the start: imports take 1 s, much longer on a busy host
HANG_TERM_S = 3.0  # a process that hangs gets SIGKILL this long after SIGTERM
PUMP_S = 1.0  # a grandchild can keep the pipes of a dead child open

log = structlog.get_logger("supervisor")


class LogFile:
    """A child's output on disk, bounded to two files of LOG_BYTES.

    Attributes: lost: lines that were not written; each series of them is reported once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._lost_now = 0
        self.lost = 0

    def write(self, line: bytes) -> None:
        """Append a line, or drop and count it when the disk refuses it."""
        try:
            self._rotate()
            if self._lost_now:
                self._put(b"(%d lines lost: not writable, or too long)\n" % self._lost_now)
                self._lost_now = 0
            self._put(line)
        except OSError as error:
            if not self._lost_now:
                log.error("log not written", file=str(self._path), error=str(error))
            self.drop()
            self.close()

    def drop(self) -> None:
        """Count a line that is not written."""
        self.lost += 1
        self._lost_now += 1

    def _rotate(self) -> None:
        if self._file is not None and self._file.tell() > LOG_BYTES:
            self.close()
            self._path.replace(self._path.with_suffix(".log.1"))
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        if self._file.write(data) < len(data):
            raise OSError("only part of the line was written")

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class Child:
    """One process: started, watched, restarted with back-off, stopped.

    Args:
        tasks: the supervisor's.
        watched: the process gives signs of life, and is restarted when they stop.
        forks: makes the process, None = it is executed.

    Attributes: arguments: of the command; a change takes effect at the next start.
    """

    COMMAND = COMMAND

    def __init__(
        self,
        name: str,
        arguments: list[str],
        settings: Settings,
        tasks: Tasks,
        *,
        watched: bool = True,
        forks: ForkServer | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.hangs = 0
        path = settings.data / "logs" / f"{name}.log"
        self.log = LogFile(path)
        # earlier lines of the log belong to earlier runs of the supervisor
        self.log_begin = path.stat().st_size if path.is_file() else 0
        # why the operating system refused the last start, None when it did not
        self.refusal: str | None = None
        self.first_line: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.arguments = arguments
        self._hang_s = settings.supervisor.hang_s
        self._tasks = tasks
        self._watched = watched
        self._forks = forks
        self._environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._listener: Listener | None = None
        self._spawning = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def start(self, environment: dict[str, str]) -> None:
        """Start the process and keep it running until `stop`."""
        self._environment = environment
        self._keeping = self._tasks.spawn(f"keep {self.name}", self._keep(), ends=True)

    @property
    def pid(self) -> int | None:
        """The process id, None while the process does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def ready(self) -> bool:
        """Whether this run of the process has reported that it works."""
        return self.running and self._listener is not None and self._listener.ready

    @property
    def standby(self) -> bool:
        """Whether this run of the process has reported that it could take over."""
        return self.running and self._listener is not None and self._listener.standby

    async def _keep(self) -> None:
        backoff = Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        while not self._stopping.is_set():
            spawned = time.monotonic()
            code: int | str
            self.refusal = None
            try:
                code = await self._run_once()
            except OSError as error:
                # out of processes, descriptors or memory: a later attempt may succeed
                code = self.refusal = str(error)
            if self._stopping.is_set():
                return
            if time.monotonic() - spawned > STABLE_S:
                backoff.reset()
            wait_s = backoff.next()
            log.warning("process ended", process=self.name, code=code, restart_in_s=wait_s)
            await within(wait_s, self._stopping)
            self.restarts += 1

    async def _run_once(self) -> int:
        """Run the process until it ends. Returns: its exit code."""
        tasks = Tasks(self._helper_failed)
        with contextlib.ExitStack() as opened:
            async with self._spawning:
                if self._stopping.is_set():
                    return 0
                if self._watched:
                    self._listener = opened.enter_context(contextlib.closing(Listener()))
                process = self._process = await self._spawn(self._listener)
            opened.callback(self.log.close)
            opened.callback(_close, process)
            tasks.spawn("stdout", self._pump(process.stdout, first=True), ends=True)
            tasks.spawn("stderr", self._pump(process.stderr), ends=True)
            watch = tasks.spawn("watch", self._watch(process, self._listener), ends=True)
            try:
                code = await process.wait()
                await tasks.end(watch)
                await tasks.finish(PUMP_S)
                return code
            finally:
                await tasks.cancel()

    async def _spawn(self, listener: Listener | None) -> asyncio.subprocess.Process | Forked:
        watched = listener.environment(self._hang_s) if listener is not None else {}
        parent = {"COINSPACE_PARENT": str(os.getpid())}
        environment = {**os.environ, **self._environment, **watched, **parent}
        if self._forks is not None:
            return await self._forks.fork(self.arguments, environment)
        return await asyncio.create_subprocess_exec(
            *self.COMMAND,
            *self.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # its own group: Ctrl-C reaches only the supervisor, which stops processes in order
            start_new_session=True,
            env=environment,
        )

    def _helper_failed(self, name: str, error: BaseException) -> None:
        # the end of the process itself is still noticed
        log.error("task failed", process=self.name, task=name, error=repr(error), exc_info=error)

    async def _pump(self, stream: asyncio.StreamReader | None, *, first: bool = False) -> None:
        assert stream is not None
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                # a line beyond the reader's limit
                self.log.drop()
                continue
            if not line:
                return
            if first and not self.first_line.done():
                self.first_line.set_result(line)
            self.log.write(line)

    async def _watch(
        self, process: asyncio.subprocess.Process | Forked, listener: Listener | None
    ) -> None:
        """End the process when it gives no sign of life for too long."""
        if listener is None:
            return
        heard, silent_s, limit_s = 0, 0.0, FIRST_SIGN_S
        while silent_s < limit_s:
            # counted in rounds of this loop: no child looks silent while the supervisor is stopped
            await asyncio.sleep(WATCH_INTERVAL_S)
            silent_s += WATCH_INTERVAL_S
            if listener.heard != heard:
                heard, silent_s, limit_s = listener.heard, 0.0, self._hang_s
        self.hangs += 1
        log.error("process hangs", process=self.name, pid=process.pid, seconds=silent_s)
        await _terminate(process, HANG_TERM_S)

    async def stop(
        self, timeout_s: float = STOP_TIMEOUT_S, number: signal.Signals = signal.SIGTERM
    ) -> None:
        """End the process with a signal, after the time-out with SIGKILL."""
        self._stopping.set()
        async with self._spawning:
            process = self._process
        if process is not None and not await _terminate(process, timeout_s, number):
            log.error("process killed", process=self.name, after_s=timeout_s)
        await self._settle()

    async def restart(self) -> None:
        """End the process so that its standby takes over; it is started again."""
        if self._process is not None:
            await _terminate(self._process, STOP_TIMEOUT_S, signal.SIGUSR1)

    async def _settle(self) -> None:
        if self._keeping is not None:
            # the last lines of the log are still being written
            await asyncio.wait({self._keeping}, timeout=2 * PUMP_S)
            await self._tasks.end(self._keeping)

    async def kill(self) -> None:
        """End the process at once if it still runs."""
        self._stopping.set()
        async with self._spawning:
            process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await self._settle()


def _close(process: asyncio.subprocess.Process | Forked) -> None:
    """End the process if it still runs, and close its pipes, which others may keep open."""
    if isinstance(process, Forked):
        process.close()
    else:
        process._transport.close()  # type: ignore[attr-defined]


async def _terminate(
    process: asyncio.subprocess.Process | Forked,
    timeout_s: float,
    number: signal.Signals = signal.SIGTERM,
) -> bool:
    """End a process. Returns: False when SIGKILL was needed."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
        # a process that SIGSTOP has stopped cannot handle a signal
        process.send_signal(signal.SIGCONT)
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return False
    return True
