"""A publisher with the bus's own sockets and journal, and content that a seed fixes.

Stands in for a collector where a test must know every message that was published.
"""

from __future__ import annotations

import numpy as np
import orjson

from coinspace._ext.message import ORDERBOOK, REPEAT, SELL, STATE, TICKER, TRADE
from coinspace._ext.sink import Sink

START_NS = 1_700_000_000_000_000_000
MARKETS = ("BTC/KRW", "ETH/KRW")
LEVELS = 15


def book(i: int, seed: int = 0) -> np.ndarray:
    """float64[4 * LEVELS]: the payload of message i, one value in five hundred unusual."""
    rng = np.random.default_rng((seed, i))
    middle = 100 + rng.normal()
    bids = middle - np.arange(1, LEVELS + 1) * 0.1
    asks = middle + np.arange(1, LEVELS + 1) * 0.1
    sizes = rng.exponential(size=2 * LEVELS)
    return np.concatenate([bids, sizes[:LEVELS], asks, sizes[LEVELS:]])


class Feeder:
    """Publishes numbered messages through any sink.

    Message i of a market is always the same. Every tenth book is a repeat.
    """

    def __init__(self, sink: Sink, process: str, *, start_ns: int = START_NS) -> None:
        self.sink = sink
        self.exchange = process.rpartition("-")[2]
        self.books = process.startswith("orderbook")
        self.start_ns = start_ns
        self.sent = 0

    def state(self, state: str, reason: str = "") -> None:
        """Publish the same state of every market."""
        for market in MARKETS:
            facts = {
                "exchange": self.exchange,
                "market": market,
                "state": state,
                "reason": reason,
                "since_ns": self._at(),
            }
            topic = self.sink.topic(f"state.{self.exchange}.{market}.".encode())
            self.sink.publish(topic, STATE, orjson.dumps(facts), received_ns=self._at())

    def _at(self) -> int:
        return self.start_ns + self.sent * 1_000_000

    def send(self, n: int) -> None:
        """Publish the next n messages of each market (a ticker process: one ticker, one trade)."""
        for _ in range(n):
            i = self.sent
            self.sent += 1
            for number, market in enumerate(MARKETS):
                if self.books:
                    self._book(i, number, market)
                else:
                    self._ticker(i, number, market)

    def _book(self, i: int, number: int, market: str) -> None:
        repeat = i % 10 == 9
        topic = self.sink.topic(f"orderbook.{self.exchange}.{market}.".encode())
        self.sink.publish(
            topic,
            ORDERBOOK,
            book(i - repeat, number).tobytes(),
            n_bids=LEVELS,
            n_asks=LEVELS,
            flags=REPEAT if repeat else 0,
            exchange_ns=self._at() - 5_000_000,
            received_ns=self._at(),
            id=i + 1,
        )

    def _ticker(self, i: int, number: int, market: str) -> None:
        values = book(i, number)[:11]
        values[3] = np.nan
        ticker = self.sink.topic(f"ticker.{self.exchange}.{market}.".encode())
        self.sink.publish(ticker, TICKER, values.tobytes(), received_ns=self._at())
        trade = self.sink.topic(f"trade.{self.exchange}.{market}.".encode())
        self.sink.publish(
            trade,
            TRADE,
            values[:2].tobytes(),
            flags=SELL if i % 2 else 0,
            exchange_ns=self._at() - 1_000_000,
            received_ns=self._at(),
            id=1000 + i,
        )
