"""Upbit's and Bithumb's markets: whole books on a 100 ms grid, trades, a ticker for each trade.

Upbit's books have 30 units (or 1, 5, 15), Bithumb's at most 15. Dates and times as text, and the
sums of a day, are UTC at Upbit and KST at Bithumb.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar, NamedTuple

from coinspace.exchanges.korean import tick_of
from coinspace.market import Market
from coinspace.simulator.markets.book import Side
from coinspace.simulator.markets.market import (
    MILLISECOND_NS,
    Event,
    SimulatedMarket,
    Trade,
    World,
)
from coinspace.simulator.markets.spelling import (
    Spelling,
    eight,
    fixed,
    pointed,
    scientific,
    short,
    spelling,
    terse,
)

DAY_S = 86_400
KST_S = 9 * 3600
REPEATS = 0.42
# bases with fewer orders than units, so that padding occurs
THIN = {"SOL"}
DUST = 0.05
SIMPLE_UNIT = '{"ap":%s,"bp":%s,"as":%s,"bs":%s}'
DEFAULT_UNIT = '{"ask_price":%s,"bid_price":%s,"ask_size":%s,"bid_size":%s}'
# short key of a book -> long key
BOOK_KEYS = {
    "tms": "timestamp",
    "tas": "total_ask_size",
    "tbs": "total_bid_size",
    "obu": "orderbook_units",
    "st": "stream_type",
    "lv": "level",
}
DISORDER = 0.02


class Variant(NamedTuple):
    """The format of a subscriber's frames."""

    simple: bool = False
    listed: bool = False
    units: int = 30
    level: float = 0
    stream_type: str = "REALTIME"


class Day:
    """Sums of a market since midnight and over 24 hours; prices and sizes in exact units."""

    def __init__(self, market: KoreanMarket) -> None:
        draw = market.draw
        tick = market.bids.best()
        self.date = -1
        self.previous = max(1, int(tick * (0.985 + 0.03 * draw())))
        self.open = max(1, int(self.previous * (0.998 + 0.004 * draw())))
        self.high = max(self.open, tick) + int(draw() * 0.01 * tick)
        self.low = max(1, min(self.open, tick) - int(draw() * 0.01 * tick))
        volume = market.units(3e6 + 4e7 * draw())
        self.volume_24h = volume
        self.worth_24h = volume * market.price_units(tick)
        self.sold = int(volume * 0.2)
        self.bought = int(volume * 0.25)
        self.worth = (self.sold + self.bought) * market.price_units(tick)
        self.year_high = int(tick * 1.62)
        self.year_low = max(1, int(tick * 0.71))

    def add(self, trade: Trade, price_units: int, date: int) -> None:
        """Add a trade; `date` is the day by the exchange's clock."""
        if date != self.date:
            if self.date >= 0:
                self.previous, self.open = trade.tick, trade.tick
                self.high, self.low = trade.tick, trade.tick
                self.sold = self.bought = self.worth = 0
            self.date = date
        self.high, self.low = max(self.high, trade.tick), min(self.low, trade.tick)
        if trade.taker_sold:
            self.sold += trade.size
        else:
            self.bought += trade.size
        self.worth += trade.size * price_units
        # on average, as much volume leaves the window of 24 hours as enters it
        self.volume_24h += trade.size // 7
        self.worth_24h += trade.size * price_units // 7


class KoreanMarket(SimulatedMarket):
    """Base of Upbit's and Bithumb's markets."""

    plain = Variant()
    zone_s = 0
    depth = 30
    padded = ""
    volume = ""
    no_date = ""
    # order of a book's keys
    book_order: tuple[str, ...] = ()
    default_level = 0
    grouping: ClassVar[tuple[int, ...]] = (10, 100, 1000)
    premium = 0.0006

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        if market.base in THIN:
            self.levels = self.depth - 8
        super().__init__(engine, exchange, market, symbol)
        self.day = Day(self)
        self.top: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
        self.book_ns = self.now_ns
        price, size = self.price_decimals, self.size_decimals
        self.prices = {
            "scientific": spelling(scientific, price),
            "pointed": spelling(pointed, price),
            "short": spelling(short, price),
            "terse": spelling(terse, price),
            "fixed": spelling(eight, price),
        }
        self.sizes = {
            "fixed": spelling(fixed, size),
            "scientific": spelling(scientific, size),
            "short": spelling(short, size),
        }
        self._ids = 0
        self.trade(self.now_ns)
        self.top = self._top()

    def _measure(self) -> None:
        price = self.worth()
        tick = tick_of(price) if self.market.quote == "KRW" else 1e-8
        decimals = 0
        while tick < 0.999:
            tick *= 10
            decimals += 1
        self.price_decimals, self.tick = decimals, round(tick)
        relative = self.tick / 10**decimals / price
        # fine ticks leave gaps between levels, coarse ones (USDT: 745 ppm) do not
        self.gap = max(1.0, 25e-6 / relative)
        self.half_spread = max(0.5, 20e-6 / relative)
        self.thinning = 0.004 if relative < 100e-6 else 0.0

    def levels_supported(self) -> tuple[float, ...]:
        """Return the groupings that a subscription may ask for: widths of a group in KRW."""
        if self.market.quote != "KRW":
            return (self.default_level,)
        return (self.default_level, *(round(self.tick_price * n, 8) for n in self.grouping))

    def group_units(self, level: float) -> int:
        """Return the width of a grouping in units of the price."""
        scale: int = 10**self.price_decimals
        return round(level * scale)

    def _top(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        return self.asks.top(self.depth), self.bids.top(self.depth)

    def emit_trade(self, trade: Trade) -> None:
        self.day.add(trade, self.price_units(trade.tick), self.date(trade.time_ns))
        self.emit("trade", trade)
        self.emit("ticker", trade)

    def date(self, time_ns: int) -> int:
        """Return the day by the exchange's clock, in days since the epoch."""
        return (time_ns // 1_000_000_000 + self.zone_s) // DAY_S

    def snapshot(self, kind: str) -> Event | None:
        if kind == "orderbook":
            return Event(self, kind, self.now_ns, (*self.top, self.book_time()))
        if kind not in ("trade", "ticker"):
            return None
        return Event(self, kind, self.now_ns, self.recent[-1]) if self.recent else None

    def book_time(self) -> int:
        """Return the book's time in the exchange's unit."""
        return self.book_ns // MILLISECOND_NS + self.clock_ms

    # frames

    def encode(self, event: Event, variant: Any) -> bytes:
        if event.kind == "orderbook":
            text = self._book(event, variant)
        elif event.kind == "trade":
            text = self._trade(event.facts, variant)
        else:
            text = self._ticker(event.facts, variant)
        return (f"[{text}]" if variant.listed else text).encode()

    def styles(self, simple: bool, time: int) -> tuple[Spelling, Spelling]:
        """Return the formats of this book's prices and sizes."""
        raise NotImplementedError

    def _sides(
        self, event: Event, variant: Variant
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
        asks, bids, when = event.facts
        if variant.level > self.default_level:
            return (*self._grouped(variant.level), when)
        asks = [(self.price_units(tick), size) for tick, size in asks[: variant.units]]
        bids = [(self.price_units(tick), size) for tick, size in bids[: variant.units]]
        return asks, bids, when

    def _grouped(self, level: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        step = self.group_units(level)
        both = []
        for side in (self.asks, self.bids):
            groups: dict[int, int] = {}
            for tick in side.ticks if not side.is_bid else reversed(side.ticks):
                price = self.price_units(tick)
                price -= price % step if side.is_bid else -(-price % step)
                if price not in groups and len(groups) == self.depth:
                    break
                groups[price] = groups.get(price, 0) + side.sizes[tick]
            both.append(list(groups.items()))
        return both[0], both[1]

    def _units_text(
        self,
        asks: list[tuple[int, int]],
        bids: list[tuple[int, int]],
        n: int,
        simple: bool,
        spell: tuple[Spelling, Spelling],
    ) -> str:
        price, size = spell
        # thin sides are padded with units of price 0 and size 0
        asks = asks + [(0, 0)] * (n - len(asks))
        bids = bids + [(0, 0)] * (n - len(bids))
        unit = SIMPLE_UNIT if simple else DEFAULT_UNIT
        return ",".join(
            unit % (price(ask), price(bid), size(ask_size), size(bid_size))
            for (ask, ask_size), (bid, bid_size) in zip(asks, bids, strict=True)
        )

    def _book(self, event: Event, variant: Variant) -> str:
        asks, bids, when = self._sides(event, variant)
        n = min(variant.units, self.depth)
        spell = self.styles(variant.simple, when)
        texts = {
            "tms": str(when),
            "tas": short(sum(size for _, size in asks), self.size_decimals),
            "tbs": short(sum(size for _, size in bids), self.size_decimals),
            "obu": f"[{self._units_text(asks, bids, n, variant.simple, spell)}]",
            "st": f'"{variant.stream_type}"',
            "lv": f"{variant.level:.15g}",
        }
        fields = [(BOOK_KEYS[key], key, texts[key]) for key in self.book_order]
        return self._object("orderbook", fields, variant.simple)

    def _trade(self, trade: Trade, variant: Variant) -> str:
        raise NotImplementedError

    def change(self, tick: int) -> tuple[str, int]:
        """Return the change (name, units of price) since yesterday's close."""
        units = self.price_units(tick) - self.price_units(self.day.previous)
        return ("RISE" if units > 0 else "FALL" if units < 0 else "EVEN"), units

    def when(self, time_ns: int) -> time.struct_time:
        return time.gmtime(time_ns // 1_000_000_000 + self.zone_s + self.clock_ms // 1000)

    def ticker_fields(self, trade: Trade, variant: Variant) -> list[tuple[str, str, str]]:
        """Return (long key, short key, text) of a ticker, without type and code."""
        day, decimals = self.day, self.size_decimals
        plain, padded = self.prices["short"], self.prices[self.padded]
        volume = self.sizes[self.volume]
        change, units = self.change(trade.tick)
        before = self.price_units(day.previous)
        rate = units * 10**10 // before
        when = self.when(trade.time_ns)
        at_ms = trade.time_ns // MILLISECOND_NS + self.clock_ms
        price = self.price_units
        worth_decimals = decimals + self.price_decimals

        def year(days: int) -> str:
            return time.strftime("%Y-%m-%d", time.gmtime(trade.time_ns // 10**9 - days * DAY_S))

        return [
            ("opening_price", "op", plain(price(day.open))),
            ("high_price", "hp", plain(price(day.high))),
            ("low_price", "lp", plain(price(day.low))),
            ("trade_price", "tp", plain(price(trade.tick))),
            ("prev_closing_price", "pcp", padded(before)),
            ("change", "c", f'"{change}"'),
            ("change_price", "cp", padded(abs(units))),
            ("signed_change_price", "scp", padded(units)),
            ("change_rate", "cr", short(abs(rate), 10)),
            ("signed_change_rate", "scr", short(rate, 10)),
            ("trade_volume", "tv", volume(trade.size)),
            ("acc_trade_volume", "atv", volume(day.sold + day.bought)),
            ("acc_trade_volume_24h", "atv24h", volume(day.volume_24h)),
            ("acc_trade_price", "atp", fixed(day.worth, worth_decimals)),
            ("acc_trade_price_24h", "atp24h", fixed(day.worth_24h, worth_decimals)),
            ("trade_date", "tdt", f'"{time.strftime("%Y%m%d", when)}"'),
            ("trade_time", "ttm", f'"{time.strftime("%H%M%S", when)}"'),
            ("trade_timestamp", "ttms", str(at_ms)),
            ("ask_bid", "ab", '"ASK"' if trade.taker_sold else '"BID"'),
            ("acc_ask_volume", "aav", volume(day.sold)),
            ("acc_bid_volume", "abv", volume(day.bought)),
            ("highest_52_week_price", "h52wp", padded(price(day.year_high))),
            ("highest_52_week_date", "h52wdt", f'"{year(120)}"'),
            ("lowest_52_week_price", "l52wp", padded(price(day.year_low))),
            ("lowest_52_week_date", "l52wdt", f'"{year(260)}"'),
            ("market_state", "ms", '"ACTIVE"'),
            ("is_trading_suspended", "its", "false" if self.status == "active" else "true"),
            ("delisting_date", "dd", self.no_date),
            ("market_warning", "mw", '"NONE"'),
            ("timestamp", "tms", str(at_ms + 38)),
            ("stream_type", "st", f'"{variant.stream_type}"'),
        ]

    def _ticker(self, trade: Trade, variant: Variant) -> str:
        return self._object("ticker", self.ticker_fields(trade, variant), variant.simple)

    def _object(self, kind: str, fields: list[tuple[str, str, str]], simple: bool) -> str:
        if simple:
            body = ",".join(f'"{key}":{text}' for _, key, text in fields)
            return f'{{"ty":"{kind}","cd":"{self.symbol}",{body}}}'
        body = ",".join(f'"{key}":{text}' for key, _, text in fields)
        return f'{{"type":"{kind}","code":"{self.symbol}",{body}}}'


class UpbitMarket(KoreanMarket):
    """A market of Upbit."""

    # formats of yesterday's price and of changes from it, and of a volume
    padded, volume = "fixed", "fixed"
    no_date = "null"
    book_order = ("tms", "tas", "tbs", "obu", "st", "lv")
    size_decimals = 8
    level_worth = 2500.0
    quotes = 20.0
    trades = 3.5
    levels = 200

    def next_trade_id(self) -> int:
        # ids have 17 digits and do not give the order of trades: here the time in ms and a counter,
        # and a late id has an older time
        self._ids = (self._ids + 1) % 10
        late = 40 if self.draw() < DISORDER else 0
        return (self.now_ns // MILLISECOND_NS - late) * 10_000 + self._ids

    def emit_window(self) -> None:
        top = self._top()
        if top != self.top:
            self.top = top
            self.book_ns = self.now_ns
            self.emit("orderbook", (*top, self.book_time()))

    def styles(self, simple: bool, time: int) -> tuple[Spelling, Spelling]:
        # numbers come in any spelling: prices as 1.16539E8, 109950000.0 or 116606000, sizes as
        # 0.00077720 or 7.9276E-4; here the spelling depends only on the book's time
        pick = time // 100 % 10
        if simple:
            return self.prices["terse" if pick < 8 else "pointed"], self.sizes["scientific"]
        if pick < 6:
            return self.prices["scientific"], self.sizes["fixed"]
        if pick < 8:
            return self.prices["pointed"], self.sizes["short"]
        return self.prices["short"], self.sizes["scientific"]

    def _trade(self, trade: Trade, variant: Variant) -> str:
        when = self.when(trade.time_ns)
        at_ms = trade.time_ns // MILLISECOND_NS + self.clock_ms
        change, units = self.change(trade.tick)
        exact, price = self.prices["fixed"], self.price_units
        volume = self.sizes["fixed"]
        ask = self.asks.top(1) or [(0, 0)]
        bid = self.bids.top(1) or [(0, 0)]
        spelled = self.sizes["scientific"] if at_ms % 7 == 0 else volume
        fields = [
            ("timestamp", "tms", str(at_ms + 35)),
            ("trade_date", "td", f'"{time.strftime("%Y-%m-%d", when)}"'),
            ("trade_time", "ttm", f'"{time.strftime("%H:%M:%S", when)}"'),
            ("trade_timestamp", "ttms", str(at_ms)),
            ("trade_price", "tp", exact(price(trade.tick))),
            ("trade_volume", "tv", spelled(trade.size)),
            ("ask_bid", "ab", '"ASK"' if trade.taker_sold else '"BID"'),
            ("prev_closing_price", "pcp", exact(price(self.day.previous))),
            ("change", "c", f'"{change}"'),
            ("change_price", "cp", exact(abs(units))),
            ("sequential_id", "sid", str(trade.id)),
            ("best_ask_price", "bap", self.prices["short"](price(ask[0][0]))),
            ("best_ask_size", "bas", volume(ask[0][1])),
            ("best_bid_price", "bbp", self.prices["short"](price(bid[0][0]))),
            ("best_bid_size", "bbs", volume(bid[0][1])),
            ("stream_type", "st", f'"{variant.stream_type}"'),
        ]
        return self._object("trade", fields, variant.simple)


class BithumbMarket(KoreanMarket):
    """A market of Bithumb."""

    padded, volume = "short", "short"
    no_date = '""'
    book_order = ("tas", "tbs", "obu", "lv", "tms", "st")
    zone_s = KST_S
    depth = 15
    default_level = 1
    size_decimals = 4
    level_worth = 1200.0
    quotes = 14.0
    trades = 2.0
    levels = 160
    premium = 0.0003

    def levels_supported(self) -> tuple[float, ...]:
        """Return the groupings that a subscription may ask for, in ticks."""
        if self.market.quote != "KRW":
            return (self.default_level,)
        return (self.default_level, *self.grouping)

    def group_units(self, level: float) -> int:
        return round(level * self.tick)

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        # ids have 19 digits and do not give the order of trades; each market starts at another one
        self._id = 0
        self._quiet = False
        super().__init__(engine, exchange, market, symbol)

    def next_trade_id(self) -> int:
        if not self._id:
            self._id = 1_077_860_633_149_466_017 + int(self.draw() * 1e12)
        self._id += 1 + int(self.draw() * 5e6)
        return self._id - (9_000_000 if self.draw() < DISORDER else 0)

    def plan(self, now_ns: int) -> None:
        # 40 to 55 % of the books repeat the one before: in a quiet window nothing changes
        self._quiet = self.draw() < REPEATS
        if not self._quiet:
            super().plan(now_ns)

    def _keep_depth(self) -> None:
        if not self._quiet:
            super()._keep_depth()

    def emit_window(self) -> None:
        top = self._top()
        if not self._quiet and top == self.top and self.draw() < 0.8:
            return
        self.top = top
        self.book_ns = self.now_ns
        self.emit("orderbook", (*top, self.book_time()))

    def book_time(self) -> int:
        # a book's time has µs; here it is never a whole ms
        return (
            self.book_ns // 1000 + 137 + self.book_ns // MILLISECOND_NS % 800 + self.clock_ms * 1000
        )

    def _take(self, side: Side, tick: int, size: int) -> None:
        left = side.sizes[tick] - size
        if not left and self.draw() < 0.4:
            # dust levels have a real price and size 0: a fully taken level may stay as one
            self._put(side, tick, 0)
        else:
            super()._take(side, tick, size)

    def _touch_level(self, side: Side) -> None:
        super()._touch_level(side)
        if self.draw() < DUST:
            self._put(side, side.at(int(self.draw() * min(12, len(side)))), 0)

    def styles(self, simple: bool, time: int) -> tuple[Spelling, Spelling]:
        return self.prices["terse"], self.sizes["short"]

    def _trade(self, trade: Trade, variant: Variant) -> str:
        when = self.when(trade.time_ns)
        at_ms = trade.time_ns // MILLISECOND_NS + self.clock_ms
        change, units = self.change(trade.tick)
        plain, price = self.prices["short"], self.price_units
        fields = [
            ("trade_price", "tp", plain(price(trade.tick))),
            ("trade_volume", "tv", self.sizes["short"](trade.size)),
            ("ask_bid", "ab", '"ASK"' if trade.taker_sold else '"BID"'),
            ("prev_closing_price", "pcp", plain(price(self.day.previous))),
            ("change", "c", f'"{change}"'),
            ("change_price", "cp", plain(abs(units))),
            ("trade_date", "tdt", f'"{time.strftime("%Y-%m-%d", when)}"'),
            ("trade_time", "ttm", f'"{time.strftime("%H:%M:%S", when)}"'),
            ("trade_timestamp", "ttms", str(at_ms)),
            ("sequential_id", "sid", str(trade.id)),
            ("timestamp", "tms", str(at_ms + 110)),
            ("stream_type", "st", f'"{variant.stream_type}"'),
        ]
        return self._object("trade", fields, variant.simple)
