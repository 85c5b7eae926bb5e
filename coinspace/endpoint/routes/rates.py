"""`/v1/usd-krw`: the rate of the premium against USD, and what each source says."""

from __future__ import annotations

from typing import Any

from blacksheep.messages import Request, Response

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import Nothing, Routes, encode, json_answer
from coinspace.endpoint.http.problem import retry_later
from coinspace.endpoint.models import RateQuotation, UsdKrw
from coinspace.endpoint.values import price
from coinspace.method.reference import Quotation

routes = Routes()


@routes.get("/v1/usd-krw", Nothing, answer=UsdKrw, tag="indices", problems=("not-ready",))
async def usd_krw(context: Context, request: Request, _: None) -> Response:
    """USD/KRW as the newest index records use it, with its source, status and age.

    `sources` has the last quotation of each source that answers, in order of trust. The rate is
    null when they are too old, or when they differ and nothing confirms one of them.
    """
    live = context.live
    newest = max((one.record for one in live.indices.values()), key=_time, default=None)
    if newest is None or newest.usd_krw_status is None:
        raise retry_later("not-ready", "no index record with USD/KRW has arrived yet", 1)
    now_ms = context.now_ms()
    observed_ms = (newest.usd_krw_observed_ns or 0) // MILLISECOND_NS or None
    status: Any = newest.usd_krw_status
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
