"""Made-up books and a driver for tests of the index: lines in, records out."""

from __future__ import annotations

import json
from typing import Any

from coinspace.config import IndexParameters
from coinspace.index.calculator import Index
from coinspace.recompute.snapshots import SnapshotReader

# an IndexRecord; tests compute with its numbers without a check for None
Record = Any
NOW_MS = 1_700_000_000_000
MARKETS = {"binance": "BTC/USDT", "bithumb": "BTC/KRW", "upbit": "BTC/KRW"}


def book(exchange: str, mid: float, *, market: str = "", **facts: Any) -> dict[str, Any]:
    """Return a symmetric book of five levels around a mid."""
    steps = [mid * 0.0001 * i for i in range(1, 6)]
    return {
        "exchange": exchange,
        "market": market or MARKETS[exchange],
        "recv_ms": facts.pop("recv_ms", None),
        "bids": [[mid - step, 1.0] for step in steps],
        "asks": [[mid + step, 1.0] for step in steps],
        **facts,
    }


def rate_books(upbit: float | None, bithumb: float | None) -> list[dict[str, Any]]:
    """Return USDT/KRW books."""
    rates = {"upbit": upbit, "bithumb": bithumb}
    return [book(name, rate, market="USDT/KRW") for name, rate in rates.items() if rate is not None]


class Run:
    """Feeds ticks to one index, as `compute-index --snapshots` does."""

    def __init__(self, **changes: Any) -> None:
        self.parameters = IndexParameters(max_spread=0.005, decimals=2, **changes)
        self.reader = SnapshotReader(lambda asset: self.parameters)
        self.index = Index("BTC", self.parameters)
        self.now_ms = NOW_MS

    def tick(self, *books: dict[str, Any], step_ms: int = 200, **line: Any) -> Record:
        """Advance the clock and return the record of these books, fresh unless stated."""
        self.now_ms += step_ms
        fresh = [{**one, "recv_ms": self._received(one)} for one in books]
        text = json.dumps({"now_ms": self.now_ms, "asset": "BTC", "books": fresh, **line})
        return self.index.compute(self.reader.read(text, 1))

    def prices(
        self, binance: float, upbit: float, bithumb: float, fx: float = 1400, **line: Any
    ) -> Record:
        """Tick with all three venues given in index currency, FX given."""
        return self.tick(
            book("binance", binance, fx=1),
            book("upbit", upbit * fx, fx=fx),
            book("bithumb", bithumb * fx, fx=fx),
            **line,
        )

    def _received(self, one: dict[str, Any]) -> Any:
        return self.now_ms if one["recv_ms"] is None else one["recv_ms"]


def reason(record: Record, exchange: str) -> str | None:
    """Return the reason why a constituent is excluded."""
    found: str | None = record.venues[f"{exchange}:{MARKETS[exchange]}"].reason
    return found
