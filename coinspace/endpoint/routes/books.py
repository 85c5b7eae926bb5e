"""`/v1/orderbooks…`: the summed book, and single venues' books now or at a past instant."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Routes, encode, json_answer
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.endpoint.live import market
from coinspace.endpoint.live.age import stale_reason
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.models import Book, ConsolidatedBook
from coinspace.endpoint.routes.history import READ
from coinspace.endpoint.routes.indices import Asset
from coinspace.endpoint.values import Instant, milliseconds
from coinspace.storage.read import history

routes = Routes()

_EMPTY: list[list[float]] = [[], []]
Levels = Annotated[int, Meta(ge=1, le=1000, description="levels per side")]


class ConsolidatedQuery(Struct, forbid_unknown_fields=True):
    """An asset's summed book."""

    asset: Asset
    levels: Levels = 50
    within: (
        Annotated[
            float,
            Meta(gt=0, le=50, description="also the depth within this percentage of the mid price"),
        ]
        | None
    ) = None


class BookQuery(Struct, forbid_unknown_fields=True):
    """One venue's book, now or as it was at an instant."""

    exchange: Annotated[str, Meta(max_length=40, examples=["upbit"])]
    base: Annotated[str, Meta(max_length=20, examples=["BTC"])]
    quote: Annotated[str, Meta(max_length=20, examples=["KRW"])]
    levels: Levels = 50
    at: Instant | None = None


@routes.get(
    "/v1/orderbooks/{asset}",
    ConsolidatedQuery,
    answer=ConsolidatedBook,
    tag="books",
    problems=("unknown-asset", "not-ready"),
)
async def orderbook(context: Context, request: Request, parameters: ConsolidatedQuery) -> Response:
    """The order book summed over all live venues, in index currency, with each venue's sizes."""
    asset = context.check_asset(parameters.asset)
    book = consolidated(context, asset, parameters.levels, parameters.within)
    if book is None:
        raise retry_later("not-ready", f"no summed book of {asset} has arrived yet", 1)
    return json_answer(encode(book))


@routes.get(
    "/v1/orderbooks/{exchange}/{base}/{quote}",
    BookQuery,
    answer=Book,
    tag="books",
    problems=("unknown-market", "no-data", *READ),
)
async def venue_orderbook(context: Context, request: Request, query: BookQuery) -> Response:
    """One venue's book in its own quote currency: the newest, or the one at `at`.

    A past book has the stored levels; its age is relative to `at`.
    """
    exchange, name = context.check_market(query.exchange, f"{query.base}/{query.quote}")
    if query.at is not None:
        found = await _stored(context, exchange, name, int(query.at), query.levels)
        return json_answer(encode(found))
    book = market.book(context, exchange, name, query.levels)
    if book is None:
        raise retry_later("not-ready", f"no book of {exchange} {name} has arrived yet", 1)
    return json_answer(encode(book))


async def _stored(context: Context, exchange: str, name: str, at_ms: int, levels: int) -> Book:
    at_ns = history.ns(at_ms + 1) - 1
    row = await history.book(context.database, exchange, name, at_ns)
    if row is None:
        raise Problem(
            "no-data", f"no book of {exchange} {name} is stored in the hour before that time"
        )
    # the row is not after `at`
    age = at_ms - row["ns"] // MILLISECOND_NS
    stale = stale_reason(age, 0, market.DELAYED_MS)
    return Book(
        exchange=exchange,
        market=name,
        received=row["ns"] // MILLISECOND_NS,
        exchange_time=milliseconds(row["exchange_ns"]),
        age_ms=age,
        stale=stale is not None,
        stale_reason=stale,
        status="stored",
        bids=market.levels(np.array(row["bids"] or _EMPTY), levels),
        asks=market.levels(np.array(row["asks"] or _EMPTY), levels),
    )
