"""A hash over each UTC day's stored records, chained to the day before.

    digest(day) = SHA-256 over the rows of index_tick, then of index_venue, each table ordered by
                  its keys; one row = a JSON array of its columns and a line end; columns that
                  were added later come last, and empty ones at the end are left out; the parts of a
                  tick are JSON in the column `siblings`, however the row stores them
    link(day)   = SHA-256(previous link as hex, digest as hex)

A reader of the two tables can compute both again. A changed, added or missing row changes every
link from its day on.

Retention removes whole days, the oldest first. Of such a day the link can still be checked, which
proves that its digest is the one that was made then, and no longer whether the digest is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from coinspace.clock import SECOND_NS
from coinspace.index.backlog import KIND
from coinspace.storage.archive import Archive
from coinspace.storage.parts import PART_NAMES, stored_siblings
from coinspace.storage.read import memory, records
from coinspace.storage.records import Row
from coinspace.storage.schema import Connection
from coinspace.storage.tables import INDEX_TICK, INDEX_VENUE, Table

DAY_NS = 86_400 * SECOND_NS
# rows are read in pieces of a day, so that memory stays small
PIECES = 96
FIRST = "0" * 64


@dataclass(frozen=True, slots=True)
class ChainLink:
    """One day of the chain."""

    day_ns: int
    records: int
    digest: str
    previous: str
    link: str

    @property
    def day(self) -> str:
        """The UTC day as 2026-01-31."""
        return datetime.fromtimestamp(self.day_ns // SECOND_NS, UTC).date().isoformat()

    def row(self) -> Row:
        """Return the row that stores the link."""
        columns = {name: getattr(self, name) for name in ("records", "digest", "previous", "link")}
        return Row("index_chain", self.day_ns, {}, columns)

    def facts(self) -> dict[str, Any]:
        """Return the link as JSON."""
        return {"day": self.day, **{k: v for k, v in asdict(self).items() if k != "day_ns"}}


def digest_day(connection: Connection, day_ns: int) -> tuple[int, str]:
    """Return the number of a day's records and their digest. Raises: StorageError."""
    step = DAY_NS // PIECES

    def stored(table: Table) -> Iterator[tuple[Any, ...]]:
        for start_ns in range(day_ns, day_ns + DAY_NS, step):
            yield from records.whole_rows(connection, table, start_ns, start_ns + step)

    return digest_of(stored)


def digest_of(rows_of: Callable[[Table], Iterable[tuple[Any, ...]]]) -> tuple[int, str]:
    """Return the number of records and their digest. Args: rows_of: rows in order of their keys."""
    hashed = hashlib.sha256()
    count = 0
    for table in (INDEX_TICK, INDEX_VENUE):
        for row in rows_of(table):
            line = hashed_row(table, row)
            hashed.update(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            count += table is INDEX_TICK
    return count, hashed.hexdigest()


def hashed_row(table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the columns of a row that are hashed, the same for all ways of storing a record."""
    named = {name: value for (name, _), value in zip(table.columns, row, strict=True)}
    if "siblings" in named:
        named["siblings"] = stored_siblings(named)
        row = tuple(value for name, value in named.items() if name not in PART_NAMES)
    return hashed_columns(row, table.hashed)


def hashed_columns(row: tuple[Any, ...], first: int) -> tuple[Any, ...]:
    """Return the columns that are hashed: without empty added columns at the end.

    So a row keeps its hash when a column is added to the table: the new column is null or false.

    Args: first: number of columns of the first table version.
    """
    end = len(row)
    while end > first and (row[end - 1] is None or row[end - 1] is False):
        end -= 1
    return row[:end]


def stored_links(connection: Connection) -> list[ChainLink]:
    """Return the chain as stored, oldest first, without the days that were reopened."""
    return [ChainLink(*row) for row in records.links(connection)]


def make_link(connection: Connection, day_ns: int, previous: str) -> ChainLink:
    """Return the link of a day."""
    count, digest = digest_day(connection, day_ns)
    return ChainLink(day_ns, count, digest, previous, linked(previous, digest))


def linked(previous: str, digest: str) -> str:
    """Return the hash of a link from that of the link before and the digest of the day."""
    return hashlib.sha256((previous + digest).encode()).hexdigest()


def reopened(links: list[ChainLink], now_ns: int) -> list[Row]:
    """Return rows that withdraw the links of days that are not over.

    The clock was ahead when these links were made. Their days still get records.
    """
    return [
        Row("index_chain", one.day_ns, {}, {"records": 0})
        for one in links
        if one.day_ns + DAY_NS > now_ns
    ]


def missing_days(connection: Connection, now_ns: int) -> list[int]:
    """Return the closed UTC days with records and without a link, oldest first.

    A day is closed once a later tick is stored and no outage in the day is open: rows that are
    added after the link would break the chain.
    """
    links = stored_links(connection)
    span = records.tick_span(connection)
    if span is None:
        return []
    first_ns = links[-1].day_ns + DAY_NS if links else span[0] // DAY_NS * DAY_NS
    open_ns = memory.first_open_ns(connection, KIND)
    end_ns = min(now_ns, span[1], now_ns if open_ns is None else open_ns)
    return list(range(first_ns, end_ns // DAY_NS * DAY_NS, DAY_NS))


@dataclass(frozen=True, slots=True)
class Checked:
    """A link that was computed again.

    Attributes:
        removed: the day's records are no longer in the database.
        archived: they were read from the archive instead.
    """

    link: ChainLink
    wrong: list[str]
    removed: bool = False
    archived: bool = False


def check(connection: Connection, archive: Archive | None = None) -> Iterator[Checked]:
    """Compute every stored link again. Args: archive: where removed records are read."""
    previous = FIRST
    before_ns = None
    removed_ns = records.removed_until(connection)
    for stored in stored_links(connection):
        removed = stored.day_ns + DAY_NS <= removed_ns
        archived = removed and archive is not None and archive.has(INDEX_TICK, stored.day)
        if archive is not None and archived:
            count, digest = digest_of(partial(archive.rows, day=stored.day))
            link = linked(stored.previous, digest)
            found = replace(stored, records=count, digest=digest, link=link)
        elif removed:
            found = replace(stored, link=linked(stored.previous, stored.digest))
        else:
            found = make_link(connection, stored.day_ns, stored.previous)
        wrong = []
        if found.records != stored.records:
            wrong.append(f"records: expected {stored.records}, was {found.records}")
        if found.digest != stored.digest:
            wrong.append(f"digest: expected {stored.digest}, was {found.digest}")
        if stored.previous != previous:
            wrong.append(f"previous: expected {previous}, was {stored.previous}")
        if found.link != stored.link and not wrong:
            wrong.append(f"link: expected {stored.link}, was {found.link}")
        if before_ns is not None and stored.day_ns != before_ns + DAY_NS:
            wrong.append("day: expected the day after the last one, was a later day")
        yield Checked(stored, wrong, removed, archived)
        previous, before_ns = stored.link, stored.day_ns
