"""Converts bus messages of tickers, trades and books to API values."""

from __future__ import annotations

from typing import Any, cast, get_args

from coinspace._ext.message import TICKER_NAMES, Message
from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.live.age import StaleReason, stale_reason
from coinspace.endpoint.models import Book, Condition, MarketState, Ticker, Trade
from coinspace.endpoint.values import decimal, milliseconds

# the index, too, does not use a book without a sign of life for this long
DELAYED_MS = 10_000
_STATES = get_args(MarketState)


def age_ms(context: Context, received_ns: int) -> int:
    """Return the age of a receive time; below 0 when it is in the future."""
    return (context.clock() - received_ns) // MILLISECOND_NS


def ticker(context: Context, message: Message) -> Ticker:
    """Convert a ticker message."""
    exchange, market = context.live.key(message)
    values = {
        name: decimal(float(value))
        for name, value in zip(TICKER_NAMES, message.values, strict=True)
    }
    age = age_ms(context, message.received_ns)
    stale = stale_reason(age, context.live.heard_ms(message), DELAYED_MS)
    return Ticker(
        exchange=exchange,
        market=market,
        ts=message.received_ns // MILLISECOND_NS,
        exchange_time=milliseconds(message.exchange_ns),
        age_ms=age,
        status=venue_status(context, exchange, market, stale),
        stale_reason=stale,
        window=cast(Any, message.window),
        **values,
    )


def trade(context: Context, message: Message) -> Trade:
    """Convert a trade message."""
    exchange, market = context.live.key(message)
    price, size = (float(value) for value in message.values)
    return Trade(
        ts=(message.exchange_ns or message.received_ns) // MILLISECOND_NS,
        exchange=exchange,
        market=market,
        price=decimal(price) or "0",
        size=decimal(size) or "0",
        side="sell" if message.side == "sell" else "buy",
        trade_id=str(message.id),
        trades=message.trades,
    )


def book(context: Context, exchange: str, market: str, depth: int) -> Book | None:
    """Return the newest book of a venue, None when none has arrived."""
    message = context.live.books.get((exchange, market))
    if message is None:
        return None
    alive = context.live.alive_ns.get((exchange, market), message.received_ns)
    age = age_ms(context, alive)
    stale = stale_reason(age, context.live.heard_ms(message), DELAYED_MS)
    return Book(
        exchange=exchange,
        market=market,
        ts=message.received_ns // MILLISECOND_NS,
        exchange_time=milliseconds(message.exchange_ns),
        age_ms=age,
        stale=stale is not None,
        stale_reason=stale,
        status=venue_status(context, exchange, market, stale),
        bids=levels(message.bids, depth),
        asks=levels(message.asks, depth),
    )


def levels(side: Any, depth: int) -> list[tuple[str, str]]:
    """Convert float64[2, n] (prices, sizes) to pairs of decimal strings, at most `depth`."""
    prices, sizes = side[0][:depth].tolist(), side[1][:depth].tolist()
    return [
        (decimal(price) or "0", decimal(size) or "0")
        for price, size in zip(prices, sizes, strict=True)
    ]


def venue_status(
    context: Context, exchange: str, market: str, stale: StaleReason | None
) -> Condition:
    """Return a venue's state as one word."""
    state = context.live.states.get((exchange, market))
    if state is not None and state["state"] != "synced":
        return market_state(state["state"])
    return "ok" if stale is None else "stale"


def market_state(reported: Any) -> MarketState:
    """Return the state that a collector has reported; a newer collector may know others."""
    return cast(MarketState, reported) if reported in _STATES else "unknown"
