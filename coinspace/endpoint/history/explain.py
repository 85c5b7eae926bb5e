"""One tick explained: from the live record and summed book, or from the stored rows."""

from __future__ import annotations

from collections.abc import Awaitable

from coinspace.endpoint.context import Context
from coinspace.endpoint.history import curve
from coinspace.endpoint.http.problem import Problem
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import Explanation, Input, PriceVolumeCurve
from coinspace.endpoint.records import constituents, index_value
from coinspace.endpoint.shown import show
from coinspace.method.record import IndexRecord
from coinspace.storage.read import history
from coinspace.storage.records import CONSTITUENT, read_record

# characters of the text about a damaged row
DAMAGE_LIMIT = 300


async def live_explanation(context: Context, latest: Latest) -> Explanation:
    """Explain the newest tick, with its curve while its summed book is the newest, too."""
    return explanation(latest.record, *await _found(curve.of_live(context, latest)), live=True)


async def stored_explanation(context: Context, asset: str, at_ns: int) -> Explanation | None:
    """Explain the stored tick at or just before an instant; None without such a tick."""
    row = await history.tick(context.database, asset, at_ns)
    if row is None:
        return None
    venues = await history.tick_venues(context.database, asset, row["ns"])
    own = [one for one in venues if one["role"] == CONSTITUENT]
    try:
        record = read_record(row, row["ns"], venues)
        found, reason = await _found(curve.of_stored(context, row, own))
        return explanation(record, found, reason, live=False)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # someone has changed a row
        text = f"the {asset} tick of that time is damaged: {error!r}"
        raise Problem("no-data", text[:DAMAGE_LIMIT]) from None


async def _found(
    work: Awaitable[PriceVolumeCurve],
) -> tuple[PriceVolumeCurve | None, str | None]:
    try:
        return await work, None
    except curve.Missing as missing:
        return None, str(missing)


def explanation(
    record: IndexRecord, found: PriceVolumeCurve | None, reason: str | None, *, live: bool
) -> Explanation:
    value = index_value(record)
    return Explanation(
        index=value,
        used=[one for one in value.constituents if record.venues[one.venue].used],
        excluded=[one for one in value.constituents if not record.venues[one.venue].used],
        fx_venues=constituents(record.fx_venues),
        flagged=record.flagged,
        inputs={name: show(Input, one) for name, one in record.inputs.items()},
        curve=found,
        curve_reason=reason,
        live=live,
    )
