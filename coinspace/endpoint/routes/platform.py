"""The platform's own state: venues, gaps, methodology, health of the processes, metrics."""

from __future__ import annotations

from typing import Annotated, Any

from blacksheep.contents import Content
from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.endpoint.context import Context
from coinspace.endpoint.history.methodology import described
from coinspace.endpoint.history.ranges import next_link, span
from coinspace.endpoint.http.api import Nothing, Routes, encode, json_answer
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.health import host_metrics, platform_problems, processes
from coinspace.endpoint.live.venues import venues as all_venues
from coinspace.endpoint.models import (
    Gap,
    GapKind,
    GapPage,
    GapStatus,
    Liveness,
    Methodology,
    Pipeline,
    Readiness,
    Venues,
)
from coinspace.endpoint.routes.history import READ, Cursor, Limit
from coinspace.endpoint.values import Instant, decode_cursor, encode_cursor, milliseconds
from coinspace.market import as_named
from coinspace.metrics import CONTENT_TYPE
from coinspace.storage.read import history

routes = Routes()

READY_RETRY_S = "1"
# example of an answer
METRICS = (
    "# HELP coinspace_requests_total Requests.\n# TYPE coinspace_requests_total counter\n"
    'coinspace_requests_total{process="index-endpoint"} 81234\n'
)
DAY_MS = 24 * 3600 * 1000


class GapsQuery(Struct, forbid_unknown_fields=True):
    """The gaps to list."""

    exchange: Annotated[str, Meta(max_length=40)] | None = None
    market: Annotated[str, Meta(max_length=41)] | None = None
    kind: GapKind | None = None
    status: GapStatus | None = None
    start: Instant | None = None
    end: Instant | None = None
    limit: Limit = 100
    cursor: Cursor | None = None


def gap(row: dict[str, Any]) -> Gap:
    """Convert a stored row."""
    return Gap(
        ts=row["ns"] // 1_000_000,
        publisher=row["publisher"] or "",
        exchange=row["exchange"],
        market=row["market"],
        kind=row["kind"],
        status=row["status"],
        reason=row["reason"],
        first=row["first"] or 0,
        last=row["last"] or 0,
        count=row["count"] or 0,
        closed=milliseconds(row["closed"]),
    )


def reasons(context: Context) -> list[str]:
    """Return why the endpoint cannot serve live values; empty when it can."""
    found = []
    now = context.now_ms()
    for asset in context.settings.index.assets:
        latest = context.live.indices.get(asset)
        if latest is None:
            found.append(f"no {asset} index value has arrived")
        elif problem := latest.problem(now, context.stale_ms):
            found.append(problem)
        elif latest.failed(context.settings.index.parameters_of(asset).failed_s):
            found.append(
                f"the {asset} index has no value ({latest.record.reason}):"
                " see its venues in /v1/venues and the collectors in `coinspace status`"
            )
    if context.database.error is not None:
        found.append("the database cannot be reached")
    return found


@routes.get("/v1/venues", Nothing, answer=Venues, tag="platform")
async def venues(context: Context, request: Request, _: None) -> Response:
    """Every venue: state and reason, age of its book, share in the index."""
    return json_answer(encode(all_venues(context)))


@routes.get(
    "/v1/gaps",
    GapsQuery,
    answer=GapPage,
    tag="platform",
    problems=("unknown-market", *READ, "invalid-cursor"),
)
async def gaps(context: Context, request: Request, query: GapsQuery) -> Response:
    """Detected losses and outages in [start, end), newest first; by default of the last day."""
    if query.exchange is not None:
        query.exchange = context.check_exchange(query.exchange)
    if query.market is not None:
        query.market = as_named(query.market)
    start, end = span(query.start, query.end, context.now_ms(), DAY_MS)
    last_ns, skipped = history.ns(end), 0
    if query.cursor is not None:
        # several gaps can have the same time: the cursor counts those already shown
        last_ns, skipped = decode_cursor(query.cursor, 2)
        last_ns, skipped = min(last_ns + 1, history.ns(end)), min(skipped, 10_000)
    where = {
        name: value
        for name in ("exchange", "market", "kind", "status")
        if (value := getattr(query, name)) is not None
    }
    rows = await history.gaps(
        context.database, where, history.ns(start), last_ns, query.limit + 1 + skipped
    )
    rows = rows[skipped:]
    shown, cursor = rows[: query.limit], None
    if len(rows) > query.limit:
        newest = shown[-1]["ns"]
        same = sum(1 for row in shown if row["ns"] == newest)
        if last_ns == newest + 1:
            same += skipped
        cursor = encode_cursor(newest, same)
    link = next_link("/v1/gaps", cursor, **where, start=start, end=end, limit=query.limit)
    return json_answer(encode(GapPage([gap(row) for row in shown], cursor, link)))


@routes.get("/v1/methodology", Nothing, answer=Methodology, tag="platform")
async def methodology(context: Context, request: Request, _: None) -> Response:
    """How the indices are computed: parameters, their hash, constituents, earlier definitions.

    `announced` is null while the database cannot be read.
    """
    return json_answer(encode(await described(context)))


@routes.get("/v1/pipeline", Nothing, answer=Pipeline, tag="platform", operator=True)
async def pipeline(context: Context, request: Request, _: None) -> Response:
    """Every process of the platform with its state and counters."""
    return json_answer(encode(processes(context)))


@routes.get("/livez", Nothing, answer=Liveness, tag="platform")
async def livez(context: Context, request: Request, _: None) -> Response:
    """The process answers."""
    return json_answer(b'{"state":"ok"}')


@routes.get("/readyz", Nothing, answer=Readiness, tag="platform", problems=("not-ready",))
async def readyz(context: Context, request: Request, _: None) -> Response:
    """Whether live values are served and stored; 503 with reasons and remedies if not."""
    found = reasons(context) + platform_problems(context)
    if found:
        raise Problem(
            "not-ready",
            "; ".join(found),
            headers={"Retry-After": READY_RETRY_S},
            state="degraded",
            reasons=found,
        )
    return json_answer(encode(Readiness("ready", [])))


@routes.get(
    "/metrics",
    Nothing,
    tag="platform",
    media=(CONTENT_TYPE,),
    examples={CONTENT_TYPE: METRICS},
    operator=True,
)
async def metrics(context: Context, request: Request, _: None) -> Response:
    """Metrics of all processes of this host in Prometheus' format."""
    content = Content(CONTENT_TYPE.encode(), host_metrics(context))
    return Response(200, [(b"cache-control", b"no-store")], content)
