"""Bithumb (second generation): whole books of 15 levels with µs times, many of them exact repeats.

Rules that the code relies on:

1. A subscribe frame replaces the one before; unknown codes are silent; errors are followed by
   close 1000.
2. Flags are in camelCase; `level` starts at 1.
3. Idle sockets are cut after 60 s: a ping every 15 s.
4. Half of the frames repeat the book before; levels of size 0 are dust and are not there.
5. REST errors come with status 200; one bad code fails the whole call.
6. REST trade times may be KST wall time written as UTC (+9 h); REST trade ids are not those of the
   stream.

https://apidocs.bithumb.com
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coinspace.clock import now_ns
from coinspace.config import ExchangeSettings
from coinspace.errors import ConfigError
from coinspace.exchanges import korean
from coinspace.exchanges.exchange import (
    AddressLimit,
    Channel,
    Limit,
    Listing,
    Refusal,
    Request,
    RestBook,
    RestTrade,
    Subscription,
    chunks,
)
from coinspace.market import Market, dashed_symbol

NAME = "bithumb"
UPDATES = False
CONTIGUOUS_TRADES = False
JOINABLE_TRADES = False
STREAM_DEPTH = 15
PING_INTERVAL_S = 15.0
LIFETIME_S = 0.0
# documented 10/s; beyond it the address is blocked for 10 minutes, so half of it is used
CONNECT_LIMIT = Limit(5, 1.0)
# not published; Upbit's
MESSAGE_LIMITS = (Limit(5, 1.0), Limit(100, 60.0))
# documented 150/s each; a block takes a minute, so far less is used
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


def parser(capacity: int) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.bithumb import BithumbParser

    return BithumbParser(capacity)


def symbol_of(market: Market) -> str:
    """Spell a market."""
    return dashed_symbol(market)


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
    # `level` is left out: its default 1 means no grouping, other values are refused
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
    """Read the answer of a trades request, oldest first, times corrected (rule 6).

    Args: wall_ns: the time of the answer, 0 = now.
    """
    wall_ns = wall_ns or now_ns()
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
