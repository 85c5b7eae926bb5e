"""`/v1/premiums` and `/v1/premium/{asset}…`: the kimchi premium now, its statistics and history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from coinspace.clock import MILLISECOND_NS, monotonic_ns
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import bulk
from coinspace.endpoint.history.ranges import (
    candles_begin,
    candles_span,
    next_link,
    span,
    values_begin_ns,
)
from coinspace.endpoint.http.api import Routes, encode, json_answer, with_etag
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.endpoint.live.channels import Words, words
from coinspace.endpoint.live.executable import executable
from coinspace.endpoint.live.premium_stats import USDT
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import (
    Basis,
    PremiumCandle,
    PremiumCandlePage,
    PremiumInterval,
    PremiumPage,
    PremiumPoint,
    Premiums,
    PremiumStatistics,
    PremiumValue,
    RankedPremium,
    Stretch,
)
from coinspace.endpoint.records import rounding, status
from coinspace.endpoint.routes.history import (
    MINUTE_MS,
    PAGE_CANDLES,
    PAGE_VALUES,
    RANGE,
    ValuesQuery,
    closed,
)
from coinspace.endpoint.routes.indices import Asset
from coinspace.endpoint.values import decimal, encode_cursor
from coinspace.market import as_named
from coinspace.storage.read import history

routes = Routes()

# of work for one request between two turns of the loop
SLICE_NS = 10 * MILLISECOND_NS

Fraction = Annotated[float, Meta(ge=-1, le=1000)]
Change = Literal["change_1m", "change_5m", "change_1h", "change_24h"]
Sort = Literal[
    "premium", "asset", "age", "change_1m", "change_5m", "change_1h", "change_24h", "percentile",
    "left",
]  # fmt: skip
VALUE_COLUMNS = bulk.columns_of(PremiumPoint)
CANDLE_COLUMNS = bulk.columns_of(PremiumCandle, "closed")
# the value of a sort that an asset does not have comes last in both orders
Key = Callable[[RankedPremium], float | str | None]


class PremiumQuery(Struct, forbid_unknown_fields=True):
    """An asset, and a size to trade."""

    asset: Asset
    size: (
        Annotated[
            float,
            Meta(gt=0, le=1e9, description="base units: the premium after fees at this size"),
        ]
        | None
    ) = None


class PremiumsQuery(Struct, forbid_unknown_fields=True):
    """Which premiums, and in which order."""

    assets: Words | None = None
    search: Annotated[str, Meta(max_length=20)] | None = None
    basis: Basis = "coin"
    min: Fraction | None = None
    max: Fraction | None = None
    stale: bool = True
    sort: Sort = "premium"
    window: Stretch = "24h"
    order: Literal["asc", "desc"] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="assets in the answer")] | None = None
    spark: bool = False


class PremiumAssetQuery(Struct, forbid_unknown_fields=True):
    """An asset; USDT has a premium against USD."""

    asset: Asset


class PremiumCandlesQuery(ValuesQuery, forbid_unknown_fields=True):
    """A range of candles of one asset's premium."""

    interval: PremiumInterval = "1m"
    basis: Basis | None = None


@routes.get(
    "/v1/premiums", PremiumsQuery, answer=Premiums, tag="premium", problems=("unknown-asset",)
)
async def premiums(context: Context, request: Request, query: PremiumsQuery) -> Response:
    """The Korean premium of every asset that has one now: highest first, or in another order.

    By default `asset` and `age` come in ascending order, everything else in descending order.
    `basis` is that of `sort`, `min`, `max` and `spark`. An asset whose names may mean two coins
    (`same_coin` is `questioned`) has no rank and comes last. `missing` lists the chosen assets
    without a premium. `spark` adds a curve of the last 24 h.
    """
    table = context.premiums
    table.asked()
    chosen = context.settings.index.assets
    if query.assets is not None:
        chosen = list(dict.fromkeys(map(context.check_asset, words(query.assets))))
    if query.search is not None:
        part = query.search.strip().upper()
        chosen = [asset for asset in chosen if part in asset]
    found: list[RankedPremium] = []
    missing = []
    since = monotonic_ns()
    for asset in chosen:
        latest = table.latest(asset)
        if latest is None:
            missing.append(asset)
        elif _inside(latest.premium(query.basis), query):
            one = table.summary(latest, RankedPremium, rank=None)
            if query.stale or not one.stale:
                found.append(one)
        if monotonic_ns() - since > SLICE_NS:
            # a thousand assets take longer than others may wait
            await asyncio.sleep(0)
            since = monotonic_ns()
    found = ranked(found, query)
    if query.spark:
        for one in found:
            one.spark = table.stats.of(one.asset)[query.basis].curve()
    answer = Premiums(
        ts=context.now_ms(), premiums=found, missing=missing, usdt=table.usdt(), fees=table.fees
    )
    return json_answer(encode(answer))


def _inside(premium: float | None, query: PremiumsQuery) -> bool:
    if query.min is None and query.max is None:
        return True
    return (
        premium is not None
        and (query.min is None or premium >= query.min)
        and (query.max is None or premium <= query.max)
    )


def ranked(found: list[RankedPremium], query: PremiumsQuery) -> list[RankedPremium]:
    """Return premiums in the order asked for, with their ranks, up to the limit."""
    down = (query.order or ("asc" if query.sort in ("asset", "age") else "desc")) == "desc"
    key = _key(query)
    with_value = [one for one in found if key(one) is not None and one.same_coin != "questioned"]
    # equal values stay in the order of the configuration
    with_value.sort(key=key, reverse=down)  # type: ignore[arg-type]
    for number, one in enumerate(with_value, 1):
        one.rank = number
    others = [one for one in found if one.rank is None]
    others.sort(key=lambda one: one.same_coin == "questioned")
    return (with_value + others)[: query.limit]


def _key(query: PremiumsQuery) -> Key:
    basis = query.basis
    match query.sort:
        case "asset":
            return lambda one: one.asset
        case "age":
            return lambda one: one.age_ms
        case "premium":
            return lambda one: _number(one.premium, basis)
        case "left":
            return lambda one: _number(one.trade, basis)
        case "percentile":
            name = f"percentile_{query.window}"
        case change:
            name = change
    return lambda one: _number(getattr(one.stats, basis), name)


def _number(part: Any, name: str) -> float | None:
    text = None if part is None else getattr(part, name)
    return None if text is None or text is UNSET else float(text)


@routes.get(
    "/v1/premium/{asset}",
    PremiumQuery,
    answer=PremiumValue,
    tag="premium",
    problems=("unknown-asset", "not-ready"),
)
async def premium(context: Context, request: Request, parameters: PremiumQuery) -> Response:
    """The Korean premium now, with the regional values behind it and what trades leave of it.

    `executable` has the premium after fees in both directions, at the configured sizes in base
    units or only at `size`; null when the books are too thin for the size. `trades` has what is
    left of amounts in KRW at the best pair of venues.
    """
    asset = context.check_asset(parameters.asset)
    found = context.live.indices.get(asset)
    if found is None:
        raise retry_later("not-ready", f"no {asset} index value has arrived yet", 1)
    answer = context.premiums.value(found)
    if answer.premium is not None and parameters.size is not None:
        answer.premium = _at_size(context, found, answer.premium, parameters.size)
    return json_answer(encode(answer))


def _at_size(context: Context, found: Latest, premium: Any, size: float) -> Any:
    asked = executable(context, found, size)
    return replace(premium, executable=[asked] if asked is not None else [])


@routes.get(
    "/v1/premium/{asset}/stats",
    PremiumAssetQuery,
    answer=PremiumStatistics,
    tag="premium",
    problems=("unknown-asset",),
)
async def stats(context: Context, request: Request, query: PremiumAssetQuery) -> Response:
    """How unusual a premium is: changes, and its place among its samples of several windows.

    Samples are the last premiums of each minute (1 h, 24 h) or hour (7 d, 30 d, 90 d); the
    running minute and hour count with the premium now. USDT has its premium against USD.
    """
    asset = _checked(context, query.asset)
    found = context.premiums.stats.of(asset)
    latest = context.live.indices.get(asset)
    ts = None if latest is None else latest.ts_ms
    if asset == USDT:
        ts = context.premiums.stats.usdt_ms or None
    shown = {basis: series.all() for basis, series in found.items()}
    answer = PremiumStatistics(asset=asset, ts=ts, coin=shown.get("coin"), fiat=shown["fiat"])
    return json_answer(encode(answer))


@routes.get(
    "/v1/premium/{asset}/values",
    ValuesQuery,
    answer=PremiumPage,
    tag="premium",
    media=bulk.FORMATS,
    problems=("unknown-asset", *RANGE),
)
async def values(context: Context, request: Request, query: ValuesQuery) -> Response:
    """The premium of every tick in [start, end) on every basis, with the values behind it.

    Without `start`, the range is one minute. JSON comes in pages of 100 rows; CSV, Arrow and
    Parquet (by `Accept`) carry the whole range at once.
    """
    asset = _checked(context, query.asset)
    start, end = span(query.start, query.end, context.now_ms(), MINUTE_MS)
    media = bulk.accepted(request)
    first_ns, last_ns = values_begin_ns(query.cursor, start), history.ns(end)

    async def read(first_ns: int, count: int) -> list[dict[str, Any]]:
        rows = await history.premium_values(
            context.database, _stored(context, asset), first_ns, last_ns, count
        )
        return [_value(context, asset, row) for row in rows]

    if media != bulk.JSON:
        pages = bulk.paged(read, lambda rows, _: rows[-1]["ns"] + 1, first_ns, query.limit)
        name = bulk.file_name((asset, "premium", str(start), str(end)), media)
        return await bulk.answer(context.downloads, request, media, VALUE_COLUMNS, pages, name)
    limit = query.limit or PAGE_VALUES
    rows = await read(first_ns, limit + 1)
    cursor = encode_cursor(rows[limit - 1]["ns"]) if len(rows) > limit else None
    page = PremiumPage(
        asset=asset,
        start=start,
        end=end,
        values=[_shown(PremiumPoint, row, VALUE_COLUMNS) for row in rows[:limit]],
        cursor=cursor,
        next=next_link(f"/v1/premium/{asset}/values", cursor, start=start, end=end, limit=limit),
    )
    return json_answer(encode(page), (b"vary", b"Accept"))


@routes.get(
    "/v1/premium/{asset}/ohlc",
    PremiumCandlesQuery,
    answer=PremiumCandlePage,
    tag="premium",
    media=bulk.FORMATS,
    problems=("unknown-asset", *RANGE),
    headers=(("If-None-Match", "ETag of the answer that the client has"),),
)
async def ohlc(context: Context, request: Request, query: PremiumCandlesQuery) -> Response:
    """Candles of a premium over [start, end), widened to whole intervals.

    An interval without a premium has nulls; no value is filled in. Without `start`, the range has
    `limit` candles, 500 by default. Candles of 1h and 1d reach back as far as the index does.
    """
    asset = _checked(context, query.asset)
    basis = query.basis or ("fiat" if asset == USDT else "coin")
    if asset == USDT and basis == "coin":
        raise Problem(
            "invalid-parameter",
            "basis: expected fiat, was coin; USDT has no premium against itself",
            parameter="basis",
        )
    length = history.PREMIUM_INTERVALS[query.interval][0] // MILLISECOND_NS
    limit = query.limit or PAGE_CANDLES
    start, end = candles_span(query.start, query.end, context.now_ms(), length, limit)
    media = bulk.accepted(request)
    first = candles_begin(query.cursor, start, end, length)
    column = "usdt" if asset == USDT else basis

    async def read(first: int, count: int) -> list[dict[str, Any]]:
        last = min(end, first + count * length)
        if first >= last:
            return []
        rows = await history.premium_candles(
            context.database,
            _stored(context, asset),
            column,
            query.interval,
            history.ns(first),
            history.ns(last),
        )
        found = {row["ns"] // MILLISECOND_NS: _candle(context, asset, row) for row in rows}
        empty = dict.fromkeys(CANDLE_COLUMNS) | {"ticks": 0, "valid": 0}
        return [{**found.get(ts, empty), "ts": ts} for ts in range(first, last, length)]

    if media != bulk.JSON:
        pages = bulk.paged(read, lambda rows, _: rows[-1]["ts"] + length, first, query.limit)
        name = bulk.file_name((asset, "premium", query.interval, str(start), str(end)), media)
        return await bulk.answer(context.downloads, request, media, CANDLE_COLUMNS, pages, name)
    rows = await read(first, limit)
    last = min(end, first + limit * length)
    cursor = encode_cursor(last) if last < end else None
    now = context.now_ms()
    page = PremiumCandlePage(
        asset=asset,
        basis=basis,
        interval=query.interval,
        start=first,
        end=last,
        candles=[
            _shown(PremiumCandle, row, CANDLE_COLUMNS, closed=closed(row["ts"] + length, now))
            for row in rows
        ],
        cursor=cursor,
        next=next_link(
            f"/v1/premium/{asset}/ohlc",
            cursor,
            interval=query.interval,
            basis=basis,
            start=start,
            end=end,
            limit=limit,
        ),
    )
    answer = with_etag(request, Content(b"application/json", encode(page)), b"no-cache")
    answer.add_header(b"vary", b"Accept")
    return answer


def _checked(context: Context, asset: str) -> str:
    return USDT if as_named(asset) == USDT else context.check_asset(asset)


def _stored(context: Context, asset: str) -> str:
    # the records of every asset have the premium of USDT
    return context.settings.index.assets[0] if asset == USDT else asset


def _value(context: Context, asset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored row with its time in ms and rounded numbers."""
    found = _rounded(context, asset, row)
    if asset == USDT:
        found |= {"coin": None, "fiat": found["usdt"], "kr": None, "gl": None}
        found["reason"] = None
    return {**found, "status": status(row["status"]), "ts": row["ns"] // MILLISECOND_NS}


def _candle(context: Context, asset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    found = _rounded(context, asset, row)
    if asset == USDT:
        found |= {"kr": None, "gl": None}
    return {**found, "ticks": row["ticks"] or 0, "valid": row["valid"] or 0}


def _rounded(context: Context, asset: str, row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    for name, convert in rounding(None if asset == USDT else context.decimals(asset)).items():
        if row.get(name) is not None:
            found[name] = convert(row[name])
    return found


def _shown(kind: type[Any], row: Mapping[str, Any], columns: bulk.Columns, **more: Any) -> Any:
    given = {
        name: decimal(row[name]) if what == "number" else row[name]
        for name, what in columns.items()
    }
    return kind(**given, **more)
