"""Converts feeds to Parquet and back, for notebooks and databases.

Columns: received_ns int64, direction string, path string, kind string, symbol string, payload
binary. The header is the file's metadata `coinspace-feed`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from coinspace.errors import FeedError
from coinspace.recording.format import LAST_NS, FeedReader, FeedWriter, Record, read_header
from coinspace.recording.frames import label
from coinspace.recording.lines import FREE_BYTES, MOST_INFLATION
from coinspace.recording.progress import progress_bar

ROWS = 50_000
METADATA = b"coinspace-feed"
# columns that make a record; the others are for readers of the table
COLUMNS = ("received_ns", "direction", "path", "payload")
# of a record's line beside path and payload: rows of nothing count, too
LINE_BYTES = 23
# bytes of rows in memory: a file may have one large text and a million rows that repeat it
PART_BYTES = 64 << 20


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise FeedError("Parquet: expected pyarrow, `pip install pyarrow`") from None
    return pyarrow


def to_parquet(reader: FeedReader, target: Path) -> int:
    """Write a feed as Parquet. Returns: the number of rows."""
    arrow = _arrow()
    schema = arrow.schema(
        [
            ("received_ns", arrow.int64()),
            ("direction", arrow.dictionary(arrow.int8(), arrow.string())),
            ("path", arrow.string()),
            ("kind", arrow.dictionary(arrow.int32(), arrow.string())),
            ("symbol", arrow.dictionary(arrow.int32(), arrow.string())),
            ("payload", arrow.binary()),
        ],
        metadata={METADATA: orjson.dumps(reader.header)},
    )
    rows: list[tuple[Any, ...]] = []
    total = 0
    with arrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:

        def flush() -> None:
            columns = list(zip(*rows, strict=True))
            arrays = [
                arrow.array(column, type=one.type)
                for column, one in zip(columns, schema, strict=True)
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows.clear()

        for record in reader:
            kind = symbol = None
            if record.direction == "<":
                what = label(reader.exchange, record.payload)
                kind, symbol = (what.kinds[0] if what.kinds else None), what.symbol or None
            head = (record.received_ns, record.direction, record.path or None)
            rows.append((*head, kind, symbol, record.payload))
            total += 1
            if len(rows) >= ROWS:
                flush()
        if rows:
            flush()
    return total


def from_parquet(source: Path, target: Path) -> int:
    """Write a feed from a file of `to_parquet`. Returns: the number of records.

    Raises: FeedError when the file is damaged, not Parquet or not made from a feed.
    """
    arrow = _arrow()
    try:
        # a repeated text is in memory once
        file = arrow.parquet.ParquetFile(source, read_dictionary=list(COLUMNS[1:]))
        header = _header(file, source)
        room = _most_bytes(source)
        with (
            progress_bar(f"convert {source.name}", file.metadata.num_rows) as done,
            FeedWriter(target, header) as writer,
        ):
            for batch in file.iter_batches(ROWS, columns=list(COLUMNS)):
                for row in _rows(arrow, batch):
                    record = _record(row)
                    room -= LINE_BYTES + len(record.path) + len(record.payload)
                    if room < 0:
                        raise _inflates(source)
                    writer.write(*record)
                done(writer.records)
            return writer.records
    except (OSError, arrow.ArrowException, ValueError, TypeError) as error:
        raise FeedError(f"{source}: expected a Parquet file of a feed, {error}") from None


def _header(file: Any, source: Path) -> dict[str, Any]:
    text = (file.schema_arrow.metadata or {}).get(METADATA)
    if text is None:
        raise FeedError(f"{source}: expected metadata {METADATA.decode()!r} with a feed's header")
    for name in COLUMNS:
        if name not in file.schema_arrow.names:
            raise FeedError(f"{source}: expected a column {name}, found none")
    groups = range(file.metadata.num_row_groups)
    size = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if size > _most_bytes(source):
        raise _inflates(source)
    return read_header(text)


def _most_bytes(source: Path) -> int:
    return max(FREE_BYTES, MOST_INFLATION * source.stat().st_size)


def _inflates(source: Path) -> FeedError:
    return FeedError(
        f"{source}: expected a recording, was a file that decompresses to more than"
        f" {MOST_INFLATION} times its size"
    )


def _rows(arrow: Any, batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch; the texts of some of them are in memory at a time."""
    largest = 1
    for name in COLUMNS[1:]:
        texts = getattr(batch.column(name), "dictionary", None)
        if texts is not None and len(texts):
            largest += arrow.compute.max(arrow.compute.binary_length(texts)).as_py() or 0
    count = max(1, PART_BYTES // largest)
    for start in range(0, len(batch), count):
        yield from batch.slice(start, count).to_pylist()


def _record(row: dict[str, Any]) -> Record:
    received_ns, direction, path, payload = (row[name] for name in COLUMNS)
    if type(received_ns) is not int or not 0 <= received_ns <= LAST_NS:
        raise ValueError(f"received_ns: expected ns since 1970, was {received_ns!r}")
    if not isinstance(payload, bytes) or not isinstance(path or "", str):
        raise ValueError("expected a path as text and a payload as bytes")
    return Record(received_ns, direction, path or "", payload)
