"""How many bytes a day the settings store, and how many days the disk lasts.

Rates and sizes are measured: rates on whole exchanges at their usual load (`LOAD` of each
exchange), sizes as bytes of a closed partition divided by its rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from coinspace.config import Settings
from coinspace.exchanges import exchange as exchange_named
from coinspace.market import ASSETS
from coinspace.storage import retention
from coinspace.storage.disk import free_bytes
from coinspace.storage.policy import policies
from coinspace.storage.tables import TABLES, VIEWS

DAY_S = 86_400
HOURS_OF_MONTH = 730
# a disk that lasts longer is not a problem now
LONGEST_DAYS = 3650
YEAR_DAYS = 365


# markets of a quote currency whose number is not known
LISTED_ELSEWHERE = 200
# bytes of one row
ROWS = {
    "ticker": 144,
    "trade": 80,
    "index_tick": 720,
    "index_venue": 85,
    "index_1s": 92,
    "index_1m": 92,
    "premium_1m": 180,
    "trade_1s": 72,
    "trade_1m": 72,
}
# a book: without its levels, and one level of both sides
BOOK, LEVEL = 190, 32
# ticks a second where each update makes one
UPDATES = 10
VENUES_OF_ASSET = 3
# assets that the exchanges share, which a pattern such as * means
SHARED = 250


@dataclass(frozen=True, slots=True)
class Line:
    """One table or view. Attributes: days: how long rows stay, None = for ever."""

    table: str
    bytes_a_day: float
    days: float | None

    def after(self, days: float) -> float:
        """Return the bytes that are stored after some days."""
        return self.bytes_a_day * (days if self.days is None else min(days, self.days))


@dataclass(frozen=True, slots=True)
class Forecast:
    """The predicted size of the database."""

    lines: list[Line]
    free: int

    @property
    def bytes_a_day(self) -> float:
        return sum(line.bytes_a_day for line in self.lines)

    def after(self, days: float) -> float:
        """Return the bytes that are stored after some days."""
        return sum(line.after(days) for line in self.lines)

    @property
    def days(self) -> int | None:
        """The days until the disk is full, None = more than LONGEST_DAYS."""
        if self.after(LONGEST_DAYS) <= self.free:
            return None
        first, last = 0, LONGEST_DAYS
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if self.after(middle) <= self.free else (first, middle)
        return first

    def text(self) -> str:
        """Return the forecast as one line."""
        largest = sorted(self.lines, key=lambda line: -line.bytes_a_day)
        tables = ", ".join(
            f"{line.table} {_size(line.bytes_a_day)}" for line in largest if line.bytes_a_day >= 5e6
        )
        lasts = "the disk lasts for years" if self.days is None else f"{self.days} days to full"
        return (
            f"{_size(self.bytes_a_day)} a day ({tables}), {_size(self.after(YEAR_DAYS))} after a"
            f" year; {_size(self.free)} free: {lasts}"
        )


def _size(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def forecast(settings: Settings, free: int | None = None) -> Forecast:
    """Return what the settings will store. Args: free: bytes, by default those of the disk."""
    sizes = _messages(settings) | _index(settings)
    kept = {
        one.name: _days(retention.initial(one, settings.storage), one.partition)
        for one in (*TABLES, *VIEWS)
    }
    lines = [Line(name, size * DAY_S, kept[name]) for name, size in sizes.items()]
    return Forecast(lines, free_bytes(settings) if free is None else free)


def _days(ttl: str, partition: str) -> float | None:
    """Return how long rows stay: a partition is dropped when its last row is too old."""
    if not ttl:
        return None
    value, unit = retention.parse(ttl)
    size, of = retention.PARTITIONS[partition]
    hours = (value if unit == "h" else value * HOURS_OF_MONTH) + (
        size if of == "h" else size * HOURS_OF_MONTH
    )
    return hours / 24


def _messages(settings: Settings) -> dict[str, float]:
    """Return table -> bytes a second."""
    rules = policies(settings)
    found: dict[str, float] = defaultdict(float)
    for exchange, market, count in _markets(settings):
        major = market.partition("/")[0] in (*ASSETS, "USDT")
        load = exchange_named(exchange).LOAD
        rates = load.major if major else load.other
        for kind in ("orderbook", "ticker", "trade"):
            rule = rules.of(kind, exchange, market)
            a_second: float = getattr(rates, kind)
            if rule.slot_ns:
                a_second = min(a_second, 1e9 / rule.slot_ns)
            published = settings.exchanges[exchange].depth
            size = BOOK + LEVEL * min(rule.depth, published) if kind == "orderbook" else ROWS[kind]
            found[kind] += count * a_second * size
        candles = count * min(1.0, rates.trade)
        found["trade_1s"] += candles * ROWS["trade_1s"]
        found["trade_1m"] += count * ROWS["trade_1m"] / 60
    return found


def _markets(settings: Settings) -> Iterator[tuple[str, str, int]]:
    """Yield (exchange, market, number of such markets)."""
    for exchange, section in settings.exchanges.items():
        for market in section.markets:
            if "*" not in market:
                yield exchange, market, 1
                continue
            quote = market.partition("/")[2]
            majors = [
                f"{asset}/{quote}" for asset in ASSETS if fnmatchcase(f"{asset}/{quote}", market)
            ]
            yield from ((exchange, major, 1) for major in majors)
            listed = exchange_named(exchange).LOAD.listed.get(quote, LISTED_ELSEWHERE)
            # any name stands for the others
            yield exchange, f"OTHER/{quote}", max(listed - len(majors), 0)


def _index(settings: Settings) -> dict[str, float]:
    index = settings.index
    intervals = [index.interval_ms_of(asset) for asset in index.assets if "*" not in asset]
    if any("*" in asset for asset in index.assets):
        intervals += [index.pattern_interval_ms] * max(SHARED - len(intervals), 0)
    ticks = sum(1000 / interval if interval else UPDATES for interval in intervals)
    # the venues of the rate are stored once for all indices
    fastest = 1000 / min(intervals, default=1000) if all(intervals) else UPDATES
    return {
        "index_tick": ticks * ROWS["index_tick"],
        "index_venue": (ticks * VENUES_OF_ASSET + 2 * fastest) * ROWS["index_venue"],
        "index_1s": len(intervals) * ROWS["index_1s"],
        "index_1m": len(intervals) * ROWS["index_1m"] / 60,
        "premium_1m": len(intervals) * ROWS["premium_1m"] / 60,
    }
