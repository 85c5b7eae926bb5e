"""One process of a name per data folder: a file that the kernel unlocks when its process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from coinspace.errors import ConfigError


def hold(path: Path, name: str) -> int:
    """Lock a file until the descriptor that this returns is closed, or the process ends.

    Raises: ConfigError when another process holds it, OSError when it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"{name}: expected it not to run yet on this data folder, runs as process {owner};"
            " stop it, or set COINSPACE_DATA to another folder"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except OSError:
        # on a full disk the lock holds all the same, without its owner's name
        pass
    return descriptor
