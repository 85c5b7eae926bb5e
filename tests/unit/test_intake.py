"""Storing a stream's batches: acknowledged when the database has them, kept until then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from coinspace._ext.message import TRADE, Message, encode_header
from coinspace.bus.streams import Batch, Lost, Reader, packed
from coinspace.bus.tail import Tail
from coinspace.config import Settings, StreamSettings
from coinspace.storage import intake as intake_module
from coinspace.storage.intake import REASON, Intake
from coinspace.storage.policy import Policies
from coinspace.storage.stage import StorageStage
from coinspace.tasks import Tasks
from tests.flow.bus_stage import BOOK, PROCESS
from tests.flow.feeding import START_NS
from tests.unit.test_journal import Written
from tests.unit.test_storage_stage import TOPICS, Rows
from tests.waiting import until


class Stored(Rows):
    """Accepts rows; `settled` says how many of them the database has."""

    settled = 0

    @property
    def taken(self) -> int:
        return len(self.rows)


class Given:
    """A reader that gives what a test puts into it."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.confirmed: list[Batch] = []
        self.kept: list[Batch] = []
        self.refused: list[Batch] = []

    async def pull(self) -> list[Batch]:
        await asyncio.sleep(0.001)
        found, self.batches = self.batches, []
        return found

    async def confirm(self, batches: Sequence[Batch]) -> None:
        self.confirmed += batches

    async def keep(self, batches: Sequence[Batch]) -> None:
        self.kept += batches

    async def refuse(self, batch: Batch) -> None:
        self.refused.append(batch)

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class Stage:
    """A stage with a running intake."""

    def __init__(self, folder: Path, rows: Stored, reader: Given) -> None:
        settings = Settings(data=folder, streams=StreamSettings(ack_wait_s=1))
        self.rows, self.reader = rows, reader
        self.stage = StorageStage(
            rows,  # type: ignore[arg-type]
            TOPICS,
            Policies([], 30),
            clock=lambda: START_NS,
            streamed=True,
        )
        self.intake = Intake(settings, self.stage, "orderbook-storage-worker", [PROCESS])


@pytest.fixture
async def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    reader = Given()
    monkeypatch.setattr(intake_module, "read_stream", lambda *given: reader)
    made = Stage(tmp_path / "own", Stored(), reader)
    tasks = Tasks()
    tasks.keep("run", made.intake.run)
    tasks.keep("confirm", made.intake.confirm)
    yield made
    await tasks.cancel()


def batches(folder: Path, n: int, size: int = 2048) -> list[Batch]:
    """Return n books of a publisher, some in each batch."""
    written = Written(folder)
    tail = Tail(written.folder, None)
    try:
        written.send(n)
        found: list[Batch] = []
        while (piece := tail.next(size)) is not None:
            found.append(Batch(PROCESS, packed(piece.records), START_NS, str(len(found))))
        return found
    finally:
        tail.close()
        written.close()


def sequences(rows: Rows) -> list[int]:
    return [row["seq"] for row in rows.of("orderbook")]


async def test_a_batch_is_acknowledged_when_the_database_has_its_rows(
    made: Stage, tmp_path: Path
) -> None:
    given = batches(tmp_path, 20)
    assert len(given) > 1
    made.reader.batches += given
    await until(lambda: len(sequences(made.rows)) == 20)
    # meanwhile it says that it still works on them
    await until(lambda: set(made.reader.kept) == set(given), "all kept")
    assert made.reader.confirmed == []
    first = len(given[0].read()[0])
    made.rows.settled = first
    await until(lambda: made.reader.confirmed == given[:1], shown=lambda: made.reader.confirmed)
    made.rows.settled = 20
    await until(lambda: made.reader.confirmed == given)
    assert made.intake.counters()["stream_unconfirmed"] == 0


async def test_batches_come_in_any_order_and_again(made: Stage, tmp_path: Path) -> None:
    given = batches(tmp_path, 20)
    made.reader.batches += [*reversed(given), given[0]]
    again = len(given[0].read()[0])
    await until(lambda: len(sequences(made.rows)) == 20 + again)
    assert set(sequences(made.rows)) == set(range(1, 21))
    # a gap is nothing that one of several workers can see
    assert made.rows.of("gap") == []


async def test_a_full_memory_delays_the_rest_of_a_batch(made: Stage, tmp_path: Path) -> None:
    made.rows.room = 7
    made.reader.batches += batches(tmp_path, 20)
    await until(lambda: len(sequences(made.rows)) == 7)
    made.rows.room = 1000
    await until(lambda: len(sequences(made.rows)) == 20)
    assert sequences(made.rows) == list(range(1, 21))


async def test_what_a_stream_lacks_is_a_hole_that_is_found_once(made: Stage) -> None:
    lost = [Lost(BOOK, 7, 3, 5), Lost(b"index.BTC.", 7, 1, 1)]
    one = Batch(PROCESS, packed(b"", lost), START_NS, "1")
    made.reader.batches += [one, one]
    await until(lambda: made.intake._messages == 0 and len(made.intake._unconfirmed) == 2)
    (row,) = made.rows.of("gap")
    assert (row["status"], row["reason"], row["first"], row["last"]) == ("open", REASON, 3, 5)
    stream = made.stage.ledger.stream(PROCESS, BOOK, 7)
    assert [(hole.first, hole.last) for hole in stream.holes] == [(3, 5)]


async def test_bad_batches_are_refused_and_do_not_end_the_work(made: Stage, tmp_path: Path) -> None:
    (good,) = batches(tmp_path, 3, 1 << 16)
    bad = [
        Batch("orderbook-collector-nobody", good.body, START_NS, "1"),
        Batch(PROCESS, b"", START_NS, "2"),
        Batch(PROCESS, good.body[:-3], START_NS, "3"),
    ]
    made.reader.batches += [*bad, good]
    await until(lambda: len(sequences(made.rows)) == 3)
    assert made.reader.refused == bad
    assert made.reader.confirmed == []


async def test_an_internal_error_keeps_no_other_batch_waiting(
    made: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = batches(tmp_path, 20)
    take = made.stage.take

    def fail_at_first(publisher: str, message: Message) -> bool:
        if message.sequence == 1:
            raise RuntimeError("defect")
        return take(publisher, message)

    monkeypatch.setattr(made.stage, "take", fail_at_first)
    made.reader.batches += given
    rest = sum(len(one.read()[0]) for one in given[1:])
    await until(lambda: len(sequences(made.rows)) == rest)
    made.rows.settled = rest
    await until(lambda: made.reader.confirmed == given[1:])
    # it comes again
    monkeypatch.undo()
    made.reader.batches.append(given[0])
    await until(lambda: len(sequences(made.rows)) == 20)


async def test_a_message_of_another_kind_than_its_topic_is_counted(made: Stage) -> None:
    header = encode_header(TRADE, payload_size=16, epoch=7, sequence=1)
    wrong = Message.decode(BOOK, header, bytes(16))
    assert made.stage.take(PROCESS, wrong)
    assert made.stage.malformed == 1
    assert made.rows.rows == []


def test_the_stand_in_is_a_reader() -> None:
    reader: Reader = Given()
    assert reader is not None
