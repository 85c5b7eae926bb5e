"""The price-volume curve behind a tick: from the summed book, or from the stored books.

A summed book is far deeper than the stored books (`storage.depth` levels), and is kept only while
it is the newest. So a past tick's curve is recomputed from its inputs: the rows of `orderbook` with
each venue's book at the tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import orjson

from coinspace._ext.ladder import Ladder, VenueBook
from coinspace.clock import MILLISECOND_NS
from coinspace.config import IndexParameters, index_parameters
from coinspace.endpoint.context import Context
from coinspace.endpoint.live.books import SIZE_PLACES
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import CurveLevel, CurveSegment, PriceVolumeCurve
from coinspace.endpoint.records import venue_parts
from coinspace.endpoint.values import decimal, price, ratio
from coinspace.method.aggregate import COMPOSITE
from coinspace.method.composite import evaluate, explain
from coinspace.method.parameters import FX_CURRENCY, INDEX_CURRENCY, make_curve, parameter_hash
from coinspace.storage.read import history
from coinspace.storage.read.pool import Row

# more rows do not help a reader, and a request must not format 10,000 levels
CURVE_ROWS = 500
DEFINITIONS_LIMIT = 1000
_EMPTY: list[list[float]] = [[], []]


class Missing(Exception):
    """There is no curve, for the reason in the text."""


async def of_live(context: Context, latest: Latest) -> PriceVolumeCurve:
    """Return the newest tick's curve. Raises: Missing."""
    asset = latest.value.asset
    found = context.live.aggregate(asset)
    if found is None:
        raise Missing("no summed book has arrived")
    _, aggregate = found
    if aggregate.ts_ns // MILLISECOND_NS != latest.ts_ms or COMPOSITE not in aggregate.ladders:
        raise Missing("the newest summed book belongs to another tick; try again")
    return _curve(
        context.settings.index.parameters_of(asset),
        aggregate.ladders[COMPOSITE],
        [one.name for one in aggregate.venues],
        {name for name, one in latest.record.venues.items() if one.used},
        latest.record.value_raw or latest.record.value,
        "summed_book",
        0,
    )


async def of_stored(context: Context, row: Row, venues: list[Row]) -> PriceVolumeCurve:
    """Return the curve of a stored tick's stored inputs. Raises: Missing, Problem."""
    used = sorted((one for one in venues if one["used"]), key=lambda one: str(one["venue"]))
    if row["value"] is None or not used:
        raise Missing(f"the tick has no value: {row['reason'] or 'no venue was used'}")
    parameters = await _parameters(context, row)
    rates = [_rate(one["venue"], row["fx"]) for one in used]
    books = await asyncio.gather(*(_book(context, one) for one in used))
    ladder, missing = Ladder(), 0
    loaded: list[VenueBook | None] = []
    for book in books:
        venue_book = VenueBook()
        sides = [np.array(book[side] or _EMPTY) for side in ("bids", "asks")]
        venue_book.load(*sides)
        loaded.append(venue_book)
        published = (book["n_bids"] or 0) + (book["n_asks"] or 0)
        missing += max(0, published - sum(side.shape[1] for side in sides))
    ladder.merge(loaded, rates)
    names = [str(one["venue"]) for one in used]
    return _curve(
        parameters,
        ladder,
        names,
        set(names),
        row["value_raw"] or row["value"],
        "stored_books",
        missing,
    )


async def _parameters(context: Context, row: Row) -> IndexParameters:
    # the parameters in force at the tick, which may differ from today's
    asset, wanted = row["asset"], row["parameter_hash"]
    now = context.settings.index.parameters_of(asset)
    if wanted == parameter_hash(now, context.depths):
        return now
    for announced in await history.definitions(context.database, DEFINITIONS_LIMIT):
        if announced["asset"] == asset:
            definition = orjson.loads(announced["definition"])
            if definition["parameter_hash"] == wanted:
                return index_parameters(definition["parameters"], f"index of {asset}")
    raise Missing(f"the tick's parameters (hash {wanted}) are neither in force nor announced")


def _rate(venue: str, krw_per_usdt: float | None) -> float:
    quote = venue.rpartition("/")[2]
    rate = {INDEX_CURRENCY: 1.0, FX_CURRENCY: krw_per_usdt}.get(quote)
    if not rate:
        raise Missing(f"{venue}: no exchange rate of {quote} is stored with the tick")
    return rate


async def _book(context: Context, venue: Row) -> Row:
    exchange, market = venue_parts(venue["venue"])
    received_ns, changed_ns = venue["received_ts"] or 0, venue["changed_ts"] or 0
    book = await history.book(context.database, exchange, market, received_ns)
    # identical repeats are not stored: any row since the last change has the same book
    if book is None or book["ns"] < changed_ns:
        raise Missing(f"the book of {venue['venue']} at that tick is not stored")
    return book


def _curve(
    parameters: IndexParameters,
    ladder: Ladder,
    names: list[str],
    used: set[str],
    published: float | None,
    source: Literal["summed_book", "stored_books"],
    missing: int,
) -> PriceVolumeCurve:
    curve = make_curve(parameters)
    found = evaluate(curve, ladder, names, used)
    if found.value_raw is None:
        raise Missing(f"the levels give no value: {found.reason}")
    parts = explain(curve, names)
    return PriceVolumeCurve(
        source=source,
        levels_missing=missing,
        value=price(found.value_raw),
        difference=ratio(found.value_raw / published - 1) if published else None,
        rows_left_out=sum(max(0, len(rows) - CURVE_ROWS) for rows in parts.values()),
        segments=[_segment(row) for row in parts["curve"][:CURVE_ROWS]],
        bids=_levels(parts["bids"]),
        asks=_levels(parts["asks"]),
    )


def _segment(row: dict[str, float]) -> CurveSegment:
    texts = {name: price(value) or "0" for name, value in row.items()}
    return CurveSegment(start=texts.pop("from"), end=texts.pop("to"), **texts)


def _levels(rows: Iterable[dict[str, Any]]) -> list[CurveLevel]:
    return [
        CurveLevel(
            venue=row["venue"],
            price=price(row["price"]) or "0",
            **{
                name: decimal(round(row[name], SIZE_PLACES)) or "0"
                for name in ("size", "capped", "cumulative")
            },
        )
        for row in list(rows)[:CURVE_ROWS]
    ]
