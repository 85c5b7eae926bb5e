"""A hostile publisher costs a subscriber only counted refusals and little memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import orjson
import pytest
import zmq

from coinspace._ext.message import HEARTBEAT, ORDERBOOK, encode_header
from coinspace.bus.subscriber import Subscriber
from tests.flow.bus_stage import BOOK
from tests.waiting import until


class Rogue:
    """Publishes any bytes on its own socket."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.sndhwm = 1_000_000
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._beats = itertools.count(1)

    def book(self, sequence: int, epoch: int = 5, topic: bytes = BOOK) -> None:
        header = encode_header(ORDERBOOK, epoch=epoch, sequence=sequence)
        self._socket.send_multipart([topic, header])

    def beat(self, payload: bytes) -> None:
        size, number = len(payload), next(self._beats)
        header = encode_header(HEARTBEAT, payload_size=size, epoch=5, sequence=number)
        self._socket.send_multipart([b"heartbeat.p.", header + payload])

    def close(self) -> None:
        self._socket.close(0)
        self._context.term()


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    made = Rogue()
    yield made
    made.close()


class Victim:
    """A subscriber and what its loop reported."""

    def __init__(self, rogue: Rogue) -> None:
        self.got: list[int] = []
        self.gaps: list[tuple[bytes, int, int, int]] = []
        self.subscriber = Subscriber(
            [rogue.endpoint],
            [b"orderbook."],
            lambda message: self.got.append(message.sequence),
            on_gap=lambda *gap: self.gaps.append(gap),
        )
        self.subscriber.start()

    async def heard(self, rogue: Rogue) -> None:
        """Wait until the subscriber is connected."""
        while not self.got:
            rogue.book(1)
            await asyncio.sleep(0.01)

    @property
    def counters(self) -> dict[str, int]:
        return self.subscriber.counters()


@pytest.fixture
async def victim(rogue: Rogue) -> Victim:
    made = Victim(rogue)
    await made.heard(rogue)
    return made


@pytest.mark.parametrize("sequence", [(1 << 63) - 1, 1 << 53, 1 << 62])
async def test_a_jump_to_the_end_of_the_numbers_is_refused(
    sequence: int, rogue: Rogue, victim: Victim
) -> None:
    before = victim.got[-1]
    rogue.book(sequence)
    rogue.book(before + 1)
    await until(lambda: victim.got[-1] == before + 1, "the next one is heard")
    assert victim.counters["malformed"] == 1
    assert victim.counters["missed"] == 0
    victim.subscriber.close()


@pytest.mark.parametrize(
    "number",
    [b"1e30", b"99999999999999999999", b"9223372036854775807", b"-5", b"[]", b"null", b'"a"'],
)
async def test_heartbeats_of_impossible_numbers_are_refused(
    number: bytes, rogue: Rogue, victim: Victim
) -> None:
    rogue.beat(b'{"process":"p","epoch":5,"sequences":{"%b":%b},"states":{}}' % (BOOK, number))
    await until(lambda: victim.counters["malformed"] == 1, "refused")
    rogue.book(2)
    await until(lambda: 2 in victim.got, "still hears")
    assert victim.counters["callback_errors"] == 0
    victim.subscriber.close()


@pytest.mark.parametrize("process", [["a"], {"a": 1}, None, 5, "x" * 300])
async def test_heartbeats_of_impossible_names_are_refused(
    process: object, rogue: Rogue, victim: Victim
) -> None:
    rogue.beat(orjson.dumps({"process": process, "epoch": 5, "sequences": {}}))
    await until(lambda: victim.counters["malformed"] == 1, "refused")
    victim.subscriber.close()


async def test_a_heartbeat_of_megabytes_is_refused_unread(rogue: Rogue, victim: Victim) -> None:
    sequences = {f"orderbook.upbit.{i:060}/KRW.": 1 for i in range(20_000)}
    rogue.beat(orjson.dumps({"process": "p", "epoch": 5, "sequences": sequences}))
    await until(lambda: victim.counters["malformed"] == 1, "refused")
    assert victim.gaps == []
    victim.subscriber.close()


async def test_epochs_and_processes_without_end_are_bounded(rogue: Rogue, victim: Victim) -> None:
    for i in range(2000):
        rogue.book(1, epoch=10 + i)
        rogue.beat(orjson.dumps({"process": f"p{i}", "epoch": 5, "sequences": {}}))
    await until(lambda: len(victim.got) >= 2001, "all are heard")
    await until(lambda: victim.counters["malformed"] == 2000 - 1024, "the processes are bounded")
    # a forgotten epoch begins again, and the newest continues
    received = len(victim.got)
    rogue.book(1, epoch=10 + 1999)
    rogue.book(1, epoch=10 + 500)
    await until(lambda: len(victim.got) == received + 1, "heard as new")
    assert victim.counters["repeated"] >= 1
    victim.subscriber.close()


@pytest.mark.parametrize(
    "topic",
    [b"orderbook.\xff\xfe.BTC/KRW.", b"orderbook.\xed\xa0\x80.X.", b"orderbook.upbit.\xc3."],
)
async def test_a_topic_that_is_no_text_is_refused_on_arrival(
    rogue: Rogue, victim: Victim, topic: bytes
) -> None:
    # a loss is reported by the topic's name
    for sequence in (1, 5):
        rogue.book(sequence, topic=topic)
    rogue.book(2)
    await until(lambda: 2 in victim.got, "the message behind")
    assert victim.counters["malformed"] == 2
    assert victim.counters["callback_errors"] == 0
    assert not victim.gaps
    victim.subscriber.close()


async def test_messages_of_a_busy_bus_are_read_together(rogue: Rogue) -> None:
    pause_s = 0.2
    got: list[int] = []
    read_s: list[float] = []
    loop = asyncio.get_running_loop()
    subscriber = Subscriber(
        [rogue.endpoint],
        [b"orderbook."],
        lambda message: got.append(message.sequence),
        on_drained=lambda: read_s.append(loop.time()),
        pause_s=pause_s,
    )
    subscriber.start()
    while not got:
        rogue.book(1)
        await asyncio.sleep(0.01)
    for number in range(2, 60):
        rogue.book(number)
        await asyncio.sleep(0.01)
    await until(lambda: got[-1] == 59, "all are read")
    # a pause ends at most a step of the clock too early
    assert all(after - before > 0.9 * pause_s for before, after in itertools.pairwise(read_s))
    # after a silence the next message is read, too
    await until(lambda: not subscriber._paused, "the silence is noticed")
    rogue.book(60)
    await until(lambda: got[-1] == 60, "the next one is read")
    assert subscriber.counters()["missed"] == 0
    subscriber.close()


async def test_a_market_that_is_added_later_has_lost_nothing_before(rogue: Rogue) -> None:
    other = b"orderbook.upbit.ETH/KRW."
    got: list[tuple[bytes, int]] = []
    gaps: list[tuple[bytes, int, int, int]] = []
    subscriber = Subscriber(
        [rogue.endpoint],
        [BOOK],
        lambda message: got.append((message.topic, message.sequence)),
        on_gap=lambda *gap: gaps.append(gap),
    )
    subscriber.start()
    beat = b'{"process":"p","epoch":5,"sequences":{"%b":%d,"%b":%d},"states":{}}'
    numbers = itertools.count(1)
    while not got:
        rogue.book(next(numbers))
        await asyncio.sleep(0.01)
    rogue.beat(beat % (BOOK, got[-1][1], other, 700))
    await until(lambda: not subscriber.counters()["publishers_unheard"], "the heartbeat is read")
    rogue.book(701, topic=other)
    subscriber.add(other)
    late = itertools.count(702)
    while got[-1][0] != other:
        rogue.book(next(late), topic=other)
        await asyncio.sleep(0.01)
    assert gaps == []
    # from then on, missing messages are noticed
    end = next(late)
    rogue.book(end + 1, topic=other)
    await until(lambda: (other, end + 1) in got, "later messages arrive")
    assert gaps == [(other, 5, end, end + 1)]
    subscriber.close()


async def test_thousands_of_markets_can_be_subscribed_to(rogue: Rogue) -> None:
    topics = [b"orderbook.upbit.C%d/KRW." % number for number in range(3000)]
    got: set[bytes] = set()
    subscriber = Subscriber([rogue.endpoint], topics, lambda message: got.add(message.topic))
    subscriber.start()

    def all_heard() -> bool:
        for topic in set(topics) - got:
            rogue.book(1, topic=topic)
        return not set(topics) - got

    await until(all_heard, "each market is heard", shown=lambda: len(got))
    subscriber.close()
