"""Aggregates in, one record per index and tick out; no socket, no event loop, no wall clock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from coinspace.clock import SECOND_NS, STEP_NS
from coinspace.config import IndexParameters
from coinspace.index.outage import Outage, milliseconds
from coinspace.index.published import Published
from coinspace.method.aggregate import COMPOSITE, Aggregate, FxFacts, GroupFacts, VenueFacts
from coinspace.method.composite import evaluate, explain
from coinspace.method.digits import rounded
from coinspace.method.filter import Candidate, VenueFilter
from coinspace.method.parameters import (
    CURRENCIES,
    INDEX_CURRENCY,
    METHOD_VERSION,
    make_curve,
    parameter_hash,
)
from coinspace.method.record import (
    ExecutableRecord,
    IndexRecord,
    InputRecord,
    LiquidityRecord,
    Valuation,
    VenueRecord,
)
from coinspace.method.reference import ReferenceFacts, fixed
from coinspace.method.siblings import (
    ASKS,
    BIDS,
    Average,
    average_price,
    confidence,
    executable,
    median_capped,
    premium,
)

REGIONS = tuple(CURRENCIES)
# sources of a constant USD/KRW: beside the books, and index.parameters.usd_krw
GIVEN, CONFIGURED = "given", "configuration"
# status of USD per USDT where no book gives it
ASSUMED = "assumed"
# missed ticks that are emitted at once; more of them would delay the live ticks
AT_ONCE = 50
# a longer outage means that the clock was wrong or is wrong now
LONGEST_OUTAGE_NS = 366 * 86_400 * SECOND_NS
# instants that int64 and the database can store, with a margin
LATEST_NS = 1 << 62


class Index:
    """One index: its parameters, its memory, and the curves of composite and regions."""

    def __init__(
        self,
        asset: str,
        parameters: IndexParameters,
        depths: Mapping[str, float] | None = None,
        *,
        interval_ns: int = 0,
    ) -> None:
        self.asset = asset
        self.parameters = parameters
        self.hash = parameter_hash(parameters, depths)
        self.filter = VenueFilter(parameters)
        self.averages = {name: Average(parameters) for name in (COMPOSITE, *REGIONS)}
        self.null_since_ns: int | None = None
        self.failed_after_ns = int(parameters.failed_s * SECOND_NS)
        self.last_ts_ns = 0
        self.interval_ns = interval_ns
        self.published = Published(interval_ns or SECOND_NS)
        self._curve = make_curve(parameters)
        self._region_curves = {region: make_curve(parameters) for region in REGIONS}
        self._names: list[str] = []
        # whether the curve is that of the last tick
        self._evaluated = False

    def compute(self, aggregate: Aggregate) -> IndexRecord:
        """Return the record of one tick."""
        p = self.parameters
        ts_ns = aggregate.ts_ns
        judged = self._judge(aggregate)
        reasons = judged | {one.name: one.reason for one in aggregate.venues if one.reason}
        used = [one for one in aggregate.venues if one.name not in reasons]
        self._names = [one.name for one in aggregate.venues]
        composite = self._composite(aggregate, used)
        regions = {region: self._region(region, aggregate, judged) for region in REGIONS}
        fx = aggregate.fx
        kr, gl = regions["KR"].value_raw, regions["GL"].value_raw
        raw = composite.value_raw
        usd_krw = self._usd_krw(aggregate)
        rate = fx.doubted if fx.rate is None else fx.rate
        dollar = aggregate.dollar
        usdt_usd = None if dollar is None else dollar.rate
        parts = premium(
            kr,
            gl,
            rate,
            None if usd_krw is None else usd_krw.rate,
            # without a market of it, a USDT counts as a USD
            1.0 if dollar is None else usdt_usd,
        )
        doubted = fx.rate is None or any(one.unjudged for one in regions.values())
        self.last_ts_ns = ts_ns
        return IndexRecord(
            asset=self.asset,
            ts_ms=milliseconds(ts_ns),
            status="null" if raw is None else self._status(aggregate, reasons),
            reason=composite.reason,
            value=None if raw is None else rounded(raw, p.decimals),
            value_raw=raw,
            value_full=composite.value_full,
            value_krw=None if raw is None or fx.rate is None else raw * fx.rate,
            best_bid=composite.best_bid,
            best_ask=composite.best_ask,
            fx=fx.rate,
            fx_status=fx.status,
            **_reference(usd_krw),
            usdt_usd=usdt_usd,
            usdt_usd_status=_dollar_status(dollar, usd_krw),
            value_usd=None if raw is None or usdt_usd is None else raw * usdt_usd,
            kr=kr,
            gl=gl,
            regions=regions,
            premium=parts.b,
            premium_parts=parts,
            premium_unjudged=None if parts.b is None else doubted,
            premium_executable=self._executable(aggregate, regions),
            fx_doubted=fx.doubted,
            median_capped=median_capped((one.mid or 0.0 for one in used), p.clamp),
            confidence=confidence(_prices(used)),
            twap=self.averages[COMPOSITE].update(ts_ns, raw),
            utilised_depth=composite.utilised_depth,
            rate=composite.rate,
            coverage_depth=composite.coverage_depth,
            depth_limited=composite.depth_limited,
            curve_end=composite.curve_end,
            size_cap=composite.size_cap,
            liquidity=self._liquidity() if raw is not None else [],
            flagged=sorted(self.filter.flags),
            fx_flagged=fx.flagged if dollar is None else [*fx.flagged, *dollar.flagged],
            split=self.filter.split,
            failed=self._failed(ts_ns, raw),
            method_version=METHOD_VERSION,
            parameter_hash=self.hash,
            venues=_venues(aggregate.venues, ts_ns, reasons, composite.shares, aggregate.groups),
            fx_venues=_rate_venues(aggregate),
            inputs=_inputs(aggregate),
        )

    def missed(self, first_ns: int, last_ns: int, step_ns: int) -> Outage:
        """Skip missed ticks, each a multiple of `step_ns`, and return them as an outage."""
        for average in self.averages.values():
            # one null is enough: it lasts until the next tick
            average.update(first_ns, None)
        self._failed(first_ns, None)
        self.last_ts_ns = last_ns
        return self.outage(
            (first_ns, last_ns, step_ns),
            sorted(self.filter.flags),
            self.filter.split,
            self.null_since_ns,
        )

    def outage(
        self, ticks: tuple[int, int, int], flagged: list[str], split: bool, null_ns: int | None
    ) -> Outage:
        """Return an outage.

        Args: ticks: first, last and their distance. flagged, split: the method's memory before.
            null_ns: since when the index has no value, None = since the first tick.
        """
        failed_ns = (null_ns or ticks[0]) + self.failed_after_ns
        return Outage(self.asset, *ticks, tuple(flagged), split, failed_ns, self.hash)

    def explain(self) -> dict[str, Any]:
        """Return the composite's curve of the last tick, level by level; empty without a curve."""
        if not self._evaluated:
            return {"curve": [], "bids": [], "asks": []}
        return explain(self._curve, self._names)

    def _usd_krw(self, aggregate: Aggregate) -> ReferenceFacts | None:
        # a constant replaces a missing rate, and is named as such
        found, constant = aggregate.reference, self.parameters.usd_krw
        if aggregate.usd_krw is not None:
            return fixed(aggregate.usd_krw, GIVEN)
        if constant is not None and (found is None or found.rate is None):
            return fixed(constant, CONFIGURED, 0 if found is None else found.heard_ns)
        return found

    def _judge(self, aggregate: Aggregate) -> dict[str, str]:
        candidates = [
            Candidate(
                one.name,
                one.region,
                one.quote,
                one.mid if one.reason is None else None,
                native_mid,
                one.changed_ns,
            )
            for one in aggregate.venues
            if (one.reason is None or (one.native and one.reason == "no_fx"))
            and (native_mid := one.native_mid) is not None
        ]
        return self.filter.apply(aggregate.ts_ns, candidates)

    def _composite(self, aggregate: Aggregate, used: list[VenueFacts]) -> Valuation:
        p = self.parameters
        by_region = p.regions == "default"
        self._evaluated = False
        if by_region and self.filter.split:
            return Valuation(INDEX_CURRENCY, reason="regime_split")
        present = {one.region for one in used}
        if len(used) < p.min_venues or (by_region and not present.issuperset(REGIONS)):
            return Valuation(INDEX_CURRENCY, reason="too_few_venues")
        self._evaluated = True
        return evaluate(
            self._curve, aggregate.ladders[COMPOSITE], self._names, {one.name for one in used}
        )

    def _region(self, region: str, aggregate: Aggregate, judged: Mapping[str, str]) -> Valuation:
        p = self.parameters
        currency = CURRENCIES[region]
        own = currency != INDEX_CURRENCY
        # a region in its own currency needs no rate
        usable = [
            one
            for one in aggregate.venues
            if one.region == region
            and one.quote == currency
            and judged.get(one.name) != "frozen"
            and (one.native if own else one.reason is None)
        ]
        used = [one for one in usable if one.name not in judged]
        # every venue of the region is suspect: in a crisis a marked value is better than none
        unjudged = not used and bool(usable)
        if unjudged:
            used = usable
        ladder = aggregate.ladders[currency if own else COMPOSITE]
        found = evaluate(
            self._region_curves[region], ladder, self._names, {one.name for one in used}, currency
        )
        mids = [mid for one in used if (mid := one.native_mid if own else one.mid) is not None]
        middle = median_capped(mids, p.clamp)
        raw = found.value_raw
        if raw is not None:
            found.value = rounded(raw, p.decimals)
            if middle is not None:
                found.alarm = abs(middle / raw - 1.0) > p.alarm
        found.single_source = len(used) == 1 if used else None
        found.unjudged = unjudged
        found.confidence = confidence(_prices(used, native=own))
        found.median_capped = middle
        found.twap = self.averages[region].update(aggregate.ts_ns, raw)
        return found

    def _status(self, aggregate: Aggregate, reasons: Mapping[str, str]) -> str:
        whole = not reasons and aggregate.fx.status not in ("held", "suspect")
        return "ok" if whole else "degraded"

    def _failed(self, ts_ns: int, raw: float | None) -> bool:
        if raw is not None:
            self.null_since_ns = None
            return False
        if self.null_since_ns is None or self.null_since_ns > ts_ns:
            self.null_since_ns = ts_ns
        return ts_ns - self.null_since_ns >= self.failed_after_ns

    def _liquidity(self) -> list[LiquidityRecord]:
        fees = self.parameters.taker_fees
        return [
            LiquidityRecord(
                size,
                average_price(self._curve, BIDS, size, self._names, fees),
                average_price(self._curve, ASKS, size, self._names, fees),
            )
            for size in self.parameters.sizes
        ]

    def _executable(
        self, aggregate: Aggregate, regions: Mapping[str, Valuation]
    ) -> list[ExecutableRecord]:
        rate = aggregate.fx.rate
        if rate is None or any(one.value_raw is None for one in regions.values()):
            return []
        fees = self.parameters.taker_fees
        return [
            executable(size, self._region_curves, self._names, fees, rate)
            for size in self.parameters.sizes
        ]


def _reference(found: ReferenceFacts | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {
        "usd_krw": found.rate,
        "usd_krw_status": found.status,
        "usd_krw_source": found.source,
        "usd_krw_observed_ns": found.observed_ns or None,
        "usd_krw_heard_ns": found.heard_ns or None,
    }


def _dollar_status(dollar: FxFacts | None, usd_krw: ReferenceFacts | None) -> str | None:
    if dollar is not None:
        return dollar.status
    return None if usd_krw is None else ASSUMED


class IndexCalculator:
    """All indices: aggregates in, records out through `emit`.

    A tick just before the last tick of its index, or equal to it, is dropped. Missed ticks are
    `not_computed`. A few missed ticks are emitted in their order. Many in a row are an outage,
    whose records `on_outage` has to store.

    A tick long before the last one means that the clock was set back. Ticks go on from there. The
    second record of an instant is marked `repeated` and must not be stored.

    Args:
        parameters_of: asset -> its parameters.
        emit: called with each record and its aggregate (None for a missed tick).
        interval_ns: distance of ticks; 0 = at each update, where no tick can be missed.
        intervals: asset -> the distance of its ticks, where it is not `interval_ns`.
        on_outage: called with each outage before any later record is emitted; None = outages are
            only counted.
        on_step: called when the clock was set, with the last tick before and the first one after.
        assets: the assets that have an index, None = any.
    """

    def __init__(
        self,
        parameters_of: Callable[[str], IndexParameters],
        emit: Callable[[IndexRecord, Aggregate | None], None],
        *,
        interval_ns: int = 0,
        intervals: Mapping[str, int] = MappingProxyType({}),
        depths: Mapping[str, float] | None = None,
        on_outage: Callable[[Outage], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        assets: Collection[str] | None = None,
    ) -> None:
        self.indices: dict[str, Index] = {}
        self.counts = {
            "ticks": 0,
            "nulls": 0,
            "late": 0,
            "not_computed": 0,
            "skipped": 0,
            "clock_steps": 0,
            "repeated": 0,
            "refused_aggregates": 0,
        }
        self._parameters_of = parameters_of
        self._emit = emit
        self._interval_ns = interval_ns
        self._intervals = intervals
        self._depths = dict(depths or {})
        self._on_outage = on_outage
        self._on_step = on_step
        self._assets = assets
        self._skipped_to_ns = 0

    def index(self, asset: str) -> Index:
        """Return the index of an asset, made at first use."""
        found = self.indices.get(asset)
        if found is None:
            found = self.indices[asset] = self.make(asset)
        return found

    def make(self, asset: str) -> Index:
        """Return a new index of an asset that takes no part in the ticks."""
        interval_ns = self._intervals.get(asset, self._interval_ns)
        return Index(asset, self._parameters_of(asset), self._depths, interval_ns=interval_ns)

    def on_aggregate(self, aggregate: Aggregate) -> None:
        """Compute one tick; a tick just before the last one is dropped and counted."""
        ts_ns = aggregate.ts_ns
        unknown = self._assets is not None and aggregate.asset not in self._assets
        if unknown or not 0 < ts_ns < LATEST_NS:
            self.counts["refused_aggregates"] += 1
            return
        index = self.index(aggregate.asset)
        if ts_ns <= index.last_ts_ns:
            if index.last_ts_ns - ts_ns < STEP_NS:
                self.counts["late"] += 1
                return
            self.set_back(ts_ns)
        if index.interval_ns and ts_ns - index.last_ts_ns > AT_ONCE * index.interval_ns:
            # the outage of every index is reported before the first record after it
            self._miss_all(ts_ns)
        self._miss(index, ts_ns)
        record = index.compute(aggregate)
        self.counts["ticks"] += 1
        self.counts["nulls"] += record.value is None
        if index.published.span(ts_ns) is not None:
            record.repeated = True
            self.counts["repeated"] += 1
        index.published.add(ts_ns)
        self._emit(record, aggregate)

    @property
    def last_ts_ns(self) -> int:
        """The latest tick of any index, 0 = none."""
        return max((index.last_ts_ns for index in self.indices.values()), default=0)

    @property
    def latest_published_ns(self) -> int:
        """The latest tick of any index that has a published record, 0 = none."""
        return max((index.published.last_ns for index in self.indices.values()), default=0)

    def set_back(self, ts_ns: int) -> None:
        """Go on with the tick at `ts_ns` after later ticks: the clock was set back."""
        latest_ns = self.last_ts_ns
        for index in self.indices.values():
            index.last_ts_ns = min(index.last_ts_ns, ts_ns - 1)
        self._stepped(latest_ns, ts_ns)

    def _stepped(self, last_ns: int, next_ns: int) -> None:
        self.counts["clock_steps"] += 1
        if self._on_step is not None:
            self._on_step(last_ns, next_ns)

    def on_time(self, due_ns: int) -> None:
        """Give up ticks without an aggregate up to and including `due_ns`."""
        self._miss_all(due_ns + self._interval_ns)

    def miss(self, asset: str, ts_ns: int) -> None:
        """Give up one tick: a replay repeats a tick that was missed live."""
        index = self.index(asset)
        self._emit_missed(index.missed(ts_ns, ts_ns, max(index.interval_ns, 1)))

    def _miss_all(self, before_ns: int) -> None:
        for index in self.indices.values():
            self._miss(index, before_ns)

    def _miss(self, index: Index, before_ns: int) -> None:
        step = index.interval_ns
        if not step or not index.last_ts_ns:
            return
        first = index.last_ts_ns // step * step + step
        last = (before_ns - 1) // step * step
        if first > last:
            return
        missed = index.missed(first, last, step)
        for first_ns, last_ns in index.published.free(first, last, step):
            self._give_up(replace(missed, first_ns=first_ns, last_ns=last_ns))

    def _give_up(self, outage: Outage) -> None:
        if len(outage) <= AT_ONCE:
            self._emit_missed(outage)
        elif outage.last_ns - outage.first_ns > LONGEST_OUTAGE_NS:
            self.counts["skipped"] += len(outage)
            if outage.last_ns != self._skipped_to_ns:
                # once for all indices
                self._skipped_to_ns = outage.last_ns
                self._stepped(outage.first_ns, outage.last_ns)
        elif self._on_outage is None:
            self.counts["skipped"] += len(outage)
        else:
            self.counts["not_computed"] += len(outage)
            self._on_outage(outage)

    def _emit_missed(self, outage: Outage) -> None:
        for record in outage.records(outage.first_ns):
            self.counts["not_computed"] += 1
            self._emit(record, None)


def _prices(used: list[VenueFacts], *, native: bool = False) -> list[tuple[float, float]]:
    return [
        (one.bid / rate, one.ask / rate)
        for one in used
        if one.bid is not None
        and one.ask is not None
        and (rate := 1.0 if native else one.fx) is not None
    ]


def _venues(
    venues: Iterable[VenueFacts],
    ts_ns: int,
    reasons: Mapping[str, str],
    shares: Mapping[str, float],
    groups: Mapping[str, GroupFacts] = MappingProxyType({}),
    *,
    native: bool = False,
) -> dict[str, VenueRecord]:
    return {
        one.name: VenueRecord(
            used=one.name not in reasons,
            reason=reasons.get(one.name),
            share=shares.get(one.name, 0.0),
            mid=one.native_mid if native else one.mid,
            age_ms=one.age_ms(ts_ns),
            grouped_from=groups[one.name].begin(one.native_mid) if one.name in groups else None,
        )
        for one in venues
    }


def _rate_venues(aggregate: Aggregate) -> dict[str, VenueRecord]:
    reasons, shares = aggregate.fx.reasons, aggregate.fx.shares
    if aggregate.dollar is not None:
        reasons = reasons | aggregate.dollar.reasons
        shares = shares | aggregate.dollar.shares
    return _venues(aggregate.fx_venues, aggregate.ts_ns, reasons, shares, native=True)


def _inputs(aggregate: Aggregate) -> dict[str, InputRecord]:
    return {
        one.name: InputRecord(
            publisher=one.publisher,
            epoch=one.epoch,
            sequence=one.sequence,
            received_ns=one.received_ns,
            changed_ns=one.changed_ns,
        )
        for one in (*aggregate.venues, *aggregate.fx_venues)
    }
