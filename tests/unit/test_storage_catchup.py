"""Catching up from a journal's folder: its messages are stored, lost ones are in `gap`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coinspace._ext.segment import SEGMENT_HEAD_SIZE
from coinspace.bus.segments import JournalReader, segment_paths
from coinspace.config import StreamSettings
from coinspace.storage.catchup import CatchUp
from coinspace.storage.gaps import Damage
from coinspace.storage.ledger import Hole, StreamKey
from coinspace.storage.stage import StorageStage
from tests.flow.bus_stage import BOOK, PROCESS
from tests.flow.feeding import START_NS
from tests.unit.test_journal import Written
from tests.unit.test_storage_stage import Rows, stage
from tests.waiting import until

N = 5


async def caught_up(written: Written, made: StorageStage) -> CatchUp:
    """Run until no hole is left."""
    catchup = CatchUp(written.settings, made, [PROCESS])
    task = asyncio.create_task(catchup.run())
    await until(lambda: not made.ledger.missing(), "no hole left")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    catchup.close()
    return catchup


async def test_a_tail_cut_at_every_byte_is_recorded_as_lost(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(N)
    written.close()
    (path,) = segment_paths(written.folder)
    whole = path.read_bytes()
    record = (len(whole) - SEGMENT_HEAD_SIZE) // N
    for size in range(len(whole) - record, len(whole) + 1):
        path.write_bytes(whole[:size])
        rows = Rows()
        made = stage(rows)
        # a heartbeat has announced all of them
        made.expect(PROCESS, BOOK, written.publisher.epoch, N)
        catchup = await caught_up(written, made)
        missing = 0 if size == len(whole) else 1
        assert [row["seq"] for row in rows.of("orderbook")] == list(range(1, N + 1 - missing))
        recorded = [(row["status"], row["first"], row["last"]) for row in rows.of("gap")]
        lost = [("lost", N, N)] * missing
        assert recorded == [("open", 1, N), *lost, ("filled", 1, N)], size
        assert catchup.counters()["messages_lost"] == missing


async def test_an_epoch_that_was_not_received_is_found_in_its_folder(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(N)
    written.close()
    rows = Rows()
    made = stage(rows)
    # another epoch of the publisher was heard, but not this one
    made.epochs[PROCESS] = written.publisher.epoch - 1
    catchup = CatchUp(written.settings, made, [PROCESS])
    task = asyncio.create_task(catchup.run())
    await until(lambda: len(rows.of("orderbook")) == N and not made.ledger.missing(), "all stored")
    # read once: the epoch cannot grow
    requests = catchup.requests
    catchup.wake()
    await asyncio.sleep(0.2)
    assert catchup.requests == requests
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    catchup.close()


async def test_a_damaged_table_makes_holes_of_its_stored_messages(tmp_path: Path) -> None:
    written = Written(tmp_path)
    written.send(N)
    written.close()
    rows = Rows()
    made = stage(rows)
    stream = made.ledger.stream(PROCESS, BOOK, written.publisher.epoch)
    made.ledger.restore(stream, 3, [])
    catchup = CatchUp(written.settings, made, [PROCESS])
    damage = Damage("worker", "orderbook", "schema changed: x", written.publisher.epoch)
    old = await catchup.restore(damage)
    assert (old, stream.holes) == (True, []), "no journal reaches back so far"
    damage = Damage("worker", "orderbook", "schema changed: x", 1 << 62)
    assert await catchup.restore(damage)
    assert [(row["status"], row["first"], row["last"]) for row in rows.of("gap")] == [
        ("open", 1, 3)
    ]
    # the damage is reported again until its row is closed, and adds no more holes
    assert await catchup.restore(damage)
    assert len(stream.holes) == 1
    catchup.close()


async def test_with_streams_all_of_a_damaged_table_is_stored_again(tmp_path: Path) -> None:
    """Another worker may have stored the newest, and a whole epoch."""
    written = Written(tmp_path)
    written.send(N)
    written.close()
    other = Written(tmp_path)
    other.send(N)
    other.close()
    rows = Rows()
    made = stage(rows)
    made.ledger.restore(made.ledger.stream(PROCESS, BOOK, written.publisher.epoch), 3, [])
    streams = StreamSettings(enabled=True)
    settings = written.settings.model_copy(update={"streams": streams})
    catchup = CatchUp(settings, made, [PROCESS])
    assert await catchup.restore(Damage("worker", "orderbook", "schema changed: x", 1 << 62))
    found = sorted((row["epoch"], row["first"], row["last"]) for row in rows.of("gap"))
    assert found == [(one.publisher.epoch, 1, N) for one in (written, other)]
    catchup.close()


async def test_ended_epochs_are_forgotten_once_their_journal_was_compared(tmp_path: Path) -> None:
    rows = Rows()
    made = stage(rows)
    epochs = []
    for _ in range(4):
        written = Written(tmp_path)
        epochs.append(written.publisher.epoch)
        written.send(N)
        written.close()
    # the worker heard all except the tail of the second epoch, and now hears a fifth one
    for number, epoch in enumerate(epochs):
        made.ledger.restore(made.ledger.stream(PROCESS, BOOK, epoch), N - (number == 1), [])
    made.epochs[PROCESS] = epochs[-1] + 1
    catchup = CatchUp(written.settings, made, [PROCESS])
    task = asyncio.create_task(catchup.run())
    complete = {epochs[0], epochs[2], epochs[3]}
    await until(
        lambda: len(rows.of("orderbook")) == 1 and made.ledger.finished[PROCESS] == complete,
        "the tail is stored",
    )
    assert [epoch for _, _, epoch in made.ledger.streams] == [epochs[1]]
    catchup.restarted(PROCESS)
    await until(
        lambda: not made.ledger.streams and made.ledger.finished[PROCESS] == set(epochs),
        "nothing is left to miss",
    )
    # a damaged table needs all of them again
    await catchup.restore(Damage("worker", "orderbook", "schema changed: x", 1 << 62))
    await until(lambda: len(rows.of("orderbook")) == 1 + 4 * N, "all are stored again")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    catchup.close()


async def test_holes_beyond_the_limit_are_filled_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinspace.storage.ledger.HOLES_LIMIT", 10)
    written = Written(tmp_path)
    written.send(101)
    written.close()
    rows = Rows()
    made = stage(rows)
    epoch = written.publisher.epoch
    reader = JournalReader(written.folder)
    for message in reader.fetch(BOOK, epoch, 1).messages[::2]:
        made.on_message(PROCESS, message)
    (stream,) = made.ledger.streams.values()
    assert (len(stream.holes), stream.put_off) == (10, 40)
    readings = []

    async def open_holes(
        found: Any, publisher: str, streams: Any
    ) -> tuple[dict[StreamKey, list[Hole]], bool]:
        # a row replaces an earlier row of the same hole; seven at a time
        newest = {row["first"]: row for row in rows.of("gap")}
        left = [row for row in newest.values() if row["status"] == "open"]
        readings.append(len(left))
        holes = [Hole(row["first"], row["last"], START_NS, "x", True) for row in left[:7]]
        return {stream.key: holes}, len(left) <= 7

    monkeypatch.setattr("coinspace.storage.position.open_holes", open_holes)
    monkeypatch.setattr("coinspace.storage.catchup.address", lambda settings: None)
    catchup = CatchUp(written.settings, made, [PROCESS])
    task = asyncio.create_task(catchup.run())
    await until(lambda: not stream.holes and not stream.put_off, "no hole left")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    catchup.close()
    assert sorted(row["seq"] for row in rows.of("orderbook")) == list(range(1, 102))
    assert readings[:3] == [40, 33, 26]
    assert made.counters()["gaps_open"] == 0
