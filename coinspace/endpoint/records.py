"""From index records, as the calculator publishes and stores them, to the API's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coinspace.endpoint.models import (
    Constituent,
    ExecutablePremium,
    IndexValue,
    Liquidity,
    Premium,
    Regional,
)
from coinspace.endpoint.values import decimal, decimals, price
from coinspace.method.digits import RATIO_PLACES, rounded, significant
from coinspace.method.parameters import REGIONS

Record = Mapping[str, Any]

CURRENCY = "USDT"
# columns of stored rows: a region's value, rounded as the index's own, and computed prices
REGIONAL = ("kr", "gl")
CONVERTED = ("value_krw", "best_bid", "best_ask", "fx")


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
                mid=price(facts.get("mid")),
                age_ms=None if age is None else int(age),
            )
        )
    return found


def ratio(value: float | None) -> str | None:
    """Write a share or premium."""
    return None if value is None else decimal(round(float(value), RATIO_PLACES))


def column(
    rows: Sequence[Mapping[str, Any]], name: str, decimals_shown: int | None
) -> list[str | None]:
    """Write a column of stored rows as `served` rounds it, several times faster."""
    values = (row[name] for row in rows)
    if name in REGIONAL:
        return decimals(None if one is None else rounded(one, decimals_shown) for one in values)
    if name in CONVERTED:
        return [price(one) for one in values]
    if name == "premium":
        return decimals(None if one is None else round(one, RATIO_PLACES) for one in values)
    return decimals(values)


def served(row: Mapping[str, Any], decimals_shown: int | None) -> dict[str, Any]:
    """Return a stored row with the digits that its numbers mean, as the live record has them.

    Args: decimals_shown: of the asset's published value.
    """
    found = dict(row)
    for name, value in row.items():
        if value is None:
            continue
        if name in REGIONAL:
            found[name] = rounded(value, decimals_shown)
        elif name in CONVERTED:
            found[name] = significant(value)
        elif name == "premium":
            found[name] = round(value, RATIO_PLACES)
    return found


def regional(value: Record | None) -> Regional | None:
    """Convert a region's part of a record."""
    if value is None:
        return None
    return Regional(
        value=decimal(value["value"]),
        currency=value["currency"],
        status="null" if value["value"] is None else "ok",
        reason=value.get("reason"),
        single_source=value.get("single_source"),
        unjudged=value.get("unjudged"),
        median_capped=price(value.get("median_capped")),
        confidence=price(value.get("confidence")),
        twap_1m=price(value.get("twap")),
        alarm=value.get("alarm"),
    )


def premium(record: Record) -> Premium | None:
    """Convert the premium: parts a (fiat), b (coin) and c (of USDT) of the methodology."""
    parts = record.get("premium_parts")
    if parts is None:
        return None
    executable = [
        ExecutablePremium(
            size=decimal(row["size"]), sell_kr=ratio(row["sell_kr"]), buy_kr=ratio(row["buy_kr"])
        )
        for row in record.get("premium_executable") or ()
    ]
    return Premium(
        coin=ratio(parts["b"]),
        fiat=ratio(parts["a"]),
        usdt=ratio(parts["c"]),
        unjudged=record.get("premium_unjudged"),
        executable=executable,
    )


def fields(record: Record) -> dict[str, Any]:
    """Return what IndexValue is made of."""
    regions = record.get("regions") or {}
    liquidity = [
        Liquidity(size=decimal(row["size"]), bid=price(row["bid"]), ask=price(row["ask"]))
        for row in record.get("liquidity") or ()
    ]
    return {
        "asset": record["asset"],
        "ts": int(record["ts_ms"]),
        "currency": CURRENCY,
        "status": record["status"],
        "reason": record.get("reason"),
        "value": decimal(record["value"]),
        "value_krw": price(record.get("value_krw")),
        "best_bid": price(record.get("best_bid")),
        "best_ask": price(record.get("best_ask")),
        "fx": price(record.get("fx")),
        "fx_status": record.get("fx_status"),
        "kr": regional(regions.get("KR")),
        "gl": regional(regions.get("GL")),
        "premium": premium(record),
        "median_capped": price(record.get("median_capped")),
        "confidence": price(record.get("confidence")),
        "twap_1m": price(record.get("twap")),
        "utilised_depth": price(record.get("utilised_depth")),
        "coverage_depth": price(record.get("coverage_depth")),
        "depth_limited": record.get("depth_limited"),
        "curve_end": record.get("curve_end"),
        "size_cap": price(record.get("size_cap")),
        "liquidity": liquidity,
        "split": record.get("split"),
        "failed": record.get("failed"),
        "repeated": bool(record.get("repeated")),
        "method_version": text(record.get("method_version")),
        "parameter_hash": text(record.get("parameter_hash")),
        "constituents": constituents(record.get("venues")),
    }


def text(value: Any) -> str | None:
    """Return a value as text, None for none."""
    return None if value is None else str(value)


def index_value(record: Record) -> IndexValue:
    """Convert a record."""
    return IndexValue(**fields(record))
