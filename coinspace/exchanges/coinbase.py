"""Coinbase Exchange: USD; a whole book in the stream, then updates without ids; trade ids count up.

Comments have the rule that the code relies on. "Documented" means
https://docs.cdp.coinbase.com/exchange; "seen" means that only real frames and answers show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from coinspace.errors import MarketError
from coinspace.exchanges.exchange import (
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
from coinspace.exchanges.facts import Network, Said, Trading, firsts, name_of, networks, rows, truth
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import ASSETS, Market

NAME = "coinbase"
ORDER = 5
REGION = "GL"
QUOTES = ("USD", "USDC", "USDT", "EUR", "GBP", "BTC", "ETH")
SETTINGS = ExchangeSettings(
    websocket="wss://ws-feed.exchange.coinbase.com",
    rest="https://api.exchange.coinbase.com",
    markets=[f"{base}/USD" for base in (*ASSETS, "USDT")],
    depth=500,
)
BY_DEFAULT = False
IDENTITIES: tuple[Identity, ...] = ()
COLOURS = ("#7a9bff", "#2f55d4")
LOAD = Load(Rates(15, 5, 5), Rates(2, 0.3, 0.3), {"USD": 400})
# published at help.coinbase.com, "Exchange fees": the tier of accounts that trade under 10,000 USD
# in 30 days
TAKER_FEE = 0.006
PROTOCOL = "coinbase"
# documented: updates of `level2_batch` have absolute sizes, every 50 ms
UPDATES = True
# documented: the first frame of a subscription is the whole book. The updates have no ids, so a
# lost one shows only as a crossed book or as another best price by REST
SNAPSHOTS_IN_STREAM = True
NAMED_SYMBOLS = False
BOOK_KIND = "level2"
# documented: ids of trades count up by one in each market; a heartbeat names the newest one
CONTIGUOUS_TRADES = True
JOINABLE_TRADES = True
# levels of a snapshot that are kept per side: the whole book has some ten thousand
STREAM_DEPTH = 5000
# documented: no ping is needed
PING_INTERVAL_S = 20.0
PING_FRAME = b""
# the channel `heartbeat` sends each market's frame every second
QUIET_MARKETS = True
SERVER_PING_S = 0.0
LIFETIME_S = 0.0
BINARY_FRAMES = False
FIRST_FRAMES = True
# documented: 8 connections a second per address
CONNECT_LIMIT = Limit(8, 1.0)
# documented: 100 messages a second; a connection without a subscription ends after 5 s
MESSAGE_LIMITS = (Limit(50, 1.0),)
# known from other clients: 10 requests a second per address
REST_LIMITS = {"public": Limit(8, 1.0)}
REST_HEADERS: Mapping[str, str] = {}
MIRRORS = ""
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

CHANNELS: dict[Channel, str] = {
    "orderbook": "level2_batch",
    "ticker": "ticker",
    "trade": "matches",
}
TRADES = 1000
# a level-1 answer has the best level of each side; the whole book would have several MB
BEST = 1


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.coinbase import CoinbaseParser

    return CoinbaseParser(capacity)


def symbol_of(market: Market) -> str:
    return f"{market.base}-{market.quote}"


def market_of(symbol: str) -> Market | None:
    """Return the market of a symbol such as BTC-USD."""
    try:
        return Market.parse(symbol.replace("-", "/"))
    except MarketError:
        return None


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the only connection, with a frame for each market: a bad one fails its own frame."""
    names = [CHANNELS[channel] for channel in channels if channel in CHANNELS]
    frames = tuple(request_frame("subscribe", one, [*names, "heartbeat"]) for one in symbols)
    return [Subscription(settings.websocket, frames, tuple(symbols))]


def request_frame(kind: str, symbol: str, channels: Sequence[str]) -> bytes:
    return orjson.dumps({"type": kind, "product_ids": [symbol], "channels": list(channels)})


# its stream has no price groups
GROUPING = None


def resubscribe_frames(symbol: str) -> tuple[bytes, ...]:
    """Return the frames that make the exchange send the whole book of one market again."""
    channels = [CHANNELS["orderbook"]]
    return tuple(request_frame(kind, symbol, channels) for kind in ("unsubscribe", "subscribe"))


def snapshot_request(symbol: str, levels: int) -> Request:
    path = f"/products/{quote(symbol)}/book?level=2"
    return Request("snapshot", path, "public", 1, (symbol,), levels)


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request the best level of each book."""
    return [
        Request("compare", f"/products/{name}/book?level={BEST}", "public", 1, (name,))
        for name in symbols
    ]


def trades_request(symbol: str) -> Request:
    path = f"/products/{quote(symbol)}/trades?limit={TRADES}"
    return Request("trades", path, "public", 1, (symbol,))


def older_trades_request(page: TradePage) -> Request | None:
    """Request the trades before the oldest trade: pages are named by an id."""
    before = page.oldest
    if before is None or not page.fresh or before.trade_id <= 1:
        return None
    path = f"/products/{quote(before.symbol)}/trades?limit={TRADES}&after={before.trade_id}"
    return Request("trades", path, "public", 1, (before.symbol,))


def aggregates_request(symbol: str, from_ns: int) -> Request | None:
    """Return None: trades are not aggregated."""
    return None


def markets_request() -> Request:
    return Request("markets", "/products", "public")


def time_ns(text: str) -> int:
    """Return an RFC 3339 time in ns."""
    seconds, _, fraction = text.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(f"{seconds}+00:00").timestamp())
    return whole * 1_000_000_000 + int(f"{fraction[:9]:0<9}")


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read `/products/X/book`: rows of price, size and number of orders."""
    entry = orjson.loads(payload)
    bids, asks = (
        [(finite(price), finite(size)) for price, size, *_ in entry[side]]
        for side in ("bids", "asks")
    )
    return [RestBook(request.symbols[0], 0, bids, asks)]


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read `/products/X/trades`, oldest first."""
    trades = [
        RestTrade(
            request.symbols[0],
            int(row["trade_id"]),
            time_ns(row["time"]),
            float(row["price"]),
            float(row["size"]),
            # documented: the side of the maker
            row["side"] == "buy",
        )
        for row in orjson.loads(payload)
    ]
    trades.sort(key=lambda trade: trade.trade_id)
    return trades


# flags of a market, besides its status, that stop trading
STOPS = ("trading_disabled", "cancel_only", "auction_mode")


def read_markets(payload: bytes) -> list[Listing]:
    """Read `/products`."""
    listings = []
    for row in orjson.loads(payload):
        try:
            market = Market.parse(f"{row['base_currency']}/{row['quote_currency']}")
        except MarketError:
            continue
        stops = [flag for flag in STOPS if row.get(flag)]
        status = str(row.get("status"))
        detail = ", ".join(stops) if stops else "" if status == "online" else plain(status)
        listings.append(Listing(str(row["id"]), market, not detail, detail))
    return listings


# facts beside the price

CURRENCIES = "/currencies"
FACTS = (
    FactSource(markets_request(), ("trading",), 0),
    FactSource(Request("facts", CURRENCIES, "public"), ("wallets",)),
)
# flags of a product -> what they leave of trading
LIMITS: dict[str, Trading] = {
    "trading_disabled": "suspended",
    "cancel_only": "limited",
    "post_only": "limited",
    "limit_only": "limited",
    "auction_mode": "limited",
}


def read_facts(request: Request, payload: bytes) -> Said:
    """Read `/products`, or the networks in `/currencies`, which tell no side from the other."""
    found = orjson.loads(payload)
    if request.path != CURRENCIES:
        read, unread = rows(found, lambda row: name_of(row["id"]), _trading)
        return Said(trading=firsts(read), unread=unread)
    wallets, unread = rows(found, lambda row: name_of(row["id"]).upper(), _networks)
    return Said(wallets=firsts(wallets), unread=unread)


def _trading(row: Any) -> tuple[Trading, str]:
    status = name_of(row["status"])
    if status != "online":
        return "suspended", status
    flags = [flag for flag in LIMITS if truth(row.get(flag, False))]
    # the first flag leaves the least
    return (LIMITS[flags[0]], ", ".join(flags)) if flags else ("open", "")


def _networks(row: Any) -> list[Network]:
    currency = _online(row["status"])
    found = [
        (name_of(one["id"]), _online(one["status"])) for one in row.get("supported_networks") or ()
    ]
    # a currency that is offline is so on each network
    return networks(
        Network(name, on, on)
        for name, state in found or [(name_of(row["id"]), currency)]
        for on in [state if currency else currency]
    )


def _online(status: Any) -> bool | None:
    return {"online": True, "offline": False, "delisted": False}.get(name_of(status))


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Return the refusal of an error frame; a frame asks for one market, so only that one fails.

    A refused subscription has a reason. Another error ends the connection, and a new one may work.
    """
    reason = detail.get("reason")
    if not reason:
        return Refusal(plain(said(detail.get("message"))), fatal=False)
    text = plain(f"{said(detail.get('message'))}: {said(reason)}")
    one = "not a valid product" in text
    return Refusal(text, fatal=not one, whole=not one)


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Return the refusal of a REST answer, None = the answer is good."""
    if status == 200 and payload[:1] in (b"{", b"["):
        return None
    try:
        text = f"HTTP {status} {said(orjson.loads(payload)['message'])}"
    except (orjson.JSONDecodeError, LookupError, TypeError):
        text = f"HTTP {status} {payload[:80].decode(errors='replace')}"
    passing = status in (200, 403, 418, 429) or status >= 500
    return Refusal(plain(text), fatal=not passing)


# recordings

_TYPE = re.compile(rb'"type"\s*:\s*"([^"]*)"')
_PRODUCT = re.compile(rb'"product_id"\s*:\s*"([^"]*)"')
# type of a frame -> the channel that sends it
KINDS = {
    "snapshot": "level2_batch",
    "l2update": "level2_batch",
    "match": "trade",
    "last_match": "trade",
    "ticker": "ticker",
    "heartbeat": "heartbeat",
}


def label(payload: bytes) -> Label:
    """Return the label of a recorded frame; NOTHING for acknowledgements and errors."""
    kind, product = _TYPE.search(payload), _PRODUCT.search(payload)
    channel = KINDS.get(short_name(kind[1])) if kind else None
    if channel is None or product is None:
        return NOTHING
    return Label((channel,), short_name(product[1]), False)


def ids_of(what: Label, payload: bytes) -> tuple[bytes, bytes] | None:
    """Return None: updates have no ids, and those of trades are checked by the collector."""
    return None


def request_of(path: str) -> Request | None:
    """Return None: no stage needs a recorded answer, since books are in the stream."""
    return None


def recorded_book() -> None:
    """Return None: books are in the stream."""


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    """Answer a REST request from a recording."""
    parts = path.strip("/").split("/")
    if parts == ["products"]:
        return 200, [product(symbol) for symbol in sorted(recording.symbols)]
    if path == CURRENCIES:
        return 200, [currency(name) for name in sorted(coins(recording))]
    if len(parts) != 3 or parts[0] != "products" or parts[1] not in recording.symbols:
        return 404, {"message": "NotFound"}
    symbol = parts[1]
    if parts[2] == "book":
        found = recording.book(symbol, BEST if query.get("level", "1") == "1" else STREAM_DEPTH)
        return (404, {"message": "NotFound"}) if found is None else (200, found)
    if parts[2] != "trades":
        return 404, {"message": "NotFound"}
    rows = shaped(recording.trades(symbol), rest_row)
    before = number(query.get("after"), MOST_ID, MOST_ID)
    limit = number(query.get("limit"), TRADES, TRADES)
    return 200, [row for row in rows if row["trade_id"] < before][: -limit - 1 : -1]


def product(symbol: str) -> dict[str, Any]:
    """Return a market of the list of a recording."""
    base, _, quote = symbol.partition("-")
    return {
        "id": symbol,
        "base_currency": base,
        "quote_currency": quote,
        "quote_increment": "0.01",
        "status": "online",
        "trading_disabled": False,
        "cancel_only": False,
        "auction_mode": False,
    }


def coins(recording: Recording) -> set[str]:
    """Return the coins of a recording."""
    return {symbol.partition("-")[0] for symbol in recording.symbols}


def currency(name: str) -> dict[str, Any]:
    """Return a coin of the list of a recording."""
    own = [{"id": name.lower(), "name": name, "status": "online"}]
    return {"id": name, "name": name, "status": "online", "supported_networks": own}


def rest_row(payload: bytes) -> dict[str, Any]:
    """Return a recorded trade in the form of REST."""
    trade = orjson.loads(payload)
    row = {key: trade[key] for key in ("side", "size", "price", "time")}
    return {"trade_id": int(trade["trade_id"]), **row}


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    """Return the trials of `probe`: channels with and without a key, a bad market, a new book."""

    def kinds(heard: Heard) -> list[str]:
        return [str(one.get("type")) for one in heard.controls]

    def refused(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls or heard.close), "error" in kinds(heard)

    def again(heard: Heard) -> tuple[bool, bool]:
        return heard.before > 0, heard.after > 0 and "error" not in kinds(heard)

    def beats(heard: Heard) -> tuple[bool, bool]:
        return bool(heard.controls), "heartbeat" in kinds(heard)

    url = settings.websocket
    unknown = request_frame("subscribe", "NOSUCH-USD", ["level2_batch"])
    found = [Trial(url, (unknown,), {"an unknown market gives an error": refused})]
    if symbol:
        keyed = request_frame("subscribe", symbol, ["level2"])
        first = request_frame("subscribe", symbol, ["level2_batch", "heartbeat"])
        facts = {
            "a new subscription sends the book again": again,
            "a heartbeat comes every second": beats,
        }
        found += [
            Trial(url, (keyed,), {"level2 needs a key": refused}),
            Trial(url, (first, *resubscribe_frames(symbol)), facts),
        ]
    return found


def bad_request(symbol: str) -> tuple[str, Request]:
    """Return a request for a market that does not exist."""
    return "an unknown market is refused by REST", compare_requests(["NOSUCH-USD"])[0]
