"""Creates and repairs the database's tables after the declaration in `tables`.

All functions may be repeated and may run in two processes at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from coinspace.clock import now_ns
from coinspace.config import StorageSettings
from coinspace.errors import StorageError
from coinspace.storage import retention as terms
from coinspace.storage.questdb.address import Address
from coinspace.storage.tables import GAP, STORED, TABLES, VIEWS, Table, View, kinds_of

Connection = psycopg.Connection[Any]

CONNECT_TIMEOUT_S = 5
VIEW_NAMES = frozenset(view.name for view in VIEWS)
# tables that can be stored again after a column was missing
_FROM_JOURNALS = frozenset(kind for worker in STORED for kind in kinds_of(worker))
# CoinSpace's tables and views as a list for SQL; other tables on the server are never read
OWN_TABLES = "'" + "', '".join(one.name for one in (*TABLES, *VIEWS)) + "'"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which the database differs from the declaration.

    Attributes:
        text: what was expected and found.
        repair: the statement that repairs it.
        damaging: whether stored rows may have lost a value.
        missing: the whole table is missing; `create` makes it.
    """

    table: str
    text: str
    repair: str
    damaging: bool = False
    missing: bool = False


@contextmanager
def connect(found: Address) -> Iterator[Connection]:
    """Yield a connection that may write.

    Raises: StorageError when the connection fails, and instead of each psycopg.Error in the block.
    """
    try:
        connection = psycopg.connect(found.sql, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
    except psycopg.Error as error:
        raise StorageError(f"SQL: expected a connection, {first_line(error)}") from None
    try:
        with connection:
            yield connection
    except psycopg.Error as error:
        raise StorageError(f"SQL: expected an answer, {first_line(error)}") from None


def create(found: Address, storage: StorageSettings) -> list[str]:
    """Create missing tables and views, and set deduplication keys and TTLs.

    In tables of messages, missing columns and columns of another type are left to `repair`, which
    makes the table's workers store the damaged messages again.

    Returns: the statements that changed something.
    Raises: StorageError when the database refuses one or cannot be reached.
    """
    with connect(found) as connection:
        existing = _tables(connection)
        done = [
            _run(connection, _create(table, storage), table.name)
            for table in TABLES
            if table.name not in existing
        ]
        views = _views(connection)
        for difference in _differences(connection, existing, storage):
            if not difference.damaging:
                done += _repair(connection, difference)
        done += [
            _run(connection, _create(view, storage), view.name)
            for view in VIEWS
            if view.name not in views
        ]
    return done


def _create(one: Table | View, storage: StorageSettings) -> str:
    return one.create(terms.initial(one, storage))


def repair(found: Address, tables: set[str], storage: StorageSettings) -> list[Difference]:
    """Repair the differences of these tables, and refresh their invalid views.

    One call refreshes the lowest invalid view; the next call refreshes the view above it.
    Before a damaged table is repaired, an open row of `gap` makes its workers store its messages
    again from the journals. After the repair the damage could not be seen any more.

    Returns: the differences that were repaired. Raises: StorageError.
    """
    wrong = [one for one in differences(found, storage) if root_of(one.table) in tables]
    if any(one.table == GAP.name and one.missing for one in wrong):
        # a new database has no damage
        wrong = [one for one in wrong if not one.missing]
    # `gap` first: the damage of other tables is written there
    wrong.sort(key=lambda one: one.table != GAP.name)
    create(found, storage)
    with connect(found) as connection:
        reported: set[str] = set()
        for difference in wrong:
            if difference.damaging and difference.table not in reported:
                reported.add(difference.table)
                _report_damage(connection, difference)
            if not difference.missing:
                _repair(connection, difference)
        _refresh(connection, [view.name for view in VIEWS if root_of(view.name) in tables])
    return wrong


def resume(found: Address, only: Collection[str] | None = None) -> list[str]:
    """Resume CoinSpace's suspended tables and views, and refresh invalid views.

    The server suspends a table again while the cause lasts.

    Args: only: resume only these tables and views.
    Returns: the statements that the server accepted. Raises: StorageError.
    """
    with connect(found) as connection:
        rows = connection.execute(
            f"SELECT name FROM wal_tables() WHERE suspended AND name IN ({OWN_TABLES})"
        )
        done = [
            _run(connection, resuming(name), name)
            for (name,) in rows.fetchall()
            if only is None or name in only
        ]
        return done + _refresh(connection, VIEW_NAMES)


def resuming(name: str) -> str:
    """Return the statement that resumes a suspended table or view."""
    return f"ALTER {_kind(name)} {name} RESUME WAL"


def refreshing(view: str) -> str:
    """Return the statement that makes an invalid view valid again."""
    return f"REFRESH MATERIALIZED VIEW {view} FULL"


def _kind(name: str) -> str:
    return "MATERIALIZED VIEW" if name in VIEW_NAMES else "TABLE"


def _refresh(connection: Connection, names: Collection[str]) -> list[str]:
    # the lowest only: its refresh makes the view above invalid, which the next call refreshes
    states = _views(connection)
    done = []
    for view in VIEWS:
        if view.name not in names or states.get(view.name) != "invalid":
            continue
        if states.get(view.base) != "invalid":
            done += _keep_older(connection, view)
            done.append(_run(connection, refreshing(view.name), view.name))
    return done


def _keep_older(connection: Connection, view: View) -> list[str]:
    """Copy the candles whose rows the table below no longer has: a full refresh deletes them."""
    oldest = []
    for name in (view.base, view.name):
        found = connection.execute(f"SELECT min(ts)::long FROM {name}").fetchone()
        oldest.append(found[0] if found else None)
    of_base, of_view = oldest
    if of_base is None or of_view is None or of_view >= of_base - view.length_ns:
        return []
    columns = dict(
        connection.execute(f"SELECT \"column\", type FROM table_columns('{view.name}')").fetchall()
    )
    symbols = [name for name, kind in columns.items() if kind == "SYMBOL"]
    kept = f"{view.name}_kept"
    rows = f"SELECT * FROM {view.name} WHERE ts < {of_base - view.length_ns}::timestamp_ns"
    declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return [
        _run(
            connection,
            f"CREATE TABLE IF NOT EXISTS {kept} ({declared}) TIMESTAMP(ts) PARTITION BY"
            f" {view.partition} WAL DEDUP UPSERT KEYS(ts, {', '.join(symbols)})",
            view.name,
        ),
        _run(connection, f"INSERT INTO {kept} {rows}", view.name),
    ]


def _repair(connection: Connection, difference: Difference) -> list[str]:
    """Repair a difference. Returns: the statement, nothing when another worker was faster."""
    try:
        return [_run(connection, difference.repair, difference.table)]
    except StorageError as error:
        # another worker made the same change, and the server has not applied it yet
        if not any(word in str(error) for word in ("already", "statement is either no-op")):
            raise
        return []


def _report_damage(connection: Connection, difference: Difference) -> None:
    for worker in STORED:
        if difference.table not in kinds_of(worker):
            continue
        try:
            connection.execute(
                "INSERT INTO gap (kind, publisher, status, reason, epoch, first, last, count, ts)"
                f" VALUES (%s, %s, 'open', %s, 0, 0, 0, 0, {now_ns()}::timestamp_ns)",
                (difference.table, worker, f"schema changed: {difference.text}"[:500]),
            )
        except psycopg.Error as error:
            raise StorageError(f"gap: row refused, {first_line(error)}", GAP.name) from None


def root_of(name: str) -> str:
    """Return the table below a view; a table is its own."""
    bases = {view.name: view.base for view in VIEWS}
    while name in bases:
        name = bases[name]
    return name


def differences(found: Address, storage: StorageSettings) -> list[Difference]:
    """Return where the database differs from the declaration. Raises: StorageError."""
    with connect(found) as connection:
        existing = _tables(connection)
        missing = [
            Difference(
                table.name,
                f"table {table.name}: expected a table, was none",
                _create(table, storage),
                damaging=True,
                missing=True,
            )
            for table in TABLES
            if table.name not in existing
        ]
        return missing + _differences(connection, existing, storage)


def _differences(
    connection: Connection, existing: dict[str, _Facts], storage: StorageSettings
) -> list[Difference]:
    found: list[Difference] = []
    for table in TABLES:
        facts = existing.get(table.name)
        if facts is None:
            continue
        found += _column_differences(connection, table)
        if not facts.dedup:
            keys = ", ".join(table.keys)
            found.append(
                Difference(
                    table.name,
                    f"table {table.name}: expected deduplication by {keys}, was none",
                    f"ALTER TABLE {table.name} DEDUP ENABLE UPSERT KEYS({keys})",
                )
            )
    for one in (*TABLES, *VIEWS):
        facts = existing.get(one.name)
        if facts is not None:
            found += _ttl_differences(one, facts.ttl, storage)
    return found


def _ttl_differences(
    one: Table | View, found: terms.Length, storage: StorageSettings
) -> Iterator[Difference]:
    wanted = terms.wanted(one, found, storage)
    if found != wanted:
        yield Difference(
            one.name,
            f"{one.name}: expected TTL {terms.sql(wanted)}, was {terms.sql(found)}",
            f"ALTER {_kind(one.name)} {one.name} SET TTL {terms.sql(wanted)}",
        )


def _column_differences(connection: Connection, table: Table) -> list[Difference]:
    rows = connection.execute(f"SELECT \"column\", type FROM table_columns('{table.name}')")
    types = dict(rows.fetchall())
    found: list[Difference] = []
    for name, kind in table.columns:
        was = types.get(name)
        if was == kind:
            continue
        change = f"ALTER COLUMN {name} TYPE" if was else f"ADD COLUMN IF NOT EXISTS {name}"
        found.append(
            Difference(
                table.name,
                f"{table.name}.{name}: expected {kind}, was {was or 'no column'}",
                f"ALTER TABLE {table.name} {change} {kind}",
                damaging=table.name in _FROM_JOURNALS,
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class _Facts:
    dedup: bool
    ttl: terms.Length


def _tables(connection: Connection) -> dict[str, _Facts]:
    rows = connection.execute(
        "SELECT table_name, dedup, ttlValue, ttlUnit FROM tables()"
        f" WHERE table_name IN ({OWN_TABLES})"
    )
    return {
        name: _Facts(dedup, terms.length(value, unit or ""))
        for name, dedup, value, unit in rows.fetchall()
    }


def _views(connection: Connection) -> dict[str, str]:
    rows = connection.execute(
        f"SELECT view_name, view_status FROM materialized_views() WHERE view_name IN ({OWN_TABLES})"
    )
    return dict(rows.fetchall())


def _run(connection: Connection, statement: str, table: str) -> str:
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        raise StorageError(f"{statement[:120]}: refused, {first_line(error)}", table) from None
    return statement


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type when the text is empty."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
