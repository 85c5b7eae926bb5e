"""One market of a simulated exchange: orders and trades around the worth of its base.

A market runs in windows of 100 ms (the exchanges' grid). At the end of a window the market emits
its books, and then plans the orders and trades of the next window at random moments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from coinspace.market import Market
from coinspace.simulator.markets.book import Side
from coinspace.simulator.markets.prices import Prices, bell

WINDOW_NS = 100_000_000
MILLISECOND_NS = 1_000_000
# a venue's price wanders around the common one by about 450 ppm
WANDER_STEP = 2e-5
WANDER_KEEP = 0.999
LARGE = 0.04
FOLLOWERS = 12
# limit of levels that are added or removed at the far end in one window
REFILL = 50
SWEPT = 20


class Trade(NamedTuple):
    """A trade. taker_sold: the taker was the seller. id: the exchange's id."""

    time_ns: int
    tick: int
    size: int
    taker_sold: bool
    id: int


class Event:
    """One event of a market: its kind and facts; a frame is encoded once per variant."""

    __slots__ = ("_frames", "facts", "kind", "market", "time_ns")

    def __init__(self, market: SimulatedMarket, kind: str, time_ns: int, facts: Any) -> None:
        self.market = market
        self.kind = kind
        self.time_ns = time_ns
        self.facts = facts
        self._frames: dict[Any, bytes] = {}

    def frame(self, variant: Any) -> bytes:
        """Return the frame in one of the exchange's variants (format, depth, wrapper …)."""
        frame = self._frames.get(variant)
        if frame is None:
            frame = self._frames[variant] = self.market.encode(self, variant)
        return frame


class Pace(NamedTuple):
    """Books and trades per second of one market, on average."""

    books: float
    trades: float


class World(Protocol):
    """The engine, as its markets see it."""

    seed: int
    rate: float
    start_ns: int
    now_ns: int
    prices: Prices
    # (exchange, market) -> how often it sends
    paces: Mapping[tuple[str, str], Pace]
    on_event: Callable[[Event], None]

    def at(self, time_ns: int, action: Callable[[int], None]) -> None: ...
    # common price of a market in its quote
    def price(self, exchange: str, market: Market) -> float: ...
    # worth of one unit of a market's base, in USDT
    def usdt_price(self, market: Market) -> float: ...


class SimulatedMarket:
    """Base of the exchanges' markets.

    Attributes: exchange (its name), tick (price of one tick in units of 10^-price_decimals),
    size_decimals (a size counts units of 10^-size_decimals), bids, asks, clock_ms (error of the
    exchange's clock).
    """

    # variant of the frames that REST answers are made of
    plain: Any = None
    # the same with times in µs
    plain_micro: Any = None
    price_decimals = 0
    size_decimals = 8
    tick = 1
    levels = 300
    # USDT worth of a usual level, and of a usual trade
    level_worth = 3000.0
    trade_worth = 400.0
    # orders and trades per second in a normal phase at rate 1
    quotes = 20.0
    trades = 3.0
    premium = 0.0
    # newest trades, for REST
    kept_trades = 500

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        self.engine = engine
        self.exchange = exchange
        self.market = market
        self.symbol = symbol
        self.draw = random.Random(f"{engine.seed}/{self.exchange}/{market}").random
        self.bids = Side(True)
        self.asks = Side(False)
        self.clock_ms = 0
        # "active", "halt" or "delist"
        self.status = "active"
        # faults in force that only change what lists say: "wallet", "warn"
        self.facts: set[str] = set()
        self.wander = 0.0
        self.recent: list[Trade] = []
        self.now_ns = engine.start_ns
        self._measure()
        self._fill()
        self.phase_ns = int(self.draw() * 100) * MILLISECOND_NS

    # defined by a subclass

    def _measure(self) -> None:
        """Set tick, price_decimals, size_decimals, half_spread and gap from the worth."""
        raise NotImplementedError

    def encode(self, event: Event, variant: Any) -> bytes:
        """Return an event's frame."""
        raise NotImplementedError

    def snapshot_text(self, levels: int) -> str | None:
        """Return the REST snapshot of the book; None where each frame is a whole book."""
        return None

    def snapshot(self, kind: str) -> Event | None:
        """Return the newest event of a kind; None where nothing was sent or none is kept."""
        return None

    def emit_window(self) -> None:
        """Emit the events that the exchange pushes at the end of a window."""
        raise NotImplementedError

    def emit_trade(self, trade: Trade) -> None:
        """Emit a trade."""
        raise NotImplementedError

    def next_trade_id(self) -> int:
        """Return the id of the next trade."""
        raise NotImplementedError

    def changed(self, side: Side, tick: int) -> None:
        """Take note of one changed level; called after the change."""

    # worth and sizes

    def worth(self) -> float:
        """Return the price of one unit of base at this exchange, in quote."""
        return self.engine.price(self.exchange, self.market) * (1.0 + self.wander + self.premium)

    def target(self) -> float:
        """Return the worth in ticks."""
        return self.worth() / self.tick_price

    @property
    def tick_price(self) -> float:
        """One tick in quote currency."""
        return float(self.tick / 10**self.price_decimals)

    def price_units(self, tick: int) -> int:
        """Return the price of a tick in units of 10^-price_decimals."""
        return tick * self.tick

    def units(self, worth_usdt: float) -> int:
        """Return the size of a worth in USDT, in units of 10^-size_decimals."""
        return max(1, int(worth_usdt * self.unit_per_usdt))

    def _level_size(self) -> int:
        draw = self.draw
        size = self.level_worth * (0.02 + 2.5 * draw() * draw())
        if draw() < LARGE:
            size *= 12.0
        return self.units(size)

    def _fill(self) -> None:
        usdt = self.engine.usdt_price(self.market)
        self.unit_per_usdt = 10**self.size_decimals / usdt
        target = self.target()
        bid = int(target - self.half_spread)
        for side, tick in ((self.bids, bid), (self.asks, bid + 1 + int(2 * self.half_spread))):
            for _ in range(self.levels):
                side.put(tick, self._level_size())
                tick = side.beyond(tick, self._gap(abs(tick - bid)))
                if tick <= 0:
                    break

    def _gap(self, distance: int) -> int:
        # gaps between levels grow with the distance from the touch
        return 1 + int(self.draw() * 2.0 * (self.gap - 1.0 + distance * self.thinning))

    half_spread = 0.6
    gap = 1.0
    thinning = 0.0

    # events

    def window(self, now_ns: int) -> None:
        """End a window: emit events, drift, plan the next one."""
        self.now_ns = now_ns
        if self.status == "active":
            self.wander = self.wander * WANDER_KEEP + bell(self.draw) * WANDER_STEP
            self._keep_depth()
            self.emit_window()
            self.plan(now_ns)
        self.engine.at(now_ns + WINDOW_NS, self.window)

    def plan(self, now_ns: int) -> None:
        """Plan the orders and trades of the next window."""
        lively = self.engine.prices.activity * self.engine.rate * WINDOW_NS / 1e9
        draw = self.draw
        for amount, action in ((self.quotes, self.quote), (self.trades, self.trade)):
            for _ in range(int(amount * lively + draw())):
                self.engine.at(now_ns + 1 + int(draw() * (WINDOW_NS - 2)), action)

    def quote(self, now_ns: int) -> None:
        """Move the touch to the worth and change a few levels."""
        self.now_ns = now_ns
        draw, bids, asks = self.draw, self.bids, self.asks
        target = self.target()
        bid = int(target - self.half_spread)
        ask = max(bid + 1, int(target + self.half_spread) + 1)
        # first remove, then add: the book is never crossed
        gone: tuple[int, Side] = (0, bids)
        while asks.ticks and asks.ticks[0] <= bid:
            self._drop(asks, asks.ticks[0])
            gone = (gone[0] + 1, bids)
        while bids.ticks and bids.ticks[-1] >= ask:
            self._drop(bids, bids.ticks[-1])
            gone = (gone[0] + 1, asks)
        slack = int(draw() * self.gap)
        if not bids.ticks or bids.ticks[-1] < bid - slack:
            self._put(bids, bid, self._level_size())
        if not asks.ticks or asks.ticks[0] > ask + slack:
            self._put(asks, ask, self._level_size())
        # after a fast move, new orders follow on the other side
        n_gone, behind = gone
        for _ in range(min(n_gone - 1, FOLLOWERS)):
            tick = behind.beyond(behind.best(), 1 + int(draw() * 30.0 * self.gap))
            if tick > 0 and tick not in behind.sizes:
                self._put(behind, tick, self._level_size())
        for side in (bids, asks):
            # market makers fill a swept side again
            self._add_far(side, SWEPT - len(side))
        for _ in range(1 + int(draw() * 3.0)):
            self._touch_level(bids if draw() < 0.5 else asks)

    def _touch_level(self, side: Side) -> None:
        draw = self.draw
        near = draw()
        near *= near * near
        action = draw()
        if action < 0.15:
            if len(side) > self.levels // 2:
                self._drop(side, side.at(int(near * len(side))))
        elif action < 0.5:
            # new orders fill the gaps, most of them near the touch
            tick = side.beyond(side.best(), int(near * 60.0 * self.gap))
            if tick > 0 and tick not in side.sizes:
                self._put(side, tick, self._level_size())
        else:
            self._put(side, side.at(int(near * len(side))), self._level_size())

    def _put(self, side: Side, tick: int, size: int) -> None:
        side.put(tick, size)
        self.changed(side, tick)

    def _drop(self, side: Side, tick: int) -> None:
        side.drop(tick)
        self.changed(side, tick)

    def _keep_depth(self) -> None:
        for side in (self.bids, self.asks):
            if not side.ticks:
                continue
            self._add_far(side, min(self.levels - len(side), REFILL))
            for _ in range(min(len(side) - self.levels - self.levels // 4 - 4, REFILL)):
                self._drop(side, side.ticks[0] if side.is_bid else side.ticks[-1])

    def _add_far(self, side: Side, n: int) -> None:
        far = side.ticks[0] if side.is_bid else side.ticks[-1]
        for _ in range(n):
            far = side.beyond(far, self._gap(abs(far - side.best())))
            if far <= 0:
                return
            self._put(side, far, self._level_size())

    def trade(self, now_ns: int) -> None:
        """Execute a taker's order, at most three levels deep."""
        self.now_ns = now_ns
        draw = self.draw
        taker_sold = draw() < 0.5
        side = self.bids if taker_sold else self.asks
        wanted = self.units(self.trade_worth * (0.01 + 3.0 * draw() * draw() * draw()))
        if draw() < LARGE:
            wanted *= 20
        for _ in range(3):
            tick = next((t for t in self._from_touch(side) if side.sizes[t] > 0), None)
            if tick is None or wanted <= 0 or len(side) < 5:
                return
            size = min(wanted, side.sizes[tick])
            wanted -= size
            trade = Trade(now_ns, tick, size, taker_sold, self.next_trade_id())
            self._keep(trade)
            self._take(side, tick, size)
            self.emit_trade(trade)

    def _keep(self, trade: Trade) -> None:
        self.recent.append(trade)
        if len(self.recent) > self.kept_trades + 100:
            del self.recent[:100]

    def _from_touch(self, side: Side) -> list[int]:
        return side.ticks[:-9:-1] if side.is_bid else side.ticks[:8]

    def _take(self, side: Side, tick: int, size: int) -> None:
        left = side.sizes[tick] - size
        if left:
            self._put(side, tick, left)
        else:
            self._drop(side, tick)

    def emit(self, kind: str, facts: Any) -> None:
        """Give an event to the engine's listener."""
        self.engine.on_event(Event(self, kind, self.now_ns, facts))
