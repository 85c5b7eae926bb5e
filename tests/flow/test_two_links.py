"""`links = 2` over sockets: links end, stall and jitter, and not a single update is missing."""

import asyncio
from typing import Any

from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import Collecting, Truth, collecting

MARKETS = ["BTC/USDT", "ETH/USDT"]
SYMBOLS = {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"}


def simulated() -> ExchangeServer:
    return ExchangeServer(Simulation(6, {"binance": MARKETS}), limits=False)


async def more(c: Collecting, name: str, n: int) -> None:
    """Wait until a counter has grown: both links deliver."""
    enough = c.count(name) + n
    await c.until(lambda: c.count(name) >= enough, name)


async def cut_one(c: Collecting, index: int) -> None:
    """Reset the link of one connection, and wait until it has another one that delivers."""
    (link,) = c.worker.connections[index].links
    assert link.transport is not None
    port = link.transport.underlying_transport.get_extra_info("sockname")[1]
    for one in c.server.connections["binance"]:
        if one.transport.get_extra_info("peername")[1] == port:
            one.reset()

    def back() -> bool:
        links = c.worker.connections[index].links
        return bool(links) and links[-1].number != link.number and links[-1].delivered

    await c.until(back, "another link")


async def test_books_are_whole_while_links_end() -> None:
    async with simulated() as server, collecting(server, "binance", markets=MARKETS, links=2) as c:
        truth = Truth(c, SYMBOLS)
        watching = asyncio.create_task(truth.watch())
        try:
            await c.until(lambda: c.count("links") == 2, "two links")
            await c.synced()
            c.fault("delay:binance:ms=0:jitter=40")
            for index in (0, 1, 0):
                await more(c, "links_confirmed", 10)
                await cut_one(c, index)
        finally:
            watching.cancel()
        assert truth.check() > 5
        for name in ("gaps", "resyncs", "links_disagreed", "malformed", "links_missing"):
            assert not c.count(name), name
        assert c.count("snapshots") == len(MARKETS)
        reasons = [state["reason"] for market in MARKETS for state in c.reported(market)]
        assert not any(reasons)
        for market in MARKETS:
            ids = [message.id for message in c.books(market)]
            assert ids == sorted(set(ids))


async def test_trades_are_whole_while_links_end() -> None:
    options: dict[str, Any] = {"markets": MARKETS, "links": 2}
    async with simulated() as server, collecting(server, "binance", "ticker", **options) as c:
        await c.until(lambda: c.count("links") == 2, "two links")
        await c.synced()
        for index in (0, 1):
            await more(c, "duplicates", 5)
            await cut_one(c, index)
        for market in MARKETS:
            ids = sorted(message.id for message in c.trades(market))
            assert ids == list(range(ids[0], ids[-1] + 1))
        assert not c.count("trades_lost")
        assert not c.count("differing")
