"""Records raw frames beside the live path: a bounded queue, a thread, rotating feed files.

The live path appends to a queue and never waits. When the queue is full (a slow or full disk), the
record is dropped and counted, and the file gets a mark "dropped" at that place. File names are
EXCHANGE-NAME-YYYYMMDDTHHMMSSZ-N.feed.zst. The oldest files are removed when all files together
exceed `max_bytes`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from coinspace.clock import SECOND_NS, now_ns
from coinspace.errors import FeedError
from coinspace.recording.format import FeedWriter, Record
from coinspace.text import shown_address

POLL_S = 0.05
# a crash of the machine loses records of at most this time
FLUSH_S = 1.0
# pause after a failed write, such as on a full disk
RETRY_S = 10.0


class Recorder:
    """Records one connection.

    Args:
        folder: created when missing.
        exchange, name: for file names, such as upbit and orderbook.
        url: of the connection, for the header.
        segment_bytes, segment_s: size and age at which a file is closed.
        max_bytes: of all files of this exchange and name together.
        queue_records, queue_bytes: limits of the queue.
        facts: more of the header of each file.
    """

    def __init__(
        self,
        folder: Path | str,
        exchange: str,
        name: str,
        url: str,
        *,
        segment_bytes: int = 64 << 20,
        segment_s: float = 3600.0,
        max_bytes: int = 4 << 30,
        queue_records: int = 100_000,
        queue_bytes: int = 64 << 20,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.folder = Path(folder)
        self.exchange = exchange
        self.name = name
        self.url = shown_address(url)
        self.segment_bytes = segment_bytes
        self.segment_s = segment_s
        self.max_bytes = max_bytes
        self.queue_records = queue_records
        self.queue_bytes = queue_bytes
        self._facts = dict(facts)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FeedError(f"archive {self.folder}: expected a folder, {error}") from None
        self._queue: deque[Record] = deque()
        # each counter has one writing thread: the first three the live path, the others `_run`
        self._put_bytes = 0
        self._dropped = 0
        self._dropped_since_mark = 0
        self._taken_bytes = 0
        self._recorded = 0
        self._written_bytes = 0
        self._lost = 0
        self._errors = 0
        self._segments = 0
        self._removed = 0
        self._writer: FeedWriter | None = None
        self._opened_s = 0.0
        self._retry_s = 0.0
        self._flushed_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"record-{exchange}", daemon=True)
        self._thread.start()

    # live path

    def frame(self, received_ns: int, payload: bytes) -> None:
        """Record a received frame; the bytes must not change afterwards."""
        self._put(Record(received_ns, "<", "", payload))

    def sent(self, sent_ns: int, payload: bytes) -> None:
        self._put(Record(sent_ns, ">", "", payload))

    def rest(self, received_ns: int, path: str, payload: bytes) -> None:
        """Record the answer to a GET. `path` has the query: /api/v3/depth?symbol=BTCUSDT."""
        self._put(Record(received_ns, "GET", path, payload))

    def mark(self, name: str, **facts: Any) -> None:
        """Record a mark: "connect", "disconnect", "gap" …"""
        self._put(Record(now_ns(), "!", "", orjson.dumps({"mark": name, **facts})))

    def _put(self, record: Record) -> None:
        waiting = self._put_bytes - self._taken_bytes
        if len(self._queue) >= self.queue_records or waiting >= self.queue_bytes:
            self._dropped += 1
            self._dropped_since_mark += 1
            return
        self._mark_dropped(record.received_ns)
        self._put_bytes += len(record.payload)
        self._queue.append(record)

    def _mark_dropped(self, at_ns: int) -> None:
        if self._dropped_since_mark:
            count, self._dropped_since_mark = self._dropped_since_mark, 0
            content = orjson.dumps({"mark": "dropped", "records": count})
            self._queue.append(Record(at_ns, "!", "", content))
            self._put_bytes += len(content)

    def counters(self) -> dict[str, int | float]:
        """Return counts of recorded, dropped (queue full) and lost (disk) records and of files."""
        return {
            "recorded": self._recorded,
            "record_dropped": self._dropped,
            "record_lost": self._lost,
            "record_errors": self._errors,
            "record_bytes": self._written_bytes,
            "record_waiting": len(self._queue),
            "record_segments": self._segments,
            "record_segments_removed": self._removed,
        }

    def close(self, timeout_s: float = 10.0) -> None:
        """Write the queue and close the file; records still waiting after the time-out are lost."""
        self._stopping.set()
        self._thread.join(timeout_s)

    # thread

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            self._drain()
        self._mark_dropped(now_ns())
        self._drain()
        self._close_writer()

    def _drain(self) -> None:
        try:
            self._write_waiting()
            now_s = time.monotonic()
            if self._writer is not None and now_s - self._flushed_s >= FLUSH_S:
                self._flushed_s = now_s
                self._writer.flush()
                self._rotate(now_s)
        except (OSError, FeedError):
            # a full disk must not stop the collector: close this file, open a new one later
            self._errors += 1
            self._retry_s = time.monotonic() + RETRY_S
            self._close_writer()

    def _write_waiting(self) -> None:
        queue = self._queue
        while queue:
            record = queue.popleft()
            self._taken_bytes += len(record.payload)
            if self._writer is None and time.monotonic() < self._retry_s:
                self._lost += 1
                continue
            try:
                self._open_writer(record.received_ns).write(*record)
            except (OSError, FeedError):
                self._lost += 1
                raise
            self._recorded += 1

    def _open_writer(self, started_ns: int) -> FeedWriter:
        if self._writer is None:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started_ns // SECOND_NS))
            path, n = self.folder / f"{self._prefix}{stamp}-0.feed.zst", 0
            while path.exists():
                n += 1
                path = self.folder / f"{self._prefix}{stamp}-{n}.feed.zst"
            header = {
                "exchange": self.exchange,
                "url": self.url,
                "started_ns": started_ns,
                "segment": self._segments,
                **self._facts,
            }
            self._writer = FeedWriter(path, header)
            self._segments += 1
            self._opened_s = self._flushed_s = time.monotonic()
        return self._writer

    @property
    def _prefix(self) -> str:
        return f"{self.exchange}-{self.name}-"

    def _rotate(self, now_s: float) -> None:
        writer = self._writer
        if writer is None:
            return
        if writer.bytes_written >= self.segment_bytes or now_s - self._opened_s >= self.segment_s:
            self._close_writer()
        self._remove_oldest(writer.path)

    def _remove_oldest(self, current: Path) -> None:
        files = sorted(self.folder.glob(f"{self._prefix}*.feed.zst"), key=_age)
        sizes = {path: path.stat().st_size for path in files}
        total = sum(sizes.values())
        for path in files:
            if total <= self.max_bytes or path == current:
                break
            path.unlink(missing_ok=True)
            total -= sizes[path]
            self._removed += 1

    def _close_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except OSError:
                self._errors += 1
            self._written_bytes += writer.bytes_written


def _age(path: Path) -> tuple[str, int]:
    # the sort key of a file: the time in its name, then the number
    stamp, _, number = path.name.removesuffix(".feed.zst").rpartition("-")
    return stamp, int(number) if number.isdigit() else 0
