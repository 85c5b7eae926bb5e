"""Coinone: whole books of 16 levels in KRW, the best ask last; ids are times with a counter.

Comments have the rule that the code relies on. "Documented" means https://docs.coinone.co.kr;
"seen" means that only real frames and answers show it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import orjson

from coinspace.errors import ConfigError, MarketError
from coinspace.exchanges.exchange import (
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
    Recording,
    Refusal,
    Request,
    RestBook,
    RestTrade,
    Subscription,
    TradePage,
    Trial,
    finite,
    number,
    plain,
    said,
    shaped,
    short_name,
)
from coinspace.exchanges.facts import Network, Said, Trading, firsts, name_of, networks, rows
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import ASSETS, Market

NAME = "coinone"
ORDER = 4
REGION = "KR"
QUOTES = ("KRW",)
SETTINGS = ExchangeSettings(
    websocket="wss://stream.coinone.co.kr",
    rest="https://api.coinone.co.kr/public/v2",
    markets=[f"{base}/KRW" for base in (*ASSETS, "USDT")],
)
BY_DEFAULT = False
IDENTITIES: tuple[Identity, ...] = ()
COLOURS = ("#5cc8c0", "#0b8f86")
# seen: 363 books give 200 frames a second; 29 % of the markets have no trade in 24 hours
LOAD = Load(Rates(5, 1, 1), Rates(0.5, 0.1, 0.05), {"KRW": 363})
# published at coinone.co.kr, "수수료"; promotions for programs vary
TAKER_FEE = 0.002
PROTOCOL = "coinone"
# documented and seen: each frame is the whole book of 16 levels per side. Seen: asks come worst
# first; a fifth of the frames repeat the levels of the one before under a new id
UPDATES = False
SNAPSHOTS_IN_STREAM = False
NAMED_SYMBOLS = False
BOOK_KIND = "orderbook"
# documented: an id is a time in ms and three digits; ids rise and are not consecutive
CONTIGUOUS_TRADES = False
# REST and stream write ids alike; not verified: that they are equal
JOINABLE_TRADES = True
STREAM_DEPTH = 16
# documented: a connection ends 30 minutes after the last PING. Seen: one that never sent anything
# ends after 60 s. The interval is below `index.parameters.lag_ms`, as quiet books are proven by it
PING_INTERVAL_S = 5.0
# documented: keep-alive is a text; whether a ping of the protocol is answered is not known
PING_FRAME = b'{"request_type":"PING"}'
# seen: a book was silent for 32 s, and nothing is repeated by a timer
QUIET_MARKETS = True
SERVER_PING_S = 0.0
LIFETIME_S = 0.0
BINARY_FRAMES = False
# each book sends a first frame. Seen: an unknown market is acknowledged, then an error follows that
# names no market, and the connection goes on
FIRST_FRAMES = True
# documented: 20 connections per address, further ones are closed with 4290
CONNECT_LIMIT = Limit(20, 60.0)
# not documented: seen were 363 subscriptions within 4 ms
MESSAGE_LIMITS = (Limit(50, 1.0),)
# documented: 1,200 requests a minute per address, of which CoinSpace uses 75 %
REST_LIMITS = {"public": Limit(900, 60.0)}
REST_HEADERS: Mapping[str, str] = {}
MIRRORS = ""
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

# the setting `format` -> the exchange's name of it
FORMATS = {"SIMPLE": "SHORT", "DEFAULT": "DEFAULT"}
CHANNELS: dict[Channel, str] = {"orderbook": "ORDERBOOK", "ticker": "TICKER", "trade": "TRADE"}
# levels and trades that REST gives at most; other numbers than these are refused
LEVELS = 16
MOST_SIZE = 10_000
LEVEL_SIZES = (5, 10, 15, 16)
TRADES = 200
TRADE_SIZES = (10, 50, 100, 150, 200)
# documented: error codes that pass by themselves, too many requests and maintenance
PASSING = ("4", "405")
# an id counts the messages of a ms in its last three digits
COUNTER = 1000


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.coinone import CoinoneParser

    return CoinoneParser(capacity)


def symbol_of(market: Market) -> str:
    """Return the base. Raises: MarketError for a market of another quote."""
    if market.quote not in QUOTES:
        raise MarketError(f"coinone: expected a market in KRW such as BTC/KRW, was {market}")
    return market.base


def market_of(symbol: str) -> Market | None:
    """Return the market of a symbol, which is a base."""
    try:
        return Market.parse(f"{symbol.upper()}/{QUOTES[0]}")
    except MarketError:
        return None


def topic(symbol: str) -> dict[str, str]:
    """Return how requests and acknowledgements name a market."""
    return {"quote_currency": QUOTES[0], "target_currency": symbol}


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the only connection, with one frame for each channel of each market.

    Raises: ConfigError for a format that only Upbit has.
    """
    if settings.format not in FORMATS:
        raise ConfigError(
            f"exchanges.coinone.format: expected {' or '.join(FORMATS)}, was {settings.format!r}"
        )
    frames = tuple(
        subscribe_frame(CHANNELS[channel], symbol, FORMATS[settings.format])
        for channel in channels
        if channel in CHANNELS
        for symbol in symbols
    )
    return [Subscription(settings.websocket, frames, tuple(symbols))]


def subscribe_frame(channel: str, symbol: str, form: str) -> bytes:
    return orjson.dumps(
        {
            "request_type": "SUBSCRIBE",
            "channel": channel,
            "topic": topic(symbol),
            "format": form,
        }
    )


# its stream has no price groups; only REST has
GROUPING = None


def resubscribe_frames(symbol: str) -> tuple[bytes, ...]:
    """Return none: each frame is a whole book."""
    return ()


def snapshot_request(symbol: str, levels: int) -> Request:
    return Request("snapshot", _book_path(symbol), "public", 1, (symbol,))


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request each book: an answer has one book, with the id of the stream."""
    return [Request("compare", _book_path(name), "public", 1, (name,)) for name in symbols]


def _book_path(symbol: str) -> str:
    return f"/orderbook/{QUOTES[0]}/{quote(symbol)}?size={LEVELS}"


def trades_request(symbol: str) -> Request:
    path = f"/trades/{QUOTES[0]}/{quote(symbol)}?size={TRADES}"
    return Request("trades", path, "public", 1, (symbol,))


def older_trades_request(page: TradePage) -> Request | None:
    """Return None: the trades have no pages."""
    return None


def aggregates_request(symbol: str, from_ns: int) -> Request | None:
    """Return None: trades are not aggregated."""
    return None


def markets_request() -> Request:
    return Request("markets", f"/markets/{QUOTES[0]}", "public")


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read `/orderbook`: here asks come best first; either order is read."""
    entry = orjson.loads(payload)
    sides = {
        side: sorted(
            (finite(level["price"]), finite(level["qty"]))
            for level in entry[side]
            if finite(level["price"]) > 0 and finite(level["qty"]) > 0
        )
        for side in ("bids", "asks")
    }
    symbol = str(entry["target_currency"]).upper()
    return [RestBook(symbol, int(entry["id"]), sides["bids"][::-1], sides["asks"])]


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read `/trades`, oldest first; the time is that in the id, as in the stream."""
    entry = orjson.loads(payload)
    symbol = str(entry["target_currency"]).upper()
    trades = [
        RestTrade(
            symbol,
            int(row["id"]),
            int(row["id"]) // COUNTER * 1_000_000,
            float(row["price"]),
            float(row["qty"]),
            # documented: the seller's order was resting, so the taker bought
            not row["is_seller_maker"],
        )
        for row in entry["transactions"]
    ]
    trades.sort(key=lambda trade: trade.trade_id)
    return trades


# documented values of trade_status besides 1, normal trading
STATES = {0: "no trading", 2: "no buying", 3: "no selling"}


def read_markets(payload: bytes) -> list[Listing]:
    """Read `/markets/KRW`."""
    listings = []
    for row in orjson.loads(payload)["markets"]:
        try:
            base, quote = str(row["target_currency"]), str(row["quote_currency"])
            market = Market.parse(f"{base.upper()}/{quote.upper()}")
        except MarketError:
            continue
        status, repair = int(row["trade_status"]), bool(int(row["maintenance_status"]))
        detail = "maintenance" if repair else STATES.get(status, "")
        listings.append(Listing(market.base, market, status != 0 and not repair, detail))
    return listings


# facts beside the price

CURRENCIES = "/currencies"
FACTS = (
    FactSource(markets_request(), ("trading",), 0),
    FactSource(Request("facts", CURRENCIES, "public"), ("wallets",)),
)
# known from other clients: of deposits and withdrawals
WALLETS = {"normal": True, "suspended": False}


def read_facts(request: Request, payload: bytes) -> Said:
    """Read `/currencies`, or the states in `/markets/KRW`."""
    found = orjson.loads(payload)
    if request.path != CURRENCIES:
        read, unread = rows(found["markets"], _symbol, _trading)
        return Said(trading=firsts(read), unread=unread)
    wallets, unread = rows(
        found["currencies"],
        lambda row: name_of(row["symbol"]).upper(),
        lambda row: Network(
            name_of(row["symbol"]).upper(),
            WALLETS.get(name_of(row["deposit_status"])),
            WALLETS.get(name_of(row["withdraw_status"])),
        ),
    )
    return Said(wallets={coin: networks(parts) for coin, parts in wallets.items()}, unread=unread)


def _symbol(row: Any) -> str:
    return name_of(row["target_currency"]).upper()


def _trading(row: Any) -> tuple[Trading, str]:
    status, repair = int(row["trade_status"]), int(row["maintenance_status"])
    if repair:
        return "suspended", "maintenance"
    if status == 1:
        return "open", ""
    detail = STATES.get(status, f"trade status {status}")
    return ("suspended" if status == 0 else "limited" if status in STATES else "unknown"), detail


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Return the refusal of an error frame, after which the connection goes on."""
    text = plain(f"{said(detail.get('error_code'))}: {said(detail.get('message'))}")
    return Refusal(text, fatal=False, whole=False)


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Return the refusal of a REST answer, None = the answer is good.

    Seen: errors have status 200 too, and an unknown path answers with HTML and status 200.
    """
    try:
        body = orjson.loads(payload)
        result, code = body.get("result"), said(body.get("error_code"))
    except (orjson.JSONDecodeError, AttributeError):
        shown = payload[:80].decode(errors="replace")
        return Refusal(plain(f"HTTP {status}, expected JSON, was {shown}"), fatal=False)
    if status == 200 and result == "success":
        return None
    text = plain(f"HTTP {status} {code}: {said(body.get('error_msg'))}")
    passing = status in (403, 418, 429) or status >= 500 or code in PASSING
    return Refusal(text, fatal=not passing)


# recordings

_DATA = re.compile(rb'"(?:r|response_type)"\s*:\s*"DATA"')
_CHANNEL = re.compile(rb'"(?:c|channel)"\s*:\s*"([^"]*)"')
_BASE = re.compile(rb'"(?:tc|target_currency)"\s*:\s*"([^"]*)"')
# key of a short frame -> key of REST
LONG = {
    "r": "response_type",
    "c": "channel",
    "d": "data",
    "qc": "quote_currency",
    "tc": "target_currency",
    "t": "timestamp",
    "i": "id",
    "a": "asks",
    "b": "bids",
    "p": "price",
    "q": "qty",
    "sm": "is_seller_maker",
}
MARKET = {
    "trade_status": 1,
    "maintenance_status": 0,
    "price_unit": "1.0",
    "qty_unit": "0.00000001",
    "min_qty": "0.0001",
    "min_order_amount": "5000.0",
    "order_types": ["limit", "market", "stop_limit"],
}


def label(payload: bytes) -> Label:
    """Return the label of a recorded frame; NOTHING for acknowledgements, errors and status."""
    channel, base = _CHANNEL.search(payload), _BASE.search(payload)
    if _DATA.search(payload) is None or channel is None or base is None:
        return NOTHING
    return Label((short_name(channel[1]).lower(),), short_name(base[1]).upper(), False)


def ids_of(what: Label, payload: bytes) -> tuple[bytes, bytes] | None:
    """Return None: ids rise, but do not count up."""
    return None


def request_of(path: str) -> Request | None:
    """Return the request that a recorded answer belongs to."""
    place, _, _ = path.partition("?")
    parts = place.strip("/").split("/")
    if len(parts) != 3 or parts[:2] != ["orderbook", QUOTES[0]]:
        return None
    return Request("compare", path, "public", 0, (unquote(parts[2]),))


def recorded_book() -> None:
    """Return None: each frame is a whole book."""


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    """Answer a REST request from a recording. Errors have status 200."""
    parts = path.strip("/").split("/")
    if path == CURRENCIES:
        return 200, {"result": "success", "error_code": "0", "currencies": currencies(recording)}
    routes: dict[str, Callable[[], dict[str, Any]]] = {
        "markets": lambda: {"markets": [topic(one) | MARKET for one in sorted(recording.symbols)]},
        "orderbook": lambda: _book(recording, parts[2].upper(), query),
        "trades": lambda: _trades(recording, parts[2].upper(), query, wall_ns),
    }
    if parts[0] not in routes or len(parts) != (2 if parts[0] == "markets" else 3):
        return 200, b"<!doctype html><html><body>Not Found</body></html>"
    if parts[1].upper() != QUOTES[0]:
        return 200, _error("107", "Parameter error")
    if len(parts) == 3 and parts[2].upper() not in recording.symbols:
        return 200, _error("108", "Unknown CryptoCurrency")
    found = routes[parts[0]]()
    return 200, {"result": "success", "error_code": "0", **found}


def currencies(recording: Recording) -> list[dict[str, Any]]:
    """Return the wallets of a recording's coins, all of them open."""
    return [
        {"name": one, "symbol": one, "deposit_status": "normal", "withdraw_status": "normal"}
        for one in sorted(recording.symbols)
    ]


def _error(code: str, text: str) -> dict[str, Any]:
    return {"result": "error", "error_code": code, "error_msg": text}


def _book(recording: Recording, symbol: str, query: Mapping[str, str]) -> dict[str, Any]:
    size = number(query.get("size"), 15, MOST_SIZE)
    if size not in LEVEL_SIZES:
        return _error("107", "Parameter error")
    payload = recording.last("orderbook", symbol)
    rows = shaped([] if payload is None else [payload], rest_row)
    if not rows:
        return _error("108", "Unknown CryptoCurrency")
    (row,) = rows
    return {
        **row,
        "order_book_unit": "0.0",
        "bids": row["bids"][:size],
        "asks": row["asks"][::-1][:size],
    }


def _trades(
    recording: Recording, symbol: str, query: Mapping[str, str], wall_ns: int
) -> dict[str, Any]:
    size = number(query.get("size"), TRADES, MOST_SIZE)
    if size not in TRADE_SIZES:
        return _error("107", "Parameter error")
    rows = shaped(recording.trades(symbol), rest_row)
    for row in rows:
        del row["quote_currency"], row["target_currency"]
    return {
        "server_time": wall_ns // 1_000_000,
        **topic(symbol),
        "transactions": rows[: -size - 1 : -1],
    }


def rest_row(payload: bytes) -> dict[str, Any]:
    """Return the data of a recorded frame with the keys of REST."""
    frame = _long(orjson.loads(payload))
    row = _long(frame["data"])
    for side in ("asks", "bids"):
        if side in row:
            row[side] = [_long(level) for level in row[side]]
    return row


def _long(fields: dict[str, Any]) -> dict[str, Any]:
    return {LONG.get(key, key): value for key, value in fields.items()}


# `probe`

UNKNOWN = "NOSUCH"


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    """Return the trials of `probe`: the text PING, an error, an unknown market, a repeat."""

    def kinds(heard: Heard) -> list[str]:
        return [str(one.get("response_type") or one.get("r")) for one in heard.controls]

    def greeted(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls), kinds(heard)[0] == "CONNECTED"

    def answered(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls), "PONG" in kinds(heard)

    def goes_on(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls), "ERROR" in kinds(heard) and not heard.close

    def late(heard: Heard) -> tuple[bool, bool]:
        order = [kind for kind in kinds(heard) if kind in ("SUBSCRIBED", "ERROR")]
        return bool(order), order == ["SUBSCRIBED", "ERROR"] and not heard.close

    def repeated(heard: Heard) -> tuple[bool, bool]:
        return heard.before > 0, not heard.close and kinds(heard).count("SUBSCRIBED") == 2

    url = settings.websocket
    wrong = b'{"request_type":"subscribe","channel":"ORDERBOOK"}'
    unknown = subscribe_frame("ORDERBOOK", UNKNOWN, "SHORT")
    found = [
        Trial(
            url,
            (PING_FRAME,),
            {"the server speaks first": greeted, "a text PING is answered": answered},
        ),
        Trial(url, (wrong,), {"an error frame leaves the connection open": goes_on}),
        Trial(url, (unknown,), {"an unknown market is acknowledged, then refused": late}),
    ]
    if symbol:
        frame = subscribe_frame("ORDERBOOK", symbol, "SHORT")
        facts = {"a second subscription adds to the first": repeated}
        found.append(Trial(url, (frame, frame), facts))
    return found


def bad_request(symbol: str) -> tuple[str, Request]:
    """Return a request for a market that does not exist."""
    return "an unknown market is refused by REST", compare_requests([UNKNOWN])[0]
