"""A day of rates, computed, stored and verified: every record is recomputed to the last bit.

    python -m tests.rate_day --hours 24

Books and answers of two sources of USD/KRW are generated, from a Friday noon in Seoul on: banks'
hours, night, the end of the week's session, Saturday. The sources jump together and alone, differ,
fall silent, and answer with nonsense. All of it goes through the stages that also run live. The
exit code is 1 when a record differs.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coinspace.clock import MINUTE_NS, SECOND_NS
from coinspace.config import Settings
from coinspace.index.store import store
from coinspace.method.record import IndexRecord
from coinspace.rates.sources import SOURCES
from coinspace.recompute import audit
from coinspace.recompute.feeds import from_feeds
from coinspace.recompute.verify import Verification
from coinspace.recording.format import FeedWriter
from coinspace.simulator.rates import SimulatedRates
from coinspace.simulator.simulated_feed import write_feeds
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.records import Row, tick_row, venue_rows
from tests.flow.database import OFF, applied
from tests.flow.platform import Database

MARKETS = {
    "upbit": ["BTC/KRW", "USDT/KRW"],
    "bithumb": ["BTC/KRW", "USDT/KRW"],
    "binance": ["BTC/USDT"],
    "coinbase": ["USDT/USD"],
}
USED = ["dunamu", "naver"]
# Friday noon in Seoul; the session ends at 06:00 of Saturday
NOON_NS = int(datetime(2026, 11, 27, 3, tzinfo=UTC).timestamp()) * SECOND_NS
CLOSE_NS = NOON_NS + 18 * 60 * MINUTE_NS
# minute of an hour -> what a source answers then
FORMS = {
    "dunamu": {5: "jump", 6: "jump", 12: "html", 13: "empty", 14: "comma", 30: "yesterday"},
    "naver": {22: "drift", 23: "drift", 24: "drift", 33: "yen", 34: "html"},
}
# rates of the feeds' frames, as part of the usual ones
PACE = 0.02
BATCH = 20_000
# ticks before it are not compared: the memory of the first one is empty
BEGIN_NS = 3 * MINUTE_NS


def answers(start_ns: int, minutes: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield (time, source, answer) of each minute."""
    for minute in range(minutes):
        now_ns = start_ns + minute * MINUTE_NS
        of_day, of_hour = (now_ns - NOON_NS) // MINUTE_NS, now_ns // MINUTE_NS % 60
        if 100 <= of_day % 360 < 145:
            # in the banks' hours and at night: nobody answers
            continue
        for place, source in enumerate(USED):
            at_ns = now_ns + place * 7 * SECOND_NS
            simulated = SimulatedRates(lambda: min(at_ns, CLOSE_NS - SECOND_NS))  # noqa: B023
            # both jump by 3.5 % twice an hour
            simulated.factor = 1.0 + 0.002 * math.sin(of_day / 50) + 0.035 * (of_hour >= 40)
            form = FORMS[source].get(of_hour, "")
            yield at_ns, source, asyncio.run(simulated.get(source, form)).body


def write(folder: Path, start_ns: int, seconds: int, seed: int) -> tuple[Path, ...]:
    """Write the recordings of books and rates; return their paths."""
    for _ in write_feeds(
        folder / "day.feed.zst", seed, MARKETS, duration_s=seconds, start_ns=start_ns, rate=PACE
    ):
        pass
    header = {"exchange": "rates", "sources": USED, "holidays": [], "started_ns": start_ns}
    with FeedWriter(folder / "rates-usdkrw.feed.zst", header) as writer:
        for at_ns, source, body in answers(start_ns, seconds // 60):
            path = SOURCES[source].path("", at_ns)
            writer.write(at_ns, "GET", f"/{source}{path}", body)
    return tuple(sorted(folder.glob("*.feed.zst")))


@dataclass
class Day:
    """What was found: the verdict, and the statuses of USD/KRW and of USD per USDT."""

    verdict: Verification
    statuses: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    rates: int = 0


def run(
    found: Settings, folder: Path, start_ns: int, seconds: int, *, interval_ms: int, seed: int = 5
) -> Day:
    """Compute the records of a time, store and verify them. Args: found: where the database is."""
    paths = write(folder, start_ns, seconds, seed)
    settings = _settings(found, interval_ms)
    day = Day(Verification())
    rates: set[float | None] = set()
    rows: list[Row] = []

    def take(record: IndexRecord, _: object) -> None:
        rows.append(tick_row(record))
        rows.extend(venue_rows(record, fx=True))
        day.statuses[record.usd_krw_status, record.usdt_usd_status] += 1
        rates.add(record.usd_krw)
        if len(rows) > BATCH:
            store(settings, rows)
            rows.clear()

    from_feeds(paths, settings, settings.index.parameters_of, take)
    store(settings, rows)
    applied(settings)
    day.rates = len(rates - {None})
    end_ns = start_ns + seconds * SECOND_NS
    bounds = (start_ns + BEGIN_NS, end_ns)
    # a new process knows nothing of what the first one has made of the settings
    day.verdict = audit.verify(_settings(found, interval_ms), folder, bounds, ["BTC"])
    return day


def _settings(found: Settings, interval_ms: int) -> Settings:
    settings = found.model_copy(deep=True)
    settings.index.assets = ["BTC"]
    settings.index.interval_ms = interval_ms
    for name, markets in MARKETS.items():
        settings.exchanges[name].markets = markets
    return settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--interval", type=int, default=1000, help="ms between ticks")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coinspace-day-") as name:
        data = Path(name)
        feeds = data / "feeds"
        feeds.mkdir()
        with Database(data):
            settings = Settings(data=data)
            schema.create(address(settings), OFF)
            seconds = int(chosen.hours * 3600)
            day = run(settings, feeds, NOON_NS, seconds, interval_ms=chosen.interval)
    print(day.verdict.summary())
    print(f"{day.rates} rates of USD/KRW;", *(f"{n} × {one}" for one, n in _sorted(day.statuses)))
    print(*day.verdict.differences[:5], sep="\n")
    return int(not day.verdict.good)


def _sorted(statuses: Counter[Any]) -> list[tuple[Any, int]]:
    return statuses.most_common()


if __name__ == "__main__":
    sys.exit(main())
