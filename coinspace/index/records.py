"""Records <-> rows: what of an index record goes into which column, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from coinspace.clock import MILLISECOND_NS
from coinspace.index.calculator import Record
from coinspace.market import FX_MARKET
from coinspace.method.aggregate import Aggregate
from coinspace.method.digits import RATIO_PLACES, significant
from coinspace.storage.transport import TimestampNanos

FX_ASSET = FX_MARKET.partition("/")[0]
CONSTITUENT, FX = "constituent", "fx"

SYMBOLS = ("asset", "status", "reason", "curve_end", "fx_status", "parameter_hash")
NUMBERS = (
    "value",
    "value_raw",
    "value_full",
    "utilised_depth",
    "lambda",
    "size_cap",
    "coverage_depth",
    "fx",
    "best_bid",
    "best_ask",
    "kr",
    "gl",
    "value_krw",
    "premium",
    "confidence",
    "median_capped",
    "twap",
)
# stored with the digits that they mean. The others are stored to the last bit: a calculator that
# starts again, and whoever recomputes, goes on from them
MEANT = (
    "utilised_depth",
    "size_cap",
    "coverage_depth",
    "best_bid",
    "best_ask",
    "value_krw",
    "premium",
    "confidence",
    "median_capped",
    "twap",
)
# a record's parts without a column each
SIBLINGS = (
    "regions",
    "premium_parts",
    "premium_unjudged",
    "premium_executable",
    "fx_doubted",
    "liquidity",
)


@dataclass(slots=True)
class Row:
    """One row for the sender."""

    table: str
    at_ns: int
    symbols: dict[str, str | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def tick_ns(record: Mapping[str, Any]) -> int:
    """Return the tick of a record in ns; exact, since ticks are whole ms or parts of them."""
    ms: int | float = record["ts_ms"]
    return ms * MILLISECOND_NS if isinstance(ms, int) else round(ms * MILLISECOND_NS)


def meant(name: str, value: float | None) -> float | None:
    """Return a number of a record with the digits that it means."""
    if value is None:
        return None
    return round(value, RATIO_PLACES) if name == "premium" else significant(value)


def tick_row(
    record: Record,
    *,
    table: str = "index_tick",
    latency_ns: int = 0,
    aggregate: Aggregate | None = None,
) -> Row:
    """Return the row of a record without its venues."""
    venues = record.get("venues", {})
    columns: dict[str, Any] = {name: record.get(name) for name in NUMBERS}
    columns |= {name: meant(name, columns[name]) for name in MEANT}
    columns |= {
        "depth_limited": bool(record.get("depth_limited")),
        "n_used": sum(bool(one["used"]) for one in venues.values()),
        "n_venues": len(venues),
        "flagged": ",".join(record.get("flagged", ())),
        "fx_flagged": ",".join(record.get("fx_flagged", ())),
        "split": bool(record.get("split")),
        "failed": bool(record.get("failed")),
        "siblings": orjson.dumps({name: record.get(name) for name in SIBLINGS}).decode(),
        "method_version": record["method_version"],
        "latency_ns": latency_ns,
        "epoch": aggregate.epoch if aggregate else 0,
        "seq": aggregate.sequence if aggregate else 0,
    }
    symbols = {name: record.get(name) for name in SYMBOLS}
    return Row(table, tick_ns(record), symbols, columns)


def venue_rows(record: Record, *, fx: bool) -> Iterator[Row]:
    """Yield a row per venue; fx = the USDT/KRW books too, which all assets of a tick share."""
    at_ns = tick_ns(record)
    roles = [(record["asset"], CONSTITUENT, record["venues"])]
    if fx:
        roles.append((FX_ASSET, FX, record["fx_venues"]))
    for asset, role, venues in roles:
        for name, venue in venues.items():
            source = record["inputs"][name]
            yield Row(
                "index_venue",
                at_ns,
                {
                    "asset": asset,
                    "role": role,
                    "venue": name,
                    "reason": venue["reason"],
                    "publisher": source["publisher"] or None,
                },
                {
                    "mid": venue["mid"],
                    "age_ms": None if venue["age_ms"] is None else float(venue["age_ms"]),
                    "used": venue["used"],
                    "share": venue["share"],
                    "epoch": source["epoch"],
                    "seq": source["sequence"],
                    "received_ts": _time(source["received_ns"]),
                    "changed_ts": _time(source["changed_ns"]),
                },
            )


def _time(ns: int) -> TimestampNanos | None:
    return TimestampNanos(ns) if ns else None
