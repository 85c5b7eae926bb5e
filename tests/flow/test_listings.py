"""Markets that an exchange lists and delists while its collectors run."""

from collections.abc import AsyncIterator
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


@pytest.mark.parametrize(
    ("exchange", "stream"), [*((one, "orderbook") for one in QUOTES), ("coinbase", "ticker")]
)
async def test_a_pattern_means_what_is_listed_now(
    server: ExchangeServer, exchange: str, stream: Literal["orderbook", "ticker"]
) -> None:
    """A listing gets a connection of its own; a delisting leaves the other markets alone."""
    quote = QUOTES[exchange]
    old, new = f"BTC/{quote}", f"SOL/{quote}"
    symbol = symbol_of(exchange, new)
    delisted = server.disorder.add(f"delist:{exchange}:{symbol}")
    async with collecting(server, exchange, stream, markets=[f"*/{quote}"]) as running:
        await running.until(lambda: set(running.states.values()) == {"synced"}, "the others")
        assert new not in running.states
        first = running.worker.connections[0].links[-1].number

        server.disorder.remove(delisted.id)
        await running.until(lambda: running.states.get(new) == "synced", "the new market")
        await goes_on(running, new)
        assert running.reported(new)[0]["change"] == "listed"
        # the others had no part in it
        assert running.worker.connections[0].links[-1].number == first
        assert {one["state"] for one in running.reported(old)[-1:]} == {"synced"}
        assert running.count("disconnects") == 0

        running.fault(f"delist:{exchange}:{symbol}")
        await running.until(
            lambda: not running.worker.stage.collects(symbol), "two lists without the market"
        )
        assert running.states[new] == "halted"
        assert [one["reason"] for one in running.reported(new)][-1] == "delisted"
        assert len(running.worker.connections) == 1
        # a later connection does not name it
        assert symbol not in running.worker.connections[0].subscription.symbols
        running.fault(f"cut:{exchange}:count=1")
        await running.until(lambda: running.count("connects") == 3, "a new connection")
        await goes_on(running, old)
        assert running.states[new] == "halted"
        assert running.count("error_frames") == running.count("failures") == 0
        assert running.count("impossible_changes") == 0
        await running.until(lambda: running.worker.process.state == "ready", "no fault")

        server.disorder.clear()
        await running.until(lambda: running.states[new] == "synced", "it is listed again")
        await goes_on(running, new)
        # in its earlier place
        assert len(running.worker.stage.markets) == len(BASES)
