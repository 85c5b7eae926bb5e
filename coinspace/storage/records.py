"""Converts index records to rows and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import orjson
from msgspec import Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.market import FX_MARKET
from coinspace.method.aggregate import Aggregate
from coinspace.method.digits import RATIO_PLACES, significant
from coinspace.method.record import IndexRecord, InputRecord, Kind, VenueRecord, facts
from coinspace.storage.parts import as_json, parts_of, read_parts, write_parts
from coinspace.storage.transport import TimestampNanos

FX_ASSET = FX_MARKET.partition("/")[0]
CONSTITUENT, FX = "constituent", "fx"
T = TypeVar("T", bound=Struct)
# a struct -> its symbols and its other columns
Writer = Callable[[Any], tuple[dict[str, Any], dict[str, Any]]]


@dataclass(slots=True)
class Row:
    table: str
    at_ns: int
    symbols: dict[str, str | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def tick_ns(record: IndexRecord) -> int:
    """Return the tick of a record in ns, exactly."""
    ms = record.ts_ms
    return ms * MILLISECOND_NS if isinstance(ms, int) else round(ms * MILLISECOND_NS)


# expressions of kinds whose stored value differs
_STORED: dict[Kind | None, str] = {
    Kind.NAME: "{0} or None",
    Kind.NAMES: "','.join({0})",
    Kind.FLAG: "bool({0})",
    Kind.AGE: "None if {0} is None else float({0})",
    Kind.INSTANT: "TimestampNanos({0}) if {0} else None",
    Kind.PRICE: "None if {0} is None else significant({0})",
    Kind.RATIO: f"None if {{0}} is None else round({{0}}, {RATIO_PLACES})",
}


def names_of(text: str | None) -> list[str]:
    """Return the names in a column of several names."""
    return [name for name in (text or "").split(",") if name]


# readers of kinds whose stored value differs
_READ: dict[Kind | None, Callable[[Any], Any]] = {
    Kind.NAMES: names_of,
    Kind.INSTANT: lambda ns: ns or 0,
}


@cache
def _writer(record: type[Struct]) -> Writer:
    """Return a function that makes the symbols and the other columns of a struct.

    The function is compiled from its source, like a dataclass's methods. A loop over the fields
    takes four times as long, for each venue at each tick.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for one in facts(record):
        if one.column:
            value = _STORED.get(one.kind, "{0}").format(f"record.{one.attribute}")
            parts[one.kind is not Kind.NAME].append(f"{one.column!r}: {value}")
    symbols, columns = (", ".join(texts) for texts in parts)
    source = f"lambda record: ({{{symbols}}}, {{{columns}}})"
    made: Writer = eval(source, {"significant": significant, "TimestampNanos": TimestampNanos})
    return made


def _counts(record: IndexRecord) -> dict[str, int]:
    venues = record.venues.values()
    return {"n_used": sum(one.used for one in venues), "n_venues": len(venues)}


def tick_row(
    record: IndexRecord, *, table: str = "index_tick", aggregate: Aggregate | None = None
) -> Row:
    """Return the row of a record without its venues."""
    symbols, columns = _writer(type(record))(record)
    part_symbols, part_columns = write_parts(record)
    symbols |= part_symbols
    columns |= part_columns
    columns |= _counts(record) | {
        "latency_ns": record.latency_ns or 0,
        "epoch": aggregate.epoch if aggregate else 0,
        "seq": aggregate.sequence if aggregate else 0,
    }
    return Row(table, tick_ns(record), symbols, columns)


def venue_rows(record: IndexRecord, *, fx: bool) -> Iterator[Row]:
    """Yield a row per venue; fx: also the venues of rates, which all assets of a tick share."""
    at_ns = tick_ns(record)
    roles = [(record.asset, CONSTITUENT, record.venues)]
    if fx:
        roles.append((FX_ASSET, FX, record.fx_venues))
    for asset, role, venues in roles:
        for name, venue in venues.items():
            source = record.inputs[name]
            symbols, columns = _writer(type(venue))(venue)
            more_symbols, more_columns = _writer(type(source))(source)
            symbols |= {"asset": asset, "role": role, "venue": name, **more_symbols}
            columns |= more_columns
            yield Row("index_venue", at_ns, symbols, columns)


def read(record: type[T], row: Mapping[str, Any], **more: Any) -> T:
    """Return the struct of a row's columns.

    Args: more: fields that are not in the row.
    """
    for one in facts(record):
        if one.column and one.column in row and one.attribute not in more:
            more[one.attribute] = _READ.get(one.kind, lambda value: value)(row[one.column])
    return record(**more)


def read_record(
    row: Mapping[str, Any],
    ts_ns: int,
    venues: Iterable[Mapping[str, Any]],
    record: type[IndexRecord] = IndexRecord,
) -> IndexRecord:
    """Return the record of a row of `index_tick` and its rows of `index_venue`."""
    tables: dict[str, dict[str, VenueRecord]] = {CONSTITUENT: {}, FX: {}}
    inputs = {}
    for one in venues:
        tables[one["role"]][one["venue"]] = read(VenueRecord, one)
        inputs[one["venue"]] = read(InputRecord, one)
    return read(
        record,
        row,
        ts_ms=ts_ns // MILLISECOND_NS,
        status=row["status"] or "null",
        venues=tables[CONSTITUENT],
        fx_venues=tables[FX],
        inputs=inputs,
        **read_parts(row, record),
    )


def comparable(record: IndexRecord) -> dict[str, Any]:
    """Return the columns of a record that a recomputation must reproduce exactly."""
    symbols, columns = _writer(type(record))(record)
    del columns["latency_ns"]
    return {**symbols, **columns, **_counts(record), **orjson.loads(as_json(parts_of(record)))}
