"""The archive's files, without a database."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.clock import DAY_NS, HOUR_NS, MINUTE_NS
from coinspace.config import Settings, StorageSettings
from coinspace.errors import StorageError
from coinspace.storage import archive as archives
from coinspace.storage import schema
from coinspace.storage.archive import Archive, Archiver, File, Part, day_ns, remove_parts
from coinspace.storage.tables import ORDERBOOK, TRADE, Table

DAYS = ("2026-01-01", "2026-01-02")


def test_only_parts_of_the_archive_are_removed(tmp_path: Path) -> None:
    own = [tmp_path / "trade" / "upbit" / "2026-01-01.piece", tmp_path / "index_tick" / "a.part"]
    others = [tmp_path / "film.mkv.part", tmp_path / "downloads" / "x.part"]
    for path in (*own, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half a file")
    (tmp_path / "trade" / "folder.part").mkdir()
    remove_parts(tmp_path)
    assert [path.exists() for path in (*own, *others)] == [False, False, True, True]


@pytest.mark.parametrize("ttl", [0, 7])
def test_the_file_of_a_day_that_the_retention_shortens_is_kept(
    ttl: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, lines = Archive(tmp_path), list[str]()
    part = Part(ORDERBOOK, DAYS[0], "upbit")
    (tmp_path / "orderbook").mkdir()
    archive.add(part, File(10, 1, ""))
    written: list[str] = []

    def rows(connection: object, text: str, *values: object) -> list[tuple[Any, ...]]:
        return [("upbit", "BTC/KRW")] if "DISTINCT" in text else [(ttl, "DAY")]

    def export(self: Archiver, part: Part, path: Path) -> File:
        written.append(part.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text("rows")
        return File(5, 1, "")

    monkeypatch.setattr(schema, "connect", lambda found: nullcontext())
    monkeypatch.setattr(archives, "stored_days", lambda connection, table: list(DAYS))
    monkeypatch.setattr(archives, "rows", rows)
    monkeypatch.setattr(archives, "_count", lambda connection, part: 5)
    monkeypatch.setattr(Archiver, "_export", export)
    server = StorageSettings(ilp="http::addr=127.0.0.1:1;", sql="postgresql://127.0.0.1:1/x")
    settings = Settings(data=tmp_path, storage=server)
    work = Archiver(settings, archive, lines.append)
    if not ttl:
        with pytest.raises(StorageError, match="has 10 rows, the database has 5"):
            work.run(DAY_NS, None, (ORDERBOOK, TRADE))
        return
    work.run(DAY_NS, None, (ORDERBOOK, TRADE))
    # the other files are written
    assert written == [f"upbit/{DAYS[1]}.parquet", *(f"upbit/{day}.parquet" for day in DAYS)]
    assert archive.files("orderbook")[part.name].rows == 10
    assert lines[0] == f"{archive.path(part)}: kept, the retention has removed rows of its day"


@pytest.mark.parametrize(
    ("table", "newest", "behind_min", "ttl"),
    [
        # hours of the day after the dropped ones must stay
        (ORDERBOOK, (1, 20, 30), 0, "44 HOURS"),
        (ORDERBOOK, (0, 1, 0), 0, "1 HOURS"),
        (ORDERBOOK, (1, 20, 59.5), 0, None),
        (TRADE, (1, 20, 30), 0, "1 DAYS"),
        (TRADE, (0, 20, 30), 0, None),
        # after an outage, rows as new as the clock may come at any moment
        (ORDERBOOK, (1, 20, 30), 20, "44 HOURS"),
        (ORDERBOOK, (1, 20, 30), 29.5, None),
        (ORDERBOOK, (1, 20, 30), 180, None),
        (TRADE, (1, 20, 30), 180, "1 DAYS"),
        (TRADE, (1, 20, 30), 240, None),
        # a row of the future does not count
        (ORDERBOOK, (9, 0, 0), -7 * 24 * 60, "48 HOURS"),
    ],
)
def test_only_verified_days_are_dropped(
    table: Table,
    newest: tuple[float, ...],
    behind_min: float,
    ttl: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end_ns = day_ns(DAYS[1])
    days, hours, minutes = newest
    newest_ns = end_ns + int(days * DAY_NS + hours * HOUR_NS + minutes * MINUTE_NS)
    monkeypatch.setattr(archives, "now_ns", lambda: newest_ns + int(behind_min * MINUTE_NS))
    note = tmp_path / "ttl.json"
    executed: list[str] = []

    class Fake:
        def execute(self, text: bytes) -> None:
            executed.append(text.decode())
            # a run that is killed now must be able to set the TTL back
            assert note.exists()

    monkeypatch.setattr(archives, "number", lambda connection, text: newest_ns)
    monkeypatch.setattr(archives, "rows", lambda connection, text: [(0, "HOUR")])
    monkeypatch.setattr(archives, "stored_days", lambda connection, name: [DAYS[1]])
    connection: Any = Fake()
    assert archives._evict(connection, table, end_ns, note) == (ttl is not None)
    found = [text.partition(" SET TTL ")[2] for text in executed if "TTL" in text]
    assert found == ([ttl, "0h"] if ttl else [])
    assert not note.exists()


def test_the_next_run_sets_back_the_ttl_of_a_run_that_was_killed(tmp_path: Path) -> None:
    note = tmp_path / "ttl.json"
    executed: list[bytes] = []

    class Fake:
        def execute(self, text: bytes) -> None:
            executed.append(text)

    connection: Any = Fake()
    archives.restore_ttl(connection, note)
    note.write_text('{"table": "trade", "ttl": "3M"}')
    archives.restore_ttl(connection, note)
    assert executed == [b"ALTER TABLE trade SET TTL 3M"]
    assert not note.exists()
    for damaged in ("", "[]", '{"table": "gap", "ttl": "1h"}', '{"table": "trade", "ttl": "1h x"}'):
        note.write_text(damaged)
        with pytest.raises(StorageError, match="expected the TTL of a table"):
            archives.restore_ttl(connection, note)
    assert len(executed) == 1


def test_two_runs_on_one_database_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one would take the TTL that the first one has set for the table's own."""
    again = []

    def run(self: Archiver, *given: object) -> None:
        again.append(CliRunner().invoke(coinspace, ["archive", str(tmp_path / "b")]))

    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", "http::addr=127.0.0.1:1;")
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", "postgresql://127.0.0.1:1/x")
    monkeypatch.setattr(Archiver, "run", run)
    done = CliRunner().invoke(coinspace, ["archive", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "expected no other process" in str(again[0].exception)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_that_is_ended_sets_the_ttl_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    ended = []

    def run(self: Archiver, *given: object) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            ended.append(True)

    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", "http::addr=127.0.0.1:1;")
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", "postgresql://127.0.0.1:1/x")
    monkeypatch.setattr(Archiver, "run", run)
    before = signal.getsignal(number)
    done = CliRunner().invoke(coinspace, ["archive", str(tmp_path / "a")])
    assert (done.exit_code, ended) == (code, [True])
    assert signal.getsignal(number) == before
