"""All simulated markets on one virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush

from coinspace.exchanges import every
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import Market
from coinspace.simulator.markets.binance import BinanceMarket
from coinspace.simulator.markets.coinone import CoinoneMarket
from coinspace.simulator.markets.korean import BithumbMarket, UpbitMarket
from coinspace.simulator.markets.looped import LOOPED
from coinspace.simulator.markets.market import WINDOW_NS, Event, Pace, SimulatedMarket
from coinspace.simulator.markets.prices import STEP_NS, Prices
from coinspace.simulator.markets.scenario import Scenario
from coinspace.simulator.markets.whole import Whole

# 2026-11-02 00:00 UTC: the default start of simulated feeds, fixed so that their bytes are too
START_NS = 1_793_577_600_000_000_000
# exchange -> the markets of its default section, whether or not it is collected by default
USUAL_MARKETS = {one.NAME: list(one.SETTINGS.markets) for one in every()}
DEFAULT_MARKETS = {one.NAME: USUAL_MARKETS[one.NAME] for one in every() if one.BY_DEFAULT}
# PROTOCOL of an exchange's module -> its markets
MARKETS: dict[str, type[SimulatedMarket]] = {
    "upbit": UpbitMarket,
    "bithumb": BithumbMarket,
    "binance": BinanceMarket,
    "coinone": CoinoneMarket,
}


class Engine:
    """Run every market in order of virtual time.

    Args:
        rate: multiplies orders and trades per second.
        on_event: called with each event.
        whole: whole exchanges: the markets are looped ones, in their pace.
    Attributes: now_ns (virtual), markets (exchange -> symbol -> market).
    """

    def __init__(
        self,
        seed: int = 0,
        markets: Mapping[str, Iterable[str]] = DEFAULT_MARKETS,
        *,
        start_ns: int = START_NS,
        rate: float = 1.0,
        scenario: Scenario | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
        whole: Whole | None = None,
    ) -> None:
        self.seed = seed
        self.paces: Mapping[tuple[str, str], Pace] = whole.paces if whole else {}
        self.rate = rate
        self.start_ns = start_ns
        self.now_ns = start_ns
        self.on_event = on_event
        self.scenario = scenario
        parsed = {name: [Market.parse(text) for text in texts] for name, texts in markets.items()}
        bases = [market.base for listed in parsed.values() for market in listed]
        quotes = [market.quote for listed in parsed.values() for market in listed]
        money = {"KRW", "USDT"}
        # sorted: the order of assets decides the order of draws and must not depend on the caller
        self.prices = Prices(seed, sorted({*bases, *quotes} - money), whole.worth if whole else {})
        self._heap: list[tuple[int, int, Callable[[int], None]]] = []
        self._serial = 0
        self.markets: dict[str, dict[str, SimulatedMarket]] = {}
        if not whole:
            self.at(start_ns + STEP_NS, self._step)
        for exchange, listed in parsed.items():
            module = exchange_named(exchange)
            kind = (LOOPED if whole else MARKETS)[module.PROTOCOL]
            self.markets[exchange] = {}
            for market in listed:
                symbol = module.symbol_of(market)
                simulated = kind(self, exchange, market, symbol)
                self.markets[exchange][symbol] = simulated
                self.at(start_ns + WINDOW_NS + simulated.phase_ns, simulated.window)
                simulated.plan(start_ns)

    def at(self, time_ns: int, action: Callable[[int], None]) -> None:
        """Run an action at a virtual time; ties keep their order."""
        self._serial += 1
        heappush(self._heap, (time_ns, self._serial, action))

    def _step(self, now_ns: int) -> None:
        self.prices.step()
        self.at(now_ns + STEP_NS, self._step)

    def advance(self, until_ns: int) -> None:
        """Run all actions up to and including a virtual time."""
        heap = self._heap
        while heap and heap[0][0] <= until_ns:
            time_ns, _, action = heappop(heap)
            self.now_ns = time_ns
            action(time_ns)
        self.now_ns = until_ns

    def usdt_price(self, market: Market) -> float:
        return 1.0 if market.base == "USDT" else self.prices.worth[market.base]

    def price(self, exchange: str, market: Market) -> float:
        """Return the common price of a market in its quote, with the scenario's shock."""
        price = self.usdt_price(market)
        if market.quote == "KRW":
            price *= self.prices.rate
        elif market.quote != "USDT":
            price /= self.prices.worth[market.quote]
        if self.scenario is not None:
            elapsed_s = (self.now_ns - self.start_ns) / 1e9
            price *= self.scenario.factor(exchange, market, elapsed_s)
        return price
