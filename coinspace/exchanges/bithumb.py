"""Bithumb (second generation): whole books of 15 levels with µs times, many of them exact repeats.

What the code relies on stands at the code, with the section of the exchange's documentation:
https://apidocs.bithumb.com (Public API, WebSocket).
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
    Identity,
    Label,
    Limit,
    Listing,
    Recording,
    Refusal,
    Request,
    RestBook,
    RestTrade,
    Subscription,
    Trial,
    chunks,
)
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.market import Market, dashed_symbol

NAME = "bithumb"
ORDER = 2
REGION = "KR"
QUOTES = ("KRW",)
SETTINGS = ExchangeSettings(
    websocket="wss://ws-api.bithumb.com/websocket/v1",
    rest="https://api.bithumb.com",
    markets=korean.MARKETS,
)
# same letters, other coin
IDENTITIES = (Identity(NAME, "ALT", "ARCHLOOT"),)
COLOURS = ("#ff9147", "#df6a13")
PROTOCOL = "bithumb"
# "WebSocket: Orderbook": each frame is the whole book. Half of them repeat the one before; a level
# of size 0 is dust and is not there
UPDATES = False
NAMED_SYMBOLS = False
BOOK_KIND = "orderbook"
CONTIGUOUS_TRADES = False
# ids of REST trades are not those of the stream
JOINABLE_TRADES = False
STREAM_DEPTH = 15
# "WebSocket: connection": an idle connection ends after 60 s
PING_INTERVAL_S = 15.0
SERVER_PING_S = 0.0
LIFETIME_S = 0.0
BINARY_FRAMES = True
# a snapshot comes first, unless the code does not exist: then nothing comes, and nothing says so
FIRST_FRAMES = True
# "Rate limits", WebSocket: 10 connections a second; beyond it the address is blocked for 10
# minutes, so half of it is used
CONNECT_LIMIT = Limit(5, 1.0)
# not published; Upbit's
MESSAGE_LIMITS = (Limit(5, 1.0), Limit(100, 60.0))
# "Rate limits", Public API: 150 a second; a block takes a minute, so far less is used
REST_LIMITS = {group: Limit(50, 1.0) for group in ("market", "trade", "ticker", "orderbook")}
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

FORMATS = ("SIMPLE", "DEFAULT")
KST_OFFSET_NS = 9 * 3600 * 1_000_000_000
# a trade further in the future than this has a KST time
FUTURE_NS = 3600 * 1_000_000_000
# more markets than this are refused in one call of another kind; books are asked the same way
MARKETS_PER_CALL = 200
TRADES = 200


def parser(capacity: int, markets: Iterable[str] = ()) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.bithumb import BithumbParser

    return BithumbParser(capacity)


def symbol_of(market: Market) -> str:
    """Spell a market."""
    return dashed_symbol(market)


def market_of(symbol: str) -> Market | None:
    """Return the market of a symbol such as KRW-BTC."""
    return korean.market_of(symbol)


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the one connection to make. Raises: ConfigError for a format that is Upbit's own."""
    if settings.format not in FORMATS:
        raise ConfigError(
            f"exchanges.bithumb.format: expected {' or '.join(FORMATS)}, was {settings.format!r}"
        )
    names = tuple(symbols)
    parts: list[dict[str, Any]] = [
        {"type": channel, "codes": list(names)} for channel in channels if channel != "top"
    ]
    # "WebSocket: Orderbook": `level` starts at 1. It is left out: its default 1 means no grouping,
    # other values are refused
    frame = korean.subscribe_frame(parts, settings.format)
    return [Subscription(settings.websocket, (frame,), names)]


def snapshot_request(symbol: str, levels: int) -> Request:
    """Ask for one whole book."""
    return Request("snapshot", f"/v1/orderbook?markets={symbol}", "orderbook", 1, (symbol,))


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Ask for all books, in one call where the exchange allows it."""
    return [
        Request("compare", f"/v1/orderbook?markets={','.join(names)}", "orderbook", 1, names)
        for names in chunks(symbols, MARKETS_PER_CALL)
    ]


def trades_request(symbol: str) -> Request:
    """Ask for the newest trades."""
    path = f"/v1/trades/ticks?market={symbol}&count={TRADES}"
    return Request("trades", path, "trade", 1, (symbol,))


def older_trades_request(before: RestTrade) -> Request | None:
    """Ask for the trades before one: no way is documented."""
    return None


def markets_request() -> Request:
    """Ask for everything that is offered."""
    return Request("markets", "/v1/market/all?isDetails=true", "market")


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read the answer of a snapshot or compare request."""
    return korean.read_books(payload)


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read the answer of a trades request, oldest first, times corrected.

    "Trades" (Public API) calls `timestamp` a time in ms; it was seen to be KST wall time written as
    UTC, 9 hours ahead.

    Args: wall_ns: the time of the answer; without it no time is corrected.
    """
    return [
        replace(trade, exchange_ns=trade.exchange_ns - KST_OFFSET_NS)
        if wall_ns + FUTURE_NS < trade.exchange_ns < wall_ns + FUTURE_NS + KST_OFFSET_NS
        else trade
        for trade in korean.read_trades(payload)
    ]


def read_markets(payload: bytes) -> list[Listing]:
    """Read the answer of a markets request."""
    return korean.read_markets(payload)


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Judge an error frame."""
    return korean.refusal_of_frame(detail)


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Judge a REST answer, None = it is good."""
    return korean.refusal_of_answer(status, payload)


# recordings


def label(payload: bytes) -> Label:
    """Tell what a recorded frame is."""
    return korean.label(payload)


def ids_of(what: Label, payload: bytes) -> tuple[bytes, bytes] | None:
    """Return nothing: books have no ids, and those of trades are in no order."""
    return None


def request_of(path: str) -> Request | None:
    """Return the request that a recorded answer belongs to."""
    return korean.request_of(path)


def recorded_book() -> None:
    """Return nothing: each frame is a whole book."""


def answer(
    recording: Recording, path: str, query: Mapping[str, str], wall_ns: int
) -> tuple[int, Any]:
    """Answer a REST request from a recording."""
    return korean.answer(recording, path, query, bad_code_status=200)


# `probe`


def trials(settings: ExchangeSettings, symbol: str) -> list[Trial]:
    """Return what is tried on connections of their own."""
    return korean.trials(settings, symbol)


def bad_request(symbol: str) -> tuple[str, Request]:
    """Return a request of which one code does not exist."""
    request = compare_requests([symbol, korean.nobody(symbol)])[0]
    return "one bad code fails a whole REST call", request
