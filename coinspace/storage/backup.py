"""`coinspace backup` and `coinspace restore`: everything of a data folder, while the platform runs.

Order: the database first, then journals. So the journals of a backup hold every message that its
database may lack, and the workers of a restored platform store those messages.

QuestDB: https://questdb.com/docs/operations/backup/
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson

from coinspace import __version__
from coinspace.clock import now_ns
from coinspace.config import Settings, config_option, load
from coinspace.errors import ConfigError, StorageError
from coinspace.lock import lock_file
from coinspace.process import ended_by_signals
from coinspace.storage import schema
from coinspace.storage.questdb.address import address, root

MANIFEST = "backup.json"
FORMAT = 1
# what a checkpoint covers, and the file that makes the server recover it at its next start
DATABASE = ("questdb/db", "questdb/.checkpoint", "questdb/conf")
TRIGGER = "questdb/_restore"
# everything else; logs, sockets and passwords of the server are made anew
FILES = (
    *("journal", "spool", "dead-letters", "keys.json", "run/orderbook-aggregator.state"),
    # alerts that stand or wait for their target
    "outbox.json",
)
RECORDINGS = "archive"
BLOCK_BYTES = 1 << 16
ZEROS = bytes(BLOCK_BYTES)


class Copy:
    """Copies files and counts them.

    Args: links: follow symbolic links, which a backup does not have.
    Attributes: files, bytes (without zeros), size (with them).
    """

    def __init__(self, *, links: bool = True) -> None:
        self.files = self.bytes = self.size = 0
        self._links = links

    def tree(self, source: Path, target: Path) -> None:
        """Copy a file or a folder; what disappears meanwhile is left out.

        Raises: ConfigError for a symbolic link that is not to be followed.
        """
        if source.is_symlink() and not self._links:
            raise ConfigError(f"{source}: expected files and folders of a backup, found a link")
        try:
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                for one in sorted(os.listdir(source)):
                    self.tree(source / one, target / one)
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._file(source, target)
        except FileNotFoundError:
            if source.exists():
                raise

    def _file(self, source: Path, target: Path) -> None:
        with source.open("rb", buffering=0) as given, target.open("wb", buffering=0) as made:
            while block := given.read(BLOCK_BYTES):
                if block == ZEROS[: len(block)]:
                    # room that the server has reserved: a hole takes none
                    made.seek(len(block), os.SEEK_CUR)
                    continue
                if made.write(block) < len(block):
                    # the next write would raise this, but there may be none
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
                self.bytes += len(block)
            made.truncate(made.tell())
            # of the open file: its name may be gone, as that of a journal's oldest segment
            os.fchmod(made.fileno(), stat.S_IMODE(os.fstat(given.fileno()).st_mode))
            self.files += 1
            self.size += made.tell()


def make_backup(settings: Settings, target: Path, *, recordings: bool) -> dict[str, Any]:
    """Copy a data folder to `target`. Returns: the manifest.

    Raises: ConfigError when the database is another server's, `target` exists, or there is no data.
    """
    if settings.storage.ilp:
        raise ConfigError(
            "storage.ilp: expected an empty value for the private server, was another server's"
            " address; back that server up with its own tools"
        )
    if target.exists():
        raise ConfigError(f"{target}: expected no such file or folder, found one")
    if not any((settings.data / name).exists() for name in (*DATABASE, *FILES)):
        raise ConfigError(f"data folder {settings.data}: expected data, found none")
    if settings.data.resolve() in target.resolve().parents:
        raise ConfigError(f"{target}: expected a place outside the data folder {settings.data}")
    lock = lock_file(settings.data / "backup.lock", "backup")
    part = target.with_name(f".{target.name}.part")
    copy = Copy()
    try:
        if part.exists():
            # of a backup that was killed: the lock shows that none runs
            shutil.rmtree(part)
        part.mkdir(parents=True, mode=0o700)
        with _still(settings) as online:
            for name in DATABASE:
                copy.tree(settings.data / name, part / name)
        for name in (*FILES, *((RECORDINGS,) if recordings else ())):
            copy.tree(settings.data / name, part / name)
        manifest = {
            "format": FORMAT,
            "version": __version__,
            "made_ns": now_ns(),
            "checkpoint": online,
            "files": copy.files,
            "bytes": copy.bytes,
            "size": copy.size,
        }
        (part / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        os.sync()
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)
    return manifest


@contextmanager
def _still(settings: Settings) -> Iterator[bool]:
    """Keep the database's files as they are. Yields: whether the server runs."""
    folder = root(settings)
    if not folder.exists():
        yield False
        return
    try:
        found = address(settings)
    except StorageError:
        # no server runs; it must not start meanwhile
        lock = lock_file(folder / "lock", "questdb")
        try:
            yield False
        finally:
            os.close(lock)
        return
    with schema.connect(found) as connection:
        status = connection.execute("SELECT in_progress FROM checkpoint_status()").fetchone()
        if status and status[0]:
            # of a backup that was killed
            connection.execute("CHECKPOINT RELEASE")
        connection.execute("CHECKPOINT CREATE")
        try:
            yield True
        finally:
            connection.execute("CHECKPOINT RELEASE")


def restore_backup(settings: Settings, source: Path) -> dict[str, Any]:
    """Copy a backup into an empty data folder. Returns: the manifest.

    Raises: ConfigError when `source` is no backup, or the data folder is not empty.
    """
    try:
        manifest: dict[str, Any] = orjson.loads((source / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ConfigError(
                f"{source}: expected a backup of format {FORMAT}, was {manifest['format']!r}:"
                f" made by version {manifest.get('version')}"
            )
        files, online = manifest["files"], manifest["checkpoint"]
        # backups of earlier versions have no size
        size = manifest.get("size")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{source}: expected a backup with {MANIFEST}, {error}") from None
    data = settings.data.absolute()
    if data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise ConfigError(
            f"data folder {data}: expected an empty one, found files; set `data` or COINSPACE_DATA"
            " to another, or move that one away"
        )
    part, copy = data.with_name(f".{data.name}.restore"), Copy(links=False)
    try:
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True, mode=0o700)
        for name in (*DATABASE, *FILES, RECORDINGS):
            copy.tree(source / name, part / name)
        if copy.files != files:
            raise ConfigError(
                f"{source}: expected {files} files, found {copy.files}: it is not complete"
            )
        if size not in (None, copy.size):
            raise ConfigError(
                f"{source}: expected {size} bytes, found {copy.size}: a file is cut or was changed"
            )
        if online:
            (part / TRIGGER).touch()
        os.sync()
        part.replace(data)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


@click.command()
@config_option
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--recordings", is_flag=True, help="copy recordings too")
def backup(config_path: str | None, folder: Path, recordings: bool) -> None:
    """Copy the database, journals, spooled records, keys and alerts into a new folder.

    The platform may run meanwhile. The configuration file is not part of the data folder: keep it
    yourself.
    """
    with ended_by_signals():
        manifest = make_backup(load(config_path), folder, recordings=recordings)
    click.echo(f"{folder}: {manifest['files']:,} files, {manifest['bytes']:,} bytes")


@click.command()
@config_option
@click.argument("folder", type=click.Path(path_type=Path))
def restore(config_path: str | None, folder: Path) -> None:
    """Copy a backup into the data folder, which must be empty.

    The database completes the restore at its next start, such as by `coinspace up`.
    """
    settings = load(config_path)
    with ended_by_signals():
        manifest = restore_backup(settings, folder)
    click.echo(f"{settings.data}: {manifest['files']:,} files")
