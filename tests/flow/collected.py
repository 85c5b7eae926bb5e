"""Storage workers fed by real collectors, which read the same feed from a replay server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from coinspace.simulator.simulated_feed import write_feeds
from tests.flow.faults import Faults

# one exchange that sends whole books and one that sends updates
MARKETS = {"upbit": ["BTC/KRW", "ETH/KRW"], "binance": ["BTC/USDT", "ETH/USDT"]}
COLLECTORS = tuple(
    f"{kind}-collector-{exchange}" for exchange in MARKETS for kind in ("orderbook", "ticker")
)
SEED = 5
Rows = dict[tuple[str, str], Counter[Any]]


def record(folder: Path, seconds: float, start_ns: int) -> list[Path]:
    """Write the feeds of all exchanges; one seed and start give the same bytes."""
    written = write_feeds(
        folder / "faults.feed.zst", SEED, MARKETS, duration_s=seconds, start_ns=start_ns
    )
    return [Path(line["path"]) for line in written]


class Collected(Faults):
    """Collectors, workers, QuestDB and the replay server as processes."""

    publishers = COLLECTORS

    def __init__(self, folder: Path, feeds: list[Path], **environment: str) -> None:
        """Start the replay server."""
        super().__init__(folder, 0, **environment)
        self._output = folder / "replay.jsonl"
        with self._output.open("wb") as out:
            self._replay = subprocess.Popen(
                [sys.executable, "-m", "coinspace", "replay", *map(str, feeds)],
                env=self.environment,
                stdout=out,
                stderr=self._log,
            )
        self.until(self._lines)
        for exchange, urls in self._lines()[0]["exchanges"].items():
            own = f"COINSPACE_EXCHANGES__{exchange.upper()}__"
            self.environment[f"{own}MARKETS"] = json.dumps(MARKETS[exchange])
            for key, url in urls.items():
                self.environment[f"{own}{key.upper()}"] = url

    @property
    def input(self) -> str:
        """Describe what is published."""
        return f"simulated feed of {' and '.join(MARKETS)}, seed {SEED}"

    def command(self, name: str) -> list[str]:
        """Return the command that starts a process."""
        if name in COLLECTORS:
            kind, _, exchange = name.rpartition("-")
            return ["coinspace", kind, exchange]
        return super().command(name)

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output.read_bytes().splitlines()]

    def played(self) -> bool:
        """Return whether every collector's part of the feed is over."""
        return len(self._lines()) > len(COLLECTORS)

    def contents(self) -> Rows:
        """Return the rows' market data, without the columns that differ from run to run.

        (table, exchange) -> how often each row occurs.
        """
        found: Rows = {}
        for exchange in MARKETS:
            where = f"where exchange = '{exchange}'"
            found["orderbook", exchange] = Counter(
                (*key, np.concatenate([*bids, *asks]).tobytes(), n_bids, n_asks)
                for *key, bids, asks, n_bids, n_asks in self.sql(
                    "select market, exchange_ts::long, update_id, bids, asks, n_bids, n_asks"
                    f" from orderbook {where}"
                )
            )
            found["trade", exchange] = Counter(
                self.sql(f"select market, ts::long, trade_id, side, price, size from trade {where}")
            )
            found["ticker", exchange] = Counter(
                self.sql(
                    "select market, exchange_ts::long, last, open, high, low, volume, quote_volume,"
                    f" change, bid, bid_size, ask, ask_size, span from ticker {where}"
                )
            )
        return found

    def close(self) -> None:
        """End every process."""
        super().close()
        self._replay.terminate()
        self._replay.wait(60)
