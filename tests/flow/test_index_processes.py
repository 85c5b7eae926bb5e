"""Aggregator and calculator as processes: books in, records on the bus and in QuestDB."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from coinspace._ext.message import ORDERBOOK, STATE, Message
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import MILLISECOND_NS, SECOND_NS, now_ns
from coinspace.config import Settings, StorageSettings
from coinspace.health_file import read_health
from coinspace.index.store import store
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row
from tests.flow.database import applied, emptied, query
from tests.waiting import until

# five ticks a second, written 2,000 a second
OUTAGE_S = 4800
DRIVE_S = 200.0
# aggregates that wait for the calculator
UPDATES = 250
PRICES = {"upbit": 140_100_000.0, "bithumb": 140_110_000.0, "binance": 100_000.0}


def side(mid: float, sign: int, n: int = 20) -> np.ndarray[Any, Any]:
    steps = mid * (1 + sign * 0.0001 * np.arange(1, n + 1))
    return np.array([steps, np.full(n, 0.5)])


class Collectors:
    """Three publishers instead of the collectors: real sockets, made-up books."""

    def __init__(self, settings: Settings) -> None:
        self.publishers = {
            name: Publisher(f"orderbook-collector-{name}", settings.bus, now_ns())
            for name in settings.exchanges
        }
        self.silent: set[str] = set()

    def markets(self) -> Iterator[tuple[str, str, float]]:
        for name, price in PRICES.items():
            yield name, "BTC/USDT" if name == "binance" else "BTC/KRW", price
            if name != "binance":
                yield name, "USDT/KRW", 1400.0

    def send(self) -> None:
        for name, market, price in self.markets():
            if name in self.silent:
                continue
            sink = self.publishers[name]
            bids, asks = side(price, -1), side(price, 1)
            payload = np.concatenate([bids.ravel(), asks.ravel()]).tobytes()
            sink.publish(
                sink.topic(f"orderbook.{name}.{market}.".encode()),
                ORDERBOOK,
                payload,
                n_bids=bids.shape[1],
                n_asks=asks.shape[1],
                received_ns=now_ns(),
            )

    def publish_state(self, state: str) -> None:
        for name, market, _ in self.markets():
            sink = self.publishers[name]
            facts = {"exchange": name, "market": market, "stream": "orderbook", "state": state}
            sink.publish(
                sink.topic(f"state.{name}.{market}.".encode()),
                STATE,
                orjson.dumps(facts),
                received_ns=now_ns(),
            )

    def heartbeat(self) -> None:
        for name, sink in self.publishers.items():
            if name not in self.silent:
                sink.heartbeat({m: "synced" for n, m, _ in self.markets() if n == name})

    def close(self) -> None:
        for sink in self.publishers.values():
            sink.close()


def environment(settings: Settings) -> dict[str, str]:
    found = address(settings)
    return {
        **os.environ,
        "COINSPACE_DATA": str(settings.data),
        "COINSPACE_STORAGE__ILP": found.ilp,
        "COINSPACE_STORAGE__SQL": found.sql,
        "COINSPACE_STORAGE__TTL": "off",
        "COINSPACE_INDEX__ASSETS": '["BTC"]',
        # a candidate beside the live one, whose limit is a twentieth of a percent
        "COINSPACE_INDEX__NEXT": '{"max_deviation": 0.0005}',
    }


def start(command: str, settings: Settings, **extra: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "coinspace", command], env={**environment(settings), **extra}
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.fixture
def settings(questdb: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = address(questdb)
    storage = StorageSettings(ilp=found.ilp, sql=found.sql, ttl="off")
    # a short name: the length of socket paths is limited
    mine = Settings(data=tmp_path_factory.mktemp("ix"), storage=storage)
    (mine.data / "run").mkdir()
    return mine


async def test_records_on_the_bus_and_in_the_database(settings: Settings) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue")
    collectors = Collectors(settings)
    records: list[dict[str, Any]] = []

    def take(message: Message) -> None:
        records.append(message.json())

    heard = Subscriber([settings.bus.endpoint("index-calculator")], [b"index."], take)
    heard.start()
    processes = [start(name, settings) for name in ("orderbook-aggregator", "index-calculator")]
    try:
        await _drive(collectors, lambda: len(records) >= 10 and records[-1]["status"] == "ok")
        good = records[-1]
        assert good["fx"] == pytest.approx(1400)
        # between the Korean and the other price
        assert 99_900 < good["value"] < 100_200
        assert [one["ts_ms"] % 200 for one in records] == [0] * len(records)
        assert sum(one["share"] for one in good["venues"].values()) == pytest.approx(1)

        # a collector dies: its venue is excluded within three seconds, with the reason
        collectors.silent.add("upbit")
        name = "upbit:BTC/KRW"
        await _drive(collectors, lambda: records[-1]["venues"][name]["reason"] == "disconnected")
        assert records[-1]["status"] == "degraded"
        collectors.silent.clear()
        collectors.publish_state("synced")
        await _drive(collectors, lambda: records[-1]["status"] == "ok")
    finally:
        for process in processes:
            stop(process)
        heard.drain()
        heard.close()
        collectors.close()

    stamps = [one["ts_ms"] for one in records]
    assert stamps == sorted(set(stamps))
    applied(settings)
    # a busy machine misses ticks, which have no venues
    computed = "FROM index_tick WHERE coalesce(reason, '') != 'not_computed'"
    stored = dict(query(settings, f"SELECT ts::long / 1000000, value_raw {computed}"))
    assert {one["ts_ms"]: one["value_raw"] for one in records} == {ts: stored[ts] for ts in stamps}
    venues = query(
        settings,
        "SELECT count(), count_distinct(venue) FROM index_venue WHERE role = 'constituent'",
    )
    assert venues == [(3 * len(stored), 3)]
    health = read_health(settings, "index-calculator")
    assert health is not None
    assert health["counters"]["rows_pending"] == 0


async def test_memory_and_numbering_survive_a_restart(settings: Settings) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue", "index_next")
    collectors = Collectors(settings)
    aggregator = start("orderbook-aggregator", settings)
    computed = "SELECT count() FROM index_tick WHERE coalesce(reason, '') != 'not_computed'"
    for _ in range(2):
        before = query(settings, computed)[0][0]
        calculator = start("index-calculator", settings)
        try:
            await _drive(
                collectors,
                lambda before=before: (
                    # every tick in between has a record
                    query(settings, computed)[0][0] > before + 5 and _complete(settings)
                ),
            )
        finally:
            stop(calculator)
        applied(settings)
    stop(aggregator)
    collectors.close()
    assert _complete(settings)
    ticks = query(settings, "SELECT ts::long, reason FROM index_tick ORDER BY ts")
    # ticks without a calculator have their reason
    assert any(reason == "not_computed" for _, reason in ticks)
    # the candidate has separate records with a different hash: its market is split
    found = query(settings, "SELECT ts::long, parameter_hash, reason FROM index_next ORDER BY ts")
    assert {row[0] for row in found} <= {row[0] for row in ticks}
    hashes = query(settings, "SELECT DISTINCT parameter_hash FROM index_tick")
    assert len({row[1] for row in found} | {row[0] for row in hashes}) == 2
    assert found[-1][2] == "regime_split"
    assert "regime_split" not in {reason for _, reason in ticks}


@pytest.mark.parametrize("behind", ["orderbook-aggregator", "index-calculator"])
async def test_at_each_update_a_slow_process_skips_to_the_newest_state(
    settings: Settings, behind: str
) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue")
    collectors = Collectors(settings)
    records: list[dict[str, Any]] = []
    heard = Subscriber(
        [settings.bus.endpoint("index-calculator")],
        [b"index."],
        lambda message: records.append(message.json()),
    )
    heard.start()
    aggregates: list[int] = []
    sums = Subscriber(
        [settings.bus.endpoint("orderbook-aggregator")],
        [b"aggregate."],
        lambda message: aggregates.append(message.sequence),
    )
    sums.start()
    at_each = {"COINSPACE_INDEX__INTERVAL_MS": "0"}
    processes = {
        name: start(name, settings, **at_each)
        for name in ("orderbook-aggregator", "index-calculator")
    }
    try:
        await _drive(collectors, lambda: records[-1]["status"] == "ok")
        await _newest(collectors, records)
        processes[behind].send_signal(signal.SIGSTOP)
        del records[:], aggregates[:]
        if behind == "orderbook-aggregator":
            rounds = iter(range(100))
            await _drive(collectors, lambda: next(rounds, None) is None, 0.002)
        else:
            await _drive(collectors, lambda: len(aggregates) >= UPDATES, 0.002)
        processes[behind].send_signal(signal.SIGCONT)
        await _newest(collectors, records)
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGCONT)
            stop(process)
        heard.close()
        sums.close()
        collectors.close()
    # each read of the socket takes up to 256 of 500 updates
    assert 0 < len(records) < UPDATES / 2
    health = read_health(settings, behind)
    assert health is not None
    counted = "coalesced" if behind == "orderbook-aggregator" else "conflated"
    assert health["counters"][counted] >= 50


@pytest.mark.timeout(600)
async def test_a_long_outage_is_written_beside_the_live_ticks(settings: Settings) -> None:
    schema.create(address(settings), StorageSettings(ttl="off"))
    emptied(settings, "index_tick", "index_venue", "gap")
    step_ns = 200 * MILLISECOND_NS
    begin_ns = (now_ns() - OUTAGE_S * SECOND_NS) // step_ns * step_ns
    before: dict[str, str | None] = {"asset": "BTC", "status": "ok"}
    columns = {"value": 7.0, "value_raw": 7.0, "latency_ns": 42}
    store(settings, [Row("index_tick", begin_ns, before, columns)])
    collectors = Collectors(settings)
    newest = "SELECT max(ts)::long FROM index_tick"
    missed = "SELECT count() FROM index_tick WHERE reason = 'not_computed'"
    still_open = "SELECT count() FROM gap WHERE status = 'open'"
    aggregator = start("orderbook-aggregator", settings)
    calculator = start("index-calculator", settings)
    try:
        await _drive(
            collectors,
            # live ticks do not wait for it
            lambda: (
                query(settings, missed)[0][0] > 0
                and now_ns() - query(settings, newest)[0][0] < 10 * SECOND_NS
                and query(settings, still_open)[0][0] == 1
            ),
        )
        # killed half-way; the next process continues
        calculator.kill()
        calculator.wait()
        applied(settings)
        assert query(settings, missed)[0][0] < OUTAGE_S * 4
        calculator = start("index-calculator", settings)
        await _drive(
            collectors, lambda: query(settings, still_open)[0][0] == 0 and _complete(settings)
        )
    finally:
        stop(calculator)
        stop(aggregator)
        collectors.close()
    applied(settings)
    ticks = query(settings, "SELECT ts::long, value_raw, latency_ns FROM index_tick ORDER BY ts")
    last_ns = ticks[-1][0]
    assert [tick[0] for tick in ticks] == list(range(begin_ns, last_ns + 1, step_ns))
    # existing records are unchanged
    assert ticks[0][1:] == (7.0, 42)
    gaps = query(settings, "SELECT kind, publisher, market, status FROM gap")
    assert set(gaps) == {("index", "index-calculator", "BTC", "filled")}


async def _drive(collectors: Collectors, done: Any, pause_s: float = 0.05) -> None:
    """Send books and heartbeats until a condition holds."""
    started, beaten = time.monotonic(), 0.0
    while not _done(done):
        now = time.monotonic()
        assert now - started < DRIVE_S, inspect.getsource(done)
        collectors.send()
        if now - beaten > 0.8:
            beaten = now
            collectors.heartbeat()
        await asyncio.sleep(pause_s)


async def _newest(collectors: Collectors, records: list[dict[str, Any]]) -> None:
    """Send the last books and wait for a record of nothing but these."""
    last_ms = now_ns() / MILLISECOND_NS
    collectors.send()

    def found() -> bool:
        if not records or records[-1]["status"] != "ok":
            return False
        since_ms = records[-1]["ts_ms"] - last_ms
        return all(0 <= one["age_ms"] <= since_ms + 1 for one in records[-1]["venues"].values())

    await until(found, "a record of the last books", shown=lambda: records[-1:])


def _complete(settings: Settings) -> bool:
    """Return whether no tick is missing between the first and the last."""
    text = "SELECT count(), min(ts)::long, max(ts)::long FROM index_tick"
    ((count, first_ns, last_ns),) = query(settings, text)
    return bool(count) and last_ns - first_ns == (count - 1) * 200 * MILLISECOND_NS


def _done(done: Any) -> bool:
    try:
        return bool(done())
    except (IndexError, KeyError):
        return False
