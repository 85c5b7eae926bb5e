"""Upbit: every book frame is a whole book of 30 levels; trades have unordered unique ids.

Rules that the code relies on:

1. A subscribe frame replaces the one before: one frame per connection says everything.
2. Unknown codes are silent: a first frame is watched for.
3. Errors are followed by close 1000 and would come again: they end the subscription.
4. Idle sockets are cut after 60 s (the documents say 120): a ping every 15 s.
5. Requests with an Origin header are limited to one per 10 s: none is ever sent.
6. One bad code fails a whole REST call.

https://docs.upbit.com/kr/reference/general-info
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coinspace.config import ExchangeSettings
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

NAME = "upbit"
UPDATES = False
CONTIGUOUS_TRADES = False
JOINABLE_TRADES = True
STREAM_DEPTH = 30
PING_INTERVAL_S = 15.0
LIFETIME_S = 0.0
CONNECT_LIMIT = Limit(5, 1.0)
MESSAGE_LIMITS = (Limit(5, 1.0), Limit(100, 60.0))
REST_LIMITS = {group: Limit(10, 1.0) for group in ("market", "trade", "ticker", "orderbook")}
ADDRESS_LIMITS: dict[str, AddressLimit] = {}
SNAPSHOT_STEPS = ()

# depths that a code's suffix can ask for; any other number gives 30
SUFFIXES = (1, 5, 15)
# a recent-trades call returns this many at most (assumed by clients, not documented)
TRADES = 500
# an answer with more books takes too long to take
MARKETS_PER_CALL = 500


def parser(capacity: int) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.upbit import UpbitParser

    return UpbitParser(capacity)


def symbol_of(market: Market) -> str:
    """Spell a market."""
    return dashed_symbol(market)


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the connections to make: one, and one more for grouped far levels (rule 1)."""
    url, names = settings.websocket, tuple(symbols)
    suffix = next((f".{n}" for n in SUFFIXES if settings.depth <= n), "")
    parts: list[dict[str, Any]] = [
        {"type": "orderbook", "codes": [name + suffix for name in names], "level": 0}
        if channel == "orderbook"
        else {"type": channel, "codes": list(names)}
        for channel in channels
        if channel != "top"
    ]
    found = [Subscription(url, (korean.subscribe_frame(parts, settings.format),), names)]
    if "orderbook" not in channels:
        return found
    levels = {
        dashed_symbol(Market.parse(market)): level
        for market, level in settings.group_levels.items()
    }
    grouped = [name for name in names if name in levels]
    if grouped:
        parts = [{"type": "orderbook", "codes": [name], "level": levels[name]} for name in grouped]
        frame = korean.subscribe_frame(parts, settings.format)
        found.append(Subscription(url, (frame,), tuple(grouped), grouped=True))
    return found


def snapshot_request(symbol: str, levels: int) -> Request:
    """Ask for one whole book."""
    return Request(
        "snapshot", f"/v1/orderbook?markets={symbol}&count={levels}", "orderbook", 1, (symbol,)
    )


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Ask for all books, some hundreds in one call."""
    return [
        Request("compare", f"/v1/orderbook?markets={','.join(names)}", "orderbook", 1, names)
        for names in chunks(symbols, MARKETS_PER_CALL)
    ]


def trades_request(symbol: str) -> Request:
    """Ask for the newest trades."""
    path = f"/v1/trades/ticks?market={symbol}&count={TRADES}"
    return Request("trades", path, "trade", 1, (symbol,))


def older_trades_request(before: RestTrade) -> Request | None:
    """Ask for the trades before one."""
    request = trades_request(before.symbol)
    return replace(request, path=f"{request.path}&cursor={before.trade_id}")


def markets_request() -> Request:
    """Ask for everything that is offered."""
    return Request("markets", "/v1/market/all?is_details=true", "market")


def read_books(request: Request, payload: bytes) -> list[RestBook]:
    """Read the answer of a snapshot or compare request."""
    return korean.read_books(payload)


def read_trades(request: Request, payload: bytes, wall_ns: int = 0) -> list[RestTrade]:
    """Read the answer of a trades request, oldest first."""
    return korean.read_trades(payload)


def read_markets(payload: bytes) -> list[Listing]:
    """Read the answer of a markets request."""
    return korean.read_markets(payload)


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Judge an error frame."""
    return korean.refusal_of_frame(detail)


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Judge a REST answer, None = it is good."""
    return korean.refusal_of_answer(status, payload)
