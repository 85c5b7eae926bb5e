"""One tick explained: from the live record and summed book, or from the stored rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.history import curve
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import Explanation, Input, PriceVolumeCurve
from coinspace.endpoint.records import constituents, index_value
from coinspace.endpoint.values import milliseconds
from coinspace.storage.read import history
from coinspace.storage.read.pool import Row


def live_explanation(context: Context, latest: Latest) -> Explanation:
    """Explain the newest tick, its curve included while its summed book is at hand."""
    try:
        found = curve.of_live(context, latest)
    except curve.Missing as missing:
        return _explanation(latest.record, live=True, reason=str(missing))
    return _explanation(latest.record, live=True, found=found)


async def stored_explanation(context: Context, asset: str, at_ns: int) -> Explanation | None:
    """Explain the stored tick at or just before an instant; None where there is none."""
    row = await history.tick(context.database, asset, at_ns)
    if row is None:
        return None
    venues = await history.tick_venues(context.database, asset, row["ns"])
    record = stored_record(row, venues)
    own = [one for one in venues if one["role"] == "constituent"]
    try:
        found = await curve.of_stored(context, row, own)
    except curve.Missing as missing:
        return _explanation(record, live=False, reason=str(missing))
    return _explanation(record, live=False, found=found)


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
    record: Mapping[str, Any],
    *,
    live: bool,
    found: PriceVolumeCurve | None = None,
    reason: str | None = None,
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
        curve=found,
        curve_reason=reason,
        live=live,
    )
