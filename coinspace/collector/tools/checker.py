"""Rebuild a feed's books update by update and compare them with the feed's best prices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from coinspace._ext.collector_book import BookCollector, BookMarket
from coinspace._ext.sink import ListSink
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.sync import Condition
from coinspace.collector.tools.offline import Replay
from coinspace.exchanges.exchange import Exchange
from coinspace.recording.format import Record

# messages kept before they are dropped: only the books are needed here
SINK_LIMIT = 1000
BOOK, TOP = 1, 4
# levels of the deepest partial book
PARTIAL_DEPTH = 20

Line = dict[str, Any]


@dataclass(slots=True)
class Checked:
    """Result of comparing a feed's books with its bookTicker events.

    unchecked: updates before the first such event.
    """

    updates: int = 0
    matches: int = 0
    mismatches: int = 0
    unchecked: int = 0
    gaps: int = 0
    crossed: int = 0
    malformed: int = 0

    def add(self, other: Checked) -> None:
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


class TopCheck:
    """Compares each update with the newest best prices whose id is not above the update's id.

    Their event can arrive after the update, so an update waits until a later event comes.
    """

    def __init__(self, result: Checked, on_mismatch: Callable[[Line], None]) -> None:
        self.result = result
        self._on_mismatch = on_mismatch
        self._tops: deque[tuple[int, tuple[float, ...]]] = deque()
        self._updates: deque[tuple[int, tuple[float, ...], Line]] = deque()

    def top(self, update_id: int, best: tuple[float, ...]) -> None:
        """Take one bookTicker event; ids only grow."""
        if self._tops and update_id < self._tops[-1][0]:
            return
        self._tops.append((update_id, best))
        while self._updates and self._updates[0][0] < update_id:
            self._judge()

    def update(self, update_id: int, best: tuple[float, ...], line: Line) -> None:
        """Take the best prices after one applied update."""
        self._updates.append((update_id, best, line))
        if self._tops and self._tops[-1][0] > update_id:
            self._judge()

    def end(self) -> None:
        """Judge the updates that still wait."""
        while self._updates:
            self._judge()

    def _judge(self) -> None:
        update_id, best, line = self._updates.popleft()
        while len(self._tops) > 1 and self._tops[1][0] <= update_id:
            self._tops.popleft()
        if not self._tops or self._tops[0][0] > update_id:
            self.result.unchecked += 1
        elif self._tops[0][1] == best:
            self.result.matches += 1
        else:
            self.result.mismatches += 1
            self._on_mismatch(
                {**line, "expected": self._tops[0][1], "expected_id": self._tops[0][0]}
            )


def symbols_of(exchange: Exchange, records: Iterable[Record]) -> dict[str, bool]:
    """Return the symbols of a feed's book frames, in order of appearance.

    Returns: symbol -> whether all its books are partial ones (such as `@depth20`).
    """
    parser = exchange.parser(exchange.STREAM_DEPTH)
    found: dict[str, bool | None] = {}
    for record in records:
        if record.direction != "<" or not parser.parse(record.payload):
            continue
        symbol, kind = parser.symbol_name, parser.kind
        if symbol and kind == BOOK:
            partial = exchange.UPDATES and parser.snapshot
            found[symbol] = partial and found.get(symbol) is not False
        elif symbol and kind == TOP:
            found.setdefault(symbol, None)
    return {symbol: bool(partial) for symbol, partial in found.items()}


class PartialBooks(BookCollector):
    """Partial books in a feed of updates: each frame is a whole book of a few levels."""

    def __init__(self, exchange: Exchange, symbols: list[str], sink: ListSink) -> None:
        markets = [
            BookMarket(
                index,
                symbol,
                symbol,
                sink.topic(f"orderbook.partial.{symbol}.".encode()),
                PARTIAL_DEPTH,
            )
            for index, symbol in enumerate(symbols)
        ]
        super().__init__(exchange.parser(PARTIAL_DEPTH), sink, markets, updates=False)

    def on_condition(self, market: BookMarket, condition: int, received_ns: int) -> None:
        if condition == Condition.CROSSED:
            market.forget()

    def on_control(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Do nothing: the stage of the local books reads the same frames."""

    def on_malformed(self, frame: bytes, received_ns: int, connection: int) -> None:
        """Do nothing: the stage of the local books counts the same frames."""


class FeedBooks:
    """Rebuilds the books of one feed.

    Args:
        symbols: the result of `symbols_of`.
        named: symbol -> market, for exchanges whose symbols cannot be split.
        on_line: gets one dictionary per applied update.
        check: compare with bookTicker events.
    """

    def __init__(
        self,
        exchange: Exchange,
        symbols: dict[str, bool],
        named: dict[str, str],
        on_line: Callable[[Line], None],
        *,
        check: bool = False,
        on_mismatch: Callable[[Line], None] = lambda line: None,
    ) -> None:
        self.exchange = exchange
        self.result = Checked()
        self._on_line = on_line
        # symbol -> market, None when neither the symbol nor `named` gives it
        self._names: dict[str, str | None] = dict.fromkeys(symbols)
        for symbol in symbols:
            market = exchange.market_of(symbol)
            self._names[symbol] = named.get(symbol) or (str(market) if market else None)
        self._sink = ListSink()
        entries = [
            (symbol, self._names[symbol] or symbol)
            for symbol, partial in symbols.items()
            if not partial
        ]
        partials = [symbol for symbol, partial in symbols.items() if partial]
        self.partial = PartialBooks(self.exchange, partials, self._sink) if partials else None
        if self.partial is not None:
            self.partial.watcher = self._on_book
        depth = 1 if self.exchange.UPDATES else self.exchange.STREAM_DEPTH
        self.stage = OrderBookStage(self.exchange, entries, self._sink, depth=depth)
        self.stage.comparison.watch(self._on_book)
        self._checks = {symbol: TopCheck(self.result, on_mismatch) for symbol in symbols if check}
        self._parser = self.exchange.parser(self.exchange.STREAM_DEPTH)
        self._replay = Replay(self.stage)

    def run(self, records: Iterable[Record]) -> Checked:
        for record in records:
            self._replay.feed(record)
            if self.partial is not None and record.direction == "<":
                self.partial.on_frame(record.payload, record.received_ns)
            if self._checks and record.direction == "<":
                self._read_top(record.payload)
            if len(self._sink.messages) > SINK_LIMIT:
                self._sink.clear()
        for check in self._checks.values():
            check.end()
        self.result.gaps = self.stage.counts["gaps"]
        self.result.crossed = sum(market.crossed for market in self.markets)
        self.result.malformed = self.stage.malformed
        return self.result

    @property
    def markets(self) -> list[BookMarket]:
        return [*self.stage.markets, *(self.partial.markets if self.partial else ())]

    def final(self) -> list[Line]:
        """Return each market's book at the end, with all its levels."""
        lines = []
        for market in self.markets:
            bids, asks = market.top() if market.book is None else market.book.levels()
            line: Line = {
                "exchange": self.exchange.NAME,
                "market": self._names[market.symbol.decode()],
                "symbol": market.symbol.decode(),
                "update_id": market.update_id or None,
                "bids": bids.T.tolist(),
                "asks": asks.T.tolist(),
            }
            if market.book is not None:
                low, high = market.book.known_range
                line["known_range"] = [
                    low if low > float("-inf") else None,
                    high if high < float("inf") else None,
                ]
            lines.append(line)
        return lines

    def _on_book(self, market: BookMarket, received_ns: int) -> None:
        bid: tuple[float, float] | None
        ask: tuple[float, float] | None
        if market.book is None:
            bids, asks = market.top()
            n_bids, n_asks = bids.shape[1], asks.shape[1]
            bid = (float(bids[0, 0]), float(bids[1, 0])) if n_bids else None
            ask = (float(asks[0, 0]), float(asks[1, 0])) if n_asks else None
        else:
            n_bids, n_asks = market.book.n_bids, market.book.n_asks
            bid, ask = market.book.best_bid, market.book.best_ask
        # whole books have no ids, partial books have
        update_id = market.update_id or None
        symbol = market.symbol.decode()
        line: Line = {
            "recv_ns": received_ns,
            "exchange": self.exchange.NAME,
            "market": self._names[symbol],
            "update_id": update_id,
            "best_bid": bid[0] if bid else None,
            "bid_size": bid[1] if bid else None,
            "best_ask": ask[0] if ask else None,
            "ask_size": ask[1] if ask else None,
            "bids": n_bids,
            "asks": n_asks,
        }
        self.result.updates += 1
        self._on_line(line)
        if self._checks and update_id is not None:
            best = (*(bid or (0.0, 0.0)), *(ask or (0.0, 0.0)))
            self._checks[symbol].update(update_id, best, line)

    def _read_top(self, frame: bytes) -> None:
        parser = self._parser
        if not parser.parse(frame) or parser.kind != TOP:
            return
        top = parser.decode(frame)[0]
        check = self._checks.get(top["symbol"])
        if check is not None:
            best = (top["bid"], top["bid_size"], top["ask"], top["ask_size"])
            check.top(top["update_id"], best)
