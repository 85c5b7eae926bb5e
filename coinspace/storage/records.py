"""Records <-> rows: what of an index record goes into which column, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct

from coinspace.clock import MILLISECOND_NS
from coinspace.market import FX_MARKET
from coinspace.method.aggregate import Aggregate
from coinspace.method.digits import RATIO_PLACES, significant
from coinspace.method.record import Fact, IndexRecord, InputRecord, Kind, VenueRecord, facts
from coinspace.storage.transport import TimestampNanos

FX_ASSET = FX_MARKET.partition("/")[0]
CONSTITUENT, FX = "constituent", "fx"
T = TypeVar("T", bound=Struct)
# columns of a row that no recomputation gives again
UNREPEATED = ("latency_ns", "epoch", "seq", "siblings")


@dataclass(slots=True)
class Row:
    """One row for the sender."""

    table: str
    at_ns: int
    symbols: dict[str, str | None] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)


def tick_ns(record: IndexRecord) -> int:
    """Return the tick of a record in ns; exact, since ticks are whole ms or parts of them."""
    ms = record.ts_ms
    return ms * MILLISECOND_NS if isinstance(ms, int) else round(ms * MILLISECOND_NS)


def _digits(value: float | None) -> float | None:
    return None if value is None else significant(value)


def _ratio(value: float | None) -> float | None:
    return None if value is None else round(value, RATIO_PLACES)


def _age(value: float | None) -> float | None:
    return None if value is None else float(value)


def _time(ns: int) -> TimestampNanos | None:
    return TimestampNanos(ns) if ns else None


# how a kind is stored, where that is not as it is
_STORED: dict[Kind, Callable[[Any], Any]] = {
    Kind.NAME: lambda value: value or None,
    Kind.NAMES: ",".join,
    Kind.FLAG: bool,
    Kind.AGE: _age,
    Kind.INSTANT: _time,
    Kind.PRICE: _digits,
    Kind.RATIO: _ratio,
}
# how it is read, and the column's null where the field has another one
_READ: dict[Kind, Callable[[Any], Any]] = {
    Kind.NAMES: lambda text: [name for name in (text or "").split(",") if name],
    Kind.INSTANT: lambda ns: ns or 0,
}


def _kept(value: Any) -> Any:
    return value


@cache
def _writers(record: type[Struct]) -> tuple[list[Any], list[Any]]:
    """Return (column, attribute, conversion) of the symbols, and of the other columns."""
    found: tuple[list[Any], list[Any]] = ([], [])
    for one in facts(record):
        if one.column and one.kind:
            writer = (one.column, one.attribute, _STORED.get(one.kind, _kept))
            found[one.kind is not Kind.NAME].append(writer)
    return found


def _stored(record: Struct) -> tuple[dict[str, str | None], dict[str, Any]]:
    symbols, columns = (
        {column: convert(getattr(record, name)) for column, name, convert in writers}
        for writers in _writers(type(record))
    )
    return symbols, columns


@cache
def parts(record: type[Struct]) -> tuple[Fact, ...]:
    """Return the fields of a record that have no column each."""
    return tuple(one for one in facts(record) if one.kind is Kind.PART)


def siblings(record: IndexRecord) -> dict[str, Any]:
    """Return the parts of a record that have no column each, as JSON has them."""
    found = {one.key: getattr(record, one.attribute) for one in parts(type(record))}
    return dict(msgspec.to_builtins(found))


def tick_row(
    record: IndexRecord, *, table: str = "index_tick", aggregate: Aggregate | None = None
) -> Row:
    """Return the row of a record without its venues."""
    symbols, columns = _stored(record)
    venues = record.venues.values()
    columns |= {
        "n_used": sum(one.used for one in venues),
        "n_venues": len(venues),
        "siblings": orjson.dumps(siblings(record)).decode(),
        "latency_ns": record.latency_ns or 0,
        "epoch": aggregate.epoch if aggregate else 0,
        "seq": aggregate.sequence if aggregate else 0,
    }
    return Row(table, tick_ns(record), symbols, columns)


def venue_rows(record: IndexRecord, *, fx: bool) -> Iterator[Row]:
    """Yield a row per venue; fx = the USDT/KRW books too, which all assets of a tick share."""
    at_ns = tick_ns(record)
    roles = [(record.asset, CONSTITUENT, record.venues)]
    if fx:
        roles.append((FX_ASSET, FX, record.fx_venues))
    for asset, role, venues in roles:
        for name, venue in venues.items():
            symbols, columns = _stored(venue)
            more_symbols, more_columns = _stored(record.inputs[name])
            symbols |= {"asset": asset, "role": role, "venue": name, **more_symbols}
            yield Row("index_venue", at_ns, symbols, columns | more_columns)


def read(record: type[T], row: Mapping[str, Any], **more: Any) -> T:
    """Return the struct that a row's columns were made of.

    Args: more: fields that are not in the row.
    """
    for one in facts(record):
        if one.column and one.column in row and one.kind and one.attribute not in more:
            more[one.attribute] = _READ.get(one.kind, _kept)(row[one.column])
    return record(**more)


def read_record(
    row: Mapping[str, Any],
    ts_ns: int,
    venues: Iterable[Mapping[str, Any]],
    record: type[IndexRecord] = IndexRecord,
) -> IndexRecord:
    """Return the record that a row of `index_tick` and its rows of `index_venue` were made of."""
    stored = orjson.loads(row["siblings"] or b"{}")
    hints = {one.encode_name: one.type for one in msgspec.structs.fields(record)}
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
        **{
            one.attribute: msgspec.convert(stored.get(one.key), hints[one.key])
            for one in parts(record)
        },
    )


def comparable(record: IndexRecord) -> dict[str, Any]:
    """Return the columns of a record that a recomputation must give again, to the last bit."""
    row = tick_row(record)
    found = {**row.symbols, **row.columns}
    return {name: found[name] for name in found if name not in UNREPEATED} | siblings(record)
