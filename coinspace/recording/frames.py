"""What recorded frames are, and the local book that they make."""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from coinspace.exchanges import binance
from coinspace.recording.format import Record

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
