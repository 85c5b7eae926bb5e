"""A publisher's journal: makes the next segment ahead of the writer and removes old segments.

A thread of its own does this work. On a full disk no segment can be made. Messages are then
published without being journalled and counted in `journal_skipped`; `problem` says why. Journalling
continues by itself once there is room.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import structlog

from coinspace._ext.journal import PART_SUFFIX, JournalWriter, Segment
from coinspace.bus.segments import oldest_ns, segment_path, segment_paths
from coinspace.clock import HOUR_NS, MINUTE_NS, SECOND_NS, monotonic_ns, now_ns
from coinspace.config import JournalSettings, Settings
from coinspace.errors import JournalError
from coinspace.lock import lock_file

KEEPER_INTERVAL_S = 0.5
# reserved segments take memory: their size follows the rate. A segment starts with SMALLEST bytes;
# the next one doubles when it was full within FAST_NS, and halves when it lasted for SLOW_NS
SMALLEST = 2 << 20
FAST_NS = 4 * SECOND_NS
SLOW_NS = 60 * SECOND_NS
LOG_INTERVAL_NS = MINUTE_NS
SHORT_INTERVAL_NS = HOUR_NS

log = structlog.get_logger("journal")


def journal_folder(settings: Settings, process: str) -> Path:
    """Return the folder where a process writes its journal."""
    return settings.data / "journal" / process


def is_written(folder: Path) -> bool:
    """Return whether a running process on this host writes the journal."""
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Journal:
    """The journal of one publisher process, in `folder`.

    Attributes:
        writer: appends messages, from Cython.
        problem: why no segment can be made; None = no problem.
    """

    def __init__(self, folder: Path, settings: JournalSettings, epoch_ns: int) -> None:
        """Open the folder and make the first segment; a full disk only sets `problem`.

        Raises: JournalError when another process writes there or the folder cannot be written.
        """
        self.folder = folder
        self.epoch = epoch_ns
        self.problem: str | None = None
        self.removed = 0
        # the first segment and the time of its first message; size of all segments
        self._oldest: tuple[Path | None, int] = (None, 0)
        self._kept_bytes = 0
        self._settings = settings
        self._number = 0
        self._size = min(SMALLEST, settings.segment_bytes)
        self._made_ns = 0
        self._logged_ns: int | None = None
        self._short_ns: int | None = None
        # ages are measured on the monotonic clock: a wall clock set forward by days would remove
        # all segments
        self._offset_ns = now_ns() - monotonic_ns()
        self._wake = threading.Event()
        self._closing = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(folder / "lock", f"journal folder {folder}", JournalError)
        except OSError as error:
            raise JournalError(
                f"journal folder {folder}: expected a writable folder, {error}"
            ) from None
        for part in folder.glob(f"*{PART_SUFFIX}"):
            # a writer died while it made this file
            part.unlink(missing_ok=True)
        self.writer = JournalWriter(self._wake.set)
        self._tend()
        self._keeper = threading.Thread(target=self._keep, name="journal keeper", daemon=True)
        self._keeper.start()

    def counters(self) -> dict[str, int]:
        """Return counts of written and skipped messages and of removed segments, and the reach."""
        return {
            "journal_written": self.writer.written,
            "journal_bytes": self.writer.written_bytes,
            "journal_skipped": self.writer.skipped,
            "journal_segments_removed": self.removed,
            "journal_stopped": int(self.problem is not None),
            "journal_reach_s": self._reach_s(),
            "journal_kept_bytes": self._kept_bytes,
            "journal_limit_bytes": self._settings.max_bytes,
        }

    def _reach_s(self) -> int:
        path, begun_ns = self._oldest
        return max(0, now_ns() - begun_ns) // SECOND_NS if path else 0

    def close(self) -> None:
        """Stop writing and cut the last segment to its used size. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._wake.set()
        self._keeper.join()
        for segment in (*self.writer.full, *self.writer.finish()):
            self._close_segment(segment)
        os.close(self._lock)

    def _keep(self) -> None:
        while not self._closing:
            self._wake.wait(KEEPER_INTERVAL_S)
            self._wake.clear()
            if not self._closing:
                self._tend()

    def _tend(self) -> None:
        # the next segment first: the writer may be waiting for it
        try:
            while not self.writer.has_next or self.writer.current is None:
                self._resize()
                self._prune(self._size)
                self.writer.provide(self._make())
            self._set_problem(None)
        except (OSError, JournalError) as error:
            self._set_problem(str(error))
        while self.writer.full:
            self._close_segment(self.writer.full.pop(0))
        self._prune(0)

    def _resize(self) -> None:
        # a segment is made when one is full; the first two are made at once
        now, most = monotonic_ns(), self._settings.segment_bytes
        lasted_ns, self._made_ns = now - self._made_ns, now
        if self._number >= 2 and lasted_ns < FAST_NS:
            self._size = min(2 * self._size, most)
        elif lasted_ns > SLOW_NS:
            self._size = max(self._size // 2, min(SMALLEST, most))

    def _make(self) -> Segment:
        size = self._size
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < self._settings.min_free_bytes + size:
            raise JournalError(
                f"{self.folder}: expected {self._settings.min_free_bytes + size} bytes free"
                f" on the disk, was {free}; make room or lower journal.max_bytes"
            )
        number = self._number + 1
        path = segment_path(self.folder, self.epoch, number)
        segment = Segment(path, self.epoch, number, size, now_ns())
        self._number = number
        return segment

    def _close_segment(self, segment: Segment) -> None:
        try:
            segment.close()
        except OSError as error:
            log.error("segment not closed", path=str(segment.path), error=str(error))

    def _prune(self, wanted_bytes: int) -> None:
        # remove the oldest closed segments beyond the bounds; `wanted_bytes` are about to be added
        now = min(now_ns(), self._offset_ns + monotonic_ns())
        first_ns = now - self._settings.max_age_s * SECOND_NS
        segments = []
        for path in segment_paths(self.folder):
            try:
                segments.append((path, path.stat()))
            except FileNotFoundError:
                continue
        self._kept_bytes = sum(stat.st_size for _, stat in segments)
        if segments and segments[0][0] != self._oldest[0]:
            self._oldest = (segments[0][0], oldest_ns(self.folder) or now_ns())
        total = self._kept_bytes + wanted_bytes
        segment = self.writer.current
        number = segment.number if segment else self._number + 1
        first_open = segment_path(self.folder, self.epoch, number)
        for path, stat in segments:
            if path >= first_open or path in [full.path for full in self.writer.full]:
                return
            if total <= self._settings.max_bytes and stat.st_mtime_ns >= first_ns:
                return
            try:
                path.unlink()
            except OSError as error:
                log.error("segment not removed", path=str(path), error=str(error))
                return
            self.removed += 1
            total -= stat.st_size
            if stat.st_mtime_ns >= first_ns:
                self._warn_short((now - stat.st_mtime_ns) / SECOND_NS)

    def _warn_short(self, age_s: float) -> None:
        # a database outage longer than `age_s` now loses messages
        now = monotonic_ns()
        if self._short_ns is not None and now - self._short_ns < SHORT_INTERVAL_NS:
            return
        self._short_ns = now
        settings = self._settings
        log.warning(
            "journal shorter than max_age_s: raise journal.max_bytes or lower the exchange's depth",
            folder=str(self.folder),
            age_s=round(age_s),
            max_age_s=settings.max_age_s,
            max_bytes=settings.max_bytes,
        )

    def _set_problem(self, problem: str | None) -> None:
        now = monotonic_ns()
        if problem is None:
            if self.problem is not None:
                log.info("journal resumed", folder=str(self.folder), skipped=self.writer.skipped)
                self._logged_ns = None
        elif self._logged_ns is None or now - self._logged_ns >= LOG_INTERVAL_NS:
            self._logged_ns = now
            log.error(
                "journal stopped: messages are published without being journalled",
                folder=str(self.folder),
                reason=problem,
            )
        self.problem = problem
