"""Fills holes from the publishers' journals, oldest first, without delaying live messages.

A running publisher answers through its journal server. When the publisher has ended and its folder
is on this host, the folder is read; the folder's lock shows that the writer has ended. So messages
are stored even if this worker never heard the publisher. Messages that no journal has any more are
recorded in table `gap` as lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from coinspace._ext.message import Message
from coinspace.backoff import Backoff
from coinspace.bus.journal import is_written, journal_folder
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.segments import Chunk, JournalReader, segment_paths
from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings
from coinspace.errors import JournalError, MessageError, StorageError
from coinspace.storage import position
from coinspace.storage.gaps import Damage
from coinspace.storage.ledger import Hole, Stream, joined
from coinspace.storage.questdb.address import address
from coinspace.storage.stage import StorageStage
from coinspace.tasks import within

IDLE_S = 1.0
TIMEOUT_S = 3.0
# messages of a younger hole may still be in a socket's queue
SETTLE_S = 0.05
RETRY_S = 1.0
MAX_RETRY_S = 10.0
# between two lists of a journal, which find epochs that this worker did not receive
INVENTORY_S = 60.0
# messages stored between two turns of the event loop
SLICE = 64
# batches of fetched messages in the sender; more would only wait in memory
BATCHES_AHEAD = 3
ROOM_POLL_S = 0.005
DRAIN_S = 10.0

log = structlog.get_logger("catchup")


T = TypeVar("T")

# a client of the journal server, or a journal folder on this host
Source = JournalClient | JournalReader


@dataclass
class _Publisher:
    name: str
    client: JournalClient
    folder: JournalReader
    backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_S, MAX_RETRY_S))
    not_before: float = 0.0
    inventory_at: float = 0.0
    # the newest segment of an ended writer whose journal has been compared
    taken: Path | None = None
    problem: str | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class CatchUp:
    """Fills the holes of a stage. Start `run` as a task; call `wake` when a hole was found."""

    def __init__(self, settings: Settings, stage: StorageStage, publishers: list[str]) -> None:
        self._settings = settings
        self._stage = stage
        self._ahead = BATCHES_AHEAD * settings.storage.batch_rows
        self._publishers = {
            name: _Publisher(
                name,
                JournalClient(
                    settings.bus.replay_endpoint(name), settings.bus, timeout_s=TIMEOUT_S
                ),
                JournalReader(journal_folder(settings, name)),
            )
            for name in publishers
        }
        # (Damage.found_ns, publisher) for which `restore` has made the holes
        self._restored: set[tuple[int, str]] = set()
        self.fetched = self.filled = self.lost = self.requests = self.failures = 0

    async def run(self) -> None:
        """Fill holes until cancelled; an unreachable publisher does not delay the others."""
        await asyncio.gather(*(self._serve(one) for one in self._publishers.values()))

    async def _serve(self, publisher: _Publisher) -> None:
        while True:
            progress = False
            try:
                await self._inventory(publisher)
                for stream, hole in self._stage.ledger.holes(publisher.name):
                    progress |= await self._try(publisher, stream, hole)
                progress |= await self._read_again(publisher)
            except Exception as error:
                # an error of one publisher must not end the catch-up of the others
                self.failures += 1
                publisher.problem = repr(error)
                publisher.not_before = time.monotonic() + MAX_RETRY_S
                log.exception("catch-up failed", publisher=publisher.name)
            if not progress and await within(_pause(publisher), publisher.wake):
                publisher.wake.clear()
                await asyncio.sleep(SETTLE_S)

    def wake(self) -> None:
        """Look for holes at once."""
        for publisher in self._publishers.values():
            publisher.wake.set()

    def close(self) -> None:
        """Close the clients; no task may still use them."""
        for publisher in self._publishers.values():
            publisher.client.close()

    def problems(self) -> list[str]:
        """Return a line for each unreachable journal that messages wait for."""
        lines = []
        for name, publisher in self._publishers.items():
            # the size of holes that were put off is unknown: count at least one message each
            waiting = sum(one.put_off + one.missing for one in self._stage.ledger.of(name))
            if publisher.problem and waiting:
                lines.append(
                    f"{waiting} messages wait for the journal of {name}: {publisher.problem}"
                )
        return lines

    def counters(self) -> dict[str, int | float]:
        return {
            "catchup_requests": self.requests,
            "catchup_failures": self.failures,
            "catchup_messages": self.fetched,
            "gaps_filled": self.filled,
            "messages_lost": self.lost,
        }

    async def restore(self, damage: Damage) -> bool:
        """Make holes of a damaged table's stored messages that the journals still have.

        Returns: whether all holes are in `gap` now; False = a journal cannot be reached, try later.
        """
        ledger = self._stage.ledger
        oldest_ns = now_ns() - self._settings.journal.max_age_s * SECOND_NS
        if not self._settings.journal.enabled or damage.found_ns < oldest_ns:
            log.error("not stored again: no journal has the messages", table=damage.table)
            return True
        complete = True
        for publisher in self._publishers.values():
            if (damage.found_ns, publisher.name) in self._restored:
                continue
            if not ledger.of(publisher.name) and publisher.name not in ledger.finished:
                continue
            journal = await self._ask(publisher, lambda source: source.ranges())
            if journal is None:
                complete = False
                continue
            # of a stream another worker may have stored the newest
            epochs = journal.keys() & ledger.finished.get(publisher.name, set())
            for epoch in journal if self._settings.streams.enabled else epochs:
                topics = journal[epoch].items()
                lasts = {topic: max(end for _, end in ranges) - 1 for topic, ranges in topics}
                ledger.reopen(publisher.name, epoch, lasts)
            for stream in ledger.of(publisher.name):
                if stream.name.kind != damage.table:
                    continue
                for first, end in journal.get(stream.epoch, {}).get(stream.topic, []):
                    last = min(end - 1, stream.last)
                    if first <= last:
                        stream.holes.append(Hole(first, last, now_ns(), damage.reason))
                await self._until(partial(self._stage.announce, stream))
            self._restored.add((damage.found_ns, publisher.name))
        self.wake()
        return complete

    async def _inventory(self, publisher: _Publisher) -> None:
        """Find messages in the journal that this worker has not received."""
        if not self._settings.journal.enabled or self._settings.streams.enabled:
            # a stream brings all messages of the journal, or says what it lacks
            self._stage.finish(publisher.name, ())
            return
        now = time.monotonic()
        ended = _ended(publisher.folder)
        unseen = ended is not None and ended != publisher.taken
        if now < publisher.not_before or (now < publisher.inventory_at and not unseen):
            return
        publisher.inventory_at = now + INVENTORY_S
        journal = await self._ask(publisher, lambda source: source.ranges())
        if journal is None:
            publisher.inventory_at = 0.0
            return
        current = self._stage.epochs.get(publisher.name)
        finished = self._stage.ledger.finished.get(publisher.name, set())
        for epoch, topics in journal.items():
            # the newest messages of a running writer are still on their way; its heartbeats
            # report them
            if (epoch == current and not unseen) or epoch in finished:
                continue
            for topic, ranges in topics.items():
                last = max(end for _, end in ranges) - 1
                self._stage.expect(publisher.name, topic, epoch, last)
        self._stage.finish(publisher.name, journal)
        if unseen:
            publisher.taken = ended

    def restarted(self, name: str) -> None:
        """Look at once for messages of the previous epoch of a restarted publisher."""
        publisher = self._publishers.get(name)
        if publisher is not None:
            publisher.inventory_at = publisher.not_before = 0.0
            publisher.wake.set()

    async def _read_again(self, publisher: _Publisher) -> bool:
        """Read holes that were put off from `gap`, once the earlier holes are closed."""
        ledger = self._stage.ledger
        streams = [one for one in ledger.of(publisher.name) if one.put_off and not one.holes]
        if not streams or time.monotonic() < publisher.not_before:
            return False
        # rows in the sender have to be in the database first
        if not await self._stage.sender.drained(DRAIN_S):
            return False
        try:
            where = address(self._settings)
            holes, all_read = await position.open_holes(where, publisher.name, streams)
        except StorageError as error:
            self.failures += 1
            publisher.problem = str(error)
            return False
        for stream in streams:
            # the rows read may include holes that were found meanwhile
            known = {hole.first for hole in stream.holes}
            found = [hole for hole in holes.get(stream.key, ()) if hole.first not in known]
            ledger.read_again(stream, found, all_read=all_read)
        return True

    async def _try(self, publisher: _Publisher, stream: Stream, hole: Hole) -> bool:
        if hole not in stream.holes or time.monotonic() < publisher.not_before:
            return False
        await self._until(lambda: self._stage.announce(stream))
        if not self._settings.journal.enabled:
            await self._close(stream, hole, [(hole.first, hole.last)], "journalling is off")
            return True
        return await self._fill(publisher, stream, hole)

    async def _fill(self, publisher: _Publisher, stream: Stream, hole: Hole) -> bool:
        first, end = hole.first, hole.last + 1
        lost: list[tuple[int, int]] = []
        while first < end:
            answer = await self._ask(publisher, partial(_fetch, stream, first, end))
            if answer is None:
                return False
            chunk, messages = answer
            await self._store(stream, messages)
            lost += [(start, stop - 1) for start, stop in chunk.missing]
            if chunk.done or chunk.next <= first:
                break
            first = chunk.next
        await self._close(stream, hole, joined(lost), "no journal has it")
        return True

    async def _store(self, stream: Stream, found: list[Message]) -> None:
        for start in range(0, len(found), SLICE):
            for message in found[start : start + SLICE]:
                if not self._stage.store(stream, message):
                    await self._until(partial(self._stage.store, stream, message))
            self.fetched += len(found[start : start + SLICE])
            # live messages first
            await asyncio.sleep(0)
            await self._until(lambda: self._stage.sender.pending <= self._ahead)

    async def _close(
        self, stream: Stream, hole: Hole, lost: list[tuple[int, int]], reason: str
    ) -> None:
        await self._until(lambda: self._stage.close(stream, hole, lost, reason))
        missing = sum(last - first + 1 for first, last in lost)
        self.lost += missing
        self.filled += 1
        if missing:
            log.error(
                "messages lost",
                publisher=stream.publisher,
                topic=stream.topic.decode(),
                epoch=stream.epoch,
                ranges=lost[:10],
                messages=missing,
                reason=reason,
            )

    async def _until(self, done: Callable[[], bool]) -> None:
        while not done():  # noqa: ASYNC110 (a thread makes room)
            await asyncio.sleep(ROOM_POLL_S)

    async def _ask(self, publisher: _Publisher, ask: Callable[[Source], T]) -> T | None:
        """Send a request to the journal. Returns: None when it cannot be reached now."""
        async with publisher.lock:
            self.requests += 1
            try:
                source = _source(publisher)
                answer = await asyncio.to_thread(ask, source)
            except (JournalError, MessageError, OSError) as error:
                self.failures += 1
                publisher.problem = str(error)
            else:
                publisher.backoff.reset()
                publisher.problem = None
                return answer
        publisher.not_before = time.monotonic() + publisher.backoff.next()
        return None


def _pause(publisher: _Publisher) -> float:
    """Return the seconds to wait without `wake`, until the next request is allowed."""
    due = publisher.not_before - time.monotonic()
    return max(0.05, min(IDLE_S, due)) if due > 0 else IDLE_S


def _source(publisher: _Publisher) -> Source:
    """Return the client of a running writer, or the folder of an ended one.

    Raises: JournalError when there is neither.
    """
    folder = publisher.folder
    if _ended(folder):
        return folder
    path = publisher.client.endpoint.removeprefix("ipc://")
    if path != publisher.client.endpoint and not Path(path).exists():
        raise JournalError(f"{publisher.name} has not been started on this host: no {path}")
    return publisher.client


def _fetch(stream: Stream, first: int, end: int, source: Source) -> tuple[Chunk, list[Message]]:
    chunk = source.fetch(stream.topic, stream.epoch, first, end)
    # decoded here, on the thread
    return chunk, chunk.messages


def _ended(folder: JournalReader) -> Path | None:
    """Return the newest segment of a journal on this host whose writer has ended, else None."""
    # list first: a writer that starts in between does not own these segments
    paths = segment_paths(folder.folder)
    return paths[-1] if paths and not is_written(folder.folder) else None
