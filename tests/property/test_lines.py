"""Lines written from messages equal those of the client library's encoder for the same row."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coinspace._ext.lines import Lines
from coinspace._ext.message import (
    AGGREGATED,
    GROUPED,
    ORDERBOOK,
    SELL,
    TICKER,
    TICKER_NAMES,
    TRADE,
    Message,
    encode_header,
)
from coinspace.errors import MessageError
from coinspace.storage.rows import TopicRows
from coinspace.storage.transport import TimestampNanos, new_buffer

INT64 = st.integers(0, 2**63 - 1)
POSITIVE = st.integers(1, 2**63 - 1)
DOUBLES = st.floats(width=64, allow_nan=False)
SIDES = st.lists(st.tuples(DOUBLES, DOUBLES), max_size=40)
MARKET = st.sampled_from(["BTC/KRW", "1000SHIB/KRW", "A B,=\\/KRW"])


def message(topic: str, kind: int, values: list[float], **header: Any) -> Message:
    payload = np.array(values, dtype=np.float64).tobytes()
    encoded = encode_header(kind, payload_size=len(payload), **header)
    return Message.decode(topic.encode(), encoded, payload)


def time(ns: int) -> TimestampNanos | None:
    return TimestampNanos(ns) if ns else None


def library(table: str, symbols: dict[str, Any], columns: dict[str, Any], at_ns: int) -> bytes:
    buffer = new_buffer(1 << 12)
    buffer.row(table, symbols=symbols, columns=columns, at=TimestampNanos(at_ns))
    return bytes(buffer)


@given(
    bids=SIDES,
    asks=SIDES,
    depth=st.integers(1, 50),
    market=MARKET,
    flags=st.integers(0, 2**16 - 1),
    epoch=POSITIVE,
    sequence=POSITIVE,
    exchange_ns=INT64,
    received_ns=POSITIVE,
    published_ns=INT64,
    update_id=INT64,
)
def test_orderbook(
    bids: list[tuple[float, float]],
    asks: list[tuple[float, float]],
    depth: int,
    market: str,
    flags: int,
    epoch: int,
    sequence: int,
    exchange_ns: int,
    received_ns: int,
    published_ns: int,
    update_id: int,
) -> None:
    sides = [np.array(side, dtype=np.float64).reshape(-1, 2).T for side in (bids, asks)]
    made = message(
        "orderbook.upbit.X.",
        ORDERBOOK,
        [float(x) for side in sides for x in side.ravel()],
        n_bids=len(bids),
        n_asks=len(asks),
        flags=flags,
        epoch=epoch,
        sequence=sequence,
        exchange_ns=exchange_ns,
        received_ns=received_ns,
        published_ns=published_ns,
        id=update_id,
    )
    columns: dict[str, Any] = {}
    for name, side in (("bid", bids), ("ask", asks)):
        if side:
            columns[name], columns[f"{name}_size"] = side[0]
    # price groups are not stored: `update_id` has the numbers of single levels before them
    grouped = bool(flags & GROUPED)
    fine = [update_id % 2**32, (update_id >> 32) % 2**32] if grouped else [len(bids), len(asks)]
    fine = [min(few, side.shape[1]) for few, side in zip(fine, sides, strict=True)]
    cut = [
        np.ascontiguousarray(side[:, : min(depth, few)])
        for few, side in zip(fine, sides, strict=True)
    ]
    columns |= {
        "bids": cut[0],
        "asks": cut[1],
        "n_bids": fine[0],
        "n_asks": fine[1],
        "update_id": None if grouped else update_id or None,
        "exchange_ts": time(exchange_ns),
        "flags": flags,
        "epoch": epoch,
        "seq": sequence,
        "published_ts": time(published_ns),
    }
    lines = Lines(8)
    head = TopicRows("p", "orderbook.upbit.X.", "upbit", market).heads[0]
    assert lines.orderbook(head, made, depth) == len(lines)
    expected = library("orderbook", {"exchange": "upbit", "market": market}, columns, received_ns)
    assert lines.tobytes() == expected


@given(
    values=st.lists(st.floats(width=64), min_size=11, max_size=11),
    flags=st.sampled_from([0, 8, 16, 24, 8 + 32]),
    exchange_ns=INT64,
    received_ns=POSITIVE,
)
@example(values=[float("nan")] * 11, flags=0, exchange_ns=0, received_ns=1)
def test_ticker(values: list[float], flags: int, exchange_ns: int, received_ns: int) -> None:
    made = message(
        "ticker.upbit.X.",
        TICKER,
        values,
        flags=flags,
        epoch=1,
        sequence=2,
        exchange_ns=exchange_ns,
        received_ns=received_ns,
        published_ns=3,
    )
    columns: dict[str, Any] = {
        name: value
        for name, value in zip(TICKER_NAMES, values, strict=True)
        if value == value  # NaN = none
    }
    columns |= {
        "exchange_ts": time(exchange_ns),
        "flags": flags,
        "epoch": 1,
        "seq": 2,
        "published_ts": time(3),
    }
    lines = Lines()
    venue = TopicRows("p", "ticker.upbit.X.", "upbit", "BTC/KRW")
    lines.ticker(venue.heads[flags & 24], made)
    symbols = {"exchange": "upbit", "market": "BTC/KRW", "span": made.window}
    assert lines.tobytes() == library("ticker", symbols, columns, received_ns)


@given(
    price=DOUBLES,
    size=DOUBLES,
    sell=st.booleans(),
    trade_id=st.integers(-(2**63), 2**63 - 1),
    trades=st.integers(1, 10_000),
    exchange_ns=INT64,
    received_ns=INT64,
    published_ns=POSITIVE,
)
@example(1.0, 1.0, False, -(2**63), 1, 0, 0, 5)
def test_trade(
    price: float,
    size: float,
    sell: bool,
    trade_id: int,
    trades: int,
    exchange_ns: int,
    received_ns: int,
    published_ns: int,
) -> None:
    made = message(
        "trade.upbit.X.",
        TRADE,
        [price, size],
        flags=(SELL if sell else 0) | (AGGREGATED if trades > 1 else 0),
        epoch=1,
        sequence=2,
        n_bids=trades if trades > 1 else 0,
        id=trade_id,
        exchange_ns=exchange_ns,
        received_ns=received_ns,
        published_ns=published_ns,
    )
    columns = {
        "price": price,
        "size": size,
        "trade_id": trade_id,
        "n_trades": trades if trades > 1 else None,
        "received_ts": time(received_ns),
        "flags": made.flags,
        "epoch": 1,
        "seq": 2,
        "published_ts": time(published_ns),
    }
    lines = Lines()
    venue = TopicRows("p", "trade.upbit.X.", "upbit", "BTC/KRW")
    lines.trade(venue.heads[SELL if sell else 0], made)
    symbols = {"exchange": "upbit", "market": "BTC/KRW", "side": made.side}
    at_ns = exchange_ns or received_ns or published_ns
    assert lines.tobytes() == library("trade", symbols, columns, at_ns)


def test_lines_grow_and_begin_again() -> None:
    lines = Lines(1)
    made = message("trade.upbit.X.", TRADE, [1.0, 2.0], epoch=1, sequence=2, received_ns=5)
    ends = [lines.trade(b"trade ", made) for _ in range(1000)]
    data = lines.tobytes()
    assert ends[-1] == len(data) == 1000 * ends[0]
    assert data[: ends[0]] == data[-ends[0] :]
    assert struct.unpack_from("<d", data, data.index(b"==\x10") + 3) == (1.0,)
    lines.clear()
    assert lines.tobytes() == b""
    assert lines.extend(b"x y=1i 1n\n") == 10


def test_a_message_of_another_kind_is_refused() -> None:
    lines = Lines()
    made = message("trade.upbit.X.", TRADE, [1.0, 2.0], epoch=1, sequence=2)
    with pytest.raises(MessageError, match="expected 1, was 3"):
        lines.orderbook(b"orderbook ", made, 5)
    assert len(lines) == 0


@pytest.mark.parametrize("depth", [0, -1, -(2**62)])
def test_no_depth_stores_no_level(depth: int) -> None:
    book = message("orderbook.upbit.BTC/KRW.", ORDERBOOK, [1.0] * 8, n_bids=2, n_asks=2)
    lines, none = Lines(), Lines()
    lines.orderbook(b"orderbook,a=b ", book, depth)
    none.orderbook(b"orderbook,a=b ", book, 0)
    assert lines.tobytes() == none.tobytes()
