"""Venues, health of the processes, metrics: what the platform says about itself."""

from __future__ import annotations

from blacksheep.contents import Content
from blacksheep.messages import Request, Response

from coinspace.endpoint.api import Api, Nothing, encode, json_answer
from coinspace.endpoint.context import Context
from coinspace.endpoint.health import PROMETHEUS, exposition, processes
from coinspace.endpoint.models import Liveness, Pipeline, Readiness, Venues
from coinspace.endpoint.problem import Problem
from coinspace.endpoint.venues import venues as all_venues

READY_RETRY_S = "1"


def reasons(context: Context) -> list[str]:
    """Return why the endpoint cannot serve live values; empty when it can."""
    found = []
    now = context.now_ms()
    for asset in context.settings.index.assets:
        latest = context.live.indices.get(asset)
        if latest is None:
            found.append(f"no {asset} index value has arrived")
        elif latest.age_ms(now) > context.stale_ms:
            found.append(f"the {asset} index is {latest.age_ms(now)} ms old")
    if context.database.error is not None:
        found.append("the database cannot be reached")
    return found


def add(api: Api, context: Context) -> None:
    """Register the routes."""

    @api.get("/v1/venues", Nothing, answer=Venues, tag="platform")
    async def venues(request: Request, _: None) -> Response:
        """Every venue: state and reason, age of its book, share in the index."""
        return json_answer(encode(all_venues(context)))

    @api.get("/v1/pipeline", Nothing, answer=Pipeline, tag="platform")
    async def pipeline(request: Request, _: None) -> Response:
        """Every process of the platform with its state and counters."""
        return json_answer(encode(processes(context)))

    @api.get("/livez", Nothing, answer=Liveness, tag="platform", public=True)
    async def livez(request: Request, _: None) -> Response:
        """The process answers."""
        return json_answer(b'{"state":"ok"}')

    @api.get(
        "/readyz", Nothing, answer=Readiness, tag="platform", problems=("not-ready",), public=True
    )
    async def readyz(request: Request, _: None) -> Response:
        """Whether live values are served: 503 with the reasons when not."""
        found = reasons(context)
        if found:
            raise Problem(
                "not-ready",
                "; ".join(found),
                headers={"Retry-After": READY_RETRY_S},
                state="degraded",
                reasons=found,
            )
        return json_answer(encode(Readiness("ready", [])))

    @api.get("/metrics", Nothing, tag="platform", media=(PROMETHEUS,))
    async def metrics(request: Request, _: None) -> Response:
        """Counters of all processes as Prometheus reads them."""
        body = exposition(context).encode()
        content = Content(PROMETHEUS.encode(), body)
        return Response(200, [(b"cache-control", b"no-store")], content)
