"""REST answers made from recorded frames."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from coinspace.recording.frames import MALFORMED, unwrapped
from coinspace.simulator.rest import KOREAN_NAMES

QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "KRW")


def trimmed(snapshot: bytes, limit: int) -> bytes:
    """Return a recorded snapshot, verbatim unless it has more levels than were asked for."""
    book = orjson.loads(snapshot)
    if max(len(book["bids"]), len(book["asks"])) <= limit:
        return snapshot
    book["bids"], book["asks"] = book["bids"][:limit], book["asks"][:limit]
    return orjson.dumps(book)


def exchange_info(symbols: Iterable[str], now_ms: int) -> dict[str, Any]:
    """Return exchangeInfo with what a recording tells: names only, split at the known quotes."""
    rows = []
    for symbol in sorted(symbols):
        quote = next((q for q in QUOTES if symbol.endswith(q) and symbol != q), "")
        rows.append(
            {
                "symbol": symbol,
                "status": "TRADING",
                "baseAsset": symbol.removesuffix(quote),
                "quoteAsset": quote,
                "isSpotTradingAllowed": True,
                "filters": [],
                "permissions": [],
                "permissionSets": [["SPOT"]],
            }
        )
    return {"timezone": "UTC", "serverTime": now_ms, "rateLimits": [], "symbols": rows}


def market_list(codes: Iterable[str]) -> list[dict[str, Any]]:
    """Return Upbit's or Bithumb's list of markets for the codes of a recording."""
    rows = []
    for code in sorted(codes):
        base = code.partition("-")[2]
        korean, english = KOREAN_NAMES.get(base, (base, base))
        rows.append({"market": code, "korean_name": korean, "english_name": english})
    return rows


LONG = {
    "cd": "market",
    "code": "market",
    "tms": "timestamp",
    "tas": "total_ask_size",
    "tbs": "total_bid_size",
    "obu": "orderbook_units",
    "ap": "ask_price",
    "bp": "bid_price",
    "as": "ask_size",
    "bs": "bid_size",
    "lv": "level",
    "tp": "trade_price",
    "tv": "trade_volume",
    "ab": "ask_bid",
    "ttms": "trade_timestamp",
    "sid": "sequential_id",
    "pcp": "prev_closing_price",
    "cp": "change_price",
    "op": "opening_price",
    "hp": "high_price",
    "lp": "low_price",
    "atp": "acc_trade_price",
    "atv": "acc_trade_volume",
    "atp24h": "acc_trade_price_24h",
    "atv24h": "acc_trade_volume_24h",
    "scp": "signed_change_price",
    "cr": "change_rate",
    "scr": "signed_change_rate",
    "td": "trade_date_utc",
    "ttm": "trade_time_utc",
    "c": "change",
}


def rows_of(
    frames: Iterable[bytes], shape: Callable[[bytes], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return recorded frames in the shape of REST, without the malformed ones."""
    rows = []
    for payload in frames:
        with contextlib.suppress(*MALFORMED, AttributeError):
            rows.append(shape(payload))
    return rows


def korean_rest(payload: bytes) -> dict[str, Any]:
    """Return a recorded frame in the shape of REST: long keys, `market` instead of `code`."""
    frame = orjson.loads(payload)
    frame = frame[0] if isinstance(frame, list) else frame
    row = {LONG.get(key, key): value for key, value in frame.items() if key not in ("ty", "type")}
    units = row.get("orderbook_units")
    if units:
        row["orderbook_units"] = [{LONG.get(k, k): v for k, v in unit.items()} for unit in units]
    if "trade_timestamp" in row and "sequential_id" in row:
        row["timestamp"] = row["trade_timestamp"]
    return row


def binance_trade(payload: bytes) -> dict[str, Any]:
    """Return a recorded trade in the shape of REST."""
    trade = orjson.loads(unwrapped(payload))
    return {
        "id": int(trade["t"]),
        "price": trade["p"],
        "qty": trade["q"],
        "time": trade["T"],
        "isBuyerMaker": trade["m"],
        "isBestMatch": True,
    }
