"""The NATS transport under faults: no server, a lost one, a wrong password, a message too large."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import numpy as np
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from coinspace._ext.message import ORDERBOOK
from coinspace.bus import transport
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.nats import pumps, subjects
from coinspace.bus.nats.pumps import MORE, PARTS_LIMIT
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import Publisher, open_publisher
from coinspace.config import NATS_SCHEME, Settings
from coinspace.errors import BusError, JournalError
from tests.flow.bus_stage import BOOK, PROCESS, Listener, joined, listen, next_epoch, settings_in
from tests.flow.certificates import make_certificates
from tests.waiting import until

LARGE = 5000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Cluster]:
    """A server of one test, not started."""
    server = Cluster(tmp_path / "nats", more={"max_payload": 64 << 10})
    yield server
    server.close()


@pytest.fixture
def settings(tmp_path: Path, server: Cluster) -> Settings:
    return settings_in(tmp_path, url=server.url)


def send(publisher: Publisher, n: int, levels: int = 30) -> None:
    handle = publisher.topic(BOOK)
    for _ in range(n):
        book = np.full(4 * levels, handle.sequence + 1.0)
        publisher.publish(handle, ORDERBOOK, book, n_bids=levels, n_asks=levels)


def accounted(listener: Listener) -> set[int]:
    """Return the sequences that were received or found missing."""
    found = set(listener.sequences())
    for _, _, first, end in listener.lost:
        found |= set(range(first, end))
    return found


def test_topics_and_subjects() -> None:
    for topic in (BOOK, b"index.BTC.", "trade.upbit.코인/KRW.".encode(), b"trade.x.A *>/B."):
        subject = subjects.subject("c.bus.p", topic)
        assert subjects.topic("c.bus.p", subject) == topic
        assert not set(subject) & set(" *>")
        assert subjects.pattern("c.bus.p", topic) == subject
    assert subjects.pattern("c", b"orderbook.upbit.") == "c.orderbook.upbit.>"
    assert subjects.pattern("c", b"orderbook.up") == "c.orderbook.>"
    assert subjects.pattern("c", b"index.") == "c.index.>"
    assert subjects.pattern("c", b"") == "c.>"


async def test_a_server_may_start_later_and_return(
    settings: Settings, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    listener = closing(listen(publisher, [b"orderbook."]))
    listener.start()
    send(publisher, 3)
    await until(lambda: "refused" in str(transport.problems()), "the missing server in the health")
    server.start()
    await joined(publisher, listener)
    assert transport.problems() == []
    send(publisher, 5)
    await until(lambda: listener.sequences()[-1:] == [8], "the newest message")
    for _ in range(2):
        server.kill("n1")
        await until(transport.problems, "the lost server in the health")
        send(publisher, 100)
        await asyncio.to_thread(server.start)
        await until(lambda: not transport.problems(), "the connection")
    send(publisher, 1)
    last = publisher.topic(BOOK).sequence

    def settled() -> bool:
        publisher.heartbeat()
        return accounted(listener) >= set(range(4, last + 1))

    await until(settled, "each message received or known as missing", shown=lambda: listener.lost)
    # what the outage lost is in the journal, which answers over NATS too
    journal = closing(JournalClient(publisher.endpoint.replace(".bus.", ".journal."), settings.bus))
    found = await asyncio.to_thread(journal.fetch, BOOK, publisher.epoch, 1, last + 1)
    assert [message.sequence for message in found.messages] == list(range(1, last + 1))
    assert found.done


async def test_a_message_beyond_the_servers_limit_stays_in_the_journal(
    settings: Settings, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    server.start()
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    listener = closing(listen(publisher, [b"orderbook."]))
    await joined(publisher, listener)
    before = publisher.counters()["dropped"]
    send(publisher, 1)
    send(publisher, 1, LARGE)
    send(publisher, 1)
    await until(lambda: listener.sequences() == [1, 3], "the small messages")
    assert listener.lost == [(BOOK, publisher.epoch, 2, 3)]
    assert publisher.counters()["dropped"] == before + 1
    # an answer larger than a message travels in parts
    endpoint = settings.bus.replay_endpoint(PROCESS)
    journal = closing(JournalClient(endpoint, settings.bus))
    ranges = await asyncio.to_thread(journal.ranges)
    assert ranges == {publisher.epoch: {BOOK: [(1, 4)]}}
    found = await asyncio.to_thread(journal.fetch, BOOK, publisher.epoch, 2, 3)
    assert [message.n_bids for message in found.messages] == [LARGE]


async def test_a_journal_without_a_publisher_is_reported_at_once(
    settings: Settings, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    server.start()
    endpoint = settings.bus.replay_endpoint(PROCESS)
    journal = closing(JournalClient(endpoint, settings.bus))

    await refused(journal, "is the publisher running?")


async def refused(journal: JournalClient, reason: str) -> None:
    """Wait until a request is refused for a reason; the first ones may be without a connection."""

    async def named() -> bool:
        with pytest.raises(JournalError) as caught:
            await asyncio.to_thread(journal.ranges)
        return reason in str(caught.value)

    await until(named, reason)


async def test_an_answer_or_a_request_larger_than_any_is_refused(
    settings: Settings,
    server: Cluster,
    closing: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # this server takes no message of a MB
    monkeypatch.setattr(pumps, "REQUEST_LIMIT", 1000)
    server.start()
    endpoint = settings.bus.replay_endpoint(PROCESS)
    journal = closing(JournalClient(endpoint, settings.bus))
    stranger = await nats.connect(server.url)

    async def flood(message: Msg) -> None:
        for _ in range(PARTS_LIMIT + 1):
            await message.respond(MORE)

    try:
        flooding = await stranger.subscribe(endpoint.removeprefix(NATS_SCHEME), cb=flood)
        await stranger.flush()
        await refused(journal, "expected an answer of at most")
        await flooding.unsubscribe()

        closing(open_publisher(PROCESS, settings, next_epoch()))
        subject, large = endpoint.removeprefix(NATS_SCHEME), bytes(1001)
        answer = await until_answered(stranger, subject, large)
        assert b"expected a request of at most" in answer
    finally:
        await stranger.close()
    # others still get answers
    assert await asyncio.to_thread(journal.ranges) == {}


async def until_answered(client: Client, subject: str, request: bytes) -> bytes:
    while True:
        try:
            return (await client.request(subject, request)).data
        except nats.errors.NoRespondersError:
            # the publisher has not subscribed yet
            await asyncio.sleep(0.01)


async def test_a_wrong_password_is_a_problem_not_a_crash(
    tmp_path: Path, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    server.start()
    url = server.url.replace("nats://coinspace:", "nats://coinspace:wrong")
    settings = settings_in(tmp_path, url=url)
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    await until(
        lambda: "Authorization Violation" in str(transport.problems()), shown=transport.problems
    )
    send(publisher, 10)
    assert publisher.published == 10


async def test_a_name_is_of_one_process_of_all_hosts(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    bus = {"url": nats_url, "platform": f"hosts-{os.getpid()}"}
    here, there = (settings_in(tmp_path / name, **bus) for name in ("here", "there"))
    first = Publisher(PROCESS, here.bus, next_epoch())
    try:
        with pytest.raises(BusError, match="another host has this role"):
            closing(Publisher(PROCESS, there.bus, next_epoch()))
    finally:
        first.close()
    closing(Publisher(PROCESS, there.bus, next_epoch()))


async def test_a_slow_subscriber_misses_its_own_messages_only(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = settings_in(tmp_path, url=nats_url, platform=f"slow-{os.getpid()}")
    publisher = closing(Publisher(PROCESS, settings.bus, next_epoch()))
    small = settings.bus.model_copy(update={"high_water_mark": 100})
    slow = closing(listen(publisher, [b"orderbook."], bus=small))
    quick = closing(listen(publisher, [b"orderbook."]))
    await joined(publisher, slow, quick)
    loop = asyncio.get_running_loop()
    loop.remove_reader(slow._fd)
    assert slow._poll is not None
    slow._poll.stop()
    sent = 0

    def keeps_up() -> bool:
        return len(quick.messages) == sent

    for _ in range(10):
        send(publisher, 100)
        sent += 100
        await until(keeps_up, "the quick one")
    loop.add_reader(slow._fd, slow._drain)

    def settled() -> bool:
        publisher.heartbeat()
        slow.drain()
        return bool(len(slow.messages) + slow.counters()["missed"] == sent)

    await until(settled, "received + missed = published at the slow one")
    assert slow.counters()["missed"] > 0
    assert quick.sequences() == list(range(1, sent + 1))


async def test_servers_are_checked_with_their_certificates(
    tmp_path: Path, closing: Callable[[Any], Any]
) -> None:
    authority, _ = make_certificates(tmp_path)
    files = {"cert_file": str(tmp_path / "server.pem"), "key_file": str(tmp_path / "server.pem")}
    server = Cluster(tmp_path / "nats", more={"tls": files})
    server.start()
    try:
        good = settings_in(tmp_path, url=server.url, ca_file=str(authority))
        publisher = closing(open_publisher(PROCESS, good, next_epoch()))
        listener = closing(listen(publisher, [b"orderbook."]))
        await joined(publisher, listener)
        unknown = settings_in(tmp_path, url=server.url, platform="other")
        closing(Publisher(PROCESS, unknown.bus, next_epoch()))
        await until(lambda: "certificate verify failed" in str(transport.problems()))
    finally:
        server.close()
