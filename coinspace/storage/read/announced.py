"""Announced definitions of the index (`methodology`) and operators' actions (`operator_log`)."""

from __future__ import annotations

from coinspace.storage.read.query import rows
from coinspace.storage.schema import Connection


def newest_definitions(connection: Connection) -> dict[tuple[str, str], str]:
    """Return the newest definition of each asset and role, as JSON text."""
    found = rows(
        connection,
        "SELECT asset, role, definition FROM methodology LATEST ON ts PARTITION BY asset, role",
    )
    return {(asset, role): text for asset, role, text in found}


def definition(connection: Connection, asset: str, parameter_hash: str) -> str | None:
    """Return the newest definition with a parameter hash, as JSON text."""
    found = rows(
        connection,
        "SELECT definition FROM methodology WHERE asset = %s AND parameter_hash = %s"
        " ORDER BY ts DESC LIMIT 1",
        (asset, parameter_hash),
    )
    return str(found[0][0]) if found else None


def first_definitions(connection: Connection) -> dict[str, int]:
    """Return asset -> time of its first definition, in ns."""
    return dict(rows(connection, "SELECT asset, min(ts)::long FROM methodology"))


def operator_actions(connection: Connection) -> list[tuple[str, str, str, str]]:
    """Return (operator, action, target, detail) of all actions, oldest first."""
    found = rows(
        connection,
        "SELECT operator, action, target, detail FROM operator_log ORDER BY ts, entry",
    )
    return [(operator, action, target, detail) for operator, action, target, detail in found]


def targets(connection: Connection, action: str) -> list[tuple[int, str]]:
    """Return (time in ns, target) of all operators' actions of a kind, oldest first."""
    found = rows(
        connection,
        "SELECT ts::long, target FROM operator_log WHERE action = %s ORDER BY ts",
        (action,),
    )
    return [(at_ns, target or "") for at_ns, target in found]
