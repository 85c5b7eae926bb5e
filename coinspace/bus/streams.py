"""Batches of messages for streams that keep them until they are stored.

A batch is a run of a journal: its records as they are in the file, so that a reader checks and
decodes them as the journal's. Before them come facts as JSON, and before these their size (u32,
little-endian): `lost` lists sequences that the journal does not have, or that are too large to
send, as [topic, epoch, first, last].

Storage workers of one kind share one stream. States travel in their publisher's stream, in the
order of its journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from coinspace._ext.message import Message
from coinspace._ext.segment import messages
from coinspace.bus.topics import parse
from coinspace.errors import UNREADABLE, JournalError, MessageError

SIZE_BYTES = 4
BOOKS = "orderbook"
# stream -> storage workers that share it
STREAMS = {BOOKS: "orderbook-storage-worker", "ticker": "ticker-storage-worker"}
SEQUENCE_LIMIT = 1 << 53


class Lost(NamedTuple):
    """Sequences first..last, both included, that are in no batch."""

    topic: bytes
    epoch: int
    first: int
    last: int


@dataclass(frozen=True)
class Batch:
    """A batch as a storage worker receives it.

    Attributes:
        at_ns: when the stream took it; the same at each delivery.
        receipt: what the transport acknowledges it by.
    """

    publisher: str
    body: bytes
    at_ns: int
    receipt: str

    def read(self) -> tuple[list[Message], list[Lost]]:
        """Return the messages and what is missing before them.

        Messages of another release are left out. Raises: JournalError for a damaged batch.
        """
        end = SIZE_BYTES + int.from_bytes(self.body[:SIZE_BYTES], "little")
        try:
            if end > len(self.body):
                raise ValueError(f"expected {end} bytes of facts, was {len(self.body)}")
            facts = orjson.loads(self.body[SIZE_BYTES:end])
            lost = [_lost(one) for one in facts.get("lost", ())]
        except (*UNREADABLE, MessageError) as error:
            raise JournalError(f"batch of {self.publisher}: {error!r:.200}") from None
        return messages(memoryview(self.body)[end:], strict=False), lost


def stream_of(publisher: str) -> str:
    """Return the stream of a publisher's messages."""
    return BOOKS if publisher.startswith("orderbook") else "ticker"


def packed(records: bytes | memoryview, lost: Sequence[Lost] = ()) -> bytes:
    """Return the body of a batch."""
    facts: dict[str, Any] = {}
    if lost:
        facts["lost"] = [[one.topic.decode(), *one[1:]] for one in lost]
    head = orjson.dumps(facts)
    return b"".join((len(head).to_bytes(SIZE_BYTES, "little"), head, records))


def _lost(given: Any) -> Lost:
    topic, *numbers = given
    epoch, first, last = (int(one) for one in numbers)
    if not (0 < epoch < 1 << 63 and 0 < first <= last <= SEQUENCE_LIMIT):
        raise ValueError(f"expected an epoch and sequences, was {given!r:.100}")
    parse(topic.encode())
    return Lost(topic.encode(), epoch, first, last)


class Shipment(Protocol):
    """Sends a journal to its stream, behind the live messages."""

    def counters(self) -> dict[str, int]: ...

    def close(self, limit_s: float = 0.0) -> None:
        """Send what is left, for a limited time, and end. Idempotent."""


class Reader(Protocol):
    """Takes batches of a stream, which the readers of all workers share."""

    async def pull(self) -> list[Batch]:
        """Wait for batches, about a second. Returns: [] when there was none."""

    async def confirm(self, batches: Sequence[Batch]) -> None:
        """Acknowledge batches that are stored: the stream forgets them."""

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Say that batches are still being worked on."""

    async def refuse(self, batch: Batch) -> None:
        """Have a batch that cannot be read not delivered again."""

    def counters(self) -> dict[str, int]: ...

    def close(self) -> None:
        """End; batches without an acknowledgement go to another worker later. Idempotent."""
