"""Settings for latency: a processor of its own, no sleep, no garbage collection.

All are off by default except `gc = frozen`. `make bench` measures what each setting gains on a
machine: tuned against default, interleaved.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from fnmatch import fnmatchcase

import structlog

from coinspace.config import PROCESSES, TuningSettings, nearest
from coinspace.errors import ConfigError

# asm-generic/socket.h; not in Python's socket module
SO_BUSY_POLL = 46


def cpus_of(name: str, settings: TuningSettings) -> list[int]:
    """Return the processors that a process is pinned to; none = the kernel chooses."""
    for pattern, cpus in settings.cpus.items():
        if fnmatchcase(name, pattern):
            return cpus
    return []


def spins(name: str, settings: TuningSettings) -> bool:
    """Return whether a process's loop never sleeps."""
    return any(fnmatchcase(name, pattern) for pattern in settings.spin)


def problems(tuning: TuningSettings) -> Iterator[str]:
    """Yield the processors that this machine does not have and the patterns without a process."""
    here = os.cpu_count() or 1
    wrong = sorted({cpu for cpus in tuning.cpus.values() for cpu in cpus if not 0 <= cpu < here})
    if wrong:
        yield (
            f"tuning.cpus: expected processors 0 to {here - 1}, was {', '.join(map(str, wrong))}"
        )
    for key, patterns in (("cpus", tuning.cpus), ("spin", tuning.spin)):
        for one in patterns:
            if not any(fnmatchcase(name, one) for name in PROCESSES):
                hint = nearest(one, list(PROCESSES))
                yield f"tuning.{key}: no process is called {one!r}: {hint}"


def tune_process(name: str, settings: TuningSettings) -> None:
    """Pin this process and set its priority; a priority that the host refuses is logged.

    Threads started later, libzmq's among them, inherit both.

    Raises: ConfigError for processors that do not exist.
    """
    log = structlog.get_logger(name)
    cpus = cpus_of(name, settings)
    if cpus:
        # the kernel silently ignores some of the processors that do not exist
        with contextlib.suppress(OSError, OverflowError, ValueError):
            os.sched_setaffinity(0, cpus)
        if os.sched_getaffinity(0) != set(cpus):
            raise ConfigError(
                "tuning.cpus: expected processors that this process may use, was"
                f" {cpus}; this machine has 0 to {(os.cpu_count() or 1) - 1}"
            )
    if settings.nice:
        try:
            os.nice(settings.nice)
        except OSError as error:
            log.warning("priority not changed", nice=settings.nice, error=str(error))


def tune_loop(name: str, settings: TuningSettings, loop: asyncio.AbstractEventLoop) -> None:
    """Keep the loop from sleeping if the settings say that the process spins."""
    if not spins(name, settings):
        return

    def again() -> None:
        # a callback that is always due makes the loop poll instead of wait
        loop.call_soon(again)

    loop.call_soon(again)


def tune_garbage_collector(settings: TuningSettings) -> None:
    """Exclude the objects of the start-up from garbage collection, or turn the collector off.

    Call it when a process is ready. A scan of these objects stops the loop for 30 to 50 ms, every
    20 s at 2,000 ticks a second. `off` is for processes whose work makes no cycles: cycles that a
    library leaks stay until the process ends.
    """
    if settings.gc == "on":
        return
    gc.collect()
    gc.freeze()
    if settings.gc == "off":
        gc.disable()


def tune_socket(sock: socket.socket, settings: TuningSettings) -> None:
    """Set a connected TCP socket's buffer and the kernel's busy polling."""
    log = structlog.get_logger("socket")
    if settings.receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.receive_buffer)
    if settings.busy_poll_us:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_BUSY_POLL, settings.busy_poll_us)
        except OSError as error:
            log.warning(
                "busy polling refused", busy_poll_us=settings.busy_poll_us, error=str(error)
            )
