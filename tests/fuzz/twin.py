"""The parsers' twin in plain Python: the same outcome for every frame, in the simplest way.

Strictness comes from orjson: frames that it refuses are malformed. Values come from `json` with
each number kept as its text, so that floats are `float(text)` and ids are exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import orjson

from tests.fuzz import twin_sbe

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
SPELLINGS = {
    "type": "ty",
    "code": "cd",
    "timestamp": "tms",
    "stream_type": "st",
    "orderbook_units": "obu",
    "trade_price": "tp",
    "trade_volume": "tv",
    "ask_bid": "ab",
    "sequential_id": "sid",
    "trade_timestamp": "ttms",
    "opening_price": "op",
    "high_price": "hp",
    "low_price": "lp",
    "signed_change_price": "scp",
    "acc_trade_volume_24h": "atv24h",
    "acc_trade_price_24h": "atp24h",
    "acc_trade_volume": "atv",
    "method": "mthd",
}
UNIT_SPELLINGS = {"ap": "ask_price", "bp": "bid_price", "as": "ask_size", "bs": "bid_size"}
LONG = {short: long for long, short in SPELLINGS.items()}
# Coinone's short keys -> long keys
COINONE = {
    "r": "response_type",
    "c": "channel",
    "d": "data",
    "qc": "quote_currency",
    "tc": "target_currency",
    "i": "id",
    "a": "asks",
    "b": "bids",
    "p": "price",
    "q": "qty",
    "sm": "is_seller_maker",
    "la": "last",
    "fi": "first",
    "hi": "high",
    "lo": "low",
    "tv": "target_volume",
    "qv": "quote_volume",
    "bbp": "bid_best_price",
    "bbq": "bid_best_qty",
    "abp": "ask_best_price",
    "abq": "ask_best_qty",
}
# type of Coinbase's frames -> kind
COINBASE = {
    "snapshot": "orderbook",
    "l2update": "orderbook",
    "match": "trade",
    "last_match": "trade",
    "ticker": "ticker",
    "heartbeat": "heartbeat",
}
INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(\.([0-9]+))?Z", re.ASCII
)
COINONE_CONTROLS = {
    "CONNECTED": "status",
    "PONG": "pong",
    "SUBSCRIBED": "ack",
    "UNSUBSCRIBED": "ack",
    "ERROR": "error",
}


class Malformed(Exception):
    """The frame, or one message of it, cannot be read."""


class Text(str):
    """A JSON number by its text."""


def in_last_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object with its keys in the order of their last entries."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.pop(key, None)
        found[key] = value
    return found


def number(value: object) -> float:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        found = float(value)
        if abs(found) != float("inf"):
            return found
    raise Malformed("number")


def integer(value: object) -> int:
    if isinstance(value, str) and NUMBER.fullmatch(value):
        exact = Decimal(value)
        if exact == 0:
            return 0
        if -(10**6) < exact.adjusted() < 20 and exact == exact.to_integral_value():
            whole = int(exact)
            if -(2**63) <= whole < 2**63:
                return whole
    raise Malformed("integer")


def time_ns(value: object) -> int | None:
    if value is None:
        return None
    time = integer(value)
    if time < 0:
        raise Malformed("time")
    for limit, factor, most in (
        (10**11, 10**9, 9 * 10**9),
        (10**14, 10**6, 9 * 10**12),
        (10**17, 10**3, 9 * 10**15),
    ):
        if time < limit:
            if time > most:
                raise Malformed("time")
            return time * factor or None
    return time


def text(value: object) -> str:
    if type(value) is str:
        return value
    raise Malformed("text")


def capitals(name: str) -> str:
    return "".join(chr(ord(c) - 32) if "a" <= c <= "z" else c for c in name)


def optional(value: object) -> float | None:
    return None if value is None else number(value)


def side(levels: list[tuple[float, float]], falling: bool, capacity: int) -> list[list[float]]:
    ordered = sorted(levels, key=lambda level: -level[0] if falling else level[0])
    return [list(level) for level in ordered[:capacity]]


side_of = side


def readable(value: object) -> float | None:
    try:
        return number(value)
    except Malformed:
        return None


def instant(value: object, *, needed: bool) -> int | None:
    """Return an RFC 3339 time in ns; None for one before 1970."""
    try:
        if type(value) is not str:
            raise Malformed("time")
        found = INSTANT.fullmatch(value)
        if found is None:
            raise Malformed("time")
        year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
        limits = 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60
        if not limits:
            raise Malformed("time")
    except Malformed:
        if needed:
            raise
        return None
    if not 1970 <= year <= 2261:
        return None
    # a day beyond the end of its month is counted on, as the parser does
    days = (date(year, month, 1) - date(1970, 1, 1)).days + day - 1
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second
    return seconds * 10**9 + int(f"{(found[8] or '')[:9]:0<9}") or None


def decode(
    exchange: str,
    frame: bytes,
    markets: Mapping[str, str] | None = None,
    capacity: int = 5000,
) -> list[dict[str, Any]]:
    """Return the messages of a frame; malformed ones without reason and offset."""
    if exchange == "binance-sbe":
        exchange = "binance"
        if any(byte < 32 and byte not in b"\t\n\r" for byte in frame[:8]):
            return twin_sbe.decode(frame, markets or {}, capacity)
    malformed = [{"kind": "malformed", "exchange": exchange}]
    try:
        plain = orjson.loads(frame)
    except orjson.JSONDecodeError:
        return malformed
    root = json.loads(
        frame.decode(), parse_int=Text, parse_float=Text, object_pairs_hook=in_last_order
    )
    twin = Twin(exchange, markets or {}, capacity)
    pairs = list(zip(root, plain, strict=True)) if isinstance(root, list) else [(root, plain)]
    if not pairs:
        return malformed
    messages: list[dict[str, Any]] = []
    for fields, detail in pairs:
        messages += twin.messages(fields, detail, isinstance(root, list))
    return messages


class Twin:
    """One exchange's rules."""

    def __init__(self, exchange: str, markets: Mapping[str, str], capacity: int) -> None:
        self.exchange = exchange
        self.markets = markets
        self.capacity = capacity

    def messages(self, fields: Any, plain: Any, in_list: bool) -> list[dict[str, Any]]:
        """Return the messages of one object of a frame."""
        stream = None
        try:
            if not isinstance(fields, dict):
                raise Malformed("object")
            if self.exchange == "binance":
                data = fields.get("data")
                if type(fields.get("stream")) is str and isinstance(data, (dict, list)):
                    if isinstance(data, list):
                        if in_list or not data:
                            raise Malformed("list")
                        out = []
                        for one, detail in zip(data, plain["data"], strict=True):
                            out += self.messages(one, detail, True)
                        return out
                    stream, fields, plain = fields["stream"], data, plain["data"]
            if self.exchange == "coinone":
                fields = {COINONE.get(key, key): value for key, value in fields.items()}
            fields = {
                key: value for key, value in fields.items() if value is not None or key == "result"
            }
            if self.exchange == "binance":
                message = self.binance(fields, plain, stream)
            elif self.exchange == "coinbase":
                message = self.coinbase(fields, plain)
            elif self.exchange == "coinone":
                message = self.coinone(fields, plain)
            else:
                message = self.korean(fields, plain)
        except Malformed:
            message = {"kind": "malformed"}
        kind = message.pop("kind")
        return [{"kind": kind, "exchange": self.exchange, **message}]

    def named(self, symbol: str) -> dict[str, Any]:
        if not symbol:
            raise Malformed("symbol")
        if self.exchange == "binance":
            return {"market": self.markets.get(symbol), "symbol": symbol}
        first, dash, second = symbol.partition("-")
        market = f"{first}/{second}" if self.exchange == "coinbase" else f"{second}/{first}"
        return {"market": market if dash else None, "symbol": symbol}

    # ---- Upbit and Bithumb ----

    def korean(self, raw: dict[str, Any], plain: Any) -> dict[str, Any]:
        fields = {LONG.get(key, key): value for key, value in raw.items()}
        if self.exchange == "bithumb" and ("content" in raw or "resmsg" in raw):
            raise Malformed("legacy")
        if "type" in fields:
            kind = text(fields["type"])
            if kind not in ("orderbook", "trade", "ticker"):
                return {"kind": "ignored", "type": kind}
            head = self.named(text(fields.get("code")))
            made: dict[str, Any] = getattr(self, f"korean_{kind}")(fields)
            return {"kind": kind, **head, **made}
        if isinstance(fields.get("error"), dict):
            return {"kind": "control", "name": "error", "detail": self.error(plain)}
        if type(fields.get("status")) is str:
            return {"kind": "control", "name": "status", "detail": plain}
        if type(fields.get("method")) is str:
            return {"kind": "ignored", "type": fields["method"]}
        raise Malformed("type")

    def error(self, plain: dict[str, Any]) -> dict[str, Any]:
        error = plain.get("error")
        if not isinstance(error, dict):
            return plain
        return {**error, **{key: value for key, value in plain.items() if key != "error"}}

    def korean_orderbook(self, fields: dict[str, Any]) -> dict[str, Any]:
        units = fields.get("orderbook_units")
        if not isinstance(units, list):
            raise Malformed("units")
        asks, bids = [], []
        for unit in units:
            if not isinstance(unit, dict):
                raise Malformed("unit")
            one = {UNIT_SPELLINGS.get(key, key): value for key, value in unit.items()}
            names = ("ask_price", "ask_size", "bid_price", "bid_size")
            ask, ask_size, bid, bid_size = (number(one.get(name)) for name in names)
            if ask > 0 and ask_size > 0:
                asks.append((ask, ask_size))
            if bid > 0 and bid_size > 0:
                bids.append((bid, bid_size))
        return {
            "snapshot": True,
            "exchange_ns": time_ns(fields.get("timestamp")),
            "bids": side(bids, True, self.capacity),
            "asks": side(asks, False, self.capacity),
        }

    def korean_trade(self, fields: dict[str, Any]) -> dict[str, Any]:
        if "trade_timestamp" not in fields or fields.get("ask_bid") not in ("ASK", "BID"):
            raise Malformed("trade")
        return {
            "exchange_ns": time_ns(fields["trade_timestamp"]),
            "price": number(fields.get("trade_price")),
            "size": number(fields.get("trade_volume")),
            "side": "sell" if fields["ask_bid"] == "ASK" else "buy",
            "trade_id": integer(fields.get("sequential_id")),
            "snapshot": fields.get("stream_type") == "SNAPSHOT",
        }

    def korean_ticker(self, fields: dict[str, Any]) -> dict[str, Any]:
        day = "utc_day" if self.exchange == "upbit" else "kst_day"
        spans = ("opening_price", "high_price", "low_price", "signed_change_price")
        return {
            "exchange_ns": time_ns(fields.get("timestamp")),
            "last": number(fields.get("trade_price")),
            "open": optional(fields.get("opening_price")),
            "high": optional(fields.get("high_price")),
            "low": optional(fields.get("low_price")),
            "volume": optional(fields.get("acc_trade_volume_24h")),
            "quote_volume": optional(fields.get("acc_trade_price_24h")),
            "day_volume": optional(fields.get("acc_trade_volume")),
            "change": optional(fields.get("signed_change_price")),
            "window": day if any(name in fields for name in spans) else None,
            "bid": None,
            "ask": None,
        }

    # ---- Coinone ----

    def coinone(self, fields: dict[str, Any], plain: Any) -> dict[str, Any]:
        response = text(fields.get("response_type"))
        if response != "DATA":
            if response in COINONE_CONTROLS:
                name = COINONE_CONTROLS[response]
                detail = self.error(plain) if name == "error" else plain
                return {"kind": "control", "name": name, "detail": detail}
            return {"kind": "ignored", "type": response}
        channel = text(fields.get("channel"))
        if channel not in ("ORDERBOOK", "TICKER", "TRADE"):
            return {"kind": "ignored", "type": channel}
        if not isinstance(fields.get("data"), dict):
            raise Malformed("data")
        given = {COINONE.get(key, key): value for key, value in fields["data"].items()}
        data = {key: value for key, value in given.items() if value is not None}
        if capitals(text(data.get("quote_currency"))) != "KRW":
            raise Malformed("quote")
        symbol = capitals(text(data.get("target_currency")))
        if not symbol:
            raise Malformed("symbol")
        id = integer(data.get("id"))
        if not 0 < id <= 9_000_000_000_000_999:
            raise Malformed("id")
        head: dict[str, Any] = {"market": f"{symbol}/KRW", "symbol": symbol}
        head["exchange_ns"] = id // 1000 * 10**6 or None
        made: dict[str, Any] = getattr(self, f"coinone_{channel.lower()}")(data, id)
        return {"kind": channel.lower(), **head, **made}

    def coinone_orderbook(self, data: dict[str, Any], id: int) -> dict[str, Any]:
        sides = []
        for name in ("bids", "asks"):
            levels = []
            if not isinstance(data.get(name), list):
                raise Malformed("side")
            for unit in data[name]:
                if not isinstance(unit, dict):
                    raise Malformed("level")
                one = {COINONE.get(key, key): value for key, value in unit.items()}
                price, size = number(one.get("price")), number(one.get("qty"))
                if price > 0 and size > 0:
                    levels.append((price, size))
            sides.append(side(levels, name == "bids", self.capacity))
        return {
            "snapshot": True,
            "first_update_id": None,
            "final_update_id": id,
            "bids": sides[0],
            "asks": sides[1],
        }

    def coinone_trade(self, data: dict[str, Any], id: int) -> dict[str, Any]:
        if not isinstance(data.get("is_seller_maker"), bool):
            raise Malformed("side")
        return {
            "price": number(data.get("price")),
            "size": number(data.get("qty")),
            "side": "buy" if data["is_seller_maker"] else "sell",
            "trade_id": id,
            "snapshot": False,
        }

    def coinone_ticker(self, data: dict[str, Any], id: int) -> dict[str, Any]:
        return {
            "last": number(data.get("last")),
            "open": optional(data.get("first")),
            "high": optional(data.get("high")),
            "low": optional(data.get("low")),
            "volume": optional(data.get("target_volume")),
            "quote_volume": optional(data.get("quote_volume")),
            "change": None,
            "window": "utc_day" if any(name in data for name in ("first", "high", "low")) else None,
            "bid": optional(data.get("bid_best_price")),
            "ask": optional(data.get("ask_best_price")),
            "bid_size": optional(data.get("bid_best_qty")),
            "ask_size": optional(data.get("ask_best_qty")),
        }

    # ---- Coinbase ----

    def coinbase(self, fields: dict[str, Any], plain: Any) -> dict[str, Any]:
        kind = text(fields.get("type"))
        if kind in ("subscriptions", "error"):
            if kind == "error":
                return {"kind": "control", "name": "error", "detail": self.error(plain)}
            return {"kind": "control", "name": "ack", "detail": plain}
        if kind not in COINBASE:
            return {"kind": "ignored", "type": kind}
        head = self.named(text(fields.get("product_id")))
        if kind == "heartbeat":
            integer(fields.get("last_trade_id"))
            return {"kind": "control", "name": "heartbeat", "detail": plain}
        made: dict[str, Any] = getattr(self, f"coinbase_{COINBASE[kind]}")(fields)
        return {"kind": COINBASE[kind], **head, **made}

    def coinbase_orderbook(self, fields: dict[str, Any]) -> dict[str, Any]:
        whole = fields["type"] == "snapshot"
        sides: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        rows: list[tuple[bool | None, list[Any]]] = []
        for name in ("asks", "bids") if whole else ("changes",):
            if not isinstance(fields.get(name), list):
                raise Malformed("levels")
            for row in fields[name]:
                if not isinstance(row, list) or len(row) < (2 if whole else 3):
                    raise Malformed("level")
                known = {"buy": True, "sell": False}
                side = name == "bids" if whole else None
                if not whole and type(row[0]) is str:
                    side = known.get(row[0])
                rows.append((side, row if whole else row[1:]))
        flawed = False
        for side, (price_text, size_text, *_) in rows:
            price, size = readable(price_text), readable(size_text)
            good = side is not None and price is not None and price > 0
            if good and size is not None and (size > 0 or (size == 0 and not whole)):
                sides[bool(side)].append((price or 0.0, size))
                continue
            if not (whole and good and size == 0):
                flawed = True
            if good and not whole:
                sides[bool(side)].append((price or 0.0, 0.0))
        return {
            "snapshot": whole,
            **({"flawed": True} if flawed else {}),
            "exchange_ns": instant(fields.get("time"), needed=False),
            "bids": side_of(sides[True], True, self.capacity),
            "asks": side_of(sides[False], False, self.capacity),
        }

    def coinbase_trade(self, fields: dict[str, Any]) -> dict[str, Any]:
        if type(fields.get("side")) is not str or fields["side"] not in ("buy", "sell"):
            raise Malformed("side")
        return {
            "exchange_ns": instant(fields.get("time"), needed=True),
            "price": number(fields.get("price")),
            "size": number(fields.get("size")),
            "side": "sell" if fields["side"] == "buy" else "buy",
            "trade_id": integer(fields.get("trade_id")),
            "snapshot": fields["type"] == "last_match",
        }

    def coinbase_ticker(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "exchange_ns": instant(fields.get("time"), needed=False),
            "last": number(fields.get("price")),
            "open": optional(fields.get("open_24h")),
            "high": optional(fields.get("high_24h")),
            "low": optional(fields.get("low_24h")),
            "volume": optional(fields.get("volume_24h")),
            "quote_volume": None,
            "change": None,
            "window": "24h",
            "bid": optional(fields.get("best_bid")),
            "ask": optional(fields.get("best_ask")),
            "bid_size": optional(fields.get("best_bid_size")),
            "ask_size": optional(fields.get("best_ask_size")),
        }

    # ---- Binance ----

    def binance(self, fields: dict[str, Any], plain: Any, stream: str | None) -> dict[str, Any]:
        if "e" in fields:
            event = text(fields["e"])
            if event in ("24hrTicker", "24hrMiniTicker"):
                return self.ticker(fields)
            if event == "depthUpdate":
                return self.diff(fields)
            if event in ("trade", "aggTrade"):
                return self.trade(fields, "t" if event == "trade" else "a")
            if event == "bookTicker":
                return self.top(fields)
            if event == "serverShutdown":
                return {"kind": "control", "name": "shutdown", "detail": plain}
            return {"kind": "ignored", "type": event}
        if "lastUpdateId" in fields:
            return self.partial(fields, stream)
        if "u" in fields and "s" in fields:
            return self.top(fields)
        flat = type(fields.get("code")) is Text and type(fields.get("msg")) is str
        if isinstance(fields.get("error"), dict) or flat:
            return {"kind": "control", "name": "error", "detail": self.error(plain)}
        if "result" not in fields:
            raise Malformed("type")
        if isinstance(fields["result"], (list, dict)):
            answered = isinstance(fields["result"], dict)
            return {"kind": "ignored", "type": "response" if answered else "LIST_SUBSCRIPTIONS"}
        return {"kind": "control", "name": "ack", "detail": plain}

    def levels(self, value: object, falling: bool, whole: bool) -> list[list[float]]:
        if not isinstance(value, list):
            raise Malformed("levels")
        kept = []
        for level in value:
            if not isinstance(level, list) or len(level) < 2:
                raise Malformed("level")
            price, size = number(level[0]), number(level[1])
            if (price > 0 and size > 0) or (not whole and price > 0 and size == 0):
                kept.append((price, size))
            elif not whole:
                raise Malformed("impossible level")
        return side(kept, falling, self.capacity)

    def diff(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "orderbook",
            **self.named(text(fields.get("s"))),
            "snapshot": False,
            "exchange_ns": time_ns(fields.get("E")),
            "first_update_id": integer(fields.get("U")),
            "final_update_id": integer(fields.get("u")),
            "bids": self.levels(fields.get("b"), True, False),
            "asks": self.levels(fields.get("a"), False, False),
        }

    def partial(self, fields: dict[str, Any], stream: str | None) -> dict[str, Any]:
        name, at, _ = (stream or "").partition("@")
        symbol = capitals(name)
        names: dict[str, Any] = {"market": None, "symbol": None}
        if at and symbol and not symbol.startswith("!"):
            names = self.named(symbol)
        return {
            "kind": "orderbook",
            **names,
            "snapshot": True,
            "exchange_ns": None,
            "first_update_id": None,
            "final_update_id": integer(fields.get("lastUpdateId")),
            "bids": self.levels(fields.get("bids"), True, True),
            "asks": self.levels(fields.get("asks"), False, True),
        }

    def top(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "top",
            **self.named(text(fields.get("s"))),
            "exchange_ns": time_ns(fields.get("E")),
            "update_id": integer(fields.get("u")),
            "bid": number(fields.get("b")),
            "bid_size": number(fields.get("B")),
            "ask": number(fields.get("a")),
            "ask_size": number(fields.get("A")),
        }

    def trade(self, fields: dict[str, Any], id_key: str) -> dict[str, Any]:
        if not isinstance(fields.get("m"), bool) or "T" not in fields:
            raise Malformed("trade")
        return {
            "kind": "trade",
            **self.named(text(fields.get("s"))),
            "exchange_ns": time_ns(fields["T"]),
            "price": number(fields.get("p")),
            "size": number(fields.get("q")),
            "side": "sell" if fields["m"] else "buy",
            "trade_id": integer(fields.get(id_key)),
            "snapshot": False,
        }

    def ticker(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "ticker",
            **self.named(text(fields.get("s"))),
            "exchange_ns": time_ns(fields.get("E")),
            "last": number(fields.get("c")),
            "open": optional(fields.get("o")),
            "high": optional(fields.get("h")),
            "low": optional(fields.get("l")),
            "volume": optional(fields.get("v")),
            "quote_volume": optional(fields.get("q")),
            "change": optional(fields.get("p")),
            "window": "24h",
            "bid": optional(fields.get("b")),
            "ask": optional(fields.get("a")),
            "bid_size": optional(fields.get("B")),
            "ask_size": optional(fields.get("A")),
        }


def shown(messages: list[dict[str, Any]]) -> list[str]:
    """Return messages in a form that is equal only when they are equal bit for bit.

    A Binance ticker's sizes and a Korean one's volume of the day are read (and must be numbers) but
    not printed.
    """
    hidden = {
        "malformed": ("reason", "offset"),
        "ticker": ("bid_size", "ask_size", "day_volume"),
    }
    return [
        repr(
            sorted((k, _sorted(v)) for k, v in one.items() if k not in hidden.get(one["kind"], ()))
        )
        for one in messages
    ]


def _sorted(value: Any) -> Any:
    # a control frame's detail has objects with keys in received order
    if isinstance(value, dict):
        return sorted((key, _sorted(one)) for key, one in value.items())
    return [_sorted(one) for one in value] if isinstance(value, list) else value
