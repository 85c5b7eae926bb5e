"""Takes batches of a stream for a storage worker, on the link's thread.

The workers of a stream share one durable consumer: the servers give each batch to one of them, and
to another one when no acknowledgement comes in time. A stream or consumer that was deleted under
the worker is made again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from coinspace.bus.nats import jetstream
from coinspace.bus.nats.jetstream import FAILURES, Refused, Trouble
from coinspace.bus.nats.link import open_link
from coinspace.bus.streams import Batch
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.tasks import within

T = TypeVar("T")

# batches of one request
ASKED = 16
# a request ends after this time; the servers answer each one
PULL_S = 1.0
ANSWER_S = 3.0
RETRY_S = 0.5
# the end of a request without anything wrong: none there, time over
NORMAL = ("404", "408")
ACK, PROGRESS, DROP = b"+ACK", b"+WPI", b"+TERM"
# words of the subject that acknowledges a batch, from its end: …SEQUENCE.DELIVERY.NS.PENDING
NS_WORD = -2


class NatsReader:
    """Takes the batches of one stream. Use it from one event loop, which is not the link's."""

    def __init__(self, settings: Settings, stream: str) -> None:
        self._settings = settings
        self._stream = stream
        self._name = jetstream.name_of(settings.bus, stream)
        self._arrived: list[Msg] = []
        self._woken = asyncio.Event()
        # batches that the last request may still bring
        self._credit = 0
        # the client that the inbox belongs to; None = the consumer has to be looked at again
        self._client: Client | None = None
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._batches = self._malformed = self._failures = 0
        self._link, self._give_back = open_link(settings.bus)
        text = f"no messages from stream {self._name}"
        self._trouble = Trouble(self._link, self._name, text)
        self._closed = False

    def counters(self) -> dict[str, int]:
        return {
            "stream_batches": self._batches,
            "stream_malformed": self._malformed,
            "stream_retries": self._failures,
        }

    async def pull(self) -> list[Batch]:
        """Wait for batches, about a second. Returns: [] when there was none."""
        return await self._on_link(self._pull())

    async def confirm(self, batches: Sequence[Batch]) -> None:
        """Acknowledge batches that are stored: the stream forgets them."""
        await self._on_link(self._answer(batches, ACK))

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Say that batches are still being worked on."""
        await self._on_link(self._answer(batches, PROGRESS))

    async def refuse(self, batch: Batch) -> None:
        """Have a batch that cannot be read not delivered again."""
        self._malformed += 1
        await self._on_link(self._answer([batch], DROP))

    def close(self) -> None:
        """End; batches without an acknowledgement go to another worker later. Idempotent."""
        if not self._closed:
            self._closed = True
            self._link.call(self._leave())
            self._trouble.clear()
            self._give_back()

    async def _on_link(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._link.loop))

    async def _pull(self) -> list[Batch]:
        try:
            client = self._link.client
            if client is None or not client.is_connected:
                raise nats.errors.ConnectionClosedError
            if client is not self._client:
                await self._join(client)
            if not self._arrived and not self._credit:
                await self._ask(client)
            if not self._arrived and not await within(ANSWER_S, self._woken):
                # each request is answered: the server has changed, or the consumer is gone
                self._credit = 0
                raise Refused(f"stream {self._name}: no answer within {ANSWER_S:.0f} s")
            self._trouble.clear()
        except FAILURES as error:
            await self._failed(error)
        self._woken.clear()
        arrived, self._arrived = self._arrived, []
        found = [batch for message in arrived if (batch := self._batch(message)) is not None]
        self._batches += len(found)
        return found

    async def _join(self, client: Client) -> None:
        await self._leave()
        await jetstream.agreed(client, self._settings, self._stream)
        await jetstream.share(client, self._settings, self._stream)
        self._inbox = client.new_inbox()
        self._credit = 0
        self._subscription = await client.subscribe(self._inbox, cb=self._on_message)
        self._client = client

    async def _leave(self) -> None:
        subscription, self._subscription, self._client = self._subscription, None, None
        if subscription is not None:
            try:
                await subscription.unsubscribe()
            except FAILURES:
                # its client has ended
                return

    async def _ask(self, client: Client) -> None:
        self._woken.clear()
        facts = {"batch": ASKED, "expires": int(PULL_S * SECOND_NS)}
        what = f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{jetstream.CONSUMER}"
        self._credit = ASKED
        await client.publish(what, orjson.dumps(facts), self._inbox)

    async def _on_message(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is None:
            self._credit = max(0, self._credit - 1)
            self._arrived.append(message)
        else:
            self._credit = 0
            if status not in NORMAL:
                # the consumer or its leader is gone: look at both again
                reason = (message.headers or {}).get("Description", "no consumer")
                self._link.report(f"stream {self._name}: {reason}")
                self._client = None
        self._woken.set()

    def _batch(self, message: Msg) -> Batch | None:
        try:
            at_ns = int(message.reply.split(".")[NS_WORD])
        except (IndexError, ValueError):
            self._malformed += 1
            return None
        publisher = message.subject.rpartition(".")[2]
        return Batch(publisher, message.data, at_ns, message.reply)

    async def _answer(self, batches: Sequence[Batch], answer: bytes) -> None:
        client = self._link.client
        try:
            for batch in batches:
                if client is None or not client.is_connected:
                    # they are delivered again, which the tables' keys make harmless
                    return
                await client.publish(batch.receipt, answer)
        except FAILURES as error:
            self._link.report(repr(error))

    async def _failed(self, error: BaseException) -> None:
        self._failures += 1
        self._client = None
        self._trouble.note(error)
        await asyncio.sleep(RETRY_S)
