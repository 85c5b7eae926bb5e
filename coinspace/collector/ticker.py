"""The ticker stage: tickers and trades of one exchange, every trade once.

How missing trades are found:

* Binance: ids count up by one, so a jump is a gap. The REST list fills it by id. Where REST refuses
  older single trades, as Binance's mirrors do, aggregates fill it: a message has several trades.
* Upbit: ids are unique and unordered. After each new connection, and once a minute, the REST list
  of the newest trades is compared with the ids of the stream.
* Bithumb: REST and stream have different ids. After a new connection the missing trades are the
  REST trades whose times lie between the last streamed trade before and the first one after.
* Upbit and Bithumb: the volume since midnight, as the exchange sums it, must grow by the published
  volume. If it grows by more, the stream has left out trades.

A market without trades is normal. Pings prove that a connection is alive, but not that its stream
delivers. When all markets of a connection are silent, REST is therefore asked for the trades of one
of them. If REST has a trade that the stream has not brought, the connection is replaced.

A new process continues where the journal of the process before ends, as after a reconnect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from coinspace._ext.collector import PAST_NS
from coinspace._ext.collector_ticker import (
    ID_LIMIT,
    LARGEST,
    MOST_TRADES,
    TickerCollector,
    TickerMarket,
)
from coinspace._ext.message import Message
from coinspace._ext.sink import Sink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector import holes
from coinspace.collector.demand import Value
from coinspace.collector.holes import FRESH_NS, Found, Missing, TradeHole
from coinspace.collector.memory import JournalEnd
from coinspace.collector.stage import FIRST_FRAME_NS, Stage, State, Status, place
from coinspace.collector.volume import VolumeCheck
from coinspace.errors import UNREADABLE
from coinspace.exchanges.exchange import Exchange, Refusal, Request, RestTrade

# wait before REST is asked for missing trades: the stream may still bring them
SETTLE_NS = 2 * SECOND_NS
# wait before REST is asked again after a refusal
RETRY_NS = 10 * SECOND_NS
AUDIT_NS = 60 * SECOND_NS
# when all markets of a connection are silent for this long, REST is asked whether it is mute
MUTE_NS = 60 * SECOND_NS
# times of REST and stream may differ by this much; a trade is newer only beyond it
NEWER_NS = SECOND_NS
# REST lists per hole at most, and trades of all lists that are kept until their holes are filled
ANSWERS = 1000
KEPT_TRADES = 200_000
# refusals of older trades in a row after which aggregates are asked for, and for how long
REFUSALS = 3
AGGREGATED_NS = 3600 * SECOND_NS
# a heartbeat with an id further ahead is not believed
FAR_IDS = 100_000
# ticker and trades of a market agree with each other when nothing came for this long
QUIET_NS = 100 * MILLISECOND_NS


def ticker_markets(
    sink: Sink, exchange: Exchange, entries: Iterable[tuple[str, str]], first: int = 0
) -> list[TickerMarket]:
    """Return the markets of (symbol, market) pairs, with their topics of tickers and trades.

    Args: first: index of the first one.
    """
    return [
        TickerMarket(
            index,
            symbol,
            market,
            TickerStage.topic(sink, exchange, market),
            TickerStage.topic(sink, exchange, market, "trade"),
        )
        for index, (symbol, market) in enumerate(entries, first)
    ]


def ids_of(trade: Message) -> range:
    """Return the ids of a message of trades."""
    return range(trade.id, trade.id + min(trade.trades, MOST_TRADES))


class TickerStage(Stage, TickerCollector):
    """Takes tickers and trades of one exchange from frames and REST answers."""

    stream = "ticker"
    counted = (
        "trade_gaps",
        "trades_missing",
        "trades_filled",
        "trades_aggregated",
        "trades_lost",
        "audits",
        "trades_remembered",
        "volume_gaps",
        "volume_unexplained",
    )
    summed = ("tickers", "ticker_repeats", "trades", "trades_by_rest", "duplicates", "differing")

    def __init__(
        self,
        exchange: Exchange,
        entries: list[tuple[str, str]],
        sink: Sink,
        *,
        needed: Collection[str] = (),
    ) -> None:
        markets = ticker_markets(sink, exchange, entries)
        parser = exchange.parser(exchange.STREAM_DEPTH)
        TickerCollector.__init__(self, parser, sink, markets, contiguous=exchange.CONTIGUOUS_TRADES)
        Stage.__init__(self, exchange, entries, sink, needed)
        # symbols in the exchange's list of markets, empty = not read yet
        self.listed: frozenset[str] = frozenset()
        self._holes: dict[int, TradeHole] = {}
        self._audited_ns = [0] * len(markets)
        # indexes of markets that are suspended according to their tickers
        self._suspended: set[int] = set()
        # index -> exchange's time of the newest REST trade
        self._rest_ns: dict[int, int] = {}
        # index -> time until which the stream must bring the newest REST trade
        self._suspects: dict[int, int] = {}
        # index -> first id that a heartbeat has named and the stream has not brought
        self._promised: dict[int, int] = {}
        # connection -> when REST was asked whether it is mute
        self._proofs: dict[int, int] = {}
        # until then, older trades are asked for in aggregates
        self._aggregated_ns = 0
        # markets whose ids count up by one need no check of the volume
        self._volumes = [] if self.contiguous else [VolumeCheck() for _ in markets]

    @property
    def suspended_symbols(self) -> frozenset[str]:
        """The symbols of markets that are suspended according to their tickers."""
        return frozenset(self.statuses[index].symbol for index in self._suspended)

    @property
    def delistings(self) -> dict[str, int]:
        """Symbol -> day on which trading ends according to its ticker, such as 20261224."""
        return {
            self.statuses[one.index].symbol: one.delisting for one in self.markets if one.delisting
        }

    def resume(self, memory: JournalEnd, now_ns: int) -> None:
        """Continue where the earlier process ended; called before the first connection."""
        for market in self.markets:
            trades = memory.trades.get(market.market, ())
            for trade in trades:
                price, size = trade.values.tolist()
                count = min(trade.trades, MOST_TRADES)
                market.remember(trade.exchange_ns, price, size, trade.flags, trade.id, count)
            self.counts["trades_remembered"] += len(trades)
            if trades:
                hole = TradeHole("restart", memory.settled_ns(market.market) or market.trade_ns)
            elif market.market in memory.markets:
                hole = TradeHole("restart", memory.since_ns)
            else:
                continue
            ids = sorted(
                {id for trade in trades for id in ids_of(trade)} if self.contiguous else ()
            )
            if ids:
                missing = holes.missing(ids[0], ids[-1], ids)
                if missing is not None:
                    # the earlier process ended before it filled this hole
                    hole.first_id, hole.last_id = missing.first, missing.last
                    hole.ask_ns = now_ns + SETTLE_NS
                    self.counts["trade_gaps"] += 1
                    self.counts["trades_missing"] += missing.count
            self._holes[market.index] = hole

    # markets that are listed and delisted

    def new_entry(self, index: int, symbol: str, market: str) -> TickerMarket:
        return ticker_markets(self.sink, self.exchange, [(symbol, market)], index)[0]

    def on_added(self, index: int) -> None:
        place(self._audited_ns, index, 0)
        if not self.contiguous:
            place(self._volumes, index, VolumeCheck())

    def on_removed(self, index: int) -> None:
        self._suspended.discard(index)
        for known in (self._holes, self._rest_ns, self._suspects, self._promised):
            known.pop(index, None)

    # connections

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        market = self.markets[index]
        market.awaiting = True
        hole = self._holes.get(index)
        if hole is not None:
            # an open hole keeps its beginning and ends later
            hole.to_ns, hole.volume = 0, 0.0
        elif market.trade_ns:
            self._holes[index] = TradeHole("reconnect", market.trade_ns)

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        # the new connection sends the state again
        self._suspended.discard(index)
        hole = self._holes.get(index)
        if hole is not None:
            hole.again(now_ns + SETTLE_NS)

    # missing trades

    def on_missing_trades(
        self, market: TickerMarket, first: int, last: int, received_ns: int
    ) -> None:
        status = self.statuses[market.index]
        known_ids = market.ids.between(first, last)
        missing = holes.missing(first, last, known_ids)
        if missing is None:
            # REST has brought them, since a heartbeat named them
            return
        first, last = missing.first, missing.last
        # the newer of two connections may be ahead; the older one brings the trades in between
        overlap = len(status.live) > 1
        if not overlap:
            self._report_missing(status, missing, self.now_ns)
        known = self._holes.get(market.index)
        if known is not None and known.first_id:
            first, overlap = min(first, known.first_id), overlap and known.reason == "overlap"
        self._holes[market.index] = TradeHole(
            "overlap" if overlap else "gap",
            market.trade_ns,
            0,
            first,
            last,
            ask_ns=self.now_ns + (SETTLE_NS if overlap else SETTLE_NS // 4),
        )

    def on_heartbeat(self, symbol: str, trade_id: int) -> None:
        market = self.entry(symbol)
        if market is None or market.trade_id < 0 or not 0 < trade_id - market.trade_id < FAR_IDS:
            return
        # a trade that is on its way comes before the next heartbeat
        if self._promised.get(market.index) != market.trade_id + 1:
            self._promised[market.index] = market.trade_id + 1
        elif market.index not in self._holes:
            self.on_missing_trades(market, market.trade_id + 1, trade_id, 0)

    def _report_missing(self, status: Status, missing: Missing, now_ns: int) -> None:
        self.counts["trade_gaps"] += 1
        self.counts["trades_missing"] += missing.count
        self.mark("gap", status, expected=missing.first, found=missing.last + 1)
        self.change(
            status,
            status.state,
            now_ns,
            f"missing trades: {missing.count}",
            expected=missing.first,
            found=missing.last + 1,
            missing=missing.count,
        )

    def on_answer(self, request: Request, payload: bytes, now_ns: int) -> None:
        self.answered(request, now_ns)
        market = self.entry(request.symbols[0]) if request.symbols else None
        if request.purpose != "trades" or market is None:
            return
        hole = request.context if isinstance(request.context, TradeHole) else None
        if hole is not None and self._holes.get(market.index) is not hole:
            # the hole has grown since the request, and is requested again
            return
        try:
            wall_ns = self.wall_ns(now_ns)
            read = self.exchange.read_trades(request, payload, wall_ns)
            trades = [trade for trade in read if self._sound(trade, wall_ns)]
        except UNREADABLE as error:
            self.on_unreadable(request, error, now_ns)
            if hole is not None:
                hole.again(now_ns + RETRY_NS)
            return
        self._absent.pop(market.index, None)
        if hole is None:
            self._suspect(market, trades, now_ns)
            if self.contiguous or not self.exchange.JOINABLE_TRADES:
                return
            found = holes.audit(trades, market.ids, self.wall_ns(now_ns))
            if found.trades:
                self._fill(market, TradeHole("ids", found.trades[0].exchange_ns), found, now_ns)
            return
        if hole.aggregates is not None:
            self._take_aggregates(market, hole, trades, now_ns)
            return
        page = hole.take(request, trades, wall_ns)
        older = None
        if not hole.reached() and not self._full(hole):
            older = self.exchange.older_trades_request(page)
        if older is None:
            self._close(market, hole, now_ns)
        elif not (now_ns < self._aggregated_ns and self._ask_aggregates(hole, request.symbols[0])):
            self._ask(older, hole)

    def _ask_aggregates(self, hole: TradeHole, symbol: str, from_ns: int = 0) -> bool:
        """Ask for the trades of a hole in aggregates; return whether the exchange has any."""
        wanted = None
        if hole.first_id and hole.from_ns:
            wanted = self.exchange.aggregates_request(symbol, from_ns or hole.from_ns)
        if wanted is None:
            return False
        if hole.aggregates is None:
            hole.aggregates = []
        self._ask(wanted, hole)
        return True

    def _take_aggregates(
        self, market: TickerMarket, hole: TradeHole, trades: list[RestTrade], now_ns: int
    ) -> None:
        # single trades are asked for again after a while
        self._aggregated_ns = now_ns + AGGREGATED_NS
        from_ns = hole.take_aggregates(trades)
        if not from_ns or self._full(hole):
            self._close(market, hole, now_ns)
        else:
            self._ask_aggregates(hole, market.symbol.decode(), from_ns)

    def _full(self, hole: TradeHole) -> bool:
        kept = sum(len(answer) for one in self._holes.values() for answer in one.answers)
        kept += sum(len(one.aggregates or ()) for one in self._holes.values())
        return len(hole.answers) >= ANSWERS or kept >= KEPT_TRADES

    def _sound(self, trade: RestTrade, wall_ns: int) -> bool:
        # the same checks as for trades of the stream
        reason = ""
        if not 0 <= trade.trade_id < ID_LIMIT:
            reason = "id"
        elif not 0 < trade.price < LARGEST:
            reason = "price"
        elif not 0 < trade.size < LARGEST:
            reason = "size"
        elif trade.exchange_ns < wall_ns - PAST_NS:
            reason = "past"
        elif trade.exchange_ns > self.newest_ns(wall_ns):
            reason = "future"
        if reason:
            self.refuse(reason)
        return not reason

    def _close(self, market: TickerMarket, hole: TradeHole, now_ns: int) -> None:
        del self._holes[market.index]
        trades, tolerance = hole.trades(), 0.0
        if hole.volume:
            tolerance = VolumeCheck.tolerance(market.day_volume, market.traded)
        if self.contiguous:
            known = market.ids.between(hole.first_id, hole.last_id)
            found = holes.by_number(hole, trades, known, market.known())
        elif self.exchange.JOINABLE_TRADES:
            found = holes.by_id(hole, trades, market.ids, self.wall_ns(now_ns))
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
                self.log.warning("missing volume not found", market=market.market, volume=missing)
            else:
                missing = 0.0
            self._volumes[market.index].settle(missing)

    def _fill(self, market: TickerMarket, hole: TradeHole, found: Found, now_ns: int) -> None:
        filled = 0
        for trade in found.trades:
            if self._add(market, trade, now_ns):
                filled += trade.trades
                self.counts["trades_aggregated"] += trade.trades if trade.trades > 1 else 0
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
            self.wall_ns(now_ns),
            trade.trades,
        )

    def on_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Handle a request that was refused or failed: ask again later, or close the hole."""
        self.counts["refused_requests"] += 1
        self.answered(request, now_ns)
        hole = request.context if isinstance(request.context, TradeHole) else None
        market = self.entry(request.symbols[0]) if request.symbols else None
        if hole is None or market is None or self._holes.get(market.index) is not hole:
            return
        hole.refused += bool(hole.answers)
        given_up = hole.answers and (refusal.fatal or hole.refused >= REFUSALS)
        if given_up and hole.aggregates is None and self._ask_aggregates(hole, request.symbols[0]):
            return
        if refusal.fatal and hole.answers:
            self._close(market, hole, now_ns)
        elif refusal.fatal:
            # REST does not know the market
            self.absent(self.statuses[market.index], now_ns)
            hole.again(self._absent[market.index].until_ns)
        else:
            hole.again(now_ns + RETRY_NS)

    # time

    def on_timer(self, now_ns: int) -> None:
        """Run all watchdogs; called a few times a second."""
        self.now_ns = now_ns
        self.summary.flush()
        self._watch_connections(now_ns)
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
            if self._volumes and now_ns - market.heard_ns >= QUIET_NS:
                self._watch_volume(market, status, now_ns)
            if (
                self._is_audited(market)
                and self.may_ask(index, now_ns)
                and now_ns - max(self._audited_ns[index], status.subscribed_ns) > AUDIT_NS
            ):
                self._audited_ns[index] = now_ns
                self.counts["audits"] += 1
                self._ask(self.exchange.trades_request(status.symbol), None, Value.COMPARE)

    def _is_audited(self, market: TickerMarket) -> bool:
        return self.exchange.JOINABLE_TRADES and not self.contiguous and market.trades > 0

    def _watch_suspension(self, market: TickerMarket, status: Status, now_ns: int) -> None:
        # the lists of Upbit and Bithumb do not report suspensions
        if market.suspended:
            self._suspended.add(market.index)
            self.change(status, State.HALTED, now_ns, "suspended", change="halted")
        else:
            self._suspended.discard(market.index)
            self.change(status, State.SYNCED, now_ns, "resumed", change="resumed")

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
        self._holes[market.index] = TradeHole(
            "volume",
            check.proven_ns,
            market.trade_ns,
            volume=missing,
            ask_ns=now_ns + FRESH_NS,
        )

    def _watch_hole(
        self, market: TickerMarket, status: Status, hole: TradeHole, now_ns: int
    ) -> None:
        if hole.asked or not hole.ask_ns or now_ns < hole.ask_ns:
            return
        if hole.reason == "overlap":
            known = market.ids.between(hole.first_id, hole.last_id)
            missing = holes.missing(hole.first_id, hole.last_id, known)
            if missing is None:
                del self._holes[market.index]
                return
            hole.reason, hole.first_id, hole.last_id = "gap", missing.first, missing.last
            self._report_missing(status, missing, now_ns)
        if not hole.to_ns and not hole.first_id:
            if self.contiguous:
                # the id of the first trade after the reconnect shows whether trades are missing
                del self._holes[market.index]
                return
            if market.awaiting:
                # the hole ends with the stream's first trade, which has not come yet
                hole.ask_ns = now_ns + SETTLE_NS
                return
            hole.to_ns = market.resumed_ns
        hole.asked = True
        self._ask(self.exchange.trades_request(status.symbol), hole)

    def _ask(
        self, request: Request, context: TradeHole | None, value: Value = Value.REPAIR
    ) -> None:
        self.ask(replace(request, context=context), value)

    def _watch(self, market: TickerMarket, status: Status, now_ns: int) -> None:
        since_ns = max(status.subscribed_ns, status.since_ns if status.state == State.STALE else 0)
        if status.state in (State.SUBSCRIBED, State.STALE) and market.heard_ns >= since_ns:
            self.change(status, State.SYNCED, now_ns)
        elif status.symbol not in self.listed:
            self.watch_first_frame(status, market.heard_ns, now_ns)
        elif market.heard_ns < status.subscribed_ns and (
            now_ns - status.subscribed_ns > FIRST_FRAME_NS
            and status.state in (State.SUBSCRIBED, State.STALE)
        ):
            self.change(status, State.SYNCED, now_ns, "listed, and quiet so far")

    def _watch_connections(self, now_ns: int) -> None:
        """Ask REST whether a silent connection is mute."""
        loudest: dict[int, int] = {}
        for index, (market, status) in enumerate(zip(self.markets, self.statuses, strict=True)):
            for connection in status.live:
                known = loudest.get(connection)
                if known is None or market.heard_ns > self.markets[known].heard_ns:
                    loudest[connection] = index
        self._proofs = {one: at for one, at in self._proofs.items() if one in loudest}
        for connection, index in loudest.items():
            market, status = self.markets[index], self.statuses[index]
            heard_ns = max(market.heard_ns, status.subscribed_ns)
            since_ns = max(heard_ns, self._proofs.get(connection, 0))
            if now_ns - since_ns > MUTE_NS and not self._is_audited(market):
                self._proofs[connection] = now_ns
                self._ask(self.exchange.trades_request(status.symbol), None)
        for index, deadline_ns in list(self._suspects.items()):
            if now_ns > deadline_ns:
                del self._suspects[index]
                self._judge(self.markets[index], self.statuses[index], deadline_ns, now_ns)

    def _suspect(self, market: TickerMarket, trades: list[RestTrade], now_ns: int) -> None:
        """Give the stream a moment to bring the newest trade that REST has."""
        if not trades:
            return
        newest_ns = max(trade.exchange_ns for trade in trades)
        # without a streamed trade, the next REST list is compared with this one
        known_ns = max(market.trade_ns, self._rest_ns.get(market.index, 0)) or newest_ns
        self._rest_ns[market.index] = newest_ns
        if newest_ns - known_ns > NEWER_NS:
            self._suspects.setdefault(market.index, now_ns + SETTLE_NS)

    def _judge(self, market: TickerMarket, status: Status, deadline_ns: int, now_ns: int) -> None:
        if not status.live or market.heard_ns > deadline_ns - SETTLE_NS - MUTE_NS:
            return
        self.counts["stale"] += 1
        self.change(
            status, State.STALE, now_ns, "the stream did not bring the trades that REST has"
        )
        self.want_reconnect(status, f"{status.market} is mute")

    def counters(self) -> dict[str, int | float]:
        found = super().counters()
        refusals = self.refusals()
        found["trades_refused"] = sum(refusals.values())
        found.update((f"trades_refused_{reason}", n) for reason, n in refusals.items())
        found["tickers_refused"], found["id_restarts"] = self.tickers_refused, self.id_restarts
        found["volumes_proven"] = sum(check.offset is not None for check in self._volumes)
        found["volume_excess"] = sum(check.excess for check in self._volumes)
        return found
