"""Converts index records, as published and as stored, to the API's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from coinspace.endpoint.models import (
    NO_VALUE,
    Constituent,
    Currency,
    ExecutablePremium,
    IndexValue,
    Liquidity,
    Premium,
    Region,
    Regional,
    Status,
)
from coinspace.endpoint.shown import show
from coinspace.endpoint.values import decimal, decimals, price, ratio
from coinspace.method.digits import RATIO_PLACES, rounded, significant
from coinspace.method.parameters import REGIONS
from coinspace.method.record import IndexRecord, Valuation, VenueRecord

CURRENCY: Currency = "USDT"
# columns of stored rows: a region's value, rounded as the index's own, and computed prices
REGIONAL = ("kr", "gl")
CONVERTED = ("value_krw", "value_usd", "best_bid", "best_ask", "fx")
# columns of premiums: by basis, and of their candles
PREMIUMS = ("coin", "fiat", "usdt", "open", "high", "low", "close")


def status(stored: str | None) -> Status:
    """Convert the status of a record, None = the row has none."""
    match stored:
        case "ok" | "degraded":
            return stored
    return NO_VALUE


def venue_parts(venue: str) -> tuple[str, str]:
    """Split `upbit:BTC/KRW` into exchange and market."""
    exchange, _, market = venue.partition(":")
    return exchange, market


def region_of(exchange: str) -> Region | None:
    """Return the region of an exchange, None where it is not known."""
    return cast(Region | None, REGIONS.get(exchange))


def constituent(venue: str, facts: VenueRecord, region: str | None = None) -> Constituent:
    """Convert a record's facts of a venue. Args: region: used when the exchange has none."""
    exchange, market = venue_parts(venue)
    return show(
        Constituent,
        facts,
        venue=venue,
        exchange=exchange,
        market=market,
        region=region_of(exchange) or region,
    )


def constituents(table: Mapping[str, VenueRecord]) -> list[Constituent]:
    """Convert a record's venue table."""
    return [constituent(venue, facts) for venue, facts in sorted(table.items())]


@cache
def _digits(decimals_shown: int | None) -> dict[str, Callable[[float], float]]:
    """Return column -> the function that rounds its stored numbers as in the live record."""
    return {
        **dict.fromkeys(REGIONAL, lambda value: rounded(value, decimals_shown)),
        **dict.fromkeys(CONVERTED, significant),
        "premium": lambda value: round(value, RATIO_PLACES),
    }


@cache
def rounding(decimals_shown: int | None) -> dict[str, Callable[[float], float]]:
    """Return column -> the function that rounds it in rows of premiums."""
    premiums = dict.fromkeys(PREMIUMS, lambda value: round(value, RATIO_PLACES))
    return {**_digits(decimals_shown), **premiums}


def column(
    rows: Sequence[Mapping[str, Any]], name: str, decimals_shown: int | None
) -> list[str | None]:
    """Write a column of stored rows as `served` rounds it, several times faster."""
    values = (row[name] for row in rows)
    if name in CONVERTED:
        return [price(one) for one in values]
    convert = _digits(decimals_shown).get(name)
    if convert is None:
        return decimals(values)
    return decimals(None if value is None else convert(value) for value in values)


def served(row: Mapping[str, Any], decimals_shown: int | None) -> dict[str, Any]:
    """Return a stored row with its numbers rounded as in the live record.

    Args: decimals_shown: of the asset's published value.
    """
    found = dict(row)
    for name, convert in _digits(decimals_shown).items():
        if row.get(name) is not None:
            found[name] = convert(row[name])
    if "status" in row:
        found["status"] = status(row["status"])
    return found


def regional(region: Valuation | None) -> Regional | None:
    """Convert a region's part of a record."""
    if region is None:
        return None
    value = decimal(region.value)
    return show(Regional, region, value=value, status=NO_VALUE if value is None else "ok")


def premium(record: IndexRecord) -> Premium | None:
    """Convert the premium: parts a (fiat), b (coin) and c (of USDT) of the methodology."""
    parts = record.premium_parts
    if parts is None:
        return None
    return Premium(
        coin=ratio(parts.b),
        fiat=ratio(parts.a),
        usdt=ratio(parts.c),
        unjudged=record.premium_unjudged,
        executable=[show(ExecutablePremium, row) for row in record.premium_executable or ()],
    )


def index_value(record: IndexRecord) -> IndexValue:
    """Convert a record."""
    regions = record.regions or {}
    return show(
        IndexValue,
        record,
        asset=record.asset,
        ts=int(record.ts_ms),
        status=status(record.status),
        currency=CURRENCY,
        kr=regional(regions.get("KR")),
        gl=regional(regions.get("GL")),
        premium=premium(record),
        liquidity=[show(Liquidity, row) for row in record.liquidity or ()],
        constituents=constituents(record.venues),
    )
