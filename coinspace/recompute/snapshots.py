"""Books as JSON lines -> aggregates, to compute the index without the platform.

One line is one tick:

    {"now_ms": 1700000000000, "asset": "BTC", "books": [
        {"exchange": "upbit", "market": "BTC/KRW", "recv_ms": 1699999999950, "fx": 1400,
         "state": "ok", "bids": [[139990000, 0.5], …], "asks": [[140010000, 0.4], …]}, …]}

`fx` is units of quote per unit of index currency (null = no rate). Without this key, the rate comes
from the USDT/KRW books of the same line. Numbers may be strings. `state` is ok (default),
disconnected, resyncing, halted or operator. Optional: `usd_krw`, a reference rate for the premium's
fiat basis; books of USDT/USD give the price of a USDT for it. The method's memory is kept from line
to line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coinspace._ext.ladder import VenueBook
from coinspace.aggregator.consolidate import Consolidator
from coinspace.aggregator.venue import Venue
from coinspace.clock import MILLISECOND_NS
from coinspace.config import IndexParameters, IndexSettings
from coinspace.constituents import counts
from coinspace.errors import CoinSpaceError, MarketError
from coinspace.market import DOLLAR_MARKET, FX_MARKET, RATE_MARKETS, Market
from coinspace.method.aggregate import Aggregate, FxFacts, VenueFacts
from coinspace.method.fx import FxIndex
from coinspace.method.parameters import FX_CURRENCY

STATES = ("ok", "disconnected", "resyncing", "halted", "operator")
# the year 2262 in ms: a later time in ns overflows int64
LATEST_MS = 9_223_372_036_854


class SnapshotError(CoinSpaceError):
    """A line is not a snapshot. The text names the line and the expected content."""


class SnapshotReader:
    """Reads snapshots; keeps the venues, and so the memory, between lines.

    Args:
        parameters_of: asset -> parameters (the lag decides which book is delayed).
        index: decides which venues count; None = default settings.
    """

    def __init__(
        self,
        parameters_of: Callable[[str], IndexParameters],
        index: IndexSettings | None = None,
    ) -> None:
        self._parameters_of = parameters_of
        self._index = index or IndexSettings()
        self._venues: dict[tuple[str, str], Venue] = {}
        self._consolidators: dict[str, Consolidator] = {}
        self._fx: FxIndex | None = None
        self._dollar: FxIndex | None = None
        self.ignored = 0

    def read(self, line: str, number: int) -> Aggregate:
        """Return the aggregate of one line. Raises: SnapshotError naming the line."""
        try:
            return self._read(_object(json.loads(line), "a line"))
        except (SnapshotError, MarketError) as error:
            raise SnapshotError(f"line {number}: {error}") from None
        except ValueError as error:
            # also for a number with thousands of digits
            raise SnapshotError(
                f"line {number}: expected a JSON object with now_ms, asset and books: {error}"
            ) from None
        except RecursionError:
            raise SnapshotError(
                f"line {number}: expected a snapshot, was nested too deeply"
            ) from None

    def _read(self, line: dict[str, Any]) -> Aggregate:
        ts_ns = _time_ns(line, "now_ms")
        asset = line.get("asset")
        if not isinstance(asset, str) or not asset:
            raise SnapshotError(f"asset: expected a name such as 'BTC', was {asset!r}")
        Market.parse(f"{asset}/{FX_CURRENCY}")
        books = line.get("books")
        if not isinstance(books, list):
            raise SnapshotError(f"books: expected a list of books, was {_brief(books)}")
        parameters = self._parameters_of(asset)
        lag_ns = int(parameters.lag_ms * MILLISECOND_NS)
        venues: list[Venue] = []
        rated: dict[str, list[Venue]] = {FX_MARKET: [], DOLLAR_MARKET: []}
        rates: dict[str, float | None] = {}
        seen = set()
        for i, book in enumerate(books):
            try:
                venue, rate = self._book(asset, _object(book, "a book"))
            except (SnapshotError, MarketError) as error:
                raise SnapshotError(f"books[{i}]: {error}") from None
            if venue is None:
                self.ignored += 1
                continue
            if venue.name in seen:
                raise SnapshotError(
                    f"books[{i}]: expected one book per venue, was a second book of {venue.name}"
                )
            seen.add(venue.name)
            if venue.market_name in rated:
                rated[venue.market_name].append(venue)
                continue
            venues.append(venue)
            rates |= rate
        for found in rated.values():
            found.sort(key=lambda one: one.name)
        facts = {
            market: [one.facts(ts_ns, lag_ns, 1.0) for one in found]
            for market, found in rated.items()
        }
        fx_books, dollar_books = ([one.book for one in found] for found in rated.values())
        fx_facts, dollar_facts = facts.values()
        fx = self._rate(ts_ns, parameters, venues, rates, fx_facts, fx_books)
        if dollar_facts and self._dollar is None:
            self._dollar = FxIndex(parameters)
        dollar = None
        if self._dollar is not None:
            dollar = self._dollar.update(ts_ns, dollar_facts, dollar_books)
        consolidator = self._consolidators.setdefault(asset, Consolidator(asset))
        return consolidator.consolidate(
            ts_ns,
            sorted(venues, key=lambda one: one.name),
            fx,
            lag_ns,
            rates=rates,
            usd_krw=_rate(line["usd_krw"], "usd_krw") if "usd_krw" in line else None,
            dollar=dollar,
            fx_venues=[*fx_facts, *dollar_facts],
        )

    def _book(
        self, asset: str, book: dict[str, Any]
    ) -> tuple[Venue | None, dict[str, float | None]]:
        exchange = book.get("exchange")
        if not isinstance(exchange, str) or not exchange or ":" in exchange:
            raise SnapshotError(f"exchange: expected a name such as 'upbit', was {exchange!r}")
        if not isinstance(book.get("market"), str):
            raise SnapshotError(f"market: expected BASE/QUOTE, was {book.get('market')!r}")
        market = Market.parse(book["market"])
        received_ns = _time_ns(book, "recv_ms")
        state = book.get("state", "ok")
        if not isinstance(state, str) or state not in STATES:
            raise SnapshotError(f"state: expected one of {', '.join(STATES)}, was {state!r}")
        sides = _side(book, "bids"), _side(book, "asks")
        rate = {f"{exchange}:{market}": _rate(book["fx"], "fx")} if "fx" in book else {}
        is_rate = str(market) in RATE_MARKETS
        if not is_rate and (market.base != asset or not counts(self._index, exchange, market)):
            return None, {}
        key = ("" if is_rate else asset, f"{exchange}:{market}")
        venue = self._venues.setdefault(key, Venue(exchange, market))
        venue.state = state
        venue.on_book(*sides, received_ns)
        return venue, rate

    def _rate(
        self,
        ts_ns: int,
        parameters: IndexParameters,
        venues: list[Venue],
        rates: dict[str, float | None],
        fx_facts: list[VenueFacts],
        books: list[VenueBook],
    ) -> FxFacts:
        korean = [one for one in venues if one.market.quote == FX_CURRENCY]
        given = [rates[one.name] for one in korean if one.name in rates]
        if fx_facts or len(given) < len(korean):
            if self._fx is None:
                self._fx = FxIndex(parameters)
            found = self._fx.update(ts_ns, fx_facts, books)
            if not given or len(given) < len(korean):
                return found
        else:
            found = FxFacts()
        known = [rate for rate in given if rate is not None and math.isfinite(rate) and rate > 0]
        found.rate = median(known) if known else None
        found.status = "ok" if known else "none"
        return found


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SnapshotError(f"expected {what} as a JSON object, was {_brief(value)}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # type: ignore[operator]
        except ValueError:
            pass
    raise SnapshotError(f"{what}: expected a number, was {_brief(value)}")


def _time_ns(holder: dict[str, Any], key: str) -> int:
    value = holder.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        ms: float = value
    else:
        ms = _number(value, key)
    if not 0 <= ms <= LATEST_MS:
        raise SnapshotError(f"{key}: expected ms since 1970, was {_brief(value)}")
    # whole ms stay exact, fractions are rounded to ns
    whole = int(ms)
    return whole * MILLISECOND_NS + round((ms - whole) * MILLISECOND_NS)


def _rate(value: Any, what: str) -> float | None:
    return None if value is None else _number(value, what)


def _side(book: dict[str, Any], key: str) -> NDArray[np.float64]:
    levels = book.get(key)
    if not isinstance(levels, list):
        raise SnapshotError(f"{key}: expected a list of [price, size], was {_brief(levels)}")
    side = np.empty((2, len(levels)))
    for i, level in enumerate(levels):
        if not isinstance(level, (list, tuple)) or len(level) != 2:
            raise SnapshotError(f"{key}[{i}]: expected [price, size], was {_brief(level)}")
        for row, name in enumerate(("price", "size")):
            # a level with null is dropped, as a level with a number that is not finite
            value = math.nan if level[row] is None else _number(level[row], f"{key}[{i}] {name}")
            side[row, i] = value
    return side


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
