"""What recorded frames are, and REST answers made from them."""

from __future__ import annotations

import contextlib
import math
import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from coinspace.exchanges import binance
from coinspace.feed.format import Record
from coinspace.feed.rest import KOREAN_NAMES

_TYPE = re.compile(rb'"(?:ty|type)"\s*:\s*"([^"]*)"')
_CODE = re.compile(rb'"(?:cd|code)"\s*:\s*"([^"]*)"')
_STREAM = re.compile(rb'^\s*\{\s*"stream"\s*:\s*"([^"]*)"\s*,\s*"data"\s*:\s*')
_EVENT = re.compile(rb'^\s*\{\s*"e"\s*:\s*"([^"]*)".{0,60}?"s"\s*:\s*"([^"]*)"')
_TOP = re.compile(rb'^\s*\{\s*"u"\s*:\s*\d+\s*,\s*"s"\s*:\s*"([^"]*)"')
# stream names that an event of the raw form can have come by
EVENTS = {
    "depthUpdate": ("depth@100ms", "depth", "depth@1000ms"),
    "trade": ("trade",),
    "aggTrade": ("aggTrade",),
    "24hrTicker": ("ticker",),
    "24hrMiniTicker": ("miniTicker",),
}
RECENT_DIFFS = 1000
# bytes of a name: what is longer is no symbol
NAME_SIZE = 64
# what malformed bytes raise where fields are read
MALFORMED = (ValueError, TypeError, KeyError, IndexError)
COMPARISONS = {str(levels) for levels in binance.COMPARISONS}
QUOTES = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "KRW")


class Label(NamedTuple):
    """What a frame is: kinds it may be subscribed by, symbol (Binance: lower case), wrapped."""

    kinds: tuple[str, ...]
    symbol: str
    wrapped: bool


NOTHING = Label((), "", False)


def label(exchange: str, payload: bytes) -> Label:
    """Tell what a recorded frame is; NOTHING for acks, errors, status."""
    if exchange != "binance":
        kind, code = _TYPE.search(payload), _CODE.search(payload)
        if kind is None or code is None:
            return NOTHING
        return Label((_name(kind[1]),), _name(code[1]), payload[:1] == b"[")
    found = _STREAM.match(payload)
    if found is not None:
        symbol, _, kind_ = _name(found[1]).partition("@")
        return Label((kind_,), symbol, True)
    found = _EVENT.match(payload)
    if found is not None:
        kinds = EVENTS.get(_name(found[1]), ())
        return Label(kinds, _name(found[2]).lower(), False)
    found = _TOP.match(payload)
    if found is not None:
        return Label(("bookTicker",), _name(found[1]).lower(), False)
    return NOTHING


def _name(raw: bytes) -> str:
    return raw[:NAME_SIZE].decode(errors="replace")


def unwrapped(payload: bytes) -> bytes:
    """Return the data of a combined frame."""
    found = _STREAM.match(payload)
    # the last brace is the wrapper's, or the frame is cut
    return payload[found.end() :].removesuffix(b"}") if found else payload


def wrapped(stream: str, payload: bytes) -> bytes:
    """Return the combined form of a raw frame."""
    return b'{"stream":"%s","data":%s}' % (stream.encode(), payload)


def depth_symbol(record: Record) -> str | None:
    """Return the symbol of a recorded depth snapshot, None for anything else: a comparison is no
    snapshot, its few levels are not the book.
    """
    path, _, text = record.path.partition("?")
    if record.direction != "GET" or path != "/api/v3/depth":
        return None
    query = dict(parse_qsl(text))
    return None if query.get("limit") in COMPARISONS else query.get("symbol")


class LocalBook:
    """A Binance book from a snapshot and diffs, to answer for any moment of a recording."""

    def __init__(self) -> None:
        self.id = 0
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        # a snapshot is older than the diffs received just before its answer
        self._recent: deque[bytes] = deque(maxlen=RECENT_DIFFS)

    def restart(self, snapshot: bytes) -> bool:
        """Take a recorded snapshot; return False for an answer that is none, such as an error."""
        try:
            book = orjson.loads(snapshot)
            found = _id(book["lastUpdateId"]), _levels(book["bids"]), _levels(book["asks"])
        except MALFORMED:
            return False
        self.id, self.bids, self.asks = found
        for payload in self._recent:
            self._apply(payload)
        return True

    def apply(self, payload: bytes) -> None:
        """Take a diff unless it is older than the book, or malformed."""
        self._recent.append(payload)
        self._apply(payload)

    def _apply(self, payload: bytes) -> None:
        if not self.id:
            return
        try:
            diff = orjson.loads(payload)
            diff = diff.get("data", diff)
            last = _id(diff["u"])
            changes = (self.bids, _levels(diff["b"])), (self.asks, _levels(diff["a"]))
        except (*MALFORMED, AttributeError):
            return
        if last <= self.id:
            return
        self.id = last
        for side, levels in changes:
            for price, size in levels.items():
                if float(size):
                    side[price] = size
                else:
                    side.pop(price, None)

    def answer(self, limit: int) -> bytes:
        """Return it as REST does."""
        bids = sorted(self.bids.items(), key=lambda level: -float(level[0]))[:limit]
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))[:limit]
        return orjson.dumps({"lastUpdateId": self.id, "bids": bids, "asks": asks})


def _id(value: object) -> int:
    if type(value) is not int or value <= 0:
        raise ValueError("an update id is a number above 0")
    return value


def _levels(value: Any) -> dict[str, str]:
    levels = {}
    for price, size, *_ in value:
        if not (0 < float(price) < math.inf and 0 <= float(size) < math.inf):
            raise ValueError("a level has a price above 0 and a size")
        levels[str(price)] = str(size)
    return levels


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
