"""Coinbase's markets: the whole book once, then changed levels without ids; trade ids count up.

Some updates have a time of the year 1, as seen at the exchange.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from coinspace.market import Market
from coinspace.simulator.markets.binance import BinanceMarket
from coinspace.simulator.markets.market import MILLISECOND_NS, Event, Trade, World

YEAR_ONE = "0001-01-01T00:00:00.000000Z"
# part of the updates with such a time
TIMELESS = 0.02
# names of the events that the exchange sends
BOOK, TRADE, TICKER = "level2_batch", "trade", "ticker"


class CoinbaseMarket(BinanceMarket):
    """A market of Coinbase."""

    plain: Any = ""
    levels = 1200
    level_worth = 5000.0
    trades = 4.0

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        # orders, trades and tickers so far
        self.sequence = 7_100_000_000
        super().__init__(engine, exchange, market, symbol)
        self.trade_id = 1_040_000_000 + int(self.draw() * 1e8)

    def emit_window(self) -> None:
        if self.bids_changed or self.asks_changed:
            changes = self.bids_changed, self.asks_changed, self.draw() < TIMELESS
            self.bids_changed, self.asks_changed = {}, {}
            self.emit(BOOK, changes)

    def emit_trade(self, trade: Trade) -> None:
        self.sequence += 3
        super().emit_trade(trade)
        self.emit(TICKER, trade)

    def emit(self, kind: str, facts: Any) -> None:
        # a ticker comes with its trade, and never by a timer
        if kind in (BOOK, TRADE, TICKER) and facts is not None:
            super().emit(kind, facts)

    def snapshot(self, kind: str) -> Event | None:
        if kind == BOOK:
            return Event(self, kind, self.now_ns, None)
        return Event(self, kind, self.now_ns, self.recent[-1]) if self.recent else None

    # frames

    def text_of(self, time_ns: int) -> str:
        """Return a time as the exchange writes it."""
        at = datetime.fromtimestamp((time_ns + self.clock_ms * MILLISECOND_NS) // 1000 / 1e6, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}Z"

    def encode(self, event: Event, variant: Any) -> bytes:
        if event.kind == BOOK:
            text = self._whole(event) if event.facts is None else self._update(event)
        elif event.kind == TRADE:
            text = self._match(event.facts, variant or "match")
        else:
            text = self._prices(event.facts)
        return text.encode()

    def _whole(self, event: Event) -> str:
        return (
            f'{{"type":"snapshot","product_id":"{self.symbol}",'
            f'"asks":[{self._levels(self.asks.top(len(self.asks)))}],'
            f'"bids":[{self._levels(self.bids.top(len(self.bids)))}],'
            f'"time":"{self.text_of(event.time_ns)}"}}'
        )

    def _update(self, event: Event) -> str:
        bids, asks, timeless = event.facts
        price, size = self.spell_price, self.spell_size
        rows = [
            f'["{name}","{price(tick)}","{size(units)}"]'
            for name, side in (("buy", bids), ("sell", asks))
            for tick, units in side.items()
        ]
        when = YEAR_ONE if timeless else self.text_of(event.time_ns)
        return (
            f'{{"type":"l2update","product_id":"{self.symbol}","changes":[{",".join(rows)}],'
            f'"time":"{when}"}}'
        )

    def _match(self, trade: Trade, kind: str) -> str:
        # the side is that of the maker
        side = "buy" if trade.taker_sold else "sell"
        return (
            f'{{"type":"{kind}","trade_id":{trade.id},"maker_order_id":"0","taker_order_id":"0",'
            f'"side":"{side}","size":"{self.spell_size(trade.size)}",'
            f'"price":"{self.spell_price(trade.tick)}","product_id":"{self.symbol}",'
            f'"sequence":{self.sequence},"time":"{self.text_of(trade.time_ns)}"}}'
        )

    def _prices(self, trade: Trade) -> str:
        top, price, size = self._top(), self.spell_price, self.spell_size
        side = "buy" if trade.taker_sold else "sell"
        return (
            f'{{"type":"ticker","sequence":{self.sequence},"product_id":"{self.symbol}",'
            f'"price":"{price(trade.tick)}","open_24h":"{price(self.open)}",'
            f'"volume_24h":"{size(self.volume)}","low_24h":"{price(self.low)}",'
            f'"high_24h":"{price(self.high)}","volume_30d":"{size(30 * self.volume)}",'
            f'"best_bid":"{price(top.bid[0])}","best_bid_size":"{size(top.bid[1])}",'
            f'"best_ask":"{price(top.ask[0])}","best_ask_size":"{size(top.ask[1])}",'
            f'"side":"{side}","time":"{self.text_of(trade.time_ns)}","trade_id":{trade.id},'
            f'"last_size":"{size(trade.size)}"}}'
        )

    def heartbeat(self) -> bytes:
        """Return the frame that names the newest trade."""
        return (
            f'{{"type":"heartbeat","last_trade_id":{self.trade_id},"product_id":"{self.symbol}",'
            f'"sequence":{self.sequence},"time":"{self.text_of(self.now_ns)}"}}'
        ).encode()

    def snapshot_text(self, levels: int) -> str:
        def side(found: list[tuple[int, int]]) -> str:
            price, size = self.spell_price, self.spell_size
            return ",".join(f'["{price(tick)}","{size(units)}",1]' for tick, units in found)

        return (
            f'{{"bids":[{side(self.bids.top(levels))}],"asks":[{side(self.asks.top(levels))}],'
            f'"sequence":{self.sequence},"auction_mode":false,'
            f'"time":"{self.text_of(self.now_ns)}"}}'
        )
