"""Recordings as a server's source: a client gets the recorded frames that it subscribes to.

Without `clients` each set of subscriptions is played once, from its first subscriber on. The run
pauses while no client listens, so that a client that reconnects gets every frame once. With
`clients=N` all feeds run on one clock that starts when N connections have subscribed. A later
client joins in the middle, as live.

The first request for a depth snapshot gets the recorded one. The run waits for this request at the
snapshot's place in the stream, so that the client applies exactly the updates after it. Later
requests get the book after the last played frame. Before anything was played, requests get the book
at the start of the chosen part.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from coinspace.clock import now_ns
from coinspace.errors import FeedError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.binance import trimmed
from coinspace.exchanges.exchange import Exchange, Label, Request
from coinspace.recording.format import FeedReader, Record
from coinspace.recording.frames import RecordedBooks, label, snapshot_symbol
from coinspace.recording.merge import merge
from coinspace.simulator.connection import Connection
from coinspace.simulator.rest import Answer, answer, fact_paths
from coinspace.simulator.source import Source

# a collector may send several SUBSCRIBE frames, 300 ms apart because of the message limit
SETTLE_S = 0.5
HOLD_S = 10.0
INDEX_RECORDS = 50_000
KEPT_TRADES = 500
YIELD_RECORDS = 100
# limit of sets of subscriptions that are played at the same time
RUNS_LIMIT = 256
# bytes of the newest frames: further symbols of a recording without end are left out
KEPT_BYTES = 256 << 20
# of a symbol besides its frame
ENTRY_BYTES = 400

# key of a run: an exchange and its set of (kind, symbol), None = one clock for all
Key = tuple[str, frozenset[tuple[str, str]]] | None


@dataclass
class Index:
    """Symbols (in the exchange's spelling) and snapshots of a recording's first records."""

    symbols: set[str] = field(default_factory=set)
    snapshots: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Newest:
    """The newest frames so far.

    last: (kind, symbol) -> frame. trades: symbol -> frames of the newest trades, oldest first.
    size: bytes of both, about. answers: path -> recorded answer with facts beside the price.
    """

    last: dict[tuple[str, str], bytes] = field(default_factory=dict)
    trades: dict[str, deque[bytes]] = field(default_factory=dict)
    size: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)

    def keep(self, what: Label, payload: bytes) -> None:
        key, before = (what.kinds[0], what.symbol), self.last.get((what.kinds[0], what.symbol))
        grown = len(payload) - (len(before) if before is not None else -ENTRY_BYTES)
        is_trade = what.kinds[0].partition("@")[0] == "trade"
        trades = self.trades.get(what.symbol, deque()) if is_trade else None
        if trades is not None:
            grown += len(payload) - (len(trades[0]) if len(trades) == KEPT_TRADES else 0)
        if self.size + grown > KEPT_BYTES:
            return
        self.size += grown
        self.last[key] = payload
        if trades is not None:
            if len(trades) == KEPT_TRADES:
                trades.popleft()
            trades.append(payload)
            self.trades[what.symbol] = trades


class RequestedRecording:
    """The data for the answer to one REST request.

    Args: symbols: of the recording. book: the current snapshot of the requested symbol.
    """

    def __init__(self, symbols: set[str], newest: Newest, book: bytes | None) -> None:
        self.symbols = symbols
        self._newest = newest
        self._book = book

    def last(self, kind: str, symbol: str) -> bytes | None:
        return self._newest.last.get((kind, symbol))

    def trades(self, symbol: str) -> Iterable[bytes]:
        trades = self._newest.trades
        return trades.get(symbol, trades.get(symbol.lower(), ()))

    def book(self, symbol: str, levels: int) -> bytes | None:
        return None if self._book is None else trimmed(self._book, levels)


class Playing:
    """One run through feeds.

    Attributes: played (number of frames), sent (frames to all clients), newest.
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
        # frames before the chosen part are already known
        self.newest = copy.deepcopy(owner.before)
        self.pending = set(owner.pending)
        self.changed = asyncio.Event()
        self.books = PlayedBooks(owner, exchanges)
        self._paused_s = 0.0

    def listeners(self) -> list[Connection]:
        return [connection for connection in self.audience if connection.is_open]

    def notify(self) -> None:
        """Wake the tasks that wait for a snapshot or a request."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def _pause_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        # the recording's clock stops until the condition is true; `notify` follows each change
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        while not ready() and loop.time() < begin_s + timeout_s:
            left_s = min(begin_s + timeout_s - loop.time(), 3600.0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left_s)
        self._paused_s += loop.time() - begin_s

    async def run(self) -> None:
        readers = self.owner.readers(self.exchanges)
        loop = asyncio.get_running_loop()
        speed, begin_s, first_ns = self.owner.speed, loop.time(), 0
        try:
            for reader, record in merge(readers):
                if not self.owner.clients and not self.listeners():
                    await self._pause_until(lambda: bool(self.listeners()), math.inf)
                if math.isfinite(speed):
                    first_ns = first_ns or record.received_ns
                    due = begin_s + self._paused_s + (record.received_ns - first_ns) / 1e9 / speed
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
            if record.path in fact_paths(exchange):
                self.newest.answers[record.path] = record.payload
            symbol = snapshot_symbol(exchange, record)
            if symbol is not None:
                await self._snapshot(exchange, symbol)

    async def _frame(self, exchange: str, payload: bytes) -> None:
        what = label(exchange, payload)
        if not what.kinds:
            return
        self.newest.keep(what, payload)
        for connection in self.targets():
            if connection.exchange != exchange or not connection.is_open:
                continue
            kind = next((k for k in what.kinds if connection.session.wants(k, what.symbol)), None)
            if kind is not None:
                spelled = connection.session.spelled(kind, what, payload)
                connection.deliver(spelled, kind, what.symbol)
                self.sent += 1
                await connection.drain()

    def wants_book(self, exchange: Exchange, symbol: str) -> bool:
        """Return whether a connected client builds a book of a symbol."""
        return any(
            connection.is_open
            and connection.exchange == exchange.NAME
            and _has_book(exchange, symbol, connection.session.subscription)
            for connection in self.targets()
        )

    def wanted_book(self, exchange: Exchange, symbol: str) -> bool:
        """Return whether a symbol's book is part of this run, with or without clients."""
        return _has_book(exchange, symbol, self.kinds)

    async def _snapshot(self, exchange: str, symbol: str) -> None:
        key = exchange, symbol
        if key in self.pending and self.wants_book(exchange_named(exchange), symbol):
            await self._pause_until(lambda: key not in self.pending, self.owner.hold_s)
        self.pending.discard(key)

    async def depth(self, exchange: Exchange, symbol: str, levels: int) -> bytes | None:
        """Return the snapshot for a request at the current position."""
        if (exchange.NAME, symbol) in self.pending:
            # an early answer is correct: the client keeps updates until the stream reaches it
            self.pending.discard((exchange.NAME, symbol))
            self.notify()
            return self.owner.indices[exchange.NAME].snapshots[symbol]
        return await self.books.at(self.position, exchange, symbol, levels)


def _has_book(exchange: Exchange, symbol: str, kinds: Iterable[tuple[str, str]]) -> bool:
    return any(
        kind.startswith(exchange.BOOK_KIND) and name.upper() == symbol.upper()
        for kind, name in kinds
    )


class PlayedBooks:
    """The books along recordings: each record is read once for all requests.

    A request reads on from the position of the last request, in a thread.
    """

    def __init__(self, owner: Playback, exchanges: Sequence[str]) -> None:
        self._owner = owner
        self._exchanges = exchanges
        self._recorded = RecordedBooks()
        self._readers: list[FeedReader] = []
        self._records: Iterator[tuple[FeedReader, Record]] | None = None
        # a record already read, beyond the requested position
        self._ahead: tuple[FeedReader, Record] | None = None
        # number of records of the chosen part that the books contain
        self._played = 0
        self._lock = asyncio.Lock()

    async def at(self, position: int, exchange: Exchange, symbol: str, levels: int) -> bytes | None:
        """Return a book after `position` records, None without a book.

        Args: position: not less than in the last request.
        """
        async with self._lock:
            return await asyncio.to_thread(self._at, position, exchange, symbol, levels)

    def close(self) -> None:
        """Close the recordings; a later request starts again."""
        for reader in self._readers:
            reader.close()
        self._readers, self._records, self._ahead = [], None, None
        self._recorded, self._played = RecordedBooks(), 0

    def _at(self, position: int, exchange: Exchange, symbol: str, levels: int) -> bytes | None:
        while (found := self._next(position)) is not None:
            self._recorded.take(exchange_named(found[0].exchange), found[1])
        book = self._recorded.books.get((exchange.NAME, symbol.upper()))
        return book.answer(levels) if book is not None and book.id else None

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


def _restarts(exchange: Exchange, snapshot: bytes) -> bool:
    book = exchange.recorded_book()
    return book is not None and book.restart(snapshot)


class Playback(Source):
    """Serve recordings.

    Args:
        paths: feeds of any exchanges.
        speed: times real time, math.inf = as fast as the clients read.
        clients: 0 = each set of subscriptions is played once and continues for clients that
            reconnect; N = one clock for all, once N clients have subscribed.
        loop: start again at the end; connections are closed (1001) before.
        start_ns, end_ns: part of the recordings. hold_s: how long a run waits for a request.
        on_finish: called with the facts of each run.
    """

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
            raise FeedError("replay: expected at least one feed, found none")
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
        self.pending: set[tuple[str, str]] = set()
        # newest frames and trades before the beginning
        self.before = Newest()
        for path in self.paths:
            self._read_index(path)
            if start_ns:
                self._read_before(path)
        self.exchanges = tuple(self.by_exchange)
        self._playing: dict[Key, Playing] = {}
        # snapshots that were requested before anything was played
        self.requested_early: set[tuple[str, str]] = set()
        self._settling: dict[Connection, asyncio.Task[None]] = {}
        # exchange -> books for requests before anything is played
        self._first_books: dict[str, PlayedBooks] = {}

    def _read_index(self, path: Path) -> None:
        with FeedReader(path, start_ns=self.start_ns, end_ns=self.end_ns) as reader:
            module = exchange_named(reader.exchange)
            exchange = module.NAME
            self.by_exchange.setdefault(exchange, []).append(path)
            index = self.indices.setdefault(exchange, Index())
            for n, record in enumerate(reader):
                if n >= INDEX_RECORDS:
                    break
                symbol = snapshot_symbol(exchange, record)
                if symbol is not None:
                    # the recorded answer may be an error
                    if symbol not in index.snapshots and _restarts(module, record.payload):
                        index.snapshots[symbol] = record.payload
                        self.pending.add((exchange, symbol))
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
                        self.before.keep(what, record.payload)

    def has_frames(self) -> bool:
        """Return whether there are frames to play."""
        for reader in self.readers(self.exchanges):
            with reader:
                if any(record.direction == "<" for record in reader):
                    return True
        return False

    def readers(self, exchanges: Sequence[str], *, whole: bool = False) -> list[FeedReader]:
        """Open the feeds of some exchanges: the chosen part, or all records before its end."""
        start_ns = 0 if whole else self.start_ns
        return [
            FeedReader(path, start_ns=start_ns, end_ns=self.end_ns)
            for exchange in exchanges
            for path in self.by_exchange.get(exchange, [])
        ]

    # source

    async def stop(self) -> None:
        for playing in self._playing.values():
            playing.books.close()
        for books in self._first_books.values():
            books.close()

    def connected(self, connection: Connection) -> None:
        connection.session.changed = lambda added: self._subscribed(connection)
        if connection.session.subscription:
            self._subscribed(connection)

    def disconnected(self, connection: Connection) -> None:
        self._unsettle(connection)
        for playing in self._playing.values():
            if connection in playing.audience:
                playing.audience.remove(connection)

    def _unsettle(self, connection: Connection) -> None:
        settling = self._settling.pop(connection, None)
        if settling is not None:
            self.server.tasks.drop(settling)

    def _subscribed(self, connection: Connection) -> None:
        connection.data["subscribed"] = True
        if self.clients:
            ready = [c for c in self.server.all_connections() if c.data.get("subscribed")]
            if len(ready) >= self.clients and None not in self._playing:
                playing = self._begin(None, self.exchanges)
                playing.targets = self.server.all_connections
        elif not connection.data.get("listens"):
            self._unsettle(connection)
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
        # a finished run without a listener makes room
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
        playing.pending -= self.requested_early
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
            # a client that reconnects starts from the beginning
            self._drop(key)
            for connection in playing.targets():
                connection.session.end(1001, "end of recording", 0.0)

    # REST

    def newest(self, exchange: Exchange, symbol: str) -> Playing | None:
        """Return the run for a request.

        This is a run whose clients build the symbol's book, else a run whose former clients built
        it, else the newest run.
        """
        found = [one for one in self._playing.values() if exchange.NAME in one.exchanges]
        ranked = sorted(
            found,
            key=lambda one: (one.wants_book(exchange, symbol), one.wanted_book(exchange, symbol)),
        )
        return ranked[-1] if ranked else None

    async def rest(
        self,
        exchange: str,
        path: str,
        query: dict[str, str],
        *,
        stale: bool = False,
        micro: bool = False,
    ) -> Answer:
        module = exchange_named(exchange)
        request = module.request_of(f"{path}?{urlencode(query)}") if module.UPDATES else None
        book = None if request is None else await self._book(module, request, stale=stale)
        playing = self.newest(module, query.get("symbol", ""))
        newest = self.before if playing is None else playing.newest
        asked = f"{path}?{urlencode(query)}" if query else path
        if asked in fact_paths(exchange):
            recorded = newest.answers.get(asked)
            return answer({}, 404) if recorded is None else answer(recorded)
        recording = RequestedRecording(self.indices[exchange].symbols, newest, book)
        status, content = module.answer(recording, path, query, now_ns())
        return answer(content, status)

    async def _book(self, exchange: Exchange, request: Request, *, stale: bool) -> bytes | None:
        # a stale answer is the first snapshot of the recording
        symbol, levels = request.symbols[0], exchange.STREAM_DEPTH
        snapshot = self.indices[exchange.NAME].snapshots.get(symbol)
        if stale and snapshot:
            return snapshot
        playing = self.newest(exchange, symbol)
        if playing is not None:
            return await playing.depth(exchange, symbol, levels)
        if snapshot:
            self.requested_early.add((exchange.NAME, symbol))
            return snapshot
        books = self._first_books.setdefault(exchange.NAME, PlayedBooks(self, (exchange.NAME,)))
        return await books.at(0, exchange, symbol, levels)
