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


def lock_file(
    path: Path,
    what: str,
    error: type[CoinSpaceError] = ConfigError,
    advice: str = "stop it, or set COINSPACE_DATA to another folder",
) -> int:
    """Lock a file until the returned descriptor is closed or the process ends.

    Raises: `error` naming `what` and the process that has the lock, OSError when the file cannot be
        made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(PAUSE_S)
    else:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise error(f"{what}: expected no other process, found process {owner}; {advice}")
    # the lock works on a full disk, too, without the number of its process
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def lock_name(settings: Settings, name: str) -> int:
    """Lock the name of a process on the data folder; see `lock_file`.

    Raises: ConfigError when the folder cannot be written, or a process of this name runs on it.
    """
    folder = settings.data / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"no permission to write {folder}")
        return lock_file(folder / f"{name}.lock", name)
    except OSError as error:
        raise ConfigError(
            f"data folder {settings.data}: expected a writable folder, {error};"
            " set `data` or COINSPACE_DATA"
        ) from None
