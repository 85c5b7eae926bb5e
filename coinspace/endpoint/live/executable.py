"""The premium after fees when a size is traded, on the newest summed book."""

from __future__ import annotations

from coinspace.endpoint.context import Context
from coinspace.endpoint.live.state import Latest
from coinspace.endpoint.models import ExecutablePremium
from coinspace.endpoint.shown import show
from coinspace.method import siblings
from coinspace.method.aggregate import COMPOSITE
from coinspace.method.composite import evaluate
from coinspace.method.parameters import CURRENCIES, INDEX_CURRENCY, make_curve


def executable(context: Context, latest: Latest, size: float) -> ExecutablePremium | None:
    """Return the premium of both directions at a size; None without a summed book or a rate.

    A direction is null when the books are too thin for the size. The venues are those that the
    newest record used.
    """
    summed = context.live.aggregate(latest.value.asset)
    if summed is None:
        return None
    _, aggregate = summed
    parameters = context.settings.index.parameters_of(aggregate.asset)
    names = [one.name for one in aggregate.venues]
    curves = {}
    for region, currency in CURRENCIES.items():
        found = (latest.record.regions or {}).get(region)
        ladder = aggregate.ladders.get(COMPOSITE if currency == INDEX_CURRENCY else currency)
        curve = curves[region] = make_curve(parameters)
        if found is None or ladder is None:
            return None
        if evaluate(curve, ladder, names, set(found.shares), currency).value_raw is None:
            return None
    if not aggregate.fx.rate:
        return None
    left = siblings.executable(size, curves, names, parameters.taker_fees, aggregate.fx.rate)
    return show(ExecutablePremium, left)
