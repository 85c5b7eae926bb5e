"""Background work whose failures are always reported: tasks, and functions called repeatedly.

Every background task of a process starts through `Tasks`. A task that raises, or that returns
although it should run for ever, is reported once. Only the owner can end a task without a report:
by `cancel`, `end` or `drop`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from coinspace.backoff import Backoff

STOP_TIMEOUT_S = 5.0
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
# work that ran this long starts again with the first back-off
SETTLED_S = 60.0
# key of a loop's exception context: work failed that the process depends on
WORK = "coinspace work"

# called with the task's name and what ended it
OnFailure = Callable[[str, BaseException], None]


def log_failure(name: str, error: BaseException) -> None:
    """Log that a task failed, for owners that do not end the process."""
    structlog.get_logger("tasks").error("task failed", task=name, exc_info=error)


class TaskEndedError(RuntimeError):
    """A task that should run for ever has returned, or other code has cancelled it."""


class Tasks:
    """The background tasks of one owner.

    Args:
        on_failure: called when a task fails, or returns although it should not.
        on_restart: called when work of `keep` failed and will be restarted.
    """

    def __init__(
        self, on_failure: OnFailure = log_failure, on_restart: OnFailure | None = None
    ) -> None:
        self._on_failure = on_failure
        self._on_restart = on_restart or on_failure
        self._running: set[asyncio.Task[Any]] = set()
        # tasks that the owner has cancelled
        self._cancelled: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def names(self) -> list[str]:
        """The names of the tasks that run now, in alphabetical order."""
        return sorted(task.get_name() for task in self._running)

    def spawn(
        self, name: str, work: Coroutine[Any, Any, Any], *, ends: bool = False
    ) -> asyncio.Task[Any]:
        """Start a background task and watch it.

        Args: ends: the task may return; without it, returning is a failure as well.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(lambda done: self._done(done, ends))
        return task

    def keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], *, ends: bool = False
    ) -> asyncio.Task[Any]:
        """Start a background task that is restarted when it fails, after a growing pause.

        For work without which the process can run for a while.
        """
        return self.spawn(name, self._keep(name, work, ends), ends=ends)

    async def _keep(
        self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], ends: bool
    ) -> None:
        loop, backoff = asyncio.get_running_loop(), Backoff(FIRST_BACKOFF_S, LAST_BACKOFF_S)
        while True:
            started = loop.time()
            try:
                await work()
                if ends:
                    return
                raise TaskEndedError(f"task {name} returned, expected it to run for ever")
            except Exception as error:
                self._on_restart(name, error)
            if loop.time() - started > SETTLED_S:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    def _done(self, task: asyncio.Task[Any], ends: bool) -> None:
        self._running.discard(task)
        owner = task in self._cancelled
        self._cancelled.discard(task)
        name = task.get_name()
        error: BaseException | None
        if task.cancelled():
            # awaiting a cancelled future of a library ends a task the same way
            error = None if owner else TaskEndedError(f"task {name} was cancelled from outside")
        else:
            error = task.exception()
            if error is None and not ends and not owner:
                error = TaskEndedError(f"task {name} returned, expected it to run for ever")
        if error is not None:
            self._on_failure(name, error)

    async def cancel(self, timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
        """Cancel all tasks and wait for them. Returns: the names of those that did not end."""
        return await self._end(set(self._running), timeout_s)

    async def finish(self, timeout_s: float) -> list[str]:
        """Let all tasks return by themselves for a time, then cancel the rest.

        Returns: the names of those that did not end.
        """
        tasks = set(self._running)
        self._cancelled |= tasks
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return await self.cancel()

    def drop(self, task: asyncio.Task[Any]) -> None:
        if task in self._running:
            self._cancelled.add(task)
            task.cancel()

    async def end(self, task: asyncio.Task[Any], timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
        """Cancel one task and wait for it. Returns: its name when it did not end."""
        return await self._end(self._running & {task}, timeout_s)

    async def _end(self, tasks: set[asyncio.Task[Any]], timeout_s: float) -> list[str]:
        if not tasks:
            return []
        self._cancelled |= tasks
        for task in tasks:
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        return sorted(task.get_name() for task in late)


async def within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event, at most some seconds. Returns: whether it is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def report(loop: asyncio.AbstractEventLoop, name: str, error: BaseException) -> None:
    """Report that essential work outside of tasks failed; `Process` then ends."""
    loop.call_exception_handler({"message": f"{name} failed", "exception": error, WORK: name})


class Repeat:
    """Calls a function at once and after each interval, until stopped.

    A call that fails is reported through the loop's exception handler; the calls go on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        interval_s: float,
        work: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._name = name
        self._interval_s = interval_s
        self._work = work
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._call()

    def _call(self) -> None:
        try:
            self._work()
        except Exception as error:
            report(self._loop, self._name, error)
        if not self._stopped:
            self._timer = self._loop.call_later(self._interval_s, self._call)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
