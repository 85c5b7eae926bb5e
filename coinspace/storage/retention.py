"""How long tables keep their rows: QuestDB's TTL and the durations in `storage.retention`."""

from __future__ import annotations

from coinspace.config import KEEP_FOR_EVER, RETENTION, StorageSettings
from coinspace.errors import ConfigError
from coinspace.storage.tables import TABLES, VIEWS, Table, View

# months and years have no fixed number of hours: the server uses the calendar
HOURS = {"HOUR": 1, "DAY": 24, "WEEK": 168}
MONTHS = {"MONTH": 1, "YEAR": 12}
UNITS = {"h": "HOUR", "d": "DAY", "w": "WEEK", "m": "MONTH", "y": "YEAR"}
# partition -> length; the server accepts only multiples of it as a TTL
PARTITIONS = {"HOUR": (1, "h"), "DAY": (24, "h"), "MONTH": (1, "M"), "YEAR": (12, "M")}

# hours ("h") or months ("M"); an unknown unit keeps its name
Length = tuple[int, str]


def length(value: int, unit: str) -> Length:
    """Return a TTL in hours or months, so that 7 days equal a week and 12 months a year."""
    unit = unit.upper().removesuffix("S")
    if unit in HOURS:
        return value * HOURS[unit], "h"
    if unit in MONTHS:
        return value * MONTHS[unit], "M"
    # a later server may have more units
    return (value, unit) if value else (0, "h")


def parse(text: str) -> Length:
    """Return the length of "7d", "3 months" or "off". Raises: ConfigError."""
    if text.lower() in ("", *KEEP_FOR_EVER):
        return 0, "h"
    found = RETENTION.fullmatch(text)
    if found is None:
        raise ConfigError(f"retention: expected a duration such as 7d, was {text!r}")
    return length(int(found[1]), UNITS[found[2][0].lower()])


def sql(wanted: Length) -> str:
    """Return a length as SQL; 0h keeps rows for ever."""
    value, unit = wanted
    if unit == "h" and value and value % 24 == 0:
        return f"{value // 24}d"
    return f"{value}{unit}"


def check(storage: StorageSettings) -> None:
    """Check the table names and durations of `storage.retention`. Raises: ConfigError."""
    known = {one.name: one for one in (*TABLES, *VIEWS)}
    for name, text in storage.retention.items():
        if name not in known:
            raise ConfigError(
                f"storage.retention.{name}: expected one of {', '.join(known)};"
                " for other tables use ALTER TABLE … SET TTL"
            )
        partition = known[name].partition
        value, unit = parse(text)
        size, of = PARTITIONS[partition]
        # a month is not a fixed number of hours, but always whole days
        whole = value % size == 0 if unit == of else of == "h"
        if value and not whole:
            raise ConfigError(
                f"storage.retention.{name}: expected whole partitions of a {partition.lower()},"
                f" was {text!r}"
            )


def wanted(one: Table | View, found: Length, storage: StorageSettings) -> Length:
    """Return the TTL that a table should have.

    A TTL that is not configured stays, since it may have been set manually. Only
    `storage.ttl = "off"` removes the default TTL, which would drop replayed history.
    """
    if one.name in storage.retention:
        return parse(storage.retention[one.name])
    if storage.ttl == "off" and found == parse(one.ttl):
        return 0, "h"
    return found


def initial(one: Table | View, storage: StorageSettings) -> str:
    """Return the TTL of a new table as SQL; "" = none."""
    given = parse(storage.retention.get(one.name, one.ttl if storage.ttl == "on" else ""))
    return sql(given) if given[0] else ""
