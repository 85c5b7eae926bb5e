"""`coinspace archive`: closed days become Parquet files, one per day, table and exchange.

    FOLDER/orderbook/upbit/2026-11-30.parquet      FOLDER/orderbook/manifest.json
    FOLDER/index_tick/2026-11-30.parquet

A file gets its name after its rows were counted and its hash was computed from the disk. The
manifest has the rows and the hash of each file. A file whose day got more rows since is written
again. Rows are dropped from the database only when all files of their day have been compared with
the manifest again.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import click
import msgspec

from coinspace.clock import DAY_NS, HOUR_NS, MINUTE_NS, now_ns
from coinspace.config import Settings, config_option, load
from coinspace.errors import ConfigError, StorageError
from coinspace.files import digest, read_regular, replace_file, sync_folder
from coinspace.lock import lock_file
from coinspace.process import ended_by_signals
from coinspace.storage import retention, schema
from coinspace.storage.policy import policies
from coinspace.storage.questdb.address import Address, address
from coinspace.storage.read.query import number, rows
from coinspace.storage.read.records import DROPPED
from coinspace.storage.schema import Connection
from coinspace.storage.tables import (
    INDEX_TICK,
    INDEX_VENUE,
    ORDERBOOK,
    TICKER,
    TRADE,
    Table,
)

ARCHIVED = (ORDERBOOK, TICKER, TRADE, INDEX_TICK, INDEX_VENUE)
MANIFEST = "manifest.json"
# time range of one export
PIECE_NS = HOUR_NS
# of tables without exchanges, whose rows the server sorts: the hash chain needs the order of keys
SORTED_PIECE_NS = 15 * MINUTE_NS
TIMEOUT_S = 120.0
# a day that gets rows each time it is written
TRIES = 3
# names that are safe in a path and in SQL
SAFE = re.compile(r"[a-z0-9_-]{1,64}")
BLOCK_BYTES = 1 << 20
DROP_TIMEOUT_S = 30.0
EVICT_MARGIN_NS = MINUTE_NS
# rows are kept for ever
NO_TTL: retention.Length = (0, "h")


class File(msgspec.Struct, frozen=True):
    """One file in a manifest."""

    rows: int
    bytes: int
    sha256: str


Name = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(one.name for one in ARCHIVED)})$")]
Length = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}[A-Za-z]{1,9}$")]


class Ttl(msgspec.Struct, frozen=True):
    """The TTL that a table has while no day is dropped, as SQL."""

    table: Name
    ttl: Length


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one file. Attributes: day: as 2026-11-30. exchange: "" = all rows of the day."""

    table: Table
    day: str
    exchange: str = ""
    markets: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Path below the table's folder."""
        return f"{self.exchange}/{self.day}.parquet" if self.exchange else f"{self.day}.parquet"

    @property
    def start_ns(self) -> int:
        return day_ns(self.day)

    def where(self, start_ns: int, end_ns: int) -> str:
        """Return the condition of the rows of [start, end)."""
        text = f"ts >= {start_ns}::timestamp_ns AND ts < {end_ns}::timestamp_ns"
        if self.exchange:
            text += f" AND exchange = '{self.exchange}'"
        if self.markets:
            names = ", ".join("'" + market.replace("'", "''") + "'" for market in self.markets)
            text += f" AND market IN ({names})"
        return text


def day_ns(day: str) -> int:
    """Return the start of a day such as 2026-11-30."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 10**9


class Archive:
    """The files of one folder and their manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._manifests: dict[str, dict[str, File]] = {}

    def path(self, part: Part) -> Path:
        return self.folder / part.table.name / part.name

    def files(self, table: str) -> dict[str, File]:
        """Return name -> file of a table's manifest. Raises: StorageError for a damaged one."""
        found = self._manifests.get(table)
        if found is None:
            path = self.folder / table / MANIFEST
            try:
                found = msgspec.json.decode(path.read_bytes(), type=dict[str, File])
            except FileNotFoundError:
                found = {}
            except (OSError, msgspec.DecodeError) as error:
                raise StorageError(f"{path}: expected a manifest, {error}") from None
            self._manifests[table] = found
        return found

    def add(self, part: Part, file: File) -> None:
        """Write a file's entry into the manifest."""
        table = part.table.name
        found = self.files(table) | {part.name: file}
        content = msgspec.json.format(msgspec.json.encode(dict(sorted(found.items()))))
        replace_file(self.folder / table / MANIFEST, content, durable=True)
        sync_folder(self.folder)
        self._manifests[table] = found

    def problem(self, table: str, name: str) -> str | None:
        """Return how a file differs from its manifest, None = it is whole."""
        path, file = self.folder / table / name, self.files(table)[name]
        try:
            found = digest(path)
        except OSError as error:
            return f"{path}: {error.strerror}"
        return None if found == file.sha256 else f"{path}: expected SHA-256 {file.sha256}"

    def has(self, table: Table, day: str) -> bool:
        """Return whether a day without exchanges is archived."""
        return Part(table, day).name in self.files(table.name)

    def rows(self, table: Table, day: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a day without exchanges, as the database returns them.

        Raises: StorageError when the file is not the one of the manifest.
        """
        part = Part(table, day)
        if part.name not in self.files(table.name):
            return
        if problem := self.problem(table.name, part.name):
            raise StorageError(problem)
        arrow = _arrow()
        names = [name for name, _ in table.columns]
        for batch in arrow.parquet.ParquetFile(self.path(part)).iter_batches(columns=names):
            columns = [
                one.cast(arrow.int64()) if arrow.types.is_timestamp(one.type) else one
                for one in (batch.column(name) for name in names)
            ]
            for row in zip(*(one.to_pylist() for one in columns), strict=True):
                yield tuple(map(_plain, row))


class Archiver:
    """Writes closed days of the database into an archive.

    Args: report: called with a line for each file and each dropped day.
    """

    def __init__(
        self, settings: Settings, archive: Archive, report: Callable[[str], object]
    ) -> None:
        self._found = address(settings)
        if not self._found.http:
            raise ConfigError("storage.ilp: the archive needs an http:: address, was tcp::")
        self._policies = policies(settings)
        self.archive = archive
        self._report = report
        # The TTL that a table has to get back. Not in `run`, which `coinspace up` clears.
        self._note = settings.data / "archive-ttl.json"
        self.written = self.dropped = 0

    def run(self, older_ns: int, drop_ns: int | None, tables: tuple[Table, ...]) -> None:
        """Write days that ended `older_ns` ago; drop those that ended `drop_ns` ago.

        Raises: StorageError for the first file that cannot be written; nothing is dropped then.
        """
        now = now_ns()
        with schema.connect(self._found) as connection:
            restore_ttl(connection, self._note)
            for table in tables:
                days = [
                    day
                    for day in stored_days(connection, table.name)
                    if day_ns(day) + DAY_NS + older_ns <= now
                ]
                for day in days:
                    for part in self._parts(connection, table, day):
                        self._write(connection, part)
                if drop_ns is not None:
                    old = [day for day in days if day_ns(day) + DAY_NS + drop_ns <= now]
                    self._drop(connection, table, old)

    def _parts(self, connection: Connection, table: Table, day: str) -> Iterator[Part]:
        if ("exchange", "SYMBOL") not in table.columns:
            yield Part(table, day)
            return
        whole = Part(table, day)
        markets: dict[str, list[str]] = {}
        left_out: set[str] = set()
        for exchange, market in rows(
            connection,
            f"SELECT DISTINCT exchange, market FROM {table.name}"
            f" WHERE {whole.where(whole.start_ns, whole.start_ns + DAY_NS)}",
        ):
            if not SAFE.fullmatch(exchange or ""):
                raise StorageError(f"{table.name}: expected an exchange's name, was {exchange!r}")
            if self._policies.archived(exchange, market):
                markets.setdefault(exchange, []).append(market)
            else:
                left_out.add(exchange)
        for exchange, names in sorted(markets.items()):
            chosen = tuple(sorted(names)) if exchange in left_out else ()
            yield Part(table, day, exchange, chosen)

    def _write(self, connection: Connection, part: Part) -> None:
        known = self.archive.files(part.table.name).get(part.name)
        stored = _count(connection, part)
        path = self.archive.path(part)
        if known is not None and known.rows == stored and path.exists():
            return
        if known is not None and known.rows > stored:
            if _retention(connection, part.table) != NO_TTL:
                # it removes the oldest hours of a day first, also those that are archived
                self._report(f"{path}: kept, the retention has removed rows of its day")
                return
            raise StorageError(
                f"{path}: has {known.rows} rows, the database has {stored}; it was not changed"
            )
        for _ in range(TRIES):
            written = self._export(part, path)
            stored = _count(connection, part)
            if written.rows == stored:
                break
            # rows came meanwhile
        else:
            path.with_suffix(".part").unlink(missing_ok=True)
            raise StorageError(f"{path}: the day got rows during {TRIES} attempts; try again later")
        try:
            path.with_suffix(".part").replace(path)
            sync_folder(path.parent)
            self.archive.add(part, written)
        except OSError as error:
            raise _refused(path, error) from None
        self.written += 1
        self._report(f"{path}: {written.rows:,} rows, {written.bytes:,} bytes")

    def _export(self, part: Part, path: Path) -> File:
        """Write the rows of a part beside `path`. Returns: what the disk has."""
        arrow = _arrow()
        target, piece = path.with_suffix(".part"), path.with_suffix(".piece")
        names = ", ".join(f'"{name}"' for name, _ in part.table.columns)
        keys = ", ".join(part.table.keys)
        order, step_ns = ("ts", PIECE_NS) if part.exchange else (keys, SORTED_PIECE_NS)
        writer = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for start_ns in range(part.start_ns, part.start_ns + DAY_NS, step_ns):
                fetch(
                    self._found,
                    f"SELECT {names} FROM {part.table.name}"
                    f" WHERE {part.where(start_ns, start_ns + step_ns)} ORDER BY {order}",
                    piece,
                )
                found = arrow.parquet.ParquetFile(piece)
                for batch in found.iter_batches():
                    if writer is None:
                        plain = batch.schema.remove_metadata()
                        writer = arrow.parquet.ParquetWriter(target, plain, compression="zstd")
                    writer.write_table(arrow.Table.from_batches([batch]).cast(writer.schema))
            if writer is None:
                raise StorageError(f"{path}: expected rows, found none")
            writer.close()
            with target.open("rb") as file:
                os.fsync(file.fileno())
            count = arrow.parquet.ParquetFile(target).metadata.num_rows
            return File(count, target.stat().st_size, digest(target))
        except BaseException as error:
            target.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _refused(path, error) from None
            raise
        finally:
            piece.unlink(missing_ok=True)

    def _drop(self, connection: Connection, table: Table, days: list[str]) -> None:
        """Drop the oldest days whose files are whole, up to the first day that is not."""
        files = self.archive.files(table.name)
        good: list[str] = []
        for day in days:
            for part in self._parts(connection, table, day):
                file = files.get(part.name)
                if file is None or file.rows != _count(connection, part):
                    raise StorageError(f"{table.name} {day}: not archived; nothing was dropped")
                if problem := self.archive.problem(table.name, part.name):
                    raise StorageError(f"{problem}; nothing was dropped")
            if table in (INDEX_TICK, INDEX_VENUE) and not _linked(connection, day):
                # the link's hash needs the rows
                break
            good.append(day)
        end_ns = day_ns(good[-1]) + DAY_NS if good else 0
        if not good:
            return
        if not _evict(connection, table, end_ns, self._note):
            self._report(
                f"{table.name}: {len(good)} days are ready and were not dropped, since rows that"
                " come now could end a later hour; run it again in some minutes, while rows come"
            )
        else:
            if table is INDEX_TICK:
                # `verify-chain` accepts that these records are gone
                connection.execute(
                    "INSERT INTO operator_log (operator, action, target, detail, entry, ts)"
                    f" VALUES ('archive', '{DROPPED}', %s, %s, 0, {now_ns()}::timestamp_ns)",
                    (str(end_ns), str(self.archive.folder)),
                )
            self.dropped += len(good)
            self._report(f"{table.name}: {len(good)} days dropped, up to {good[-1]}")


def stored_days(connection: Connection, table: str) -> list[str]:
    """Return the UTC days of a table's partitions, oldest first."""
    found = rows(connection, f"SELECT name FROM table_partitions('{table}')")
    return sorted({name[:10] for (name,) in found})


def _count(connection: Connection, part: Part) -> int:
    where = part.where(part.start_ns, part.start_ns + DAY_NS)
    return number(connection, f"SELECT count() FROM {part.table.name} WHERE {where}") or 0


def _linked(connection: Connection, day: str) -> bool:
    sql = "SELECT count() FROM index_chain WHERE ts = %s::timestamp_ns AND link != null"
    return bool(number(connection, sql, (day_ns(day),)))


def _retention(connection: Connection, table: Table) -> retention.Length:
    ((value, unit),) = rows(
        connection, f"SELECT ttlValue, ttlUnit FROM tables() WHERE table_name = '{table.name}'"
    )
    return retention.length(value, unit or "")


def _evict(connection: Connection, table: Table, end_ns: int, note: Path) -> bool:
    """Drop all rows before an instant by a TTL that ends there. Returns: whether they are gone.

    DROP PARTITION would make the table's views invalid, and they would lose their older rows.
    """
    newest = number(connection, f"SELECT max(ts)::long FROM {table.name}")
    if newest is None:
        return False
    # In partitions of the table: with days, the hours of a later day would go as well.
    unit, length_ns = ("HOURS", HOUR_NS) if table.partition == "HOUR" else ("DAYS", DAY_NS)
    now = now_ns()
    count = (min(newest, now) - end_ns) // length_ns
    if count < 1 or (now + EVICT_MARGIN_NS - end_ns) // length_ns != count:
        # Rows may come now that are as new as the clock, as after an outage. The TTL counts from
        # the newest one, and would end one more partition.
        return False
    before = retention.sql(_retention(connection, table))
    replace_file(note, msgspec.json.encode(Ttl(table.name, before)), durable=True)
    connection.execute(f"ALTER TABLE {table.name} SET TTL {count} {unit}".encode())
    try:
        # the server looks at the TTL at a commit; the row replaces itself
        connection.execute(
            f"INSERT INTO {table.name} SELECT * FROM {table.name}"
            f" WHERE ts = {newest}::timestamp_ns".encode()
        )
        deadline = time.monotonic() + DROP_TIMEOUT_S
        while time.monotonic() < deadline:
            if not any(day_ns(day) < end_ns for day in stored_days(connection, table.name)):
                return True
            time.sleep(0.1)
        return False
    finally:
        restore_ttl(connection, note)


def restore_ttl(connection: Connection, note: Path) -> None:
    """Set the TTL back that a run had changed, also one that was killed meanwhile."""
    try:
        one = msgspec.json.decode(read_regular(note), type=Ttl)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError) as error:
        raise StorageError(f"{note}: expected the TTL of a table, {error}") from None
    connection.execute(f"ALTER TABLE {one.table} SET TTL {one.ttl}".encode())
    note.unlink()


def fetch(found: Address, query: str, target: Path) -> None:
    """Write the result of a query as Parquet. Raises: StorageError, OSError of the disk."""
    token = base64.b64encode(f"{found.user}:{found.password}".encode()).decode()
    request = urllib.request.Request(
        f"{found.http}/exp?fmt=parquet&query={urllib.parse.quote(query)}",
        headers={"Authorization": f"Basic {token}"} if found.user else {},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(300).decode(errors="replace")
        raise StorageError(f"export: expected rows, was status {error.code}: {text}") from None
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException) as error:
        raise StorageError(f"export: expected an answer, {error}") from None
    with answer, target.open("wb") as file:
        try:
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            raise StorageError(f"export: expected a whole answer, {error!r}") from None


def remove_parts(folder: Path) -> None:
    """Remove what a run that was killed left: the lock shows that none runs.

    The folder may have other files than the archive's.
    """
    for table in ARCHIVED:
        for name in ("*.part", "*.piece", "*/*.part", "*/*.piece"):
            for left in (folder / table.name).glob(name):
                if left.is_file():
                    left.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if value != value else value


def _refused(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written, {error.strerror or error}; nothing was dropped"
    )


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "archive: expected pyarrow, found none: pip install 'coinspace[arrow]'"
        ) from None
    return pyarrow


def _length_ns(text: str) -> int:
    value, unit = retention.parse(text)
    if unit != "h" or value % 24:
        raise ConfigError(f"expected whole days such as 2d, was {text!r}")
    return value * HOUR_NS


@click.command()
@config_option
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--older", default="1d", show_default=True, help="write days that ended this long ago"
)
@click.option("--drop", "drop", help="drop archived days that ended this long ago, as 7d")
@click.option("--table", "names", multiple=True, help="only this table; may be repeated")
def archive(
    config_path: str | None, folder: Path, older: str, drop: str | None, names: tuple[str, ...]
) -> None:
    """Write closed days as Parquet into FOLDER, one file per day, table and exchange.

    Files that are complete are skipped, so a later run goes on where an earlier one ended. With
    --drop, days whose files are whole are dropped from the database.
    """
    settings = load(config_path)
    known = {table.name: table for table in ARCHIVED}
    for name in names:
        if name not in known:
            raise ConfigError(f"--table: expected one of {', '.join(known)}, was {name!r}")
    older_ns = _length_ns(older)
    drop_ns = None if drop is None else max(_length_ns(drop), older_ns)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        running = settings.data / "run"
        running.mkdir(parents=True, exist_ok=True)
        # of the folder, and of the database: a run changes its tables' TTL
        locks = [
            lock_file(path, f"archive {folder}", advice="wait until it has ended")
            for path in (folder / ".lock", running / "archive.lock")
        ]
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: expected a writable folder, {error.strerror}"
        ) from None
    try:
        # a signal, too, sets the table's TTL back
        with ended_by_signals():
            remove_parts(folder)
            work = Archiver(settings, Archive(folder), click.echo)
            work.run(older_ns, drop_ns, tuple(known[name] for name in names or known))
    finally:
        for lock in locks:
            os.close(lock)
    click.echo(f"{work.written} files written, {work.dropped} days dropped", err=True)
