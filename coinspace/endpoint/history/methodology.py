"""The methodology in force, and every definition that was announced."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from coinspace.clock import MILLISECOND_NS
from coinspace.constituents import constituents_of
from coinspace.endpoint.context import Context
from coinspace.endpoint.models import Definition, Methodology
from coinspace.errors import StorageError
from coinspace.method.parameters import METHOD_VERSION, parameter_hash
from coinspace.storage.read import history

ANNOUNCED_LIMIT = 200


async def described(context: Context) -> Methodology:
    """Return the definitions; the current ones need no database."""
    index = context.settings.index
    announced: list[Definition] | None
    try:
        rows = await history.definitions(context.database, ANNOUNCED_LIMIT)
        announced = [_announced(row) for row in rows]
    except StorageError:
        announced = None
    # a pattern counts only for markets that the exchanges really offer
    offered = {f"{exchange}:{market}" for exchange, market in context.all_markets()}
    definitions = []
    for asset in index.assets:
        definitions.append(_in_force(context, asset, offered))
        # there may be hundreds
        await asyncio.sleep(0)
    return Methodology(
        interval_ms=index.interval_ms,
        grace_ms=index.grace_ms,
        definitions=definitions,
        announced=announced,
    )


def _in_force(context: Context, asset: str, offered: set[str]) -> Definition:
    parameters = context.settings.index.parameters_of(asset)
    return Definition(
        asset=asset,
        role="live",
        effective=None,
        method_version=str(METHOD_VERSION),
        parameter_hash=parameter_hash(parameters, context.depths),
        constituents=[one for one in constituents_of(context.settings, asset) if one in offered],
        parameters=parameters.model_dump(),
    )


def _announced(row: dict[str, Any]) -> Definition:
    definition = orjson.loads(row["definition"])
    return Definition(
        asset=row["asset"],
        role=row["role"],
        effective=row["ns"] // MILLISECOND_NS,
        method_version=str(definition["method_version"]),
        parameter_hash=definition["parameter_hash"],
        constituents=definition["constituents"],
        parameters=definition["parameters"],
    )
