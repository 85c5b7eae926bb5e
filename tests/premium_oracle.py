"""Premiums computed a second time: from stored books and quotations, with plain floats.

    python -m tests.premium_oracle --minutes 4 --instants 10000

runs whole simulated exchanges and compares stored premiums at random instants. The method is
written here from its description alone and shares no code with the product. Every book is stored,
with 30 levels, so that Binance and Coinbase publish 30 levels too. The exit code is 1 when a number
differs.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from coinspace.config import Settings
from coinspace.errors import StorageError
from coinspace.storage.questdb.address import address
from tests.flow.database import applied, query
from tests.flow.platform import Database, platform
from tests.waiting import wait_for

SECOND_NS = 1_000_000_000
# largest difference, relative for prices and rates, absolute for premiums
LIMIT = 1e-9
TIE = 1e-12
# how far back a book can be that has not changed since
RECENT_NS, OLDEST_NS = 12 * SECOND_NS, 3600 * SECOND_NS
# of the sources of USD/KRW, the first in the order of trust
TRUSTED = "dunamu"
READY = "SELECT count() FROM (SELECT DISTINCT asset FROM index_tick WHERE premium_a != null)"
Levels = list[tuple[float, float]]


class Book(NamedTuple):
    bids: Levels
    asks: Levels


def value(books: Iterable[Book], max_spread: float) -> float | None:
    """Return the value of merged books: size cap, curve, depth used, weights."""
    books = list(books)
    if not books:
        return None
    bids = sorted((level for one in books for level in one.bids), key=lambda level: -level[0])
    asks = sorted(level for one in books for level in one.asks)
    cap = size_cap(bids, asks)
    bids = [(price, min(size, cap)) for price, size in bids]
    asks = [(price, min(size, cap)) for price, size in asks]
    last_bid = max(one.bids[-1][0] for one in books)
    last_ask = min(one.asks[-1][0] for one in books)
    coverage = min(
        math.fsum(size for price, size in bids if price >= last_bid),
        math.fsum(size for price, size in asks if price <= last_ask),
    )
    # (volume at the end of the segment, mid)
    segments: list[tuple[float, float]] = []
    i = j = 0
    bid_end, ask_end = bids[0][1], asks[0][1]
    while True:
        bid, ask = bids[i][0], asks[j][0]
        mid = (bid + ask) / 2
        if ask / mid - 1 > max_spread + TIE:
            break
        end = min(bid_end, ask_end)
        segments.append((end, mid))
        if abs(bid_end - ask_end) <= TIE * end:
            ended = (True, True)
        else:
            ended = (bid_end < ask_end, ask_end < bid_end)
        i, j = i + ended[0], j + ended[1]
        if i == len(bids) or j == len(asks):
            break
        bid_end += bids[i][1] if ended[0] else 0.0
        ask_end += asks[j][1] if ended[1] else 0.0
    if not segments:
        return None
    depth = min(segments[-1][0], coverage)
    rate = 1 / (0.3 * depth)
    first, begin, parts = segments[0][1], 0.0, []
    for end, mid in segments:
        a, b = min(begin, depth), min(end, depth)
        parts.append((mid - first) * (math.exp(-rate * a) - math.exp(-rate * b)))
        begin = end
    return first + math.fsum(parts) / (1 - math.exp(-rate * depth))


def size_cap(bids: Levels, asks: Levels) -> float:
    """Return the trimmed mean of the near sizes plus five winsorised deviations."""
    sample: list[float] = []
    for side in (bids, asks):
        near = sum(abs(price / side[0][0] - 1) <= 0.05 + TIE for price, _ in side)
        sample += [size for _, size in side[: max(50, near)]]
    sample.sort()
    n = len(sample)
    k = n // 100
    mean = math.fsum(sample[k : n - k]) / (n - 2 * k)
    winsorised = [min(max(size, sample[k]), sample[n - k - 1]) for size in sample]
    middle = math.fsum(winsorised) / n
    squares = math.fsum((size - middle) ** 2 for size in winsorised)
    return mean + 5 * (math.sqrt(squares / (n - 1)) if n > 1 else 0.0)


class Tick(NamedTuple):
    """A stored premium."""

    ts_ns: int
    asset: str
    kr: float
    gl: float
    fx: float
    usd_krw: float
    heard_ns: int
    usdt_usd: float | None
    a: float
    b: float
    c: float


class Input(NamedTuple):
    venue: str
    epoch: int
    sequence: int


@dataclass
class Report:
    """What was compared. Attributes: left_out: ticks whose rate was held or missing, by status."""

    instants: int = 0
    assets: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    differences: list[tuple[Any, ...]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    from_usd_books: int = 0

    def compare(self, tick: Tick, name: str, stored: float, own: float | None) -> None:
        """Compare one number; a premium by its difference, any other one by its relative one."""
        self.compared[name] += 1
        far = math.inf
        if own is not None:
            far = abs(stored - own) if name in "abc" else abs(stored / own - 1)
        self.worst[name] = max(far, self.worst.get(name, 0.0))
        if not far <= LIMIT:
            self.differences.append((tick.asset, tick.ts_ns, name, stored, own))


class Oracle:
    """Reads the database of an ended run, and computes premiums from it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._rates = self._rows(
            f"SELECT ts::long, rate FROM rate WHERE exchange = '{TRUSTED}' ORDER BY ts"
        )
        self.inputs = cache(self._inputs)
        self.rated = cache(self._rated)

    def _rows(self, text: str) -> list[Any]:
        return self._connection.execute(text.encode()).fetchall()

    def ticks(self, report: Report) -> list[Tick]:
        """Return the stored premiums with usual rates; count the others."""
        statuses = "concat(fx_status, ' ', usd_krw_status, ' ', usdt_usd_status)"
        usual = "fx_status = 'ok' AND usd_krw_status IN ('ok', 'closed')"
        usual += " AND usdt_usd_status IN ('ok', 'assumed') AND NOT premium_unjudged"
        usual += " AND premium_a != null"
        # the workers may have been behind at the end
        newest = min(
            ts_ns for _, ts_ns in self._rows("SELECT exchange, max(ts)::long FROM orderbook")
        )
        usual += f" AND ts < {newest - SECOND_NS}::timestamp_ns"
        report.left_out = dict(
            self._rows(f"SELECT {statuses} s, count() FROM index_tick WHERE NOT ({usual})")
        )
        found = self._rows(
            "SELECT ts::long, asset, kr, gl, fx, usd_krw, usd_krw_heard_ns, usdt_usd, premium_a,"
            f" premium_b, premium_c FROM index_tick WHERE {usual}"
        )
        report.ticks = len(found)
        return [Tick(*row) for row in found]

    def _inputs(self, asset: str, role: str) -> dict[int, list[Input]]:
        """Return tick -> the venues that it used."""
        found: dict[int, list[Input]] = {}
        for ts_ns, *given in self._rows(
            "SELECT ts::long, venue, epoch, seq FROM index_venue"
            f" WHERE asset = '{asset}' AND role = '{role}' AND used"
        ):
            found.setdefault(ts_ns, []).append(Input(*given))
        return found

    def books(self, ts_ns: int, inputs: Sequence[Input]) -> dict[str, Book]:
        """Return the last stored book of each venue at a tick."""
        found: dict[str, Book] = {}
        for back_ns in (RECENT_NS, OLDEST_NS):
            left = [one for one in inputs if one.venue not in found]
            if not left:
                break
            choices = " OR ".join(
                "(exchange = '{}' AND market = '{}' AND epoch = {} AND seq <= {})".format(
                    *one.venue.split(":"), one.epoch, one.sequence
                )
                for one in left
            )
            rows = self._rows(
                "SELECT exchange, market, bids, asks FROM orderbook"
                f" WHERE ts > {ts_ns - back_ns}::timestamp_ns AND ts <= {ts_ns}::timestamp_ns"
                f" AND ({choices}) LATEST ON ts PARTITION BY exchange, market"
            )
            for exchange, market, *sides in rows:
                bids, asks = (list(zip(*side, strict=True)) for side in sides)
                found[f"{exchange}:{market}"] = Book(bids, asks)
        return found

    def _rated(self, ts_ns: int) -> tuple[float | None, float | None]:
        """Return KRW per USDT and USD per USDT of a tick."""
        books = self.books(ts_ns, self.inputs("USDT", "fx").get(ts_ns, []))
        krw, usd = (
            value((book for name, book in books.items() if name.endswith(f"/{quote}")), 0.01)
            for quote in ("KRW", "USD")
        )
        return krw, usd

    def usd_krw(self, tick: Tick) -> float | None:
        """Return the last quotation of the most trusted source."""
        known = [rate for at_ns, rate in self._rates if at_ns <= min(tick.ts_ns, tick.heard_ns)]
        return known[-1] if known else None

    def check(self, tick: Tick, report: Report) -> None:
        """Compute a premium and its parts, and compare them with the stored ones."""
        spread = 0.005 if tick.asset == "BTC" else 0.01
        books = self.books(tick.ts_ns, self.inputs(tick.asset, "constituent").get(tick.ts_ns, []))
        kr, gl = (
            value((book for name, book in books.items() if name.endswith(f"/{quote}")), spread)
            for quote in ("KRW", "USDT")
        )
        fx, usdt_usd = self.rated(tick.ts_ns)
        usd_krw = self.usd_krw(tick)
        parts = {"kr": kr, "gl": gl, "fx": fx, "usd_krw": usd_krw}
        if tick.usdt_usd is not None:
            report.from_usd_books += 1
            parts["usdt_usd"] = usdt_usd
        for name, own in parts.items():
            report.compare(tick, name, getattr(tick, name), own)
        dollar = 1.0 if tick.usdt_usd is None else usdt_usd
        if kr is None or gl is None or fx is None or usd_krw is None or dollar is None:
            return
        coin, fiat = kr / (gl * fx) - 1, kr / (gl * usd_krw * dollar) - 1
        for name, own in (("a", fiat), ("b", coin), ("c", fx / (usd_krw * dollar) - 1)):
            report.compare(tick, name, getattr(tick, name), own)


def check(settings: Settings, instants: int, seed: int) -> Report:
    """Compare stored premiums at random instants, each of a random asset and tick."""
    report = Report()
    with psycopg.connect(address(settings).sql, autocommit=True) as connection:
        oracle = Oracle(connection)
        ticks = oracle.ticks(report)
        chosen = random.Random(seed).sample(ticks, min(instants, len(ticks)))
        for tick in chosen:
            oracle.check(tick, report)
    report.instants = len(chosen)
    report.assets = len({tick.asset for tick in chosen})
    return report


def main() -> int:
    """Run whole exchanges for some minutes and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--instants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    settings_of_run = {
        f"COINSPACE_EXCHANGES__{one}__DEPTH": "30" for one in ("BINANCE", "COINBASE")
    }
    settings_of_run["COINSPACE_STORAGE__POLICY"] = '[{"markets": ["*"]}]'
    with tempfile.TemporaryDirectory(prefix="coinspace-premiums-") as folder:
        data = Path(folder)
        with platform(data, "--markets", "all", "--with", "coinbase", **settings_of_run) as running:
            wait_for(
                lambda: _assets(data) >= 200,
                "premiums of 200 assets",
                limit_s=400,
                shown=lambda: (data / "up.log").read_text()[-3000:],
            )
            time.sleep(60 * chosen.minutes)
            running.stop()
        with Database(data):
            settings = Settings(data=data)
            applied(settings)
            report = check(settings, chosen.instants, chosen.seed)
    print(f"{report.instants} instants of {report.assets} assets, of {report.ticks} premiums;")
    print(f"USDT in USD from books at {report.from_usd_books}; left out: {report.left_out}")
    for name, far in report.worst.items():
        print(f"{name}: {report.compared[name]} compared, worst difference {far:.2e}")
    print(f"{len(report.differences)} differences beyond {LIMIT:g}", *report.differences[:20])
    return int(bool(report.differences) or report.assets < 200)


def _assets(data: Path) -> int:
    try:
        return int(query(Settings(data=data), READY)[0][0])
    except (psycopg.Error, StorageError):
        # the database or the table is not there yet
        return 0


if __name__ == "__main__":
    sys.exit(main())
