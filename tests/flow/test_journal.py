"""Journals of real processes: killed at any moment, on a full disk, and read for gaps."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from coinspace._ext.message import ORDERBOOK
from coinspace.bus.journal import journal_folder
from coinspace.bus.journal_client import JournalClient
from coinspace.bus.publisher import Publisher, open_publisher
from coinspace.bus.segments import JournalReader, read_journal, segment_paths
from coinspace.config import JournalSettings, Settings
from coinspace.errors import JournalError
from tests.flow.bus_stage import BOOK, PROCESS, Listener, joined, next_epoch, settings_in
from tests.waiting import until, wait_for

OTHER = b"orderbook.upbit.ETH/KRW."
ROOT = Path(__file__).resolve().parents[2]
# writes as fast as the keeper creates segments; each line is a sequence that `publish` returned
WRITER = """
import os, resource, sys, time
from pathlib import Path
import numpy as np
from coinspace.bus.journal import Journal
from coinspace.bus.publisher import Publisher
from coinspace.config import BusSettings, JournalSettings
from coinspace.log import configure_logging
configure_logging()
folder, epoch, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
small = JournalSettings(segment_bytes=1 << 18, max_bytes=1 << 26, min_free_bytes=0)
port = {"w": "tcp://127.0.0.1:*"}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
journal = Journal(folder, small, epoch)
bus = BusSettings(endpoints=port, replay_endpoints=port)
publisher = Publisher("w", bus, epoch, journal=journal)
topic = publisher.topic(b"orderbook.upbit.BTC/KRW.")
while True:
    while not journal.writer.has_next and journal.problem is None:
        time.sleep(0.0005)
    for _ in range(20):
        levels = np.full(120, topic.sequence + 1.0)
        sequence = publisher.publish(topic, 1, levels, n_bids=30, n_asks=30)
    counters = publisher.counters()
    row = sequence, counters["journal_skipped"], counters["journal_stopped"]
    os.write(1, b"%d %d %d\\n" % row)
"""


class Writer:
    """A writing process, killed without warning."""

    def __init__(self, folder: Path, epoch: int, file_limit: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(epoch), str(file_limit)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )

    def line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1].decode()
        return line

    def kill(self) -> list[list[int]]:
        """Return the rows that it printed before it died."""
        self.process.kill()
        out, _ = self.process.communicate(timeout=60)
        return [[int(word) for word in line.split()] for line in out.split(b"\n")[:-1] if line]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = settings_in(tmp_path)
    settings.journal = JournalSettings(segment_bytes=1 << 18, max_bytes=1 << 24, min_free_bytes=0)
    return settings


@pytest.fixture
def publisher(settings: Settings) -> Iterator[Publisher]:
    publisher = open_publisher(PROCESS, settings, next_epoch())
    yield publisher
    publisher.close()


def send(publisher: Publisher, n: int, topic: bytes = BOOK) -> None:
    handle = publisher.topic(topic)
    assert publisher.journal is not None
    for _ in range(n):
        # these segments are tiny: write no faster than the keeper creates them
        while not publisher.journal.writer.has_next and not publisher.problem:
            time.sleep(0.001)
        levels = np.full(120, handle.sequence + 1.0)
        publisher.publish(handle, ORDERBOOK, levels, n_bids=30, n_asks=30)


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_a_killed_writer_loses_nothing_that_it_published(tmp_path: Path, kills: int) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    folder = tmp_path / "journal"
    expected: dict[int, int] = {}
    for n in range(kills):
        epoch = next_epoch()
        writer = Writer(folder, epoch)
        first = [int(word) for word in writer.line().split()]
        time.sleep(chance.random() * 0.1)
        rows = [first, *writer.kill()]
        expected[epoch], skipped, _ = rows[-1]
        assert skipped == 0
        read = [m for m in read_journal(folder) if m.epoch == epoch]
        numbers = [m.sequence for m in read]
        assert numbers == list(range(1, len(numbers) + 1)), f"seed {seed}, kill {n}"
        assert numbers[-1] >= expected[epoch], f"seed {seed}, kill {n}"
        assert all((m.bids == m.sequence).all() and (m.asks == m.sequence).all() for m in read), (
            f"seed {seed}, kill {n}"
        )
    # a later writer finds the folder free and keeps what the dead ones wrote
    reader = JournalReader(folder)
    reader.refresh()
    assert set(reader.ranges()) == set(expected)
    assert reader.damaged == {}


def test_a_full_disk_stops_the_journal_and_not_the_publisher(tmp_path: Path) -> None:
    # the limit on file sizes fails the reservation of a segment as a full disk does
    writer = Writer(tmp_path / "journal", next_epoch(), 100_000)
    sequence = 0
    while sequence <= 100:
        sequence, skipped, stopped = map(int, writer.line().split())
    writer.kill()
    assert (skipped, stopped) == (sequence, 1)
    assert list(read_journal(tmp_path / "journal")) == []
    assert segment_paths(tmp_path / "journal") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_and_is_emptied(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk to be had here: {mounted.stderr.strip()}")
    try:
        settings = settings_in(tmp_path)
        settings.data = disk
        settings.journal = JournalSettings(
            segment_bytes=1 << 18, max_bytes=1 << 24, min_free_bytes=0
        )
        filler = disk / "filler"
        publisher = open_publisher(PROCESS, settings, next_epoch())
        filler.write_bytes(bytes(1 << 20))

        def stopped() -> bool:
            send(publisher, 20)
            return publisher.problem is not None

        wait_for(stopped)
        assert publisher.problem is not None
        assert os.strerror(errno.ENOSPC) in publisher.problem or "bytes free" in publisher.problem
        while not publisher.counters()["journal_skipped"]:
            send(publisher, 20)
        lost = publisher.counters()["journal_skipped"]
        before = publisher.published
        send(publisher, 100)
        assert publisher.published == before + 100
        filler.unlink()
        wait_for(lambda: not publisher.counters()["journal_stopped"])
        written = publisher.counters()["journal_written"]
        send(publisher, 10)
        counters = publisher.counters()
        assert counters["journal_written"] == written + 10
        assert counters["journal_skipped"] == lost + 100
        assert counters["journal_written"] + counters["journal_skipped"] == counters["published"]
        folder = disk / "journal" / PROCESS
        assert len(list(read_journal(folder))) == counters["journal_written"]
        publisher.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_file_limit_of_this_process_is_untouched() -> None:
    # the writer's limit must not leak into the tests
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


async def test_missed_messages_are_fetched(settings: Settings, publisher: Publisher) -> None:
    send(publisher, 30)
    listener = Listener([publisher.endpoint], [b"orderbook."])
    await joined(publisher, listener)
    send(publisher, 5)
    send(publisher, 3, OTHER)
    await until(lambda: len(listener.messages) == 8, "eight live messages")
    client = JournalClient(settings.bus.replay_endpoint(PROCESS), settings.bus)
    assert await asyncio.to_thread(client.ranges) == {
        publisher.epoch: {BOOK: [(1, 36)], OTHER: [(1, 4)]}
    }
    fetched = await asyncio.to_thread(client.fetch, BOOK, publisher.epoch, 1, 31)
    assert [m.sequence for m in fetched.messages] == list(range(1, 31))
    assert (fetched.missing, fetched.next, fetched.done) == ([], 31, True)
    live = {m.sequence: m for m in listener.messages if m.topic == BOOK}
    again = await asyncio.to_thread(client.fetch, BOOK, publisher.epoch, 31, 36)
    for message in again.messages:
        # the very same bytes, times included
        assert message.header_bytes() == live[message.sequence].header_bytes()
        assert bytes(message.payload) == bytes(live[message.sequence].payload)
    await until(lambda: publisher.counters()["journal_requests"] == 3)
    client.close()
    listener.close()


def test_a_long_range_comes_in_chunks(settings: Settings, publisher: Publisher) -> None:
    for _ in range(50):
        send(publisher, 100)
        send(publisher, 20, OTHER)
    assert publisher.counters()["journal_skipped"] == 0
    client = JournalClient(settings.bus.replay_endpoint(PROCESS))
    chunks = list(client.fetch_all(BOOK, publisher.epoch, 1))
    assert len(chunks) >= 5
    assert [m.sequence for c in chunks for m in c.messages] == list(range(1, 5001))
    assert all(sum(len(m.payload) for m in c.messages) <= 1 << 20 for c in chunks)
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    client.close()


def test_the_last_epochs_tail_is_there_after_a_restart(settings: Settings) -> None:
    first = open_publisher(PROCESS, settings, next_epoch())
    send(first, 40)
    first.close()
    second = open_publisher(PROCESS, settings, next_epoch())
    send(second, 2)
    client = JournalClient(settings.bus.replay_endpoint(PROCESS))
    assert client.ranges() == {first.epoch: {BOOK: [(1, 41)]}, second.epoch: {BOOK: [(1, 3)]}}
    fetched = client.fetch(BOOK, first.epoch, 35)
    assert [m.sequence for m in fetched.messages] == list(range(35, 41))
    assert fetched.done
    client.close()
    second.close()


def test_removed_messages_are_reported_as_missing(settings: Settings) -> None:
    settings.journal = JournalSettings(segment_bytes=1 << 18, max_bytes=1 << 20, min_free_bytes=0)
    publisher = open_publisher(PROCESS, settings, next_epoch())
    for _ in range(40):
        send(publisher, 100)
    assert publisher.counters()["journal_skipped"] == 0
    assert publisher.journal is not None
    writer, folder = publisher.journal.writer, journal_folder(settings, PROCESS)
    # the keeper removes the oldest segments in a thread
    wait_for(
        lambda: (
            writer.has_next
            and not writer.full
            and sum(path.stat().st_size for path in segment_paths(folder)) <= 1 << 20
        )
    )
    client = JournalClient(settings.bus.replay_endpoint(PROCESS))
    ((oldest, end),) = client.ranges()[publisher.epoch][BOOK]
    assert oldest > 1
    assert end == 4001
    fetched = client.fetch(BOOK, publisher.epoch, 1, oldest + 2)
    assert fetched.missing == [(1, oldest)]
    assert [m.sequence for m in fetched.messages] == [oldest, oldest + 1]
    none = client.fetch(BOOK, 12345, 1, 100)
    assert (none.messages, none.missing, none.done) == ([], [(1, 100)], True)
    client.close()
    publisher.close()


def test_a_missing_answer_and_refusals_are_clear_errors(
    settings: Settings, publisher: Publisher
) -> None:
    client = JournalClient(settings.bus.replay_endpoint("nobody"), timeout_s=0.2)
    with pytest.raises(JournalError, match=r"expected an answer within 0\.2 s"):
        client.ranges()
    client.close()
    client = JournalClient(settings.bus.replay_endpoint(PROCESS))
    for request in ({"op": "drop"}, {"op": "fetch"}, {}, {"op": "fetch", "topic": 1, "first": "x"}):
        with pytest.raises(JournalError, match="request refused"):
            client._ask(request)
    # bytes that are no request at all are answered with an error and do not stop the thread
    context = zmq.Context[zmq.Socket[bytes]]()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(settings.bus.replay_endpoint(PROCESS))
    for parts in ([b""], [b"1", b"{]"], [b"1", b"[]"], [b"1", b"2", b"3"]):
        socket.send_multipart(parts)
        assert socket.poll(60_000)
        assert b"error" in socket.recv_multipart()[1]
    socket.close()
    context.term()
    send(publisher, 1)
    assert set(client.ranges()) == {publisher.epoch}
    wait_for(lambda: publisher.counters()["journal_refused"] == 8)
    client.close()


def test_a_client_outlives_its_publisher(settings: Settings) -> None:
    first = open_publisher(PROCESS, settings, next_epoch())
    send(first, 1)
    client = JournalClient(settings.bus.replay_endpoint(PROCESS), timeout_s=3)
    assert set(client.ranges()) == {first.epoch}
    first.close()
    with pytest.raises(JournalError):
        client.ranges()
    second = open_publisher(PROCESS, settings, next_epoch())
    send(second, 1)

    def answered() -> bool:
        try:
            return set(client.ranges()) == {first.epoch, second.epoch}
        except JournalError:
            return False

    wait_for(answered)
    client.close()
    second.close()
