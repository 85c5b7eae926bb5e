"""Several venues at one tick -> one aggregate: facts, composite ladder, regional ladders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coinspace._ext.ladder import Ladder
from coinspace.aggregator.venue import Venue
from coinspace.method.aggregate import COMPOSITE, Aggregate, FxFacts, VenueFacts
from coinspace.method.parameters import CURRENCIES, FX_CURRENCY, INDEX_CURRENCY
from coinspace.method.reference import ReferenceFacts


class Consolidator:
    """Merges the books of one asset's venues; its ladders reuse their memory between ticks.

    Borrowed: the next aggregate overwrites the ladders of the last one.
    """

    def __init__(self, asset: str) -> None:
        self.asset = asset
        self._composite = Ladder()
        self._native = {
            currency: Ladder() for currency in CURRENCIES.values() if currency != INDEX_CURRENCY
        }

    def consolidate(
        self,
        ts_ns: int,
        venues: list[Venue],
        fx: FxFacts,
        lag_ns: int,
        *,
        rates: Mapping[str, float | None] | None = None,
        usd_krw: float | None = None,
        reference: ReferenceFacts | None = None,
        dollar: FxFacts | None = None,
        fx_venues: Sequence[VenueFacts] = (),
    ) -> Aggregate:
        """Return the aggregate of one tick.

        Args:
            venues: in the order of their names.
            rates: venue -> units of quote per unit of index currency; replaces the FX rate.
            usd_krw: KRW per USD given beside the books. reference: of the sources of USD/KRW.
            dollar: USD per USDT. fx_venues: the venues of both rates.
        """
        given = rates or {}
        facts = [
            venue.facts(
                ts_ns,
                lag_ns,
                given[venue.name] if venue.name in given else rate_of(venue.market.quote, fx.rate),
            )
            for venue in venues
        ]
        self._composite.merge(
            [
                venue.book if one.reason is None else None
                for venue, one in zip(venues, facts, strict=True)
            ],
            [one.fx or 1.0 for one in facts],
        )
        ladders = {COMPOSITE: self._composite}
        for currency, ladder in self._native.items():
            ladder.merge(
                [
                    venue.book
                    if one.native and one.quote == currency == CURRENCIES.get(one.region)
                    else None
                    for venue, one in zip(venues, facts, strict=True)
                ],
                [1.0] * len(venues),
            )
            ladders[currency] = ladder
        return Aggregate(
            self.asset,
            ts_ns,
            facts,
            fx,
            ladders,
            usd_krw,
            list(fx_venues),
            reference=reference,
            dollar=dollar,
            groups={one.name: one.groups for one in venues if one.groups is not None},
        )


def rate_of(quote: str, krw_per_usdt: float | None) -> float | None:
    """Return the units of a quote currency per unit of index currency, None = no rate."""
    if quote == INDEX_CURRENCY:
        return 1.0
    return krw_per_usdt if quote == FX_CURRENCY else None
