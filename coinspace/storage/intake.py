"""Stores the batches of a stream, and acknowledges them once the database has their rows.

Several workers share a stream, so a worker sees any part of it in any order, and some batches
twice. It therefore finds no gaps itself: the stream says what is missing, and `CatchUp` fetches
that from the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import structlog

from coinspace.bus.streams import Batch, stream_of
from coinspace.bus.transport import read_stream
from coinspace.config import Settings
from coinspace.errors import JournalError
from coinspace.storage.ledger import Hole
from coinspace.storage.stage import StorageStage

POLL_S = 0.02
ROOM_POLL_S = 0.005
# batches in the sender, and their bytes; more would only wait in memory
AHEAD = 64
AHEAD_BYTES = 32 << 20
# messages stored between two turns of the event loop
SLICE = 64
REASON = "not in the stream"

log = structlog.get_logger("intake")


class Intake:
    """Reads the stream of a storage worker's publishers. Start `run` and `confirm` as tasks."""

    def __init__(
        self, settings: Settings, stage: StorageStage, worker: str, publishers: list[str]
    ) -> None:
        self._stage = stage
        self._sender = stage.sender
        self._publishers = set(publishers)
        self._keep_s = settings.streams.ack_wait_s / 3
        # (rows taken up to the end of the batch, batch), the oldest first
        self._unconfirmed: deque[tuple[int, Batch]] = deque()
        self._bytes = 0
        # pulled, and not yet stored as a whole
        self._waiting: deque[Batch] = deque()
        self._messages = self._confirmed = self._failed = 0
        self._reader = read_stream(settings, stream_of(worker))

    def counters(self) -> dict[str, int | float]:
        return {
            **self._reader.counters(),
            "stream_messages": self._messages,
            "stream_confirmed": self._confirmed,
            "stream_failed": self._failed,
            "stream_unconfirmed": len(self._unconfirmed),
        }

    async def run(self) -> None:
        """Store batches until cancelled."""
        while True:
            await self._take()

    async def confirm(self) -> None:
        """Acknowledge stored batches, and keep the others, until cancelled."""
        kept_at = time.monotonic()
        while True:
            await asyncio.sleep(POLL_S)
            await self._confirm()
            if time.monotonic() - kept_at >= self._keep_s:
                kept_at = time.monotonic()
                stored = [batch for _, batch in self._unconfirmed]
                await self._reader.keep([*stored, *self._waiting])

    async def drain(self, limit_s: float) -> None:
        """Store what waits in the stream, for a limited time. `run` has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while await self._take():
                    pass

    async def close(self) -> None:
        """Acknowledge what is stored; the rest goes to another worker, or to the next process."""
        await self._confirm()
        self._reader.close()

    async def _take(self) -> bool:
        """Store some batches. Returns: whether there were any."""
        await _until(self._has_room)
        if not self._waiting:
            self._waiting.extend(await self._reader.pull())
        found = bool(self._waiting)
        while self._waiting:
            try:
                await self._store(self._waiting[0])
            except Exception:
                # it is delivered again later, and keeps no other batch from being stored
                self._failed += 1
                log.exception("batch failed", publisher=self._waiting[0].publisher)
            self._waiting.popleft()
        return found

    def _has_room(self) -> bool:
        return len(self._unconfirmed) < AHEAD and self._bytes < AHEAD_BYTES

    async def _confirm(self) -> None:
        done = []
        while self._unconfirmed and self._unconfirmed[0][0] <= self._sender.settled:
            _, batch = self._unconfirmed.popleft()
            self._bytes -= len(batch.body)
            done.append(batch)
        if done:
            self._confirmed += len(done)
            await self._reader.confirm(done)

    async def _store(self, batch: Batch) -> None:
        stage, publisher = self._stage, batch.publisher
        try:
            if publisher not in self._publishers:
                raise JournalError(f"batch of {publisher!r:.100}: expected a known publisher")
            messages, lost = batch.read()
        except JournalError as error:
            log.error("batch refused", reason=str(error))
            await self._reader.refuse(batch)
            return
        for topic, epoch, first, last in lost:
            hole = Hole(first, last, batch.at_ns, REASON)
            await _until(partial(stage.miss, publisher, topic, epoch, hole))
        for number, message in enumerate(messages, 1):
            if not stage.take(publisher, message):
                await _until(partial(stage.take, publisher, message))
            if not number % SLICE:
                await asyncio.sleep(0)
        self._messages += len(messages)
        self._bytes += len(batch.body)
        self._unconfirmed.append((self._sender.taken, batch))


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110 (a thread makes room)
        await asyncio.sleep(ROOM_POLL_S)
