"""One tick explained: from the live record and summed book, or from the stored rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint import history
from coinspace.endpoint.context import Context
from coinspace.endpoint.database import Database, Row
from coinspace.endpoint.live import Latest
from coinspace.endpoint.models import Explanation, Input
from coinspace.endpoint.records import constituents, index_value
from coinspace.endpoint.values import decimal, milliseconds
from coinspace.method.aggregate import COMPOSITE, decode
from coinspace.method.composite import evaluate, explain
from coinspace.method.parameters import make_curve

# more says nothing to a reader, and a request must not format ten thousand levels
CURVE_ROWS = 500


def live_explanation(context: Context, latest: Latest) -> Explanation:
    """Explain the newest tick, its curve included while its summed book is at hand."""
    record = latest.record
    return _explanation(record, live=True, curve=_curve(context, latest))


def _curve(context: Context, latest: Latest) -> dict[str, Any] | None:
    asset = latest.value.asset
    message = context.live.aggregates.get(asset)
    if message is None:
        return None
    aggregate = decode(message.payload)
    if aggregate.ts_ns // MILLISECOND_NS != latest.ts_ms or COMPOSITE not in aggregate.ladders:
        return None
    used = {one.venue for one in latest.value.constituents if one.used}
    names = [one.name for one in aggregate.venues]
    curve = make_curve(context.settings.index.parameters_of(asset))
    if not used or evaluate(curve, aggregate.ladders[COMPOSITE], names, used).value is None:
        return None
    return {
        part: [_decimals(row) for row in rows[:CURVE_ROWS]]
        for part, rows in explain(curve, names).items()
    }


def _decimals(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: decimal(one) if isinstance(one, float) else one for key, one in row.items()}


async def stored_explanation(database: Database, asset: str, at_ns: int) -> Explanation | None:
    """Explain the stored tick at or just before an instant; None where there is none."""
    row = await history.tick(database, asset, at_ns)
    if row is None:
        return None
    venues = await history.tick_venues(database, asset, row["ns"])
    return _explanation(stored_record(row, venues), live=False, curve=None)


def stored_record(row: Row, venues: list[Row]) -> dict[str, Any]:
    """Return the record that a tick's rows were made of."""
    siblings = orjson.loads(row["siblings"] or b"{}")
    tables: dict[str, dict[str, Any]] = {"constituent": {}, "fx": {}}
    inputs = {}
    for one in venues:
        tables[one["role"]][one["venue"]] = one
        inputs[one["venue"]] = {
            "publisher": one["publisher"],
            "epoch": one["epoch"],
            "sequence": one["seq"],
            "received_ns": one["received_ns"],
        }
    return {
        **row,
        **siblings,
        "ts_ms": row["ns"] // MILLISECOND_NS,
        "status": row["status"] or "null",
        "venues": tables["constituent"],
        "fx_venues": tables["fx"],
        "flagged": [name for name in (row["flagged"] or "").split(",") if name],
        "inputs": inputs,
    }


def _explanation(
    record: Mapping[str, Any], *, live: bool, curve: dict[str, Any] | None
) -> Explanation:
    value = index_value(record)
    inputs = {
        name: Input(
            publisher=one["publisher"] or None,
            # beyond 2^53, where a JSON number loses digits in many readers
            epoch=str(one["epoch"]),
            sequence=str(one["sequence"]),
            received=milliseconds(one["received_ns"]),
        )
        for name, one in (record.get("inputs") or {}).items()
    }
    return Explanation(
        index=value,
        used=[one for one in value.constituents if one.used],
        excluded=[one for one in value.constituents if not one.used],
        fx_venues=constituents(record.get("fx_venues")),
        flagged=list(record.get("flagged") or ()),
        inputs=inputs,
        curve=curve,
        live=live,
    )
