"""Bithumb (second generation): whole books of 15 levels with times in µs; half of them repeats.

Comments have the rule that the code relies on. "Documented" means https://apidocs.bithumb.com;
"seen" means that only real frames and answers show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import orjson

from coinspace.errors import ConfigError
from coinspace.exchanges import korean
from coinspace.exchanges.exchange import (
    AddressLimit,
    Channel,
    FactSource,
    Grouping,
    Identity,
    Label,
    Limit,
    Load,
    Rates,
    Recording,
    Request,
    RestTrade,
    Subscription,
    TradePage,
    Trial,
)
from coinspace.exchanges.facts import (
    LEVELS,
    Flag,
    Network,
    Notice,
    Said,
    Warning,
    is_open,
    name_of,
    networks,
    rows,
    text_of,
)
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import dashed_symbol

NAME = "bithumb"
ORDER = 2
REGION = "KR"
QUOTES = ("KRW",)
SETTINGS = ExchangeSettings(
    websocket="wss://ws-api.bithumb.com/websocket/v1",
    rest="https://api.bithumb.com",
    markets=korean.MARKETS,
    group_reach=0.005,
)
BY_DEFAULT = True
# the same name as another asset elsewhere
IDENTITIES = (Identity(NAME, "ALT", "ARCHLOOT"),)
COLOURS = ("#ff9147", "#df6a13")
LOAD = Load(Rates(5, 4, 2), Rates(1, 0.5, 0.1), {"KRW": 480})
# published at bithumb.com, "수수료 안내", for markets in KRW without a coupon; 0.04 % with one
TAKER_FEE = 0.0025
PROTOCOL = "bithumb"
# documented: each frame is the whole book, of at most 15 levels. Seen: half of the frames repeat
# the one before; a level with a price and size 0 is dust and is left out
UPDATES = False
SNAPSHOTS_IN_STREAM = False
NAMED_SYMBOLS = False
BOOK_KIND = "orderbook"
CONTIGUOUS_TRADES = False
# seen: REST trades and streamed trades have different ids
JOINABLE_TRADES = False
STREAM_DEPTH = 15
# documented: an idle connection ends after about 120 s; seen: after 60 s, without a close frame
PING_INTERVAL_S = 15.0
PING_FRAME = b""
QUIET_MARKETS = False
SERVER_PING_S = 0.0
LIFETIME_S = 0.0
BINARY_FRAMES = True
# each market sends a snapshot first; an unknown code sends nothing, not even an error
FIRST_FRAMES = True
# documented: 10 connections a second per address, beyond it 429 and a block of 10 minutes;
# CoinSpace uses half of it
CONNECT_LIMIT = Limit(5, 1.0)
# not published: the limits of Upbit
MESSAGE_LIMITS = (Limit(5, 1.0), Limit(100, 60.0))
# documented: 150 requests a second per address and category, beyond it a block of a minute;
# CoinSpace uses a third of it
REST_LIMITS = {group: Limit(50, 1.0) for group in ("market", "trade", "ticker", "orderbook")}
REST_HEADERS: Mapping[str, str] = {}
MIRRORS = ""
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

FORMATS = ("SIMPLE", "DEFAULT")
KST_OFFSET_NS = 9 * 3600 * 1_000_000_000
# `level` of a book whose levels are no groups
SINGLE = 1
# a trade further in the future than this has a time in KST
FUTURE_NS = 3600 * 1_000_000_000
# the limit of another kind of call, used here for calls for books
MARKETS_PER_CALL = 200
# documented: `to` and days are in KST
DAYS_KEY = "daysAgo"
RULES = korean.Rules({"market_warning": "NONE"}, DAYS_KEY, KST_OFFSET_NS, own_ids=True)


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.bithumb import BithumbParser

    return BithumbParser(capacity)


symbol_of = dashed_symbol
market_of = korean.market_of


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the only connection. Raises: ConfigError for a format that only Upbit has."""
    if settings.format not in FORMATS:
        raise ConfigError(
            f"exchanges.bithumb.format: expected {' or '.join(FORMATS)}, was {settings.format!r}"
        )
    names = tuple(symbols)
    parts: list[dict[str, Any]] = [
        {"type": channel, "codes": list(names)} for channel in channels if channel != "top"
    ]
    # `level` is left out: its default 1 means no grouping
    frame = korean.subscribe_frame(parts, settings.format)
    return [Subscription(settings.websocket, (frame,), names)]


# seen: the unit of `level` is the tick, 1000 for KRW-BTC gave groups of 1,000,000 KRW. No list of
# supported levels is published, and an unsupported one closes the connection
GROUPING = Grouping(
    (10, 100, 1000),
    lambda level, price: level * korean.tick_of(price),
    korean.tick_of,
    korean.group_frame,
)


def resubscribe_frames(symbol: str) -> tuple[bytes, ...]:
    """Return none: each frame is a whole book."""
    return ()


def snapshot_request(symbol: str, levels: int) -> Request:
    path = f"{korean.BOOKS}?markets={quote(symbol)}"
    return Request("snapshot", path, "orderbook", 1, (symbol,))


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request all books in as few calls as possible."""
    return korean.compare_requests(symbols, MARKETS_PER_CALL)


def trades_request(symbol: str) -> Request:
    return korean.trades_request(symbol, DAYS_KEY)


def older_trades_request(page: TradePage) -> Request | None:
    return korean.older_trades_request(page, DAYS_KEY, KST_OFFSET_NS)


def aggregates_request(symbol: str, from_ns: int) -> Request | None:
    """Return None: trades are not aggregated."""
    return None


def markets_request() -> Request:
    return Request("markets", "/v1/market/all?isDetails=true", "market")


read_books = korean.read_books


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read the answer of a trades request, oldest first, with corrected times.

    `timestamp` is documented as Unix ms. Seen in REST tickers: it is KST written as UTC, 9 hours
    ahead. The trades of a page are treated alike where one would lie in the future, or would be
    newer than the page before.

    Args: wall_ns: time of the answer; 0 = times are not corrected.
    """
    trades = korean.read_trades(request, payload)
    bound_ns = wall_ns
    if isinstance(request.place, korean.Place) and request.place.until_ns:
        bound_ns = min(wall_ns, request.place.until_ns)
    if not any(
        bound_ns + FUTURE_NS < trade.exchange_ns < bound_ns + FUTURE_NS + KST_OFFSET_NS
        for trade in trades
    ):
        return trades
    return [replace(trade, exchange_ns=trade.exchange_ns - KST_OFFSET_NS) for trade in trades]


read_markets = korean.read_markets

# facts beside the price

WALLETS = "/public/assetsstatus/multichain/ALL"
WARNINGS = "/v1/market/virtual_asset_warning"
NOTICES = "/v1/notices"
# seen: notices asked for in quick succession are redirected without an end
NOTICES_S = 300.0
FACTS = (
    FactSource(markets_request(), ("trading", "flags"), 0),
    FactSource(Request("facts", WALLETS, "market"), ("wallets",)),
    FactSource(Request("facts", WARNINGS, "market"), ("flags",)),
    FactSource(Request("facts", f"{NOTICES}?count=20", "market"), ("notices",), NOTICES_S),
)
KST = timezone(timedelta(hours=9))
# seen: a title has the names of coins in brackets, such as 비트코인(BTC)
_COINS = re.compile(r"\(([A-Z0-9]{1,12})\)")


def read_facts(request: Request, payload: bytes) -> Said:
    """Read warnings of the list of markets and of the alert list, wallets, or notices."""
    match request.path.partition("?")[0]:
        case path if path == WALLETS:
            return _wallets(orjson.loads(payload))
        case path if path == WARNINGS:
            return _warnings(orjson.loads(payload))
        case path if path == NOTICES:
            return _notices(orjson.loads(payload))
    return korean.read_market_facts(payload, _designated)


def _designated(row: Any) -> list[Flag]:
    # documented: NONE or CAUTION
    warning = name_of(row["market_warning"])
    return [] if warning == "NONE" else [Flag(_level(warning), f"MARKET_{warning}")]


def _level(name: str) -> Warning:
    # a step that is not known yet counts as the lowest one
    return next((one for one in LEVELS[1:] if one == name.lower()), "caution")


def _wallets(found: Any) -> Said:
    # documented: true and false; seen: 1 and 0
    if found["status"] != "0000":
        raise ValueError(f"expected status 0000, was {found['status']!r}")
    read, unread = rows(
        found["data"],
        lambda row: name_of(row["currency"]).upper(),
        lambda row: Network(
            name_of(row["net_type"]),
            is_open(row["deposit_status"]),
            is_open(row["withdrawal_status"]),
        ),
    )
    wallets = {coin: networks(parts) for coin, parts in read.items()}
    return Said(wallets=wallets, unread=unread)


def _warnings(found: Any) -> Said:
    # only markets with an alert in force; an older form has no step
    read, unread = rows(
        found,
        lambda row: name_of(row["market"]),
        lambda row: Flag(
            _level(name_of(row.get("warning_step", "CAUTION"))), name_of(row["warning_type"])
        ),
        empty=True,
    )
    return Said(flags=read, unread=unread)


def _notices(found: Any) -> Said:
    read, unread = rows(found, lambda row: text_of(row["title"]), _notice, empty=True)
    notices: dict[str, list[Notice]] = {}
    for title, parts in read.items():
        for coin in dict.fromkeys(_COINS.findall(title)):
            notices.setdefault(coin, []).extend(parts)
    for parts in notices.values():
        parts.sort(key=lambda one: -one.ts)
    return Said(notices=notices, unread=unread)


def _notice(row: Any) -> Notice:
    at = datetime.strptime(row["published_at"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=KST)
    category = ", ".join(text_of(one) for one in row["categories"][:5])
    url = text_of(row["pc_url"])
    if not url.startswith("https://"):
        raise ValueError("expected an address")
    return Notice(int(at.timestamp()) * 1000, category, text_of(row["title"]), url)


refusal_of_frame = korean.refusal_of_frame
refusal_of_answer = korean.refusal_of_answer

# recordings


def label(payload: bytes) -> Label:
    """Return the label of a recorded frame."""
    return korean.label(payload, SINGLE)


ids_of = korean.ids_of
request_of = korean.request_of
recorded_book = korean.recorded_book


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    """Answer a REST request from a recording. Seen: errors have status 200 too."""
    if path == WALLETS:
        return 200, {"status": "0000", "data": wallet_list(recording.symbols)}
    if path in (WARNINGS, NOTICES):
        return 200, []
    return 200, korean.answer(recording, path, query, wall_ns, RULES)[1]


def wallet_list(symbols: Iterable[str]) -> list[dict[str, Any]]:
    """Return the wallets of a recording's coins, all of them open."""
    coins = sorted({symbol.partition("-")[2] for symbol in symbols})
    return [
        {"currency": one, "net_type": one, "deposit_status": 1, "withdrawal_status": 1}
        for one in coins
    ]


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    return korean.trials(settings, symbol, group_level=10, closes=True)


bad_request = korean.bad_request
