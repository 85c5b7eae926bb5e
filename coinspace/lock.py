"""A lock file per process name and data folder; the kernel unlocks it when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from coinspace.errors import ConfigError


def lock_file(path: Path, name: str) -> int:
    """Lock a file until the returned descriptor is closed or the process ends.

    Raises: ConfigError when another process has the lock, OSError when the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"{name}: already runs on this data folder as process {owner};"
            " stop it, or set COINSPACE_DATA to another folder"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except OSError:
        # the lock works on a full disk, too, without the number of its process
        pass
    return descriptor
