"""`/v1/indices/{asset}/values`, `/ohlc` and `/explain`: the stored index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.explain import live_explanation, stored_explanation
from coinspace.endpoint.history.ranges import (
    candles_begin,
    candles_span,
    next_link,
    span,
    values_begin_ns,
)
from coinspace.endpoint.http.api import Routes, encode, json_answer, with_etag
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.models import (
    Candle,
    CandlePage,
    Explanation,
    IndexPage,
    IndexPoint,
    Interval,
)
from coinspace.endpoint.records import CURRENCY, column, served, status
from coinspace.endpoint.routes.indices import Asset
from coinspace.endpoint.values import Instant, encode_cursor
from coinspace.storage.read import history

routes = Routes()

MINUTE_MS = 60_000
# rows reach the views within this time; a candle may change until then
SETTLE_MS = 10_000
IMMUTABLE = b"max-age=31536000, immutable"

# rows of a JSON page without `limit`
PAGE_VALUES = 100
PAGE_CANDLES = 500

PRICES = ("open", "high", "low", "close", "kr", "gl")

# problems of every route that reads the database
READ = ("database-unavailable", "query-timeout", "not-ready")
# and of those that also send whole ranges
RANGE = (*READ, "invalid-cursor", "not-acceptable", "too-many-downloads")

Limit = Annotated[
    int,
    Meta(
        ge=1,
        le=1000,
        description="rows of a JSON page; CSV, Arrow and Parquet end after as many rows, and carry"
        " the whole range without it",
    ),
]
Cursor = Annotated[str, Meta(max_length=200, description="`cursor` of the page before")]

VALUE_COLUMNS = bulk.columns_of(IndexPoint)
CANDLE_COLUMNS = bulk.columns_of(Candle, "closed")


class ValuesQuery(Struct, forbid_unknown_fields=True):
    """A range of one index's values."""

    asset: Asset
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit | None = None
    cursor: Cursor | None = None


class CandlesQuery(Struct, forbid_unknown_fields=True):
    """A range of one index's candles."""

    asset: Asset
    interval: Interval = "1m"
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit | None = None
    cursor: Cursor | None = None


class ExplainQuery(Struct, forbid_unknown_fields=True):
    """One tick: the newest, or the one at or just before an instant."""

    asset: Asset
    ts: Instant | None = None


@routes.get(
    "/v1/indices/{asset}/values",
    ValuesQuery,
    answer=IndexPage,
    tag="indices",
    media=bulk.FORMATS,
    problems=("unknown-asset", *RANGE),
)
async def values(context: Context, request: Request, query: ValuesQuery) -> Response:
    """Every value of an index in [start, end), nulls with their reason included.

    Without `start`, the range is one minute. JSON comes in pages of 100 rows; CSV, Arrow and
    Parquet (by `Accept`) carry the whole range at once.
    """
    asset = context.check_asset(query.asset)
    start, end = span(query.start, query.end, context.now_ms(), MINUTE_MS)
    media = bulk.accepted(request)
    first_ns, last_ns = values_begin_ns(query.cursor, start), history.ns(end)
    if media != bulk.JSON:
        pages = bulk.paged(
            lambda first_ns, count: _value_rows(context, asset, first_ns, last_ns, count),
            lambda rows, _: rows[-1]["ns"] + 1,
            first_ns,
            query.limit,
        )
        name = bulk.file_name((asset, "index", str(start), str(end)), media)
        return await bulk.answer(context.downloads, request, media, VALUE_COLUMNS, pages, name)
    digits = context.decimals(asset)
    limit = query.limit or PAGE_VALUES
    rows = await history.values(context.database, asset, first_ns, last_ns, limit + 1)
    cursor = encode_cursor(rows[limit - 1]["ns"]) if len(rows) > limit else None
    page = IndexPage(
        asset=asset,
        currency=CURRENCY,
        start=start,
        end=end,
        values=points(rows[:limit], digits),
        cursor=cursor,
        next=next_link(f"/v1/indices/{asset}/values", cursor, start=start, end=end, limit=limit),
    )
    return json_answer(encode(page), (b"vary", b"Accept"))


@routes.get(
    "/v1/indices/{asset}/ohlc",
    CandlesQuery,
    answer=CandlePage,
    tag="indices",
    media=bulk.FORMATS,
    problems=("unknown-asset", *RANGE),
    headers=(("If-None-Match", "ETag of the answer that the client has"),),
)
async def ohlc(context: Context, request: Request, query: CandlesQuery) -> Response:
    """Candles of an index over [start, end), widened to whole intervals.

    An interval without values has nulls; no value is filled in. Without `start`, the range has
    `limit` candles, 500 by default. A page of closed candles never changes and may be cached for
    ever.
    """
    asset = context.check_asset(query.asset)
    length = history.INTERVALS[query.interval][0] // MILLISECOND_NS
    limit = query.limit or PAGE_CANDLES
    start, end = candles_span(query.start, query.end, context.now_ms(), length, limit)
    media = bulk.accepted(request)
    first = candles_begin(query.cursor, start, end, length)
    if media != bulk.JSON:
        pages = bulk.paged(
            lambda first, count: _candle_rows(context, asset, query.interval, first, end, count),
            lambda rows, _: rows[-1]["ts"] + length,
            first,
            query.limit,
        )
        name = bulk.file_name((asset, query.interval, str(start), str(end)), media)
        return await bulk.answer(context.downloads, request, media, CANDLE_COLUMNS, pages, name)
    last = min(end, first + limit * length)
    rows = await history.candles(
        context.database, asset, query.interval, history.ns(first), history.ns(last)
    )
    now = context.now_ms()
    cursor = encode_cursor(last) if last < end else None
    page = CandlePage(
        asset=asset,
        currency=CURRENCY,
        interval=query.interval,
        start=first,
        end=last,
        candles=whole(rows, first, last, length, now, context.decimals(asset)),
        cursor=cursor,
        next=next_link(
            f"/v1/indices/{asset}/ohlc",
            cursor,
            interval=query.interval,
            start=start,
            end=end,
            limit=limit,
        ),
    )
    control = b"no-cache"
    if last + SETTLE_MS <= now and await _is_settled(context, asset, query.interval, last):
        scope = b"public" if request.scope.get("coinspace.key") is None else b"private"
        control = scope + b", " + IMMUTABLE
    answer = with_etag(request, Content(b"application/json", encode(page)), control)
    answer.add_header(b"vary", b"Accept")
    return answer


async def _is_settled(context: Context, asset: str, interval: str, last: int) -> bool:
    # rows are stored in order: when a later one is stored, the page is complete
    key, last_ns = (asset, interval), history.ns(last)
    if context.settled.get(key, 0) < last_ns:
        context.settled[key] = await history.stored_until(context.database, asset, interval)
    return context.settled[key] >= last_ns


@routes.get(
    "/v1/indices/{asset}/explain",
    ExplainQuery,
    answer=Explanation,
    tag="indices",
    problems=("unknown-asset", *READ, "no-data"),
)
async def explain(context: Context, request: Request, query: ExplainQuery) -> Response:
    """One tick in full: constituents, exclusions with reasons, FX, inputs, curve.

    The newest tick's curve is that of its own summed book. A past tick's curve is recomputed
    from the stored books: `levels_missing` and `difference` show how exact it is.
    """
    asset = context.check_asset(query.asset)
    latest = context.live.indices.get(asset)
    if latest is not None and query.ts in (None, latest.ts_ms):
        return json_answer(encode(await live_explanation(context, latest)))
    at_ns = history.ns(int(query.ts) + 1) - 1 if query.ts is not None else context.clock()
    found = await stored_explanation(context, asset, at_ns)
    if found is None:
        raise Problem("no-data", f"no {asset} tick is stored within a minute before that time")
    return json_answer(encode(found))


def points(
    rows: Sequence[Mapping[str, Any]], decimals_shown: int | None = None
) -> list[IndexPoint]:
    """Convert stored rows column by column, which is faster: most of a page's cost is numbers."""

    def texts(name: str) -> list[str | None]:
        return column(rows, name, decimals_shown)

    return list(
        map(
            IndexPoint,
            [row["ns"] // MILLISECOND_NS for row in rows],
            [status(row["status"]) for row in rows],
            [row["reason"] for row in rows],
            *map(texts, ("value", "kr", "gl", "value_krw")),
            *map(texts, ("premium", "fx")),
            [row["fx_status"] for row in rows],
            texts("best_bid"),
            texts("best_ask"),
            [row["n_used"] or 0 for row in rows],
        )
    )


def whole(
    rows: list[dict[str, Any]],
    first: int,
    last: int,
    length: int,
    now_ms: int,
    decimals_shown: int | None = None,
) -> list[Candle]:
    """Return a candle per interval of [first, last), with nulls for an interval without a row."""
    times = [row["ns"] // MILLISECOND_NS for row in rows]
    made = map(
        Candle,
        times,
        *(column(rows, name, decimals_shown) for name in (*PRICES, "premium", "fx")),
        [row["ticks"] or 0 for row in rows],
        [row["valid"] or 0 for row in rows],
        [closed(ts + length, now_ms) for ts in times],
    )
    found = dict(zip(times, made, strict=True))
    nothing: dict[str, Any] = dict.fromkeys((*PRICES, "premium", "fx")) | {"ticks": 0, "valid": 0}
    return [
        found.get(ts) or Candle(ts, closed=closed(ts + length, now_ms), **nothing)
        for ts in range(first, last, length)
    ]


def closed(end_ms: int, now_ms: int) -> bool:
    """Return whether all rows of an interval are stored."""
    return end_ms + SETTLE_MS <= now_ms


async def _value_rows(
    context: Context, asset: str, first_ns: int, last_ns: int, count: int
) -> list[dict[str, Any]]:
    rows = await history.values(context.database, asset, first_ns, last_ns, count)
    digits = context.decimals(asset)
    return [
        {
            **served(row, digits),
            "ts": row["ns"] // MILLISECOND_NS,
        }
        for row in rows
    ]


async def _candle_rows(
    context: Context, asset: str, interval: str, first: int, end: int, count: int
) -> list[dict[str, Any]]:
    length = history.INTERVALS[interval][0] // MILLISECOND_NS
    last = min(end, first + count * length)
    if first >= last:
        return []
    rows = await history.candles(
        context.database, asset, interval, history.ns(first), history.ns(last)
    )
    digits = context.decimals(asset)
    found = {row["ns"] // MILLISECOND_NS: served(row, digits) for row in rows}
    empty = dict.fromkeys(CANDLE_COLUMNS) | {"ticks": 0, "valid": 0}
    return [{**found.get(ts, empty), "ts": ts} for ts in range(first, last, length)]
