"""What Upbit and Bithumb share: the subscribe array, REST books and trades, error bodies."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from coinspace.errors import MarketError
from coinspace.exchanges.exchange import Listing, Refusal, RestBook, RestTrade, finite, plain
from coinspace.market import market_of_dashed

# a time beyond this many ms since the epoch (year 5138) is in µs
MICROSECONDS_FROM = 100_000_000_000_000
# names of refusals that pass by themselves, whatever their spelling
PASSING = ("too_many_request", "too many request", "teapot")


def milliseconds(timestamp: int) -> int:
    """Return ms of a time in ms or µs."""
    return timestamp // 1000 if timestamp >= MICROSECONDS_FROM else timestamp


def subscribe_frame(parts: Sequence[dict[str, Any]], form: str) -> bytes:
    """Return the one frame that says everything: a second one would replace it."""
    return orjson.dumps([{"ticket": str(uuid.uuid4())}, *parts, {"format": form}])


def read_books(payload: bytes) -> list[RestBook]:
    """Read `/v1/orderbook`. Padding (price or size 0) is left out."""
    books = []
    for entry in orjson.loads(payload):
        units = entry["orderbook_units"]
        sides = [
            [
                (finite(unit[f"{side}_price"]), finite(unit[f"{side}_size"]))
                for unit in units
                if unit[f"{side}_price"] > 0 and unit[f"{side}_size"] > 0
            ]
            for side in ("bid", "ask")
        ]
        books.append(
            RestBook(entry["market"], milliseconds(int(entry["timestamp"])), sides[0], sides[1])
        )
    return books


def read_trades(payload: bytes) -> list[RestTrade]:
    """Read `/v1/trades/ticks`, oldest first."""
    trades = [
        RestTrade(
            entry["market"],
            int(entry["sequential_id"]),
            milliseconds(int(entry["timestamp"])) * 1_000_000,
            float(entry["trade_price"]),
            float(entry["trade_volume"]),
            entry["ask_bid"] == "ASK",
        )
        for entry in orjson.loads(payload)
    ]
    trades.sort(key=lambda trade: (trade.exchange_ns, trade.trade_id))
    return trades


def read_markets(payload: bytes) -> list[Listing]:
    """Read `/v1/market/all`; what is not offered any more is absent there."""
    listings = []
    for entry in orjson.loads(payload):
        try:
            market = market_of_dashed(entry["market"])
        except MarketError:
            continue
        warning = entry.get("market_warning") or (
            "WARNING" if entry.get("market_event", {}).get("warning") else "NONE"
        )
        listings.append(
            Listing(entry["market"], market, True, "" if warning == "NONE" else plain(str(warning)))
        )
    return listings


def refusal_of_frame(detail: dict[str, Any]) -> Refusal:
    """Judge an error frame: all but rate limits would come again on a new connection."""
    error = detail.get("error", detail)
    if not isinstance(error, dict):
        error = {"name": str(error)}
    text = plain(f"{error.get('name')}: {error.get('message')}")
    return Refusal(text, fatal=not any(word in text.lower() for word in PASSING))


def refusal_of_answer(status: int, payload: bytes) -> Refusal | None:
    """Judge a REST answer; Bithumb sends errors with status 200, so the body decides too."""
    error: Any = None
    if payload[:20].lstrip()[:1] == b"{":
        try:
            error = orjson.loads(payload).get("error")
        except orjson.JSONDecodeError:
            error = {"name": "body is not JSON", "message": payload[:80].decode(errors="replace")}
    if status == 200 and error is None:
        return None
    text = f"HTTP {status}"
    if isinstance(error, dict):
        text += f" {error.get('name')}: {error.get('message')}"
    text = plain(text)
    passing = status in (418, 429) or status >= 500 or any(w in text.lower() for w in PASSING)
    return Refusal(text, fatal=not passing)
