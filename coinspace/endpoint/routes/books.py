"""`/v1/orderbooks…`: the summed book, and single venues' books now or at a past instant."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import numpy as np
from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.ranges import next_link, span
from coinspace.endpoint.http.api import Routes, encode, json_answer
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.endpoint.live import market
from coinspace.endpoint.live.age import stale_reason
from coinspace.endpoint.live.books import consolidated
from coinspace.endpoint.models import Book, BookPage, ConsolidatedBook, StoredBook
from coinspace.endpoint.routes.history import MINUTE_MS, RANGE, READ, Cursor, Limit
from coinspace.endpoint.routes.indices import Asset
from coinspace.endpoint.routes.market import ExchangeName
from coinspace.endpoint.values import Instant, decode_cursor, encode_cursor, milliseconds
from coinspace.storage.read import history

routes = Routes()

# a book has up to 2,000 levels
BOOKS_OF_PAGE = 500
PAGE_BOOKS = 100
BOOK_COLUMNS = bulk.columns_of(StoredBook)

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


class VenueQuery(Struct, forbid_unknown_fields=True):
    """One market of one exchange."""

    exchange: ExchangeName
    base: Annotated[str, Meta(max_length=20, examples=["BTC"])]
    quote: Annotated[str, Meta(max_length=20, examples=["KRW"])]


class BooksQuery(VenueQuery, forbid_unknown_fields=True):
    """One venue's stored books of a range."""

    levels: Levels = 1000
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit | None = None
    cursor: Cursor | None = None


class BookQuery(VenueQuery, forbid_unknown_fields=True):
    """One venue's book, now or as it was at an instant."""

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


@routes.get(
    "/v1/orderbooks/{exchange}/{base}/{quote}/history",
    BooksQuery,
    answer=BookPage,
    tag="books",
    media=bulk.FORMATS,
    problems=("unknown-market", *RANGE),
)
async def venue_orderbooks(context: Context, request: Request, query: BooksQuery) -> Response:
    """One venue's stored books of [start, end), oldest first; without `start` of one minute.

    A book that is the same as the one before is stored once. JSON comes in pages, its levels are
    [price, size]. CSV, Arrow and Parquet (by `Accept`) carry the whole range; there a side is
    [[prices], [sizes]], as in the database.
    """
    exchange, name = context.check_market(query.exchange, f"{query.base}/{query.quote}")
    start, end = span(query.start, query.end, context.now_ms(), MINUTE_MS)
    after = _position(query.cursor)

    async def read(after: tuple[int, int] | None, limit: int) -> list[dict[str, Any]]:
        return await history.books(
            context.database, exchange, name, history.ns(start), history.ns(end), after, limit
        )

    media = bulk.accepted(request)
    if media != bulk.JSON:
        pages = bulk.paged(read, history.books_after, after, query.limit, BOOKS_OF_PAGE)
        file = bulk.file_name((exchange, name, "books", str(start), str(end)), media)
        rows = _as_columns(pages, exchange, name, query.levels)
        return await bulk.answer(context.downloads, request, media, BOOK_COLUMNS, rows, file)
    limit = query.limit or PAGE_BOOKS
    found = await read(after, limit + 1)
    shown, cursor = found[:limit], None
    if len(found) > limit:
        cursor = encode_cursor(*history.books_after(shown, after))
    path = f"/v1/orderbooks/{exchange}/{name}/history"

    def page() -> bytes:
        return encode(
            BookPage(
                start=start,
                end=end,
                orderbooks=[_book(row, exchange, name, query.levels) for row in shown],
                cursor=cursor,
                next=next_link(
                    path, cursor, levels=query.levels, start=start, end=end, limit=limit
                ),
            )
        )

    # 1,000 deep books take seconds, which live answers must not wait for
    return json_answer(await asyncio.to_thread(page), (b"vary", b"Accept"))


def _position(cursor: str | None) -> tuple[int, int] | None:
    if cursor is None:
        return None
    last_ns, count = decode_cursor(cursor, 2)
    return last_ns, min(count, 1000)


def _book(row: dict[str, Any], exchange: str, name: str, levels: int) -> StoredBook:
    return StoredBook(
        ts=row["ns"] // MILLISECOND_NS,
        exchange_time=milliseconds(row["exchange_ns"]),
        exchange=exchange,
        market=name,
        bids=market.levels(np.array(row["bids"] or _EMPTY), levels),
        asks=market.levels(np.array(row["asks"] or _EMPTY), levels),
    )


async def _as_columns(pages: bulk.Pages, exchange: str, name: str, levels: int) -> bulk.Pages:
    async for rows in pages:
        yield [
            {
                "ts": row["ns"] // MILLISECOND_NS,
                "exchange_time": milliseconds(row["exchange_ns"]),
                "exchange": exchange,
                "market": name,
                "bids": [part[:levels] for part in row["bids"] or _EMPTY],
                "asks": [part[:levels] for part in row["asks"] or _EMPTY],
            }
            for row in rows
        ]


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
        ts=row["ns"] // MILLISECOND_NS,
        exchange_time=milliseconds(row["exchange_ns"]),
        age_ms=age,
        stale=stale is not None,
        stale_reason=stale,
        status="stored",
        bids=market.levels(np.array(row["bids"] or _EMPTY), levels),
        asks=market.levels(np.array(row["asks"] or _EMPTY), levels),
    )
