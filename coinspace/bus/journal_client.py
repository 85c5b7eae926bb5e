"""The journal client: fetches the messages that a subscriber missed."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import orjson
import zmq

from coinspace.bus.context import Socket, close_socket, open_socket
from coinspace.bus.segments import Chunk, Ranges
from coinspace.bus.transport import MESSAGE_SIZE_LIMIT, Wire, transport_of
from coinspace.config import BusSettings
from coinspace.errors import UNREADABLE, JournalError
from coinspace.text import printable

TIMEOUT_S = 5.0
# pages of one list: enough for all epochs of a journal
PAGES_LIMIT = 64
SEQUENCE_END = 1 << 63


class JournalClient:
    """Sends requests to one publisher's journal. Blocks: use it from one thread at a time.

    Raises (all methods): JournalError when the server refuses or does not answer in time.
    """

    def __init__(
        self, endpoint: str, bus: BusSettings | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.endpoint = endpoint
        self._bus = bus
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        self._socket: Socket | None = None
        self._wire: Wire | None = None

    def ranges(self) -> Ranges:
        """Return the half-open ranges of sequences by epoch and topic."""
        found: Ranges = {}
        for _ in range(PAGES_LIMIT):
            facts, _ = self._ask({"op": "list", "before": min(found, default=None)})
            with _valid_answer(self.endpoint):
                for epoch, topics in facts["held"].items():
                    found[_integer(int(epoch))] = {
                        topic.encode(): [(_integer(first), _integer(end)) for first, end in ranges]
                        for topic, ranges in topics.items()
                        if ranges
                    }
            if not facts.get("more") or not found:
                break
        return found

    def fetch(self, topic: bytes, epoch: int, first: int, end: int | None = None) -> Chunk:
        """Return the oldest chunk, about 1 MiB, of sequences [first, end); None = to the last."""
        facts, records = self._ask(
            {"op": "fetch", "topic": topic.decode(), "epoch": epoch, "first": first, "end": end}
        )
        with _valid_answer(self.endpoint):
            missing = [(_integer(start), _integer(last)) for start, last in facts["missing"]]
            count, following = _integer(facts.get("count", 0)), _integer(facts["next"])
            chunk = Chunk(records, count, following, missing, bool(facts["done"]))
        stop = SEQUENCE_END if end is None else end
        for message in chunk.messages:
            if (message.topic, message.epoch) != (topic, epoch) or not (
                first <= message.sequence < stop
            ):
                raise JournalError(
                    f"{self.endpoint}: expected {topic!r} epoch {epoch} from {first} to {stop},"
                    f" was {message!r:.100}"
                )
        if any(not first <= start < last <= stop for start, last in missing):
            raise JournalError(
                f"{self.endpoint}: expected missing ranges from {first} to {stop}, found others"
            )
        return chunk

    def fetch_all(self, topic: bytes, epoch: int, first: int) -> Iterator[Chunk]:
        """Yield all from `first` on; each chunk is requested when the caller needs it."""
        while True:
            chunk = self.fetch(topic, epoch, first)
            yield chunk
            if chunk.done:
                return
            if chunk.next <= first:
                raise JournalError(f"{self.endpoint}: expected a chunk after {first}, was none")
            first = chunk.next

    def close(self) -> None:
        """Close the socket; a pending answer is dropped."""
        if self._socket is not None:
            close_socket(self._socket)
            self._socket = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        number = str(next(self._numbers)).encode()
        if self._socket is None:
            self._socket = open_socket(zmq.DEALER)
            self._socket.maxmsgsize = MESSAGE_SIZE_LIMIT
            self._wire = transport_of(self.endpoint).ask(self._socket, self.endpoint, self._bus)
        self._socket.send_multipart([number, orjson.dumps(request)])
        deadline = time.monotonic() + self._timeout_s
        while (left := deadline - time.monotonic()) > 0 and self._socket.poll(int(left * 1000) + 1):
            parts = self._socket.recv_multipart()
            # an answer to an earlier request that timed out
            if parts[0] != number or len(parts) != 3:
                continue
            with _valid_answer(self.endpoint):
                facts: dict[str, Any] = dict(orjson.loads(parts[1]))
            if "error" in facts:
                raise JournalError(
                    f"{self.endpoint}: request refused: {printable(facts['error'], 300)}"
                )
            return facts, parts[2]
        # the next request uses a new socket: this one must not be sent when the publisher returns
        self.close()
        raise JournalError(
            f"{self.endpoint}: expected an answer within {self._timeout_s} s, got none;"
            " is the publisher running?"
        )


def _integer(value: Any) -> int:
    # beyond 64 bits it could not be sent back
    if type(value) is not int or not 0 <= value <= SEQUENCE_END:
        raise ValueError(f"expected a whole number of 64 bits, was {value!r:.50}")
    return value


@contextlib.contextmanager
def _valid_answer(endpoint: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise JournalError(f"{endpoint}: expected facts of a journal, {error!r:.200}") from None
