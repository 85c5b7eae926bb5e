"""Pumps carry messages between this process's sockets and the NATS servers, on the link's thread.

A stage's socket and its pump's socket are the two ends of an in-process libzmq queue: neither
thread waits for the other.

    socket of the stage    pump       on NATS
    PUB                    Outlet     publishes ROOT.TOPIC
    SUB                    Inlet      subscribes to ROOT.PREFIX
    ROUTER                 Service    answers requests to ROOT
    DEALER                 Asker      sends requests to ROOT

An answer may exceed the servers' largest message: it travels in parts, each after a byte that says
whether more follow. It begins with the size of its facts (u32, little-endian), then come the facts
and the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import nats.errors
import orjson
import zmq
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from coinspace._ext.receiver import CHANNEL_LIMIT
from coinspace.bus.context import Socket, close_socket, open_socket
from coinspace.bus.nats import subjects
from coinspace.bus.nats.link import PENDING_BYTES, Link
from coinspace.errors import BusError
from coinspace.tasks import within
from coinspace.text import printable

# messages between two turns of the link's loop
SLICE = 256
# the FD is edge-triggered: this poll reads on after a missed edge
SAFETY_POLL_S = 0.1
ROOM_POLL_S = 0.001
PART_BYTES = 256 << 10
MORE, LAST = b"\1", b"\0"
SIZE_BYTES = 4
# requests that wait for an answer
ASKED = 64
ANSWER_LIMIT = 64 << 20
PARTS_LIMIT = 10_000
REQUEST_LIMIT = 1 << 20
OWNER_LIMIT = 200
NO_RESPONDERS = "503"
CLAIM_S = 1.0

OnMessage = Callable[[Msg], Awaitable[None]]

_numbers = itertools.count(1)


class Pump:
    """One end of an in-process queue. Make and close it on the link's thread."""

    kind: int
    name: str

    def __init__(self, link: Link, root: str, queued: int) -> None:
        self.root = root
        self.address = f"inproc://nats-{next(_numbers)}"
        self._link = link
        self._readable = asyncio.Event()
        self._socket: Socket = open_socket(self.kind)
        self._socket.sndhwm = self._socket.rcvhwm = queued
        self._socket.bind(self.address)
        self._fd = self._socket.FD
        link.loop.add_reader(self._fd, self._readable.set)
        self._subscriptions: list[Subscription] = []
        self._closing = False
        self._task = link.tasks.keep(self.name, self._run, ends=True)

    async def join(self, client: Client) -> None:
        """Subscribe with a new client."""
        self._subscriptions.clear()

    async def close(self) -> None:
        self._link.remove(self)
        # Python 3.11's wait_for loses a cancellation that arrives together with what it waits for
        self._closing = True
        self._readable.set()
        await self._link.tasks.end(self._task)
        for one in self._subscriptions:
            with contextlib.suppress(nats.errors.Error):
                await one.unsubscribe()
        self._link.loop.remove_reader(self._fd)
        close_socket(self._socket)

    async def _run(self) -> None:
        while not self._closing:
            await within(SAFETY_POLL_S, self._readable)
            self._readable.clear()
            await self.drain()

    async def drain(self) -> None:
        """Take all waiting messages of the socket."""
        for number in itertools.count(1):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            await self._take(parts)
            if not number % SLICE:
                await asyncio.sleep(0)

    async def _take(self, parts: list[bytes]) -> None:
        raise NotImplementedError

    async def _listen(self, client: Client, subject: str, callback: OnMessage) -> None:
        self._subscriptions.append(await client.subscribe(subject, cb=callback))

    async def _publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Publish; wait for room while the server takes what is queued before.

        Raises: nats.errors.Error without a connection, or when the message is too large.
        """
        client = self._link.client
        while client is not None and client.pending_data_size + len(body) > PENDING_BYTES:
            if client is not self._link.client or not client.is_connected:
                client = None
            else:
                await asyncio.sleep(ROOM_POLL_S)
        if client is None:
            raise nats.errors.ConnectionClosedError
        await client.publish(subject, body, reply)

    def _give(self, parts: list[bytes]) -> bool:
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT)
        except zmq.Again:
            return False
        finally:
            # sending may consume the edge of a message that came meanwhile
            self._readable.set()
        return True


class Outlet(Pump):
    """Publishes what a PUB socket sends.

    Attributes: dropped: messages without a connection, or larger than the servers accept.
    """

    kind = zmq.SUB
    name = "nats outlet"

    def __init__(self, link: Link, root: str, queued: int) -> None:
        super().__init__(link, root, queued)
        self.dropped = 0
        self._subjects: dict[bytes, str] = {}
        self._socket.subscribe(b"")

    @classmethod
    async def claim(cls, link: Link, root: str) -> None:
        """Make sure that no running process has the name, as far as the servers can be reached.

        Raises: BusError when a process of this name answers.
        """
        client = await link.connected(CLAIM_S)
        if client is None:
            return
        try:
            owner = await client.request(_owned(root), b"", timeout=CLAIM_S)
        except nats.errors.Error:
            # it has ended, or its host is gone
            return
        raise BusError(
            f"{root}: expected no other process, found"
            f" {printable(owner.data[:OWNER_LIMIT].decode(errors='replace'))}:"
            " another host has this role"
        )

    async def join(self, client: Client) -> None:
        await super().join(client)
        await self._listen(client, _owned(self.root), self._answer_owner)

    async def _answer_owner(self, message: Msg) -> None:
        with contextlib.suppress(nats.errors.Error):
            await message.respond(f"process {os.getpid()} of {socket.gethostname()}".encode())

    async def finish(self) -> None:
        """Send what waits in the queue."""
        await self.drain()
        client = self._link.client
        if client is not None and client.is_connected:
            await client.flush()

    async def _take(self, parts: list[bytes]) -> None:
        topic, body = parts
        subject = self._subjects.get(topic)
        if subject is None:
            subject = self._subjects[topic] = subjects.subject(self.root, topic)
        try:
            await self._publish(subject, body)
        except nats.errors.MaxPayloadError:
            self.dropped += 1
            self._link.report(
                f"{topic.decode()}: a message of {len(body)} bytes is too large for the servers:"
                " raise max_payload in their configuration"
            )
        except nats.errors.Error:
            # subscribers count what is missing and fetch it from the journal
            self.dropped += 1


class Inlet(Pump):
    """Gives a SUB socket the messages that its subscriptions select."""

    # the subscriptions of the SUB socket are the messages of this one
    kind = zmq.XPUB
    name = "nats inlet"

    def __init__(self, link: Link, root: str, queued: int) -> None:
        super().__init__(link, root, queued)
        # patterns of subjects, in the order of subscription
        self._patterns: dict[str, None] = {}
        self._client: Client | None = None
        self._topics: dict[str, bytes] = {}

    async def join(self, client: Client) -> None:
        await super().join(client)
        self._client = client
        for pattern in list(self._patterns):
            await self._listen(client, pattern, self._on_message)

    async def _take(self, parts: list[bytes]) -> None:
        command = parts[0]
        if command[:1] != b"\1":
            # a socket only ends its subscriptions when it closes
            return
        pattern = subjects.pattern(self.root, command[1:])
        if pattern not in self._patterns:
            self._patterns[pattern] = None
            if self._client is not None:
                await self._listen(self._client, pattern, self._on_message)

    async def _on_message(self, message: Msg) -> None:
        topic = self._topics.get(message.subject)
        if topic is None:
            if len(self._topics) >= CHANNEL_LIMIT:
                self._topics.clear()
            topic = self._topics[message.subject] = subjects.topic(self.root, message.subject)
        if not self._socket.closed:
            self._give([topic, message.data])


class Service(Pump):
    """Gives a ROUTER socket the requests to its name, and sends the answers back."""

    kind = zmq.DEALER
    name = "nats service"

    def __init__(self, link: Link, root: str, queued: int) -> None:
        super().__init__(link, root, queued)
        # number of a request -> where its answer goes
        self._replies: dict[bytes, str] = {}

    async def join(self, client: Client) -> None:
        await super().join(client)
        self._replies.clear()
        await self._listen(client, self.root, self._on_request)

    async def _on_request(self, message: Msg) -> None:
        number = str(next(_numbers)).encode()
        if len(message.data) > REQUEST_LIMIT:
            text = f"expected a request of at most {REQUEST_LIMIT} bytes, was {len(message.data)}"
            await self._answer(message.reply, orjson.dumps({"error": text}), b"")
        elif len(self._replies) < ASKED and self._give([number, message.data]):
            self._replies[number] = message.reply
        else:
            facts = orjson.dumps({"error": f"expected at most {ASKED} requests, try later"})
            await self._answer(message.reply, facts, b"")

    async def _take(self, parts: list[bytes]) -> None:
        number, facts, records = parts
        reply = self._replies.pop(number, "")
        if reply:
            await self._answer(reply, facts, records)

    async def _answer(self, reply: str, facts: bytes, records: bytes) -> None:
        client = self._link.client
        if client is None:
            return
        whole = b"".join((len(facts).to_bytes(SIZE_BYTES, "little"), facts, records))
        size = min(PART_BYTES, client.max_payload - 1)
        try:
            for start in range(0, len(whole), size):
                last = start + size >= len(whole)
                await self._publish(reply, (LAST if last else MORE) + whole[start : start + size])
        except nats.errors.Error as error:
            # the client's request ends with a time-out
            self._link.report(repr(error))


@dataclass
class _Answer:
    """What has come of an answer; identity and number are those of the socket's request."""

    identity: bytes
    number: bytes
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, part: bytes) -> bool:
        """Take a part. Returns: whether the answer is not larger than any."""
        self.parts.append(part)
        self.size += len(part)
        return self.size <= ANSWER_LIMIT and len(self.parts) <= PARTS_LIMIT


class Asker(Pump):
    """Sends a DEALER socket's requests to a service."""

    kind = zmq.ROUTER
    name = "nats asker"

    def __init__(self, link: Link, root: str, queued: int) -> None:
        super().__init__(link, root, queued)
        self._inbox = ""
        # number of a request -> its answer so far
        self._answers: dict[str, _Answer] = {}

    async def join(self, client: Client) -> None:
        await super().join(client)
        self._inbox = client.new_inbox()
        await self._listen(client, f"{self._inbox}.*", self._on_answer)

    async def _take(self, parts: list[bytes]) -> None:
        identity, number, request = parts
        # an earlier request has timed out
        self._answers.clear()
        self._answers[number.decode()] = _Answer(identity, number)
        if self._link.client is None or not self._inbox:
            self._refuse(identity, number, f"no connection to NATS: {self._link.problem}")
            return
        try:
            await self._publish(self.root, request, f"{self._inbox}.{number.decode()}")
        except nats.errors.Error as error:
            self._refuse(identity, number, repr(error))

    async def _on_answer(self, message: Msg) -> None:
        found = self._answers.get(message.subject.rpartition(".")[2])
        if found is None:
            return
        identity, number = found.identity, found.number
        if message.headers and message.headers.get("Status") == NO_RESPONDERS:
            self._refuse(identity, number, "no process answers there; is the publisher running?")
            return
        if not found.add(message.data[1:]):
            text = f"expected an answer of at most {ANSWER_LIMIT} bytes in {PARTS_LIMIT} parts"
            self._refuse(identity, number, text)
        elif message.data[:1] == LAST:
            whole = b"".join(found.parts)
            end = SIZE_BYTES + int.from_bytes(whole[:SIZE_BYTES], "little")
            self._finish(identity, number, whole[SIZE_BYTES:end], whole[end:])

    def _refuse(self, identity: bytes, number: bytes, reason: str) -> None:
        self._finish(identity, number, orjson.dumps({"error": reason}), b"")

    def _finish(self, identity: bytes, number: bytes, facts: bytes, records: bytes) -> None:
        self._answers.pop(number.decode(), None)
        self._give([identity, number, facts, records])


def _owned(root: str) -> str:
    """Return the subject on which the process of a name says that it has the name."""
    platform, rest = root.split(".", 1)
    return f"{platform}.owner.{rest}"


# made on the link's thread
Maker = Callable[[Link, str, int], Pump]
