"""`/v1/usd-krw`: the rate of the premium against USD, and what each source says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.history.ranges import next_link, span
from coinspace.endpoint.http.api import Nothing, Routes, encode, json_answer
from coinspace.endpoint.http.problem import retry_later
from coinspace.endpoint.models import QuotationPage, RateQuotation, StoredQuotation, UsdKrw
from coinspace.endpoint.routes.history import READ, Cursor, Limit
from coinspace.endpoint.values import Instant, decode_cursor, encode_cursor, price
from coinspace.method.reference import NONE, Quotation
from coinspace.storage.read import history

routes = Routes()

DAY_MS = 24 * 3600 * 1000


class QuotationsQuery(Struct, forbid_unknown_fields=True):
    """The quotations to list."""

    source: Annotated[str, Meta(max_length=40, examples=["dunamu"])] | None = None
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


@routes.get("/v1/usd-krw", Nothing, answer=UsdKrw, tag="indices", problems=("not-ready",))
async def usd_krw(context: Context, request: Request, _: None) -> Response:
    """USD/KRW as the newest index records use it, with its source, status and age.

    `sources` has the last quotation of each source that answers, in order of trust. The rate is
    null when they are too old, or when they differ and nothing confirms one of them.
    """
    live = context.live
    newest = max((one.record for one in live.indices.values()), key=_time, default=None)
    if newest is None:
        raise retry_later("not-ready", "no index record has arrived yet", 1)
    now_ms = context.now_ms()
    observed_ms = (newest.usd_krw_observed_ns or 0) // MILLISECOND_NS or None
    status: Any = newest.usd_krw_status or NONE
    quoted = (live.quotations.get(name) for name in context.settings.rates.sources)
    return json_answer(
        encode(
            UsdKrw(
                ts=int(newest.ts_ms),
                rate=price(newest.usd_krw),
                status=status,
                source=newest.usd_krw_source,
                observed=observed_ms,
                age_ms=None if observed_ms is None else now_ms - observed_ms,
                sources=[_quotation(one, now_ms) for one in quoted if one is not None],
            )
        )
    )


@routes.get(
    "/v1/usd-krw/quotations",
    QuotationsQuery,
    answer=QuotationPage,
    tag="indices",
    problems=(*READ, "invalid-cursor"),
)
async def quotations(context: Context, request: Request, query: QuotationsQuery) -> Response:
    """What the sources of USD/KRW said in [start, end), newest first; by default of a day."""
    start, end = span(query.start, query.end, context.now_ms(), DAY_MS)
    before_ns = history.ns(end)
    if query.cursor is not None:
        # two quotations are never received in the same ns
        before_ns = min(before_ns, *decode_cursor(query.cursor, 1))
    rows = await history.quotations(
        context.database, query.source, history.ns(start), before_ns, query.limit + 1
    )
    shown, cursor = rows[: query.limit], None
    if len(rows) > query.limit:
        cursor = encode_cursor(shown[-1]["ns"])
    path, given = "/v1/usd-krw/quotations", {"source": query.source, "limit": query.limit}
    link = next_link(path, cursor, **given, start=start, end=end)
    page = QuotationPage(quotations=[_stored(row) for row in shown], cursor=cursor, next=link)
    return json_answer(encode(page))


def _stored(row: Mapping[str, Any]) -> StoredQuotation:
    return StoredQuotation(
        source=row["exchange"],
        rate=price(row["rate"]) or "0",
        daily=bool(row["daily"]),
        observed=row["observed_ns"] // MILLISECOND_NS,
        received=row["ns"] // MILLISECOND_NS,
    )


def _time(record: Any) -> float:
    return float(record.ts_ms)


def _quotation(one: Quotation, now_ms: int) -> RateQuotation:
    observed_ms = one.observed_ns // MILLISECOND_NS
    return RateQuotation(
        source=one.source,
        rate=price(one.rate) or "0",
        daily=one.daily,
        observed=observed_ms,
        received=one.received_ns // MILLISECOND_NS,
        age_ms=now_ms - observed_ms,
    )
