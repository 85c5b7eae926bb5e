"""The venue table: states from the collectors, joined with each venue's use in the index."""

from __future__ import annotations

from coinspace.clock import MILLISECOND_NS, monotonic_ns
from coinspace.endpoint.context import Context
from coinspace.endpoint.live.age import FUTURE_MS
from coinspace.endpoint.live.market import market_state
from coinspace.endpoint.models import MarketState, Venue, Venues
from coinspace.endpoint.records import region_of
from coinspace.endpoint.values import decimal, milliseconds, price, ratio
from coinspace.exchanges.identity import identity
from coinspace.method.record import VenueRecord

# collectors send a heartbeat every second
HEARTBEAT_LIMIT_NS = 3_000_000_000
FUTURE = "the book's time is in the future: check the clocks of the collector's host and this host"


def venues(context: Context) -> Venues:
    """Return every venue now."""
    now_ns = context.clock()
    shares: dict[str, VenueRecord] = {}
    for latest in context.live.indices.values():
        if latest.stale_reason(now_ns // MILLISECOND_NS, context.stale_ms) is None:
            shares.update(latest.record.venues)
    listed = [venue(context, *key, now_ns, shares) for key in context.all_markets()]
    return Venues(now_ns // MILLISECOND_NS, listed)


def reported(
    context: Context, exchange: str, market: str
) -> tuple[MarketState, str | None, int | None]:
    """Return a market's state, why, and since when in ms, as its collector reports them."""
    live = context.live
    beat = live.heartbeats.get(f"orderbook-collector-{exchange}")
    silent = beat is not None and monotonic_ns() - beat > HEARTBEAT_LIMIT_NS
    state = live.states.get((exchange, market))
    since = None if state is None else milliseconds(state.get("since_ns"))
    if silent:
        return "disconnected", "no heartbeat from its collector", since
    if state is not None:
        return market_state(state["state"]), state.get("reason"), since
    return "synced" if (exchange, market) in live.alive_ns else "unknown", None, None


def venue(
    context: Context, exchange: str, market: str, now_ns: int, shares: dict[str, VenueRecord]
) -> Venue:
    """Return one venue."""
    live = context.live
    key = (exchange, market)
    name = f"{exchange}:{market}"
    part = shares.get(name)
    alive = live.alive_ns.get(key)
    shown, reason, since = reported(context, exchange, market)
    age = None if alive is None else (now_ns - alive) // MILLISECOND_NS
    if part is not None and not part.used and part.reason:
        reason = reason or part.reason
        if part.reason == "delayed" and shown == "synced":
            shown = "stale"
    mid = spread = None
    book = live.books.get(key)
    if age is not None and age < -FUTURE_MS and shown == "synced":
        shown, reason = "stale", reason or FUTURE
    if book is not None and book.n_bids and book.n_asks:
        bid, ask = float(book.bids[0, 0]), float(book.asks[0, 0])
        mid, spread = price((bid + ask) / 2), decimal(round((ask - bid) / ((bid + ask) / 2), 8))
    return Venue(
        venue=name,
        exchange=exchange,
        market=market,
        asset=identity(exchange, market.partition("/")[0], now_ns).asset,
        region=region_of(exchange),
        state=shown,
        reason=reason,
        since=since,
        age_ms=age,
        used=None if part is None else part.used,
        share=None if part is None else ratio(part.share),
        mid=mid,
        spread=spread,
        updates=live.updates.get(key, 0),
    )
