"""The parsers' work done with JSON libraries: a frame in, float64 arrays or fields out.

Each reader returns the numbers that our parser leaves in its arrays, so that a benchmark can check
that the work is the same before it measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Book = tuple[NDArray[np.float64], NDArray[np.float64]]


class Unit(msgspec.Struct):
    """One unit of Upbit's or Bithumb's book; either spelling of its keys."""

    ask_price: float = 0.0
    bid_price: float = 0.0
    ask_size: float = 0.0
    bid_size: float = 0.0


class KoreanBook(msgspec.Struct):
    """The book's fields that our parser reads."""

    type: str
    code: str
    timestamp: int
    orderbook_units: list[Unit]


_korean_book = msgspec.json.Decoder(KoreanBook)


def korean(units: Sequence[Any], ask: str, ask_size: str, bid: str, bid_size: str) -> Book:
    """Turn a list of unit objects into (bids, asks), each float64[2, n]."""
    bids = np.array([[u[bid] for u in units], [u[bid_size] for u in units]], dtype=np.float64)
    asks = np.array([[u[ask] for u in units], [u[ask_size] for u in units]], dtype=np.float64)
    return bids, asks


def korean_book(loads: Callable[[bytes], Any], simple: bool) -> Callable[[bytes], Book]:
    """Return a reader of Upbit's or Bithumb's book with a JSON library's `loads`."""
    names = (
        ("ap", "as", "bp", "bs") if simple else ("ask_price", "ask_size", "bid_price", "bid_size")
    )
    key = "obu" if simple else "orderbook_units"
    return lambda frame: korean(loads(frame)[key], *names)


def korean_msgspec(frame: bytes) -> Book:
    """Read a DEFAULT book with msgspec's typed decoder, its fastest way."""
    units = _korean_book.decode(frame).orderbook_units
    bids = np.array([[u.bid_price for u in units], [u.bid_size for u in units]])
    asks = np.array([[u.ask_price for u in units], [u.ask_size for u in units]])
    return bids, asks


def binance_book(loads: Callable[[bytes], Any], diff: bool) -> Callable[[bytes], Book]:
    """Return a reader of Binance's depth frames."""
    bids, asks = ("b", "a") if diff else ("bids", "asks")

    def read(frame: bytes) -> Book:
        data = loads(frame)["data"]
        return (
            np.array(data[bids], dtype=np.float64).T,
            np.array(data[asks], dtype=np.float64).T,
        )

    return read


def korean_trade(loads: Callable[[bytes], Any]) -> Callable[[bytes], tuple[float, float, int]]:
    """Return a reader of a trade's fields."""

    def read(frame: bytes) -> tuple[float, float, int]:
        data = loads(frame)
        _ = data["code"], data["ask_bid"] == "ASK", data["trade_timestamp"] * 1_000_000
        return float(data["trade_price"]), float(data["trade_volume"]), data["sequential_id"]

    return read


def binance_trade(loads: Callable[[bytes], Any]) -> Callable[[bytes], tuple[float, float, int]]:
    """Return a reader of a trade's fields."""

    def read(frame: bytes) -> tuple[float, float, int]:
        data = loads(frame)["data"]
        _ = data["s"], data["m"], data["T"] * 1_000_000
        return float(data["p"]), float(data["q"]), data["t"]

    return read


KOREAN_TICKER = (
    "trade_price", "opening_price", "high_price", "low_price", "acc_trade_volume_24h",
    "acc_trade_price_24h", "signed_change_price",
)  # fmt: skip


def ticker(loads: Callable[[bytes], Any], binance: bool) -> Callable[[bytes], NDArray[np.float64]]:
    """Return a reader of a ticker into the array that the bus carries."""

    def read(frame: bytes) -> NDArray[np.float64]:
        data = loads(frame)
        if binance:
            data = data["data"]
            _ = data["s"], data["E"] * 1_000_000
            return np.array([data[key] for key in "cohlvqpbBaA"], dtype=np.float64)
        _ = data["code"], data["timestamp"] * 1_000_000
        return np.array([float(data[key]) for key in KOREAN_TICKER], dtype=np.float64)

    return read
