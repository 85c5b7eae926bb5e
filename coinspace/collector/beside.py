"""Tickers of markets whose trades come over another connection, in another format.

The other connection decides the states of the markets; this one only brings their tickers. A loss
of it is reported by `connection_failures` and `problems`.
"""

from __future__ import annotations

from typing import Any

from coinspace._ext.collector_ticker import TickerCollector
from coinspace.clock import SECOND_NS
from coinspace.collector.stage import Stage, State, Status
from coinspace.collector.ticker import TickerStage, ticker_markets

# a connection without a ticker for this long is replaced
SILENT_NS = 20 * SECOND_NS


class BesideTickers(Stage, TickerCollector):
    """Publishes the tickers of a stage's markets on the stage's topics."""

    stream = "ticker"

    def __init__(self, stage: TickerStage, symbols: tuple[str, ...]) -> None:
        exchange, sink = stage.exchange, stage.sink
        entries = [(status.symbol, status.market) for status in stage.of(symbols)]
        markets = ticker_markets(sink, exchange, entries)
        parser = exchange.parser(exchange.STREAM_DEPTH)
        TickerCollector.__init__(self, parser, sink, markets, contiguous=False)
        Stage.__init__(self, exchange, entries, sink)
        self.wall = stage.wall

    def change(
        self, status: Status, state: State, now_ns: int, reason: str | None = None, **details: Any
    ) -> None:
        """Do nothing: the stage of the trades reports the states."""

    def on_timer(self, now_ns: int) -> None:
        """Replace a connection that has brought nothing for a while: tickers come every second."""
        self.now_ns = now_ns
        pairs = list(zip(self.markets, self.statuses, strict=True))
        heard_ns = max(max(market.heard_ns, status.subscribed_ns) for market, status in pairs)
        if now_ns - heard_ns > SILENT_NS:
            for status in self.statuses:
                self.want_reconnect(status, "no tickers")

    @property
    def is_silent(self) -> bool:
        """Whether no connection brings the tickers of some market."""
        return any(not status.live for status in self.statuses)

    def added(self) -> dict[str, int | float]:
        """Return the counters that belong to the stage's own."""
        return {
            "frames": self.frames,
            "bytes": self.bytes_received,
            "messages": self.messages,
            "malformed": self.malformed,
            "tickers": sum(market.tickers for market in self.markets),
            "ticker_repeats": sum(market.ticker_repeats for market in self.markets),
            "tickers_refused": self.tickers_refused,
            "connects": self.counts["connects"],
            "disconnects": self.counts["disconnects"],
        }
