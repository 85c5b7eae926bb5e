"""Index records as a Parquet or Arrow file: a column per field of the record.

Parts by name, such as the venues, are lists of structs with the name as their first field. Numbers
are those of the JSON lines, not rounded.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import orjson
from msgspec import Struct, to_builtins

from coinspace.errors import CoinSpaceError
from coinspace.method.record import IndexRecord, facts
from coinspace.storage.records import tick_ns

FORMS = ("parquet", "arrow")
# records in memory before they are written
BATCH = 1000


class LinesFile:
    """Writes records to a file of JSON lines, which appears when it is complete.

    Raises: CoinSpaceError for a file that cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise CoinSpaceError(f"--output {path}: expected a writable file: {error}") from None

    def write(self, record: IndexRecord) -> None:
        """Add a record."""
        self._file.write(
            orjson.dumps(record, default=to_builtins, option=orjson.OPT_APPEND_NEWLINE)
        )

    def close(self, *, complete: bool) -> None:
        """Finish the file, or remove it."""
        self._file.close()
        if complete:
            self._part.replace(self._path)
        self._part.unlink(missing_ok=True)


class TableFile(LinesFile):
    """The same as Parquet or Arrow. Raises: CoinSpaceError without pyarrow, too."""

    def __init__(self, path: Path, form: str) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise CoinSpaceError(
                f"{form} needs pyarrow: `pip install pyarrow`; JSON lines need nothing"
            ) from None
        super().__init__(path)
        self._schema = schema()
        self._table = pa.Table.from_pylist
        self._rows: list[dict[str, Any]] = []
        self._writer = (
            pa.ipc.new_stream(self._file, self._schema)
            if form == "arrow"
            else pq.ParquetWriter(self._file, self._schema, compression="zstd")
        )

    def write(self, record: IndexRecord) -> None:
        """Add a record."""
        self._rows.append(to_builtins(record) | {"ts": tick_ns(record)})
        if len(self._rows) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        rows = [
            {one.name: _shaped(one.type, row[one.name]) for one in self._schema}
            for row in self._rows
        ]
        self._writer.write_table(self._table(rows, schema=self._schema))
        self._rows = []

    def close(self, *, complete: bool) -> None:
        """Finish the file, or remove it."""
        if complete and self._rows:
            self._flush()
        self._writer.close()
        super().close(complete=complete)


def schema() -> Any:
    """Return the columns of a record: `ts` in UTC first, then the fields by their JSON names."""
    import pyarrow as pa

    fields = [one for one in _fields(IndexRecord) if one[0] != "ts_ms"]
    return pa.schema([("ts", pa.timestamp("ns", tz="UTC")), *fields])


def _fields(record: type[Struct]) -> list[tuple[str, Any]]:
    hints = get_type_hints(record)
    return [(one.key, _kind(hints[one.attribute], one.key)) for one in facts(record)]


def _kind(hint: Any, name: str) -> Any:
    import pyarrow as pa

    if get_origin(hint) in (Union, types.UnionType):
        plain = [one for one in get_args(hint) if one is not type(None)]
        # an int or a float is a float
        hint = float if float in plain else plain[0]
    if get_origin(hint) is list:
        return pa.list_(_kind(get_args(hint)[0], name))
    if get_origin(hint) is dict:
        part = get_args(hint)[1]
        fields = _fields(part) if issubclass(part, Struct) else [("share", _kind(part, name))]
        key = "region" if name == "regions" else "venue"
        return pa.list_(pa.struct([(key, pa.string()), *fields]))
    if issubclass(hint, Struct):
        return pa.struct(_fields(hint))
    return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[hint]


def _shaped(kind: Any, value: Any) -> Any:
    """Return a value as its column has it: a dict by name as a list."""
    if value is None or kind.num_fields == 0:
        return value
    if isinstance(value, dict) and hasattr(kind, "value_type"):
        key, first, *_ = (one.name for one in kind.value_type)
        value = [
            {key: name, **(one if isinstance(one, dict) else {first: one})}
            for name, one in value.items()
        ]
    if isinstance(value, list):
        return [_shaped(kind.value_type, one) for one in value]
    return {one.name: _shaped(one.type, value.get(one.name)) for one in kind}
