"""Simulated exchanges and collectors as processes: killed, cut, and with a separate clock."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.waiting import free_port, wait_for

MARKETS = {
    "upbit": ["BTC/KRW", "ETH/KRW"],
    "bithumb": ["BTC/KRW", "ETH/KRW"],
    "binance": ["BTC/USDT", "ETH/USDT"],
}


class Exchanges:
    """Simulated exchanges and a collector of each, as separate processes."""

    def __init__(self, folder: Path, *collectors: tuple[str, str], **environment: str) -> None:
        """Start them. Args: collectors: stream and exchange; default: all order books."""
        self.folder = folder
        self.port = free_port()
        self.environment = {
            **os.environ,
            "COINSPACE_DATA": str(folder),
            "COINSPACE_JOURNAL__ENABLED": "false",
            # a deep snapshot after each of many losses would exceed the REST limit per minute
            "COINSPACE_EXCHANGES__BINANCE__SNAPSHOT_DEPTH": "1000",
            **environment,
        }
        paths = {"upbit": "/websocket/v1", "bithumb": "/websocket/v1", "binance": ""}
        for name, markets in MARKETS.items():
            own = f"COINSPACE_EXCHANGES__{name.upper()}__"
            self.environment[f"{own}WEBSOCKET"] = f"ws://127.0.0.1:{self.port}/{name}{paths[name]}"
            self.environment[f"{own}REST"] = f"http://127.0.0.1:{self.port}/{name}"
            self.environment[f"{own}MARKETS"] = json.dumps(markets)
        self.log = (folder / "log").open("wb")
        self.simulator = self.spawn("simulate", "--port", str(self.port), "--rate", "0.5")
        self.names = collectors or tuple(("orderbook", name) for name in MARKETS)
        self.collectors = [
            self.spawn(f"{stream}-collector", exchange) for stream, exchange in self.names
        ]

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "coinspace", *command],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=self.log,
        )

    def kill(self) -> None:
        self.simulator.send_signal(signal.SIGKILL)
        self.simulator.wait(60)

    def restart(self) -> None:
        self.simulator = self.spawn("simulate", "--port", str(self.port), "--rate", "0.5")

        def started() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(started, "the simulator")

    def fault(self, spec: str) -> None:
        """Start a fault."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/control/faults", json.dumps({"fault": spec}).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 201

    def counters(self, stream: str, exchange: str) -> dict[str, Any]:
        path = self.folder / "run" / f"{stream}-collector-{exchange}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())["counters"]
        except FileNotFoundError:
            return {}
        return found

    def connects(self) -> list[int]:
        """Return how many connections each collector has made."""
        return [self.counters(*name).get("connects", 0) for name in self.names]

    def until_synced(self, before: list[int], limit_s: float) -> float:
        """Wait until every market is synced on a newer connection; return how long it took."""
        began = time.monotonic()

        def found() -> list[dict[str, Any]]:
            return [self.counters(*name) for name in self.names]

        wait_for(
            lambda: all(
                one.get("connects", 0) > old
                and one["links"] == 1
                and one["synced"] == one["markets"]
                for old, one in zip(before, found(), strict=True)
            ),
            "every market synced",
            limit_s=limit_s,
            shown=lambda: (found(), self.text[-3000:]),
        )
        return time.monotonic() - began

    @property
    def text(self) -> str:
        """The logs of all processes."""
        return (self.folder / "log").read_text()

    def close(self) -> None:
        for process in (*self.collectors, self.simulator):
            process.terminate()
        for process in (*self.collectors, self.simulator):
            process.wait(60)
        self.log.close()
