"""Whether the disk of the data has room."""

from __future__ import annotations

import shutil
from pathlib import Path

from coinspace.config import Settings
from coinspace.storage.questdb.address import root

# with less free space the server would suspend a resumed table again
ROOM_BYTES = 64 << 20


def _disk_folder(settings: Settings) -> Path:
    folder = root(settings) if settings.private_server else settings.data
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def no_room(settings: Settings) -> bool:
    """Return whether the private server's disk is full; False when it is not on this machine."""
    if not settings.private_server:
        return False
    try:
        return shutil.disk_usage(_disk_folder(settings)).free < ROOM_BYTES
    except OSError:
        return True


def disk_problems(settings: Settings) -> list[str]:
    """Return a line when the disk of the data folder is nearly full."""
    folder = _disk_folder(settings)
    try:
        free_mb = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        return [f"disk of {folder}: expected a readable disk, {error}"]
    limit = settings.storage.disk_low_mb
    if free_mb >= limit:
        return []
    return [
        f"disk of {folder.absolute()}: expected {limit} MB free, was {free_mb};"
        " delete files, shorten `storage.retention` or move `data`"
    ]
