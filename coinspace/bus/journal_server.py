"""The journal server: lists a journal's ranges and sends them chunk by chunk.

Requests and facts are JSON. Records are sent as they are in the journal, with their checksums:

    {"op": "list", "before": epoch or null}            -> facts
    {"op": "fetch", "topic", "epoch", "first", "end"}  -> facts, records

Ranges are half-open; `end` null = to the last record. A client asks again from `next` until `done`,
so that memory holds at most one chunk per client. A list has the newest epochs before the given
one; `more` says whether there are older ones.

No request ends the thread: the server refuses and counts requests that it cannot answer.
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
from coinspace.bus.segments import JournalReader
from coinspace.bus.topics import parse
from coinspace.bus.transport import transport_of
from coinspace.clock import SECOND_NS, monotonic_ns
from coinspace.config import BusSettings
from coinspace.errors import JournalError, MessageError

# a successor waits for the end of a poll
POLL_MS = 100
REQUEST_SIZE_LIMIT = 1 << 16
# the server answers larger requests with an error up to this size; beyond it libzmq disconnects
RECEIVED_SIZE_LIMIT = 1 << 20
# requests and answers queued per client: CoinSpace's client sends one request at a time
QUEUED = 1
# clients answered within a minute: each one that does not read keeps two chunks in our memory
CLIENTS_LIMIT = 64
CLIENT_NS = 60 * SECOND_NS
# a client that stopped reading answers no pings: libzmq disconnects it and drops its queue
HEARTBEAT_MS = 10_000
HEARTBEAT_TIMEOUT_MS = 30_000
# (epoch, topic) pairs of one list: some 4 MB
LISTED = 50_000
ERROR_SIZE_LIMIT = 300

log = structlog.get_logger("replay")


class ReplayServer:
    """Serves all epochs of a process's journal folder, on a thread of its own.

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
        # identity of a client -> time of its last answer, the oldest first
        self._clients: dict[bytes, int] = {}
        endpoint = bus.replay_endpoint(process)
        self._bound = transport_of(endpoint).serve(self._socket, endpoint, bus)
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="journal replay", daemon=True)
        self._thread.start()

    def counters(self) -> dict[str, int]:
        return {"journal_requests": self.requests, "journal_refused": self.refused}

    def close(self) -> None:
        """Stop answering; waits for a chunk in progress."""
        self._closing = True
        self._thread.join()
        self._bound.close()

    def _serve(self) -> None:
        with contextlib.suppress(JournalError, OSError):
            # the first request has a time-out: index the journal before it arrives
            self._reader.refresh()
        while not self._closing:
            try:
                if self._socket.poll(POLL_MS):
                    client, *parts = self._socket.recv_multipart()
                    # a ROUTER never waits: it drops an answer when the client's queue is full
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
            # nearly always the client's error; other clients must still get answers
            self.refused += 1
            text = f"{type(error).__name__}: {error}"[:ERROR_SIZE_LIMIT]
            return number, orjson.dumps({"error": text.encode(errors="replace").decode()}), b""
        self.requests += 1
        return number, encoded, records

    def _admit(self, client: bytes) -> None:
        """Limit the number of clients, each of which may keep chunks in memory."""
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
        )
        facts = {"next": chunk.next, "missing": chunk.missing, "done": chunk.done}
        return facts | {"count": chunk.n_records}, chunk.records

    def _list(self, before: int | None) -> dict[str, Any]:
        found = self._reader.ranges()
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
    # a record with an invalid topic must not make the list fail
    try:
        parse(topic)
    except MessageError:
        return False
    return True
