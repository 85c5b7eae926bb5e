"""Publishers and subscribers on real sockets: order, loss, slow peers, restarts, garbage, keys."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import zmq
from pydantic import SecretStr

from coinspace._ext.message import (
    AGGREGATE,
    HEARTBEAT,
    ORDERBOOK,
    STATE,
    TRADE,
    Message,
    encode_header,
)
from coinspace._ext.sink import ListSink
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.config import BusSettings, Settings
from coinspace.errors import BusError
from tests.flow.bus_stage import (
    BOOK,
    PROCESS,
    Listener,
    joined,
    listen,
    next_epoch,
    settings_in,
)
from tests.waiting import LIMIT_S, until

LEVELS = np.arange(120.0)


@pytest.fixture
def ipc(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def tcp(tmp_path: Path) -> Settings:
    return settings_in(tmp_path, endpoints={PROCESS: "tcp://127.0.0.1:*"})


@pytest.fixture
def nats(tmp_path: Path, nats_url: str) -> Settings:
    return settings_in(tmp_path, url=nats_url, platform=f"test-{os.getpid()}-{next_epoch()}")


@pytest.fixture(params=["ipc", "tcp"])
def zmq_settings(request: pytest.FixtureRequest) -> Settings:
    settings: Settings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture(params=["ipc", "tcp", "nats"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of each transport: the tests below are the contract that all of them keep."""
    settings: Settings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture(params=["ipc", "nats"])
def local(request: pytest.FixtureRequest) -> Settings:
    """Settings of each transport once."""
    settings: Settings = request.getfixturevalue(request.param)
    return settings


@pytest.fixture
def publisher(settings: Settings) -> Iterator[Publisher]:
    publisher = Publisher(PROCESS, settings.bus, next_epoch())
    yield publisher
    publisher.close()


def send(publisher: Publisher, n: int, topic: bytes = BOOK) -> None:
    handle = publisher.topic(topic)
    for _ in range(n):
        sequence = handle.sequence + 1
        publisher.publish(handle, ORDERBOOK, LEVELS + sequence, n_bids=30, n_asks=30, id=sequence)


async def test_everything_arrives_in_order(publisher: Publisher) -> None:
    listener = listen(publisher, [b"orderbook.", b"trade."])
    await joined(publisher, listener)
    trade = publisher.topic(b"trade.upbit.BTC/KRW.")
    ignored = publisher.topic(b"ticker.upbit.BTC/KRW.")
    for i in range(20):
        send(publisher, 100)
        publisher.publish(trade, TRADE, np.array([i, 1.0]))
        publisher.publish(ignored, 2, np.zeros(11))
        await asyncio.sleep(0)
    await until(lambda: len(listener.messages) == 2020, "2,020 messages")
    assert listener.sequences() == list(range(1, 2001))
    assert listener.sequences(trade.name) == list(range(1, 21))
    assert all(
        message.bids[0, 0] == message.sequence and message.asks[1, 29] == 119 + message.sequence
        for message in listener.messages
        if message.topic == BOOK
    )
    # numpy and Cython read aligned numbers faster
    assert all(message.bids.flags.aligned for message in listener.messages if message.n_bids)
    counters = listener.counters()
    assert (counters["gaps"], counters["missed"], counters["malformed"]) == (0, 0, 0)
    assert publisher.counters() | {"dropped": 0} == publisher.counters()
    listener.close()


async def test_signals_do_not_tear_messages(publisher: Publisher) -> None:
    listener = listen(publisher, [b"orderbook."])
    await joined(publisher, listener)
    came = 0

    def count(_number: int, _frame: object) -> None:
        nonlocal came
        came += 1

    def progress() -> object:
        return sent, len(listener.messages), came, listener.counters(), publisher.counters()

    def nearly_read() -> bool:
        return sent - len(listener.messages) < 5000

    before = signal.signal(signal.SIGALRM, count)
    sent = 0
    try:
        while sent < 20_000 or came <= 100:
            # a signal interrupts libzmq wherever it waits or looks for commands of its own thread;
            # one for each round: a slow machine would do nothing but handle a periodic one
            signal.setitimer(signal.ITIMER_REAL, 0.0001)
            send(publisher, 100)
            sent += 100
            await asyncio.sleep(0)
            await until(nearly_read, shown=progress)
        await until(lambda: len(listener.messages) == sent, "every message", shown=progress)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert listener.sequences() == list(range(1, sent + 1))
    counters = listener.counters()
    assert (counters["gaps"], counters["missed"], counters["malformed"]) == (0, 0, 0)
    listener.close()


async def test_a_message_outlives_its_socket(publisher: Publisher) -> None:
    listener = listen(publisher, [b"orderbook."])
    await joined(publisher, listener)
    send(publisher, 50)
    await until(lambda: len(listener.messages) == 50, "50 messages")
    views = [message.bids for message in listener.messages]
    listener.close()
    listener.messages.clear()
    gc.collect()
    assert [view[0, 0] for view in views] == list(range(1, 51))


async def test_a_late_subscriber_counts_no_loss(publisher: Publisher) -> None:
    send(publisher, 10)
    listener = listen(publisher, [b"orderbook."])
    await joined(publisher, listener)
    send(publisher, 1)
    await until(lambda: len(listener.messages) == 1, "one message")
    assert listener.sequences() == [11]
    assert listener.lost == []
    listener.close()


async def test_one_drain_takes_a_bounded_number_of_messages(publisher: Publisher) -> None:
    listener = listen(publisher, [b"orderbook."])
    await joined(publisher, listener)
    send(publisher, 3000)
    # all of it waits in the socket: one edge, many drains, other callbacks in between
    time.sleep(0.2)  # noqa: ASYNC251
    seen: list[int] = []
    async with asyncio.timeout(LIMIT_S):
        while len(listener.messages) < 3000:
            await asyncio.sleep(0)
            seen.append(len(listener.messages))
    bites = np.diff([0, *seen])
    assert bites.max() <= 256
    listener.close()


async def test_a_slow_subscriber_harms_only_itself(zmq_settings: Settings) -> None:
    bus = zmq_settings.bus.model_copy(update={"high_water_mark": 100})
    publisher = Publisher(PROCESS, bus, next_epoch())
    slow = listen(publisher, [b"orderbook."], bus=bus)
    quick = listen(
        publisher,
        [b"orderbook."],
        bus=zmq_settings.bus.model_copy(update={"high_water_mark": 20_000}),
    )
    await joined(publisher, slow, quick)
    loop = asyncio.get_running_loop()
    # stop reading: its queue, then the sockets' buffers, then the publisher's queue fill up
    loop.remove_reader(slow._fd)
    assert slow._poll is not None
    slow._poll.stop()
    sent = 0

    def keeps_up() -> bool:
        return len(quick.messages) == sent

    # 2,000 more after the first drop: only the fast one receives them
    rest = 100
    while rest:
        send(publisher, 20)
        sent += 20
        await until(keeps_up, f"{sent} messages at the quick one")
        assert sent < 100_000
        rest -= publisher.dropped > 0
    slow._drain()
    loop.add_reader(slow._fd, slow._drain)

    def settled() -> bool:
        publisher.heartbeat()
        slow._drain()
        return len(slow.messages) + slow.counters()["missed"] == sent

    await until(settled, "received + missed = published at the slow one")
    assert slow.counters()["missed"] > 1000
    found = sum(end - first for _, _, first, end in slow.lost)
    assert found == slow.counters()["missed"] == sent - len(slow.messages)
    assert quick.sequences() == list(range(1, sent + 1))
    for one in (slow, quick):
        one.close()
    publisher.close()


async def test_drops_are_counted_until_libzmq_skips_the_full_queue(zmq_settings: Settings) -> None:
    # one subscriber never reads: libzmq refuses messages, which are counted, then skips it
    bus = zmq_settings.bus.model_copy(update={"high_water_mark": 100})
    publisher = Publisher(PROCESS, bus, next_epoch())
    listener = listen(publisher, [b"orderbook."], bus=bus)
    await joined(publisher, listener)
    asyncio.get_running_loop().remove_reader(listener._fd)
    assert listener._poll is not None
    listener._poll.stop()
    sent = 0
    while not publisher.dropped:
        send(publisher, 1)
        sent += 1
        assert sent < 100_000
    assert publisher.dropped == 1
    assert publisher.published >= sent

    def settled() -> bool:
        listener.drain()
        publisher.heartbeat()
        return len(listener.messages) + listener.counters()["missed"] == sent

    await until(settled, "received + missed = published")
    assert listener.counters()["missed"] == 1
    # after it has caught up it receives everything again
    send(publisher, 5)
    sent += 5
    await until(settled, "received + missed = published")
    assert listener.sequences()[-5:] == list(range(sent - 4, sent + 1))
    listener.close()
    publisher.close()


async def test_publishing_does_not_wait_for_subscribers(local: Settings) -> None:
    publisher = Publisher(
        PROCESS, local.bus.model_copy(update={"high_water_mark": 10}), next_epoch()
    )
    listener = listen(publisher, [b"orderbook."], bus=local.bus)
    await joined(publisher, listener)
    # the loop does not run meanwhile, so nothing is read: a publisher that waits would never end
    send(publisher, 20_000)
    assert publisher.published >= 20_000
    listener.close()
    publisher.close()


async def test_a_gap_and_a_lost_tail_are_found(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    listener = listen(publisher, [b"orderbook."])
    await joined(publisher, listener)
    send(publisher, 2)
    await until(lambda: len(listener.messages) == 2, "two messages")
    # numbered and never sent, as if the network had lost them
    epoch = publisher.epoch
    lost = ListSink(epoch)
    for _ in range(9):
        lost.publish(lost.topic(BOOK), ORDERBOOK, b"")
    raw = publisher._socket
    message = lost.messages[5]
    raw.send_multipart([BOOK, message.header_bytes()])
    await until(lambda: len(listener.messages) == 3, "the one after the hole")
    assert listener.lost == [(BOOK, epoch, 3, 6)]
    tail = {"process": PROCESS, "epoch": epoch, "sequences": {BOOK.decode(): 9}, "states": {}}
    publisher.publish(publisher._heartbeats, HEARTBEAT, orjson.dumps(tail))
    await until(lambda: len(listener.lost) == 2, "the lost tail")
    assert listener.lost[1] == (BOOK, epoch, 7, 10)
    raw.send_multipart([BOOK, message.header_bytes()])
    await until(lambda: listener.counters()["repeated"] == 1, "the repeated one")
    assert len(listener.messages) == 3
    assert (listener.counters()["gaps"], listener.counters()["missed"]) == (2, 6)
    listener.close()
    publisher.close()


async def test_a_restarted_publisher_begins_a_new_epoch(local: Settings) -> None:
    first = Publisher(PROCESS, local.bus, next_epoch())
    listener = listen(first, [b"orderbook."])
    await joined(first, listener)
    send(first, 5)
    await until(lambda: len(listener.messages) == 5, "five messages")
    first.close()
    second = Publisher(PROCESS, local.bus, next_epoch())
    # sent before the subscriber is back: lost, and the loss must be noticed
    send(second, 7)

    def back() -> bool:
        send(second, 1)
        second.heartbeat()
        return listener.messages[-1].epoch == second.epoch

    await until(back, "the new epoch")
    sent = second.topic(BOOK).sequence

    def known() -> list[int]:
        new = [message.sequence for message in listener.messages if message.epoch == second.epoch]
        return sorted([*new, *(s for _, _, start, end in listener.lost for s in range(start, end))])

    await until(lambda: known() == list(range(1, sent + 1)), "each was received or is missed")
    assert {epoch for _, epoch, _, _ in listener.lost} == {second.epoch}
    listener.close()
    second.close()


async def test_two_publishers_may_share_a_state_topic(settings: Settings) -> None:
    names = ("orderbook-collector-upbit", "ticker-collector-upbit")
    publishers = [Publisher(name, settings.bus, next_epoch()) for name in names]
    listener = Listener([p.endpoint for p in publishers], [b"state."], bus=settings.bus)
    await joined(publishers[0], listener)
    # and the second one's heartbeat
    received = listener.counters()["received"]

    def heard() -> bool:
        publishers[1].heartbeat()
        return listener.counters()["received"] > received

    await until(heard, "the second publisher")
    for _ in range(50):
        for publisher in publishers:
            publisher.publish(publisher.topic(b"state.upbit.BTC/KRW."), STATE, b"{}")
    await until(lambda: len(listener.messages) == 100, "100 states")
    for publisher in publishers:
        publisher.heartbeat()
        own = [m.sequence for m in listener.messages if m.epoch == publisher.epoch]
        assert own == list(range(1, 51))
    assert listener.counters()["gaps"] == listener.counters()["repeated"] == 0
    listener.close()
    for publisher in publishers:
        publisher.close()


async def test_conflation_keeps_the_newest_book(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    listener = listen(publisher, [b"orderbook.", b"trade."], conflate=True)
    await joined(publisher, listener)
    other, trade = b"orderbook.upbit.ETH/KRW.", b"trade.upbit.BTC/KRW."
    sent = 0

    async def burst() -> bool:
        nonlocal sent
        for i in range(60):
            send(publisher, 1)
            send(publisher, 1, other)
            publisher.publish(publisher.topic(trade), TRADE, np.array([i, 1.0]))
        sent += 60
        # the loop must not run meanwhile
        time.sleep(0.5)  # noqa: ASYNC251
        await until(lambda: listener.sequences(trade)[-1:] == [sent], "the last trade")
        return listener.counters()["conflated"] > 100

    await until(burst, "books that come together")
    assert listener.sequences(trade) == list(range(1, sent + 1))
    for topic in (BOOK, other):
        assert listener.sequences(topic)[-1] == sent
    counters, books = listener.counters(), listener.sequences() + listener.sequences(other)
    assert len(books) + counters["conflated"] == 2 * sent
    assert counters["gaps"] == 0
    listener.close()
    publisher.close()


async def test_conflation_delivers_the_newest_aggregate_and_reports_the_end_of_a_drain(
    local: Settings,
) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    seen: list[int] = []
    listener: Listener = listen(
        publisher,
        [b"aggregate."],
        conflate=True,
        on_drained=lambda: seen.append(len(listener.messages)),
    )
    await joined(publisher, listener)
    del seen[:]
    topic = publisher.topic(b"aggregate.BTC.")

    async def burst() -> bool:
        for _ in range(200):
            publisher.publish(topic, AGGREGATE, b"12345678")
        # the loop must not run meanwhile
        time.sleep(0.5)  # noqa: ASYNC251
        newest = [topic.sequence]
        await until(lambda: listener.sequences(topic.name)[-1:] == newest, "the newest aggregate")
        return listener.counters()["conflated"] > 150

    await until(burst, "aggregates that come together")
    assert len(listener.messages) + listener.counters()["conflated"] == topic.sequence
    # called after the messages, and never without one
    assert seen == sorted(seen)
    assert seen[-1] == len(listener.messages)
    before = len(seen)
    await asyncio.sleep(0.3)
    assert len(seen) == before
    listener.close()
    publisher.close()


async def test_a_failing_callback_at_the_end_of_a_drain_is_counted(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())

    def fail() -> None:
        raise ValueError("made to fail")

    listener = listen(publisher, [b"orderbook."], on_drained=fail)
    await joined(publisher, listener)
    send(publisher, 3)
    await until(lambda: len(listener.messages) == 3, "three books")
    assert listener.counters()["callback_errors"] > 0
    listener.close()
    publisher.close()


def garbage() -> list[tuple[str, list[bytes]]]:
    good = encode_header(ORDERBOOK, n_bids=1, n_asks=1, payload_size=32, epoch=5, sequence=1)
    wrong_version = b"\x02" + good[1:]
    wrong_kind = encode_header(TRADE, payload_size=16, epoch=5, sequence=1)
    unknown_kind = good[:1] + b"\x63" + good[2:]
    no_epoch = encode_header(ORDERBOOK, n_bids=1, n_asks=1, payload_size=32, sequence=1)
    beat = encode_header(HEARTBEAT, payload_size=2, epoch=5, sequence=1)
    return [
        ("one part", [BOOK]),
        ("three parts", [BOOK, good, bytes(32)]),
        ("empty second part", [BOOK, b""]),
        ("short header", [BOOK, good[:63]]),
        ("short payload", [BOOK, good + bytes(31)]),
        ("long payload", [BOOK, good + bytes(33)]),
        ("unknown version", [BOOK, wrong_version + bytes(32)]),
        ("unknown kind", [BOOK, unknown_kind + bytes(32)]),
        ("another kind's topic", [BOOK, wrong_kind + bytes(16)]),
        ("no epoch", [BOOK, no_epoch + bytes(32)]),
        ("no closing dot", [BOOK[:-1], good + bytes(32)]),
        ("unknown word", [b"candle.upbit.BTC/KRW.", good + bytes(32)]),
        ("long topic", [b"orderbook." + b"x" * 300 + b".", good + bytes(32)]),
        ("heartbeat without JSON", [b"heartbeat.x.", beat + b"{]"]),
        ("heartbeat without sequences", [b"heartbeat.x.", beat + b"{}"]),
        ("heartbeat of a list", [b"heartbeat.x.", beat + b"[]"]),
    ]


def garbage_of_each_transport() -> list[Any]:
    """Return (transport, parts); on NATS a few that reach the receiver as they are."""
    found = [("ipc", name, parts) for name, parts in garbage()]
    few = ("empty second part", "short header", "unknown word", "heartbeat without JSON")
    found += [("nats", name, parts) for name, parts in garbage() if name in few]
    return [pytest.param(kind, parts, id=f"{kind} {name}") for kind, name, parts in found]


@pytest.mark.parametrize(("transport", "parts"), garbage_of_each_transport())
async def test_garbage_is_counted_and_skipped(
    transport: str, parts: list[bytes], request: pytest.FixtureRequest
) -> None:
    bus = request.getfixturevalue(transport).bus
    publisher = Publisher(PROCESS, bus, next_epoch())
    listener = listen(publisher, [b"orderbook", b"candle"])
    await joined(publisher, listener)
    publisher._socket.send_multipart(parts)
    send(publisher, 3)
    await until(lambda: len(listener.sequences()) == 3, "three good messages")
    assert listener.counters()["malformed"] == 1
    assert len(listener.messages) == 3
    listener.close()
    publisher.close()


async def test_garbage_is_logged_once_a_minute(
    local: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    listener = listen(publisher, [b""])
    await joined(publisher, listener)
    for _ in range(50):
        publisher._socket.send_multipart([BOOK, b""])
    await until(lambda: listener.counters()["malformed"] == 50, "50 malformed messages")
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert text.count("malformed message") == 1
    assert "header size: expected 64 bytes, was 0" in text
    listener.close()
    publisher.close()


async def test_a_failing_callback_does_not_stop_the_reader(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    seen: list[int] = []

    def on_message(message: Message) -> None:
        seen.append(message.sequence)
        if message.sequence == 2:
            raise RuntimeError("on purpose")

    subscriber = Subscriber([publisher.endpoint], [b"orderbook."], on_message, bus=local.bus)
    await joined(publisher, subscriber)
    send(publisher, 4)
    await until(lambda: seen == [1, 2, 3, 4], "all four")
    assert subscriber.counters()["callback_errors"] == 1
    subscriber.close()
    publisher.close()


def test_a_second_publisher_of_a_process_is_refused(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    with pytest.raises(BusError, match="expected no other process, found process"):
        Publisher(PROCESS, local.bus, next_epoch())
    publisher.close()
    Publisher(PROCESS, local.bus, next_epoch()).close()
    with pytest.raises(BusError, match="expected an open socket, was closed"):
        publisher.heartbeat()


def test_a_taken_port_and_a_wrong_endpoint_are_refused(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, endpoints={PROCESS: "tcp://127.0.0.1:*"})
    publisher = Publisher(PROCESS, settings.bus, next_epoch())
    with pytest.raises(BusError, match="cannot bind"):
        Publisher(PROCESS, settings.bus, next_epoch(), endpoint=publisher.endpoint)
    publisher.close()
    listener = Listener(["nonsense"], [b""])

    async def start() -> None:
        listener.start()

    with pytest.raises(BusError, match="expected an ipc or tcp endpoint"):
        asyncio.run(start())
    listener.close()


async def test_heartbeats_come_by_themselves(local: Settings) -> None:
    publisher = Publisher(PROCESS, local.bus, next_epoch())
    listener = listen(publisher, [b"heartbeat."])
    listener.start()
    send(publisher, 4)
    publisher.start_heartbeats(asyncio.get_running_loop(), lambda: {"BTC/KRW": "synced"})
    await until(lambda: len(listener.messages) >= 2, "two heartbeats")
    facts = listener.messages[-1].json()
    assert facts["process"] == PROCESS
    assert facts["epoch"] == publisher.epoch
    assert facts["sequences"][BOOK.decode()] == 4
    assert facts["states"] == {"BTC/KRW": "synced"}
    listener.close()
    publisher.close()


class Keys:
    """A host's CURVE key pair."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self.public, self.secret = public.decode(), secret.decode()

    def bus(self, **more: Any) -> BusSettings:
        return BusSettings(
            endpoints={PROCESS: "tcp://127.0.0.1:*"},
            curve_public_key=self.public,
            curve_secret_key=SecretStr(self.secret),
            **more,
        )


async def test_only_clients_with_allowed_keys_connect(tmp_path: Path) -> None:
    server, friend, stranger = Keys(), Keys(), Keys()
    publisher = Publisher(PROCESS, server.bus(curve_allowed=[friend.public]), next_epoch())
    endpoint = [publisher.endpoint]
    listeners = {
        "friend": Listener(
            endpoint, [b"orderbook."], bus=friend.bus(curve_server_key=server.public)
        ),
        "stranger": Listener(
            endpoint, [b"orderbook."], bus=stranger.bus(curve_server_key=server.public)
        ),
        "wrong server key": Listener(
            endpoint, [b"orderbook."], bus=friend.bus(curve_server_key=stranger.public)
        ),
        "no key": Listener(endpoint, [b"orderbook."]),
    }
    for name, listener in listeners.items():
        if name != "friend":
            listener.start()
    await joined(publisher, listeners["friend"])
    send(publisher, 10)
    await until(lambda: len(listeners["friend"].messages) == 10, "ten messages at the friend")
    await asyncio.sleep(0.3)
    for name, listener in listeners.items():
        assert (name, listener.counters()["received"] > 0) == (name, name == "friend")
        listener.close()
    publisher.close()


def test_curve_settings_are_checked() -> None:
    keys = Keys()
    with pytest.raises(ValueError, match="together"):
        BusSettings(curve_public_key=keys.public)
    with pytest.raises(ValueError, match="40 Z85 characters"):
        BusSettings(curve_server_key="short")
    assert keys.secret not in repr(keys.bus())
    listener = Listener(["tcp://127.0.0.1:1"], [b""], bus=keys.bus())

    async def start() -> None:
        listener.start()

    with pytest.raises(BusError, match="curve_server_key"):
        asyncio.run(start())
    listener.close()
