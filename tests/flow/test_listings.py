"""Markets that an exchange lists and delists while its collectors run."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Literal

import pytest

from coinspace.collector import collection as collection_module
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import Market
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import Collecting, collecting

QUOTES = {
    "upbit": "KRW",
    "bithumb": "KRW",
    "binance": "USDT",
    "coinone": "KRW",
    "coinbase": "USD",
}
BASES = ("BTC", "ETH", "SOL")


@pytest.fixture(autouse=True)
def interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection_module, "LISTINGS_INTERVAL_NS", 300_000_000)


@pytest.fixture
async def server() -> AsyncIterator[ExchangeServer]:
    markets = {name: [f"{base}/{quote}" for base in BASES] for name, quote in QUOTES.items()}
    async with ExchangeServer(Simulation(11, markets), limits=False) as running:
        yield running


def symbol_of(exchange: str, market: str) -> str:
    return exchange_named(exchange).symbol_of(Market.parse(market))


def data(running: Collecting, market: str) -> int:
    kinds = ("orderbook", "ticker", "trade")
    return sum(one.kind_name in kinds and one.market == market for one in running.messages)


async def goes_on(running: Collecting, market: str, more: int = 2) -> None:
    before = data(running, market)
    await running.until(lambda: data(running, market) >= before + more, f"{market} goes on")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("exchange", "stream"),
    [
        # where another subscription replaces the first, and where a book is in the stream
        ("upbit", "orderbook"),
        ("coinbase", "orderbook"),
        ("coinone", "ticker"),
        *(
            pytest.param(exchange, stream, marks=SLOW)
            for exchange, stream in (
                ("bithumb", "orderbook"),
                ("binance", "orderbook"),
                ("coinone", "orderbook"),
                ("binance", "ticker"),
                ("coinbase", "ticker"),
            )
        ),
    ],
)
async def test_a_pattern_means_what_is_listed_now(
    server: ExchangeServer, exchange: str, stream: Literal["orderbook", "ticker"]
) -> None:
    """Listings share a connection of their own; a delisting leaves the other markets alone."""
    quote = QUOTES[exchange]
    old, early, late = (f"{base}/{quote}" for base in BASES)
    symbol = symbol_of(exchange, early)
    unlisted = {
        market: server.disorder.add(f"delist:{exchange}:{symbol_of(exchange, market)}")
        for market in (early, late)
    }
    async with collecting(server, exchange, stream, markets=[f"*/{quote}"]) as running:
        await running.until(lambda: running.states == {old: "synced"}, "the only market")
        first = running.worker.connections[0].links[-1].number

        for market in (early, late):
            server.disorder.remove(unlisted[market].id)
            await running.until(partial(is_synced, running, market), f"{market}")
            await goes_on(running, market)
            assert running.reported(market)[0]["change"] == "listed"
        await goes_on(running, early)
        # the oldest had no part in it
        assert running.worker.connections[0].links[-1].number == first
        assert running.reported(old)[-1]["state"] == "synced"
        assert len(running.worker.connections) == 2

        running.fault(f"delist:{exchange}:{symbol}")
        await running.until(
            lambda: not running.worker.stage.collects(symbol), "two lists without the market"
        )
        assert running.states[early] == "halted"
        assert running.reported(early)[-1]["reason"] == "delisted"
        # a later connection does not name it
        await running.until(lambda: len(running.worker.connections[1].links) == 1, "one link")
        before = running.count("connects")
        running.fault(f"cut:{exchange}:count=2")
        await running.until(lambda: running.count("connects") >= before + 2, "new connections")
        assert not any(symbol in one.subscription.symbols for one in running.worker.connections)
        for market in (old, late):
            await running.until(partial(is_synced, running, market), f"{market}")
            await goes_on(running, market)
        assert running.states[early] == "halted"
        assert running.count("error_frames") == running.count("failures") == 0
        assert running.count("impossible_changes") == 0
        await running.until(lambda: running.worker.process.state == "ready", "no fault")

        server.disorder.clear()
        await running.until(lambda: is_synced(running, early), "it is listed again")
        await goes_on(running, early)
        # in its earlier place
        assert len(running.worker.stage.markets) == len(BASES)


def is_synced(running: Collecting, market: str) -> bool:
    return running.states.get(market) == "synced"
