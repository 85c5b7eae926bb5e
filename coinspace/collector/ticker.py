"""The ticker stage: tickers and trades of one exchange, every trade once.

How a missing trade is found:

* Binance: ids count up by one, so a jump is a gap; the REST list of the newest trades fills it by
  id.
* Upbit: ids are unique and unordered. After each new connection, and once a minute, the REST list
  of the newest
  trades is compared with the ids that the stream brought.
* Bithumb: REST ids are of another space and are never joined. After a reconnect the REST trades
  whose times lie
  strictly between the last streamed trade before and the first one after are the missing ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coinspace._ext.collector_ticker import TickerCollector, TickerMarket
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS
from coinspace.collector.stage import Stage, Status
from coinspace.exchanges.exchange import Exchange, Refusal, Request, RestTrade

# wait before REST is asked what was missed: the stream may still bring it
SETTLE_NS = 2 * SECOND_NS
AUDIT_NS = 60 * SECOND_NS
# trades younger than this may still be on their way through the stream
FRESH_NS = 5 * SECOND_NS


@dataclass(slots=True)
class Hole:
    """A stretch in which trades may be missing.

    first_id, last_id: for contiguous ids, else 0. from_ns, to_ns: exchange times, exclusive; to_ns
    0 = still open.
    """

    reason: str
    from_ns: int
    to_ns: int = 0
    first_id: int = 0
    last_id: int = 0
    ask_ns: int = 0
    asked: bool = False


class TickerStage(Stage, TickerCollector):
    """Tickers and trades of one exchange from frames and REST answers."""

    stream = "ticker"

    def __init__(
        self,
        exchange: Exchange,
        entries: list[tuple[str, str]],
        sink: Sink,
        *,
        stale_after_s: float = 60.0,
    ) -> None:
        name = exchange.NAME
        markets = [
            TickerMarket(
                index,
                symbol,
                market,
                sink.topic(f"ticker.{name}.{market}.".encode()),
                sink.topic(f"trade.{name}.{market}.".encode()),
            )
            for index, (symbol, market) in enumerate(entries)
        ]
        parser = exchange.parser(exchange.STREAM_DEPTH)
        TickerCollector.__init__(self, parser, sink, markets, contiguous=exchange.CONTIGUOUS_TRADES)
        self.start(exchange, entries, sink)
        self.stale_ns = int(stale_after_s * SECOND_NS)
        self._holes: dict[int, Hole] = {}
        self._audited_ns = [0] * len(markets)
        self.counts.update(
            dict.fromkeys(
                ("trade_gaps", "trades_missing", "trades_filled", "trades_lost", "audits"), 0
            )
        )

    # connections

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        market = self.markets[index]
        market.awaiting = True
        # an open hole keeps its older beginning
        if index not in self._holes and market.trade_ns:
            self._holes[index] = Hole("reconnect", market.trade_ns)

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        hole = self._holes.get(self._positions[status.symbol])
        if hole is not None:
            hole.ask_ns, hole.asked = now_ns + SETTLE_NS, False

    # missing trades

    def on_missing_trades(
        self, market: TickerMarket, first: int, last: int, received_ns: int
    ) -> None:
        self.counts["trade_gaps"] += 1
        self.counts["trades_missing"] += last - first + 1
        status = self.statuses[market.index]
        self.change(
            status,
            status.state,
            received_ns,
            "missing trades",
            expected=first,
            found=last + 1,
            missing=last - first + 1,
        )
        known = self._holes.get(market.index)
        if known is not None and known.first_id:
            first = min(first, known.first_id)
        self._holes[market.index] = Hole(
            "gap", market.trade_ns, 0, first, last, received_ns + SETTLE_NS // 4
        )

    def on_answer(self, request: Request, payload: bytes, now_ns: int) -> None:
        """Take the newest trades by REST."""
        if request.purpose != "trades":
            return
        market = self.entry(request.symbols[0])
        if market is None:
            return
        try:
            trades = self.exchange.read_trades(request, payload)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.counts["unreadable_answers"] += 1
            self.log.warning("answer not readable", path=request.path, error=repr(error))
            trades = []
        hole = self._holes.pop(market.index, None) if request.context != "audit" else None
        if self.contiguous:
            self._fill_contiguous(market, hole, trades, now_ns)
        elif self.exchange.JOINABLE_TRADES:
            self._fill_joinable(market, trades, now_ns)
        elif hole is not None:
            self._fill_between(market, hole, trades, now_ns)

    def _add(self, market: TickerMarket, trade: RestTrade, now_ns: int) -> bool:
        added = self.add_rest_trade(
            market,
            trade.price,
            trade.size,
            trade.sell,
            trade.trade_id,
            trade.exchange_ns,
            now_ns,
        )
        self.counts["trades_filled"] += added
        return added

    def _fill_contiguous(
        self, market: TickerMarket, hole: Hole | None, trades: list[RestTrade], now_ns: int
    ) -> None:
        if hole is None or not hole.first_id:
            return
        filled = sum(
            self._add(market, trade, now_ns)
            for trade in trades
            if hole.first_id <= trade.trade_id <= hole.last_id
        )
        self._settle(market, hole, hole.last_id - hole.first_id + 1 - filled, filled, now_ns)

    def _fill_joinable(self, market: TickerMarket, trades: list[RestTrade], now_ns: int) -> None:
        if not market.trade_ns or not trades:
            return
        begin = next((i for i, trade in enumerate(trades) if trade.trade_id in market.ids), None)
        if begin is None:
            # nothing in common: more was missed than REST still has
            if trades[0].exchange_ns > market.trade_ns:
                self.counts["trade_gaps"] += 1
                self._settle(market, Hole("ids", market.trade_ns), 1, 0, now_ns)
            return
        missing = [
            trade
            for trade in trades[begin:]
            if trade.trade_id not in market.ids and now_ns - trade.exchange_ns > FRESH_NS
        ]
        if not missing:
            return
        self.counts["trade_gaps"] += 1
        self.counts["trades_missing"] += len(missing)
        filled = sum(self._add(market, trade, now_ns) for trade in missing)
        self._settle(market, Hole("ids", missing[0].exchange_ns), 0, filled, now_ns)

    def _fill_between(
        self, market: TickerMarket, hole: Hole, trades: list[RestTrade], now_ns: int
    ) -> None:
        if not trades:
            return
        end_ns = hole.to_ns or now_ns
        # REST times are whole ms, the stream's too: equal times are left to the stream
        wanted = [trade for trade in trades if hole.from_ns < trade.exchange_ns < end_ns]
        lost = int(trades[0].exchange_ns > hole.from_ns and len(wanted) == len(trades))
        filled = sum(self._add(market, trade, now_ns) for trade in wanted)
        self.counts["trades_missing"] += len(wanted)
        if wanted or lost:
            self.counts["trade_gaps"] += 1
            self._settle(market, hole, lost, filled, now_ns)

    def _settle(
        self, market: TickerMarket, hole: Hole, lost: int, filled: int, now_ns: int
    ) -> None:
        self.counts["trades_lost"] += lost
        status = self.statuses[market.index]
        self.change(
            status,
            status.state,
            now_ns,
            "trades filled by REST" if not lost else "trades lost",
            from_ns=hole.from_ns,
            filled=filled,
            lost=lost,
        )

    def on_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Take the news that a request was refused or could not be made: it is asked again
        later.
        """
        self.counts["refused_requests"] += 1
        for status in self.of(request.symbols):
            hole = self._holes.get(self._positions[status.symbol])
            if hole is not None and request.purpose == "trades":
                hole.asked, hole.ask_ns = False, now_ns + AUDIT_NS // 6

    # time

    def on_timer(self, now_ns: int) -> None:
        """Look after everything that happens by not happening; called a few times a second."""
        for market, status in zip(self.markets, self.statuses, strict=True):
            if not status.live:
                continue
            index = market.index
            self._watch(market, status, now_ns)
            hole = self._holes.get(index)
            if hole is not None:
                self._watch_hole(market, status, hole, now_ns)
            elif (
                self.exchange.JOINABLE_TRADES
                and not self.contiguous
                and market.trades
                and now_ns - max(self._audited_ns[index], status.subscribed_ns) > AUDIT_NS
            ):
                self._audited_ns[index] = now_ns
                self.counts["audits"] += 1
                self._ask_trades(status, "audit")

    def _watch_hole(self, market: TickerMarket, status: Status, hole: Hole, now_ns: int) -> None:
        if hole.asked or not hole.ask_ns or now_ns < hole.ask_ns:
            return
        if hole.reason == "reconnect" and not hole.to_ns:
            if self.contiguous:
                # the first trade after tells by its id whether anything is missing
                del self._holes[market.index]
                return
            if market.awaiting:
                # the stream's first trade bounds what was missed; it has not come yet
                hole.ask_ns = now_ns + SETTLE_NS
                return
            hole.to_ns = market.resumed_ns
        hole.asked = True
        self._ask_trades(status, None)

    def _ask_trades(self, status: Status, context: Any) -> None:
        request = self.exchange.trades_request(status.symbol)
        self.ask(
            Request(
                request.purpose,
                request.path,
                request.group,
                request.weight,
                request.symbols,
                context,
            )
        )

    def _watch(self, market: TickerMarket, status: Status, now_ns: int) -> None:
        if market.received_ns >= status.subscribed_ns and status.state in ("subscribed", "stale"):
            if now_ns - market.received_ns < self.stale_ns:
                self.change(status, "synced", now_ns)
            return
        self.watch_first_frame(status, market.received_ns, now_ns)
        if (
            status.state == "synced"
            and now_ns - max(market.received_ns, status.subscribed_ns) > self.stale_ns
        ):
            self.counts["stale"] += 1
            self.change(status, "stale", now_ns, f"no frame for {self.stale_ns / 1e9:g} s")

    def counters(self) -> dict[str, int | float]:
        found = super().counters()
        for name in ("tickers", "ticker_repeats", "trades", "trades_by_rest", "duplicates"):
            found[name] = sum(getattr(market, name) for market in self.markets)
        found["synced"] = sum(status.state == "synced" for status in self.statuses)
        found["markets"] = len(self.markets)
        return found
