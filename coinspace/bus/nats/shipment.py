"""Sends a journal to its stream, behind the live messages, on the link's thread.

One batch is on its way at a time: the stream has the journal's order, and while an acknowledgement
takes longer the next batch grows. A batch without an acknowledgement is sent again under its name,
by which the servers recognise a copy. After an outage of any length the journal goes on from where
it ended.

Servers may lose what they have acknowledged: the stream was deleted, or machines without power lost
their last writes. The journal is then sent again from the last place that is known to be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import CancelledError
from pathlib import Path

import nats.errors
from nats.aio.client import Client

from coinspace.bus.nats import jetstream
from coinspace.bus.nats.jetstream import FAILURES, Refused, StreamState, Trouble
from coinspace.bus.nats.link import open_link
from coinspace.bus.streams import Lost, packed, stream_of
from coinspace.bus.tail import Checkpoints, Mark, Piece, Place, Progress, Tail
from coinspace.config import Settings
from coinspace.tasks import within

# a copy that is sent after this time is dropped by its name
ACK_S = 2.0
RETRY_S = 0.5
# how often the stream is looked at and the progress is written
LOOK_S = 2.0
SAVE_S = 1.0
# of a message: its headers and facts, beside the records
HEAD_BYTES = 4096
# ranges in one batch: they fit in HEAD_BYTES
LOST_EACH = 24


class NatsShipment:
    """Ships the journal in `folder`, of a process."""

    def __init__(self, process: str, folder: Path, settings: Settings) -> None:
        self._process = process
        self._folder = folder
        self._settings = settings
        self._stream = stream_of(process)
        self._subject = jetstream.subject_of(settings.bus, self._stream, process)
        self._progress = Progress.read(folder)
        self._checkpoints = Checkpoints(self._progress.stored)
        self._tail = Tail(folder, self._progress.sent)
        # the batch that has no acknowledgement yet
        self._piece: Piece | None = None
        self._look_at = self._save_at = 0.0
        self._counts = dict.fromkeys(
            ("batches", "messages", "bytes", "retries", "oversized", "lost", "rewinds"), 0
        )
        # what the file says
        self._saved: tuple[str, int, Place] | None = None
        self._closing = asyncio.Event()
        self._closed = False
        self._link, self._give_back = open_link(settings.bus)
        text = f"stream {self._stream} does not take messages, which wait in the journal"
        self._trouble = Trouble(self._link, self._subject, text)
        self._task = self._link.call(self._begin())

    def counters(self) -> dict[str, int]:
        """Return counts since the start, and the bytes of the journal that wait in its segments."""
        counts = {f"stream_{name}": count for name, count in self._counts.items()}
        return counts | {"stream_behind_bytes": self._tail.behind()}

    def close(self, limit_s: float = 0.0) -> None:
        """Send what is left, for a limited time, and end. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(TimeoutError, CancelledError):
            self._link.call(self._finish(limit_s))
        self._give_back()

    async def _begin(self) -> asyncio.Task[None]:
        return self._link.tasks.keep("nats shipment", self._run, ends=True)

    async def _finish(self, limit_s: float) -> None:
        self._closing.set()
        await asyncio.wait({self._task}, timeout=limit_s)
        await self._link.tasks.end(self._task)
        self._trouble.clear()
        self._tail.close()
        self._save()

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                await self._send_all(self._client())
            except FAILURES as error:
                self._counts["retries"] += 1
                self._trouble.note(error)
                await within(RETRY_S, self._closing)
        # the rest of the journal, which is closed now
        with contextlib.suppress(*FAILURES):
            client = self._client()
            while self._read(client) is not None:
                await self._send(client)

    def _client(self) -> Client:
        client = self._link.client
        if client is None or not client.is_connected:
            raise nats.errors.ConnectionClosedError
        return client

    async def _send_all(self, client: Client) -> None:
        self._compare(await jetstream.agreed(client, self._settings, self._stream))
        pause_s = self._settings.streams.batch_ms / 1000
        while not self._closing.is_set():
            piece = self._read(client)
            if piece is not None:
                await self._send(client)
            self._trouble.clear()
            now = self._link.loop.time()
            if now >= self._look_at:
                found = await jetstream.state(client, self._settings, self._stream)
                if found is None:
                    raise Refused(f"stream of {self._subject}: expected one, was deleted")
                self._compare(found)
            if now >= self._save_at:
                self._save()
            if piece is None or len(piece.records) < self._size(client):
                await within(pause_s, self._closing)

    def _size(self, client: Client) -> int:
        return min(self._settings.streams.batch_bytes, client.max_payload - HEAD_BYTES)

    def _read(self, client: Client) -> Piece | None:
        if self._piece is None:
            self._piece = self._tail.next(self._size(client))
        return self._piece

    async def _send(self, client: Client) -> None:
        """Send the batch and wait for its acknowledgement."""
        piece = self._piece
        assert piece is not None
        lost, records = list(piece.lost), piece.records
        if len(records) + HEAD_BYTES > client.max_payload:
            # a single message: the storage worker fetches it from the journal
            lost += [Lost(topic, piece.end.epoch, n, n) for topic, n in piece.lasts.items()]
            self._counts["oversized"] += 1
            names = ", ".join(topic.decode() for topic in piece.lasts)
            self._link.report(
                f"{names}: a message of {len(records)} bytes is too large for the stream:"
                " raise max_payload in the servers' configuration"
            )
            records = records[:0]
        for number in range(0, max(1, len(lost)), LOST_EACH):
            part = lost[number : number + LOST_EACH]
            whole = number + LOST_EACH >= len(lost)
            name = piece.name if whole else f"{piece.name}/{number}"
            await self._publish(client, name, packed(records if whole else b"", part))
            if self._piece is not piece:
                # the stream has lost earlier ones, which are sent first
                return
        self._piece = None
        progress = self._progress
        if progress.sent is None:
            progress.sent = Mark()
        progress.sent.pass_to(piece.end, piece.lasts)
        self._checkpoints.add(progress.sequence, piece.end, piece.lasts)
        self._counts["batches"] += 1
        self._counts["messages"] += piece.count
        self._counts["bytes"] += len(piece.records)
        self._counts["lost"] += sum(one.last - one.first + 1 for one in piece.lost)

    async def _publish(self, client: Client, name: str, body: bytes) -> None:
        headers = {
            "Nats-Msg-Id": f"{self._process}.{name}",
            "Nats-Expected-Stream": jetstream.name_of(self._settings.bus, self._stream),
        }
        answer = await client.request(self._subject, body, timeout=ACK_S, headers=headers)
        ack = jetstream.checked(answer.data, "batch")
        sequence = int(ack["seq"])
        if sequence <= self._progress.sequence and not ack.get("duplicate"):
            self._rewind(f"sequence {self._progress.sequence} was acknowledged, now {sequence}")
        self._progress.sequence = max(sequence, self._progress.sequence)

    def _compare(self, found: StreamState) -> None:
        """Note what is stored, or that the stream has lost what it had acknowledged."""
        self._look_at = self._link.loop.time() + LOOK_S
        progress = self._progress
        if progress.created not in ("", found.created):
            self._rewind("it was deleted and made again")
        elif found.last < progress.sequence:
            self._rewind(f"it ends at {found.last}, {progress.sequence} was acknowledged")
        else:
            self._checkpoints.release(found.first - 1)
        progress.created = found.created

    def _rewind(self, reason: str) -> None:
        self._counts["rewinds"] += 1
        self._link.report(
            f"stream {self._stream} has lost messages ({reason}): the journal of {self._process}"
            " is sent again from what is stored"
        )
        self._checkpoints.clear()
        self._progress.sequence = 0
        self._progress.sent = self._checkpoints.stored.copy()
        self._tail.seek(self._progress.sent)
        self._piece = None

    def _save(self) -> None:
        self._save_at = self._link.loop.time() + SAVE_S
        progress = self._progress
        now = (progress.created, progress.sequence, progress.stored.place)
        if now == self._saved:
            return
        self._saved = now
        try:
            self._progress.write(self._folder)
        except OSError as error:
            # an older file only has more sent again
            self._link.report(f"progress of the stream not written: {error}")
