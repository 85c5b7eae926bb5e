"""Grouped books of a second subscription: their far levels extend the books of the first.

Upbit sends 30 levels at any grouping, so grouped levels reach further. A group that touches the
fine levels is left out, so that no order counts twice. Messages with groups have the flag GROUPED.
"""

from __future__ import annotations

from typing import Any

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.sink import ListSink
from coinspace.collector.stage import Stage, State, Status
from coinspace.collector.sync import Condition
from coinspace.exchanges.exchange import Exchange


class GroupedBooks(Stage, BookCollector):
    """Keeps grouped books and publishes nothing.

    Args: levels: symbol -> width of a price group, in quote currency.
    """

    stream = "orderbook"

    def __init__(self, exchange: Exchange, levels: dict[str, float]) -> None:
        sink = ListSink()
        depth = exchange.STREAM_DEPTH
        markets = [
            BookMarket(i, symbol, symbol, self.topic(sink, exchange, symbol), depth)
            for i, symbol in enumerate(levels)
        ]
        for market, grouping in zip(markets, levels.values(), strict=True):
            market.grouping = grouping
        BookCollector.__init__(self, exchange.parser(depth), sink, markets, updates=False)
        Stage.__init__(self, exchange, [(symbol, symbol) for symbol in levels], sink)
        self.silent = True

    def change(
        self, status: Status, state: State, now_ns: int, reason: str | None = None, **details: Any
    ) -> None:
        """Do nothing: the stage of the fine books reports the states."""

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        self.entry_of(status).forget()

    def on_condition(self, market: BookMarket, condition: int, received_ns: int) -> None:
        if condition == Condition.CROSSED:
            # groups can cross at the best prices; the next book may be good again
            market.forget()
