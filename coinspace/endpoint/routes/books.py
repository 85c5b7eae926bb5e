"""`/v1/orderbooks…`: the summed book, and single venues' books now or at a past instant."""

from __future__ import annotations

from typing import Annotated

from blacksheep.messages import Request, Response
from msgspec import Meta, Struct

from coinspace.endpoint.api import Api, encode, json_answer
from coinspace.endpoint.books import consolidated
from coinspace.endpoint.context import Context
from coinspace.endpoint.models import ConsolidatedBook
from coinspace.endpoint.problem import retry_later
from coinspace.endpoint.routes.indices import Asset

Levels = Annotated[int, Meta(ge=1, le=1000, description="levels per side")]


class ConsolidatedQuery(Struct, forbid_unknown_fields=True):
    """An asset's summed book."""

    asset: Asset
    levels: Levels = 50


def add(api: Api, context: Context) -> None:
    """Register the routes."""

    @api.get(
        "/v1/orderbooks/{asset}",
        ConsolidatedQuery,
        answer=ConsolidatedBook,
        tag="books",
        problems=("unknown-asset", "not-ready"),
    )
    async def orderbook(request: Request, parameters: ConsolidatedQuery) -> Response:
        """The book summed over all live venues, in index currency, with each venue's sizes."""
        asset = context.check_asset(parameters.asset)
        book = consolidated(context, asset, parameters.levels)
        if book is None:
            raise retry_later("not-ready", f"no summed book of {asset} has arrived yet", 1)
        return json_answer(encode(book))
