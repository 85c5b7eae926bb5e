"""Recordings as a server's source: a client gets the recorded frames that it subscribes to.

Without `clients` each set of subscriptions is played once, from its first subscriber on: it waits
while nobody listens and goes on where it stood, so that a client that connects anew gets every
frame once. With `clients=N` all feeds run on one clock that starts when N connections have
subscribed; who comes later joins in the middle, as live.

The first request for a depth snapshot gets the recorded one, and the playing does not pass that
snapshot's place in the stream before it was asked for, so that the client applies exactly the
updates after it. Later requests get the book as of the frame played last, also when nobody listens;
after a seek, before anything was played, they get it as of the place where playing begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coinspace.clock import now_ns
from coinspace.errors import FeedError
from coinspace.exchanges import exchange as exchange_named
from coinspace.recording.format import FeedReader, Record
from coinspace.recording.frames import (
    Label,
    LocalBook,
    depth_symbol,
    label,
    unwrapped,
    wrapped,
)
from coinspace.recording.merge import merge
from coinspace.simulator.connection import Connection
from coinspace.simulator.recorded_answers import (
    binance_trade,
    exchange_info,
    korean_rest,
    market_list,
    rows_of,
    trimmed,
)
from coinspace.simulator.rest import MOST_ID, Answer, answer, names_of, number
from coinspace.simulator.session import BinanceSession
from coinspace.simulator.source import Host

# a collector may send several SUBSCRIBE frames, 300 ms apart because of the message limit
SETTLE_S = 0.5
HOLD_S = 10.0
INDEX_RECORDS = 50_000
KEPT_TRADES = 500
YIELD_RECORDS = 100
# sets of subscriptions that are played at a time
RUNS_LIMIT = 256

# whose run it is: an exchange's set of (kind, symbol), None = one clock for all
Key = tuple[str, frozenset[tuple[str, str]]] | None


@dataclass
class Index:
    """What a recording holds, from its first records. symbols: as the exchange spells them."""

    symbols: set[str] = field(default_factory=set)
    snapshots: dict[str, bytes] = field(default_factory=dict)


class Playing:
    """One run through feeds.

    Attributes: played (frames), sent (to any client), last (kind, symbol) -> payload, trades.
    """

    def __init__(self, owner: Playback, exchanges: Sequence[str], key: Key = None) -> None:
        self.owner = owner
        self.kinds = key[1] if key else frozenset()
        self.exchanges = exchanges
        self.targets: Callable[[], list[Connection]] = self.listeners
        self.audience: list[Connection] = []
        self.position = 0
        self.played = 0
        self.sent = 0
        self.finished = False
        # what stands before the beginning is known there
        self.last = dict(owner.last)
        self.trades = {symbol: trades.copy() for symbol, trades in owner.trades.items()}
        self.pending = set(owner.pending)
        self.changed = asyncio.Event()
        self.books = Books(owner, exchanges)
        self._held_s = 0.0

    def listeners(self) -> list[Connection]:
        """Return the open connections of this subscription."""
        return [connection for connection in self.audience if connection.is_open]

    def notify(self) -> None:
        """Wake whoever waits for a snapshot or a request."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def _hold(self, ready: Callable[[], bool], timeout_s: float) -> None:
        # until a condition that `notify` follows holds; the clock of the recording stands still
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        while not ready() and loop.time() < begin_s + timeout_s:
            left_s = min(begin_s + timeout_s - loop.time(), 3600.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left_s)
        self._held_s += loop.time() - begin_s

    async def run(self) -> None:
        """Play to the end."""
        readers = self.owner.readers(self.exchanges)
        loop = asyncio.get_running_loop()
        speed, begin_s, first_ns = self.owner.speed, loop.time(), 0
        try:
            for reader, record in merge(readers):
                if not self.owner.clients and not self.listeners():
                    await self._hold(lambda: bool(self.listeners()), math.inf)
                if math.isfinite(speed):
                    first_ns = first_ns or record.received_ns
                    due = begin_s + self._held_s + (record.received_ns - first_ns) / 1e9 / speed
                    if due - loop.time() > 0.0005:
                        await asyncio.sleep(due - loop.time())
                await self._play(reader.exchange, record)
                self.position += 1
                if self.position % YIELD_RECORDS == 0:
                    await asyncio.sleep(0)
        finally:
            for reader in readers:
                reader.close()
        self.finished = True
        self.notify()

    async def _play(self, exchange: str, record: Record) -> None:
        if record.direction == "<":
            self.played += 1
            await self._frame(exchange, record.payload)
        elif record.direction == "GET":
            symbol = depth_symbol(record)
            if symbol is not None:
                await self._snapshot(symbol)

    async def _frame(self, exchange: str, payload: bytes) -> None:
        what = label(exchange, payload)
        if not what.kinds:
            return
        _keep(what, payload, self.last, self.trades)
        for connection in self.targets():
            if connection.exchange != exchange or not connection.is_open:
                continue
            kind = next((k for k in what.kinds if connection.session.wants(k, what.symbol)), None)
            if kind is not None:
                connection.deliver(_spelled(connection, kind, what, payload), kind, what.symbol)
                self.sent += 1
                await connection.drain()

    def wants_depth(self, symbol: str) -> bool:
        """Tell whether a client builds a book of a symbol."""
        return any(
            connection.is_open
            and isinstance(connection.session, BinanceSession)
            and any(
                stream.startswith(f"{symbol.lower()}@depth")
                for stream in connection.session.streams
            )
            for connection in self.targets()
        )

    def wanted_depth(self, symbol: str) -> bool:
        """Tell whether it is a run of a symbol's book, whoever listens now."""
        return any(kind.startswith("depth") and name == symbol.lower() for kind, name in self.kinds)

    async def _snapshot(self, symbol: str) -> None:
        if symbol in self.pending and self.wants_depth(symbol):
            await self._hold(lambda: symbol not in self.pending, self.owner.hold_s)
        self.pending.discard(symbol)

    async def depth(self, symbol: str, limit: int) -> bytes | None:
        """Return the snapshot for a request that comes now."""
        if symbol in self.pending:
            # early is as good: the client keeps the updates until the stream reaches it
            self.pending.discard(symbol)
            self.notify()
            return trimmed(self.owner.indices["binance"].snapshots[symbol], limit)
        return await self.books.at(self.position, symbol, limit)


class Books:
    """The books of Binance along recordings: each record is read once, however many ask.

    A request reads on from the place of the one before, in a thread.
    """

    def __init__(self, owner: Playback, exchanges: Sequence[str]) -> None:
        self._owner = owner
        self._exchanges = exchanges
        self._books: dict[str, LocalBook] = {}
        self._readers: list[FeedReader] = []
        self._records: Iterator[tuple[FeedReader, Record]] | None = None
        # read, and of a later place than was asked for
        self._ahead: tuple[FeedReader, Record] | None = None
        # records of the chosen part that are in the books
        self._played = 0
        self._lock = asyncio.Lock()

    async def at(self, position: int, symbol: str, limit: int) -> bytes | None:
        """Return a book after so many records, None where there is none.

        Args: position: no less than in the request before.
        """
        async with self._lock:
            return await asyncio.to_thread(self._at, position, symbol, limit)

    def close(self) -> None:
        """Let go of the recordings; a later request begins anew."""
        for reader in self._readers:
            reader.close()
        self._readers, self._records, self._ahead = [], None, None
        self._books, self._played = {}, 0

    def _at(self, position: int, symbol: str, limit: int) -> bytes | None:
        while (found := self._next(position)) is not None:
            self._take(*found)
        book = self._books.get(symbol.upper())
        return book.answer(limit) if book is not None and book.id else None

    def _next(self, position: int) -> tuple[FeedReader, Record] | None:
        if self._records is None:
            self._readers = self._owner.readers(self._exchanges, whole=True)
            self._records = iter(merge(self._readers))
        found, self._ahead = self._ahead or next(self._records, None), None
        if found is None:
            return None
        played = self._played + (found[1].received_ns >= self._owner.start_ns)
        if played > position:
            self._ahead = found
            return None
        self._played = played
        return found

    def _take(self, reader: FeedReader, record: Record) -> None:
        symbol = depth_symbol(record)
        if symbol is not None:
            self._book(symbol).restart(record.payload)
        elif record.direction == "<" and reader.exchange == "binance":
            what = label("binance", record.payload)
            if what.kinds and what.kinds[0] in ("depth@100ms", "depth"):
                self._book(what.symbol).apply(record.payload)

    def _book(self, symbol: str) -> LocalBook:
        return self._books.setdefault(symbol.upper(), LocalBook())


def _keep(
    what: Label,
    payload: bytes,
    last: dict[tuple[str, str], bytes],
    trades: dict[str, deque[bytes]],
) -> None:
    last[what.kinds[0], what.symbol] = payload
    if what.kinds[0] == "trade":
        trades.setdefault(what.symbol, deque(maxlen=KEPT_TRADES)).append(payload)


def _spelled(connection: Connection, kind: str, what: Label, payload: bytes) -> bytes:
    session = connection.session
    if isinstance(session, BinanceSession) and session.combined != what.wrapped:
        if what.wrapped:
            return unwrapped(payload)
        return wrapped(f"{what.symbol}@{kind}", payload)
    return payload


class Playback:
    """Serve recordings.

    Args:
        paths: feeds of any exchanges.
        speed: times real time, math.inf = as fast as the clients read.
        clients: 0 = each set of subscriptions is played once and goes on for who connects anew,
            N = one clock for all, from N on.
        loop: begin anew at the end; connections are closed (1001) in between.
        start_ns, end_ns: part of the recordings. hold_s: how long playing waits for a request.
        on_finish: called with the facts of each run.
    """

    simulated = False

    def __init__(
        self,
        paths: Sequence[Path | str],
        *,
        speed: float = 1.0,
        clients: int = 0,
        loop: bool = False,
        start_ns: int = 0,
        end_ns: int | None = None,
        hold_s: float = HOLD_S,
        settle_s: float = SETTLE_S,
        on_finish: Callable[[dict[str, Any]], None] = lambda facts: None,
    ) -> None:
        if not paths:
            raise FeedError("replay: expected at least one feed, was none")
        if not speed > 0:
            raise FeedError(f"speed: expected a number above 0 or max, was {speed}")
        self.paths = [Path(path) for path in paths]
        self.speed = speed
        self.clients = clients
        self.loop = loop
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.hold_s = hold_s
        self.settle_s = settle_s
        self.on_finish = on_finish
        self.indices: dict[str, Index] = {}
        self.by_exchange: dict[str, list[Path]] = {}
        self.pending: set[str] = set()
        # newest frames and trades before the beginning
        self.last: dict[tuple[str, str], bytes] = {}
        self.trades: dict[str, deque[bytes]] = {}
        for path in self.paths:
            self._read_index(path)
            if start_ns:
                self._read_before(path)
        self.exchanges = tuple(self.by_exchange)
        self._playing: dict[Key, Playing] = {}
        # snapshots that were asked for before anything played
        self._asked_early: set[str] = set()
        self._settling: dict[Connection, asyncio.Task[None]] = {}
        # of a request that comes before anything plays
        self._first_books = Books(self, ("binance",))

    def _read_index(self, path: Path) -> None:
        with FeedReader(path, start_ns=self.start_ns, end_ns=self.end_ns) as reader:
            exchange = exchange_named(reader.exchange).NAME
            self.by_exchange.setdefault(exchange, []).append(path)
            index = self.indices.setdefault(exchange, Index())
            for n, record in enumerate(reader):
                if n >= INDEX_RECORDS:
                    break
                symbol = depth_symbol(record)
                if symbol is not None:
                    # an error is an answer too
                    if symbol not in index.snapshots and LocalBook().restart(record.payload):
                        index.snapshots[symbol] = record.payload
                        self.pending.add(symbol)
                elif record.direction == "<":
                    found = label(exchange, record.payload).symbol
                    if found:
                        index.symbols.add(found.upper())

    def _read_before(self, path: Path) -> None:
        with FeedReader(path, end_ns=self.start_ns) as reader:
            index = self.indices[reader.exchange]
            for record in reader:
                if record.direction == "<":
                    what = label(reader.exchange, record.payload)
                    if what.kinds:
                        index.symbols.add(what.symbol.upper())
                        _keep(what, record.payload, self.last, self.trades)

    def has_frames(self) -> bool:
        """Tell whether there is anything to play."""
        for reader in self.readers(self.exchanges):
            with reader:
                if any(record.direction == "<" for record in reader):
                    return True
        return False

    def readers(self, exchanges: Sequence[str], *, whole: bool = False) -> list[FeedReader]:
        """Open the feeds of some exchanges, the chosen part or everything up to its end."""
        start_ns = 0 if whole else self.start_ns
        return [
            FeedReader(path, start_ns=start_ns, end_ns=self.end_ns)
            for exchange in exchanges
            for path in self.by_exchange.get(exchange, [])
        ]

    # source

    async def start(self, server: Host) -> None:
        self.server = server

    async def stop(self) -> None:
        """Close what is read; the server has ended the tasks."""
        for playing in self._playing.values():
            playing.books.close()
        self._first_books.close()

    def connected(self, connection: Connection) -> None:
        connection.session.changed = lambda added: self._subscribed(connection)
        if isinstance(connection.session, BinanceSession) and connection.session.streams:
            self._subscribed(connection)

    def disconnected(self, connection: Connection) -> None:
        settling = self._settling.pop(connection, None)
        if settling is not None:
            self.server.tasks.drop(settling)
        for playing in self._playing.values():
            if connection in playing.audience:
                playing.audience.remove(connection)

    def _subscribed(self, connection: Connection) -> None:
        connection.data["subscribed"] = True
        if self.clients:
            ready = [c for c in self.server.all_connections() if c.data.get("subscribed")]
            if len(ready) >= self.clients and None not in self._playing:
                playing = self._begin(None, self.exchanges)
                playing.targets = self.server.all_connections
        elif not connection.data.get("listens"):
            settling = self._settling.pop(connection, None)
            if settling is not None:
                self.server.tasks.drop(settling)
            self._settling[connection] = self.server.tasks.spawn(
                "subscribing", self._listen(connection), ends=True
            )

    async def _listen(self, connection: Connection) -> None:
        await asyncio.sleep(self.settle_s)
        del self._settling[connection]
        connection.data["listens"] = True
        key = (connection.exchange, connection.session.subscription)
        playing = self._playing.get(key)
        if playing is None:
            if not self._has_room():
                connection.session.end(1013, "too many sets of subscriptions", 0.0)
                return
            playing = self._begin(key, (connection.exchange,))
        playing.audience.append(connection)
        playing.notify()

    def _has_room(self) -> bool:
        # a run that is over, and that nobody listens to, is forgotten first
        if len(self._playing) >= RUNS_LIMIT:
            for key, playing in list(self._playing.items()):
                if playing.finished and not playing.listeners():
                    self._drop(key)
                    break
        return len(self._playing) < RUNS_LIMIT

    def _drop(self, key: Key) -> Playing:
        playing = self._playing.pop(key)
        playing.books.close()
        return playing

    def _begin(self, key: Key, exchanges: Sequence[str]) -> Playing:
        playing = self._playing[key] = Playing(self, exchanges, key)
        playing.pending -= self._asked_early
        self.server.tasks.spawn("playing", self._run(playing, key), ends=True)
        return playing

    async def _run(self, playing: Playing, key: Key) -> None:
        if self.clients:
            await asyncio.sleep(self.settle_s)
        await playing.run()
        self.on_finish(
            {
                "finished": True,
                "exchanges": list(playing.exchanges),
                "frames": playing.played,
                "sent": playing.sent,
            }
        )
        if self.loop:
            # whoever connects again begins anew
            self._drop(key)
            for connection in playing.targets():
                connection.session.end(1001, "end of recording", 0.0)

    # REST

    def _newest(self, exchange: str, symbol: str = "") -> Playing | None:
        """Return the run that a request means: one whose clients build the symbol's book, else one
        whose clients did so before they left, else the newest.
        """
        found = [one for one in self._playing.values() if exchange in one.exchanges]
        ranked = sorted(found, key=lambda one: (one.wants_depth(symbol), one.wanted_depth(symbol)))
        return ranked[-1] if ranked else None

    def keep_snapshots(self, symbol: str) -> None:
        pass

    def now_ns(self) -> int:
        return now_ns()

    def use_budget(self, weight: int) -> None:
        raise FeedError("budget: expected a simulated exchange, a recording counts no weight")

    def shift_clock(self, exchange: str, symbol: str, by_s: float) -> None:
        raise FeedError("clock: expected a simulated exchange, recorded times stay as they are")

    def set_market(self, exchange: str, symbol: str, status: str) -> None:
        raise FeedError("market: expected a simulated exchange, recorded markets stay as they are")

    async def rest(
        self, exchange: str, path: str, query: dict[str, str], *, stale: bool = False
    ) -> Answer:
        first = self.indices[exchange].snapshots.get(query.get("symbol", ""))
        if stale and first is not None:
            return answer(trimmed(first, number(query.get("limit"), 100, 5000)))
        if exchange == "binance":
            return await self._binance(path, query)
        return self._korean(exchange, path, query)

    async def _binance(self, path: str, query: dict[str, str]) -> Answer:
        index = self.indices["binance"]
        symbol = query.get("symbol", "")
        now_ms = now_ns() // 1_000_000
        if path == "/api/v3/ping":
            return answer({})
        if path == "/api/v3/time":
            return answer({"serverTime": now_ms})
        if path == "/api/v3/exchangeInfo":
            asked = names_of(query["symbols"]) if "symbols" in query else [symbol]
            wanted = {one for one in asked if one} or index.symbols
            if wanted <= index.symbols:
                return answer(exchange_info(wanted, now_ms))
        elif path == "/api/v3/depth":
            limit = number(query.get("limit"), 100, 5000)
            playing = self._newest("binance", symbol)
            snapshot = index.snapshots.get(symbol)
            if playing is not None:
                found = await playing.depth(symbol, limit)
            elif snapshot:
                self._asked_early.add(symbol)
                found = trimmed(snapshot, limit)
            else:
                found = await self._first_books.at(0, symbol, limit)
            if found is not None:
                return answer(found)
        elif path in ("/api/v3/trades", "/api/v3/historicalTrades") and symbol in index.symbols:
            playing = self._newest("binance", symbol)
            trades = (playing or self).trades.get(symbol.lower(), ())
            rows = rows_of(trades, binance_trade)
            limit = number(query.get("limit"), 500, 1000)
            if "fromId" in query:
                first = number(query["fromId"], 0, MOST_ID)
                return answer([row for row in rows if row["id"] >= first][:limit])
            return answer(rows[-limit:])
        if symbol in index.symbols or not path.startswith("/api/v3/"):
            return answer({"code": -1000, "msg": f"{path} is not in this recording"}, 404)
        return answer({"code": -1121, "msg": "Invalid symbol."}, 400)

    def _korean(self, exchange: str, path: str, query: dict[str, str]) -> Answer:
        index = self.indices[exchange]
        if path == "/v1/market/all":
            return answer(market_list(index.symbols))
        status = 200 if exchange == "bithumb" else 404
        playing = self._newest(exchange)
        codes = [c for c in query.get("markets", query.get("market", "")).upper().split(",") if c]
        if path not in ("/v1/orderbook", "/v1/ticker", "/v1/trades/ticks") or any(
            code not in index.symbols for code in codes
        ):
            return answer({"error": {"name": 404, "message": "Code not found"}}, status)
        state = playing or self
        if path == "/v1/trades/ticks":
            count = number(query.get("count"), 1, 500)
            rows = rows_of(state.trades.get(codes[0], ()) if codes else (), korean_rest)
            if "cursor" in query:
                before = number(query["cursor"], MOST_ID, MOST_ID)
                rows = [row for row in rows if int(row.get("sequential_id", 0)) < before]
            return answer(rows[: -count - 1 : -1])
        kind = "orderbook" if path == "/v1/orderbook" else "ticker"
        known = [state.last[kind, code] for code in codes if (kind, code) in state.last]
        return answer(rows_of(known, korean_rest))
