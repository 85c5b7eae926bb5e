"""Helpers that wait until a condition is true; no test has a time limit or a poll of its own.

A test waits for exactly what it asserts next. It counts no polls and assumes no order of
independent events.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import random
import socket
import time
from collections.abc import Callable
from typing import Any

# not a limit of the product: a busy machine is slow
LIMIT_S = 60.0
# the first polls follow each other fast, later ones leave the processor to what is awaited
POLLS_S = (0.005, 0.05)
# below the ports that the kernel gives to outgoing connections and to port 0
PORTS = range(10_000, 30_000)
WORKERS = 4


class _Wait:
    """Return the pause before each poll. Raises: AssertionError after the last."""

    def __init__(self, condition: Callable[[], Any], what: str, limit_s: float, shown: Any) -> None:
        self._condition, self._what, self._shown = condition, what, shown
        self._limit_s = limit_s
        self._began = time.monotonic()

    def pause_s(self, found: object) -> float:
        waited = time.monotonic() - self._began
        if waited <= self._limit_s:
            fast, slow = POLLS_S
            return min(slow, fast + waited / 20)
        what = self._what
        if not what and inspect.isfunction(self._condition):
            what = " ".join(inspect.getsource(self._condition).split())
        last = self._shown() if self._shown else found
        raise AssertionError(f"not within {self._limit_s:g} s: {what}; last: {last!r}")


async def until(
    condition: Callable[[], Any],
    what: str = "",
    *,
    limit_s: float = LIMIT_S,
    shown: Callable[[], object] | None = None,
) -> Any:
    """Wait until a function, which may be asynchronous, returns a true value; return the value.

    Args: what: names the condition, by default its source. shown: returns the state for the error.
    Raises: AssertionError with the last state.
    """
    wait = _Wait(condition, what, limit_s, shown)
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(wait.pause_s(found))


def wait_for(
    condition: Callable[[], Any],
    what: str = "",
    *,
    limit_s: float = LIMIT_S,
    shown: Callable[[], object] | None = None,
) -> Any:
    """Wait as `until` does, without an event loop."""
    wait = _Wait(condition, what, limit_s, shown)
    while not (found := condition()):
        time.sleep(wait.pause_s(found))
    return found


def _ports() -> itertools.cycle[int]:
    # the workers of a test run take their ports from separate ranges
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    size = len(PORTS) // WORKERS
    own = PORTS[number * size : (number + 1) * size]
    first = random.SystemRandom().randrange(size)
    return itertools.cycle([*own[first:], *own[:first]])


_own_ports = _ports()


def free_port() -> int:
    """Return a port that is free and stays free for its test, also while it is not bound."""
    while True:
        port = next(_own_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
