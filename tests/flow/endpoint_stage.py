"""A small stage for the endpoint: real publishers on a real bus, and the endpoint itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from coinspace._ext import message as m
from coinspace.aggregator.consolidate import Consolidator
from coinspace.aggregator.venue import Venue
from coinspace.bus.publisher import Publisher
from coinspace.config import Settings, StorageSettings
from coinspace.endpoint.worker import Endpoint
from coinspace.market import Market
from coinspace.method.aggregate import FxFacts, encode
from coinspace.method.record import (
    ExecutableRecord,
    IndexRecord,
    PremiumRecord,
    Valuation,
    VenueRecord,
)
from coinspace.method.record import encode as encode_record
from coinspace.storage import schema as tables
from coinspace.storage.questdb.address import address
from tests.waiting import until

VENUES = {"upbit:BTC/KRW": 0.3, "bithumb:BTC/KRW": 0.2, "binance:BTC/USDT": 0.5}
# size of each venue at its best prices, in base units
SIZES = {"upbit:BTC/KRW": 0.5, "bithumb:BTC/KRW": 0.25, "binance:BTC/USDT": 2.0}


def settings(folder: Path, **endpoint: Any) -> Settings:
    """Return settings with all files below a folder and a free port."""
    loaded = Settings(data=folder)
    (folder / "run").mkdir(parents=True, exist_ok=True)
    loaded.endpoint.port = 0
    # a nearly full disk of this machine fails no test
    loaded.storage.disk_low_mb = 1
    for key, value in endpoint.items():
        setattr(loaded.endpoint, key, value)
    return loaded


def record(asset: str = "BTC", value: float | None = 100004.45, **more: Any) -> IndexRecord:
    """An index record as the calculator publishes it."""
    now = time.time_ns() // 1_000_000
    found = IndexRecord(
        asset=asset,
        ts_ms=now - now % 200,
        status="ok" if value is not None else "null",
        reason=None if value is not None else "too_few_venues",
        value=value,
        value_raw=value,
        fx=1400.0,
        fx_status="ok",
        kr=140006230.0,
        gl=100003.0,
        regions={
            "KR": Valuation(
                value=140006230.0,
                currency="KRW",
                single_source=False,
                shares=_shares(asset, "KRW"),
            ),
            "GL": Valuation(
                value=100003.0,
                currency="USDT",
                single_source=True,
                shares=_shares(asset, "USDT"),
            ),
        },
        value_krw=140006230.0,
        premium=0.0000145,
        premium_parts=PremiumRecord(None, 0.0000145, None),
        premium_executable=[ExecutableRecord(1.0, -0.002, 0.003)],
        best_bid=100000.0,
        best_ask=100010.0,
        depth_limited=True,
        venues={
            name.replace("BTC", asset): VenueRecord(used=True, share=share, mid=1e5, age_ms=40)
            for name, share in VENUES.items()
        },
    )
    return replace(found, **more)


def _shares(asset: str, quote: str) -> dict[str, float]:
    chosen = [name for name in VENUES if name.endswith(quote)]
    return {name.replace("BTC", asset): 1 / len(chosen) for name in chosen}


class Stage:
    """Publishers of the stages that the endpoint listens to."""

    def __init__(self, chosen: Settings) -> None:
        epoch = time.time_ns()
        self.settings = chosen
        self.index = Publisher("index-calculator", chosen.bus, epoch)
        self.books = Publisher("orderbook-collector-upbit", chosen.bus, epoch)
        self.tickers = Publisher("ticker-collector-upbit", chosen.bus, epoch)
        self.aggregator = Publisher("orderbook-aggregator", chosen.bus, epoch)
        self.publishers = (self.index, self.books, self.tickers, self.aggregator)
        self._topics: dict[tuple[int, bytes], Any] = {}

    def _topic(self, publisher: Publisher, name: bytes) -> Any:
        key = (id(publisher), name)
        if key not in self._topics:
            self._topics[key] = publisher.topic(name)
        return self._topics[key]

    def publish_index(
        self, asset: str = "BTC", value: float | None = 100004.45, **more: Any
    ) -> None:
        """Publish one record."""
        data = encode_record(record(asset, value, **more))
        self.index.publish(self._topic(self.index, f"index.{asset}.".encode()), m.INDEX, data)

    def publish_aggregate(self, asset: str = "BTC") -> None:
        """Publish the summed book: two levels a side and venue, around 100,000 USDT, 10 apart."""
        ts_ns = time.time_ns() // 200_000_000 * 200_000_000
        venues = []
        for number, (name, size) in enumerate(sorted(SIZES.items())):
            exchange, _, pair = name.replace("BTC", asset).partition(":")
            venue = Venue(exchange, Market.parse(pair), state="synced")
            rate = 1400.0 if pair.endswith("KRW") else 1.0
            bid = 100_000.0 - number
            venue.on_book(
                np.array([[bid * rate, (bid - 200) * rate], [size, 10.0]]),
                np.array([[(bid + 10) * rate, (bid + 210) * rate], [size, 10.0]]),
                ts_ns,
            )
            venues.append(venue)
        aggregate = Consolidator(asset).consolidate(
            ts_ns, venues, FxFacts(rate=1400.0, status="ok"), 10_000_000_000
        )
        payload, n_bids, n_asks = encode(aggregate)
        self.aggregator.publish(
            self._topic(self.aggregator, f"aggregate.{asset}.".encode()),
            m.AGGREGATE,
            payload,
            n_bids=n_bids,
            n_asks=n_asks,
        )

    def publish_book(self, market: str = "BTC/KRW", bid: float = 139_990_000.0) -> None:
        """Publish a book of two levels a side."""
        levels = np.array([bid, bid - 1000, 1.0, 2.0, bid + 1000, bid + 2000, 0.5, 1e-8])
        self.books.publish(
            self._topic(self.books, f"orderbook.upbit.{market}.".encode()),
            m.ORDERBOOK,
            levels,
            n_bids=2,
            n_asks=2,
            received_ns=time.time_ns(),
        )

    def publish_trade(self, number: int, market: str = "BTC/KRW") -> None:
        """Publish a sale."""
        now = time.time_ns()
        self.tickers.publish(
            self._topic(self.tickers, f"trade.upbit.{market}.".encode()),
            m.TRADE,
            np.array([140_000_000.0, 0.0001]),
            flags=m.SELL,
            exchange_ns=now,
            received_ns=now,
            id=number,
        )

    def publish_ticker(self, market: str = "BTC/KRW") -> None:
        """Publish a ticker without a bid and ask."""
        values = np.full(11, np.nan)
        values[0] = 140_000_000.0
        self.tickers.publish(
            self._topic(self.tickers, f"ticker.upbit.{market}.".encode()),
            m.TICKER,
            values,
            flags=8,
            received_ns=time.time_ns(),
        )

    def publish_all(self) -> None:
        """Publish one message of each kind."""
        for asset in self.settings.index.assets:
            self.publish_index(asset)
            self.publish_aggregate(asset)
        self.books.heartbeat({"BTC/KRW": "synced"})
        self.publish_book()
        self.publish_ticker()
        self.publish_trade(time.time_ns() // 1000)

    async def heard_by(self, endpoint: Endpoint) -> None:
        """Publish one message of each kind, and wait until the endpoint has all of them.

        No message is on its way afterwards.
        """

        def connected() -> bool:
            for publisher in self.publishers:
                publisher.heartbeat()
            return bool(endpoint.subscriber._receiver.n_processes == len(self.publishers))

        await until(connected)
        self.publish_all()
        live, assets = endpoint.live, len(self.settings.index.assets)
        await until(
            lambda: (
                len(live.indices) == len(live.aggregates) == assets and live.books and live.trades
            )
        )

    def close(self) -> None:
        """Close every publisher."""
        for publisher in self.publishers:
            publisher.close()


@asynccontextmanager
async def running(chosen: Settings, **more: Any) -> AsyncIterator[tuple[Stage, Endpoint]]:
    """Run a stage and an endpoint that has received something of everything."""
    stage = Stage(chosen)
    endpoint = Endpoint(chosen, **more)
    await endpoint.start()
    try:
        await stage.heard_by(endpoint)
        yield stage, endpoint
    finally:
        await endpoint.stop()
        stage.close()


@contextmanager
def served(folder: Path, *, questdb: Settings | None = None, **more: Any) -> Iterator[str]:
    """An endpoint on a loop in its own thread, which continues to publish, for synchronous code.

    Args: questdb: settings of the database to read, which gets its tables.
    """
    ready, stop = threading.Event(), threading.Event()
    found: list[str] = []

    chosen = settings(folder, **more)
    if questdb is not None:
        database = address(questdb)
        tables.create(database, StorageSettings(ttl="off"))
        chosen.storage.ilp, chosen.storage.sql = database.ilp, database.readonly_sql

    async def serve() -> None:
        async with running(chosen) as (stage, endpoint):
            found.append(endpoint.server.url)
            ready.set()
            number = 0
            while not stop.is_set():
                number += 1
                stage.publish_index("BTC", 1000.0 + number)
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        stop.set()
        thread.join(60)
