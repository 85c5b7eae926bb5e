"""The premium's range of the last 24 h, kept by minute from live records.

At the start the stored candles of the last day fill in the minutes before. A request then reads
memory alone. An asset needs 23 KB.
"""

from __future__ import annotations

import asyncio

import numpy as np

from coinspace._ext.message import INDEX, Message
from coinspace.clock import MILLISECOND_NS, MINUTE_NS
from coinspace.endpoint.live.age import FUTURE_MS
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.models import PremiumDay
from coinspace.endpoint.values import ratio
from coinspace.errors import StorageError
from coinspace.storage.read import history
from coinspace.storage.read.pool import Database, Row

MINUTES = 24 * 60
MINUTE_MS = 60_000
# before every minute
NEVER = np.iinfo(np.int64).min
# without a database the next attempt follows after this time
RETRY_S = 10.0
PERCENTILE_PLACES = 4


class Minutes:
    """The last premium of each minute of a day, in a ring; minute = ms since 1970 // 60,000."""

    def __init__(self) -> None:
        self._minutes = np.full(MINUTES, NEVER, np.int64)
        self._premiums = np.full(MINUTES, np.nan)

    def add(self, minute: int, premium: float) -> None:
        """Take the newest premium of a minute; the ring ignores one that is a day older."""
        place = minute % MINUTES
        if minute >= self._minutes[place]:
            self._minutes[place], self._premiums[place] = minute, premium

    def fill(self, minute: int, premium: float) -> None:
        """Take a stored premium, unless the minute has a live one."""
        if minute > self._minutes[minute % MINUTES]:
            self.add(minute, premium)

    def day(self, now_minute: int, premium: float) -> PremiumDay | None:
        """Return the range of the day before an instant; None when nothing is known of it.

        Args: premium: at the instant; its place among the minutes is the percentile.
        """
        known = (self._minutes > now_minute - MINUTES) & (self._minutes <= now_minute)
        found = self._premiums[known]
        if not len(found):
            return None
        return PremiumDay(
            high=ratio(float(max(found.max(), premium))),
            low=ratio(float(min(found.min(), premium))),
            percentile=ratio(round(float((found <= premium).mean()), PERCENTILE_PLACES)),
            minutes=len(found),
        )


class PremiumDays:
    """The minutes of every asset of the index."""

    def __init__(self, live: Live, assets: list[str]) -> None:
        self._live = live
        self._assets = {asset: Minutes() for asset in assets}
        live.listeners.append(self.on_message)

    def on_message(self, message: Message) -> None:
        """Take the premium of an index record, which `Live` has applied."""
        if message.kind != INDEX:
            return
        latest = self._live.indices[message.topic.split(b".")[1].decode()]
        minutes, coin = self._assets.get(latest.value.asset), latest.coin_premium
        now_ms = self._live.clock() // MILLISECOND_NS
        # a record of the future would keep its place in the ring until that time
        if minutes is not None and coin is not None and latest.ts_ms <= now_ms + FUTURE_MS:
            minutes.add(latest.ts_ms // MINUTE_MS, coin)

    def day(self, asset: str, now_ms: int, premium: float) -> PremiumDay | None:
        """Return the range of an asset's last day, None when nothing is known of it."""
        minutes = self._assets.get(asset)
        return None if minutes is None else minutes.day(now_ms // MINUTE_MS, premium)

    async def load(self, database: Database) -> None:
        """Fill in the stored premiums of the last day, one asset after another."""
        for asset, minutes in self._assets.items():
            end_ns = self._live.clock() // MINUTE_NS * MINUTE_NS
            for row in await _stored(database, asset, end_ns):
                if row["premium"] is not None:
                    minutes.fill(row["ns"] // MINUTE_NS, row["premium"])


async def _stored(database: Database, asset: str, end_ns: int) -> list[Row]:
    start_ns = end_ns - MINUTES * MINUTE_NS
    while True:
        try:
            return await history.candles(database, asset, "1m", start_ns, end_ns)
        except StorageError:
            await asyncio.sleep(RETRY_S)
