"""The ticker stage: tickers and trades of one exchange, every trade once.

How a missing trade is found:

* Binance: ids count up by one, so a jump is a gap; the REST list fills it by id.
* Upbit: ids are unique and unordered. After each new connection, and once a minute, the REST list
  of the newest trades is compared with the ids that the stream brought.
* Bithumb: REST ids are of another space and are never joined. After a new connection the REST
  trades whose times lie between the last streamed trade before and the first one after are the
  missing ones.
* Upbit and Bithumb: the volume that the exchange has summed since midnight grows by what was
  published; when it does not, trades of the connection itself are missing.

A process that starts goes on where the journal of the one before ends, as after a reconnect.
"""

from __future__ import annotations

from dataclasses import replace

from coinspace._ext.collector_ticker import TickerCollector, TickerMarket
from coinspace._ext.sink import Sink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector import holes
from coinspace.collector.holes import FRESH_NS, Found, Hole
from coinspace.collector.memory import Memory
from coinspace.collector.stage import Stage, Status
from coinspace.collector.volume import VolumeCheck
from coinspace.exchanges.exchange import UNREADABLE, Exchange, Refusal, Request, RestTrade

# wait before REST is asked what was missed: the stream may still bring it
SETTLE_NS = 2 * SECOND_NS
# wait before a hole is asked for again after a refusal
RETRY_NS = 10 * SECOND_NS
AUDIT_NS = 60 * SECOND_NS
# REST lists that one hole may take
ANSWERS = 20
# both streams of a market have told what they know when nothing came for so long
QUIET_NS = 100 * MILLISECOND_NS


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
        # markets whose tickers say that they are suspended
        self._suspended: set[int] = set()
        # ids that count up by one need no second proof
        self._volumes = [] if self.contiguous else [VolumeCheck() for _ in markets]
        self.counts.update(
            dict.fromkeys(
                (
                    "trade_gaps",
                    "trades_missing",
                    "trades_filled",
                    "trades_lost",
                    "audits",
                    "trades_remembered",
                    "volume_gaps",
                    "volume_unexplained",
                ),
                0,
            )
        )

    def resume(self, memory: Memory, now_ns: int) -> None:
        """Go on where an earlier process ended; called before the first connection."""
        for market in self.markets:
            trades = memory.trades.get(market.market, ())
            for trade in trades:
                price, size = trade.values.tolist()
                market.remember(trade.exchange_ns, price, size, trade.flags, trade.id)
            self.counts["trades_remembered"] += len(trades)
            if trades:
                hole = Hole("restart", memory.settled_ns(market.market) or market.trade_ns)
            elif market.market in memory.markets:
                hole = Hole("restart", memory.since_ns)
            else:
                continue
            if self.contiguous and (ids := {trade.id for trade in trades}):
                missing = set(range(min(ids), max(ids))) - ids
                if missing:
                    # a hole that the earlier process did not come to fill
                    hole.first_id, hole.last_id = min(missing), max(missing)
                    hole.ask_ns = now_ns + SETTLE_NS
                    self.counts["trade_gaps"] += 1
                    self.counts["trades_missing"] += len(missing)
            self._holes[market.index] = hole

    # connections

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        market = self.markets[index]
        market.awaiting = True
        hole = self._holes.get(index)
        if hole is not None:
            # an open hole keeps its older beginning and ends later
            hole.to_ns, hole.volume = 0, 0.0
        elif market.trade_ns:
            self._holes[index] = Hole("reconnect", market.trade_ns)

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        # told again on the new connection
        self._suspended.discard(index)
        hole = self._holes.get(index)
        if hole is not None:
            hole.again(now_ns + SETTLE_NS)

    # missing trades

    def on_missing_trades(
        self, market: TickerMarket, first: int, last: int, received_ns: int
    ) -> None:
        status = self.statuses[market.index]
        # of two connections the newer one may be ahead, and the older one brings what lies between
        overlap = len(status.live) > 1
        if not overlap:
            self._tell_missing(status, first, last, received_ns)
        known = self._holes.get(market.index)
        if known is not None and known.first_id:
            first, overlap = min(first, known.first_id), overlap and known.reason == "overlap"
        self._holes[market.index] = Hole(
            "overlap" if overlap else "gap",
            market.trade_ns,
            0,
            first,
            last,
            ask_ns=received_ns + (SETTLE_NS if overlap else SETTLE_NS // 4),
        )

    def _tell_missing(self, status: Status, first: int, last: int, now_ns: int) -> None:
        missing = last - first + 1
        self.counts["trade_gaps"] += 1
        self.counts["trades_missing"] += missing
        self.mark("gap", status, expected=first, found=last + 1)
        self.change(
            status,
            status.state,
            now_ns,
            f"missing trades: {missing}",
            expected=first,
            found=last + 1,
            missing=missing,
        )

    def on_answer(self, request: Request, payload: bytes, now_ns: int) -> None:
        """Take a list of trades by REST."""
        market = self.entry(request.symbols[0]) if request.symbols else None
        if request.purpose != "trades" or market is None:
            return
        hole = request.context if isinstance(request.context, Hole) else None
        if hole is not None and self._holes.get(market.index) is not hole:
            # it has grown since, and is asked for again
            return
        try:
            trades = self.exchange.read_trades(request, payload)
        except UNREADABLE as error:
            self.counts["unreadable_answers"] += 1
            self.log.warning("answer not readable", path=request.path, error=repr(error))
            if hole is not None:
                hole.again(now_ns + RETRY_NS)
            return
        if hole is None:
            found = holes.audit(trades, market.ids, now_ns)
            if found.trades:
                self._fill(market, Hole("ids", found.trades[0].exchange_ns), found, now_ns)
            return
        hole.answers.append(trades)
        older = None
        if not hole.reached():
            older = self.exchange.older_trades_request(trades[0])
        if older is not None and len(hole.answers) < ANSWERS:
            self._ask(older, hole)
        else:
            self._close(market, hole, now_ns)

    def _close(self, market: TickerMarket, hole: Hole, now_ns: int) -> None:
        del self._holes[market.index]
        trades, tolerance = hole.trades(), 0.0
        if hole.volume:
            tolerance = VolumeCheck.tolerance(market.day_volume, market.traded)
        if self.contiguous:
            found = holes.by_number(hole, trades)
        elif self.exchange.JOINABLE_TRADES:
            found = holes.by_id(hole, trades, market.ids, now_ns)
        elif hole.volume:
            found = holes.by_volume(hole, trades, market.recent(), tolerance)
        else:
            found = holes.between(hole, trades, market.recent())
        before = market.traded
        self._fill(market, hole, found, now_ns)
        if hole.volume:
            missing = hole.volume - (market.traded - before)
            if abs(missing) > tolerance:
                self.counts["volume_unexplained"] += 1
                self.log.warning("volume not explained", market=market.market, missing=missing)
            else:
                missing = 0.0
            self._volumes[market.index].settle(missing)

    def _fill(self, market: TickerMarket, hole: Hole, found: Found, now_ns: int) -> None:
        filled = sum(self._add(market, trade, now_ns) for trade in found.trades)
        if not self.contiguous:
            self.counts["trades_missing"] += len(found.trades)
            self.counts["trade_gaps"] += bool(found.trades or found.lost)
        if not (filled or found.lost or self.contiguous or hole.volume):
            return
        self.counts["trades_filled"] += filled
        self.counts["trades_lost"] += found.lost
        status = self.statuses[market.index]
        details = {"volume": hole.volume} if hole.volume else {}
        self.change(
            status,
            status.state,
            now_ns,
            f"trades lost: at least {found.lost}"
            if found.lost
            else f"trades filled by REST: {filled}",
            from_ns=hole.from_ns,
            filled=filled,
            lost=found.lost,
            **details,
        )

    def _add(self, market: TickerMarket, trade: RestTrade, now_ns: int) -> bool:
        return self.add_rest_trade(
            market,
            trade.price,
            trade.size,
            trade.sell,
            trade.trade_id,
            trade.exchange_ns,
            now_ns,
        )

    def on_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Take the news that a request was refused or could not be made: it is asked again
        later, or what older lists would have told is lost.
        """
        self.counts["refused_requests"] += 1
        hole = request.context if isinstance(request.context, Hole) else None
        market = self.entry(request.symbols[0]) if request.symbols else None
        if hole is None or market is None or self._holes.get(market.index) is not hole:
            return
        if refusal.fatal and hole.answers:
            self._close(market, hole, now_ns)
        else:
            hole.again(now_ns + RETRY_NS)

    # time

    def on_timer(self, now_ns: int) -> None:
        """Look after everything that happens by not happening; called a few times a second."""
        for market, status in zip(self.markets, self.statuses, strict=True):
            if not status.live:
                continue
            index = market.index
            self._watch(market, status, now_ns)
            if market.suspended != (index in self._suspended):
                self._watch_suspension(market, status, now_ns)
            hole = self._holes.get(index)
            if hole is not None:
                self._watch_hole(market, status, hole, now_ns)
                continue
            if self._volumes and now_ns - market.received_ns >= QUIET_NS:
                self._watch_volume(market, status, now_ns)
            if (
                self.exchange.JOINABLE_TRADES
                and not self.contiguous
                and market.trades
                and now_ns - max(self._audited_ns[index], status.subscribed_ns) > AUDIT_NS
            ):
                self._audited_ns[index] = now_ns
                self.counts["audits"] += 1
                self._ask(self.exchange.trades_request(status.symbol), None)

    def _watch_suspension(self, market: TickerMarket, status: Status, now_ns: int) -> None:
        # Upbit's and Bithumb's lists do not say it
        if market.suspended:
            self._suspended.add(market.index)
            self.change(status, "halted", now_ns, "suspended", change="halted")
        else:
            self._suspended.discard(market.index)
            self.change(status, "synced", now_ns, "resumed", change="resumed")

    def _watch_volume(self, market: TickerMarket, status: Status, now_ns: int) -> None:
        check = self._volumes[market.index]
        tickers = market.tickers + market.ticker_repeats
        missing = check.look(
            market.day_volume, market.traded, market.trades, tickers, market.trade_ns
        )
        if not missing:
            return
        self.counts["volume_gaps"] += 1
        self.change(status, status.state, now_ns, f"missing volume: {missing:g}", volume=missing)
        self._holes[market.index] = Hole(
            "volume",
            check.proven_ns,
            market.trade_ns,
            volume=missing,
            ask_ns=now_ns + FRESH_NS,
        )

    def _watch_hole(self, market: TickerMarket, status: Status, hole: Hole, now_ns: int) -> None:
        if hole.asked or not hole.ask_ns or now_ns < hole.ask_ns:
            return
        if hole.reason == "overlap":
            missing = [id for id in range(hole.first_id, hole.last_id + 1) if id not in market.ids]
            if not missing:
                del self._holes[market.index]
                return
            hole.reason, hole.first_id, hole.last_id = "gap", missing[0], missing[-1]
            self._tell_missing(status, missing[0], missing[-1], now_ns)
        if not hole.to_ns and not hole.first_id:
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
        self._ask(self.exchange.trades_request(status.symbol), hole)

    def _ask(self, request: Request, context: Hole | None) -> None:
        self.ask(replace(request, context=context))

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
        found["volumes_proven"] = sum(check.offset is not None for check in self._volumes)
        found["volume_excess"] = sum(check.excess for check in self._volumes)
        found["synced"] = sum(status.state == "synced" for status in self.statuses)
        found["markets"] = len(self.markets)
        return found
