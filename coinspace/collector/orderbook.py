"""The order book stage: whole books that replace each other, or local books with updates.

A local book goes through the phases of `sync.Phase`: updates are kept until a snapshot comes, the
snapshot is loaded, the kept updates are applied, then the live ones. The market's `Sequence` judges
which updates and snapshots fit. After an update that does not fit, only this market is rebuilt.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.message import REPEAT, REST
from coinspace._ext.sink import Sink
from coinspace.clock import SECOND_NS
from coinspace.collector.compare import (
    COMPARE_AGAIN_NS,
    GRACE_NS,
    SILENT_NS,
    ComparedStage,
    Comparison,
)
from coinspace.collector.demand import Value, budget
from coinspace.collector.stage import Stage, State, Status, place
from coinspace.collector.sync import (
    PHASES,
    QUARANTINE_AFTER,
    Condition,
    Phase,
    Sync,
    Update,
    Verdict,
)
from coinspace.errors import UNREADABLE
from coinspace.exchanges.exchange import Exchange, Refusal, Request, RestBook

# levels kept per side of a local book, published or not
BOOK_CAPACITY = 16384
# a subscribed market that is quiet for this long gets a snapshot without an update
QUIET_START_NS = SECOND_NS
# parts of a minute's budget for the first snapshots of all markets, and of the markets that the
# index needs: the other first snapshots are small and are made deeper later
FIRST_SHARE = 0.5
NEEDED_SHARE = 0.2
# a book that crosses again within this time waits before its next snapshot
CROSSED_NS = 30 * SECOND_NS
CROSSED_WAIT_NS = 5 * SECOND_NS
# a book is rebuilt at most once in this time because its links disagree
DISAGREED_NS = 30 * SECOND_NS
# longest time for which updates are ignored because the book already has their ids
PATIENCE_LIMIT_NS = 300 * SECOND_NS


# shortest time between two requests for the whole book of one market, of several MB
RESUBSCRIBE_NS = 10 * SECOND_NS
# a book without ids is renewed this often, so that a lost update does not stay for ever …
RENEW_NS = 3600 * SECOND_NS
# … and because of levels that cannot be read at most this often
FLAWED_NS = 300 * SECOND_NS

# levels of a snapshot per published level: when the price leaves the range of the snapshot, the
# book is unknown until the next snapshot
ROOM = 10


def snapshot_levels(exchange: Exchange, depth: int, wanted: int = 0) -> int:
    """Return the number of levels to request for a snapshot.

    Args: wanted: the number in the settings, 0 = enough for the price to move.
    """
    steps = exchange.SNAPSHOT_STEPS
    return wanted or next((step for step in steps if step >= ROOM * depth), exchange.STREAM_DEPTH)


def book_markets(
    sink: Sink, exchange: Exchange, depth: int, entries: Iterable[tuple[str, str]], first: int = 0
) -> list[BookMarket]:
    """Return the markets of (symbol, market) pairs. Args: first: index of the first one."""
    capacity = BOOK_CAPACITY if exchange.UPDATES else 0
    return [
        BookMarket(
            index, symbol, market, OrderBookStage.topic(sink, exchange, market), depth, capacity
        )
        for index, (symbol, market) in enumerate(entries, first)
    ]


class OrderBookStage(ComparedStage):
    """Makes the books of one exchange from frames and REST answers."""

    stream = "orderbook"
    counted = (
        "gaps",
        "resyncs",
        "snapshots",
        "refreshes",
        "ranges_left",
        "stale_snapshots",
        "buffered",
        "buffer_dropped",
        "deepened",
        "truncated_updates",
        "resubscribed",
        "flawed",
    )
    summed = ("applied", "repeats", "outdated", "crossed", "overlap_skipped", "corrected")
    kept = ("published",)

    def __init__(
        self,
        exchange: Exchange,
        entries: list[tuple[str, str]],
        sink: Sink,
        *,
        depth: int,
        snapshot_depth: int = 0,
        stale_after_s: float = 20.0,
        compare_interval_s: float = 60.0,
        needed: Collection[str] = (),
        first: Collection[str] = (),
    ) -> None:
        updates = exchange.UPDATES
        depth = min(depth, exchange.STREAM_DEPTH)
        # room for the largest update, even when snapshots are shallow
        parser, kept = (exchange.parser(exchange.STREAM_DEPTH) for _ in range(2))
        self._depth = depth
        markets = book_markets(sink, exchange, depth, entries)
        BookCollector.__init__(
            self,
            parser,
            sink,
            markets,
            updates=updates,
            kept=kept,
            in_stream=exchange.SNAPSHOTS_IN_STREAM,
        )
        Stage.__init__(self, exchange, entries, sink, needed, first)
        self.comparison = Comparison(self)
        self.snapshot_depth = snapshot_levels(exchange, depth, snapshot_depth)
        count = sum(market in self.needed for _, market in entries)
        self._first_levels = self._affordable(len(entries), FIRST_SHARE)
        self._needed_levels = max(self._first_levels, self._affordable(count, NEEDED_SHARE))
        self.stale_ns = int(stale_after_s * SECOND_NS)
        self.compare_ns = int(compare_interval_s * SECOND_NS)
        self.syncs = [Sync() for _ in markets]
        self._compared_ns = [0] * len(markets)
        self._retried_ns = [0] * len(markets)
        # time of the proof with which a quiet book was published again
        self._repeated_ns = [0] * len(markets)
        self._all_compared_ns = 0
        self._recovery_ns = 0
        # connections with a frame that cannot be read and may be of any market
        self._unreadable: set[int] = set()

    def _affordable(self, markets: int, share: float) -> int:
        # the deepest snapshots that this part of the budget allows for so many markets
        steps = [levels for levels in self.exchange.SNAPSHOT_STEPS if levels < self.snapshot_depth]
        for levels in (self.snapshot_depth, *reversed(steps)):
            request = self.exchange.snapshot_request("", levels)
            limit = budget(self.exchange, self.stream)[request.group]
            if markets * request.weight <= share * limit.count * 60 / limit.seconds:
                return levels
        return steps[0] if steps else self.snapshot_depth

    def announce(self, now_ns: int) -> None:
        """Publish each market's state and book: an earlier process has published up to now."""
        super().announce(now_ns)
        wall_ns = self.wall_ns(now_ns)
        for market in self.markets:
            if market.usable and market.phase != Phase.LEFT and market.applied:
                self.publish_again(market, 0, wall_ns - (now_ns - market.heard_ns))

    # local books

    def on_subscribed(self, status: Status, now_ns: int) -> None:
        if self.updates:
            self.syncs[self._positions[status.symbol]].not_before_ns = 0

    def on_unsubscribed(self, status: Status, now_ns: int) -> None:
        index = self._positions[status.symbol]
        self._forget(self.markets[index])
        self.demand.remove(self.exchange.snapshot_request(status.symbol, self.snapshot_depth))

    def new_entry(self, index: int, symbol: str, market: str) -> BookMarket:
        entries = [(symbol, market)]
        return book_markets(self.sink, self.exchange, self._depth, entries, index)[0]

    def on_added(self, index: int) -> None:
        place(self.syncs, index, Sync())
        for times in (self._compared_ns, self._retried_ns, self._repeated_ns):
            place(times, index, 0)

    def on_removed(self, index: int) -> None:
        self.comparison.remove(index)

    def on_update(
        self,
        market: BookMarket,
        verdict: int,
        frame: bytes,
        first: int,
        final: int,
        received_ns: int,
        connection: int,
    ) -> None:
        if verdict == Verdict.CUT:
            self._truncated(market, first, final)
            return
        if verdict == Verdict.RESTARTED:
            self._restarted(market)
            return
        if verdict == Verdict.GAP:
            expected = market.update_id + 1
            self.counts["gaps"] += 1
            self.mark("gap", self.statuses[market.index], expected=expected, found=first)
            self._restart(market, self.now_ns, "gap", expected=expected, found=first)
        elif market.phase == Phase.EMPTY:
            self._begin(market, self.now_ns)
        update = Update(first, final, received_ns, frame)
        self._keep(market, update, connection == market.primary)

    def _move(self, market: BookMarket, phase: Phase) -> None:
        if market.phase != phase:
            assert phase in PHASES[Phase(market.phase)], (
                f"{Phase(market.phase).name} to {phase.name}"
            )
            market.phase = phase

    def _forget(self, market: BookMarket) -> None:
        sync = self.syncs[market.index]
        sync.early = None
        sync.clear()
        market.forget()
        self.comparison.forget(market)

    def _begin(self, market: BookMarket, now_ns: int) -> None:
        self._move(market, Phase.KEEPING)
        status = self.statuses[market.index]
        if status.state != State.QUARANTINED:
            self.change(status, State.BUFFERING, now_ns, status.reason)
        self._request(market, now_ns)

    def _request(self, market: BookMarket, now_ns: int) -> None:
        sync = self.syncs[market.index]
        if sync.requested or now_ns < sync.not_before_ns:
            return
        status = self.statuses[market.index]
        if market.usable:
            value = Value.REPAIR if market.phase == Phase.LEFT else Value.DEEPEN
        elif sync.loaded_ns:
            value = Value.REPAIR
        else:
            value = Value.FIRST if market.heard_ns >= status.subscribed_ns else Value.QUIET
        levels = self._needed_levels if status.market in self.needed else self._first_levels
        if market.usable:
            levels = self.snapshot_depth
        self.ask(self.exchange.snapshot_request(status.symbol, levels), value)

    def on_asked(self, request: Request) -> None:
        if request.purpose == "compare":
            self.comparison.asked(request)
        elif request.purpose == "snapshot" and self.updates:
            market = self.entry(request.symbols[0])
            if market is None:
                return
            self.syncs[market.index].requested = True
            # while a snapshot is requested, updates are kept, also beside a book in use
            if market.phase in (Phase.EMPTY, Phase.USED):
                self._move(market, Phase.REFRESHING if market.usable else Phase.KEEPING)

    def _keep(self, market: BookMarket, update: Update, believed: bool) -> None:
        sync, sequence = self.syncs[market.index], market.sequence
        verdict = sequence.keep(update.first, update.final, believed, self.now_ns)
        if verdict in (Verdict.GAP, Verdict.RESTARTED):
            # no snapshot fits both the older updates and this one
            sync.clear()
        if verdict == Verdict.RESTARTED:
            # all ids are below the earlier ones: they have started again
            self.counts["suspected"] += 1
        if verdict != Verdict.IGNORE:
            dropped = sync.add(update)
            if dropped:
                sequence.dropped(sync.buffer[0].first)
                self.counts["buffer_dropped"] += dropped
        self.counts["buffered"] += 1
        if market.usable:
            # `on_update` finds and counts the gap of a book in use
            return
        if verdict == Verdict.GAP:
            self.counts["gaps"] += 1
            self.mark("gap", self.statuses[market.index], found=update.first)
        # a market with updates overtakes markets without
        self._request(market, self.now_ns)

    def _restart(self, market: BookMarket, now_ns: int, reason: str, **details: Any) -> None:
        sync = self.syncs[market.index]
        self.counts["resyncs"] += 1
        sync.lost_ns = now_ns
        sync.announce_ns = 0
        self._forget(market)
        self._move(market, Phase.KEEPING)
        self.change(self.statuses[market.index], State.BUFFERING, now_ns, reason, **details)
        self._request(market, now_ns)

    def _truncated(self, market: BookMarket, first: int, final: int) -> None:
        self.counts["gaps"] += 1
        self.counts["truncated_updates"] += 1
        self.mark("gap", self.statuses[market.index], expected=first, found=final + 1)
        self._restart(market, self.now_ns, "update larger than expected")
        market.sequence.floor = final

    def _restarted(self, market: BookMarket) -> None:
        self.counts["suspected"] += 1
        patience_ns = min(2 * market.sequence.patience_ns, PATIENCE_LIMIT_NS)
        self._restart(market, self.now_ns, "update ids have started again")
        market.sequence.patience_ns = patience_ns
        market.sequence.trust()

    def suspect(self, market: BookMarket, now_ns: int, reason: str) -> None:
        sync, status = self.syncs[market.index], self.statuses[market.index]
        silent = market.heard_ns <= sync.drifted_ns
        if self.updates and not (sync.drifted_ns and silent):
            # only this book is rebuilt
            sync.drifted_ns = now_ns
            self._lose(market, now_ns, reason)
            market.sequence.trust()
            return
        # a new connection brings a whole book, or the updates that have stopped
        sync.drifted_ns = 0
        self._forget(market)
        market.sequence.trust()
        self.change(status, State.STALE, now_ns, reason)
        self.want_reconnect(status, f"{status.market}: {reason}")

    def on_condition(self, market: BookMarket, condition: int, received_ns: int) -> None:
        if condition == Condition.WHOLE and self.in_stream:
            self._whole(market, self.now_ns)
        elif condition == Condition.WHOLE:
            self.change(self.statuses[market.index], State.SYNCED, self.now_ns)
        elif condition == Condition.CROSSED:
            self._crossed(market)
        elif condition == Condition.FLAWED:
            self._flawed(market)
        elif condition == Condition.DISAGREED:
            self._disagreed(market)
        else:
            self._left(market)

    # books whose snapshot is in the stream

    def _whole(self, market: BookMarket, now_ns: int) -> None:
        sync = self.syncs[market.index]
        refresh = bool(sync.loaded_ns and not sync.lost_ns)
        self.counts["refreshes" if refresh else "snapshots"] += 1
        sync.loaded_ns, sync.suspected = now_ns, ""
        sync.fresh_span = market.book.span if market.book is not None else math.inf
        recovery: dict[str, Any] = {"recovery_ns": now_ns - sync.lost_ns} if sync.lost_ns else {}
        self._recovery_ns = recovery.get("recovery_ns", self._recovery_ns)
        sync.lost_ns = 0
        self.change(self.statuses[market.index], State.SYNCED, now_ns, **recovery)

    def _lose(self, market: BookMarket, now_ns: int, reason: str) -> None:
        """Drop a book and get it again, from the stream or by REST."""
        if not self.in_stream:
            self._restart(market, now_ns, reason)
            return
        self.counts["resyncs"] += 1
        self.syncs[market.index].lost_ns = now_ns
        self._forget(market)
        self.change(self.statuses[market.index], State.BUFFERING, now_ns, reason)
        self._resubscribe(market, now_ns)

    def _resubscribe(self, market: BookMarket, now_ns: int) -> None:
        sync, status = self.syncs[market.index], self.statuses[market.index]
        if now_ns >= sync.not_before_ns:
            sync.not_before_ns = now_ns + RESUBSCRIBE_NS
            self.counts["resubscribed"] += 1
            self.want_frames(status, self.exchange.resubscribe_frames(status.symbol))

    def _suspected(self, market: BookMarket, reason: str) -> None:
        # an update is lost, and no id would ever show it
        sync = self.syncs[market.index]
        if market.usable:
            sync.suspected = reason
            if self.now_ns >= sync.not_before_ns:
                self._lose(market, self.now_ns, reason)

    def _flawed(self, market: BookMarket) -> None:
        # the exchange may send such a level for hours: then the book is used without it
        sync = self.syncs[market.index]
        self.counts["flawed"] += 1
        if not sync.flawed_ns or self.now_ns - sync.flawed_ns > FLAWED_NS:
            sync.flawed_ns = self.now_ns
            self._suspected(market, "a level cannot be read")

    def _watch_stream(self, market: BookMarket, status: Status, sync: Sync, now_ns: int) -> None:
        if not market.usable:
            # a market that has never sent anything may be unknown
            if market.heard_ns >= status.subscribed_ns:
                self._resubscribe(market, now_ns)
            return
        span = market.book.span if market.book is not None else math.inf
        if sync.suspected and now_ns >= sync.not_before_ns:
            self._lose(market, now_ns, sync.suspected)
        elif (
            market.phase == Phase.LEFT
            or sync.narrow(span, now_ns)
            or now_ns - sync.loaded_ns > RENEW_NS
        ):
            # the book stays in use until the new one comes
            self._resubscribe(market, now_ns)

    def on_successor(self, status: Status, now_ns: int) -> None:
        if self.in_stream:
            self._forget(self.entry_of(status))
            self.change(status, State.BUFFERING, now_ns, "connection lost")

    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None:
        super().on_malformed(frame, received_ns, connection)
        if not self.in_stream:
            return
        market = self.entry(self.exchange.label(frame).symbol)
        if market is None:
            # of any market: a small frame must not cost as much as all of them
            self._unreadable.add(connection)
        elif connection in self.statuses[market.index].live:
            self._suspected(market, "a frame cannot be read")

    def _suspect_all(self) -> None:
        """Suspect the books of connections that brought a frame of an unknown market."""
        for market, status in zip(self.markets, self.statuses, strict=True):
            if not self._unreadable.isdisjoint(status.live):
                self._suspected(market, "a frame cannot be read")
        self._unreadable.clear()

    def _crossed(self, market: BookMarket) -> None:
        if self.updates:
            sync = self.syncs[market.index]
            if sync.crossed_ns and self.now_ns - sync.crossed_ns < CROSSED_NS:
                # the exchange's own data is crossed: more snapshots would not help
                sync.not_before_ns = self.now_ns + CROSSED_WAIT_NS
            sync.crossed_ns = self.now_ns
            self._lose(market, self.now_ns, "crossed")
            return
        market.forget()
        self.change(self.statuses[market.index], State.QUARANTINED, self.now_ns, "crossed")

    def _disagreed(self, market: BookMarket) -> None:
        # which link is right is not known: the book starts again from a snapshot, but not all the
        # time, as one link may be wrong for long
        sync = self.syncs[market.index]
        if not sync.disagreed_ns or self.now_ns - sync.disagreed_ns > DISAGREED_NS:
            sync.disagreed_ns = self.now_ns
            self._restart(market, self.now_ns, "two links disagree")

    def _left(self, market: BookMarket) -> None:
        if market.phase != Phase.LEFT:
            self.counts["ranges_left"] += 1
            status = self.statuses[market.index]
            self.change(status, State.STALE, self.now_ns, "price left the known range")
        # updates are kept for a snapshot that covers the price again
        self._move(market, Phase.LEFT)
        if self.in_stream:
            self._resubscribe(market, self.now_ns)
        else:
            self._request(market, self.now_ns)

    def _on_snapshot(
        self, market: BookMarket, request: Request, payload: bytes, now_ns: int
    ) -> None:
        sync, status = self.syncs[market.index], self.statuses[market.index]
        sync.requested = False
        if not status.live or not self.updates:
            return
        last = self.snapshot_id(payload)
        if last == 0:
            self.counts["unreadable_answers"] += 1
            self._snapshot_failed(market, now_ns, "snapshot cannot be read")
            return
        refresh, reached, before = market.usable, market.update_id, sync.levels
        left = market.phase == Phase.LEFT
        verdict = market.sequence.snapshot(last, now_ns, sync.early is None and not left)
        if verdict == Verdict.WAIT:
            sync.early, sync.early_ns = (request, payload), now_ns
            sync.requested = True
        elif verdict == Verdict.IGNORE:
            self._snapshot_failed(market, now_ns, "snapshot older than the book")
        elif verdict != Verdict.APPLY:
            self._snapshot_too_old(market, verdict, now_ns)
        else:
            levels = request.context if isinstance(request.context, int) else self.snapshot_depth
            self.load_snapshot(market, payload, levels)
            self._loaded(market, last, levels, now_ns, refresh=refresh, left=left)
            applied = market.applied
            kept = list(sync.buffer)
            sync.clear()
            for update in kept:
                if update.final > last and market.usable:
                    quiet = update.final <= reached
                    self.apply_buffered(market, update.frame, update.received_ns, quiet)
            if market.book is not None:
                sync.fresh_span = market.book.span
            status.confirmed_ns = now_ns
            if market.applied == applied and (not refresh or levels > before):
                sync.announce_ns = now_ns + QUIET_START_NS

    def _loaded(
        self,
        market: BookMarket,
        last: int,
        levels: int,
        now_ns: int,
        *,
        refresh: bool,
        left: bool,
    ) -> None:
        sync, status = self.syncs[market.index], self.statuses[market.index]
        self.counts["refreshes" if refresh else "snapshots"] += 1
        self.counts["deepened"] += refresh and levels > sync.levels
        sync.early = None
        sync.failures = 0
        sync.loaded_ns = now_ns
        sync.levels = levels
        if not refresh:
            recovery: dict[str, Any] = (
                {"recovery_ns": now_ns - sync.lost_ns} if sync.lost_ns else {}
            )
            sync.lost_ns = 0
            self._recovery_ns = recovery.get("recovery_ns", self._recovery_ns)
            self.change(status, State.SYNCED, now_ns, **recovery)
        elif left:
            self.change(status, State.SYNCED, now_ns)

    def _snapshot_too_old(self, market: BookMarket, verdict: int, now_ns: int) -> None:
        self.counts["stale_snapshots"] += 1
        if verdict == Verdict.RESTARTED:
            # now the ids of the stream are suspected, not REST
            self.counts["suspected"] += 1
            self.syncs[market.index].clear()
        self._snapshot_failed(market, now_ns, "snapshot older than the updates")

    def _snapshot_failed(self, market: BookMarket, now_ns: int, reason: str) -> None:
        sync = self.syncs[market.index]
        sync.failed(now_ns)
        if sync.failures >= QUARANTINE_AFTER and not market.usable:
            self.change(self.statuses[market.index], State.QUARANTINED, now_ns, reason)

    # answers

    def on_answer(self, request: Request, payload: bytes, now_ns: int) -> None:
        self.answered(request, now_ns)
        if request.purpose == "snapshot":
            for symbol in request.symbols:
                market = self.entry(symbol)
                if market is not None:
                    self._on_snapshot(market, request, payload, now_ns)
        elif request.purpose == "compare":
            try:
                books = self.exchange.read_books(request, payload)
            except UNREADABLE as error:
                self.on_unreadable(request, error, now_ns)
            else:
                self.on_books(request, books, now_ns)

    def on_books(self, request: Request, books: list[RestBook], now_ns: int) -> None:
        """Take the books of a comparison, which another thread has read."""
        self.answered(request, now_ns)
        for book in books:
            market = self.entry(book.symbol)
            if market is not None:
                self._absent.pop(market.index, None)
                self.comparison.take(market, book, now_ns)

    def on_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        self.counts["refused_requests"] += 1
        self.answered(request, now_ns)
        if request.purpose == "compare":
            self.comparison.refused(request, refusal, now_ns)
        if request.purpose != "snapshot":
            return
        for status in self.of(request.symbols):
            market = self.markets[self._positions[status.symbol]]
            sync = self.syncs[market.index]
            sync.failed(now_ns)
            if refusal.fatal:
                self.absent(status, now_ns)
                sync.not_before_ns = self._absent[market.index].until_ns
                self.change(status, State.QUARANTINED, now_ns, refusal.text)

    # time

    def on_timer(self, now_ns: int) -> None:
        """Run all watchdogs; called a few times a second."""
        self.now_ns = now_ns
        self.summary.flush()
        if self._unreadable:
            self._suspect_all()
        silent: list[str] = []
        everything = now_ns - self._all_compared_ns > self.compare_ns
        proofs = self._proofs()
        for market, status, sync in zip(self.markets, self.statuses, self.syncs, strict=True):
            if not status.live:
                continue
            if self.in_stream:
                self._watch_stream(market, status, sync, now_ns)
            elif self.updates:
                self._watch_sync(market, status, sync, now_ns)
            self.watch_first_frame(status, market.heard_ns, now_ns)
            self._watch_age(market, status, max(proofs[link] for link in status.live), now_ns)
            if self.exchange.QUIET_MARKETS and status.state == State.SYNCED and market.usable:
                self._repeat(market, status, now_ns)
            quiet = now_ns - max(market.heard_ns, status.subscribed_ns) > SILENT_NS
            due = now_ns - self._compared_ns[market.index] > COMPARE_AGAIN_NS
            if (
                market.usable
                and ((quiet and due) or everything)
                and self.may_ask(market.index, now_ns)
            ):
                self._compared_ns[market.index] = now_ns
                silent.append(status.symbol)
        if everything:
            self._all_compared_ns = now_ns
        if silent:
            self.comparison.ask(silent)
        self.comparison.on_timer(now_ns)

    def _proofs(self) -> dict[int, int]:
        # connection -> last proof that it delivers: a frame, or a book that REST confirms
        proofs: dict[int, int] = {}
        for market, status in zip(self.markets, self.statuses, strict=True):
            known_ns = max(market.heard_ns, status.confirmed_ns, status.subscribed_ns)
            for link in status.live:
                proofs[link] = max(proofs.get(link, 0), known_ns)
        if self.exchange.QUIET_MARKETS:
            for link in proofs:
                proofs[link] = max(proofs[link], self.proven_ns.get(link, 0))
        return proofs

    def _repeat(self, market: BookMarket, status: Status, now_ns: int) -> None:
        """Publish a quiet book again when its connection has answered a ping since."""
        proven_ns = max(self.proven_ns.get(link, 0) for link in status.live)
        last_ns = max(market.heard_ns, self._repeated_ns[market.index])
        if proven_ns - last_ns > SILENT_NS and market.applied and market.phase != Phase.LEFT:
            self._repeated_ns[market.index] = proven_ns
            self.publish_again(market, REPEAT, self.wall_ns(now_ns) - (now_ns - proven_ns))

    def _watch_sync(self, market: BookMarket, status: Status, sync: Sync, now_ns: int) -> None:
        if market.usable:
            if sync.announce_ns and now_ns >= sync.announce_ns:
                sync.announce_ns = 0
                if market.heard_ns < sync.loaded_ns:
                    # no update since the snapshot: the snapshot is the book
                    self.publish_book(market, REST, self.wall_ns(now_ns))
            if sync.early is not None and (
                self.snapshot_id(sync.early[1]) <= market.update_id
                or now_ns - sync.early_ns > GRACE_NS
            ):
                self._on_snapshot(market, *sync.early, now_ns)
            span = market.book.span if market.book is not None else math.inf
            shallow = sync.levels < self.snapshot_depth and span < math.inf
            if shallow or market.phase == Phase.LEFT or sync.narrow(span, now_ns):
                self._request(market, now_ns)
        elif market.phase == Phase.KEEPING:
            self._request(market, now_ns)
        elif now_ns - status.subscribed_ns > QUIET_START_NS:
            self._begin(market, now_ns)

    def _watch_age(self, market: BookMarket, status: Status, proof_ns: int, now_ns: int) -> None:
        # one silent market is normal; silence of all markets of a connection is a fault
        known_ns = max(proof_ns, status.subscribed_ns)
        if status.state == State.SYNCED and now_ns - known_ns > self.stale_ns:
            self.counts["stale"] += 1
            self.change(
                status,
                State.STALE,
                now_ns,
                f"no frame and no REST answer for {self.stale_ns / 1e9:g} s",
            )
            self.want_reconnect(status, f"{status.market} is stale")
        elif status.state == State.STALE and market.usable and now_ns - known_ns < SILENT_NS:
            if market.phase == Phase.LEFT and market.n_bids and market.n_asks:
                # the price has come back before the snapshot came
                self._move(market, Phase.REFRESHING)
            if market.phase != Phase.LEFT:
                self.change(status, State.SYNCED, now_ns)
        elif (
            not (self.updates or market.usable)
            and market.frames
            and status.state in (State.STALE, State.QUARANTINED)
            and now_ns - max(market.heard_ns, status.since_ns) > self.stale_ns
            and now_ns - self._retried_ns[market.index] > self.compare_ns
        ):
            # the first frame of a new connection is the whole book
            self._retried_ns[market.index] = now_ns
            self.want_reconnect(status, f"{status.market} is {status.state} and silent")

    def counters(self) -> dict[str, int | float]:
        found = super().counters()
        found["early_updates"] = self.early
        found["bad_ids"], found["bad_times"] = self.bad_ids, self.bad_times
        found["bad_tops"] = self.bad_tops
        found["books_published"] = self.total("published")
        found["recovery_ms"] = self._recovery_ns / 1e6
        return found
