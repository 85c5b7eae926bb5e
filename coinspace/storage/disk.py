"""Whether the disk of the data has room."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coinspace.config import Settings

# with less free space the server would suspend a resumed table again
ROOM_BYTES = 64 << 20


def disk_folder(settings: Settings) -> Path:
    """Return a folder on the disk of the data; it may not exist yet."""
    # `status` needs neither
    from coinspace.storage.questdb.address import root

    return root(settings) if settings.private_server else settings.data


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def no_room(settings: Settings) -> bool:
    """Return whether the private server's disk is full; False when it is not on this machine."""
    if not settings.private_server:
        return False
    try:
        return shutil.disk_usage(_existing(disk_folder(settings))).free < ROOM_BYTES
    except OSError:
        return True


def free_bytes(settings: Settings) -> int:
    """Return the free bytes of the data's disk, 0 when they cannot be read."""
    try:
        return shutil.disk_usage(_existing(disk_folder(settings))).free
    except OSError:
        return 0


def disk_problems(settings: Settings) -> list[str]:
    """Return a line when the disk of the data folder is nearly full."""
    return room_problems(disk_folder(settings), settings.storage.disk_low_mb)


def room_problems(folder: Path, limit: int) -> list[str]:
    """Return a line when the disk of a folder has less free space than `limit` MB."""
    folder = _existing(folder)
    try:
        free_mb = shutil.disk_usage(folder).free >> 20
    except OSError as error:
        return [f"disk of {folder}: expected a readable disk, {error}"]
    if free_mb >= limit:
        return []
    return [
        f"disk of {folder.absolute()}: expected {limit} MB free, was {free_mb};"
        " delete files, shorten `storage.retention` or move `data`"
    ]
