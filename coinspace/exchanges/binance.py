"""Binance spot: book updates every 100 ms against a REST snapshot; trade ids count up by one.

Rules that the code relies on:

1. Unknown streams are acknowledged and stay silent: a first frame is watched for.
2. The server pings every 20 s and wants the pong within 60 s.
3. We may send 5 messages a second, pongs included, in a strict rolling window: streams go into the
   URL, more of
   them in SUBSCRIBE frames at least 300 ms apart.
4. A connection ends after 24 h, or earlier with `serverShutdown`.
5. A snapshot costs weight by its levels; 6,000 a minute are allowed, 80 % of them are used.
6. Symbols cannot be split into base and quote: the list of markets decides.

https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from coinspace.config import ExchangeSettings
from coinspace.errors import MarketError
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
    finite,
    plain,
)
from coinspace.market import Market, joined_symbol

NAME = "binance"
UPDATES = True
CONTIGUOUS_TRADES = True
JOINABLE_TRADES = True
STREAM_DEPTH = 5000
PING_INTERVAL_S = 20.0
LIFETIME_S = 24 * 3600.0
CONNECT_LIMIT = Limit(300, 300.0)
# documented 5/s; 300 ms apart leaves room for a pong in every second
MESSAGE_LIMITS = (Limit(1, 0.3),)
REST_LIMITS = {"weight": Limit(4800, 60.0)}
# of the 6,000: below it are our two processes, above it what is on its way to others
ADDRESS_LIMITS = {"weight": AddressLimit("X-MBX-USED-WEIGHT-1M", 5400)}

STREAMS_PER_CONNECTION = 1000
# longer URLs are asked for by SUBSCRIBE frames of as many streams each
STREAMS_PER_FRAME = 100
STREAMS: dict[Channel, str] = {
    "orderbook": "depth@100ms",
    "top": "bookTicker",
    "ticker": "ticker",
    "trade": "trade",
}
# levels asked for -> weight
DEPTH_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
SNAPSHOT_STEPS = tuple(levels for levels, _ in DEPTH_WEIGHTS)
TRADES = 1000
# levels that a comparison asks for, as many as cost the least weight; a snapshot never asks for so
# many, nor for what older recordings compared
COMPARED = 99
COMPARISONS = (COMPARED, 5)


def parser(capacity: int) -> Any:
    """Return a frame parser with room for `capacity` levels per side."""
    from coinspace._ext.binance import BinanceParser

    return BinanceParser(capacity)


def symbol_of(market: Market) -> str:
    """Spell a market."""
    return joined_symbol(market)


def subscriptions(
    settings: ExchangeSettings, channels: Sequence[Channel], symbols: Sequence[str]
) -> list[Subscription]:
    """Return the connections to make, each with at most 1,000 streams (rule 3)."""
    kinds = [STREAMS[channel] for channel in channels]
    base = settings.websocket.rstrip("/").removesuffix("/stream").removesuffix("/ws")
    unit = "&timeUnit=MICROSECOND" if settings.microseconds else ""
    found = []
    for names in chunks(symbols, STREAMS_PER_CONNECTION // len(kinds)):
        streams = [f"{name.lower()}@{kind}" for name in names for kind in kinds]
        first, *rest = chunks(streams, STREAMS_PER_FRAME)
        frames = tuple(
            orjson.dumps({"method": "SUBSCRIBE", "params": list(part), "id": number})
            for number, part in enumerate(rest, 1)
        )
        url = f"{base}/stream?streams={'/'.join(first)}{unit}"
        found.append(Subscription(url, frames, names))
    return found


def snapshot_request(symbol: str, levels: int) -> Request:
    """Ask for a snapshot of at most 5,000 levels per side."""
    weight = next(weight for most, weight in DEPTH_WEIGHTS if levels <= most)
    path = f"/api/v3/depth?symbol={symbol}&limit={levels}"
    return Request("snapshot", path, "weight", weight, (symbol,), levels)


def compare_requests(symbols: Sequence[str]) -> list[Request]:
    """Ask for the best levels of each book: the answer names an update id, not a symbol."""
    path = f"/api/v3/depth?limit={COMPARED}&symbol="
    return [Request("compare", path + symbol, "weight", 5, (symbol,)) for symbol in symbols]


def trades_request(symbol: str) -> Request:
    """Ask for the newest trades."""
    path = f"/api/v3/trades?symbol={symbol}&limit={TRADES}"
    return Request("trades", path, "weight", 25, (symbol,))


def older_trades_request(before: RestTrade) -> Request | None:
    """Ask for the trades before one."""
    first = max(0, before.trade_id - TRADES)
    count = before.trade_id - first
    if not count:
        return None
    path = f"/api/v3/historicalTrades?symbol={before.symbol}&limit={count}&fromId={first}"
    return Request("trades", path, "weight", 25, (before.symbol,))


def markets_request() -> Request:
    """Ask for everything that is offered."""
    return Request("markets", "/api/v3/exchangeInfo?permissions=SPOT", "weight", 20)


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
    trades = [
        RestTrade(
            request.symbols[0],
            int(entry["id"]),
            int(entry["time"]) * 1_000_000,
            float(entry["price"]),
            float(entry["qty"]),
            bool(entry["isBuyerMaker"]),
        )
        for entry in orjson.loads(payload)
    ]
    trades.sort(key=lambda trade: trade.trade_id)
    return trades


def read_markets(payload: bytes) -> list[Listing]:
    """Read the answer of a markets request (rule 6)."""
    listings = []
    for entry in orjson.loads(payload)["symbols"]:
        try:
            symbol, status = str(entry["symbol"]), str(entry["status"])
            market = Market.parse(f"{entry['baseAsset']}/{entry['quoteAsset']}")
        except MarketError:
            # assets with letters beyond A-Z exist; nothing here trades them
            continue
        listings.append(Listing(symbol, market, status == "TRADING", plain(status)))
    return listings


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Judge an error frame, flat or wrapped."""
    error = detail.get("error", detail)
    if not isinstance(error, dict):
        error = {"msg": str(error)}
    text = plain(f"{error.get('code')}: {error.get('msg')}")
    return Refusal(text, fatal="too many" not in text.lower())


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Judge a REST answer, None = it is good."""
    if status == 200:
        return None
    text = f"HTTP {status}"
    try:
        body = orjson.loads(payload)
        text += f" {body['code']}: {body['msg']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text += f" {payload[:80].decode(errors='replace')}"
    text = plain(text)
    return Refusal(text, fatal=status not in (403, 418, 429) and status < 500)
