"""A collector worker on a simulated exchange, in one event loop over real sockets."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from coinspace._ext.message import Message
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import now_ns
from coinspace.collector.worker import Worker
from coinspace.config import Settings, load
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import RestTrade, Stream
from coinspace.market import Market
from coinspace.process import Process
from coinspace.simulator.rest import answer
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.waiting import until


class Collecting:
    """A running worker and everything that it published."""

    def __init__(self, server: ExchangeServer, worker: Worker) -> None:
        self.server = server
        self.worker = worker
        self.messages: list[Message] = []
        self._newest: dict[bytes, int] = {}

    def take(self, message: Message) -> None:
        self.messages.append(message)
        self._newest[message.topic] = message.sequence

    async def arrived(self) -> None:
        """Wait until `messages` has everything that the worker has published until now."""
        published = dict(self.worker.publisher.sequences)
        await until(
            lambda: all(self._newest.get(topic, 0) >= last for topic, last in published.items()),
            "the messages on their way",
        )

    @property
    def states(self) -> dict[str, str]:
        return dict(self.worker.stage.states)

    def count(self, name: str) -> float:
        return self.worker.counters().get(name, 0)

    def books(self, market: str) -> list[Message]:
        return [m for m in self.messages if m.kind_name == "orderbook" and m.market == market]

    def trades(self, market: str) -> list[Message]:
        return [m for m in self.messages if m.kind_name == "trade" and m.market == market]

    def reported(self, market: str) -> list[dict[str, Any]]:
        return [m.json() for m in self.messages if m.kind_name == "state" and m.market == market]

    def fault(self, spec: str) -> Any:
        return self.server.disorder.add(spec)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, and for the messages that were published until then."""
        await until(condition, what, shown=self._shown)
        await self.arrived()

    def _shown(self) -> object:
        return self.states, {k: v for k, v in self.worker.counters().items() if v and "{" not in k}

    async def synced(self) -> None:
        markets = self.worker.settings.markets
        await self.until(
            # a market has no state before its connection is open
            lambda: len(self.states) >= len(markets) and set(self.states.values()) == {"synced"},
            "every market synced",
        )


class Truth:
    """The books of the exchange's REST, compared with published books of the same version."""

    def __init__(self, collecting: Collecting, symbols: dict[str, str]) -> None:
        self.collecting = collecting
        self.symbols = symbols
        self.books: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    async def watch(self) -> None:
        """Read books until cancelled, without faults and without weight of the address."""
        source = self.collecting.server.source
        assert isinstance(source, Simulation)
        while True:
            for symbol in self.symbols:
                query = {"symbol": symbol, "limit": "1000"}
                _, content = source.rests["binance"].content("/api/v3/depth", query)
                self.note(symbol, answer(content))
            await asyncio.sleep(0.02)

    def note(self, symbol: str, answer: Any) -> None:
        import orjson

        book = orjson.loads(answer.body)
        sides = [
            np.array([[float(p), float(q)] for p, q in book[side]]).reshape(-1, 2).T
            for side in ("bids", "asks")
        ]
        self.books[symbol, book["lastUpdateId"]] = (sides[0], sides[1])

    def check(self, levels: int = 1000) -> int:
        """Compare so many levels; return how many published books had a true book of their id."""
        compared = 0
        for symbol, market in self.symbols.items():
            for message in self.collecting.books(market):
                assert message.bids[0, 0] < message.asks[0, 0], f"crossed {message!r}"
                true = self.books.get((symbol, message.id))
                if true is None:
                    continue
                compared += 1
                for ours, theirs in zip((message.bids, message.asks), true, strict=True):
                    n = min(ours.shape[1], theirs.shape[1], levels)
                    assert np.array_equal(ours[:, :n], theirs[:, :n]), f"wrong book {message!r}"
        return compared


def make_settings(
    folder: Path, server: ExchangeServer, exchange: str, markets: list[str] | None, **options: Any
) -> Settings:
    """Return settings that point at a server, in a short folder: socket paths are limited.

    Args: options: of the exchange; without `group_reach` there are no price groups, whose
        connections a fault would hit as well.
    """
    settings = load()
    settings.data = folder
    settings.bus._sockets = folder
    chosen = settings.exchanges[exchange]
    chosen.websocket = server.urls[exchange]["websocket"]
    chosen.rest = server.urls[exchange]["rest"]
    if markets is not None:
        chosen.markets = markets
    for name, value in {"group_reach": 0.0, **options}.items():
        setattr(chosen, name, value)
    return settings


@asynccontextmanager
async def collecting(
    server: ExchangeServer,
    exchange: str,
    stream: Stream = "orderbook",
    markets: list[str] | None = None,
    **options: Any,
) -> AsyncIterator[Collecting]:
    """Run a worker; everything that it publishes arrives over the bus."""
    folder = Path(tempfile.mkdtemp(prefix="cs-"))
    (folder / "run").mkdir()
    settings = make_settings(folder, server, exchange, markets, **options)
    settings.journal.enabled = False
    process = Process(f"{stream}-collector-{exchange}", settings)
    worker = Worker(settings, exchange, stream, process)
    running = Collecting(server, worker)
    subscriber = Subscriber(
        [settings.bus.endpoint(worker.name)], [b""], running.take, bus=settings.bus
    )
    subscriber.start(asyncio.get_running_loop())

    def connected() -> bool:
        worker.publisher.heartbeat()
        return bool(running.messages)

    try:
        await until(connected, "the subscription")
        await worker.start()
        yield running
    finally:
        await worker.stop()
        try:
            await running.arrived()
            assert not subscriber.counters()["missed"], "messages lost between collector and test"
        finally:
            subscriber.close()
        shutil.rmtree(folder, ignore_errors=True)


async def control(server: ExchangeServer, client: aiohttp.ClientSession) -> dict[str, Any]:
    """Return the answer of the server's control address."""
    async with client.get(f"http://127.0.0.1:{server.port}/control") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def rest_trades(server: ExchangeServer, exchange: str, market: str) -> list[RestTrade]:
    """Return the newest trades that the exchange returns by REST."""
    spelled = exchange_named(exchange)
    request = spelled.trades_request(spelled.symbol_of(Market.parse(market)))
    async with (
        aiohttp.ClientSession() as client,
        client.get(server.urls[exchange]["rest"] + request.path) as answer,
    ):
        return list(spelled.read_trades(request, await answer.read(), now_ns()))
