"""Background tasks that cannot end unseen.

Every background task of a process starts through `Tasks.spawn`. A task that raises, or that returns
although it should run for ever, is reported once; cancelling is the only quiet end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

STOP_TIMEOUT_S = 5.0

# called with the task's name and what ended it
OnFailure = Callable[[str, BaseException], None]


class TaskEndedError(RuntimeError):
    """A task returned that should run for ever."""


class Tasks:
    """The background tasks of one owner.

    Args: on_failure: called when a task raises, or returns although it should not.
    """

    def __init__(self, on_failure: OnFailure) -> None:
        self._on_failure = on_failure
        self._running: set[asyncio.Task[Any]] = set()
        self._stopping = False

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

    def _done(self, task: asyncio.Task[Any], ends: bool) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None and not ends and not self._stopping:
            error = TaskEndedError(f"task {task.get_name()} returned, expected it to run for ever")
        if error is not None:
            self._on_failure(task.get_name(), error)

    async def cancel(self, timeout_s: float = STOP_TIMEOUT_S) -> list[str]:
        """Cancel all tasks and wait for them. Returns: the names of those that did not end."""
        self._stopping = True
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        return sorted(task.get_name() for task in late)
