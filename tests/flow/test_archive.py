"""Closed days as Parquet files: written whole, checked, and only then dropped."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from coinspace.cli import coinspace
from coinspace.clock import DAY_NS, SECOND_NS, now_ns
from coinspace.config import Settings, StorageSettings
from coinspace.index.store import store
from coinspace.method.record import decode
from coinspace.storage import archive as archives
from coinspace.storage.archive import Archive
from coinspace.storage.questdb.address import Address, address
from tests.flow.database import applied, emptied, query, whole
from tests.unit.test_index_record import CASES, computed, rows_of
from tests.waiting import wait_for

HOURS = 24
TICKS = ("--table", "index_tick", "--table", "index_venue")
TRADES = "SELECT count() FROM trade"


@pytest.fixture
def settings(
    questdb: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    found = address(questdb)
    whole(questdb)
    emptied(questdb, "trade", "index_tick", "index_venue", "index_chain", "orderbook", "ticker")
    whole(questdb)
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", found.ilp)
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", found.sql)
    yield Settings(data=tmp_path, storage=StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off"))
    emptied(questdb, "trade", "index_tick", "index_venue", "index_chain", "operator_log")


def day(before: int) -> tuple[str, int]:
    """Return a day some days ago: as 2026-11-30, and its start in ns."""
    start_ns = (now_ns() // DAY_NS - before) * DAY_NS
    return datetime.fromtimestamp(start_ns // SECOND_NS, UTC).date().isoformat(), start_ns


def trades(settings: Settings, before: int, exchange: str, first_id: int = 0) -> None:
    """Store a trade an hour on one day."""
    _, start_ns = day(before)
    query(
        settings,
        "INSERT INTO trade (exchange, market, side, price, size, trade_id, ts)"
        f" SELECT '{exchange}', 'BTC/KRW', 'buy', x * 1.5, 0.1, x + {first_id},"
        f" ({start_ns} + x * 3600000000000 - 1800000000000)::timestamp_ns"
        f" FROM long_sequence({HOURS})",
    )


def run(*arguments: str) -> Result:
    return CliRunner().invoke(coinspace, ["archive", *arguments])


def test_days_are_written_once_and_dropped_only_when_their_files_are_whole(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archive"
    for before in (4, 3, 2, 0):
        trades(settings, before, "upbit")
    trades(settings, 3, "binance")
    applied(settings)
    views = "SELECT count(), sum(trades) FROM trade_1s"
    seen = partial(query, settings, views)
    wait_for(lambda: seen()[0][1] == 5 * HOURS, shown=seen)

    done = run(str(folder), "--table", "trade")
    assert done.exit_code == 0, done.output
    names = {str(one.relative_to(folder)) for one in folder.rglob("*.parquet")}
    assert names == {
        *(f"trade/upbit/{day(before)[0]}.parquet" for before in (4, 3, 2)),
        f"trade/binance/{day(3)[0]}.parquet",
    }
    # one line of polars reads it all
    found = pl.read_parquet(folder / "trade/**/*.parquet")
    assert found.height == 4 * HOURS
    assert found.filter(exchange="binance")["price"].to_list() == [1.5 * n for n in range(1, 25)]
    assert found["ts"].dt.epoch("ns").min() == day(4)[1] + 1800 * SECOND_NS
    # nothing is left to do, and nothing was dropped; a run that was killed left a part
    (folder / "trade" / "upbit" / "2026-01-01.part").write_text("half a file")
    again = run(str(folder), "--table", "trade")
    assert (again.exit_code, again.stderr) == (0, "0 files written, 0 days dropped\n")
    assert query(settings, TRADES) == [(5 * HOURS,)]
    assert list(folder.rglob("*.part")) == []

    # markets that the policy leaves out
    with monkeypatch.context() as patched:
        policy = [{"markets": "binance:*/*", "archive": False}, {"markets": "*"}]
        patched.setenv("COINSPACE_STORAGE__POLICY", json.dumps(policy))
        assert "3 files written" in run(str(tmp_path / "b"), "--table", "trade").stderr
    assert not (tmp_path / "b" / "trade" / "binance").exists()

    # rows that came late: the file is written again
    trades(settings, 3, "upbit", first_id=1000)
    applied(settings)
    assert "1 files written" in run(str(folder), "--table", "trade").stderr
    manifest = Archive(folder).files("trade")
    assert manifest[f"upbit/{day(3)[0]}.parquet"].rows == 2 * HOURS

    # a damaged file: nothing is dropped
    damaged = folder / f"trade/upbit/{day(4)[0]}.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-9] + b"!" + content[-8:])
    done = run(str(folder), "--table", "trade", "--drop", "2d")
    assert "expected SHA-256" in str(done.exception)
    assert query(settings, TRADES) == [(6 * HOURS,)]
    damaged.unlink()

    # written again and dropped; the candles stay
    done = run(str(folder), "--table", "trade", "--drop", "2d")
    assert done.stderr == "1 files written, 2 days dropped\n", done.output
    applied(settings)
    assert query(settings, TRADES) == [(2 * HOURS,)]
    assert query(settings, views)[0][1] == 6 * HOURS
    states = "SELECT view_name FROM materialized_views() WHERE view_status = 'invalid'"
    assert query(settings, states) == []
    assert query(settings, "SELECT ttlValue FROM tables() WHERE table_name = 'trade'") == [(0,)]
    assert pl.read_parquet(folder / "trade/**/*.parquet").height == 5 * HOURS


def test_a_day_that_gets_rows_meanwhile_is_written_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trades(settings, 2, "upbit")
    applied(settings)
    fetch, calls = archives.fetch, []

    def late(found: Address, text: str, target: Path) -> None:
        fetch(found, text, target)
        calls.append(text)
        if len(calls) == HOURS:
            trades(settings, 2, "upbit", first_id=500)
            applied(settings)

    monkeypatch.setattr(archives, "fetch", late)
    done = run(str(tmp_path / "a"), "--table", "trade")
    assert done.exit_code == 0, done.output
    assert len(calls) == 2 * HOURS
    assert pl.read_parquet(tmp_path / "a/trade/**/*.parquet").height == 2 * HOURS

    # a day that never rests
    def always(found: Address, text: str, target: Path) -> None:
        late(found, text, target)
        if len(calls) % HOURS == 0:
            trades(settings, 2, "upbit", first_id=1000 * len(calls))
            applied(settings)

    monkeypatch.setattr(archives, "fetch", always)
    done = run(str(tmp_path / "b"), "--table", "trade")
    assert "got rows during 3 attempts" in str(done.exception)
    assert list((tmp_path / "b").rglob("*.p*")) == []


def test_a_place_that_refuses_is_reported_and_nothing_is_dropped(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trades(settings, 3, "upbit")
    trades(settings, 0, "upbit")
    applied(settings)

    def full(found: Address, text: str, target: Path) -> None:
        target.write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(archives, "fetch", full)
        done = run(str(tmp_path / "a"), "--table", "trade", "--drop", "1d")
    assert "cannot be written, No space left on device; nothing was dropped" in str(done.exception)
    assert [one for one in (tmp_path / "a").rglob("*") if one.is_file()] == [tmp_path / "a/.lock"]

    def refused(found: Address, text: str, target: Path) -> None:
        fetch(found, text.replace("trade", "no_such_table"), target)

    with monkeypatch.context() as patched:
        fetch = archives.fetch
        patched.setattr(archives, "fetch", refused)
        done = run(str(tmp_path / "a"), "--table", "trade", "--drop", "1d")
    assert "expected rows, was status 400" in str(done.exception)
    assert [one for one in (tmp_path / "a").rglob("*") if one.is_file()] == [tmp_path / "a/.lock"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "trade").write_text("a file")
    done = run(str(tmp_path / "b"), "--table", "trade", "--drop", "1d")
    assert "expected a manifest, [Errno 20] Not a directory" in str(done.exception)
    (tmp_path / "c").write_text("a file")
    assert run(str(tmp_path / "c"), "--table", "trade").exit_code != 0
    assert query(settings, TRADES) == [(2 * HOURS,)]


def test_dropped_ticks_stay_in_the_chain(settings: Settings, tmp_path: Path) -> None:
    for before in (4, 3, 2, 0):
        _, start_ns = day(before)
        rows = [
            replace(row, at_ns=start_ns + row.at_ns % DAY_NS)
            for case in CASES
            for row in rows_of(decode(case["record"].encode()), computed(case))
        ]
        store(settings, rows)
    applied(settings)
    count = len({(row.at_ns, row.symbols["asset"]) for row in rows if row.table == "index_tick"})
    # a day without a link of the chain is archived and not dropped
    done = run(str(tmp_path / "a"), *TICKS, "--drop", "2d")
    assert done.stderr == "6 files written, 0 days dropped\n", done.output
    chain = CliRunner().invoke(coinspace, ["verify-chain", "--append"])
    assert "0 wrong" in chain.stderr
    applied(settings)
    done = run(str(tmp_path / "a"), *TICKS, "--drop", "2d")
    assert done.stderr == "0 files written, 4 days dropped\n", done.output
    applied(settings)
    chain = CliRunner().invoke(coinspace, ["verify-chain"])
    assert chain.exit_code == 0, chain.output
    assert "0 wrong, of 2 only the link" in chain.stderr
    # with the archive, their records are checked too
    command = ["verify-chain", "--archive", str(tmp_path / "a")]
    chain = CliRunner().invoke(coinspace, command)
    assert chain.stderr == "4 days checked, 0 wrong\n", chain.output
    assert chain.stdout.count("ok, archived") == 2
    assert pl.read_parquet(tmp_path / "a/index_tick/*.parquet")["value"].len() == 3 * count


def test_candles_that_a_refresh_would_delete_are_kept(settings: Settings) -> None:
    for before in (3, 1):
        trades(settings, before, "upbit")
    applied(settings)
    views = partial(query, settings, "SELECT sum(trades) FROM trade_1s")
    wait_for(lambda: views()[0][0] == 2 * HOURS, shown=views)
    # makes the view invalid; its full refresh reads the remaining trades only
    query(settings, f"ALTER TABLE trade DROP PARTITION LIST '{day(3)[0]}'")

    def refreshed() -> bool:
        whole(settings)
        return views() == [(HOURS,)]

    wait_for(refreshed, shown=views)
    assert query(settings, "SELECT sum(trades) FROM trade_1s_kept") == [(HOURS,)]
    for name, _ in query(settings, "SELECT table_name, ttlValue FROM tables()"):
        if name.endswith("_kept"):
            query(settings, f"DROP TABLE {name}")
