"""`python -m tests.flow.saboteur TASK ARGUMENTS…`: a `coinspace` process one task of which fails.

A task that starts again fails once; every other one fails soon after its start.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from coinspace.cli import main
from coinspace.tasks import Tasks

TARGET = sys.argv[1]
DELAY_S = 0.5
spawn, keep = Tasks.spawn, Tasks.keep
kept: set[str] = set()


async def fail() -> None:
    await asyncio.sleep(DELAY_S)
    raise ValueError("sabotage")


def spawn_one(
    self: Tasks, name: str, work: Coroutine[Any, Any, Any], *, ends: bool = False
) -> asyncio.Task[Any]:
    if name == TARGET and name not in kept:
        work.close()
        work = fail()
    return spawn(self, name, work, ends=ends)


def keep_one(
    self: Tasks, name: str, work: Callable[[], Coroutine[Any, Any, Any]], *, ends: bool = False
) -> asyncio.Task[Any]:
    kept.add(name)
    failures = iter([fail] if name == TARGET else [])
    return keep(self, name, lambda: next(failures, work)(), ends=ends)


Tasks.spawn, Tasks.keep = spawn_one, keep_one  # type: ignore[method-assign]
main(sys.argv[2:])
