"""Bithumb (second generation): whole books of 15 levels with times in µs; half of them repeats.

Comments have the rule that the code relies on. "Documented" means https://apidocs.bithumb.com;
"seen" means that only real frames and answers show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coinspace.errors import ConfigError
from coinspace.exchanges import korean
from coinspace.exchanges.exchange import (
    AddressLimit,
    Channel,
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
    Trial,
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
# published, without a coupon; 0.04 % with one
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
TRADES = 200


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
    return Request("snapshot", f"/v1/orderbook?markets={symbol}", "orderbook", 1, (symbol,))


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Request all books in as few calls as possible."""
    return korean.compare_requests(symbols, MARKETS_PER_CALL)


def trades_request(symbol: str) -> Request:
    return korean.trades_request(symbol, TRADES)


def older_trades_request(before: RestTrade) -> Request | None:
    """Return None: pages are documented (`cursor`), but their ids and times are not verified."""
    return None


def markets_request() -> Request:
    return Request("markets", "/v1/market/all?isDetails=true", "market")


read_books = korean.read_books


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read the answer of a trades request, oldest first, with corrected times.

    `timestamp` is documented as Unix ms. Seen in REST tickers: it is KST written as UTC, 9 hours
    ahead. Trades are treated alike where they would lie in the future.

    Args: wall_ns: time of the answer; 0 = times are not corrected.
    """
    return [
        replace(trade, exchange_ns=trade.exchange_ns - KST_OFFSET_NS)
        if wall_ns + FUTURE_NS < trade.exchange_ns < wall_ns + FUTURE_NS + KST_OFFSET_NS
        else trade
        for trade in korean.read_trades(request, payload)
    ]


read_markets = korean.read_markets
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
    return 200, korean.answer(recording, path, query, {"market_warning": "NONE"})[1]


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    """Return the trials of both exchanges, and one of price groups."""
    groups = korean.group_trial(settings, 10, closes=True)
    return [*korean.trials(settings, symbol), groups] if symbol else korean.trials(settings, symbol)


bad_request = korean.bad_request
