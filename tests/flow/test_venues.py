"""Exchanges that are off by default, collected from the simulated ones over real sockets."""

from typing import Any

import pytest

from coinspace.exchanges import exchange as exchange_named
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import Collecting, collecting

# faults of frames, each on every few frames
FAULTS = (
    "drop",
    "duplicate",
    "reorder",
    "truncate",
    "garbage",
    "flip",
    "split",
    "chop",
    "coalesce",
)


def levels(side: Any) -> list[tuple[float, float]]:
    return list(zip(*side.tolist(), strict=True))


async def agreed(running: Collecting, exchange: str, market: str) -> None:
    """Wait until a published book is, level by level, REST's book of the same id."""
    module: Any = exchange_named(exchange)
    source: Any = running.server.source
    (request,) = module.compare_requests([running.worker.stage.statuses[0].symbol])
    path, _, text = request.path.partition("?")
    query = dict(part.split("=") for part in text.split("&"))

    def same() -> bool:
        (book,) = module.read_books(request, source.rests[exchange].get(path, query, 0.0).body)
        found = (one for one in running.books(market)[-100:] if one.id == book.version)
        return any(levels(one.bids) == book.bids and levels(one.asks) == book.asks for one in found)

    await running.until(same, "a book that equals REST's")


async def test_a_text_keeps_a_connection_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    # pings of the protocol get no answer, so they would end the connection
    monkeypatch.setattr(exchange_named("coinone"), "PING_INTERVAL_S", 0.2)
    async with (
        ExchangeServer(Simulation(5, {"coinone": ["BTC/KRW"]})) as server,
        collecting(server, "coinone", markets=["BTC/KRW"]) as running,
    ):
        # CONNECTED, SUBSCRIBED, then answers
        await running.until(lambda: running.count("controls") >= 6, "four answers to texts")
        await running.synced()
        assert not running.count('connection_failures{cause="no_pong"}')
        assert running.count("connects") == 1


@pytest.mark.parametrize("exchange", ["coinone"])
async def test_books_and_trades_survive_faults(exchange: str) -> None:
    market = exchange_named(exchange).SETTINGS.markets[0]
    simulation = Simulation(6, {exchange: [market]}, rate=3.0)
    async with (
        ExchangeServer(simulation, limits=False) as server,
        collecting(server, exchange, markets=[market]) as running,
    ):
        await running.synced()
        for kind in FAULTS:
            running.fault(f"{kind}:{exchange}:every=7")
        begin = running.count("books_published")
        await running.until(
            lambda: (
                running.count("malformed") >= 3 and running.count("books_published") > begin + 20
            ),
            "books beside malformed frames",
        )
        running.fault(f"reset:{exchange}")
        server.disorder.clear()
        await running.until(lambda: running.count("connects") >= 1, "a connection")
        await running.synced()
        await agreed(running, exchange, market)
