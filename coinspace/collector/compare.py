"""Comparison of books with the exchange's REST books, to find books that have drifted.

A REST book is nearly always older than the newest book of a busy market. All books that are
published while a request waits are therefore kept, and the REST book is compared with the one of
the same version. A REST book that is ahead of the stream waits until the stream has reached it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.message import REPEAT, REST
from coinspace.clock import SECOND_NS
from coinspace.collector.demand import Value
from coinspace.collector.stage import Stage, State
from coinspace.collector.sync import Phase
from coinspace.exchanges.exchange import Refusal, Request, RestBook

# a market that is silent for this long is compared with REST, all such markets in one call
SILENT_NS = 4 * SECOND_NS
# shortest time between two comparisons of a silent market
COMPARE_AGAIN_NS = 5 * SECOND_NS
# time for the stream to catch up when REST is ahead or differs
GRACE_NS = 3 * SECOND_NS
# longest wait for an answer
ANSWER_NS = 15 * SECOND_NS
# books kept per market while a request waits
HISTORY = 256
# levels per side of a kept book
COMPARED_LEVELS = 100
# the best price of a moving market may differ by this share between two moments
NEAR = 0.001
# a book is suspected after this many answers in a row, over this time, that are behind it
SUSPECT_AFTER = 3
SUSPECT_NS = 10 * SECOND_NS


class Version(NamedTuple):
    """A book as it was published. bids, asks: float64[2, n] as in `BookMarket.top`."""

    version: int
    bids: NDArray[np.float64]
    asks: NDArray[np.float64]

    def agrees(self, book: RestBook) -> bool:
        """Return whether REST has the same levels, down to the end of the shorter side."""
        for kept, by_rest in zip((self.bids, self.asks), (book.bids, book.asks), strict=True):
            n = min(kept.shape[1], len(by_rest))
            other = np.array(by_rest[:n], dtype=np.float64).reshape(n, 2).T
            if not np.array_equal(kept[:, :n], other):
                return False
        return True


def _within(books: Iterable[Version], book: RestBook) -> bool:
    """Return whether the best prices of REST lie between those of the books, or near them."""
    for theirs, side in ((book.bids, "bids"), (book.asks, "asks")):
        best = [float(getattr(one, side)[0, 0]) for one in books if getattr(one, side).shape[1]]
        if (
            not theirs
            or not best
            or not (min(best) * (1 - NEAR) <= theirs[0][0] <= max(best) * (1 + NEAR))
        ):
            return False
    return True


class ComparedStage(Stage, BookCollector):
    """A stage whose books are compared."""

    def suspect(self, market: BookMarket, now_ns: int, reason: str) -> None:
        """Drop a book that REST contradicts."""
        raise NotImplementedError


class Comparison:
    """Requests books by REST, compares them with the books of a stage and reports drifted ones."""

    def __init__(self, stage: ComparedStage) -> None:
        self._stage = stage
        # suspected books: index -> (the REST book, time until which the stream must have it)
        self._suspects: dict[int, tuple[RestBook, int]] = {}
        # requested books: index -> (time of the request, books published since)
        self._asked: dict[int, tuple[int, deque[Version]]] = {}
        # called with (market, received_ns) for each published book
        self._on_book: Callable[[BookMarket, int], None] | None = None
        # index -> (answers in a row that were older than the book at the request, since when)
        self._behind: dict[int, tuple[int, int]] = {}
        names = ("compares", "unmatched", "confirmed", "doubts", "drifts", "suspected")
        stage.counts.update(dict.fromkeys(names, 0))

    def watch(self, on_book: Callable[[BookMarket, int], None]) -> None:
        self._on_book = on_book
        self._watch_books()

    def forget(self, market: BookMarket) -> None:
        """Stop suspecting a book that was dropped."""
        self._suspects.pop(market.index, None)

    def remove(self, index: int) -> None:
        """Forget a market that is not collected any more."""
        for known in (self._suspects, self._asked, self._behind):
            known.pop(index, None)
        self._watch_books()

    def on_timer(self, now_ns: int) -> None:
        """Forget requests without an answer and judge suspected books."""
        if self._asked:
            self._forget_asked(now_ns)
        if self._suspects:
            self._judge_suspects(now_ns)

    def ask(self, symbols: list[str]) -> None:
        # a market that was refused before could make REST refuse the whole call
        known = [symbol for symbol in symbols if not self._stage.is_absent(symbol)]
        alone = [symbol for symbol in symbols if self._stage.is_absent(symbol)]
        for part in ([known] if known else []) + [[symbol] for symbol in alone]:
            for request in self._stage.exchange.compare_requests(part):
                self._stage.ask(request, Value.COMPARE)

    def asked(self, request: Request) -> None:
        """Keep all books that are published until the answer comes."""
        for symbol in request.symbols:
            market = self._stage.entry(symbol)
            if market is not None:
                books: deque[Version] = deque(maxlen=HISTORY)
                self._remember(market, books)
                self._asked[market.index] = (self._stage.now_ns, books)
        self._watch_books()

    def refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Find the market for which a comparison was refused."""
        if not refusal.fatal:
            # the cause passes, and comparisons are repeated anyway
            return
        symbols = request.symbols
        if len(symbols) == 1:
            for status in self._stage.of(symbols):
                self._stage.absent(status, now_ns)
            return
        # one bad market fails the whole call: halving the call finds it
        middle = len(symbols) // 2
        for part in (symbols[:middle], symbols[middle:]):
            for half in self._stage.exchange.compare_requests(part):
                self._stage.ask(half, Value.COMPARE)

    def _forget_asked(self, now_ns: int) -> None:
        for index, (asked_ns, _) in list(self._asked.items()):
            if now_ns - asked_ns > ANSWER_NS:
                del self._asked[index]
        self._watch_books()

    def _version(self, market: BookMarket) -> int:
        if market.update_id or self._stage.updates:
            return market.update_id
        return market.exchange_ns // 1_000_000

    def _watch_books(self) -> None:
        self._stage.watcher = self._on_published if self._asked or self._on_book else None

    def _on_published(self, market: BookMarket, received_ns: int) -> None:
        if self._on_book is not None:
            self._on_book(market, received_ns)
        asked = self._asked.get(market.index)
        if asked is None:
            return
        self._remember(market, asked[1])
        suspect = self._suspects.get(market.index)
        if suspect is not None and suspect[0].version == asked[1][-1].version:
            # the stream has reached the REST book
            del self._suspects[market.index]
            self._compare_with(market, suspect[0], self._stage.now_ns)

    def _remember(self, market: BookMarket, books: deque[Version]) -> None:
        bids, asks = market.top()
        n = COMPARED_LEVELS
        books.append(Version(self._version(market), bids[:, :n].copy(), asks[:, :n].copy()))

    def take(self, market: BookMarket, book: RestBook, now_ns: int) -> None:
        self._stage.counts["compares"] += 1
        if not market.usable:
            return
        if self._stage.in_stream:
            self._compare_best(market, book, now_ns)
            return
        if book.version <= self._version(market):
            self._compare_with(market, book, now_ns)
        elif market.index not in self._suspects:
            # REST may be a moment ahead of the stream
            self._stage.counts["doubts"] += 1
            self._suspects[market.index] = (book, now_ns + GRACE_NS)

    def _compare_with(self, market: BookMarket, book: RestBook, now_ns: int) -> None:
        _, books = self._asked.pop(market.index, (0, deque()))
        self._watch_books()
        same = [one for one in books if one.version == book.version]
        if not same and book.version == self._version(market):
            self._remember(market, books)
            same = [books[-1]]
        if not same:
            # the version of REST lies between two updates or before the first kept book
            self._stage.counts["unmatched"] += 1
            self._judge_unmatched(market, book, books, now_ns)
        elif any(one.agrees(book) for one in same):
            self._confirm(market, now_ns)
        elif self._stage.updates:
            self._drift(market, now_ns)
        elif market.index not in self._suspects:
            # versions are in ms, and a book may change twice in one ms: wait for the next book
            self._stage.counts["doubts"] += 1
            self._suspects[market.index] = (book, now_ns + GRACE_NS)

    def _compare_best(self, market: BookMarket, book: RestBook, now_ns: int) -> None:
        """Compare the best levels of a book without ids with all books since the request.

        REST shows another moment than any of them, so while the market moves, its best prices must
        only be near theirs.
        """
        _, books = self._asked.pop(market.index, (0, deque()))
        self._watch_books()
        # one is kept at the request
        moved = len(books) > 1 or now_ns - market.heard_ns < SILENT_NS
        self._remember(market, books)
        if any(one.agrees(book) for one in books) or (moved and _within(books, book)):
            self._confirm(market, now_ns)
            return
        self._stage.counts["unmatched"] += 1
        if self._is_repeated(market, now_ns):
            self._drift(market, now_ns)

    def _is_repeated(self, market: BookMarket, now_ns: int) -> bool:
        """Count an answer that speaks against a book; return whether there are enough in a row."""
        times, since_ns = self._behind.get(market.index, (0, now_ns))
        self._behind[market.index] = (times + 1, since_ns)
        if times + 1 < SUSPECT_AFTER or now_ns - since_ns < SUSPECT_NS:
            return False
        del self._behind[market.index]
        return True

    def _judge_unmatched(
        self, market: BookMarket, book: RestBook, books: deque[Version], now_ns: int
    ) -> None:
        if self._newest(market).agrees(book):
            # the levels are the same, so ids and times do not matter
            self._confirm(market, now_ns)
            return
        if book.version >= (books[0].version if books else self._version(market)):
            self._behind.pop(market.index, None)
            return
        if not self._is_repeated(market, now_ns):
            return
        # REST is older than the book again and again: the ids or times of one have started again
        self._stage.counts["suspected"] += 1
        self._stage.suspect(market, now_ns, "REST stays behind the book")

    def _newest(self, market: BookMarket) -> Version:
        books: deque[Version] = deque()
        self._remember(market, books)
        return books[0]

    def _confirm(self, market: BookMarket, now_ns: int) -> None:
        self._stage.counts["confirmed"] += 1
        self._behind.pop(market.index, None)
        status = self._stage.statuses[market.index]
        status.confirmed_ns = now_ns
        self._suspects.pop(market.index, None)
        left = market.phase == Phase.LEFT
        if status.state == State.STALE and not left:
            self._stage.change(status, State.SYNCED, now_ns, "confirmed by REST")
        if now_ns - market.heard_ns > SILENT_NS and market.applied and not left:
            self._stage.publish_again(market, REPEAT | REST, self._stage.wall_ns(now_ns))

    def _judge_suspects(self, now_ns: int) -> None:
        for index, (book, deadline_ns) in list(self._suspects.items()):
            market = self._stage.markets[index]
            if self._version(market) > book.version:
                del self._suspects[index]
            elif now_ns >= deadline_ns:
                del self._suspects[index]
                self._drift(market, now_ns)

    def _drift(self, market: BookMarket, now_ns: int) -> None:
        self._stage.counts["drifts"] += 1
        self._stage.suspect(market, now_ns, "differs from REST")
