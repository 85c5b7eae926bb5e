"""Coinone's markets: whole books of 16 levels with the best ask last, ids that are times.

All numbers are texts. The first book after a subscription has a `timestamp` that is 10 s old. A
fifth of the books repeat the levels of the one before under a new id.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from coinspace.market import Market
from coinspace.simulator.markets.korean import KoreanMarket
from coinspace.simulator.markets.market import MILLISECOND_NS, Event, Trade, World
from coinspace.simulator.markets.spelling import fixed, short

# ms by which the `timestamp` of a first book is old
LATE_MS = 10_100
REPEATED = 0.2
# messages of one ms are counted in the last three digits of an id
COUNTER = 1000
# long key -> short key
SHORT = {
    "response_type": "r",
    "channel": "c",
    "data": "d",
    "quote_currency": "qc",
    "target_currency": "tc",
    "timestamp": "t",
    "id": "i",
    "asks": "a",
    "bids": "b",
    "price": "p",
    "qty": "q",
    "is_seller_maker": "sm",
    "quote_volume": "qv",
    "target_volume": "tv",
    "high": "hi",
    "low": "lo",
    "first": "fi",
    "last": "la",
    "volume_power": "vp",
    "ask_best_price": "abp",
    "ask_best_qty": "abq",
    "bid_best_price": "bbp",
    "bid_best_qty": "bbq",
    "yesterday_last": "yla",
}


class Variant(NamedTuple):
    """short: short keys. is_first: the first book after a subscription."""

    short: bool = False
    is_first: bool = False


class CoinoneMarket(KoreanMarket):
    """A market of Coinone."""

    plain: Any = Variant()
    padded, volume = "short", "short"
    depth = 16
    size_decimals = 8
    level_worth = 800.0
    quotes = 10.0
    trades = 1.0
    levels = 120
    premium = 0.0004

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        # of the last book and of the last trade
        self._book_id = 0
        self._trade_id = 0
        super().__init__(engine, exchange, market, symbol)
        self._book_id = self._next(0)

    def _next(self, last: int) -> int:
        return max(last + 1, self.now_ns // MILLISECOND_NS * COUNTER + 1)

    def next_trade_id(self) -> int:
        self._trade_id = self._next(self._trade_id)
        return self._trade_id

    def emit_window(self) -> None:
        top = self._top()
        if top != self.top or self.draw() < REPEATED / 10:
            self.top = top
            self._book_id = self._next(self._book_id)
            self.emit("orderbook", (*top, self.book_time()))

    def book_time(self) -> int:
        """Return the book's id."""
        return self._book_id + self.clock_ms * COUNTER

    # frames

    def encode(self, event: Event, variant: Any) -> bytes:
        made = {"orderbook": self._levels, "trade": self._one, "ticker": self._sums}
        frame = {
            "response_type": "DATA",
            "channel": event.kind.upper(),
            "data": {
                "quote_currency": self.market.quote,
                "target_currency": self.symbol,
                **made[event.kind](event.facts, variant),
            },
        }
        return orjson.dumps(_shortened(frame) if variant.short else frame)

    def _levels(self, facts: Any, variant: Variant) -> dict[str, Any]:
        asks, bids, id = facts
        return {
            "timestamp": id // COUNTER - (LATE_MS if variant.is_first else 0),
            "id": str(id),
            # the best ask is the last one
            "asks": [self._level(*one) for one in asks[::-1]],
            "bids": [self._level(*one) for one in bids],
        }

    def _level(self, tick: int, size: int) -> dict[str, str]:
        return {"price": self._price(tick), "qty": short(size, self.size_decimals)}

    def _price(self, tick: int) -> str:
        return self.prices["short"](self.price_units(tick))

    def _one(self, trade: Trade, variant: Variant) -> dict[str, Any]:
        return {
            **self._stamp(trade),
            "price": self._price(trade.tick),
            "qty": short(trade.size, self.size_decimals),
            # the seller's order was resting: the taker bought
            "is_seller_maker": not trade.taker_sold,
        }

    def _stamp(self, trade: Trade) -> dict[str, Any]:
        id = trade.id + self.clock_ms * COUNTER
        return {"id": str(id), "timestamp": id // COUNTER}

    def _sums(self, trade: Trade, variant: Variant) -> dict[str, Any]:
        day = self.day
        asks, bids = self.asks.top(1), self.bids.top(1)
        ask = self._level(*asks[0]) if asks else {"price": None, "qty": None}
        bid = self._level(*bids[0]) if bids else {"price": None, "qty": None}
        worth = fixed(day.worth_24h, self.size_decimals + self.price_decimals)
        return {
            **self._stamp(trade),
            "quote_volume": worth,
            "target_volume": short(day.volume_24h, self.size_decimals),
            "high": self._price(day.high),
            "low": self._price(day.low),
            "first": self._price(day.open),
            "last": self._price(trade.tick),
            "volume_power": "0",
            "ask_best_price": ask["price"],
            "ask_best_qty": ask["qty"],
            "bid_best_price": bid["price"],
            "bid_best_qty": bid["qty"],
            "yesterday_last": self._price(day.previous),
        }


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {SHORT.get(key, key): _shortened(one) for key, one in value.items()}
    return [_shortened(one) for one in value] if isinstance(value, list) else value
