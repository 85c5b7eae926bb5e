"""Channels of streams: checks the names that clients send and converts them to the hub's."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.problem import Problem, invalid

# a stream of everything of the default configuration has under 60
CHANNELS_LIMIT = 500
FLAGS = ("premiums", "venues", "gaps", "pipeline")


EventId = Annotated[str, Meta(max_length=64)]
# comma-separated
Words = Annotated[str, Meta(max_length=4000)]


class StreamQuery(Struct, forbid_unknown_fields=True):
    """The channels of a stream; `last_event_id` is the same as the header `Last-Event-ID`."""

    indices: Words | None = None
    books: Words | None = None
    tickers: Words | None = None
    trades: Words | None = None
    premiums: bool = False
    platform: Words | None = None
    last_event_id: EventId | None = None


def words(text: str | None) -> list[str]:
    """Split a comma-separated parameter; empty and repeated words are left out."""
    found = (word.strip() for word in (text or "").split(","))
    return list(dict.fromkeys(word for word in found if word))


def channel(context: Context, name: str) -> str:
    """Return the hub's name of a channel.

    Raises: Problem 404 for an unknown asset or market, 400 for an unknown kind.
    """
    kind, dot, rest = name.partition(".")
    if not dot and kind in FLAGS:
        return kind
    if kind in ("index", "book") and dot:
        return f"{kind}.{context.check_asset(rest)}"
    if kind in ("ticker", "trade") and dot:
        exchange, _, market = rest.partition(":")
        exchange, market = context.check_market(exchange, market)
        return f"{kind}.{exchange}:{market}"
    raise invalid(
        "channel",
        "expected index.ASSET, book.ASSET, ticker.EXCHANGE:MARKET, trade.EXCHANGE:MARKET,"
        f" premiums, venues, gaps or pipeline, was {name[:60]!r}",
    )


def channels(context: Context, query: StreamQuery) -> set[str]:
    """Return the channels of a stream's parameters; `*` stands for all of a kind.

    Raises: Problem 400 or 404 for an unknown channel, 400 for none or too many.
    """
    assets = context.settings.index.assets
    markets = [f"{exchange}:{market}" for exchange, market in context.all_markets()]
    found: set[str] = set()
    for kind, text, everything in (
        ("index", query.indices, assets),
        ("book", query.books, assets),
        ("ticker", query.tickers, markets),
        ("trade", query.trades, markets),
    ):
        for word in words(text):
            chosen = everything if word == "*" else [word]
            # before each is looked at
            check_count(len(found) + len(chosen))
            found.update(channel(context, f"{kind}.{one}") for one in chosen)
    for word in words(query.platform):
        found.add(channel(context, word))
    if query.premiums:
        found.add("premiums")
    if not found:
        raise Problem(
            "invalid-parameter",
            "stream: expected at least one of indices, books, tickers, trades, premiums, platform",
            parameter="indices",
        )
    return found


def check_count(count: int) -> None:
    """Raise Problem 400 for too many channels."""
    if count > CHANNELS_LIMIT:
        raise Problem(
            "invalid-parameter",
            f"stream: expected at most {CHANNELS_LIMIT} channels, was {count}",
            parameter="channel",
        )
