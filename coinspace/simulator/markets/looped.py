"""Markets that play the books of their first moments over and over, forth and back.

Whole exchanges have more than a thousand markets and thousands of frames a second. Such a market
makes a few books at its start and renders each of them once, without its times and ids. From then
on a frame costs a few microseconds. Books, ids and REST answers are consistent, as those of
the other markets are: ids count up, and a snapshot has the levels of its id. Trades and tickers are
made one by one, since the sums of a day follow them.
"""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from coinspace.market import Market
from coinspace.simulator.markets.binance import FAST_DEPTH, BinanceMarket, Diff, Top, Variant
from coinspace.simulator.markets.book import Side
from coinspace.simulator.markets.coinone import CoinoneMarket
from coinspace.simulator.markets.korean import REPEATS, BithumbMarket, KoreanMarket, UpbitMarket
from coinspace.simulator.markets.market import (
    WINDOW_NS,
    Event,
    Pace,
    SimulatedMarket,
    Trade,
    World,
)
from coinspace.simulator.markets.prices import bell

SECOND_NS = 1_000_000_000
# seconds that one way through the books takes, and the numbers of books
LASTS_S = 4.0
FEWEST, MOST = 6, 40
# steps of the venue's price between two books
STEP = 1e-4
# stands for a time or an id while a book is rendered: as long as a time in µs
MARK = 9_876_543_210_000_000
TRADES_KEPT_S = 60.0
# of a market that is not one of the whole exchange's
USUAL = Pace(1.0, 0.1)


class LoopedMarket(SimulatedMarket):
    """Base of the looped markets; a mixin before the class of an exchange's market.

    Attributes: place (which book is the newest), forward (the direction of the next step).
    """

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        self.pace = engine.paces.get((exchange, str(market)), USUAL)
        self.place = 0
        self.forward = True
        super().__init__(engine, exchange, market, symbol)
        self.kept_trades = int(50 + self.pace.trades * TRADES_KEPT_S)
        self.count = int(min(max(self.pace.books * LASTS_S, FEWEST), MOST))
        self.make_books()

    # defined by a subclass

    def make_books(self) -> None:
        """Make `count` books."""
        raise NotImplementedError

    def touch(self, *, bid: bool) -> tuple[int, int]:
        """Return the best (tick, size) of one side, (0, 0) where it is empty."""
        raise NotImplementedError

    # events

    def move(self) -> None:
        """Change the orders as a few moments do."""
        self.wander += bell(self.draw) * STEP
        for _ in range(2):
            self.quote(self.now_ns)
        self._keep_depth()

    def step(self) -> None:
        """Go to the next book; at either end the direction changes."""
        if not 0 <= self.place + (1 if self.forward else -1) < self.count:
            self.forward = not self.forward
        self.place += 1 if self.forward else -1

    def plan(self, now_ns: int) -> None:
        """Plan the first trade; each one plans the next."""
        self.engine.at(now_ns + self._wait_ns(self.pace.trades), self._trade_again)

    def window(self, now_ns: int) -> None:
        self.now_ns = now_ns
        if self.status == "active":
            self.emit_window()
        windows = SECOND_NS / WINDOW_NS / (self.pace.books * self.engine.rate)
        if windows > 2.0:
            windows *= 0.5 + self.draw()
        self.engine.at(now_ns + max(1, int(windows + self.draw())) * WINDOW_NS, self.window)

    def _wait_ns(self, per_second: float) -> int:
        return int(SECOND_NS * (0.1 + 1.8 * self.draw()) / (per_second * self.engine.rate))

    def _trade_again(self, now_ns: int) -> None:
        self.now_ns = now_ns
        if self.status == "active":
            self.trade(now_ns)
        self.engine.at(now_ns + self._wait_ns(self.pace.trades), self._trade_again)

    def trade(self, now_ns: int) -> None:
        """Execute a taker's order at the best level, which stays as it is."""
        draw = self.draw
        taker_sold = draw() < 0.5
        tick, held = self.touch(bid=taker_sold)
        if held:
            size = min(held, self.units(self.trade_worth * (0.01 + 3.0 * draw() * draw() * draw())))
            trade = Trade(now_ns, tick, size, taker_sold, self.next_trade_id())
            self._keep(trade)
            self.emit_trade(trade)


class _LoopedKorean(LoopedMarket, KoreanMarket):
    # the books of a Korean market; each frame is a whole book

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        self._books: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []
        # place and format -> the frame before and after its time
        self._frames: dict[tuple[int, Any], list[bytes]] = {}
        super().__init__(engine, exchange, market, symbol)

    def make_books(self) -> None:
        for _ in range(self.count):
            self.move()
            self._books.append(self._top())
        self.top = self._books[self.place]

    def touch(self, *, bid: bool) -> tuple[int, int]:
        asks, bids = self.top if self._books else self._top()
        return next((one for one in (bids if bid else asks) if one[1]), (0, 0))

    def emit_window(self) -> None:
        self.step()
        self.top = self._books[self.place]
        self.book_ns = self.now_ns
        self.emit("orderbook", (*self.top, self.book_time()))

    def encode(self, event: Event, variant: Any) -> bytes:
        if event.kind != "orderbook":
            return super().encode(event, variant)
        asks, bids, time = event.facts
        parts = self._frames.get((self.place, variant))
        if parts is None:
            # Upbit's spelling of numbers follows the time
            mark = MARK + 100 * self.place
            frame = super().encode(Event(self, event.kind, 0, (asks, bids, mark)), variant)
            parts = self._frames[self.place, variant] = frame.split(b"%d" % mark)
        return b"%b%d%b" % (parts[0], time, parts[1])


class LoopedUpbit(_LoopedKorean, UpbitMarket):
    """A market of Upbit."""

    levels = 40


class LoopedBithumb(_LoopedKorean, BithumbMarket):
    """A market of Bithumb."""

    levels = 25

    def step(self) -> None:
        # about half of the books repeat the one before
        if self.draw() >= REPEATS:
            super().step()


class LoopedCoinone(_LoopedKorean, CoinoneMarket):
    """A market of Coinone; its few frames are rendered one by one."""

    levels = 25
    encode = CoinoneMarket.encode


class _Book(NamedTuple):
    # a book of Binance: its best levels, and what the way to it changed, four numbers per level:
    # 1 for a bid, tick, old size, new size (0 = no level)
    bid: tuple[int, int]
    ask: tuple[int, int]
    changes: array[int]


class LoopedBinance(LoopedMarket, BinanceMarket):
    """A market of Binance: the way back undoes the changes of the way forth."""

    levels = 400

    def __init__(self, engine: World, exchange: str, market: Market, symbol: str) -> None:
        self._books: list[_Book] = []
        # levels of the first book, tick and size by turns
        self._first: tuple[array[int], array[int]] = (array("q"), array("q"))
        # place, direction and format -> a frame without its time and ids
        self._frames: dict[tuple[int, bool, Any], bytes] = {}
        super().__init__(engine, exchange, market, symbol)

    def make_books(self) -> None:
        sides = self.bids, self.asks
        known = tuple(dict(side.sizes) for side in sides)
        self._first = (_packed(self.bids), _packed(self.asks))
        for number in range(self.count):
            changes = array("q")
            if number:
                self.move()
            for side, sizes, changed in zip(
                sides, known, (self.bids_changed, self.asks_changed), strict=True
            ):
                for tick, size in changed.items():
                    changes.extend((side.is_bid, tick, sizes.get(tick, 0), size))
                    sizes[tick] = size
                changed.clear()
            best = [(side.best(), side.sizes[side.best()]) for side in sides]
            self._books.append(_Book(best[0], best[1], changes))
        # the books are all that is needed
        self.bids, self.asks = Side(True), Side(False)
        self.top = self._top()

    def changed(self, side: Side, tick: int) -> None:
        changed = self.bids_changed if side.is_bid else self.asks_changed
        changed[tick] = side.sizes.get(tick, 0)

    def touch(self, *, bid: bool) -> tuple[int, int]:
        top = self._top()
        return top.bid if bid else top.ask

    def _top(self) -> Top:
        if not self._books:
            return super()._top()
        book = self._books[self.place]
        return Top(self.update_id, book.bid, book.ask)

    def plan(self, now_ns: int) -> None:
        super().plan(now_ns)
        self.engine.at(now_ns + SECOND_NS, self._tick_again)

    def _tick_again(self, now_ns: int) -> None:
        self.now_ns = now_ns
        if self.status == "active":
            self.emit("ticker", None)
        self.engine.at(now_ns + SECOND_NS, self._tick_again)

    def emit_window(self) -> None:
        before = self.place
        self.step()
        first_id = self.update_id + 1
        # some ids change no level of the public book
        self.update_id += len(self._changes(before).changes) // 4 + int(self.draw() * 1.3)
        if self.update_id < first_id:
            return
        self.emit("depth@100ms", (before, first_id, self.update_id))
        if self.is_fast:
            # its books follow its pace, for clients of the binary streams, too
            self.emit(FAST_DEPTH, self._diff_of(before, first_id))
        top = self._top()
        if top[1:] != self.top[1:]:
            self.top = top
            self.emit("bookTicker", top)

    def _changes(self, before: int) -> _Book:
        # going back undoes the changes of the book that was left
        return self._books[max(before, self.place)]

    def _diff(self, event: Event, variant: Variant) -> str:
        raise NotImplementedError("a looped market renders its updates once")

    def encode(self, event: Event, variant: Any) -> bytes:
        if event.kind != "depth@100ms":
            return super().encode(event, variant)
        before, first_id, final_id = event.facts
        key = (max(before, self.place), self.place > before, variant)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = self._rendered(before, variant)
        return frame % (self._time(event.time_ns, variant), first_id, final_id)

    def make_fast(self) -> None:
        self.is_fast = True

    def _diff_of(self, before: int, first_id: int) -> Diff:
        forth = self.place > before
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        numbers = self._changes(before).changes
        for is_bid, tick, old, new in zip(*(numbers[at::4] for at in range(4)), strict=True):
            (bids if is_bid else asks)[tick] = new if forth else old
        return Diff(first_id, self.update_id, bids, asks)

    def _rendered(self, before: int, variant: Variant) -> bytes:
        diff = self._diff_of(before, 0)._replace(first_id=MARK + 1, final_id=MARK + 2)
        at_ns = MARK * 1000
        text = super()._diff(Event(self, "depth@100ms", at_ns, diff), variant)
        if variant.combined:
            text = f'{{"stream":"{variant.stream}","data":{text}}}'
        for number in (self._time(at_ns, variant), MARK + 1, MARK + 2):
            text = text.replace(str(number), "%d", 1)
        return text.encode()

    def snapshot_text(self, levels: int) -> str:
        sizes = [dict(zip(side[::2], side[1::2], strict=True)) for side in self._first]
        for book in self._books[1 : self.place + 1]:
            numbers = book.changes
            for is_bid, tick, new in zip(numbers[::4], numbers[1::4], numbers[3::4], strict=True):
                sizes[0 if is_bid else 1][tick] = new
        bids, asks = (sorted((tick, size) for tick, size in one.items() if size) for one in sizes)
        return (
            f'{{"lastUpdateId":{self.update_id},'
            f'"bids":[{self._levels(bids[: -levels - 1 : -1])}],'
            f'"asks":[{self._levels(asks[:levels])}]}}'
        )


def _packed(side: Side) -> array[int]:
    return array("q", (number for level in side.sizes.items() for number in level))


# PROTOCOL of an exchange's module -> its looped markets
LOOPED: dict[str, type[LoopedMarket]] = {
    "upbit": LoopedUpbit,
    "bithumb": LoopedBithumb,
    "binance": LoopedBinance,
    "coinone": LoopedCoinone,
}
