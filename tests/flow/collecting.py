"""A collector worker on a simulated exchange, in one event loop over real sockets."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
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
from coinspace.simulator.server import ExchangeServer

POLL_S = 0.02
# a busy machine is slow
LIMIT_S = 60.0


class Collecting:
    """A running worker and everything that it published."""

    def __init__(self, server: ExchangeServer, worker: Worker) -> None:
        self.server = server
        self.worker = worker
        self.messages: list[Message] = []

    def take(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def states(self) -> dict[str, str]:
        return dict(self.worker.stage.states)

    def all_disconnected(self) -> bool:
        reported = [self.reported(market) for market in self.states]
        return all(states and states[-1]["state"] == "disconnected" for states in reported)

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

    async def until(
        self, condition: Callable[[], object], what: str, limit_s: float = LIMIT_S
    ) -> None:
        """Wait for a condition; fail naming the condition and the counters."""
        for _ in range(int(limit_s / POLL_S)):
            if condition():
                return
            await asyncio.sleep(POLL_S)
        counters = {k: v for k, v in self.worker.counters().items() if v and "{" not in k}
        raise AssertionError(f"not within {limit_s} s: {what}; {self.states} {counters}")

    async def synced(self, limit_s: float = LIMIT_S) -> None:
        markets = self.worker.settings.markets
        await self.until(
            # a market has no state before its connection is open
            lambda: len(self.states) >= len(markets) and set(self.states.values()) == {"synced"},
            "every market synced",
            limit_s,
        )


class Truth:
    """The books of the exchange's REST, compared with published books of the same version."""

    def __init__(self, collecting: Collecting, symbols: dict[str, str]) -> None:
        self.collecting = collecting
        self.symbols = symbols
        self.books: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    async def watch(self) -> None:
        """Fetch books until cancelled; faults for the collector do not affect these requests."""
        source = self.collecting.server.source
        while True:
            for symbol in self.symbols:
                answer = await source.rest(
                    "binance", "/api/v3/depth", {"symbol": symbol, "limit": "1000"}, stale=False
                )
                self.note(symbol, answer)
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
    """Return settings that point at a server, in a short folder: socket paths are limited."""
    settings = load()
    settings.data = folder
    settings.bus._sockets = folder
    chosen = settings.exchanges[exchange]
    chosen.websocket = server.urls[exchange]["websocket"]
    chosen.rest = server.urls[exchange]["rest"]
    if markets is not None:
        chosen.markets = markets
    for name, value in options.items():
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
    # a subscription needs a moment to reach the publisher
    await asyncio.sleep(0.1)
    try:
        await worker.start()
        yield running
        await asyncio.sleep(0.1)
        missed = subscriber.counters().get("missed", 0)
        assert not missed, f"{missed} messages lost between collector and test"
    finally:
        await worker.stop()
        # the last messages are still on their way
        with suppress(AssertionError):
            await running.until(running.all_disconnected, "the end of all markets", 2)
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
