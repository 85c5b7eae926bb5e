"""Records that the sender had no room for: on disk, in their order, until the database takes them.

While anything is spooled every later record goes behind it. So what is stored is always all up to
some tick, whenever the process ends, and the next one begins with what it finds here.

A record is in the kernel's hands when `add` returns, and on disk one fsync later: a thread syncs
the file once for all records that came meanwhile, since the ticks cannot wait for a disk. What a
disk without room does not take waits in memory behind it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from coinspace.storage.deadletter import sync_folder
from coinspace.storage.records import Row
from coinspace.storage.tables import INDEX_TICK
from coinspace.storage.transport import TimestampNanos

# lines in which every asset has had a record
LOOK_AHEAD = 500
# in memory while the disk takes nothing: an hour of records
MEMORY_BYTES = 64 << 20


class Spool:
    """One file of JSON lines, the rows of one record each; gone while nothing is in it.

    Attributes:
        records: added by this process.
        syncs: times that the file was put on disk; sync_failures: times that it could not be.
        torn: lines that a crash or a full disk left unfinished; their ticks count as missed.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.records = 0
        self.torn = 0
        self.syncs = 0
        self.sync_failures = 0
        self._max_bytes = max_bytes
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._sync_waits = False
        self._file: BinaryIO | None = None
        self._size = self._read = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        if path.exists():
            self._open()

    @property
    def pending(self) -> bool:
        """Whether anything waits."""
        return self._read < self._size or bool(self._waiting)

    def add(self, rows: list[Row]) -> bool:
        """Append a record. Returns: False when neither the file nor memory may grow."""
        line = orjson.dumps(
            [[one.table, one.at_ns, one.symbols, one.columns] for one in rows],
            default=lambda time: {"ns": time.value},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        waiting = self._waiting_bytes + len(line)
        if waiting > MEMORY_BYTES or self._size + waiting > self._max_bytes:
            return False
        self._waiting.append(line)
        self._waiting_bytes = waiting
        self.records += 1
        self._write()
        return True

    def _write(self) -> None:
        """Write what waits in memory, as far as the disk takes it."""
        while self._waiting:
            line = self._waiting[0]
            try:
                file = self._file or self._open()
                file.seek(self._size)
                if file.write(line) != len(line):
                    # what is there of it is written over
                    return
            except OSError:
                return
            self._size += len(line)
            self._written()
            self._sync_soon()

    def _written(self) -> None:
        self._waiting_bytes -= len(self._waiting.popleft())

    def _sync_soon(self) -> None:
        """Have the file put on disk by the thread; one sync waits behind the one under way."""
        with self._lock:
            if self._sync_waits:
                return
            self._sync_waits = True
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pool.submit(self._sync)

    def _sync(self) -> None:
        with self._lock:
            # a record that is added from now on asks for a sync of its own
            self._sync_waits = False
        try:
            # opened anew: the file may be drained and removed meanwhile
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self.path.parent)
        except FileNotFoundError:
            # all of it is in the database
            return
        except OSError:
            self.sync_failures += 1
        else:
            self.syncs += 1

    def firsts(self) -> dict[str, int]:
        """Return asset -> its first tick in the file, ns."""
        found: dict[str, int] = {}
        if self._file is None:
            return found
        with self.path.open("rb") as lines:
            for line in islice(lines, LOOK_AHEAD):
                for row in _rows(line) or ():
                    if row.table == INDEX_TICK.name:
                        found.setdefault(row.symbols["asset"] or "", row.at_ns)
        return found

    def drain(self, give: Callable[[Row], bool], limit: int) -> int:
        """Give the rows of at most `limit` records, oldest first.

        Args: give: False = no room now; the record comes again, with rows that were given already.
        Returns: how many records were taken.
        """
        self._write()
        done = self._drain_file(give, limit) if self._file is not None else 0
        while self._waiting and self._file is None and done < limit:
            rows = _rows(self._waiting[0])
            if rows is not None and not all(give(row) for row in rows):
                break
            self._written()
            done += 1
        return done

    def _drain_file(self, give: Callable[[Row], bool], limit: int) -> int:
        done = 0
        with self.path.open("rb") as lines:
            lines.seek(self._read)
            for line in islice(lines, limit):
                if self._read >= self._size:
                    # a line that the disk has taken a part of
                    break
                rows = _rows(line)
                if rows is None:
                    self.torn += 1
                elif not all(give(row) for row in rows):
                    return done
                self._read += len(line)
                done += 1
        if self._read >= self._size:
            self._close_file()
            self._size = self._read = 0
            # where it cannot be removed, its rows are given once more, and replace themselves
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        return done

    def close(self) -> None:
        """Close the file; what is in it is on disk and waits for the next process."""
        self._write()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # never truncated; unbuffered: the kernel has a record before the next one is made
        self._file = self.path.open("r+b" if self.path.exists() else "x+b", buffering=0)
        self._size = self._file.seek(0, 2)
        if self._size:
            self._file.seek(self._size - 1)
            if self._file.read(1) != b"\n":
                # a torn line ends here, and no other one with it
                self._size += self._file.write(b"\n")
        return self._file


def _rows(line: bytes) -> list[Row] | None:
    try:
        return [
            Row(table, at_ns, symbols, dict(_columns(found)))
            for table, at_ns, symbols, found in orjson.loads(line)
        ]
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None


def _columns(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        yield name, TimestampNanos(value["ns"]) if isinstance(value, dict) else value
