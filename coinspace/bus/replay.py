"""The side socket of a journal: answers which ranges are held and sends them, chunk by chunk.

Requests and facts are JSON, records travel as they stand in the journal, checksums included:

    {"op": "list"}                                     -> facts
    {"op": "fetch", "topic", "epoch", "first", "end"}  -> facts, records

Ranges are half-open; `end` null = to the last one held. A client asks again from `next` until
`done`, so that one chunk per client is the most that is ever in memory.
"""

from __future__ import annotations

import threading
from typing import Any

import orjson
import zmq

from coinspace.bus.journal import Journal
from coinspace.bus.segments import CHUNK_BYTES, JournalReader
from coinspace.bus.sockets import bind
from coinspace.config import BusSettings
from coinspace.errors import JournalError

POLL_MS = 200
REQUEST_SIZE_LIMIT = 1 << 16
# answers queued per client: an honest one has one request under way
ANSWERS_QUEUED = 4


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
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.sndhwm = ANSWERS_QUEUED
        self._socket.maxmsgsize = REQUEST_SIZE_LIMIT
        try:
            self._bound = bind(self._socket, bus.replay_endpoint(process), bus)
        except BaseException:
            self._socket.close()
            self._context.term()
            raise
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
        self._socket.close()
        self._bound.close()
        self._context.term()

    def _serve(self) -> None:
        self._reader.refresh()
        while not self._closing:
            if not self._socket.poll(POLL_MS):
                continue
            client, *parts = self._socket.recv_multipart()
            try:
                number, request = parts
                facts, records = self._answer(orjson.loads(request))
                self.requests += 1
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                JournalError,
                OSError,
            ) as error:
                self.refused += 1
                number = parts[0] if parts else b""
                facts, records = {"error": f"{type(error).__name__}: {error}"}, b""
            # a ROUTER never waits: an answer that the client has no room for is lost to it
            self._socket.send_multipart([client, number, orjson.dumps(facts), records], copy=True)

    def _answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        self._reader.refresh()
        if request["op"] == "list":
            return self._list(), b""
        if request["op"] != "fetch":
            raise JournalError(f"op: expected list or fetch, was {request['op']!r}")
        end = request["end"]
        chunk = self._reader.fetch(
            str(request["topic"]).encode(),
            int(request["epoch"]),
            int(request["first"]),
            None if end is None else int(end),
            CHUNK_BYTES,
        )
        facts = {"next": chunk.next, "missing": chunk.missing, "done": chunk.done}
        return facts | {"count": chunk.n_records}, chunk.records

    def _list(self) -> dict[str, Any]:
        held = {
            str(epoch): {topic.decode(): ranges for topic, ranges in topics.items()}
            for epoch, topics in self._reader.held().items()
        }
        return {
            "process": self.process,
            "epoch": self._journal.epoch,
            "problem": self._journal.problem,
            "held": held,
        }
