"""Binance's markets: every change of a level is an update with an id; diffs every 100 ms.

A diff has the levels that changed in its window; `U` and `u` are its first and last id, size 0
deletes a level. bookTicker has no time; its id is that of the last update. Prices and sizes are
strings with 8 decimals. The ticker comes every second and covers 24 h. Ids of trades count up by 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from coinspace.exchanges import binance_sbe
from coinspace.market import Market
from coinspace.simulator.markets.book import Side
from coinspace.simulator.markets.market import MILLISECOND_NS, Event, SimulatedMarket, Trade, World
from coinspace.simulator.markets.spelling import eight, fixed, spelling

# updates of the binary streams
FAST_DEPTH = "depth@20ms"
FAST_NS = 20 * MILLISECOND_NS
SILENT_ID = 0.03
DAY_MS = 86_400_000
SECOND_WINDOWS = 10


class Variant(NamedTuple):
    """stream: the full stream name, combined: in a wrapper, micro: times in µs, sbe: binary."""

    stream: str
    combined: bool = True
    micro: bool = False
    sbe: bool = False


MICRO = Variant("", combined=False, micro=True)


class Diff(NamedTuple):
    """Levels changed in a window: tick -> size (0 = deleted)."""

    first_id: int
    final_id: int
    bids: dict[int, int]
    asks: dict[int, int]


class Top(NamedTuple):
    """The best level of each side after an update, (tick, size)."""

    id: int
    bid: tuple[int, int]
    ask: tuple[int, int]


class BinanceMarket(SimulatedMarket):
    """A market of Binance."""

    plain = Variant("", combined=False)
    plain_micro = MICRO
    levels = 1500
    level_worth = 6000.0
    trade_worth = 900.0
    quotes = 24.0
    trades = 8.0
    thinning = 0.004

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        self.update_id = 0
        self.bids_changed: dict[int, int] = {}
        self.asks_changed: dict[int, int] = {}
        # changes since the last fast update; made only for clients of the binary streams
        self.is_fast = False
        self.fast_changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.fast_id = 0
        super().__init__(engine, exchange, market, symbol)
        self.update_id = 50_000_000_000 + int(self.draw() * 1e10)
        self.window_id = self.update_id + 1
        self.top = self._top()
        self.trade_id = 3_700_000_000 + int(self.draw() * 1e9)
        tick = self.bids.best()
        self.first_trade_id = self.trade_id - 500_000
        self.open = int(tick * (0.985 + 0.03 * self.draw()))
        self.high = int(max(tick, self.open) * 1.004)
        self.low = int(min(tick, self.open) * 0.996)
        self.volume = self.units(5e7 + 1e9 * self.draw())
        self.worth_traded = self.volume * self.price_units(tick)
        self.last = Trade(self.now_ns, tick, self.units(100.0), True, self.trade_id)
        self.previous = self.last
        self._windows = 0
        price, size = self.price_decimals, self.size_decimals
        # 8 decimals for every tick size
        self.spell_price, self.spell_size = spelling(eight, price), spelling(eight, size)

    def _measure(self) -> None:
        price = self.worth()
        decimals = 2
        while decimals < 8 and price * 10**decimals < 10_000:
            decimals += 1
        self.price_decimals, self.tick = decimals, 1
        lot, size_decimals = price, 1
        while lot >= 10 and size_decimals < 8:
            lot /= 10
            size_decimals += 1
        self.size_decimals = size_decimals
        relative = self.tick_price / price
        self.gap = max(1.0, 3e-6 / relative)
        self.half_spread = 0.5
        self.thinning = 0.004 if relative < 20e-6 else 0.001

    def next_trade_id(self) -> int:
        self.trade_id += 1
        return self.trade_id

    def changed(self, side: Side, tick: int) -> None:
        if not self.update_id:
            return
        self.update_id += 1
        changed = self.bids_changed if side.is_bid else self.asks_changed
        changed[tick] = side.sizes.get(tick, 0)
        if self.is_fast:
            self.fast_changed[not side.is_bid][tick] = changed[tick]
        if side.ticks:
            best = side.best()
            top = (best, side.sizes[best])
            old = self.top.bid if side.is_bid else self.top.ask
            if top != old and self.bids.ticks and self.asks.ticks:
                self.top = self._top()
                self.emit("bookTicker", self.top)
        # some ids change no level of the public book
        if self.draw() < SILENT_ID:
            self.update_id += 1

    def _top(self) -> Top:
        bid, ask = self.bids.best(), self.asks.best()
        return Top(self.update_id, (bid, self.bids.sizes[bid]), (ask, self.asks.sizes[ask]))

    def emit_trade(self, trade: Trade) -> None:
        self.previous, self.last = self.last, trade
        self.high, self.low = max(self.high, trade.tick), min(self.low, trade.tick)
        self.volume += trade.size // 7
        self.worth_traded += trade.size * self.price_units(trade.tick) // 7
        self.emit("trade", trade)

    def emit_window(self) -> None:
        self._windows += 1
        if self.update_id >= self.window_id:
            diff = Diff(self.window_id, self.update_id, self.bids_changed, self.asks_changed)
            self.bids_changed, self.asks_changed = {}, {}
            self.window_id = self.update_id + 1
            self.emit("depth@100ms", diff)
        if self._windows % SECOND_WINDOWS == 0:
            self.emit("ticker", None)

    def make_fast(self) -> None:
        """Emit updates every 20 ms from now on, besides those of every 100 ms."""
        if not self.is_fast:
            self.is_fast = True
            self.fast_id = self.update_id + 1
            self.engine.at(self.engine.now_ns + FAST_NS, self._fast_window)

    def _fast_window(self, now_ns: int) -> None:
        self.now_ns = now_ns
        if self.status == "active" and self.update_id >= self.fast_id:
            bids, asks = self.fast_changed
            self.fast_changed = ({}, {})
            self.emit(FAST_DEPTH, Diff(self.fast_id, self.update_id, bids, asks))
            self.fast_id = self.update_id + 1
        self.engine.at(now_ns + FAST_NS, self._fast_window)

    # frames

    def encode(self, event: Event, variant: Any) -> bytes:
        if variant.sbe:
            return self._binary(event)
        encoders = {
            "depth@100ms": self._diff,
            "bookTicker": self._book_ticker,
            "trade": self._trade,
            "ticker": self._ticker,
        }
        text = encoders[event.kind](event, variant)
        if variant.combined:
            text = f'{{"stream":"{variant.stream}","data":{text}}}'
        return text.encode()

    def _binary(self, event: Event) -> bytes:
        time_us = self._time(event.time_ns, MICRO)
        powers = -self.price_decimals, -self.size_decimals
        facts: Any = event.facts
        if event.kind == "trade":
            traded_us = self._time(facts.time_ns, MICRO)
            row = (facts.id, self.price_units(facts.tick), facts.size, facts.taker_sold)
            return binance_sbe.encode_trades(time_us, traded_us, powers, [row], self.symbol)
        if event.kind == "bookTicker":
            (bid, bid_size), (ask, ask_size) = facts.bid, facts.ask
            best = self.price_units(bid), bid_size, self.price_units(ask), ask_size
            return binance_sbe.encode_best(time_us, facts.id, powers, best, self.symbol)
        sides = (
            [(self.price_units(tick), size) for tick, size in facts.bids.items()],
            [(self.price_units(tick), size) for tick, size in facts.asks.items()],
        )
        ids = facts.first_id, facts.final_id
        return binance_sbe.encode_diff(time_us, ids, powers, sides, self.symbol)

    def _time(self, time_ns: int, variant: Variant) -> int:
        shifted = time_ns + self.clock_ms * MILLISECOND_NS
        return shifted // 1000 if variant.micro else shifted // MILLISECOND_NS

    def _levels(self, levels: Any) -> str:
        price, size = self.spell_price, self.spell_size
        return ",".join(f'["{price(tick)}","{size(units)}"]' for tick, units in levels)

    def _diff(self, event: Event, variant: Variant) -> str:
        diff = event.facts
        return (
            f'{{"e":"depthUpdate","E":{self._time(event.time_ns, variant)},"s":"{self.symbol}",'
            f'"U":{diff.first_id},"u":{diff.final_id},'
            f'"b":[{self._levels(diff.bids.items())}],"a":[{self._levels(diff.asks.items())}]}}'
        )

    def snapshot_text(self, levels: int) -> str:
        return (
            f'{{"lastUpdateId":{self.update_id},'
            f'"bids":[{self._levels(self.bids.top(levels))}],'
            f'"asks":[{self._levels(self.asks.top(levels))}]}}'
        )

    def _book_ticker(self, event: Event, variant: Variant) -> str:
        top, price, size = event.facts, self.spell_price, self.spell_size
        return (
            f'{{"u":{top.id},"s":"{self.symbol}","b":"{price(top.bid[0])}",'
            f'"B":"{size(top.bid[1])}","a":"{price(top.ask[0])}","A":"{size(top.ask[1])}"}}'
        )

    def _trade(self, event: Event, variant: Variant) -> str:
        trade = event.facts
        return (
            f'{{"e":"trade","E":{self._time(event.time_ns, variant)},"s":"{self.symbol}",'
            f'"t":{trade.id},"p":"{self.spell_price(trade.tick)}",'
            f'"q":"{self.spell_size(trade.size)}","T":{self._time(trade.time_ns, variant)},'
            f'"m":{"true" if trade.taker_sold else "false"},"M":true}}'
        )

    def _ticker(self, event: Event, variant: Variant) -> str:
        top, last = self._top(), self.last
        price, size = self.spell_price, self.spell_size
        move = last.tick - self.open
        worth_decimals = self.size_decimals + self.price_decimals
        now = self._time(event.time_ns, variant)
        close = self._time(event.time_ns - 5 * MILLISECOND_NS, variant)
        opened = close - DAY_MS * (1000 if variant.micro else 1)
        return (
            f'{{"e":"24hrTicker","E":{now},"s":"{self.symbol}",'
            f'"p":"{"-" if move < 0 else ""}{price(abs(move))}",'
            f'"P":"{fixed(move * 100_000 // self.open, 3)}",'
            f'"w":"{price(self.worth_traded // max(1, self.volume))}",'
            f'"x":"{price(self.previous.tick)}","c":"{price(last.tick)}","Q":"{size(last.size)}",'
            f'"b":"{price(top.bid[0])}","B":"{size(top.bid[1])}",'
            f'"a":"{price(top.ask[0])}","A":"{size(top.ask[1])}",'
            f'"o":"{price(self.open)}","h":"{price(self.high)}","l":"{price(self.low)}",'
            f'"v":"{size(self.volume)}",'
            f'"q":"{fixed(self.worth_traded * 10**8 // 10**worth_decimals, 8)}",'
            f'"O":{opened},"C":{close},"F":{self.first_trade_id},"L":{last.id},'
            f'"n":{last.id - self.first_trade_id + 1}}}'
        )
