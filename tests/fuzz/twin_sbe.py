"""The twin of the binary format: an independent reading of Binance's schema `stream_1_0.xml`."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

KNOWN = {10000: "trade", 10001: "top", 10002: "snapshot", 10003: "diff"}
BLOCKS = {10000: 18, 10001: 50, 10002: 18, 10003: 26}
NULL = -(2**63)
LAST_US = 9 * 10**15


class Malformed(Exception):
    """The frame cannot be read."""


class Bytes:
    """Takes little endian values of a frame, one after the other."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, kind: str) -> Any:
        try:
            found = struct.unpack_from("<" + kind, self.data, self.at)
        except struct.error:
            raise Malformed("short") from None
        self.at += struct.calcsize("<" + kind)
        return found if len(found) > 1 else found[0]


def decode(frame: bytes, markets: Mapping[str, str], capacity: int) -> list[dict[str, Any]]:
    """Return the messages of a binary frame; malformed ones without reason and offset."""
    try:
        found = _messages(frame, markets, capacity)
    except Malformed:
        found = [{"kind": "malformed"}]
    return [{**one, "exchange": "binance"} for one in found]


def _messages(frame: bytes, markets: Mapping[str, str], capacity: int) -> list[dict[str, Any]]:
    data = Bytes(frame)
    block, template, schema, _ = data.take("HHHH")
    if schema != 1:
        return [{"kind": "ignored", "type": f"schema {schema}"}]
    if template not in KNOWN:
        return [{"kind": "ignored", "type": f"template {template}"}]
    if block < BLOCKS[template] or 8 + block > len(frame):
        raise Malformed("block")
    root, kind = Bytes(frame[: 8 + block], 8), KNOWN[template]
    time_us = root.take("q")
    ids = root.take("qq") if kind == "diff" else (root.take("q"),)
    powers = root.take("bb")
    if kind == "trade":
        (time_us,) = ids
    if not 0 <= time_us <= LAST_US or any(not -22 <= power <= 22 for power in powers):
        raise Malformed("time or exponent")
    if kind != "trade" and NULL in ids:
        raise Malformed("id")
    data.at = 8 + block
    head: dict[str, Any] = {"exchange_ns": time_us * 1000 or None}
    if kind == "top":
        bid, bid_size, ask, ask_size = root.take("qqqq")
        best = {
            "update_id": ids[0],
            "bid": _value(bid, powers[0]),
            "bid_size": _value(bid_size, powers[1]),
            "ask": _value(ask, powers[0]),
            "ask_size": _value(ask_size, powers[1]),
        }
        return [{"kind": "top", **_named(data, markets), **head, **best}]
    if kind == "trade":
        return _trades(data, powers, head, markets)
    whole = kind == "snapshot"
    bids, asks = (_side(data, powers, falling, whole, capacity) for falling in (True, False))
    book = {
        "snapshot": whole,
        "first_update_id": None if whole else ids[0],
        "final_update_id": ids[-1],
        "bids": bids,
        "asks": asks,
    }
    return [{"kind": "orderbook", **_named(data, markets), **head, **book}]


def _value(mantissa: int, power: int) -> float:
    if mantissa == NULL:
        raise Malformed("null")
    # as the text would read
    return float(f"{mantissa}e{power}")


def _named(data: Bytes, markets: Mapping[str, str]) -> dict[str, Any]:
    size = data.take("B")
    raw = data.data[data.at : data.at + size]
    if not size or len(raw) < size:
        raise Malformed("symbol")
    try:
        symbol = raw.decode()
    except UnicodeDecodeError:
        raise Malformed("symbol") from None
    return {"symbol": symbol, "market": markets.get(symbol)}


def _blocks(data: Bytes, count_kind: str, least: int) -> list[Bytes]:
    size, count = data.take(f"H{count_kind}")
    if count and (size < least or size * count > len(data.data) - data.at):
        raise Malformed("group")
    found = [Bytes(data.data, data.at + n * size) for n in range(count)]
    data.at += size * count
    return found


def _side(
    data: Bytes, powers: tuple[int, int], falling: bool, whole: bool, capacity: int
) -> list[list[float]]:
    levels = []
    for one in _blocks(data, "H", 16):
        price, size = (_value(m, p) for m, p in zip(one.take("qq"), powers, strict=True))
        if price > 0 and (size > 0 or (size == 0 and not whole)):
            levels.append([price, size])
        elif not whole:
            raise Malformed("level")
    return sorted(levels, key=lambda level: -level[0] if falling else level[0])[:capacity]


def _trades(
    data: Bytes, powers: tuple[int, int], head: dict[str, Any], markets: Mapping[str, str]
) -> list[dict[str, Any]]:
    trades: list[dict[str, Any]] = []
    for one in _blocks(data, "I", 25):
        id, price, size, maker = one.take("qqqB")
        if id == NULL or maker > 1:
            raise Malformed("trade")
        trades.append(
            {
                "price": _value(price, powers[0]),
                "size": _value(size, powers[1]),
                "side": "sell" if maker else "buy",
                "trade_id": id,
                "snapshot": False,
            }
        )
    named = _named(data, markets)
    if not trades:
        return [{"kind": "ignored", "type": "no trades"}]
    return [{"kind": "trade", **named, **head, **one} for one in trades]
