"""Streams on NATS without a database: what is sent, taken and refused, and what outages cost."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coinspace.bus import transport
from coinspace.bus.nats import probe
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import open_publisher
from coinspace.bus.streams import Lost, Reader, packed
from coinspace.bus.transport import read_stream
from coinspace.config import JournalSettings
from coinspace.observe import doctor
from tests.flow.bus_stage import BOOK, PROCESS, next_epoch
from tests.flow.streaming import deleted, on_servers, state_of, streamed
from tests.flow.test_nats import send
from tests.waiting import until

STREAM = "orderbook"
LARGE = 5000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Cluster]:
    """A server of one test, not started."""
    server = Cluster(tmp_path / "nats", more={"max_payload": 64 << 10})
    yield server
    server.close()


class Taken:
    """What a reader has taken, each sequence once: an acknowledgement may be lost.

    Args: confirm: acknowledge each batch.
    """

    def __init__(self, reader: Reader, *, confirm: bool = True) -> None:
        self.reader = reader
        self.confirm = confirm
        self.sequences: list[int] = []
        self.lost: list[Lost] = []

    async def more(self) -> None:
        batches = await self.reader.pull()
        for batch in batches:
            assert batch.publisher == PROCESS
            messages, lost = batch.read()
            new = [one.sequence for one in messages if one.topic == BOOK]
            self.sequences = list(dict.fromkeys([*self.sequences, *new]))
            self.lost += lost
        if self.confirm:
            await self.reader.confirm(batches)

    async def all(self, last: int) -> None:
        """Take until all sequences are there or named as missing."""

        async def there() -> bool:
            await self.more()
            named = {n for one in self.lost for n in range(one.first, one.last + 1)}
            return {*self.sequences, *named} >= set(range(1, last + 1))

        await until(
            there, f"1 to {last}", shown=lambda: (len(self.sequences), transport.problems())
        )


async def test_an_outage_delays_messages_and_keeps_their_order(
    tmp_path: Path, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, server.url)
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    taken = Taken(closing(read_stream(settings, STREAM)))
    # no server yet
    send(publisher, 100)
    await asyncio.to_thread(server.start)
    await taken.all(100)
    server.kill("n1")
    send(publisher, 100)
    # larger than the servers accept: named, counted, and nothing behind it waits
    send(publisher, 1, LARGE)
    send(publisher, 99)
    await asyncio.to_thread(server.start)
    await taken.all(300)
    assert taken.lost == [Lost(BOOK, publisher.epoch, 201, 201)]
    assert taken.sequences == [n for n in range(1, 301) if n != 201]
    assert publisher.counters()["stream_oversized"] == 1
    # nothing is kept that was acknowledged
    await until(lambda: not transport.problems(), shown=transport.problems)

    async def empty() -> bool:
        await taken.more()
        return not (await asyncio.to_thread(state_of, settings, STREAM)).messages

    await until(empty, "an empty stream")


async def test_an_outage_longer_than_the_journal_is_named(
    tmp_path: Path, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    small = JournalSettings(segment_bytes=1 << 16, max_bytes=1 << 20, min_free_bytes=0)
    settings = streamed(tmp_path, server.url).model_copy(update={"journal": small})
    server.start()
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    send(publisher, 10)
    await until(lambda: publisher.counters()["stream_messages"] == 10)
    server.kill("n1")

    def removed() -> bool:
        send(publisher, 100)
        return bool(publisher.counters()["journal_segments_removed"] > 3)

    await until(removed, "messages that no journal has")
    # messages that came faster than segments were made are known by the next one in the journal
    await until(lambda: publisher.journal.writer.has_next)
    send(publisher, 1)
    last = publisher.topic(BOOK).sequence
    await asyncio.to_thread(server.start)
    taken = Taken(closing(read_stream(settings, STREAM)))
    await taken.all(last)
    assert taken.lost
    named = {n for one in taken.lost for n in range(one.first, one.last + 1)}
    assert named | set(taken.sequences) == set(range(1, last + 1))
    assert not named & set(taken.sequences)
    assert publisher.counters()["stream_lost"] == len(named)


async def test_a_restarted_publisher_goes_on_where_it_ended(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url)
    taken = Taken(closing(read_stream(settings, STREAM)))
    for _ in range(3):
        publisher = open_publisher(PROCESS, settings, next_epoch())
        send(publisher, 50)
        publisher.close()
        await taken.all(50)
        assert taken.sequences == list(range(1, 51))
        taken.sequences.clear()


async def test_a_batch_without_an_acknowledgement_goes_to_another_worker(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url)
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    first, second = (closing(read_stream(settings, STREAM)) for _ in range(2))
    send(publisher, 20)
    batches = []

    async def all_taken() -> bool:
        batches.extend(await first.pull())
        return sum(len(one.read()[0]) for one in batches) == 20

    await until(all_taken, "all at the first worker")
    # for a while they stay with it, then it counts as dead
    await first.keep(batches)
    taken = Taken(second)
    await taken.all(20)
    assert sorted(set(taken.sequences)) == list(range(1, 21))
    # a late acknowledgement does no harm
    await first.confirm(batches)


async def test_a_stream_with_other_limits_is_refused_by_name(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url)
    await asyncio.to_thread(probe.apply_limits, settings)
    other = streamed(tmp_path, nats_url, platform=settings.bus.platform, max_bytes=32 << 20)
    publisher = closing(open_publisher(PROCESS, other, next_epoch()))
    taken = Taken(closing(read_stream(other, STREAM)))
    send(publisher, 10)

    async def refused() -> bool:
        await taken.more()
        return str(transport.problems()).count("expected max_bytes 33554432, was 67108864") == 2

    await until(refused, shown=transport.problems)
    assert taken.sequences == []
    findings = await asyncio.to_thread(lambda: list(doctor._streams(other)))
    assert {one.level for one in findings} == {"problem"}
    assert "coinspace cluster apply" in findings[0].text
    await asyncio.to_thread(probe.apply_limits, other)
    await taken.all(10)
    await until(lambda: not transport.problems(), shown=transport.problems)
    findings = await asyncio.to_thread(lambda: list(doctor._streams(other)))
    assert {one.level for one in findings} == {"ok"}


async def test_a_full_stream_leaves_messages_in_the_journal(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url, max_bytes=1 << 20)
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    send(publisher, 3000)
    await until(lambda: "it is full" in str(transport.problems()), shown=transport.problems)
    taken = Taken(closing(read_stream(settings, STREAM)))
    await taken.all(3000)
    assert taken.sequences == list(range(1, 3001))
    await until(lambda: not transport.problems(), shown=transport.problems)


async def test_servers_that_lose_what_they_acknowledged_get_it_again(
    tmp_path: Path, server: Cluster, closing: Callable[[Any], Any]
) -> None:
    """As after a power failure, which takes the last seconds of a disk that is synced later."""
    settings = streamed(tmp_path, server.url)
    server.start()
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))

    async def acknowledged(last: int) -> None:
        await until(lambda: publisher.counters()["stream_messages"] >= last, f"{last} taken")

    send(publisher, 50)
    await acknowledged(50)
    server.kill("n1", signal.SIGTERM)
    kept, data = tmp_path / "kept", server.folder / "n1" / "data"
    shutil.copytree(data, kept)
    server.start()
    send(publisher, 50)
    await acknowledged(100)
    server.kill("n1")
    shutil.rmtree(data)
    kept.rename(data)
    await asyncio.to_thread(server.start)
    taken = Taken(closing(read_stream(settings, STREAM)))
    await taken.all(100)
    assert publisher.counters()["stream_rewinds"] == 1
    assert taken.lost == []


async def test_a_deleted_stream_is_filled_from_what_is_not_stored(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url)
    publisher = closing(open_publisher(PROCESS, settings, next_epoch()))
    taken = Taken(closing(read_stream(settings, STREAM)))
    send(publisher, 50)
    await taken.all(50)
    shipment = publisher._shipment
    await until(lambda: shipment._checkpoints.stored.lasts.get(BOOK) == 50, "known as stored")
    taken.sequences.clear()
    # taken, but not acknowledged
    taken.confirm = False
    send(publisher, 50)
    await until(lambda: publisher.counters()["stream_messages"] >= 100)
    await taken.more()
    await asyncio.to_thread(deleted, settings, STREAM)
    taken.confirm = True
    taken.sequences.clear()
    send(publisher, 50)
    await until(lambda: publisher.counters()["stream_rewinds"] == 1, shown=publisher.counters)

    async def again() -> bool:
        await taken.more()
        return set(taken.sequences) >= set(range(51, 151))

    await until(again, "what was not stored", shown=lambda: taken.sequences)
    # what is stored was not sent again
    assert min(taken.sequences) == 51
    # the consumer alone
    await asyncio.to_thread(deleted, settings, STREAM, "storage")
    taken.sequences.clear()
    send(publisher, 50)

    async def rest() -> bool:
        await taken.more()
        return set(taken.sequences) >= set(range(151, 201))

    await until(rest, "the rest")


async def test_a_batch_that_cannot_be_read_is_not_delivered_again(
    tmp_path: Path, nats_url: str, closing: Callable[[Any], Any]
) -> None:
    settings = streamed(tmp_path, nats_url)
    await asyncio.to_thread(probe.apply_limits, settings)
    subject = f"{settings.bus.platform}.stream.{STREAM}.{PROCESS}"
    on = lambda client: client.request(subject, packed(b"rubbish"))  # noqa: E731
    await asyncio.to_thread(on_servers, settings, on)
    reader = closing(read_stream(settings, STREAM))
    batches = await until(reader.pull)
    await reader.refuse(batches[0])

    def gone() -> bool:
        return not state_of(settings, STREAM).messages

    await until(lambda: asyncio.to_thread(gone), "an empty stream")
