"""Records that the sender has no room for: a file keeps their order until the database takes them.

While the spool has records, later records are appended too. So the database always has every record
up to some tick. The next process first stores the records that it finds here.

`add` gives a record to the kernel; the next fsync puts it on disk. A thread syncs the file once for
all new records, because ticks cannot wait for a disk. Records that a full disk does not take wait
in memory.
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

import numpy as np
import orjson

from coinspace.files import sync_folder
from coinspace.storage.records import Row
from coinspace.storage.transport import TimestampNanos

# limit of records in memory while the disk takes nothing: an hour of records
MEMORY_BYTES = 64 << 20


class Spool:
    """One file of JSON lines, each with the rows of one record; an empty file is removed.

    Attributes:
        records: number of records that this process added.
        syncs: number of fsyncs; sync_failures: number of failed ones.
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
        """Whether records wait."""
        return self._read < self._size or bool(self._waiting)

    def add(self, rows: list[Row]) -> bool:
        """Append a record. Returns: False when the spool has no room."""
        line = orjson.dumps(
            [[one.table, one.at_ns, one.symbols, one.columns] for one in rows],
            default=lambda time: {"ns": time.value},
            option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY,
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
        """Write waiting records to the file, until the disk takes no more."""
        while self._waiting:
            line = self._waiting[0]
            try:
                file = self._file or self._open()
                file.seek(self._size)
                if file.write(line) != len(line):
                    # the next try overwrites the partial line
                    return
            except OSError:
                return
            self._size += len(line)
            self._written()
            self._sync_soon()

    def _written(self) -> None:
        self._waiting_bytes -= len(self._waiting.popleft())

    def _sync_soon(self) -> None:
        """Ask the thread for an fsync; at most one waits behind the running one."""
        with self._lock:
            if self._sync_waits:
                return
            self._sync_waits = True
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._pool.submit(self._sync)

    def _sync(self) -> None:
        with self._lock:
            # a record that is added from now on asks for a new fsync
            self._sync_waits = False
        try:
            # a descriptor of its own: the file may be drained and removed meanwhile
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self.path.parent)
        except FileNotFoundError:
            # the sender has taken all records
            return
        except OSError:
            self.sync_failures += 1
        else:
            self.syncs += 1

    def drain(self, give: Callable[[Row], bool], limit: int) -> int:
        """Give the rows of at most `limit` records, oldest first.

        Args: give: False = no room now; all rows of the record are given again later.
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
                    # a line that is only partly on disk
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
            # rows of a file that stays are given again and replace themselves in the database
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        return done

    def close(self) -> None:
        """Close the file; its records wait on disk for the next process."""
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
        # unbuffered: the kernel has a record before the next one is made
        self._file = self.path.open("r+b" if self.path.exists() else "x+b", buffering=0)
        self._size = self._file.seek(0, 2)
        if self._size:
            self._file.seek(self._size - 1)
            if self._file.read(1) != b"\n":
                # end the torn line, so that the next record begins a new line
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
        if isinstance(value, dict):
            yield name, TimestampNanos(value["ns"])
        elif isinstance(value, list):
            # null is NaN
            yield name, np.array(value, np.float64)
        else:
            yield name, value
