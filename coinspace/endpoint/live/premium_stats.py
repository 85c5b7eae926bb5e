"""Is a premium unusual? Statistics of every asset's premium on both bases, from live records.

Premiums are sampled by 5 s for the changes of minutes, by the minute for 1 h and 24 h, and by the
hour for 7, 30 and 90 days. At the start the stored premiums fill in the time before. A request
then reads memory alone. An asset needs 90 KB on both bases, 205 KB if its premium rose for 90 days
without a pause: 23 to 54 MB for 264 assets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from coinspace._ext.message import INDEX, Message
from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.live.age import FUTURE_MS
from coinspace.endpoint.live.premium_samples import UNIT, Samples, Statistics, units
from coinspace.endpoint.live.same_coin import is_questioned
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.models import (
    Basis,
    BasisStatistics,
    PremiumDay,
    PremiumMoves,
    Stretch,
    WindowStatistics,
)
from coinspace.endpoint.values import ratio
from coinspace.errors import StorageError
from coinspace.storage.read import history
from coinspace.storage.read.pool import Database, Row

SECONDS_MS, MINUTE_MS, HOUR_MS = 5000, 60_000, 3_600_000
# 1e-6 is 0.0001 percentage points
CHANGE_PLACES, SHARE_PLACES, Z_PLACES = 6, 4, 4
# window -> its length in steps
MINUTES: dict[Stretch, int] = {"1h": 60, "24h": 1440}
HOURS: dict[Stretch, int] = {"7d": 168, "30d": 720, "90d": 2160}
WINDOWS: tuple[Stretch, ...] = (*MINUTES, *HOURS)
# points of a day's curve, and minutes of each
POINTS, POINT = 48, 30
BASES: tuple[Basis, ...] = ("coin", "fiat")
# the asset whose premium is that of USDT against USD; it has no coin basis
USDT = "USDT"
# without a database the next attempt follows after this time
RETRY_S = 10.0


class Series:
    """The premium of one asset on one basis."""

    def __init__(self) -> None:
        self.now: int | None = None
        self.seconds = Samples(SECONDS_MS, (), 5 * MINUTE_MS // SECONDS_MS)
        self.minutes = Samples(MINUTE_MS, tuple(MINUTES.values()), MINUTES["24h"])
        self.hours = Samples(HOUR_MS, tuple(HOURS.values()), HOURS["90d"])
        self.sampled = (self.seconds, self.minutes, self.hours)
        self._windows = {
            window: (samples, one)
            for samples, windows in ((self.minutes, MINUTES), (self.hours, HOURS))
            for window, one in zip(windows, samples.windows, strict=True)
        }

    def add(self, ts_ms: int, premium: float | None, *, void: bool = False) -> None:
        """Take the premium of a record, None = it has none.

        Args: void: its steps have no sample until another premium comes.
        """
        self.now = None if void else units(premium)
        for one in self.sampled:
            one.add(ts_ms, self.now, void=void)

    @property
    def premium(self) -> str | None:
        """The premium of the newest record."""
        return None if self.now is None else ratio(self.now / UNIT)

    def _change(self, samples: Samples, back: int) -> str | None:
        before = samples.at(back)
        if self.now is None or before is None:
            return None
        return ratio(round((self.now - before) / UNIT, CHANGE_PLACES))

    def changes(self) -> tuple[str | None, ...]:
        """Return the changes over 1 m, 5 m, 1 h and 24 h, as fractions."""
        return (
            self._change(self.seconds, MINUTE_MS // SECONDS_MS),
            self._change(self.seconds, 5 * MINUTE_MS // SECONDS_MS),
            self._change(self.minutes, 60),
            self._change(self.minutes, MINUTES["24h"]),
        )

    def moves(self) -> PremiumMoves:
        """Return the changes, and the percentile of each window."""
        now = self.now
        if now is None:
            return PremiumMoves(*[None] * (4 + len(WINDOWS)))
        shares = (window.percentile(now) for _, window in self._windows.values())
        return PremiumMoves(*self.changes(), *(_share(one) for one in shares))

    def statistics(self, window: Stretch) -> Statistics:
        """Return the statistics of a window."""
        samples, found = self._windows[window]
        # after a step of the clock backwards, the running step is not that of the newest record
        running = samples.at(0) if self.now is None else self.now
        return found.statistics(running, current=self.now is not None)

    def all(self) -> BasisStatistics:
        """Return everything that is known of the premium."""
        now = self.now
        change_1m, change_5m, change_1h, change_24h = self.changes()
        return BasisStatistics(
            premium=self.premium,
            change_1m=change_1m,
            change_5m=change_5m,
            change_1h=change_1h,
            change_24h=change_24h,
            as_high_ts=None if now is None else self._reached(now, high=True),
            as_low_ts=None if now is None else self._reached(now, high=False),
            windows=[self._shown(one) for one in WINDOWS],
        )

    def _reached(self, now: int, *, high: bool) -> int | None:
        found = self.minutes.reached(now, high=high)
        return self.hours.reached(now, high=high) if found is None else found

    def _shown(self, window: Stretch) -> WindowStatistics:
        found = self.statistics(window)
        return WindowStatistics(
            window=window,
            samples=found.samples,
            of=(MINUTES | HOURS)[window],
            percentile=_share(found.percentile),
            mean=ratio(found.mean),
            deviation=ratio(found.deviation),
            z=None if found.z is None else ratio(round(found.z, Z_PLACES)),
            high=ratio(found.high),
            low=ratio(found.low),
        )

    def day(self) -> PremiumDay | None:
        """Return the range of the last 24 h; None when nothing is known of it."""
        found = self.statistics("24h")
        if not found.samples or found.percentile is None:
            return None
        return PremiumDay(
            high=ratio(found.high),
            low=ratio(found.low),
            percentile=_share(found.percentile),
            minutes=found.samples,
        )

    def curve(self) -> list[float | None]:
        """Return the last premium of each half hour of the last 24 h, oldest first."""
        # half hours of the clock: the last one is the running one
        running = (self.minutes.newest or 0) % POINT + 1
        spans = [POINT] * (POINTS - 1) + [running]
        return [None if one is None else one / UNIT for one in self.minutes.newest_of(spans)]


def _share(value: float | None) -> str | None:
    return None if value is None else ratio(round(value, SHARE_PLACES))


class PremiumStats:
    """The premiums of every asset of the index, and that of USDT."""

    def __init__(self, live: Live, assets: list[str]) -> None:
        self._live = live
        self.series: dict[str, dict[Basis, Series]] = {}
        for asset in assets:
            self.add(asset)
        self.usdt = Series()
        self.usdt_ms = 0
        self.usdt_rate: float | None = None
        live.listeners.append(self.on_message)

    def add(self, asset: str) -> None:
        """Keep the premium of one more asset."""
        self.series[asset] = {basis: Series() for basis in BASES}

    def of(self, asset: str) -> Mapping[Basis, Series]:
        """Return the premium of an asset by basis. Raises: KeyError for an asset without one."""
        return {"fiat": self.usdt} if asset == USDT else self.series[asset]

    def on_message(self, message: Message) -> None:
        """Take the premium of an index record, which `Live` has applied."""
        if message.kind != INDEX:
            return
        latest = self._live.indices[message.topic.split(b".")[1].decode()]
        bases = self.series.get(latest.value.asset)
        now_ms = self._live.clock() // MILLISECOND_NS
        # a record of the future would keep its place in the ring until that time
        if bases is None or latest.ts_ms > now_ms + FUTURE_MS:
            return
        premiums = {basis: latest.premium(basis) for basis in BASES}
        # what may be the premium of two coins is none
        questioned = is_questioned(latest.value.asset, premiums["coin"], premiums["fiat"])
        for basis, series in bases.items():
            series.add(latest.ts_ms, premiums[basis], void=questioned)
        parts = latest.record.premium_parts
        # all assets have the same rate at a tick
        if parts is not None and latest.ts_ms > self.usdt_ms:
            self.usdt_ms, self.usdt_rate = latest.ts_ms, latest.record.fx
            self.usdt.add(latest.ts_ms, parts.c)

    async def load(self, database: Database) -> None:
        """Fill in the stored premiums, one asset after another: three bounded queries each."""
        for number, (asset, bases) in enumerate(list(self.series.items())):
            for place, sampled in enumerate(bases["coin"].sampled):
                now_ms = self._live.clock() // MILLISECOND_NS
                rows = await _stored(database, asset, sampled.step_ms, now_ms)
                if number == 0:
                    # any asset's records have it
                    _fill(self.usdt.sampled[place], rows, "usdt")
                kept = [one for one in rows if not is_questioned(asset, one["coin"], one["fiat"])]
                for basis, series in bases.items():
                    _fill(series.sampled[place], kept, basis)
                # other work goes on between two assets
                await asyncio.sleep(0)


def _fill(samples: Samples, rows: list[Row], column: str) -> None:
    found = {}
    for row in rows:
        sample = units(row[column])
        if sample is not None:
            found[row["ns"] // MILLISECOND_NS // samples.step_ms] = sample
    samples.fill(found)


# step -> how many of them are read
_READ = {
    SECONDS_MS: 5 * MINUTE_MS // SECONDS_MS + 2,
    MINUTE_MS: MINUTES["24h"] + 1,
    HOUR_MS: HOURS["90d"] + 1,
}


async def _stored(database: Database, asset: str, step_ms: int, now_ms: int) -> list[Row]:
    end_ms = now_ms // step_ms * step_ms + step_ms
    start_ms = end_ms - _READ[step_ms] * step_ms
    while True:
        try:
            return await history.premium_samples(database, asset, step_ms, start_ms, end_ms)
        except StorageError:
            await asyncio.sleep(RETRY_S)
