"""The side socket of a journal: answers which ranges are held and sends them, chunk by chunk.

Requests and facts are JSON, records travel as they stand in the journal, checksums included:

    {"op": "list", "before": epoch or null}            -> facts
    {"op": "fetch", "topic", "epoch", "first", "end"}  -> facts, records

Ranges are half-open; `end` null = to the last one held. A client asks again from `next` until
`done`, so that one chunk per client is the most that is ever in memory. A list holds the newest
epochs before the given one; `more` says whether there are older ones.

Nothing that a client sends ends the thread: what cannot be answered is refused and counted.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import orjson
import structlog
import zmq

from coinspace.bus.context import open_socket
from coinspace.bus.journal import Journal
from coinspace.bus.segments import CHUNK_BYTES, JournalReader
from coinspace.bus.sockets import bind
from coinspace.bus.topics import parse
from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.config import BusSettings
from coinspace.errors import JournalError, MessageError

POLL_MS = 200
REQUEST_SIZE_LIMIT = 1 << 16
# what is larger is refused in words up to here; beyond it libzmq ends the connection
RECEIVED_SIZE_LIMIT = 1 << 20
# requests and answers queued per client: an honest one has one request under way
QUEUED = 1
# clients answered within a minute: each may hold two chunks in our memory that it does not read
CLIENTS_LIMIT = 64
CLIENT_NS = 60 * SECOND_NS
# a client that has stopped reading does not answer pings either: its queue goes with it
HEARTBEAT_MS = 10_000
HEARTBEAT_TIMEOUT_MS = 30_000
# (epoch, topic) pairs of one list: some 4 MB
LISTED = 50_000
ERROR_SIZE_LIMIT = 300

log = structlog.get_logger("replay")


class ReplayServer:
    """Serves a process's journal folder, all epochs, on a thread of its own.

    Raises: BusError when the endpoint is taken.
    """

    def __init__(self, process: str, journal: Journal, bus: BusSettings) -> None:
        self.process = process
        self.requests = 0
        self.refused = 0
        self._journal = journal
        self._reader = JournalReader(journal.folder)
        self._socket = open_socket(zmq.ROUTER)
        self._socket.sndhwm = self._socket.rcvhwm = QUEUED
        self._socket.maxmsgsize = RECEIVED_SIZE_LIMIT
        self._socket.heartbeat_ivl = HEARTBEAT_MS
        self._socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        # identity of a client -> when it was answered last, the oldest first
        self._clients: dict[bytes, int] = {}
        self._bound = bind(self._socket, bus.replay_endpoint(process), bus)
        self.endpoint = self._bound.endpoint
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="journal replay", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, int]:
        """Return requests answered and refused."""
        return {"journal_requests": self.requests, "journal_refused": self.refused}

    def close(self) -> None:
        """Stop answering; takes up to the time of one chunk."""
        self._closing = True
        self._thread.join()
        self._bound.close()

    def _serve(self) -> None:
        with contextlib.suppress(JournalError, OSError):
            # indexed before the first request, which has a time-out
            self._reader.refresh()
        while not self._closing:
            try:
                if self._socket.poll(POLL_MS):
                    client, *parts = self._socket.recv_multipart()
                    # a ROUTER never waits: an answer that its client has no room for is lost
                    self._socket.send_multipart([client, *self._reply(client, parts)], copy=True)
            except Exception:
                if not self._closing:
                    self.refused += 1
                    log.exception("request failed", process=self.process)

    def _reply(self, client: bytes, parts: list[bytes]) -> tuple[bytes, bytes, bytes]:
        number = parts[0][:REQUEST_SIZE_LIMIT] if parts else b""
        try:
            if len(parts) != 2 or max(map(len, parts)) > REQUEST_SIZE_LIMIT:
                raise JournalError(
                    f"expected a number and a request of at most {REQUEST_SIZE_LIMIT} bytes,"
                    f" was {len(parts)} parts of {[len(part) for part in parts[:4]]} bytes"
                )
            self._admit(client)
            facts, records = self._answer(orjson.loads(parts[1]))
            encoded = orjson.dumps(facts)
        except Exception as error:
            # the client's fault, nearly always, and never a reason to stop answering the others
            self.refused += 1
            text = f"{type(error).__name__}: {error}"[:ERROR_SIZE_LIMIT]
            return number, orjson.dumps({"error": text.encode(errors="replace").decode()}), b""
        self.requests += 1
        return number, encoded, records

    def _admit(self, client: bytes) -> None:
        """Bound the clients that may hold chunks in our memory."""
        now = monotonic_ns()
        known = self._clients.pop(client, None) is not None
        if not known and len(self._clients) >= CLIENTS_LIMIT:
            oldest = next(iter(self._clients))
            if now - self._clients[oldest] < CLIENT_NS:
                raise JournalError(f"expected at most {CLIENTS_LIMIT} clients a minute, try later")
            del self._clients[oldest]
        self._clients[client] = now

    def _answer(self, request: Any) -> tuple[dict[str, Any], bytes]:
        if not isinstance(request, dict):
            raise JournalError(f"request: expected an object, was {type(request).__name__}")
        self._reader.refresh()
        if request.get("op") == "list":
            before = request.get("before")
            return self._list(None if before is None else _integer(request, "before")), b""
        if request.get("op") != "fetch":
            raise JournalError(f"op: expected list or fetch, was {request.get('op')!r}")
        topic, end = request.get("topic"), request.get("end")
        if not isinstance(topic, str):
            raise JournalError(f"topic: expected text, was {type(topic).__name__}")
        chunk = self._reader.fetch(
            topic.encode(),
            _integer(request, "epoch"),
            _integer(request, "first"),
            None if end is None else _integer(request, "end"),
            CHUNK_BYTES,
        )
        facts = {"next": chunk.next, "missing": chunk.missing, "done": chunk.done}
        return facts | {"count": chunk.n_records}, chunk.records

    def _list(self, before: int | None) -> dict[str, Any]:
        found = self._reader.held()
        epochs = sorted((e for e in found if before is None or e < before), reverse=True)
        held: dict[str, dict[str, list[tuple[int, int]]]] = {}
        listed = 0
        for epoch in epochs:
            if listed >= LISTED:
                break
            held[str(epoch)] = {
                topic.decode(): ranges for topic, ranges in found[epoch].items() if _named(topic)
            }
            listed += len(found[epoch])
        return {
            "process": self.process,
            "epoch": self._journal.epoch,
            "problem": self._journal.problem,
            "held": held,
            "more": len(held) < len(epochs),
        }


def _integer(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise JournalError(f"{name}: expected a whole number of 64 bits, was {value!r:.50}")
    return value


def _named(topic: bytes) -> bool:
    # a damaged or hostile record must not spoil the list
    try:
        parse(topic)
    except MessageError:
        return False
    return True
