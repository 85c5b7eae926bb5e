"""Reconciliation finds missing messages, and accepts what explains them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from coinspace._ext.message import TRADE
from coinspace._ext.sink import ListSink
from coinspace.bus.journal import Journal, journal_folder
from coinspace.bus.publisher import Publisher
from coinspace.bus.segments import read_journal
from coinspace.clock import HOUR_NS
from coinspace.config import Settings, StorageSettings
from coinspace.storage import gaps, schema
from coinspace.storage.ledger import Hole, Ledger
from coinspace.storage.policy import Policies
from coinspace.storage.questdb.address import address
from coinspace.storage.reconcile import reconcile
from coinspace.storage.sender import Sender
from coinspace.storage.stage import StorageStage
from tests.flow.database import applied
from tests.flow.feeding import Feeder

PUBLISHER = "orderbook-collector-bithumb"
TOPIC = b"orderbook.bithumb.BTC/KRW."
N = 40


@pytest.fixture
def own(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = address(questdb)
    schema.create(found, StorageSettings(ttl="off"))
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    return Settings(data=tmp_path_factory.mktemp("r"), storage=storage)


def published(settings: Settings, epoch: int) -> None:
    """Journal 40 books a market, every tenth a repeat."""
    journal = Journal(journal_folder(settings, PUBLISHER), settings.journal, epoch)
    publisher = Publisher(PUBLISHER, settings.bus, epoch, journal=journal)
    Feeder(publisher, PUBLISHER, start_ns=epoch).send(N)
    publisher.close()


async def test_every_sequence_is_explained_or_named(own: Settings) -> None:
    epoch = time.time_ns()
    published(own, epoch)
    nothing = reconcile(own, epoch, time.time_ns() + 1)
    assert (nothing.total.published, nothing.total.repeats) == (2 * N, 8)
    assert nothing.total.unexplained == 2 * N - 8

    # all but four books are stored; one of these is dead, two are lost, one is nowhere
    sender = Sender(own, "reconcile")
    sender.start()
    stage = StorageStage(sender, (b"orderbook.",), Policies([], 30))
    missing = {3, 5, 6, 8}
    for message in read_journal(journal_folder(own, PUBLISHER)):
        stream = stage.ledger.stream(PUBLISHER, message.topic, message.epoch)
        if message.topic != TOPIC or message.sequence not in missing:
            assert stage.store(stream, message)
    stream = Ledger().stream(PUBLISHER, TOPIC, epoch)
    gaps.write_dead(sender, (PUBLISHER, TOPIC.decode(), epoch, 3), "cast error", epoch)
    gaps.write_hole(sender, stream, Hole(5, 6, epoch, "test"), gaps.LOST)
    # a filled gap explains nothing
    gaps.write_hole(sender, stream, Hole(8, 8, epoch, "test"), gaps.FILLED)
    assert await sender.close(60)

    applied(own)
    report = reconcile(own, epoch, time.time_ns() + 1)
    total = report.total
    assert (total.stored, total.repeats, total.dead, total.lost) == (2 * N - 12, 8, 1, 2)
    assert report.unexplained == [(PUBLISHER, TOPIC.decode(), epoch, 8)]
    assert sum(line.published for line in report.lines) == 2 * N
    assert {line.topic for line in report.lines} == {
        TOPIC.decode(),
        "orderbook.bithumb.ETH/KRW.",
    }

    assert (total.received, total.journalled, total.gaps) == (2 * N, 2 * N, 4)

    # without the journal, rows carry the repeats before them; no row follows the last repeat
    kept = journal_folder(own, PUBLISHER)
    away = kept.rename(kept.with_name("away"))
    total = reconcile(own, epoch, time.time_ns() + 1).total
    assert (total.journalled, total.published, total.repeats) == (0, 2 * N - 2, 6)
    assert (total.stored, total.dead, total.lost, total.unexplained) == (2 * N - 12, 1, 2, 1)
    away.rename(kept)

    environment = {
        **os.environ,
        "COINSPACE_DATA": str(own.data),
        "COINSPACE_STORAGE__ILP": own.storage.ilp,
        "COINSPACE_STORAGE__SQL": own.storage.sql,
    }
    command = [sys.executable, "-m", "coinspace", "reconcile", "--from", str(epoch // 1_000_000)]
    command += ["--to", str(time.time_ns() // 1_000_000 + 1)]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, timeout=120
        )

    done = await asyncio.to_thread(run, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["unexplained"] == [[PUBLISHER, TOPIC.decode(), epoch, 8]]
    table = await asyncio.to_thread(run)
    head, first, *lines = table.stdout.splitlines()
    assert head.split()[:3] == ["minute", "publisher", "topic"]
    assert first.split()[:2] == ["total", str(2 * N)]
    assert len(lines) == len(report.lines)
    assert f"epoch {epoch} sequence 8" in table.stderr


async def test_a_lost_tail_and_a_lost_topic_are_counted(own: Settings) -> None:
    """Messages in no journal and no row are found in table `gap` alone."""
    epoch = time.time_ns()
    sender = Sender(own, "tail")
    sender.start()
    stage = StorageStage(sender, (b"orderbook.",), Policies([], 30))
    published(own, epoch)
    for message in read_journal(journal_folder(own, PUBLISHER)):
        if message.topic == TOPIC:
            assert stage.store(stage.ledger.stream(PUBLISHER, TOPIC, epoch), message)
    other = b"orderbook.bithumb.SOL/KRW."
    for topic, first, last in ((TOPIC, N + 1, N + 7), (other, 1, 5)):
        stream = stage.ledger.stream(PUBLISHER, topic, epoch)
        gaps.write_hole(sender, stream, Hole(first, last, epoch + 1, "test"), gaps.LOST)
    assert await sender.close(60)
    kept = journal_folder(own, PUBLISHER)
    kept.rename(kept.with_name("gone"))
    applied(own)
    report = reconcile(own, epoch, time.time_ns() + 1)
    by_topic = {line.topic.encode(): line for line in report.lines}
    # the repeat at the end has no row behind it
    assert (by_topic[TOPIC].stored, by_topic[TOPIC].lost) == (N - 4, 7)
    assert by_topic[TOPIC].published == N - 1 + 7
    assert (by_topic[other].published, by_topic[other].lost) == (5, 5)
    assert report.total.unexplained == 0
    # a range before all of it does not contain it
    assert reconcile(own, epoch - 10, epoch - 5).lines == []


async def test_trades_that_the_exchange_forgot_are_counted_as_lost(own: Settings) -> None:
    epoch = time.time_ns()
    sender = Sender(own, "forgotten")
    sender.start()
    publisher = PUBLISHER.replace("orderbook", "ticker")
    for since_ns, lost in ((epoch + 1, 2000), (epoch + 2, 181), (epoch - 10**12, 7)):
        outage = gaps.VenueOutage(epoch, since_ns, "not reported any more", since_ns + 5, lost)
        assert gaps.write_outage(sender, (publisher, "bithumb", "BTC/KRW"), outage)
    assert await sender.close(60)
    applied(own)
    report = reconcile(own, epoch, epoch + 100)
    total = report.total
    assert (total.lost, total.published, total.unexplained) == (2181, 0, 0)
    assert [line.topic for line in report.lines] == ["trade.bithumb.BTC/KRW."]


@pytest.mark.parametrize("off_days", [30, -30])
async def test_a_publisher_whose_clock_was_days_off_is_accounted_for(
    own: Settings, off_days: int
) -> None:
    """Messages carry its clock's times, gaps the storage worker's, trades the exchange's."""
    now = time.time_ns()
    epoch = now + off_days * 24 * HOUR_NS
    publisher = PUBLISHER.replace("orderbook", "ticker")
    sink = ListSink(epoch, clock=lambda: epoch + len(sink.messages))
    topic = sink.topic(b"trade.bithumb.BTC/KRW.")
    for number in range(1, N + 1):
        sink.publish(
            topic,
            TRADE,
            np.array([100.0, 1.0]).tobytes(),
            received_ns=epoch + number,
            exchange_ns=now + number,
            id=number,
        )
    sender = Sender(own, "clock")
    sender.start()
    stage = StorageStage(sender, (b"trade.",), Policies([], 30))
    stream = stage.ledger.stream(publisher, sink.messages[0].topic, epoch)
    lost = range(5, 9)
    for message in sink.messages:
        assert message.sequence in lost or stage.store(stream, message)
    hole = Hole(lost[0], lost[-1], now, "test")
    gaps.write_hole(sender, stream, hole, gaps.LOST, closed_ns=now + 1)
    assert await sender.close(60)
    applied(own)
    total = reconcile(own, epoch, epoch + HOUR_NS).total
    assert (total.published, total.stored, total.duplicates) == (N, N - len(lost), 0)
    assert (total.lost, total.unexplained) == (len(lost), 0)
