"""`/v1/indices…` and `/v1/premium…`: the index now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct
from msgspec.structs import replace

from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Nothing, Routes, encode, json_answer
from coinspace.endpoint.http.problem import retry_later
from coinspace.endpoint.live.channels import Words, words
from coinspace.endpoint.live.executable import executable
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import (
    NO_VALUE,
    Indices,
    LatestIndexValue,
    Premiums,
    PremiumSummary,
    PremiumValue,
)
from coinspace.endpoint.values import price

routes = Routes()

LATEST_PATH = "/v1/indices/"

Asset = Annotated[str, Meta(description="base asset", examples=["BTC"], max_length=20)]


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


Fraction = Annotated[float, Meta(ge=-1, le=1000)]


class PremiumsQuery(Struct, forbid_unknown_fields=True):
    """Which premiums, and in which order."""

    assets: Words | None = None
    min: Fraction | None = None
    max: Fraction | None = None
    stale: bool = True
    sort: Literal["premium", "asset", "age"] = "premium"
    order: Literal["asc", "desc"] | None = None


class OfAsset(Struct, forbid_unknown_fields=True):
    """An asset."""

    asset: Asset


@routes.get("/v1/indices", Nothing, answer=Indices, tag="indices")
async def indices(context: Context, request: Request, _: None) -> Response:
    """The newest value of every index."""
    live, now, stale = context.live, context.now_ms(), context.stale_ms
    assets = context.settings.index.assets
    found = [live.indices[asset] for asset in assets if asset in live.indices]
    missing = [asset for asset in assets if asset not in live.indices]
    body = b'{"indices":[%b],"missing":%b}' % (
        b",".join(one.body(now, stale) for one in found),
        encode(missing),
    )
    return json_answer(body)


@routes.get(
    LATEST_PATH + "{asset}",
    OfAsset,
    answer=LatestIndexValue,
    tag="indices",
    problems=("unknown-asset", "not-ready"),
)
async def index(context: Context, request: Request, parameters: OfAsset) -> Response:
    """The newest value of an index, with status, age and constituents.

    A null value carries its reason; an old value is never repeated. `stale` is true when the
    value may not be the newest: no tick has arrived for too long (`old`, `silent`), or the
    value's time is in the future (`future`), since a clock is or was wrong.
    """
    return json_answer(_body(context, _latest(context, parameters.asset)))


@routes.get(
    "/v1/premium/{asset}",
    PremiumQuery,
    answer=PremiumValue,
    tag="indices",
    problems=("unknown-asset", "not-ready"),
)
async def premium(context: Context, request: Request, parameters: PremiumQuery) -> Response:
    """The Korean premium now, with the regional values behind it.

    `executable` has the premium after fees in both directions, at the configured sizes or only
    at `size`; null when the books are too thin for the size.
    """
    found = _latest(context, parameters.asset)
    summary = _premium(context, found, context.now_ms())
    if summary.premium is not None and parameters.size is not None:
        asked = executable(context, found, parameters.size)
        executed = [asked] if asked is not None else []
        summary.premium = replace(summary.premium, executable=executed)
    answer = PremiumValue(
        **{name: getattr(summary, name) for name in PremiumSummary.__struct_fields__},
        constituents=found.value.constituents,
    )
    return json_answer(encode(answer))


@routes.get(
    "/v1/premiums", PremiumsQuery, answer=Premiums, tag="indices", problems=("unknown-asset",)
)
async def premiums(context: Context, request: Request, query: PremiumsQuery) -> Response:
    """The Korean premium of every asset that has one now: highest first, or in another order.

    By default `premium` comes in descending order, `asset` and `age` in ascending order. `missing`
    lists the chosen assets without a premium.
    """
    now = context.now_ms()
    chosen = context.settings.index.assets
    if query.assets is not None:
        chosen = list(dict.fromkeys(map(context.check_asset, words(query.assets))))
    found, missing = [], []
    for asset in chosen:
        latest = context.live.indices.get(asset)
        coin = None if latest is None else latest.coin_premium
        if latest is None or coin is None:
            missing.append(asset)
            continue
        summary = _premium(context, latest, now)
        inside = (query.min is None or coin >= query.min) and (
            query.max is None or coin <= query.max
        )
        if inside and (query.stale or not summary.stale):
            found.append((coin, summary))
    order = query.order or ("desc" if query.sort == "premium" else "asc")
    keys: dict[str, Callable[[tuple[float, PremiumSummary]], Any]] = {
        "premium": lambda one: one[0],
        "asset": lambda one: one[1].asset,
        "age": lambda one: one[1].age_ms,
    }
    found.sort(key=keys[query.sort], reverse=order == "desc")
    return json_answer(
        encode(Premiums(ts=now, premiums=[one for _, one in found], missing=missing))
    )


def _premium(context: Context, found: Latest, now_ms: int) -> PremiumSummary:
    value, record = found.value, found.record
    fx_status: Any = record.fx_status
    usd_krw_status: Any = record.usd_krw_status
    stale = found.stale_reason(now_ms, context.stale_ms)
    coin = found.coin_premium
    reason: Any = None if coin is not None else record.reason or "no_regional_value"
    return PremiumSummary(
        asset=value.asset,
        ts=value.ts,
        age_ms=found.age_ms(now_ms),
        stale=stale is not None,
        stale_reason=stale,
        status=NO_VALUE if coin is None else "ok",
        reason=reason,
        kr=value.kr,
        gl=value.gl,
        fx=price(record.fx),
        fx_status=fx_status,
        usd_krw=price(record.usd_krw),
        usd_krw_status=usd_krw_status,
        usd_krw_source=record.usd_krw_source,
        premium=value.premium,
        day=None if coin is None else context.premium_days.day(value.asset, now_ms, coin),
    )


def at_hand(context: Context, path: str) -> bytes | None:
    """Return the body of `/v1/indices/{asset}` by its path, None = the route answers.

    This is the most frequent request, and the framework's part of its cost is 19 of 51 µs.
    """
    if not path.startswith(LATEST_PATH):
        return None
    latest = context.live.indices.get(path[len(LATEST_PATH) :])
    if latest is None or latest.value.asset not in context.settings.index.assets:
        return None
    return _body(context, latest)


def _body(context: Context, latest: Latest) -> bytes:
    return latest.body(context.now_ms(), context.stale_ms)


def _latest(context: Context, asset: str) -> Latest:
    asset = context.check_asset(asset)
    found = context.live.indices.get(asset)
    if found is None:
        raise retry_later("not-ready", f"no {asset} index value has arrived yet", 1)
    return found
