"""Lock files: the kernel unlocks one when the process that locked it ends for any reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from coinspace.config import Settings
from coinspace.errors import CoinSpaceError, ConfigError

# a reader that looks whether a journal is written has its lock for some µs
TRIES = 5
PAUSE_S = 0.01


class TakenError(ConfigError):
    """Another process has the lock."""


def lock_file(
    path: Path,
    what: str,
    error: type[CoinSpaceError] = ConfigError,
    advice: str = "stop it, or set COINSPACE_DATA to another folder",
    *,
    tries: int = TRIES,
) -> int:
    """Lock a file until the returned descriptor is closed or the process ends.

    Args: tries: attempts, some ms apart.
    Raises: `error` naming `what` and the process that has the lock, OSError when the file cannot be
        made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    for left in range(tries, 0, -1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(PAUSE_S if left > 1 else 0)
    else:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise error(f"{what}: expected no other process, found process {owner}; {advice}")
    # the lock works on a full disk, too, without the number of its process
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def lock_name(settings: Settings, name: str, *, tries: int = TRIES) -> int:
    """Lock the name of a process on the data folder; see `lock_file`.

    Raises: TakenError when a process of this name runs on the folder, ConfigError when it cannot be
        written.
    """
    folder = settings.data / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write {folder}")
        return lock_file(folder / f"{name}.lock", name, TakenError, tries=tries)
    except OSError as error:
        raise ConfigError(
            f"data folder {settings.data}: expected a writable folder, {error};"
            " set `data` or COINSPACE_DATA"
        ) from None


class Lease:
    """The right to work under the name of a process, which one process at a time has.

    The kernel gives it to the next process when the earlier one ends for any reason.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._lock: int | None = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def take(self) -> None:
        """Take the lease. Raises: as `lock_name`."""
        if self._lock is None:
            self._lock = lock_name(self._settings, self._name)

    def try_take(self) -> bool:
        """Take the lease if it is free. Returns: whether this process has it now."""
        if self._lock is None:
            with contextlib.suppress(TakenError):
                self._lock = lock_name(self._settings, self._name, tries=1)
        return self.held

    def release(self) -> None:
        """Let the next process have the lease. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
