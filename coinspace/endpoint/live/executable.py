"""The premium after fees when a size is traded, on the newest summed book."""

from __future__ import annotations

from coinspace.endpoint.context import Context
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import ExecutablePremium
from coinspace.endpoint.shown import show
from coinspace.method.aggregate import COMPOSITE, Aggregate, decode
from coinspace.method.composite import evaluate
from coinspace.method.parameters import CURRENCIES, INDEX_CURRENCY, make_curve
from coinspace.method.record import ExecutableRecord
from coinspace.method.siblings import ASKS, BIDS, average_price, excess


def executable(context: Context, latest: Latest, size: float) -> ExecutablePremium | None:
    """Return the premium of both directions at a size; None without a summed book or a rate.

    A direction is null when the books are too thin for the size. The venues are those that the
    newest record used.
    """
    message = context.live.aggregates.get(latest.value.asset)
    if message is None:
        return None
    aggregate = decode(message.payload)
    rate = aggregate.fx.rate
    kr, gl = (_prices(context, latest, aggregate, region, size) for region in ("KR", "GL"))
    if not rate or kr is None or gl is None:
        return None
    left = ExecutableRecord(
        size,
        excess(kr[BIDS], gl[ASKS], rate),
        excess(kr[ASKS], gl[BIDS], rate),
    )
    return show(ExecutablePremium, left)


def _prices(
    context: Context, latest: Latest, aggregate: Aggregate, region: str, size: float
) -> tuple[float | None, float | None] | None:
    # average prices to sell and to buy in the region's currency, after fees
    found = (latest.record.regions or {}).get(region)
    used = set(found.shares) if found is not None else set()
    currency = CURRENCIES[region]
    ladder = aggregate.ladders.get(COMPOSITE if currency == INDEX_CURRENCY else currency)
    if ladder is None or not used:
        return None
    parameters = context.settings.index.parameters_of(aggregate.asset)
    names = [one.name for one in aggregate.venues]
    curve = make_curve(parameters)
    if evaluate(curve, ladder, names, used, currency).value_raw is None:
        return None
    bid, ask = (
        average_price(curve, side, size, names, parameters.taker_fees) for side in (BIDS, ASKS)
    )
    return bid, ask
