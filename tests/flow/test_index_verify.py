"""A live run on simulated exchanges, and a replay of its archive: all stored records are equal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.clock import SECOND_NS
from coinspace.config import Settings, StorageSettings
from coinspace.index import chain
from coinspace.index.store import checked_links, store
from coinspace.market import DOLLAR_MARKET
from coinspace.method.record import decode
from coinspace.recompute import audit
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row
from tests import rate_day
from tests.flow.database import applied, emptied, query
from tests.unit.test_index_record import CASES, computed, rows_of, stored_rows
from tests.waiting import until

EXCHANGES = ("upbit", "bithumb", "binance", "coinbase")
RESTARTED = ("index-calculator", "orderbook-aggregator")
RUN_S = 8
PAUSE_S = 1.5


class Platform:
    """Simulated exchanges, collectors that archive, aggregator and calculator."""

    def __init__(self, settings: Settings) -> None:
        found = address(settings)
        self.settings = settings
        self.environment = {
            **os.environ,
            "COINSPACE_DATA": str(settings.data),
            "COINSPACE_STORAGE__ILP": found.ilp,
            "COINSPACE_STORAGE__SQL": found.sql,
            "COINSPACE_STORAGE__TTL": "off",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str, **pipes: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "coinspace", *command], env=self.environment, **pipes
        )
        self.processes.append(process)
        return process

    def begin(self) -> None:
        # each fifth answer of a source jumps and is not confirmed
        fault = ("--fault", "rate:dunamu:form=jump:every=5")
        offered = [f"--exchange={name}" for name in EXCHANGES]
        simulator = self.start("simulate", "--seed", "11", *offered, *fault, stdout=subprocess.PIPE)
        assert simulator.stdout is not None
        ready = orjson.loads(simulator.stdout.readline())
        urls = ready["exchanges"]
        self.environment["COINSPACE_RATES__SOURCES"] = "dunamu,naver"
        self.environment["COINSPACE_RATES__URLS"] = orjson.dumps(ready["rates"]).decode()
        self.environment["COINSPACE_RATES__POLL_S"] = "dunamu=1,naver=1"
        # only what gives USD per USDT
        self.environment["COINSPACE_EXCHANGES__COINBASE__MARKETS"] = DOLLAR_MARKET
        for name in EXCHANGES:
            prefix = f"COINSPACE_EXCHANGES__{name.upper()}__"
            self.environment[f"{prefix}WEBSOCKET"] = urls[name]["websocket"]
            self.environment[f"{prefix}REST"] = urls[name]["rest"]
            self.environment[f"{prefix}RECORD"] = "true"
        for command in RESTARTED:
            self.started[command] = self.start(command)
        for name in EXCHANGES:
            self.start("orderbook-collector", name)
        self.start("fx-collector")

    async def restart(self, command: str) -> None:
        process = self.started[command]
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 60)
        self.processes.remove(process)
        await asyncio.sleep(PAUSE_S)
        self.started[command] = self.start(command)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "coinspace", *command],
            env=self.environment,
            capture_output=True,
            timeout=250,
            check=False,
        )


@pytest.fixture
def settings(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = address(questdb)
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    return Settings(data=tmp_path_factory.mktemp("iv"), storage=storage)


@pytest.mark.timeout(900)
async def test_every_stored_record_is_recomputed_exactly(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue", "index_recalc")
    platform = Platform(settings)
    # coinbase is off by default
    settings.exchanges["coinbase"].markets = [DOLLAR_MARKET]
    good = "SELECT count() FROM index_tick WHERE asset = 'SOL' AND premium_a != null"
    try:
        platform.begin()
        # ticks and memory lost by a restart make no difference
        for part, command in enumerate((*RESTARTED, None), 1):
            enough = part * RUN_S * 5 // 2
            await until(
                partial(lambda enough: query(settings, good)[0][0] >= enough, enough),
                good,
                limit_s=180,
            )
            if command is not None:
                await platform.restart(command)
    finally:
        platform.end()
    applied(settings)
    # from the first tick with all processes up, to the last one before they stop
    first, last = query(
        settings,
        "SELECT min(ts)::long, max(ts)::long FROM index_tick"
        " WHERE asset = 'SOL' AND premium_a != null",
    )[0]
    first, last = first + 2 * SECOND_NS, last - 2 * SECOND_NS
    # both bases, with rates that change and rates that are held
    found = query(
        settings,
        "SELECT DISTINCT usd_krw, usd_krw_status, premium_a IS NULL FROM index_tick"
        f" WHERE value != null AND ts >= {first}::timestamp_ns AND ts < {last}::timestamp_ns",
    )
    assert len({rate for rate, _, _ in found}) >= 2
    assert "held" in {status for _, status, _ in found} != {"held"}
    assert not any(missing for _, _, missing in found)
    # and a dollar that is not always at 1 USDT
    dollars = query(
        settings,
        "SELECT DISTINCT usdt_usd, usdt_usd_status FROM index_tick"
        f" WHERE value != null AND ts >= {first}::timestamp_ns AND ts < {last}::timestamp_ns",
    )
    assert len({rate for rate, _ in dollars}) >= 2
    assert "ok" in {status for _, status in dollars} <= {"ok", "held"}
    # a recording names the sources that it was made with
    del platform.environment["COINSPACE_RATES__SOURCES"]
    result = platform.run(
        "verify-index",
        *("--feeds", str(settings.data / "archive")),
        *("--from", str(first / 1e6), "--to", str(last / 1e6)),
    )
    verdict = orjson.loads(result.stdout)
    assert verdict["differences"] == [], result.stdout.decode()
    assert result.returncode == 0, result.stderr.decode()
    assert verdict["equal"] == verdict["ticks"] >= 4 * 5 * RUN_S
    # both restarts were within the range
    assert verdict["not_computed"] >= 4 * 5 * 2 * PAUSE_S

    # the memory of both rates comes from stored rows where the warm-up is short
    monkeypatch.setattr(audit, "WARM_UP_NS", SECOND_NS // 5)
    # before the first restart, whose outage would leave no row to begin from
    begin = first + SECOND_NS
    archive = settings.data / "archive"
    again = await asyncio.to_thread(lambda: audit.verify(settings, archive, (begin, last), ["SOL"]))
    assert again.differences == []
    assert again.equal == again.ticks >= 5 * RUN_S

    # records are recomputed with their original parameters, not with the current ones
    platform.environment["COINSPACE_INDEX__OVERRIDES__SOL__DECIMALS"] = "1"
    result = platform.run(
        "verify-index",
        *("--feeds", str(settings.data / "archive"), "--asset", "SOL"),
        *("--from", str(first / 1e6), "--to", str(last / 1e6)),
    )
    verdict = orjson.loads(result.stdout)
    assert verdict["equal"] == verdict["ticks"] >= 5 * RUN_S, result.stdout.decode()
    del platform.environment["COINSPACE_INDEX__OVERRIDES__SOL__DECIMALS"]

    # a wrong stored value is found, and restated beside the original
    wrong_ns = query(
        settings,
        "SELECT max(ts)::long FROM index_tick WHERE asset = 'BTC' AND value != null"
        f" AND ts < {last}::timestamp_ns",
    )[0][0]
    query(
        settings,
        "UPDATE index_tick SET value = value * 1.01"
        f" WHERE asset = 'BTC' AND ts = {wrong_ns}::timestamp_ns",
    )
    applied(settings)
    result = platform.run(
        "verify-index",
        *("--feeds", str(settings.data / "archive"), "--asset", "BTC"),
        *("--from", str(first / 1e6), "--to", str(last / 1e6)),
        *("--restate", "--operator", "kim", "--because", "a test"),
    )
    assert result.returncode == 1
    verdict = orjson.loads(result.stdout)
    assert (verdict["different"], verdict["restated"]) == (1, 1)
    applied(settings)
    rows = query(settings, "SELECT value, original, operator, because FROM index_recalc")
    assert rows[0][1] == pytest.approx(rows[0][0] * 1.01)
    assert rows[0][2:] == ("kim", "a test")


def test_rates_that_change_are_recomputed_over_the_end_of_a_week(
    settings: Settings, tmp_path: Path
) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue")
    # ten minutes before the session ends, and ten after it
    start_ns = rate_day.CLOSE_NS - 600 * SECOND_NS
    day = rate_day.run(settings, tmp_path, start_ns, 1200, interval_ms=5000)
    assert day.verdict.differences == []
    assert day.verdict.good
    assert day.verdict.equal == day.verdict.ticks > 180
    assert {"ok", "held", "closed"} <= {status for status, _ in day.statuses}
    assert day.rates > 5


def test_the_chain_finds_a_changed_record(settings: Settings) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue", "index_chain", "operator_log")
    day_ns = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * SECOND_NS
    rows = [
        Row(
            "index_tick",
            day_ns + hours * 3600 * SECOND_NS,
            {"asset": "BTC", "status": "ok"},
            {"value": 100_000.0 + hours, "value_raw": 100_000.25 + hours},
        )
        for hours in (1, 2, 23, 25, 49)
    ]
    store(settings, rows)
    applied(settings)
    with schema.connect(address(settings)) as connection:
        previous = chain.FIRST
        for day in range(3):
            link = chain.make_link(connection, day_ns + day * chain.DAY_NS, previous)
            store(settings, [link.row()])
            previous = link.link
    applied(settings)
    checked = list(checked_links(settings))
    assert [(one.link.day, one.link.records) for one in checked] == [
        ("2026-01-01", 3),
        ("2026-01-02", 1),
        ("2026-01-03", 1),
    ]
    assert [(one.wrong, one.removed) for one in checked] == [([], False)] * 3

    at_ns = day_ns + 25 * 3600 * SECOND_NS
    query(settings, f"UPDATE index_tick SET value = 1.0 WHERE ts = {at_ns}::timestamp_ns")
    applied(settings)
    found = {one.link.day: one.wrong for one in checked_links(settings)}
    assert "digest: expected" in found["2026-01-02"][0]
    assert found["2026-01-01"] == found["2026-01-03"] == []

    # a forger who also replaces that day's link breaks the next day's
    with schema.connect(address(settings)) as connection:
        first = chain.stored_links(connection)[0]
        forged = chain.make_link(connection, day_ns + chain.DAY_NS, first.link)
    store(settings, [forged.row()])
    applied(settings)
    found = {one.link.day: one.wrong for one in checked_links(settings)}
    assert found["2026-01-02"] == []
    assert "previous: expected" in found["2026-01-03"][0]

    # records that are gone without a retention are an error, with one their link is checked
    query(settings, "ALTER TABLE index_tick DROP PARTITION LIST '2026-01-01'")
    applied(settings)
    gone = next(checked_links(settings))
    assert "records: expected 3, was 0" in gone.wrong[0]
    query(settings, "ALTER TABLE index_tick SET TTL 1 DAYS")
    applied(settings)
    gone = next(checked_links(settings))
    assert (gone.wrong, gone.removed) == ([], True)
    query(settings, f"UPDATE index_chain SET digest = 'x' WHERE ts = {day_ns}::timestamp_ns")
    applied(settings)
    gone = next(checked_links(settings))
    query(settings, "ALTER TABLE index_tick SET TTL 0h")
    assert "link: expected" in gone.wrong[0]


def test_the_chain_does_not_depend_on_how_a_record_is_stored(settings: Settings) -> None:
    found = address(settings)
    schema.create(found, StorageSettings(ttl="off"))
    # a database of an earlier version
    query(settings, "ALTER TABLE index_tick DROP COLUMN gl_twap")
    applied(settings)
    schema.create(found, StorageSettings(ttl="off"))
    applied(settings)
    links = []
    for rows in (recorded_rows(), [row for case in CASES for row in stored_rows(case)]):
        emptied(settings, "index_tick", "index_venue")
        store(settings, rows)
        applied(settings)
        days = sorted({row.at_ns // chain.DAY_NS * chain.DAY_NS for row in rows})
        with schema.connect(found) as connection:
            links.append([chain.make_link(connection, day_ns, chain.FIRST) for day_ns in days])
    assert links[0] == links[1]
    ticks = {(row.at_ns, row.symbols["asset"]) for row in rows if row.table == "index_tick"}
    assert sum(link.records for link in links[0]) == len(ticks) > 1


def recorded_rows() -> list[Row]:
    return [
        row for case in CASES for row in rows_of(decode(case["record"].encode()), computed(case))
    ]
