"""Rows into QuestDB: batched on the event loop, sent on a thread, kept until acknowledged.

Batches are sent in order, one at a time. So the stored rows are always a prefix of the rows taken.
A batch that the server did not acknowledge is sent again; the tables' keys prevent duplicates.
Memory is bounded: beyond `storage.memory_mb` the sender refuses rows, and the caller can fetch them
from a journal later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from coinspace._ext.latency import Latency
from coinspace._ext.lines import Lines
from coinspace.backoff import Backoff
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError, StorageError
from coinspace.storage import deadletter, schema
from coinspace.storage.questdb.address import address
from coinspace.storage.transport import (
    Rejected,
    TimestampNanos,
    Transport,
    Unavailable,
    new_buffer,
)

# called on the loop with (key, table, the server's reason, time of the dead letter)
OnRejected = Callable[[Any, str, str, int], None]
# called on the loop with the repaired differences of the schema
OnRepaired = Callable[[list[schema.Difference]], None]
# called on the loop with the thread's name and the error that ended it
OnFailure = Callable[[str, BaseException], None]

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
# refusals without a line number before the batch is split
VAGUE_REFUSALS = 10
BATCH_BYTES = 4 << 20
SPARE_BUFFERS = 4
LOG_INTERVAL_NS = 60 * SECOND_NS

log = structlog.get_logger("sender")


@dataclass
class _Batch:
    lines: Lines
    ends: list[int] = field(default_factory=list)  # size of the lines after each row
    keys: list[Any] = field(default_factory=list)
    opened_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S))
    refusals: int = 0
    # rows [from, to) still to be sent one range at a time, None = all at once
    ranges: list[tuple[int, int]] | None = None


def _ignore(*what: Any) -> None:
    """Take a report that the sender's owner does not need."""


class Sender:
    """Takes rows for any table.

    Use it from one thread, normally the event loop's: `start`, `row`…, `close`. Without a running
    loop call `seal` to send a batch that is not full.

    After an error the batch is sent again; `trouble` has the error meanwhile. If the flush thread
    ends, it calls `on_failure`, so that the process can end too.

    Attributes:
        trouble: why no row can be stored now; None = no problem.
        dead_letters: the file of rejected rows.
        full: rows are refused: from the memory limit until half of it is free again.
        stored: durations from a message's publication until its row is stored.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        on_rejected: OnRejected = _ignore,
        on_repaired: OnRepaired = _ignore,
        on_failure: OnFailure = _ignore,
    ) -> None:
        storage = settings.storage
        self.settings = settings
        self.name = name
        self.trouble: str | None = None
        self.stored = Latency()
        self.dead_letters = settings.data / "dead-letters" / f"{name}.jsonl"
        self._on_rejected = on_rejected
        self._on_repaired = on_repaired
        self._on_failure = on_failure
        self._tables: set[str] = set()
        self._batch_rows = storage.batch_rows
        self._batch_s = storage.batch_ms / 1000
        self._timeout_ms = storage.request_timeout_ms
        self._limit = storage.memory_mb << 20
        self._open: _Batch | None = None
        self._queue: deque[_Batch] = deque()
        self._spare: list[Lines] = []
        # the client library encodes rows of any table here, one at a time
        self._buffer = new_buffer(1 << 12)
        self._wake = threading.Condition()
        self._closing = False
        self._abandon = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Transport | None = None
        # each has one writing thread: the loop's for the first two, the flush thread for the last
        self._open_bytes = self._sealed_bytes = self._done_bytes = 0
        self.full = False
        self._taken = self._stored = self._refused = self._rejected = self._settled = 0
        self._batches = self._retries = self._repairs = self._defects = 0
        # time of the last logged defect, None before the first
        self._logged_ns: int | None = None
        self._peak_bytes = 0
        self._last_flush_s = 0.0

    def start(self) -> None:
        """Start sending. Inside a running loop a timer sends batches by age."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._thread = threading.Thread(target=self._run, name=f"{self.name}-flush", daemon=True)
        self._thread.start()

    @property
    def _bytes(self) -> int:
        return self._sealed_bytes - self._done_bytes + self._open_bytes

    @property
    def pending(self) -> int:
        """Rows taken and not yet stored or rejected."""
        return self._taken - self.done

    @property
    def taken(self) -> int:
        """Rows taken since the start."""
        return self._taken

    @property
    def done(self) -> int:
        """Rows stored or rejected since the start."""
        return self._stored + self._rejected

    @property
    def settled(self) -> int:
        """The first rows taken, all of which are stored or rejected: those of whole batches.

        A refused row counts as done before the rows in front of it are stored.
        """
        return self._settled

    def row(
        self,
        table: str,
        *,
        symbols: dict[str, str | None],
        columns: dict[str, Any],
        at_ns: int,
        key: Any = None,
    ) -> bool:
        """Take one row.

        Args:
            columns: float, int, bool, str, float64 ndarray; None = null; times `TimestampNanos`.
            at_ns: the row's `ts`, part of its key: the same each time the row is given.
            key: passed to `on_rejected` when the server refuses the row.
        Returns: False when memory is full and the row was not taken.
        Raises: StorageError for a value that cannot be stored.
        """
        lines = self.lines(table)
        if lines is None:
            return False
        buffer = self._buffer
        try:
            buffer.row(table, symbols=symbols, columns=columns, at=TimestampNanos(at_ns))
        except (TypeError, ValueError, OverflowError, UnicodeError) as error:
            buffer.clear()  # type: ignore[no-untyped-call]
            raise StorageError(f"row of {table}: {error}", table) from None
        size = lines.extend(bytes(buffer))
        buffer.clear()  # type: ignore[no-untyped-call]
        self.took(size, key)
        return True

    def lines(self, table: str) -> Lines | None:
        """Return the buffer for one row of a table, None when memory is full.

        Write one line, then call `took`. The hot tables use this, without the objects of `row`.
        """
        used = self._sealed_bytes - self._done_bytes + self._open_bytes
        if used >= self._limit:
            self.full = True
        elif self.full and used <= self._limit // 2:
            # not earlier: single rows taken in between would make many small holes
            self.full = False
        if self.full:
            self._refused += 1
            return None
        self._tables.add(table)
        return (self._open or self._new_batch()).lines

    def took(self, size: int, key: Any = None) -> None:
        """Count the line that was written to `lines` and ends at `size`."""
        batch = self._open
        assert batch is not None
        batch.ends.append(size)
        batch.keys.append(key)
        self._open_bytes = size
        self._taken += 1
        if len(batch.ends) >= self._batch_rows or size >= BATCH_BYTES:
            self.seal()

    def seal(self) -> None:
        """End the open batch; later rows go into a later request and are stored after it."""
        batch, self._open = self._open, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if batch is None:
            return
        if not batch.ends:
            # no line was written
            self._spare.append(batch.lines)
            return
        self._sealed_bytes += len(batch.lines)
        self._open_bytes = 0
        with self._wake:
            self._queue.append(batch)
            self._peak_bytes = max(self._peak_bytes, self._bytes)
            self._wake.notify()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until all rows taken are stored or rejected. Returns: False after the time-out."""
        self.seal()
        taken = self._taken
        deadline = time.monotonic() + timeout_s
        while self.done < taken:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.005)
        return True

    async def close(self, timeout_s: float = 10.0) -> bool:
        """Send the remaining rows and end the thread.

        Returns: False when rows remain after the time-out; `counters` has their number.
        """
        sent = await self.drained(timeout_s)
        await asyncio.to_thread(self._end, abandon=not sent)
        return sent

    def abort(self) -> None:
        """End without sending the remaining rows."""
        self.seal()
        self._end(abandon=True)

    def _end(self, *, abandon: bool) -> None:
        with self._wake:
            self._closing, self._abandon = True, abandon
            self._wake.notify()
        if self._thread is not None:
            # do not wait for a running request to time out; the thread is a daemon
            self._thread.join(0.5 if abandon else 5.0)

    def counters(self) -> dict[str, int | float]:
        """Return counts since the start and the present backlog."""
        oldest = self._queue[0].opened_at if self._queue else None
        return {
            "rows_taken": self._taken,
            "rows_stored": self._stored,
            "rows_pending": self.pending,
            "rows_refused": self._refused,
            "rows_dead": self._rejected,
            "batches": self._batches,
            "flush_retries": self._retries,
            "flush_defects": self._defects,
            "schema_repairs": self._repairs,
            "pending_bytes": self._bytes,
            "peak_bytes": self._peak_bytes,
            "flush_ms": round(self._last_flush_s * 1e3, 3),
            "oldest_pending_s": round(time.monotonic() - oldest, 3) if oldest else 0.0,
        }

    def _new_batch(self) -> _Batch:
        lines = self._spare.pop() if self._spare else Lines()
        batch = self._open = _Batch(lines, opened_at=time.monotonic())
        if self._loop is not None:
            self._timer = self._loop.call_later(self._batch_s, self.seal)
        return batch

    # below: on the flush thread

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                try:
                    self._flush(batch)
                except (Unavailable, CoinSpaceError, OSError) as error:
                    self._later(batch, error)
                except Exception as error:
                    self._defect(error)
                    self._later(batch, error)
                else:
                    self._done(batch)
            self._drop_transport()
        except BaseException as error:
            self.trouble = f"the flush thread ended: {error!r}"
            log.exception("flush thread ended", sender=self.name)
            self._notify(self._on_failure, f"{self.name} flush", error)

    def _next(self) -> _Batch | None:
        """Wait for a batch. Returns: None when the thread has to end."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            return None if self._abandon or not self._queue else self._queue[0]

    def _defect(self, error: Exception) -> None:
        """Count an unexpected error, and log one a minute with its traceback."""
        self._defects += 1
        now = monotonic_ns()
        if self._logged_ns is None or now - self._logged_ns >= LOG_INTERVAL_NS:
            self._logged_ns = now
            log.error(
                "flush failed, the batch is sent again",
                sender=self.name,
                failures=self._defects,
                exc_info=error,
            )

    def _flush(self, batch: _Batch) -> None:
        if self._transport is None:
            self._transport = Transport(address(self.settings), self._timeout_ms)
        started = time.monotonic()
        if batch.ranges is None:
            try:
                self._transport.send(batch.lines.tobytes())
            except Rejected as refusal:
                self._refusal(batch, refusal)
            else:
                self._stored += len(batch.ends)
                batch.lines.stored(self.stored, now_ns())
        if batch.ranges is not None:
            self._send_ranges(batch, self._transport)
        self._last_flush_s = time.monotonic() - started

    def _refusal(self, batch: _Batch, refusal: Rejected) -> None:
        """Find the cause of a refusal: the schema, which is repaired, or single rows."""
        found = address(self.settings)
        repaired = schema.repair(found, set(self._tables), self.settings.storage)
        if repaired:
            self._repairs += 1
            self._notify(self._on_repaired, repaired)
            raise Unavailable(f"schema repaired after: {refusal.reason}")
        batch.refusals += 1
        # another process may have just repaired the schema: try again before a row counts as bad
        if batch.refusals < (2 if refusal.line else VAGUE_REFUSALS):
            raise Unavailable(refusal.reason)
        batch.ranges = [(0, len(batch.ends))]

    def _send_ranges(self, batch: _Batch, transport: Transport) -> None:
        """Send all good rows of a refused batch; bad rows go to the dead-letter file."""
        lines = batch.lines.tobytes()
        ranges = batch.ranges or []
        while ranges:
            first, end = ranges[-1]
            start = batch.ends[first - 1] if first else 0
            try:
                transport.send(lines[start : batch.ends[end - 1]])
            except Rejected as refusal:
                bad = first + refusal.line - 1 if refusal.line else first
                if not first <= bad < end:
                    bad = first
                if refusal.line or end - first == 1:
                    self._reject(batch, bad, lines, refusal)
                    parts = [(bad + 1, end), (first, bad)]
                else:
                    middle = (first + end) // 2
                    parts = [(middle, end), (first, middle)]
                ranges.pop()
                ranges.extend(part for part in parts if part[0] < part[1])
            else:
                ranges.pop()
                self._stored += end - first

    def _reject(self, batch: _Batch, row: int, lines: bytes, refusal: Rejected) -> None:
        start = batch.ends[row - 1] if row else 0
        line = lines[start : batch.ends[row]]
        table = line.partition(b",")[0].decode(errors="replace")
        key = batch.keys[row]
        at_ns = deadletter.add(self.dead_letters, table, refusal.reason, key, line)
        self._rejected += 1
        self._notify(self._on_rejected, key, table, refusal.reason, at_ns)

    def _notify(self, callback: Callable[..., None], *what: Any) -> None:
        if self._loop is None:
            callback(*what)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *what)

    def _later(self, batch: _Batch, error: Exception) -> None:
        self.trouble = str(error)[:300] or type(error).__name__
        self._retries += 1
        # a restarted server may have another address
        self._drop_transport()
        with self._wake:
            self._wake.wait_for(lambda: self._abandon, timeout=batch.backoff.next())

    def _done(self, batch: _Batch) -> None:
        self.trouble = None
        self._batches += 1
        self._settled += len(batch.ends)
        with self._wake:
            self._queue.popleft()
        self._done_bytes += len(batch.lines)
        batch.lines.clear()
        if len(self._spare) < SPARE_BUFFERS:
            self._spare.append(batch.lines)

    def _drop_transport(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
