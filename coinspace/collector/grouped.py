"""Grouped books of a second subscription: their far levels extend the books of the first.

Upbit sends 30 levels at any grouping, so grouped levels reach further. A group that touches the
fine levels is left out, so that no order counts twice. Messages with groups have the flag GROUPED.
"""

from __future__ import annotations

import orjson
import structlog

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.sink import ListSink
from coinspace.collector.sync import Condition
from coinspace.exchanges.exchange import Exchange, Refusal


class GroupedBooks(BookCollector):
    """Keeps grouped books and publishes nothing.

    Args: levels: symbol -> width of a price group, in quote currency.
    """

    def __init__(self, exchange: Exchange, levels: dict[str, float]) -> None:
        sink = ListSink()
        depth = exchange.STREAM_DEPTH
        markets = [
            BookMarket(
                i, symbol, symbol, sink.topic(f"orderbook.grouped.{symbol}.".encode()), depth
            )
            for i, symbol in enumerate(levels)
        ]
        for market, grouping in zip(markets, levels.values(), strict=True):
            market.grouping = grouping
        super().__init__(exchange.parser(depth), sink, markets, updates=False)
        self.silent = True
        self._exchange = exchange
        self._refusals: dict[int, Refusal] = {}
        self._live: dict[str, set[int]] = {symbol: set() for symbol in levels}
        self._log = structlog.get_logger(f"grouped-{exchange.NAME}")

    def on_connecting(self, symbols: tuple[str, ...], now_ns: int) -> None:
        """Do nothing: the stage of the fine books reports the states."""

    def on_connect_failed(self, symbols: tuple[str, ...], reason: str, now_ns: int) -> None:
        """Do nothing: the stage of the fine books reports the states."""

    def on_connected(self, connection: int, symbols: tuple[str, ...], now_ns: int) -> None:
        """Note a connection."""
        for symbol in symbols:
            self._live[symbol].add(connection)

    def on_disconnected(self, connection: int, reason: str, now_ns: int) -> None:
        """Drop the books that no connection delivers any more."""
        for market in self.markets:
            live = self._live[market.symbol.decode()]
            live.discard(connection)
            if not live:
                market.forget()

    def caught_up(self, connection: int) -> bool:
        """Return whether a newer connection has delivered every book."""
        return all(market.primary == connection for market in self.markets)

    def take_refusal(self, connection: int) -> Refusal | None:
        """Return the error that the exchange sent on a connection, once."""
        return self._refusals.pop(connection, None)

    def on_condition(self, market: BookMarket, condition: int, received_ns: int) -> None:
        if condition == Condition.CROSSED:
            # groups can cross at the best prices; the next book may be good again
            market.forget()

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None:
        detail = orjson.loads(frame)
        if detail.get("error"):
            # for example a grouping that the market does not have
            refusal = self._refusals[connection] = self._exchange.refusal_of_frame(detail)
            self._log.error("refused by the exchange", text=refusal.text, fatal=refusal.fatal)

    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None:
        self._log.warning("malformed frame", head=repr(frame[:120]))

    def on_failed_frame(self, error: Exception, frame: bytes, now_ns: int) -> None:
        """Log an internal error."""
        self._log.error("internal error in frame", error=repr(error))
