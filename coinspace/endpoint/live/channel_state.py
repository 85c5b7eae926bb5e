"""The newest state of a channel, as the data of its events."""

from __future__ import annotations

import orjson

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.live.health import processes
from coinspace.endpoint.live.market import ticker
from coinspace.endpoint.live.venues import venues

BOOK_LEVELS = 50
GAPS_SENT = 100


def state(context: Context, channel: str) -> bytes | None:
    """Return the state of a channel as JSON; None without one, and for trades."""
    live = context.live
    kind, _, name = channel.partition(".")
    match kind:
        case "index" if name in live.indices:
            return live.indices[name].body(context.now_ms(), context.stale_ms)
        case "book" if book := consolidated(context, name, BOOK_LEVELS):
            return encode(book)
        case "ticker":
            exchange, _, market = name.partition(":")
            message = live.tickers.get((exchange, market))
            return None if message is None else encode(ticker(context, message))
        case "premiums":
            return context.premiums.snapshot()
        case "venues":
            return encode(venues(context))
        case "gaps":
            return orjson.dumps({"gaps": list(live.gaps)[-GAPS_SENT:]})
        case "pipeline":
            return encode(processes(context))
    return None
