"""From index records, as the calculator publishes and stores them, to the API's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coinspace.endpoint.models import Constituent, IndexValue, LatestIndexValue, Premium, Regional
from coinspace.endpoint.values import decimal

Record = Mapping[str, Any]

REGIONS = {"upbit": "KR", "bithumb": "KR", "binance": "GL"}
CURRENCY = "USDT"
REGION_CURRENCY = {"kr": "KRW", "gl": "USDT"}
# shares and premiums are ratios: 1e-8 is far below what a book resolves
RATIO_PLACES = 8


def venue_parts(venue: str) -> tuple[str, str]:
    """Split `upbit:BTC/KRW` into exchange and market."""
    exchange, _, market = venue.partition(":")
    return exchange, market


def constituents(table: Mapping[str, Record] | None) -> list[Constituent]:
    """Convert a record's venue table."""
    found = []
    for venue, facts in sorted((table or {}).items()):
        exchange, market = venue_parts(venue)
        age = facts.get("age_ms")
        found.append(
            Constituent(
                venue=venue,
                exchange=exchange,
                market=market,
                region=REGIONS.get(exchange),
                used=bool(facts.get("used")),
                reason=facts.get("reason"),
                share=ratio(facts.get("share")),
                mid=decimal(facts.get("mid")),
                age_ms=None if age is None else int(age),
            )
        )
    return found


def ratio(value: float | None) -> str | None:
    """Write a share or premium."""
    return None if value is None else decimal(round(float(value), RATIO_PLACES))


def regional(name: str, value: Any) -> Regional | None:
    """Convert the value of a region: a record of its own, a bare number, or nothing."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return Regional(
            value=decimal(value),
            currency=REGION_CURRENCY[name],
            status="ok",
            reason=None,
            single_source=None,
        )
    number = value.get("value")
    return Regional(
        value=decimal(number),
        currency=value.get("currency") or REGION_CURRENCY[name],
        status=value.get("status") or ("null" if number is None else "ok"),
        reason=value.get("reason"),
        single_source=value.get("single_source"),
    )


def premium(value: Any) -> Premium | None:
    """Convert a premium: {b, a, c} of the methodology, or the coin basis alone."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return Premium(coin=ratio(value), fiat=None, usdt=None)
    executable = value.get("executable") or []
    if isinstance(executable, Mapping):
        executable = [{"size": size, "premium": one} for size, one in executable.items()]
    return Premium(
        coin=ratio(value.get("coin", value.get("b"))),
        fiat=ratio(value.get("fiat", value.get("a"))),
        usdt=ratio(value.get("usdt", value.get("c"))),
        executable=[
            {
                key: one if isinstance(one, str) else decimal(one)
                for key, one in entry.items()
                if isinstance(one, (str, int, float, type(None)))
            }
            for entry in executable
        ],
    )


def fields(record: Record) -> dict[str, Any]:
    """Return what IndexValue is made of."""
    confidence = record.get("confidence")
    depth_limited = record.get("depth_limited")
    return {
        "asset": record["asset"],
        "ts": int(record["ts_ms"]),
        "currency": CURRENCY,
        "status": record.get("status") or "null",
        "reason": record.get("reason"),
        "value": decimal(record.get("value")),
        "value_krw": decimal(record.get("value_krw")),
        "best_bid": decimal(record.get("best_bid")),
        "best_ask": decimal(record.get("best_ask")),
        "fx": decimal(record.get("fx")),
        "fx_status": record.get("fx_status"),
        "kr": regional("kr", record.get("kr")),
        "gl": regional("gl", record.get("gl")),
        "premium": premium(record.get("premium")),
        "median_capped": number(record.get("median_capped")),
        "confidence": number(confidence),
        "twap_1m": number(record.get("twap_1m", record.get("twap"))),
        "utilised_depth": decimal(record.get("utilised_depth")),
        "coverage_depth": decimal(record.get("coverage_depth")),
        "depth_limited": None if depth_limited is None else bool(depth_limited),
        "curve_end": record.get("curve_end"),
        "method_version": text(record.get("method_version")),
        "parameter_hash": text(record.get("parameter_hash")),
        "constituents": constituents(record.get("venues")),
    }


def number(value: Any) -> str | None:
    """Write a number; a table of numbers per region has its composite taken."""
    if isinstance(value, Mapping):
        value = value.get("value", value.get("composite"))
    return decimal(value) if isinstance(value, (int, float, str)) else None


def text(value: Any) -> str | None:
    """Return a value as text, None for none."""
    return None if value is None else str(value)


def index_value(record: Record) -> IndexValue:
    """Convert a record."""
    return IndexValue(**fields(record))


def latest_value(record: Record, now_ms: int, stale_ms: int) -> LatestIndexValue:
    """Convert the newest record."""
    age_ms = max(0, now_ms - int(record["ts_ms"]))
    return LatestIndexValue(**fields(record), age_ms=age_ms, stale=age_ms > stale_ms)
