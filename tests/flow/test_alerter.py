"""`coinspace alerter` as a process: records on a real bus, a receiver that fails and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coinspace._ext import message as m
from coinspace.bus.publisher import Publisher
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.health_file import read_health
from coinspace.method.record import PremiumRecord, encode
from coinspace.storage.questdb.address import address
from tests.flow.database import applied, query, whole
from tests.flow.endpoint_stage import record
from tests.flow.platform import environment
from tests.receiver import CLOSE, Receiver, answer
from tests.waiting import free_port, until

RULES = """
[alerts]
group_s = 0.1
interval_s = 0
timeout_s = 15
[alerts.rules.high]
kind = "premium"
assets = ["BTC"]
over = {level}
for_s = 0
[alerts.targets.ops]
"""
# an asset of our own on the shared server, with a percentile in the last hour
STORED = "PCT"
PERCENTILE = """
[alerts]
group_s = 0.1
interval_s = 0
[alerts.rules.rare]
kind = "premium"
over_percentile = 90
window = "1h"
for_s = 0
[alerts.targets.ops]
"""


class Stage:
    """The calculator's publisher, a receiver, and the alerter as a process."""

    def __init__(self, data: Path, receiver: Receiver, asset: str = "BTC") -> None:
        self.data, self.receiver, self.asset = data, receiver, asset
        self.settings = Settings(data=data)
        (data / "run").mkdir()
        self.publisher = Publisher("index-calculator", self.settings.bus, time.time_ns())
        self._topic = self.publisher.topic(f"index.{asset}.".encode())

    def configure(self, text: str) -> None:
        (self.data / "coinspace.toml").write_text(text)

    @contextmanager
    def process(self, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        variables = environment(self.data, free_port())
        variables["COINSPACE_ALERTS__TARGETS__OPS__URL"] = self.receiver.url
        with (self.data / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "coinspace", "alerter"],
                env={**os.environ, **variables, **more},
                cwd=self.data,
                stderr=stderr,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def premium(self, premium: float) -> None:
        parts = PremiumRecord(None, premium, None)
        found = record(self.asset, premium=premium, premium_parts=parts)
        self.publisher.publish(self._topic, m.INDEX, encode(found))

    async def taken(self, count: int, premium: float) -> list[str]:
        """Publish a premium until the receiver has taken a number of messages."""

        def there() -> bool:
            self.premium(premium)
            return len(self.receiver.taken) >= count

        await until(there, shown=lambda: self.receiver.requests)
        return [
            f"{one['state']} {one['rule']} {one['subject']}"
            for body in self.receiver.taken
            for one in body["alerts"]
        ]

    def health(self) -> dict[str, Any]:
        return read_health(self.settings, "alerter") or {}

    def counter(self, name: str) -> Any:
        return self.health().get("counters", {}).get(name)


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with Receiver().running() as receiver:
        found = Stage(tmp_path, receiver)
        found.configure(RULES.format(level=0.05))
        yield found
        found.publisher.close()


async def test_each_alert_arrives_once_whatever_the_receiver_and_the_process_do(
    stage: Stage,
) -> None:
    receiver = stage.receiver
    receiver.script = [answer(500), CLOSE]
    with stage.process():
        assert await stage.taken(1, 0.06) == ["raised high BTC"]
        assert len({body["id"] for _, _, body in receiver.requests}) == 1
        assert [body["may_be_repeated"] for _, _, body in receiver.requests] == [False, False, True]
        # what was delivered is on disk: a process that is killed from now on does not repeat it
        await until(lambda: stage.counter("alert_messages") == 1)
    with stage.process() as process:
        assert await stage.taken(2, 0.01) == ["raised high BTC", "cleared high BTC"]
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
    said = (stage.data / "stderr").read_text() + str(stage.health())
    assert "event='alert raised'" in said
    assert "secret" not in said


async def test_sighup_reads_the_rules_again_unless_they_are_wrong(stage: Stage) -> None:
    with stage.process() as process:
        assert await stage.taken(1, 0.06) == ["raised high BTC"]
        stage.configure(RULES.format(level='"x"'))
        process.send_signal(signal.SIGHUP)
        await until(lambda: "a new configuration was refused" in str(stage.health().get("reason")))
        stage.configure(RULES.format(level=0.07))
        process.send_signal(signal.SIGHUP)
        assert await stage.taken(2, 0.06) == ["raised high BTC", "cleared high BTC"]
        assert stage.receiver.taken[1]["alerts"][0]["level"] == pytest.approx(0.07)
        await until(lambda: stage.counter("reloads") == 1)


async def test_a_venue_delivers_once_a_heartbeat_says_so(stage: Stage) -> None:
    rule = '[alerts.rules.venues]\nkind = "venue"\nvenues = "upbit:BTC/KRW"\nfor_s = 0\n'
    stage.configure(RULES.format(level=0.05) + rule)
    collector = Publisher("orderbook-collector-upbit", stage.settings.bus, time.time_ns())
    try:
        with stage.process():
            assert await stage.taken(1, 0.01) == ["raised venues upbit:BTC/KRW"]

            def there() -> bool:
                collector.heartbeat({"BTC/KRW": "synced"})
                return len(stage.receiver.taken) == 2

            await until(there, shown=lambda: stage.receiver.taken)
            (event,) = stage.receiver.taken[1]["alerts"]
            assert event["text"] == "upbit:BTC/KRW delivers again"
    finally:
        collector.close()


async def test_a_percentile_counts_the_stored_premiums(questdb: Settings, tmp_path: Path) -> None:
    whole(questdb)
    minute_ns = 60 * SECOND_NS
    newest_ns = time.time_ns() // minute_ns * minute_ns
    rows = ", ".join(
        f"('{STORED}', 'ok', {number / 1000}, {number / 1000}, {newest_ns - number * minute_ns})"
        for number in range(1, 41)
    )
    query(questdb, f"INSERT INTO index_tick (asset, status, premium, premium_b, ts) VALUES {rows}")
    applied(questdb)
    seen = f"SELECT count() FROM premium_1m WHERE asset = '{STORED}'"
    await until(lambda: query(questdb, seen)[0][0] >= 40, shown=lambda: query(questdb, seen))
    found = address(questdb)
    variables = {"COINSPACE_STORAGE__ILP": found.ilp, "COINSPACE_STORAGE__SQL": found.sql}
    async with Receiver().running() as receiver:
        stage = Stage(tmp_path, receiver, STORED)
        stage.configure(PERCENTILE)
        try:
            with stage.process(COINSPACE_INDEX__ASSETS=STORED, **variables):
                # 36 of 40 stored ones and the running one: 90.2 %
                assert await stage.taken(1, 0.0365) == [f"raised rare {STORED}"]
                assert 90 < receiver.taken[0]["alerts"][0]["value"] < 92
                assert len(await stage.taken(2, 0.03)) == 2
                assert 70 < receiver.taken[1]["alerts"][0]["value"] < 80
        finally:
            stage.publisher.close()


async def test_a_rule_that_cannot_work_ends_the_start_with_its_name(stage: Stage) -> None:
    stage.configure(RULES.format(level=0.05).replace('"BTC"', '"BTX"'))
    with stage.process() as process:
        assert await asyncio.to_thread(process.wait, 60) == 1
    said = (stage.data / "stderr").read_text()
    assert "alerts.rules.high.assets: there is no index of 'BTX': did you mean 'BTC'?" in said
