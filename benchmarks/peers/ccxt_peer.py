"""ccxt pro: its exchanges' own message handlers, with orjson, which ccxt takes when it is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ccxt.pro
import orjson

from benchmarks.frames import FIRST_ID


class Socket:
    """The part of ccxt's client that the handlers use: callbacks and the connection's URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.subscriptions: dict[str, Any] = {}
        self.updates = 0

    def resolve(self, _result: Any, _message_hash: str) -> None:
        self.updates += 1

    def reject(self, error: Exception, _message_hash: str) -> None:
        raise error


def handle(exchange: Any, socket: Socket, frames: list[bytes]) -> Callable[[], None]:
    """Return one pass of decoding and handling over frames, as ccxt's client does it."""
    loads = orjson.loads

    def run() -> None:
        for frame in frames:
            exchange.handle_message(socket, loads(frame))

    return run


def _market(exchange: Any, symbol: str, base: str, quote: str) -> dict[str, Any]:
    # what ccxt would fetch by REST; its own function fills in every key
    facts = {"id": symbol, "symbol": f"{base}/{quote}", "base": base, "quote": quote}
    flags = {"type": "spot", "spot": True, "contract": False, "option": False}
    market: dict[str, Any] = exchange.safe_market_structure({**facts, **flags})
    return market


def upbit(frames: list[bytes]) -> tuple[Callable[[], None], Socket]:
    """Return a pass over Upbit DEFAULT frames; 30 levels kept (ccxt's default is 15)."""
    exchange = ccxt.pro.upbit({"options": {"watchOrderBook": {"limit": 30}}})
    exchange.set_markets([_market(exchange, "KRW-BTC", "BTC", "KRW")])
    exchange.orderbooks["BTC/KRW"] = exchange.order_book({}, 30)
    socket = Socket("wss://api.upbit.com/websocket/v1")
    return handle(exchange, socket, frames), socket


def _binance() -> tuple[Any, Socket]:
    exchange = ccxt.pro.binance()
    exchange.set_markets([_market(exchange, "BTCUSDT", "BTC", "USDT")])
    return exchange, Socket("wss://stream.binance.com:9443/stream")


def binance_diffs(frames: list[bytes]) -> tuple[Callable[[], None], Socket]:
    """Return a pass over depth updates applied to ccxt's book of 1,000 levels."""
    exchange, socket = _binance()
    book = exchange.order_book({"bids": [[86700.0, 1.0]], "asks": [[86700.01, 1.0]]}, 1000)
    book["timestamp"] = 1
    exchange.orderbooks["BTC/USDT"] = book
    pass_over = handle(exchange, socket, frames)

    def run() -> None:
        book["nonce"] = FIRST_ID - 1
        pass_over()

    return run, socket


def binance_trades(frames: list[bytes]) -> tuple[Callable[[], None], Socket]:
    """Return a pass over trades, kept in ccxt's ring of 1,000."""
    exchange, socket = _binance()
    return handle(exchange, socket, frames), socket
