"""`coinspace probe`: watch an exchange for a while and check every fact that the code relies on.

A fact has a name, a verdict and a detail. "unseen" means that the time was too short or the market
too quiet for a verdict.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from picows import (
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from coinspace.clock import DAY_NS, SECOND_NS, now_ns
from coinspace.collector.collection import tls_context
from coinspace.collector.fetcher import Fetcher, RefusedError
from coinspace.collector.markets import resolve
from coinspace.collector.orderbook import snapshot_levels
from coinspace.errors import UNREADABLE
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.exchange import (
    CHANNELS,
    DISORDER_NS,
    Exchange,
    Heard,
    Request,
    RestTrade,
    Stream,
    TradePage,
    Trial,
)
from coinspace.exchanges.facts import Network
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.text import shown_address

Verdict = Literal["pass", "fail", "unseen"]
ORDERBOOK, TICKER, TRADE, CONTROL, MALFORMED = 1, 2, 3, 5, 7
# clocks of exchange and host may differ by this much
CLOCK_TOLERANCE_NS = 5 * SECOND_NS
UNKNOWN_SYMBOL_S = 5.0
# updates are collected for this time around a snapshot
SNAPSHOT_S = 3.0
# wait for frames that should not come
SILENCE_S = 2.0
# longest delay of a ping of the server
PING_LATE_S = 5.0


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact and its verdict."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(slots=True)
class Seen:
    """Data that one connection delivered."""

    opcodes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[int] = field(default_factory=Counter)
    symbols: dict[int, set[str]] = field(default_factory=dict)
    first_frames: dict[tuple[int, str], bool] = field(default_factory=dict)
    backwards: int = 0
    crossed: int = 0
    gaps: int = 0
    # whole books; those with an id; those whose id is lower than the one before
    whole: int = 0
    with_ids: int = 0
    falling: int = 0
    trade_gaps: int = 0
    trade_ids: list[int] = field(default_factory=list)
    # symbol -> volume of its trades so far
    traded: dict[str, float] = field(default_factory=dict)
    # symbol -> (volume of the day, volume of its trades so far) at each ticker
    days: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    # symbol -> first and last update id
    updates: dict[str, tuple[int, int]] = field(default_factory=dict)
    finest_ns: int = 10**9
    clock_ns: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    malformed: list[bytes] = field(default_factory=list)
    controls: list[Any] = field(default_factory=list)
    close: str = ""
    pings: int = 0
    pongs: int = 0


class Watcher(WSListener):
    """Notes everything that arrives; slow and thorough."""

    def __init__(self, exchange: Exchange, seen: Seen) -> None:
        self.parser = exchange.parser(exchange.STREAM_DEPTH)
        self.exchange = exchange
        self.seen = seen
        self.closed = asyncio.Event()
        self._times: dict[tuple[int, str], int] = {}
        self._last: dict[str, int] = {}
        self._trades: dict[str, int] = {}

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.PING:
            self.seen.pings += 1
            return
        if kind == WSMsgType.PONG:
            self.seen.pongs += 1
            return
        if kind == WSMsgType.CLOSE:
            code = int(frame.get_close_code().value)
            self.seen.close = f"{code} {frame.get_close_reason() or ''}"
            self.transport.disconnect()
            return
        self.seen.opcodes[kind.name] += 1
        self._note(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed.set()

    def _note(self, payload: bytes) -> None:
        parser, seen = self.parser, self.seen
        if not parser.parse(payload):
            return
        kind, symbol = parser.kind, parser.symbol_name or ""
        seen.kinds[kind] += 1
        if kind == MALFORMED:
            seen.malformed.append(payload[:120])
        elif kind == CONTROL:
            seen.controls.append(orjson.loads(payload))
        elif kind in (ORDERBOOK, TICKER, TRADE):
            seen.symbols.setdefault(kind, set()).add(symbol)
            seen.first_frames.setdefault((kind, symbol), bool(parser.snapshot))
            self._note_time(kind, symbol, parser.exchange_ns)
            if kind == ORDERBOOK:
                self._note_book(symbol)
            elif kind == TRADE:
                self._note_trade(symbol)
            elif not math.isnan(parser.day_volume):
                day = (parser.day_volume, seen.traded.get(symbol, 0.0))
                seen.days.setdefault(symbol, []).append(day)

    def _note_time(self, kind: int, symbol: str, exchange_ns: int) -> None:
        if exchange_ns:
            self.seen.backwards += exchange_ns < self._times.get((kind, symbol), 0)
            self._times[kind, symbol] = exchange_ns
            self.seen.clock_ns.append(now_ns() - exchange_ns)
            for unit in (1, 1_000, 1_000_000):
                if exchange_ns % (1_000 * unit):
                    self.seen.finest_ns = min(self.seen.finest_ns, unit)
                    break

    def _note_book(self, symbol: str) -> None:
        parser, seen = self.parser, self.seen
        seen.depths.append(max(parser.n_bids, parser.n_asks))
        if parser.snapshot:
            seen.whole += 1
            if parser.n_bids and parser.n_asks:
                seen.crossed += bool(parser.bids[0, 0] >= parser.asks[0, 0])
            if parser.final_update_id:
                seen.with_ids += 1
                seen.falling += parser.final_update_id < self._last.get(symbol, 0)
                self._last[symbol] = parser.final_update_id
        else:
            last = self._last.get(symbol)
            seen.gaps += last is not None and parser.first_update_id != last + 1
            self._last[symbol] = parser.final_update_id
            first = seen.updates.get(symbol, (parser.first_update_id, 0))[0]
            seen.updates[symbol] = (first, parser.final_update_id)

    def _note_trade(self, symbol: str) -> None:
        last = self._trades.get(symbol)
        self.seen.trade_gaps += last is not None and self.parser.trade_id != last + 1
        self._trades[symbol] = self.parser.trade_id
        self.seen.trade_ids.append(self.parser.trade_id)
        self.seen.traded[symbol] = self.seen.traded.get(symbol, 0.0) + self.parser.size


class Probe:
    """Checks the facts of one exchange."""

    def __init__(self, name: str, settings: ExchangeSettings, seconds: float) -> None:
        self.exchange = exchange_named(name)
        self.settings = settings
        self.seconds = seconds
        self.facts: list[Fact] = []
        self._trade_ids: set[int] = set()
        self._tls: ssl.SSLContext | None = tls_context(settings)
        self._fetcher = Fetcher(self.exchange, settings.rest, ssl_context=self._tls)

    async def run(self) -> list[Fact]:
        """Check everything; a failure is a fact, not an exception."""
        try:
            symbols = await self._check_markets()
            for stream in ("orderbook", "ticker"):
                seen = await self._watch(stream, symbols)
                if seen is not None:
                    self._judge_stream(stream, symbols, seen)
                    if stream == "ticker":
                        self._trade_ids = set(seen.trade_ids)
                    elif symbols and self.exchange.UPDATES and not seen.whole:
                        await self._check_snapshot(symbols[0])
            for trial in self.exchange.trials(self.settings, symbols[0] if symbols else ""):
                await self._try(trial)
            await self._check_rest(symbols)
            await self._check_facts()
        finally:
            await self._fetcher.close()
        return self.facts

    def _add(self, name: str, seen: bool, good: bool, detail: str) -> None:
        verdict: Verdict = "unseen" if not seen else "pass" if good else "fail"
        self.facts.append(Fact(name, verdict, detail))

    async def _read(self, name: str, request: Request) -> list[Any] | None:
        # what REST answers; None after a failure, which is a failed fact
        try:
            payload = await self._fetcher.get(request)
            if request.purpose == "markets":
                return self.exchange.read_markets(payload)
            if request.purpose == "trades":
                return self.exchange.read_trades(request, payload, now_ns())
            return self.exchange.read_books(request, payload)
        except (RefusedError, *UNREADABLE) as error:
            self._add(name, True, False, f"{error!r}")
            return None

    async def _check_markets(self) -> list[str]:
        plain = [market for market in self.settings.markets if "*" not in market]
        listings = await self._read("market list by REST", self.exchange.markets_request())
        if listings is None:
            return [symbol for symbol, _ in resolve(self.exchange, plain, None)] if plain else []
        entries = resolve(self.exchange, self.settings.markets, listings)
        offered = {listing.symbol for listing in listings}
        missing = [market for symbol, market in entries if symbol not in offered]
        self._add("market list by REST", True, bool(listings), f"{len(listings)} markets")
        self._add(
            "configured markets are offered",
            True,
            not missing,
            f"missing: {', '.join(missing)}" if missing else f"{len(entries)} markets",
        )
        return [symbol for symbol, _ in entries if symbol in offered]

    async def _connect(
        self, url: str, seen: Seen, headers: tuple[tuple[str, str], ...] = ()
    ) -> Watcher | None:
        try:
            _, watcher = await ws_connect(
                lambda: Watcher(self.exchange, seen),
                url,
                ssl_context=self._tls,
                disconnect_on_exception=False,
                extra_headers=headers,
            )
        except (OSError, WSError, TimeoutError) as error:
            response = error.response if isinstance(error, WSHandshakeError) else None
            status = response.status if response else ""
            self._add("WebSocket connects", True, False, f"{status} {error}".strip())
            return None
        assert isinstance(watcher, Watcher)
        return watcher

    async def _watch(self, stream: Stream, symbols: list[str]) -> Seen | None:
        seen = Seen()
        first = self.exchange.subscriptions(self.settings, CHANNELS[stream], symbols)[0]
        watcher = await self._connect(first.url, seen)
        if watcher is None:
            return None
        self._add(
            f"{stream}: WebSocket connects", True, True, shown_address(first.url.partition("?")[0])
        )
        for frame in first.frames:
            watcher.transport.send(WSMsgType.TEXT, frame)
            await asyncio.sleep(0.35)
        if not self.exchange.PING_FRAME:
            watcher.transport.send_ping(b"coinspace")
        try:
            await asyncio.wait_for(watcher.closed.wait(), self.seconds)
        except TimeoutError:
            watcher.transport.disconnect()
        return seen

    def _judge_stream(self, stream: Stream, symbols: list[str], seen: Seen) -> None:
        add = self._add
        frames = sum(seen.opcodes.values())
        opcode = "BINARY" if self.exchange.BINARY_FRAMES else "TEXT"
        add(
            f"{stream}: frames are {opcode}",
            frames > 0,
            set(seen.opcodes) == {opcode},
            f"{dict(seen.opcodes)}",
        )
        add(
            f"{stream}: every frame can be read",
            frames > 0,
            not seen.malformed,
            f"{frames} frames, {len(seen.malformed)} malformed {seen.malformed[:1]}",
        )
        if not self.exchange.PING_FRAME:
            add(f"{stream}: pings are answered", seen.pongs > 0, True, f"{seen.pongs} pongs")
        if self.exchange.SERVER_PING_S:
            add(
                f"{stream}: the server pings every {self.exchange.SERVER_PING_S:g} s",
                self.seconds > self.exchange.SERVER_PING_S + PING_LATE_S,
                seen.pings > 0,
                f"{seen.pings} pings in {self.seconds:g} s",
            )
        for kind, label in ((ORDERBOOK, "book"), (TICKER, "ticker"), (TRADE, "trade")):
            if (kind == ORDERBOOK) == (stream == "orderbook"):
                silent = sorted(set(symbols) - seen.symbols.get(kind, set()))
                add(
                    f"{label}: every market sends a first frame",
                    frames > 0,
                    not silent or not self.exchange.FIRST_FRAMES,
                    f"silent: {', '.join(silent)}" if silent else f"{len(symbols)} markets",
                )
        add(
            f"{stream}: times do not go backwards",
            bool(seen.clock_ns),
            not seen.backwards,
            f"{seen.backwards} of {len(seen.clock_ns)}",
        )
        newest = min(seen.clock_ns, default=0)
        add(
            f"{stream}: times are UTC and in the unit expected",
            bool(seen.clock_ns),
            abs(newest) < CLOCK_TOLERANCE_NS,
            f"smallest age {newest / 1e6:.1f} ms",
        )
        if stream == "orderbook":
            self._judge_books(seen)
        else:
            self._judge_trades(seen)

    def _judge_books(self, seen: Seen) -> None:
        books = len(seen.depths)
        if self.exchange.UPDATES and not self.exchange.SNAPSHOTS_IN_STREAM:
            self._add("updates follow each other", books > 10, not seen.gaps, f"{seen.gaps} gaps")
            return
        deepest = max(seen.depths, default=0)
        self._add(
            f"books have at most {self.exchange.STREAM_DEPTH} levels",
            books > 0,
            deepest <= self.exchange.STREAM_DEPTH,
            f"deepest {deepest}",
        )
        self._add("books are not crossed", books > 0, not seen.crossed, f"{seen.crossed} crossed")
        if seen.with_ids:
            self._add("ids of books rise", books > 10, not seen.falling, f"{seen.falling} fall")
        firsts = [first for (kind, _), first in seen.first_frames.items() if kind == ORDERBOOK]
        self._add(
            "the first book is a whole one",
            bool(firsts),
            all(firsts),
            f"{sum(firsts)}/{len(firsts)}",
        )

    def _judge_trades(self, seen: Seen) -> None:
        ids, trades = seen.trade_ids, f"{len(seen.trade_ids)} trades"
        if self.exchange.CONTIGUOUS_TRADES:
            self._add("trade ids count up by one", len(ids) > 10, not seen.trade_gaps, trades)
        else:
            self._add("trade ids are unique", len(ids) > 10, len(set(ids)) == len(ids), trades)
            self._judge_volumes(seen)
        if self.exchange.UPDATES and self.settings.microseconds:
            self._add("trade times are in µs", len(ids) > 10, seen.finest_ns <= 1_000, trades)

    def _judge_volumes(self, seen: Seen) -> None:
        # the difference is constant over further trades, unless trades are missing
        proven = failed = 0
        for days in seen.days.values():
            steady: dict[float, set[float]] = {}
            for day, traded in days:
                key = round(day - traded, 8)
                steady.setdefault(key, set()).add(traded)
            best = max((len(found) for found in steady.values()), default=0)
            proven += best > 1
            failed += best < 2 and len({traded for _, traded in days}) > 5
        self._add(
            "the volume of the day grows by what is traded",
            bool(proven or failed),
            not failed,
            f"{proven} markets, {failed} not",
        )

    async def _check_snapshot(self, symbol: str) -> None:
        seen = Seen()
        url = self.exchange.subscriptions(self.settings, CHANNELS["orderbook"], [symbol])[0].url
        watcher = await self._connect(url, seen)
        if watcher is None:
            return
        name = "a REST snapshot fits into the stream"
        settings = self.settings
        levels = snapshot_levels(self.exchange, settings.depth, settings.snapshot_depth)
        await asyncio.sleep(SNAPSHOT_S / 2)
        books = await self._read(name, self.exchange.snapshot_request(symbol, levels))
        await asyncio.sleep(SNAPSHOT_S / 2)
        watcher.transport.disconnect()
        if books is None:
            return
        (book,) = books
        first, last = seen.updates.get(symbol, (0, 0))
        self._add(
            name,
            first > 0,
            first <= book.version + 1 and book.version <= last,
            f"{book.version} in {first} to {last}, {len(book.bids)} bids",
        )

    async def _try(self, trial: Trial) -> None:
        seen = Seen()
        watcher = await self._connect(trial.url, seen, trial.headers)
        if watcher is None:
            return
        before = 0
        for frame in trial.frames:
            before = seen.kinds[ORDERBOOK]
            watcher.transport.send(WSMsgType.TEXT, frame)
            await asyncio.sleep(SILENCE_S / 2)
        if len(trial.frames) > 1:
            # frames for the first subscription may still have been on their way
            before = seen.kinds[ORDERBOOK]
        try:
            await asyncio.wait_for(watcher.closed.wait(), UNKNOWN_SYMBOL_S)
        except TimeoutError:
            watcher.transport.disconnect()
        heard = Heard(before, seen.kinds[ORDERBOOK] - before, seen.controls, seen.close)
        detail = (
            f"{heard.before} books before, {heard.after} after, {heard.controls[:1]}"
            f" close {heard.close or 'none'}"
        )
        for name, judged in trial.facts.items():
            self._add(name, *judged(heard), detail)

    async def _check_rest(self, symbols: list[str]) -> None:
        if not symbols:
            return
        requests = [
            *self.exchange.compare_requests(symbols)[:1],
            self.exchange.trades_request(symbols[0]),
        ]
        for request in requests:
            label = f"REST {request.purpose}"
            read = await self._read(label, request)
            if read is None:
                continue
            self._add(label, True, bool(read), f"{len(read)} entries")
            if request.purpose == "trades" and read:
                age = (now_ns() - read[-1].exchange_ns) / SECOND_NS
                self._add("REST trade times are UTC", True, -5 < age < 86_400, f"age {age:.1f} s")
                if self.exchange.REST_HEADERS:
                    fine = sum(trade.exchange_ns % 1_000_000 > 0 for trade in read)
                    detail = f"{fine} of {len(read)} trades"
                    self._add("REST trade times are in µs", len(read) > 10, fine > 0, detail)
                self._judge_ids(read)
                await self._check_older(request, read)
        used = {
            name: int(count)
            for name, count in self._fetcher.counters().items()
            if name.startswith("rest_address_used")
        }
        for limit in self.exchange.ADDRESS_LIMITS.values():
            self._add(f"answers have {limit.header}", True, all(used.values()), f"{used}")
        await self._check_bad_code(symbols[0])
        await self._check_groups(symbols)

    async def _check_facts(self) -> None:
        for source in self.exchange.FACTS:
            name = f"facts by REST: {', '.join(source.parts)} ({source.request.path})"
            try:
                payload = await self._fetcher.get(source.request)
                said = self.exchange.read_facts(source.request, payload)
            except (RefusedError, *UNREADABLE) as error:
                self._add(name, True, False, f"{error!r}")
                continue
            counts = [
                f"{len(found)} {part}" if isinstance(found, Mapping) else f"{part} {found}"
                for part, found in ((part, getattr(said, part)) for part in source.parts)
            ]
            detail = f"{', '.join(counts)}, {said.unread} rows that cannot be read"
            self._add(name, True, not said.unread, detail)
            if said.wallets is not None:
                self._judge_wallets(said.wallets)

    def _judge_wallets(self, wallets: Mapping[str, Sequence[Network]]) -> None:
        states = [
            state
            for networks in wallets.values()
            for one in networks
            for state in (one.deposit, one.withdraw)
        ]
        unknown = states.count(None)
        detail = f"{states.count(False)} closed, {unknown} unknown of {len(states)}"
        self._add("states of wallets are known words", bool(states), not unknown, detail)

    def _judge_ids(self, trades: list[RestTrade]) -> None:
        shared = len(self._trade_ids & {trade.trade_id for trade in trades})
        wanted = self.exchange.JOINABLE_TRADES
        self._add(
            "REST trades carry the ids of the stream"
            if wanted
            else "REST trades have other ids than the stream",
            len(self._trade_ids) > 10,
            bool(shared) == wanted,
            f"{shared} of {len(trades)}",
        )

    async def _check_older(self, request: Request, trades: list[RestTrade]) -> None:
        oldest, name = trades[0], "older trades by REST"
        page = TradePage(request, trades, True, oldest, 0, now_ns())
        older = self.exchange.older_trades_request(page)
        read = None if older is None else await self._read(name, older)
        if older is None or read is None:
            return
        known = {trade.trade_id for trade in trades}
        latest_ns = max(trade.exchange_ns for trade in trades)
        # without those made since the page before
        further = [
            trade
            for trade in read
            if trade.trade_id not in known and trade.exchange_ns <= latest_ns
        ]
        newest_ns = max((trade.exchange_ns for trade in further), default=0)
        shared = sum(trade.trade_id in known for trade in read)
        detail = f"{len(further)} further ones, {shared} of the page before"
        self._add(name, bool(further), newest_ns <= oldest.exchange_ns + DISORDER_NS, detail)
        await self._check_day_before(older, oldest)

    async def _check_day_before(self, older: Request, oldest: RestTrade) -> None:
        # pages without a further trade lead to the day before, where trades are listed by day
        name, request = "trades of the day before by REST", older
        for _ in range(2):
            page = TradePage(request, [], False, oldest, 0, now_ns())
            found = self.exchange.older_trades_request(page)
            if found is None or getattr(found.place, "days_ago", None) is None:
                return
            request = found
            if request.place.days_ago:
                break
        read = await self._read(name, request)
        if read is not None:
            span_ns = (read[-1].exchange_ns - read[0].exchange_ns) if read else 0
            age_s = (now_ns() - read[-1].exchange_ns) / SECOND_NS if read else 0
            good = span_ns <= DAY_NS and age_s < 2 * 86_400
            self._add(name, bool(read), good, f"{len(read)} trades, newest {age_s:.0f} s old")

    async def _check_groups(self, symbols: list[str]) -> None:
        grouping = self.exchange.GROUPING
        if grouping is None or grouping.request is None or grouping.read is None:
            return
        name = "list of price groups by REST"
        try:
            found = grouping.read(await self._fetcher.get(grouping.request(symbols)))
        except (RefusedError, *UNREADABLE) as error:
            self._add(name, True, False, f"{error!r}")
        else:
            self._add(name, True, any(found.values()), f"{len(found)} markets")

    async def _check_bad_code(self, symbol: str) -> None:
        name, request = self.exchange.bad_request(symbol)
        try:
            answer = (await self._fetcher.get(request))[:80].decode(errors="replace")
            self._add(name, True, False, answer)
        except RefusedError as error:
            self._add(name, True, error.refusal.fatal, error.refusal.text)


async def run_probe(name: str, settings: ExchangeSettings, seconds: float) -> list[Fact]:
    """Probe one exchange for about twice `seconds`."""
    if settings.format == "sbe":
        # the JSON streams are judged; the exchange's trials have the binary ones
        settings = settings.model_copy(update={"format": "SIMPLE"})
    return await Probe(name, settings, seconds).run()
