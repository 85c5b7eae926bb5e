"""Stored definitions of the index: parameters, constituents and operators' actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from coinspace.config import Settings
from coinspace.constituents import constituents_of
from coinspace.errors import CoinSpaceError
from coinspace.method.parameters import (
    CURRENCIES,
    METHOD_VERSION,
    NOTES,
    parameter_hash,
    regions_of,
)
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.read.announced import newest_definitions, operator_actions
from coinspace.storage.records import Row

LIVE, NEXT = "live", "next"


def definition(settings: Settings, asset: str, *, candidate: bool = False) -> dict[str, Any]:
    """Return the methodology record of one index: all inputs of its values except books."""
    parameters = settings.index.parameters_of(asset, candidate=candidate)
    depths = settings.depths
    return {
        "asset": asset,
        "method_version": METHOD_VERSION,
        "parameter_hash": parameter_hash(parameters, depths),
        "parameters": parameters.model_dump(),
        "constituents": constituents_of(settings, asset),
        "depths": depths,
        "regions": regions_of(depths),
        "currencies": CURRENCIES,
        "interval_ms": settings.index.interval_ms_of(asset),
        "notes": NOTES,
    }


def definitions(settings: Settings, asset: str, at_ns: int) -> Iterator[Row]:
    """Yield the rows of one index's definitions."""
    for role in (LIVE, NEXT) if settings.index.next else (LIVE,):
        found = definition(settings, asset, candidate=role == NEXT)
        yield Row(
            "methodology",
            at_ns,
            {"asset": asset, "role": role, "parameter_hash": found["parameter_hash"]},
            {
                "method_version": METHOD_VERSION,
                "definition": orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode(),
            },
        )


def announce(settings: Settings, at_ns: int) -> Iterator[Row]:
    """Yield rows of the index's definitions and operator actions that are not stored yet."""
    known, excluded = _stored(settings)
    for asset in settings.index.assets:
        for row in definitions(settings, asset, at_ns):
            if known.get((asset, str(row.symbols["role"]))) != row.columns["definition"]:
                yield row
    yield from _operator_rows(settings.index.excluded, excluded, at_ns)


def _operator_rows(wanted: dict[str, str], logged: dict[str, str], at_ns: int) -> Iterator[Row]:
    changes = [("exclude", name, why) for name, why in wanted.items() if logged.get(name) != why]
    changes += [("include", name, "") for name in logged if name not in wanted]
    for entry, (action, target, detail) in enumerate(changes):
        operator, _, reason = detail.partition(":")
        yield Row(
            "operator_log",
            at_ns,
            {"operator": (operator if reason else "configuration").strip(), "action": action},
            {"target": target, "detail": (reason or detail).strip(), "entry": entry},
        )


def _stored(settings: Settings) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    # when the database cannot answer, every definition is stored once more
    try:
        with schema.connect(address(settings)) as connection:
            definitions = newest_definitions(connection)
            log = operator_actions(connection)
    except CoinSpaceError:
        return {}, {}
    excluded: dict[str, str] = {}
    for operator, action, target, detail in log:
        if action == "exclude":
            excluded[target] = detail if operator == "configuration" else f"{operator}: {detail}"
        elif action == "include":
            excluded.pop(target, None)
    return definitions, excluded
