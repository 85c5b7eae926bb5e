"""The exchange is killed and started again at random moments; the books come back each time."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MARKETS = {
    "upbit": ["BTC/KRW", "ETH/KRW"],
    "bithumb": ["BTC/KRW", "ETH/KRW"],
    "binance": ["BTC/USDT", "ETH/USDT"],
}
BACK_S = 30.0
POLL_S = 0.1
SEED = 15


class Exchanges:
    """Simulated exchanges and a collector of each, as processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = {
            **os.environ,
            "COINSPACE_DATA": str(folder),
            "COINSPACE_JOURNAL__ENABLED": "false",
        }
        paths = {"upbit": "/websocket/v1", "bithumb": "/websocket/v1", "binance": ""}
        for name, markets in MARKETS.items():
            own = f"COINSPACE_EXCHANGES__{name.upper()}__"
            self.environment[f"{own}WEBSOCKET"] = f"ws://127.0.0.1:{self.port}/{name}{paths[name]}"
            self.environment[f"{own}REST"] = f"http://127.0.0.1:{self.port}/{name}"
            self.environment[f"{own}MARKETS"] = json.dumps(markets)
        self.log = (folder / "log").open("wb")
        self.simulator = self.spawn("simulate", "--port", str(self.port), "--rate", "0.5")
        self.collectors = [self.spawn("orderbook-collector", name) for name in MARKETS]

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "coinspace", *command],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )

    def kill(self) -> None:
        self.simulator.send_signal(signal.SIGKILL)
        self.simulator.wait(10)

    def restart(self) -> None:
        self.simulator = self.spawn("simulate", "--port", str(self.port), "--rate", "0.5")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(POLL_S)
        raise AssertionError("the simulator did not start")

    def counters(self, exchange: str) -> dict[str, Any]:
        path = self.folder / "run" / f"orderbook-collector-{exchange}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())["counters"]
        except FileNotFoundError:
            return {}
        return found

    def connects(self) -> dict[str, int]:
        return {name: self.counters(name).get("connects", 0) for name in MARKETS}

    def until_synced(self, before: dict[str, int], limit_s: float) -> float:
        """Wait until every book is synced on a newer connection; return how long it took."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            found = {name: self.counters(name) for name in MARKETS}
            if all(
                one.get("connects", 0) > before[name]
                and one["links"] == 1
                and one["synced"] == one["markets"]
                for name, one in found.items()
            ):
                return time.monotonic() - began
            time.sleep(POLL_S)
        log = (self.folder / "log").read_text()[-3000:]
        raise AssertionError(f"not synced within {limit_s} s; {found} {log}")

    def close(self) -> None:
        for process in (*self.collectors, self.simulator):
            process.terminate()
        for process in (*self.collectors, self.simulator):
            process.wait(20)
        self.log.close()


@pytest.fixture
def exchanges() -> Iterator[Exchanges]:
    # socket paths are limited
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        running = Exchanges(Path(folder))
        try:
            yield running
        finally:
            running.close()


@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_books_come_back_each_time_the_exchange_is_killed(exchanges: Exchanges, kills: int) -> None:
    chance = random.Random(SEED)
    exchanges.until_synced(dict.fromkeys(MARKETS, 0), 90)
    took = []
    for _ in range(kills):
        # in the middle of a first sync, or after a while
        time.sleep(chance.choice([0.0, 0.5, 3.0]) * chance.random())
        before = exchanges.connects()
        exchanges.kill()
        time.sleep(chance.uniform(0.0, 4.0))
        exchanges.restart()
        took.append(round(exchanges.until_synced(before, BACK_S), 1))
    print("seconds to sync:", took)
    for process in exchanges.collectors:
        assert process.poll() is None
    log = (exchanges.folder / "log").read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
