"""Background tasks and repeated calls cannot end without a report."""

import ast
import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from coinspace.tasks import WORK, Repeat, TaskEndedError, Tasks
from tests.waiting import until

PACKAGE = Path(__file__).resolve().parent.parent.parent / "coinspace"
STARTERS = {"create_task", "ensure_future"}


class Failures:
    def __init__(self) -> None:
        self.seen: list[tuple[str, BaseException]] = []
        self.restarts: list[tuple[str, BaseException]] = []
        self.tasks = Tasks(
            lambda name, error: self.seen.append((name, error)),
            lambda name, error: self.restarts.append((name, error)),
        )


async def forever() -> None:
    await asyncio.Event().wait()


async def raises() -> None:
    raise ValueError("broken")


async def returns() -> None:
    pass


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def starters(path: Path) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in STARTERS)
            or (isinstance(node.func, ast.Name) and node.func.id in STARTERS)
        )
    ]


def test_every_background_task_starts_through_tasks() -> None:
    found = [
        place
        for path in PACKAGE.rglob("*.py")
        for place in starters(path)
        # the simulated exchanges are a tool
        if path.relative_to(PACKAGE).parts[0] != "simulator"
    ]
    assert [place.partition(":")[0] for place in found] == ["tasks.py"]


async def test_a_task_that_raises_is_reported_once() -> None:
    failures = Failures()
    failures.tasks.spawn("one", raises())
    await settle()
    assert [(name, str(error)) for name, error in failures.seen] == [("one", "broken")]
    assert failures.tasks.names == []


async def test_a_task_that_returns_is_reported_unless_it_may() -> None:
    failures = Failures()
    failures.tasks.spawn("may", returns(), ends=True)
    failures.tasks.spawn("may not", returns())
    await settle()
    assert [name for name, _ in failures.seen] == ["may not"]
    assert isinstance(failures.seen[0][1], TaskEndedError)


async def test_only_the_owner_cancels_quietly() -> None:
    failures = Failures()
    mine = failures.tasks.spawn("mine", forever())
    failures.tasks.spawn("foreign", forever()).cancel()
    inner: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leaks() -> None:
        await inner

    failures.tasks.spawn("leak", leaks())
    await settle()
    inner.cancel()
    await failures.tasks.end(mine)
    failures.tasks.drop(failures.tasks.spawn("dropped", forever()))
    await settle()
    assert len(failures.tasks) == 0
    assert [name for name, _ in failures.seen] == ["foreign", "leak"]
    failures.tasks.spawn("rest", forever())
    assert await failures.tasks.cancel() == []
    assert len(failures.seen) == 2


async def test_a_task_that_will_not_end_is_named() -> None:
    failures = Failures()
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    failures.tasks.spawn("stubborn", stubborn())
    await settle()
    assert await failures.tasks.cancel(0.01) == ["stubborn"]
    release.set()
    await failures.tasks.finish(60)


async def test_kept_work_starts_again_after_growing_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr("coinspace.tasks.asyncio.sleep", sleep)
    failures = Failures()
    failures.tasks.keep("work", raises)
    while len(pauses) < 9:
        await real(0)
    assert pauses[:9] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert not failures.seen
    assert len(failures.restarts) >= 9
    await failures.tasks.cancel()


async def test_a_thousand_tasks_leave_nothing_behind() -> None:
    failures = Failures()
    for _ in range(10):
        for number in range(100):
            failures.tasks.spawn(str(number), returns() if number % 2 else raises(), ends=True)
        await settle()
    assert len(failures.tasks) == 0
    assert not failures.tasks._cancelled
    failures.seen.clear()
    gc.collect()
    await until(lambda: len(asyncio.all_tasks()) == 1, shown=asyncio.all_tasks)


async def test_a_repeated_call_that_fails_is_reported_and_goes_on() -> None:
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    calls: list[int] = []
    enough = asyncio.Event()

    def work() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ValueError("broken")
        if len(calls) == 4:
            enough.set()

    repeat = Repeat(loop, "beat", 0.001, work)
    await asyncio.wait_for(enough.wait(), 60)
    repeat.stop()
    assert [(one[WORK], str(one["exception"])) for one in contexts] == [("beat", "broken")]
    count = len(calls)
    await asyncio.sleep(0.01)
    assert len(calls) == count
