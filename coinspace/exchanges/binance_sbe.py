"""Binance's binary streams (SBE): addresses, and what recordings need of a frame.

Sections are of "SBE Market Data Streams"; the layout is that of `sbe/schemas/stream_1_0.xml`. The
collectors read frames with the compiled parser; this module reads few of them.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any, NamedTuple

from coinspace.exchanges.exchange import NOTHING, Channel, Label
from coinspace.exchanges.settings import ExchangeSettings

# "General information": the key is a header of the handshake, and nothing is signed
HOST = "wss://stream-sbe.binance.com:9443"
HEADER = "X-MBX-APIKEY"
# below another `websocket`, such as that of the simulated exchange
PATH = "/sbe"
STREAMS: dict[Channel, str] = {"orderbook": "depth", "top": "bestBidAsk", "trade": "trade"}
# end of the kinds of recorded frames: the JSON streams have the same names
KIND = "@sbe"
TRADES, BEST, SNAPSHOT, DIFF = 10000, 10001, 10002, 10003
SCHEMA = 1
# template -> stream, place of the ids in the root block, their number
TEMPLATES = {
    TRADES: ("trade", 0, 0),
    BEST: ("bestBidAsk", 8, 1),
    SNAPSHOT: ("depth20", 8, 1),
    DIFF: ("depth", 8, 2),
}
# decimals that prices and sizes have in JSON
DECIMALS = 8
MALFORMED = (struct.error, IndexError, UnicodeDecodeError)
Levels = dict[str, str]


class Trade(NamedTuple):
    id: int
    price: str
    size: str
    taker_sold: bool


class Frame(NamedTuple):
    """One frame. ids: first and last, of updates or trades. time_us: of the trades."""

    stream: str
    symbol: str
    ids: tuple[int, int] | None
    bids: Levels
    asks: Levels
    trades: list[Trade]
    time_us: int = 0


def base_of(settings: ExchangeSettings, own: str) -> str:
    """Return the address of the binary streams.

    Args: own: Binance's address of its JSON streams.
    """
    if settings.sbe_websocket:
        return settings.sbe_websocket.rstrip("/").removesuffix("/stream").removesuffix("/ws")
    return HOST if settings.websocket.rstrip("/") == own else settings.websocket.rstrip("/") + PATH


def read(frame: bytes) -> Frame | None:
    """Return a frame's content, None for one of another schema or template, or a malformed one."""
    try:
        return _read(frame)
    except MALFORMED:
        return None


def _read(frame: bytes) -> Frame | None:
    block, template, schema, _ = struct.unpack_from("<HHHH", frame)
    if schema != SCHEMA or template not in TEMPLATES:
        return None
    stream, place, n_ids = TEMPLATES[template]
    found = struct.unpack_from(f"<{n_ids}q", frame, 8 + place)
    ids = (found[0], found[-1]) if template == DIFF else None
    powers = struct.unpack_from("<bb", frame, 8 + (24 if template == DIFF else 16))
    bids: Levels = {}
    asks: Levels = {}
    trades: list[Trade] = []
    time_us, at = 0, 8 + block
    if template in (SNAPSHOT, DIFF):
        for side in (bids, asks):
            at = _levels(frame, at, powers, side)
    elif template == TRADES:
        (time_us,) = struct.unpack_from("<q", frame, 16)
        at = _trades(frame, at, powers, trades)
        ids = (trades[0].id, trades[-1].id) if trades else None
    size = frame[at]
    name = frame[at + 1 : at + 1 + size]
    if not size or len(name) < size:
        return None
    return Frame(stream, name.decode(), ids, bids, asks, trades, time_us)


def _levels(frame: bytes, at: int, powers: tuple[int, int], side: Levels) -> int:
    step, count = struct.unpack_from("<HH", frame, at)
    for place in range(at + 4, at + 4 + step * count, step or 1):
        price, size = struct.unpack_from("<qq", frame, place)
        side[spelled(price, powers[0])] = spelled(size, powers[1])
    return at + 4 + int(step * count)


def _trades(frame: bytes, at: int, powers: tuple[int, int], trades: list[Trade]) -> int:
    step, count = struct.unpack_from("<HI", frame, at)
    # a damaged count must not make a long loop: the frame ends before
    for place in range(at + 6, min(at + 6 + step * count, len(frame)), step or 1):
        id, price, size, maker = struct.unpack_from("<qqqB", frame, place)
        trades.append(Trade(id, spelled(price, powers[0]), spelled(size, powers[1]), maker == 1))
    return at + 6 + int(step * count)


def spelled(mantissa: int, power: int) -> str:
    """Return a number as JSON spells it: with at least eight decimals."""
    return f"{Decimal(mantissa).scaleb(power):.{max(DECIMALS, -power)}f}"


def label(payload: bytes) -> Label:
    """Return the label of a recorded frame."""
    found = read(payload)
    return NOTHING if found is None else Label((found.stream + KIND,), found.symbol.lower(), False)


def ids_of(payload: bytes) -> tuple[bytes, bytes] | None:
    """Return the first and the last id of an update or of trades."""
    found = read(payload)
    if found is None or found.ids is None:
        return None
    return b"%d" % found.ids[0], b"%d" % found.ids[1]


def rest_trades(payload: bytes) -> list[dict[str, Any]]:
    """Return recorded trades in the form of REST."""
    found = read(payload)
    if found is None:
        return []
    return [
        {
            "id": one.id,
            "price": one.price,
            "qty": one.size,
            "time": found.time_us // 1000,
            "isBuyerMaker": one.taker_sold,
            "isBestMatch": True,
        }
        for one in found.trades
    ]


# the simulated exchange


def encode_diff(
    time_us: int,
    ids: tuple[int, int],
    powers: tuple[int, int],
    sides: tuple[list[tuple[int, int]], list[tuple[int, int]]],
    symbol: str,
) -> bytes:
    """Return a DepthDiffStreamEvent; sides: mantissas of prices and sizes."""
    root = struct.pack("<qqqbb", time_us, *ids, *powers)
    parts = [_head(len(root), DIFF), root]
    for side in sides:
        flat = [number for level in side for number in level]
        parts.append(struct.pack(f"<HH{len(flat)}q", 16, len(side), *flat))
    return b"".join((*parts, _name(symbol)))


def encode_best(
    time_us: int, id: int, powers: tuple[int, int], best: tuple[int, int, int, int], symbol: str
) -> bytes:
    """Return a BestBidAskStreamEvent; best: bid, its size, ask, its size."""
    root = struct.pack("<qqbbqqqq", time_us, id, *powers, *best)
    return _head(len(root), BEST) + root + _name(symbol)


def encode_trades(
    time_us: int,
    traded_us: int,
    powers: tuple[int, int],
    trades: list[tuple[int, int, int, bool]],
    symbol: str,
) -> bytes:
    """Return a TradesStreamEvent; trades: id, price, size, whether the taker sold."""
    root = struct.pack("<qqbb", time_us, traded_us, *powers)
    group = struct.pack("<HI", 25, len(trades))
    rows = b"".join(struct.pack("<qqqB", *one) for one in trades)
    return _head(len(root), TRADES) + root + group + rows + _name(symbol)


def _head(block: int, template: int) -> bytes:
    return struct.pack("<HHHH", block, template, SCHEMA, 0)


def _name(symbol: str) -> bytes:
    raw = symbol.encode()
    return bytes((len(raw),)) + raw
