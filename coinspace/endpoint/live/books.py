"""The summed book of an asset: the aggregator's newest ladder as levels with each venue's size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coinspace._ext.ladder import Ladder
from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.live.age import stale_reason
from coinspace.endpoint.models import (
    NO_VALUE,
    ConsolidatedBook,
    Constituent,
    Depth,
    Level,
    Profile,
    VenueSize,
)
from coinspace.endpoint.records import CURRENCY, constituent
from coinspace.endpoint.values import decimal
from coinspace.endpoint.values import price as price_text
from coinspace.method.aggregate import COMPOSITE, Aggregate
from coinspace.method.record import VenueRecord

DEPTH_PERCENTS = (0.1, 0.25, 0.5, 1.0, 2.0)
# a screen cannot show more than about 100 steps per side
PROFILE_STEPS = 100
PROFILE_STEP_PERCENT = 0.01
# sizes of a profile are only drawn: 6 digits are finer than a pixel
PROFILE_DIGITS = 6
# exchanges have sizes in units of 1e-8; further digits of a sum are rounding errors
SIZE_PLACES = 8

Side = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]


def consolidated(
    context: Context, asset: str, levels: int, within: float | None = None
) -> ConsolidatedBook | None:
    """Return the newest summed book, None without one.

    Args: within: a distance in percent, whose depth is added to `DEPTH_PERCENTS`.
    """
    found = context.live.aggregate(asset)
    if found is None:
        return None
    message, aggregate = found
    now_ms = context.now_ms()
    ts_ms = aggregate.ts_ns // MILLISECOND_NS
    names = [one.name for one in aggregate.venues]
    ladder = aggregate.ladders.get(COMPOSITE, Ladder())
    bids, asks = ladder.side_copy(0), ladder.side_copy(1)
    age = now_ms - ts_ms
    stale = stale_reason(age, context.live.heard_ms(message), context.stale_ms)
    usable = [one for one in aggregate.venues if one.reason is None]
    return ConsolidatedBook(
        asset=asset,
        ts=ts_ms,
        age_ms=age,
        stale=stale is not None,
        stale_reason=stale,
        status=NO_VALUE if not usable else "ok" if len(usable) == len(names) else "degraded",
        currency=CURRENCY,
        fx=price_text(aggregate.fx.rate),
        bids=grouped(bids, names, levels, _limits(aggregate, True)),
        asks=grouped(asks, names, levels, _limits(aggregate, False)),
        depth=depths(bids, asks, within),
        profile=profile(bids, asks, names),
        venues=_venues(context, asset, aggregate),
    )


def _limits(aggregate: Aggregate, is_bids: bool) -> Sequence[float | None]:
    # each venue's first price group in index currency, as the ladder has it
    found: list[float | None] = []
    for one in aggregate.venues if aggregate.groups else ():
        groups = aggregate.groups.get(one.name)
        price = None if groups is None else groups.bid if is_bids else groups.ask
        found.append(None if price is None or one.fx is None else price / one.fx)
    return found


def grouped(
    side: Side, names: list[str], limit: int, limits: Sequence[float | None] = ()
) -> list[Level]:
    """Return the best `limit` prices of a side; equal prices are one level.

    Args:
        side: prices sorted best first, sizes, venue indices into `names`.
        limits: each venue's price from which on its levels are price groups, () = there are none.
    """
    prices, sizes, venues = side
    found: list[Level] = []
    total = 0.0
    last: float | None = None
    # a price has at most one level per venue, so that these levels have `limit` prices
    head = limit * max(1, len(names)) + 1
    for price, size, venue in zip(
        prices[:head].tolist(), sizes[:head].tolist(), venues[:head].tolist(), strict=True
    ):
        begin = limits[venue] if limits else None
        part = VenueSize(names[venue], decimal(size) or "0", _beyond(price, begin, prices[0]))
        if price == last:
            total += size
            found[-1].venues.append(part)
            found[-1].size = decimal(round(total, SIZE_PLACES)) or "0"
            continue
        if len(found) == limit:
            break
        last, total = price, size
        text = price_text(price) or "0"
        found.append(Level(price=text, size=decimal(size) or "0", venues=[part]))
    return found


def _beyond(price: float, begin: float | None, best: float) -> bool:
    # whether a level lies at or behind a venue's first group, seen from the best price of the side
    if begin is None:
        return False
    return price <= begin if begin < best else price >= begin


def depths(bids: Side, asks: Side, within: float | None = None) -> list[Depth]:
    """Return the size within some distances of the mid price, nearest first."""
    if not len(bids[0]) or not len(asks[0]):
        return []
    middle = 0.5 * bids[0][0] + 0.5 * asks[0][0]
    found = []
    wanted = {*DEPTH_PERCENTS, within} if within is not None else DEPTH_PERCENTS
    for percent in sorted(wanted):
        bid = float(bids[1][bids[0] >= middle * (1 - percent / 100)].sum())
        ask = float(asks[1][asks[0] <= middle * (1 + percent / 100)].sum())
        found.append(
            Depth(
                within_percent=decimal(percent) or "0",
                bid=decimal(round(bid, SIZE_PLACES)) or "0",
                ask=decimal(round(ask, SIZE_PLACES)) or "0",
            )
        )
    return found


def profile(bids: Side, asks: Side, names: list[str]) -> Profile | None:
    """Return cumulative sizes per venue by distance from the mid; None for an empty side."""
    if not len(bids[0]) or not len(asks[0]):
        return None
    middle = float(0.5 * bids[0][0] + 0.5 * asks[0][0])
    steps = np.arange(PROFILE_STEPS + 1) * PROFILE_STEP_PERCENT / 100
    sides = []
    for (prices, sizes, venues), edges, sign in (
        (bids, middle * (1 - steps), -1.0),
        (asks, middle * (1 + steps), 1.0),
    ):
        cumulative = {}
        for number, name in enumerate(names):
            own = venues == number
            total = np.concatenate(([0.0], np.cumsum(sizes[own])))
            reached = np.searchsorted(sign * prices[own], sign * edges, side="right")
            cumulative[name] = np.round(total[reached], PROFILE_DIGITS).tolist()
        sides.append(cumulative)
    return Profile(
        step_percent=decimal(PROFILE_STEP_PERCENT) or "0",
        mid=price_text(middle) or "0",
        bids=sides[0],
        asks=sides[1],
    )


def _venues(context: Context, asset: str, aggregate: Aggregate) -> list[Constituent]:
    latest = context.live.indices.get(asset)
    judged = latest.record.venues if latest else {}
    listed = []
    for one in aggregate.venues:
        facts = VenueRecord(
            used=one.reason is None,
            reason=one.reason,
            share=None,
            mid=one.mid,
            age_ms=one.age_ms(aggregate.ts_ns),
        )
        groups = aggregate.groups.get(one.name)
        facts.grouped_from = None if groups is None else groups.begin(one.native_mid)
        part = judged.get(one.name)
        if part is not None:
            facts.used, facts.reason, facts.share = part.used, part.reason, part.share
        listed.append(constituent(one.name, facts, one.region))
    return listed
