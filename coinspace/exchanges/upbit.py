"""Upbit: every book frame is a whole book of 30 levels; trade ids are unique and unordered.

Comments have the rule that the code relies on. "Documented" means https://docs.upbit.com/kr;
"seen" means that only real frames and answers show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from coinspace.exchanges import korean
from coinspace.exchanges.exchange import (
    AddressLimit,
    Channel,
    FactSource,
    Grouping,
    Identity,
    Limit,
    Load,
    Rates,
    Recording,
    Request,
    Subscription,
    TradePage,
    Trial,
    finite,
)
from coinspace.exchanges.facts import Flag, Said, name_of, truth
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import dashed_symbol

NAME = "upbit"
ORDER = 1
REGION = "KR"
QUOTES = ("KRW",)
SETTINGS = ExchangeSettings(
    websocket="wss://api.upbit.com/websocket/v1",
    rest="https://api.upbit.com",
    markets=korean.MARKETS,
    group_reach=0.005,
)
BY_DEFAULT = True
# the same name as another asset elsewhere
IDENTITIES = (Identity(NAME, "TON", "TOKAMAK"),)
COLOURS = ("#4c8dff", "#1f66e5")
LOAD = Load(Rates(8, 4, 3), Rates(2.4, 0.5, 0.2), {"KRW": 290})
# published at upbit.com, "거래 수수료", for markets in KRW
TAKER_FEE = 0.0005
PROTOCOL = "upbit"
# documented and seen: each frame is the whole book, never a change of it
UPDATES = False
SNAPSHOTS_IN_STREAM = False
NAMED_SYMBOLS = False
BOOK_KIND = "orderbook"
# documented: `sequential_id` is unique, but does not give the order of trades
CONTIGUOUS_TRADES = False
JOINABLE_TRADES = True
STREAM_DEPTH = 30
# documented: an idle connection ends after 120 s; seen: after 60 s, without a close frame
PING_INTERVAL_S = 15.0
PING_FRAME = b""
QUIET_MARKETS = False
SERVER_PING_S = 0.0
LIFETIME_S = 0.0
BINARY_FRAMES = True
# each market sends a snapshot first; an unknown code sends nothing, not even an error
FIRST_FRAMES = True
# documented (rate limits, groups `websocket-connect` and `websocket-message`): 5 connections a
# second per address; 5 messages a second and 100 a minute per connection. A request with an Origin
# header is allowed only once in 10 s, so CoinSpace sends no Origin header
CONNECT_LIMIT = Limit(5, 1.0)
MESSAGE_LIMITS = (Limit(5, 1.0), Limit(100, 60.0))
# documented (rate limits): 10 requests a second per address for each group
REST_LIMITS = {group: Limit(10, 1.0) for group in ("market", "trade", "ticker", "orderbook")}
REST_HEADERS: Mapping[str, str] = {}
MIRRORS = ""
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

# depths that the suffix of a code can ask for; any other number gives 30 levels
SUFFIXES = (1, 5, 15)
# tick and supported levels of markets
INSTRUMENTS = "/v1/orderbook/instruments"
# documented: with an empty `days_ago`, trades of the present UTC day
DAYS_KEY = "days_ago"
# of each market in a list with details
DETAILS = {
    "market_event": {
        "warning": False,
        "caution": {
            "PRICE_FLUCTUATIONS": False,
            "TRADING_VOLUME_SOARING": False,
            "DEPOSIT_AMOUNT_SOARING": False,
            "GLOBAL_PRICE_DIFFERENCES": False,
            "CONCENTRATION_OF_SMALL_ACCOUNTS": False,
        },
    }
}
# an answer with more books takes too long to read
MARKETS_PER_CALL = 500


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.upbit import UpbitParser

    return UpbitParser(capacity)


symbol_of = dashed_symbol
market_of = korean.market_of


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the only connection, with one frame for everything."""
    names = tuple(symbols)
    suffix = next((f".{n}" for n in SUFFIXES if settings.depth <= n), "")
    parts: list[dict[str, Any]] = [
        {"type": "orderbook", "codes": [name + suffix for name in names], "level": 0}
        if channel == "orderbook"
        else {"type": channel, "codes": list(names)}
        for channel in channels
        if channel != "top"
    ]
    frame = korean.subscribe_frame(parts, settings.format)
    return [Subscription(settings.websocket, (frame,), names)]


def groups_request(symbols: Sequence[str]) -> Request:
    """Request the supported levels of markets."""
    path = f"{INSTRUMENTS}?markets={','.join(symbols)}"
    return Request("groups", path, "orderbook", 1, tuple(symbols))


def read_groups(payload: bytes) -> dict[str, tuple[float, ...]]:
    """Return the supported levels of each market, without 0, which means single levels."""
    return {
        entry["market"]: tuple(
            level for level in map(finite, entry["supported_levels"]) if level > 0
        )
        for entry in orjson.loads(payload)
    }


# documented: `level` is the width of a group in KRW, for markets in KRW only. An unsupported one is
# silent for ever, so the supported ones are requested first
GROUPING = Grouping(
    (),
    lambda level, price: level,
    korean.tick_of,
    korean.group_frame,
    groups_request,
    read_groups,
)


def resubscribe_frames(symbol: str) -> tuple[bytes, ...]:
    """Return none: each frame is a whole book."""
    return ()


def snapshot_request(symbol: str, levels: int) -> Request:
    path = f"{korean.BOOKS}?markets={quote(symbol)}&count={levels}"
    return Request("snapshot", path, "orderbook", 1, (symbol,))


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request all books, up to 500 in one call; one bad code fails the whole call (HTTP 404)."""
    return korean.compare_requests(symbols, MARKETS_PER_CALL)


def trades_request(symbol: str) -> Request:
    return korean.trades_request(symbol, DAYS_KEY)


def older_trades_request(page: TradePage) -> Request | None:
    return korean.older_trades_request(page, DAYS_KEY, 0)


def aggregates_request(symbol: str, from_ns: int) -> Request | None:
    """Return None: trades are not aggregated."""
    return None


def markets_request() -> Request:
    return Request("markets", "/v1/market/all?is_details=true", "market")


read_books = korean.read_books
read_trades = korean.read_trades
read_markets = korean.read_markets

# facts beside the price; documented: the states of wallets and the notices need a key
FACTS = (FactSource(markets_request(), ("trading", "flags"), 0),)


def read_facts(request: Request, payload: bytes) -> Said:
    """Read `/v1/market/all`: the only public facts."""
    return korean.read_market_facts(payload, _flags)


def _flags(row: Any) -> list[Flag]:
    # documented: `warning` is a designated market, `caution` has the alerts in force
    event = row["market_event"]
    cautions = [name_of(name) for name, on in event["caution"].items() if truth(on)]
    flags = [Flag("caution", name) for name in cautions]
    return [Flag("warning", "WARNING"), *flags] if truth(event["warning"]) else flags


refusal_of_frame = korean.refusal_of_frame
refusal_of_answer = korean.refusal_of_answer

# recordings

label = korean.label
ids_of = korean.ids_of
request_of = korean.request_of
recorded_book = korean.recorded_book


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    if path == INSTRUMENTS:
        return korean.instruments(recording, query.get("markets", ""))
    return korean.answer(recording, path, query, wall_ns, korean.Rules(DETAILS, DAYS_KEY))


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    return korean.trials(settings, symbol, group_level=10_000, closes=False)


bad_request = korean.bad_request
