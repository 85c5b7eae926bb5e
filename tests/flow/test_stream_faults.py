"""Three NATS servers, two storage workers, QuestDB: faults lose no row and double none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coinspace._ext.message import ORDERBOOK, REPEAT
from coinspace.bus import transport
from coinspace.bus.journal import journal_folder
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import open_publisher
from coinspace.bus.segments import read_journal
from coinspace.config import Settings
from coinspace.storage.reconcile import reconcile
from tests.flow.database import applied, query
from tests.flow.feeding import Feeder
from tests.flow.streaming import deleted, streamed
from tests.flow.streaming import state_of as stream_state
from tests.flow.test_storage_workers import BOOKS, counter_of, environment, running, state_of
from tests.waiting import until

NAME = "orderbook-storage-worker"
PAYLOAD = 64 << 10
LARGE = 3000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    servers = Cluster(tmp_path / "nats", 3, more={"max_payload": PAYLOAD})
    servers.start()
    yield servers
    servers.close()


class Platform:
    """A publisher of this process, and workers on the same servers and database."""

    def __init__(self, questdb: Settings, folder: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.questdb = questdb
        self.own = streamed(folder, cluster.url, replicas=3)
        self.epoch = time.time_ns()
        self.env = environment(
            questdb,
            folder,
            COINSPACE_BUS__URL=cluster.url,
            COINSPACE_BUS__PLATFORM=self.own.bus.platform,
            COINSPACE_STREAMS__ENABLED="true",
            COINSPACE_STREAMS__REPLICAS="3",
            COINSPACE_STREAMS__MAX_BYTES=str(self.own.streams.max_bytes),
            COINSPACE_STREAMS__ACK_WAIT_S="1",
            COINSPACE_STORAGE__WORKERS="2",
        )
        self.publisher = open_publisher(BOOKS, self.own, self.epoch)
        self.feeder = Feeder(self.publisher, BOOKS, start_ns=self.epoch)

    def large(self) -> None:
        """Publish a book that no server accepts."""
        handle = self.publisher.topic(b"orderbook.bithumb.XRP/KRW.")
        book = np.ones(4 * LARGE)
        self.publisher.publish(
            handle, ORDERBOOK, book, n_bids=LARGE, n_asks=LARGE, received_ns=self.epoch
        )

    def rows(self) -> list[tuple[str, int]]:
        """Return (market, sequence) of each stored book."""
        return query(self.questdb, f"SELECT market, seq FROM orderbook WHERE epoch = {self.epoch}")

    def journalled(self) -> set[tuple[str, int]]:
        """Return the same of each published book that is no repeat."""
        return {
            (message.topic.decode().split(".")[2], message.sequence)
            for message in read_journal(journal_folder(self.own, BOOKS))
            if message.kind == ORDERBOOK and not message.flags & REPEAT
        }

    async def whole(self) -> None:
        """Wait until each published book is stored."""
        wanted = self.journalled()
        await until(
            lambda: set(self.rows()) >= wanted,
            "all rows",
            shown=lambda: (len(self.rows()), len(wanted), self.publisher.counters()),
        )


@contextlib.contextmanager
def platform(questdb: Settings, folder: Path, cluster: Cluster) -> Iterator[Platform]:
    made = Platform(questdb, folder, cluster)
    try:
        yield made
    finally:
        made.publisher.close()


def check(made: Platform) -> None:
    """Compare the rows with what was published, and have `reconcile` prove it."""
    applied(made.questdb)
    rows = made.rows()
    assert len(rows) == len(set(rows))
    assert set(rows) == made.journalled()
    storage = made.questdb.storage.model_copy(
        update={
            "ilp": made.env["COINSPACE_STORAGE__ILP"],
            "sql": made.env["COINSPACE_STORAGE__SQL"],
        }
    )
    own = made.own.model_copy(update={"storage": storage})
    report = reconcile(own, made.epoch, time.time_ns() + 1)
    assert report.unexplained == []
    assert report.total.published == made.publisher.published
    assert (report.total.lost, report.total.dead, report.total.open) == (0, 0, 0)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_rows_equal_what_was_published(
    whole: bool, questdb: Settings, tmp_path: Path, cluster: Cluster
) -> None:
    with (
        platform(questdb, tmp_path, cluster) as made,
        running(NAME, made.env) as first,
        running(f"{NAME} --number 2", made.env) as second,
    ):
        feed, own = made.feeder.send, made.own

        def both_at_work() -> bool:
            feed(1)
            return all(counter_of(own, f"{NAME}{n}", "stream_batches") for n in ("", "-2"))

        made.feeder.state("synced")
        # a message too large for the servers is fetched from the journal
        made.large()
        await until(both_at_work, "both workers at work")
        # a worker that dies with batches, and the leader of the stream
        feed(200)
        second.kill()
        leader = await asyncio.to_thread(stream_state, own, "orderbook")
        assert leader.replicas == 3
        cluster.kill(leader.leader)
        feed(200)
        await made.whole()
        if whole:
            await without_quorum(made, leader.leader)
            await standing_still(made, first.pid)
            await asyncio.to_thread(deleted, own, "orderbook", "storage")
            feed(100)
            await made.whole()
            feed(2000)
        else:
            cluster.restart(leader.leader)
        # the stream is deleted under the worker
        feed(100)
        await asyncio.to_thread(deleted, own, "orderbook")
        feed(100)
        await made.whole()
        await until(lambda: made.publisher.counters()["stream_rewinds"] > 0)
        await until(lambda: state_of(own, NAME) == "ready", "a healthy worker")
    check(made)


async def without_quorum(made: Platform, down: str) -> None:
    """Kill a second node of three: what is published waits in the journal."""
    before = len(made.rows())
    left = next(iter(made.cluster.running))
    made.cluster.kill(left)
    made.feeder.send(500)
    await until(lambda: "wait in the journal" in str(transport.problems()), "a named problem")
    assert len(made.rows()) < before + 900
    made.cluster.restart(down)
    made.cluster.restart(left)
    await made.whole()
    await until(lambda: not transport.problems(), shown=transport.problems)


async def standing_still(made: Platform, pid: int) -> None:
    """Stop the only worker for longer than it may keep batches; then a node for ten seconds."""
    os.kill(pid, signal.SIGSTOP)
    for _ in range(30):
        made.feeder.send(20)
        await asyncio.sleep(0.1)
    os.kill(pid, signal.SIGCONT)
    await made.whole()
    node = next(iter(made.cluster.running.values()))
    node.send_signal(signal.SIGSTOP)
    try:
        for _ in range(100):
            made.feeder.send(5)
            await asyncio.sleep(0.1)
    finally:
        node.send_signal(signal.SIGCONT)
    await made.whole()
