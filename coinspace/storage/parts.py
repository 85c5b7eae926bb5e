"""The columns of an index record's parts: its regions, its premium, its prices by size.

    kr_value, kr_twap, …, gl_…      a region's fields; its value_raw is the column kr or gl
    kr_venues, kr_shares            the used venues, and their shares in the same order
    premium_a, premium_b, premium_c
    premium_unjudged, fx_doubted
    premium_executable, liquidity   one row of numbers per size, in the order of the struct's fields

Earlier versions stored all parts as JSON in the column `siblings`. Both are read, and both give
the same JSON, which the hash chain covers. A part that has no columns is still stored there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
import numpy as np
import orjson
from msgspec import Struct

from coinspace.method.parameters import CURRENCIES
from coinspace.method.record import (
    ExecutableRecord,
    Fact,
    IndexRecord,
    Kind,
    LiquidityRecord,
    PremiumRecord,
    Valuation,
    facts,
)

# region -> (prefix of its columns, column of its unrounded value)
REGIONS = {region: (f"{region.lower()}_", region.lower()) for region in CURRENCIES}
PREMIUM = {name: f"premium_{name}" for name in PremiumRecord.__struct_fields__}
BY_SIZE: dict[str, type[Struct]] = {
    "premium_executable": ExecutableRecord,
    "liquidity": LiquidityRecord,
}
VENUES, SHARES = "venues", "shares"
_TYPES: dict[Kind | None, str] = {Kind.NAME: "SYMBOL", Kind.FLAG: "BOOLEAN"}


def region_facts() -> list[Fact]:
    """Return the fields of a region that have columns with its prefix."""
    return [one for one in facts(Valuation) if one.column and one.attribute != "value_raw"]


def part_columns() -> tuple[tuple[str, str], ...]:
    """Return the columns of all parts, by name and type."""
    found = []
    for prefix, _ in REGIONS.values():
        found += [
            (prefix + str(one.column), _TYPES.get(one.kind, "DOUBLE")) for one in region_facts()
        ]
        found += [(prefix + VENUES, "SYMBOL"), (prefix + SHARES, "DOUBLE[]")]
    found += [(name, "DOUBLE") for name in PREMIUM.values()]
    found += [("premium_unjudged", "BOOLEAN"), ("fx_doubted", "DOUBLE")]
    return (*found, *((name, "DOUBLE[][]") for name in BY_SIZE))


PART_NAMES = frozenset(name for name, _ in part_columns())


def part_facts(record: type[Struct]) -> tuple[Fact, ...]:
    """Return the fields of a record that are parts."""
    return tuple(one for one in facts(record) if one.kind is Kind.PART)


# parts with columns, in the order of the record; the hash chain never has more
WITH_COLUMNS = tuple(one.attribute for one in part_facts(IndexRecord))


def parts_of(record: IndexRecord) -> dict[str, Any]:
    """Return key -> part of a record."""
    return {one.key: getattr(record, one.attribute) for one in part_facts(type(record))}


def as_json(parts: Mapping[str, Any]) -> str:
    """Return parts as JSON."""
    return orjson.dumps(parts, default=msgspec.to_builtins).decode()


def _writer(prefix: str) -> Callable[[Valuation], tuple[dict[str, Any], dict[str, Any]]]:
    """Return a function that makes a region's symbols and other columns, compiled from source."""
    texts: tuple[list[str], list[str]] = ([], [])
    for one in region_facts():
        pair = f"{prefix + str(one.column)!r}: one.{one.attribute}"
        texts[one.kind is not Kind.NAME].append(pair)
    symbols, columns = (", ".join(pairs) for pairs in texts)
    made: Callable[[Valuation], tuple[dict[str, Any], dict[str, Any]]]
    made = eval(f"lambda one: ({{{symbols}}}, {{{columns}}})")
    return made


_WRITERS = {region: _writer(prefix) for region, (prefix, _) in REGIONS.items()}


def write_parts(record: IndexRecord) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return the symbols and the other columns of a record's parts. Numbers keep every bit."""
    symbols: dict[str, str | None] = {}
    columns: dict[str, Any] = {
        "premium_unjudged": bool(record.premium_unjudged),
        "fx_doubted": record.fx_doubted,
    }
    for region, one in (record.regions or {}).items():
        more_symbols, more_columns = _WRITERS[region](one)
        symbols |= more_symbols
        columns |= more_columns
        if one.shares:
            prefix = REGIONS[region][0]
            symbols[prefix + VENUES] = ",".join(one.shares)
            columns[prefix + SHARES] = np.array([*one.shares.values()], np.float64)
    if (premium := record.premium_parts) is not None:
        columns |= {"premium_a": premium.a, "premium_b": premium.b, "premium_c": premium.c}
    if rows := record.premium_executable:
        columns["premium_executable"] = np.array(
            [(one.size, one.sell_kr, one.buy_kr) for one in rows], np.float64
        )
    if sizes := record.liquidity:
        columns["liquidity"] = np.array([(one.size, one.bid, one.ask) for one in sizes], np.float64)
    others = _others(type(record))
    if others:
        columns["siblings"] = as_json({one.key: getattr(record, one.attribute) for one in others})
    return symbols, columns


@cache
def _others(record: type[Struct]) -> tuple[Fact, ...]:
    return part_facts(record)[len(WITH_COLUMNS) :]


def read_parts(row: Mapping[str, Any], record: type[Struct] = IndexRecord) -> dict[str, Any]:
    """Return attribute -> part of a row of `index_tick`."""
    stored = orjson.loads(row.get("siblings") or b"{}")
    found = {} if WITH_COLUMNS[0] in stored else _from_columns(row)
    hints = {one.encode_name: one.type for one in msgspec.structs.fields(record)}
    for one in part_facts(record):
        if one.attribute not in found:
            found[one.attribute] = msgspec.convert(stored.get(one.key), hints[one.key])
    return found


def stored_siblings(row: Mapping[str, Any]) -> str:
    """Return the parts of a row as JSON, the same text for both ways of storing them.

    A row that stores parts in both ways, or that is damaged, gives a text that no other row has:
    who changes a row must not find a second form of it with the hash of the first.
    """
    text: str = row["siblings"] or "{}"
    try:
        stored = orjson.loads(text)
        found = {} if WITH_COLUMNS[0] in stored else _from_columns(row)
        # no column belongs to JSON of all parts, or to a tick without parts
        unread = not found.get(WITH_COLUMNS[0]) and _any_column(row)
        if not unread and not stored.keys() & found.keys():
            return as_json(found | stored) if found else text
    except (ValueError, TypeError, AttributeError):
        pass
    columns = {name: row.get(name) for name in sorted(PART_NAMES)}
    given = {"siblings": text, "columns": columns}
    return orjson.dumps(given, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _any_column(row: Mapping[str, Any]) -> bool:
    values = (row.get(name) for name in PART_NAMES)
    return any(value is not None and value is not False for value in values)


def _from_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(WITH_COLUMNS)
    # a computed tick has all regions, other ticks have no part
    if all(row.get(f"{prefix}currency") is None for prefix, _ in REGIONS.values()):
        return found
    found["regions"] = {region: _region(row, region) for region in REGIONS}
    found["premium_parts"] = PremiumRecord(**{key: row[name] for key, name in PREMIUM.items()})
    if row["premium"] is not None:
        found["premium_unjudged"] = row["premium_unjudged"]
    found["fx_doubted"] = row["fx_doubted"]
    for name, kind in BY_SIZE.items():
        found[name] = [kind(*map(_number, one)) for one in _list(row[name])]
    return found


def _region(row: Mapping[str, Any], region: str) -> Valuation:
    prefix, raw = REGIONS[region]
    values = {one.attribute: row[prefix + str(one.column)] for one in region_facts()}
    values["value_raw"] = row[raw]
    venues = row[prefix + VENUES]
    names = venues.split(",") if venues else []
    values["shares"] = dict(zip(names, _list(row[prefix + SHARES]), strict=True))
    for one in region_facts():
        if one.needs and values[one.needs] is None:
            values[one.attribute] = None
    return Valuation(**values)


def _list(array: Any) -> list[Any]:
    # an array of a row that is read, or one that is to be written
    return [] if array is None else np.asarray(array, np.float64).tolist()


def _number(value: float) -> float | None:
    return None if value != value else value
