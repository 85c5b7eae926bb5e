"""Binance spot: a REST snapshot and book updates every 100 ms, in SBE every 20 ms; trade ids count
up by one.

Comments name the section of the exchange's documentation that the code relies on:
https://developers.binance.com/docs/binance-spot-api-docs (WebSocket Streams, REST API).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, quote

import orjson

from coinspace.errors import MarketError
from coinspace.exchanges import binance_sbe as sbe
from coinspace.exchanges.exchange import (
    MALFORMED,
    MOST_ID,
    NOTHING,
    AddressLimit,
    Channel,
    FactSource,
    Heard,
    Identity,
    Label,
    Limit,
    Listing,
    Load,
    Rates,
    RecordedBook,
    Recording,
    Refusal,
    Request,
    RestBook,
    RestTrade,
    Subscription,
    TradePage,
    Trial,
    chunks,
    epoch_ns,
    finite,
    number,
    plain,
    said,
    shaped,
    short_name,
)
from coinspace.exchanges.facts import Said, Trading, firsts, name_of, rows
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import ASSETS, Market, joined_symbol
from coinspace.text import is_binary

NAME = "binance"
ORDER = 3
REGION = "GL"
QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "BTC", "ETH", "BNB", "EUR", "TRY")
SETTINGS = ExchangeSettings(
    websocket="wss://stream.binance.com:9443",
    rest="https://api.binance.com",
    markets=[f"{base}/USDT" for base in ASSETS],
    # In recordings of BTC and ETH, 500 levels reach 0.15 % and 0.35 % of the price: as far as the
    # 15 and 30 levels of the Korean venues. A curve with `depth = "coverage"` does not look
    # further. Where Binance is the only venue, values with 500 levels differ from those with 1,000
    # levels by 8 ppm (BTC) and 19 ppm (ETH) in the median; with 200 levels by 26 and 20 ppm. A
    # message has 32 bytes per level, and these messages fill most of the journal.
    depth=500,
)
BY_DEFAULT = True
# names that mean several units of an asset
IDENTITIES = (
    Identity(NAME, "1000SATS", "SATS", 1000.0),
    Identity(NAME, "1000CAT", "CAT", 1000.0),
    Identity(NAME, "1000CHEEMS", "CHEEMS", 1000.0),
    Identity(NAME, "1MBABYDOGE", "BABYDOGE", 1_000_000.0),
)
COLOURS = ("#f0c93d", "#c49a00")
LOAD = Load(Rates(10, 1, 20), Rates(10, 1, 0.8), {"USDT": 450})
# published at binance.com, "Fee Schedule", spot, for accounts without a discount
TAKER_FEE = 0.001
PROTOCOL = "binance"
# "How to manage a local order book correctly" (WebSocket Streams): updates are applied to a REST
# snapshot
UPDATES = True
SNAPSHOTS_IN_STREAM = False
# BTCUSDT does not show where its base ends: the list of markets has base and quote
NAMED_SYMBOLS = True
BOOK_KIND = "depth"
CONTIGUOUS_TRADES = True
JOINABLE_TRADES = True
STREAM_DEPTH = 5000
PING_INTERVAL_S = 20.0
PING_FRAME = b""
QUIET_MARKETS = False
# "General WSS information": the server sends a ping frame every 20 s and ends a connection without
# a pong within a minute
SERVER_PING_S = 20.0
# "General WSS information": a connection is valid for 24 hours; it may end earlier, announced by
# `serverShutdown`
LIFETIME_S = 24 * 3600.0
BINARY_FRAMES = False
# the stream of a quiet market sends nothing at first
FIRST_FRAMES = False
# "WebSocket limits": 300 connections per address in 5 minutes
CONNECT_LIMIT = Limit(300, 300.0)
# "WebSocket limits": 5 incoming messages a second; pings, pongs and JSON controls count. One
# message per 300 ms leaves room for a pong in every second
MESSAGE_LIMITS = (Limit(1, 0.3),)
# "Limits" (REST API): weight 6,000 a minute, of which CoinSpace uses 80 %
REST_LIMITS = {"weight": Limit(4800, 60.0)}
# "Timing" (REST API): times in µs instead of ms, as in the streams
REST_HEADERS = {"X-MBX-TIME-UNIT": "MICROSECOND"}
# "General API Information": both serve market data only
MIRRORS = "rest = https://data-api.binance.vision, websocket = wss://data-stream.binance.vision"
# of the 6,000 of all programs; the rest is room for requests of others that are under way
ADDRESS_LIMITS = {"weight": AddressLimit("X-MBX-USED-WEIGHT-1M", 5400)}

# "WebSocket limits": a connection listens to at most 1,024 streams
STREAMS_PER_CONNECTION = 1000
# streams in the URL; SUBSCRIBE frames with as many each ask for the others
STREAMS_PER_FRAME = 100
STREAMS: dict[Channel, str] = {
    "orderbook": "depth@100ms",
    "top": "bookTicker",
    "ticker": "ticker",
    "trade": "trade",
}
# "Order book" (REST API, Market Data endpoints): levels asked for -> weight
DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
SNAPSHOT_STEPS = tuple(levels for levels, _ in DEPTH_WEIGHTS)
# levels of a snapshot when the request names no number
DEFAULT_LEVELS = 100
TRADES = 1000
AGGREGATES = "/api/v3/aggTrades"
# levels of a comparison, at the least weight. No snapshot has 99 levels, so a recorded request for
# them is a comparison, as is one for 5 levels in older recordings
COMPARED = 99
COMPARISONS = (COMPARED, 5)


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a parser of both formats with room for `capacity` levels per side.

    Args: markets: markets that the parser can name from their symbols.
    """
    from coinspace._ext.binance_sbe import BinanceSbeParser

    named = {symbol_of(Market.parse(text)): text for text in markets if "*" not in text}
    return BinanceSbeParser(capacity, markets=named)


def symbol_of(market: Market) -> str:
    return joined_symbol(market)


def market_of(symbol: str) -> Market | None:
    """Return None: a symbol does not show where its base ends."""
    return None


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the connections to make, each with at most 1,000 streams.

    "Live subscribing/unsubscribing to streams": streams in the URL need no message; SUBSCRIBE adds
    further ones. A stream that does not exist is acknowledged like any other and stays silent, so
    the stage watches for a first frame.

    In SBE there is no stream of tickers: they come in JSON beside the trades.
    """
    if not uses_sbe(settings):
        return json_subscriptions(settings, channels, symbols)
    binary = [channel for channel in channels if channel in sbe.STREAMS]
    rest = [channel for channel in channels if channel not in sbe.STREAMS]
    found = sbe_subscriptions(settings, binary, symbols) if binary else []
    beside = json_subscriptions(settings, rest, symbols) if rest else []
    return found + [replace(one, aside=bool(binary)) for one in beside]


def uses_sbe(settings: ExchangeSettings) -> bool:
    return settings.format == "sbe" and bool(settings.api_key.get_secret_value())


def sbe_subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the connections to the binary streams, each with the one that replaces it."""
    base = sbe.base_of(settings, SETTINGS.websocket)
    headers = ((sbe.HEADER, settings.api_key.get_secret_value()),)
    found = []
    for names in chunks(symbols, STREAMS_PER_CONNECTION // len(channels)):
        (fallback,) = json_subscriptions(settings, channels, names)
        url, frames = streams_of(base, [sbe.STREAMS[channel] for channel in channels], names)
        found.append(Subscription(url, frames, names, headers=headers, fallback=fallback))
    return found


def streams_of(
    base: str, kinds: Sequence[str], names: Sequence[str]
) -> tuple[str, tuple[bytes, ...]]:
    """Return the URL of a connection, and the frames that subscribe what does not fit into it."""
    # documented for addresses only: names beyond ASCII go into the URL, percent-encoded
    ordered = sorted(names, key=str.isascii)
    streams = [f"{name.lower()}@{kind}" for name in ordered for kind in kinds]
    first, *rest = chunks(streams, STREAMS_PER_FRAME)
    frames = tuple(
        orjson.dumps({"method": "SUBSCRIBE", "params": list(part), "id": index})
        for index, part in enumerate(rest, 1)
    )
    return f"{base}/stream?streams={quote('/'.join(first), safe='/@')}", frames


def json_subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the connections to the JSON streams."""
    kinds = [STREAMS[channel] for channel in channels]
    base = settings.websocket.rstrip("/").removesuffix("/stream").removesuffix("/ws")
    unit = "&timeUnit=MICROSECOND" if settings.microseconds else ""
    found = []
    for names in chunks(symbols, STREAMS_PER_CONNECTION // len(kinds)):
        url, frames = streams_of(base, kinds, names)
        found.append(Subscription(url + unit, frames, names))
    return found


def depth_weight(levels: int) -> int:
    """Return the weight of a request for a book."""
    return next(weight for most, weight in DEPTH_WEIGHTS if levels <= most)


# its stream has no price groups
GROUPING = None


def resubscribe_frames(symbol: str) -> tuple[bytes, ...]:
    """Return none: REST brings a snapshot."""
    return ()


def snapshot_request(symbol: str, levels: int) -> Request:
    """Request a snapshot of at most 5,000 levels per side."""
    path = f"/api/v3/depth?symbol={quote(symbol)}&limit={levels}"
    return Request("snapshot", path, "weight", depth_weight(levels), (symbol,), levels)


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request the best levels of each book: the answer has an update id and no symbol."""
    path = f"/api/v3/depth?limit={COMPARED}&symbol="
    return [Request("compare", path + quote(symbol), "weight", 5, (symbol,)) for symbol in symbols]


def trades_request(symbol: str) -> Request:
    path = f"/api/v3/trades?symbol={quote(symbol)}&limit={TRADES}"
    return Request("trades", path, "weight", 25, (symbol,))


def older_trades_request(page: TradePage) -> Request | None:
    """Request the trades before the oldest trade, None when there are none."""
    before = page.oldest
    if before is None or not page.fresh or not before.trade_id:
        return None
    first = max(0, before.trade_id - TRADES)
    count = before.trade_id - first
    symbol = quote(before.symbol)
    path = f"/api/v3/historicalTrades?symbol={symbol}&limit={count}&fromId={first}"
    return Request("trades", path, "weight", 25, (before.symbol,))


def aggregates_request(symbol: str, from_ns: int) -> Request | None:
    """Request trades from a time on.

    "Compressed/Aggregate trades list" (REST API): trades of one time, order and price are one
    aggregate with the first and last id; with only `startTime`, the oldest from that time on come.
    The mirrors have aggregates and no `historicalTrades`.
    """
    path = f"{AGGREGATES}?symbol={quote(symbol)}&startTime={from_ns // 1_000_000}&limit={TRADES}"
    return Request("trades", path, "weight", 4, (symbol,))


def markets_request() -> Request:
    return Request(
        "markets", "/api/v3/exchangeInfo?permissions=SPOT&showPermissionSets=false", "weight", 20
    )


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read the answer of a snapshot or compare request."""
    entry = orjson.loads(payload)
    bids, asks = (
        # older answers have a third element
        [(finite(price), finite(size)) for price, size, *_ in entry[side]]
        for side in ("bids", "asks")
    )
    return [RestBook(request.symbols[0], int(entry["lastUpdateId"]), bids, asks)]


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read the answer of a trades request, oldest first."""
    if request.path.startswith(AGGREGATES):
        return _read_aggregates(request.symbols[0], payload)
    trades = [
        RestTrade(
            request.symbols[0],
            int(entry["id"]),
            epoch_ns(int(entry["time"])),
            float(entry["price"]),
            float(entry["qty"]),
            bool(entry["isBuyerMaker"]),
        )
        for entry in orjson.loads(payload)
    ]
    trades.sort(key=lambda trade: trade.trade_id)
    return trades


def _read_aggregates(symbol: str, payload: bytes) -> list[RestTrade]:
    trades = []
    for entry in orjson.loads(payload):
        first, last = int(entry["f"]), int(entry["l"])
        if first > last:
            raise ValueError(f"aggregate: expected ids that rise, was {first} to {last}")
        price, size = float(entry["p"]), float(entry["q"])
        at_ns, sell = epoch_ns(int(entry["T"])), bool(entry["m"])
        trades.append(RestTrade(symbol, first, at_ns, price, size, sell, last - first + 1))
    trades.sort(key=lambda trade: trade.trade_id)
    return trades


def read_markets(payload: bytes) -> list[Listing]:
    """Read the answer of a markets request: only it has the base and quote of a symbol."""
    listings = []
    for entry in orjson.loads(payload)["symbols"]:
        try:
            symbol, status = str(entry["symbol"]), str(entry["status"])
            market = Market.parse(f"{entry['baseAsset']}/{entry['quoteAsset']}")
        except MarketError:
            # its name could be taken for another one
            continue
        listings.append(Listing(symbol, market, status == "TRADING", plain(status)))
    return listings


# facts beside the price

SYSTEM = "/sapi/v1/system/status"
# "Symbol status" (enums): what each status besides TRADING allows
STATUSES: dict[str, Trading] = {
    "TRADING": "open",
    "CANCEL_ONLY": "limited",
    "HALT": "suspended",
    "BREAK": "suspended",
    "END_OF_DAY": "suspended",
    "PRE_TRADING": "suspended",
    "POST_TRADING": "suspended",
    "AUCTION_MATCH": "limited",
}
# the states of wallets need a key; the mirror for market data has no system status
FACTS = (
    FactSource(markets_request(), ("trading",), 0),
    FactSource(Request("facts", SYSTEM, "weight", 1), ("whole",)),
)


def read_facts(request: Request, payload: bytes) -> Said:
    """Read the status of each symbol, or that of the whole exchange."""
    found = orjson.loads(payload)
    if request.path == SYSTEM:
        # "System Status": 0 = normal, 1 = maintenance
        status = found["status"]
        if status not in (0, 1) or not isinstance(status, int):
            raise ValueError(f"expected status 0 or 1, was {status!r}")
        return Said(whole=("suspended", "system maintenance") if status else ("open", ""))
    read, unread = rows(found["symbols"], lambda row: name_of(row["symbol"]), _trading)
    return Said(trading=firsts(read), unread=unread)


def _trading(row: Any) -> tuple[Trading, str]:
    status = name_of(row["status"])
    return STATUSES.get(status, "unknown"), "" if status == "TRADING" else status


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Return the refusal of an error frame, flat or wrapped."""
    error = detail.get("error", detail)
    if not isinstance(error, dict):
        error = {"msg": error}
    text = plain(f"{said(error.get('code'))}: {said(error.get('msg'))}")
    return Refusal(text, fatal="too many" not in text.lower())


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Return the refusal of a REST answer, None = the answer is good.

    "IP Limits" (REST API): 429 = a limit is broken, 418 = the address is banned: it did not stop.
    "HTTP Return Codes": 403 = the firewall, 5xx = a fault of the exchange.
    """
    if status == 200:
        return None
    text = f"HTTP {status}"
    try:
        body = orjson.loads(payload)
        text += f" {said(body['code'])}: {said(body['msg'])}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text += f" {payload[:80].decode(errors='replace')}"
    text = plain(text)
    return Refusal(text, fatal=status not in (403, 418, 429) and status < 500)


# recordings

_STREAM = re.compile(rb'^\s*\{\s*"stream"\s*:\s*"([^"]*)"\s*,\s*"data"\s*:\s*')
_EVENT = re.compile(rb'^\s*\{\s*"e"\s*:\s*"([^"]*)".{0,60}?"s"\s*:\s*"([^"]*)"')
_TOP = re.compile(rb'^\s*\{\s*"u"\s*:\s*\d+\s*,\s*"s"\s*:\s*"([^"]*)"')
_UPDATE_IDS = re.compile(rb'"U"\s*:\s*(\d+)\s*,\s*"u"\s*:\s*(\d+)')
_TRADE_ID = re.compile(rb'"t"\s*:\s*(\d+)')
# event of a raw frame -> names of streams that send it
EVENTS = {
    "depthUpdate": ("depth@100ms", "depth", "depth@1000ms"),
    "trade": ("trade",),
    "aggTrade": ("aggTrade",),
    "24hrTicker": ("ticker",),
    "24hrMiniTicker": ("miniTicker",),
}
RECENT_UPDATES = 1000


def label(payload: bytes) -> Label:
    """Return the label of a recorded frame; NOTHING for acknowledgements, errors and status."""
    if is_binary(payload):
        return sbe.label(payload)
    found = _STREAM.match(payload)
    if found is not None:
        symbol, _, kind = short_name(found[1]).partition("@")
        return Label((kind,), symbol, True)
    found = _EVENT.match(payload)
    if found is not None:
        return Label(EVENTS.get(short_name(found[1]), ()), short_name(found[2]).lower(), False)
    found = _TOP.match(payload)
    if found is not None:
        return Label(("bookTicker",), short_name(found[1]).lower(), False)
    return NOTHING


def ids_of(what: Label, payload: bytes) -> tuple[bytes, bytes] | None:
    """Return the first and the last id of an update or a trade."""
    if is_binary(payload):
        return sbe.ids_of(payload)
    kind = what.kinds[0] if what.kinds else ""
    pattern = _UPDATE_IDS if kind.startswith(BOOK_KIND) else _TRADE_ID if kind == "trade" else None
    found = pattern.search(payload) if pattern else None
    return None if found is None else (found[1], found[found.lastindex or 1])


def unwrapped(payload: bytes) -> bytes:
    """Return the data of a combined frame."""
    found = _STREAM.match(payload)
    # the last brace belongs to the wrapper, unless the frame is cut short
    return payload[found.end() :].removesuffix(b"}") if found else payload


def wrapped(stream: str, payload: bytes) -> bytes:
    """Return the combined form of a raw frame."""
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def request_of(path: str) -> Request | None:
    """Return the request that a recorded answer belongs to: a snapshot or a comparison."""
    place, _, text = path.partition("?")
    query = dict(parse_qsl(text))
    if place != "/api/v3/depth" or not query.get("symbol"):
        return None
    levels = number(query.get("limit"), DEFAULT_LEVELS, STREAM_DEPTH)
    purpose: Any = "compare" if levels in COMPARISONS else "snapshot"
    return Request(purpose, path, "weight", 0, (query["symbol"],), levels)


def recorded_book() -> RecordedBook:
    """Return a book that is built from recorded snapshots and updates."""
    return LocalBook()


class LocalBook:
    """A book from a snapshot and updates, which answers requests at any moment of a recording."""

    def __init__(self) -> None:
        self.id = 0
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        # a snapshot is older than the updates received just before its answer
        self._recent: deque[bytes] = deque(maxlen=RECENT_UPDATES)

    def restart(self, snapshot: bytes) -> bool:
        try:
            book = orjson.loads(snapshot)
            found = _id(book["lastUpdateId"]), _levels(book["bids"]), _levels(book["asks"])
        except MALFORMED:
            return False
        self.id, self.bids, self.asks = found
        for payload in self._recent:
            self._apply(payload)
        return True

    def apply(self, payload: bytes) -> None:
        self._recent.append(payload)
        self._apply(payload)

    def _apply(self, payload: bytes) -> None:
        if not self.id:
            return
        try:
            last, bids, asks = _update(payload)
        except MALFORMED:
            return
        if last <= self.id:
            return
        self.id = last
        for side, levels in ((self.bids, bids), (self.asks, asks)):
            for price, size in levels.items():
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)

    def answer(self, limit: int) -> bytes:
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))[:limit]
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))[:limit]
        return orjson.dumps({"lastUpdateId": self.id, "bids": bids, "asks": asks})


def _update(payload: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    # the last id of an update, and its levels
    if is_binary(payload):
        found = sbe.read(payload)
        if found is None or found.ids is None:
            raise ValueError("expected an update of a book")
        return (
            _id(found.ids[1]),
            _levels(list(found.bids.items())),
            _levels(list(found.asks.items())),
        )
    update = orjson.loads(payload)
    update = update.get("data", update)
    return _id(update["u"]), _levels(update["b"]), _levels(update["a"])


def _id(value: object) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError("update id: expected a number above 0")
    return value


def _levels(value: Any) -> dict[str, str]:
    levels = {}
    for price, size, *_ in value:
        if not (0 < float(price) < math.inf and 0 <= float(size) < math.inf):
            raise ValueError("level: expected a price above 0 and a size")
        levels[str(price)] = str(size)
    return levels


def trimmed(snapshot: bytes, limit: int) -> bytes:
    """Return a recorded snapshot, cut to `limit` levels per side."""
    book = orjson.loads(snapshot)
    if max(len(book["bids"]), len(book["asks"])) <= limit:
        return snapshot
    book["bids"], book["asks"] = book["bids"][:limit], book["asks"][:limit]
    return orjson.dumps(book)


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    symbols, symbol = recording.symbols, query.get("symbol", "")
    now_ms = wall_ns // 1_000_000
    if path == "/api/v3/ping":
        return 200, {}
    if path == SYSTEM:
        return 200, {"status": 0, "msg": "normal"}
    if path == "/api/v3/time":
        return 200, {"serverTime": now_ms}
    if path == "/api/v3/exchangeInfo":
        asked = names_of(query["symbols"]) if "symbols" in query else [symbol]
        wanted = {one for one in asked if one} or set(symbols)
        if wanted <= set(symbols):
            return 200, exchange_info(wanted, now_ms)
    elif path == "/api/v3/depth":
        limit = number(query.get("limit"), DEFAULT_LEVELS, STREAM_DEPTH)
        found = recording.book(symbol, limit)
        if found is not None:
            return 200, found
    elif path == AGGREGATES and symbol in symbols:
        return 200, aggregates(rest_trades(recording.trades(symbol)), query)
    elif path in ("/api/v3/trades", "/api/v3/historicalTrades") and symbol in symbols:
        rows = rest_trades(recording.trades(symbol))
        limit = number(query.get("limit"), 500, TRADES)
        if "fromId" in query:
            first = number(query["fromId"], 0, MOST_ID)
            return 200, [row for row in rows if row["id"] >= first][:limit]
        return 200, rows[-limit:]
    if symbol in symbols or not path.startswith("/api/v3/"):
        return 404, {"code": -1000, "msg": f"{path} is not in this recording"}
    return 400, {"code": -1121, "msg": "Invalid symbol."}


def names_of(text: str) -> list[str]:
    """Return the names in a query's JSON list, none for another text."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def exchange_info(symbols: Iterable[str], now_ms: int) -> dict[str, Any]:
    """Return exchangeInfo for the symbols of a recording, split at the known quotes."""
    rows = []
    for symbol in sorted(symbols):
        quote = next(
            (one for one in (*QUOTES, "KRW") if symbol.endswith(one) and symbol != one), ""
        )
        rows.append(
            {
                "symbol": symbol,
                "status": "TRADING",
                "baseAsset": symbol.removesuffix(quote),
                "quoteAsset": quote,
                "isSpotTradingAllowed": True,
                "filters": [],
                "permissions": [],
                "permissionSets": [["SPOT"]],
            }
        )
    return {"timezone": "UTC", "serverTime": now_ms, "rateLimits": [], "symbols": rows}


def rest_trades(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return recorded trades in the form of REST, without malformed ones."""
    rows: list[dict[str, Any]] = []
    for payload in frames:
        if is_binary(payload):
            rows += sbe.rest_trades(payload)
        else:
            rows += shaped((payload,), rest_trade)
    return rows


def rest_trade(payload: bytes) -> dict[str, Any]:
    """Return a recorded trade in the form of REST."""
    trade = orjson.loads(unwrapped(payload))
    return {
        "id": int(trade["t"]),
        "price": trade["p"],
        "qty": trade["q"],
        "time": trade["T"],
        "isBuyerMaker": trade["m"],
        "isBestMatch": True,
    }


def aggregates(rows: Iterable[dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return REST trades as aggregates, from an id or a time on.

    An aggregate has the trades of one time, price and side. Its id is that of its first trade here;
    the exchange counts aggregates by one.
    """
    found: list[dict[str, Any]] = []
    last: Any = None
    for row in rows:
        kind = (row["time"], row["price"], row["isBuyerMaker"])
        if found and kind == last and found[-1]["l"] == row["id"] - 1:
            found[-1]["l"] = row["id"]
            found[-1]["q"] = f"{Decimal(found[-1]['q']) + Decimal(row['qty']):.8f}"
            continue
        last = kind
        found.append(
            {
                "a": row["id"],
                "p": row["price"],
                "q": row["qty"],
                "f": row["id"],
                "l": row["id"],
                "T": row["time"],
                "m": row["isBuyerMaker"],
                "M": True,
            }
        )
    limit = number(query.get("limit"), 500, TRADES)
    if "fromId" in query:
        first = number(query["fromId"], 0, MOST_ID)
        return [row for row in found if row["a"] >= first][:limit]
    if "startTime" not in query:
        return found[-limit:]
    begin_ns = epoch_ns(number(query["startTime"], 0, MOST_ID))
    return [row for row in found if epoch_ns(row["T"]) >= begin_ns][:limit]


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    """Return the trials of `probe`: an unknown stream and, with a key, the binary streams."""

    def silent(heard: Heard) -> tuple[bool, bool]:
        acknowledged = heard.controls[:1] == [{"result": None, "id": 7}]
        return bool(heard.controls), acknowledged and not heard.before + heard.after

    frame = b'{"method":"SUBSCRIBE","params":["nosuchsymbol@depth@100ms"],"id":7}'
    base = settings.websocket.rstrip("/")
    facts = {"an unknown stream is acknowledged and silent": silent}
    found = [Trial(f"{base}/stream", (frame,), facts)]
    if settings.api_key.get_secret_value():
        found.append(binary_trial(settings, symbol))
    return found


def binary_trial(settings: ExchangeSettings, symbol: str) -> Trial:
    """Return the trial of the streams that need the key."""

    def answered(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls), heard.controls[:1] == [{"result": None, "id": 8}]

    def sent(heard: Heard) -> tuple[bool, bool]:
        return True, heard.before + heard.after > 0

    keyed = settings.model_copy(update={"format": "sbe"})
    (one,) = sbe_subscriptions(keyed, ["orderbook"], [symbol])
    facts = {
        "binary streams: requests are answered in JSON": answered,
        "binary streams: updates of books come": sent,
    }
    frame = orjson.dumps({"method": "SUBSCRIBE", "params": [f"{symbol.lower()}@trade"], "id": 8})
    return Trial(one.url, (frame,), facts, one.headers)


def bad_request(symbol: str) -> tuple[str, Request]:
    """Return a request for a symbol that does not exist."""
    return "an unknown symbol is refused by REST", compare_requests(["NOSUCHSYMBOL"])[0]
