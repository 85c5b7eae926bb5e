"""Books held against the exchange's own REST, which nothing but drift can contradict.

An answer is nearly always older than the newest book of a busy market, so the books published while
it is awaited are kept, and the answer is compared with the one of its own version. One that is
ahead of the stream waits until the stream gets there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.message import REPEAT, REST
from coinspace.clock import SECOND_NS
from coinspace.collector.demand import Value
from coinspace.collector.stage import Stage
from coinspace.exchanges.exchange import Refusal, Request, RestBook

# a market silent for this long is compared by REST …
SILENT_NS = 4 * SECOND_NS
# … at most every so often, all such markets in one call
COMPARE_AGAIN_NS = 5 * SECOND_NS
# a book that REST contradicts gets this long to catch up on its own
GRACE_NS = 3 * SECOND_NS
# an answer that has not come by then is not waited for
ANSWER_NS = 15 * SECOND_NS
# books kept per market while REST is asked, to find the one of its answer
HISTORY = 256
# levels of them
COMPARED_LEVELS = 100
# so many answers over so long a time that are behind the book: the book is suspected
SUSPECT_AFTER = 3
SUSPECT_NS = 10 * SECOND_NS


class Version(NamedTuple):
    """A book as it was published. bids, asks: float64[2, n] as in `BookMarket.top`."""

    version: int
    bids: NDArray[np.float64]
    asks: NDArray[np.float64]

    def agrees(self, book: RestBook) -> bool:
        """Tell whether REST has the same levels, as far as both go."""
        for ours, theirs in zip((self.bids, self.asks), (book.bids, book.asks), strict=True):
            n = min(ours.shape[1], len(theirs))
            other = np.array(theirs[:n], dtype=np.float64).reshape(n, 2).T
            if not np.array_equal(ours[:, :n], other):
                return False
        return True


class ComparedBooks(Stage, BookCollector):
    """Base of the order book stage: asks REST, compares, and says what drifted."""

    def start_comparing(self) -> None:
        """Begin with nothing asked; called by the subclass before anything else."""
        # books that REST contradicts: index -> (the REST book, when it must have come true)
        self._doubts: dict[int, tuple[RestBook, int]] = {}
        # while REST is asked: index -> (when it was, the books published since)
        self._asked: dict[int, tuple[int, deque[Version]]] = {}
        # called with (market, received_ns) for every book published
        self.on_book: Callable[[BookMarket, int], None] | None = None
        # answers in a row that were older than the book when they were asked for, and since when
        self._behind: dict[int, tuple[int, int]] = {}
        names = ("compares", "unmatched", "confirmed", "doubts", "drifts", "suspected")
        self.counts.update(dict.fromkeys(names, 0))

    def _restart(self, market: BookMarket, now_ns: int, reason: str, **details: Any) -> None:
        raise NotImplementedError

    def _left_range(self, market: BookMarket) -> bool:
        # a book that is not published at the moment
        raise NotImplementedError

    def _ask_compare(self, symbols: list[str]) -> None:
        # one that was refused before could spoil the others' answer
        known = [symbol for symbol in symbols if self._positions[symbol] not in self._absent]
        alone = [symbol for symbol in symbols if self._positions[symbol] in self._absent]
        for part in ([known] if known else []) + [[symbol] for symbol in alone]:
            for request in self.exchange.compare_requests(part):
                self.ask(request, Value.COMPARE)

    def on_asked(self, request: Request) -> None:
        if request.purpose != "compare":
            return
        for symbol in request.symbols:
            index = self._positions[symbol]
            books: deque[Version] = deque(maxlen=HISTORY)
            self._remember(self.markets[index], books)
            self._asked[index] = (self.now_ns, books)
        self.watch_books()

    def _compare_refused(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        if not refusal.fatal:
            # it passes by itself, and comparisons come again
            return
        symbols = request.symbols
        if len(symbols) == 1:
            self.absent(self.of(symbols)[0], now_ns)
            return
        # one bad market fails the whole call: it is found by halves
        middle = len(symbols) // 2
        for part in (symbols[:middle], symbols[middle:]):
            for half in self.exchange.compare_requests(part):
                self.ask(half, Value.COMPARE)

    def _forget_asked(self, now_ns: int) -> None:
        for index, (asked_ns, _) in list(self._asked.items()):
            if now_ns - asked_ns > ANSWER_NS:
                del self._asked[index]
        self.watch_books()

    def _version(self, market: BookMarket) -> int:
        return market.update_id if self.updates else market.exchange_ns // 1_000_000

    def watch_books(self) -> None:
        """Have every published book told, as long as somebody wants to know."""
        self.watcher = self._on_published if self._asked or self.on_book else None

    def _on_published(self, market: BookMarket, received_ns: int) -> None:
        if self.on_book is not None:
            self.on_book(market, received_ns)
        asked = self._asked.get(market.index)
        if asked is None:
            return
        self._remember(market, asked[1])
        doubt = self._doubts.get(market.index)
        if doubt is not None and doubt[0].version == asked[1][-1].version:
            # the stream has come to where REST was
            del self._doubts[market.index]
            self._compare_with(market, doubt[0], self.now_ns)

    def _remember(self, market: BookMarket, books: deque[Version]) -> None:
        bids, asks = market.top()
        n = COMPARED_LEVELS
        books.append(Version(self._version(market), bids[:, :n].copy(), asks[:, :n].copy()))

    def _compare(self, market: BookMarket, book: RestBook, now_ns: int) -> None:
        self.counts["compares"] += 1
        if not market.usable:
            return
        if book.version <= self._version(market):
            self._compare_with(market, book, now_ns)
        elif market.index not in self._doubts:
            # REST may be a moment ahead of the stream
            self.counts["doubts"] += 1
            self._doubts[market.index] = (book, now_ns + GRACE_NS)

    def _compare_with(self, market: BookMarket, book: RestBook, now_ns: int) -> None:
        _, books = self._asked.pop(market.index, (0, deque()))
        self.watch_books()
        same = [one for one in books if one.version == book.version]
        if not same and book.version == self._version(market):
            self._remember(market, books)
            same = [books[-1]]
        if not same:
            # between two updates, or before the first one that was kept
            self.counts["unmatched"] += 1
            self._judge_unmatched(market, book, books, now_ns)
        elif any(one.agrees(book) for one in same):
            self._confirm(market, now_ns)
        elif self.updates:
            self._drift(market, now_ns)
        elif market.index not in self._doubts:
            # a book may change twice in one ms; the next one is right anyway
            self.counts["doubts"] += 1
            self._doubts[market.index] = (book, now_ns + GRACE_NS)

    def _judge_unmatched(
        self, market: BookMarket, book: RestBook, books: deque[Version], now_ns: int
    ) -> None:
        if self._newest(market).agrees(book):
            # whatever their ids and times say
            self._confirm(market, now_ns)
            return
        if book.version >= (books[0].version if books else self._version(market)):
            self._behind.pop(market.index, None)
            return
        times, since_ns = self._behind.get(market.index, (0, now_ns))
        self._behind[market.index] = (times + 1, since_ns)
        if times + 1 < SUSPECT_AFTER or now_ns - since_ns < SUSPECT_NS:
            return
        # again and again older than the book was before: one of both has started anew
        del self._behind[market.index]
        self.counts["suspected"] += 1
        self._suspect(market, now_ns, "REST stays behind the book")

    def _suspect(self, market: BookMarket, now_ns: int, reason: str) -> None:
        raise NotImplementedError

    def _newest(self, market: BookMarket) -> Version:
        books: deque[Version] = deque()
        self._remember(market, books)
        return books[0]

    def _confirm(self, market: BookMarket, now_ns: int) -> None:
        self.counts["confirmed"] += 1
        self._behind.pop(market.index, None)
        status = self.statuses[market.index]
        status.confirmed_ns = now_ns
        self._doubts.pop(market.index, None)
        left = self._left_range(market)
        if status.state == "stale" and not left:
            self.change(status, "synced", now_ns, "confirmed by REST")
        if now_ns - market.heard_ns > SILENT_NS and market.applied and not left:
            self.publish_again(market, REPEAT | REST, self.wall_ns(now_ns))

    def _judge_doubts(self, now_ns: int) -> None:
        for index, (book, deadline_ns) in list(self._doubts.items()):
            market = self.markets[index]
            if self._version(market) > book.version:
                del self._doubts[index]
            elif now_ns >= deadline_ns:
                del self._doubts[index]
                self._drift(market, now_ns)

    def _drift(self, market: BookMarket, now_ns: int) -> None:
        self.counts["drifts"] += 1
        self._suspect(market, now_ns, "differs from REST")
