"""Files as a whole: their content, their hash, and how they are replaced."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path


def read_regular(path: Path) -> bytes:
    """Return a file's content. Raises: OSError, also for a pipe or a device: it may never end."""
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "expected a regular file", str(path))
        return file.read()


def _at_once(path: str, flags: int) -> int:
    # a pipe without a writer does not wait
    return os.open(path, flags | os.O_NONBLOCK)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file. Raises: OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Write a folder's names to disk, so that new and renamed files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(
    path: Path, content: bytes, *, private: bool = False, durable: bool = False
) -> None:
    """Write a file beside `path`, then rename it: a crash or a full disk keeps the old one.

    Args:
        private: only its owner may read it.
        durable: it is on the disk when this returns.
    """
    # no other file of the folder has this name, whatever its ending
    part = path.with_name(f".{path.name}.part")
    if private:
        # never the permissions of a file that was left there
        part.unlink(missing_ok=True)
        flags, mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
        with os.fdopen(os.open(part, flags, mode), "wb") as file:
            file.write(content)
    else:
        part.write_bytes(content)
    if durable:
        with part.open("rb") as written:
            os.fsync(written.fileno())
    part.replace(path)
    if durable:
        sync_folder(path.parent)
