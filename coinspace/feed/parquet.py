"""Feeds as Parquet and back, for notebooks and databases.

Columns: received_ns int64, direction string, path string, kind string, symbol string, payload
binary. The header is the file's metadata `coinspace-feed`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from coinspace.errors import FeedError
from coinspace.feed.format import FeedReader, FeedWriter
from coinspace.feed.progress import progress_bar
from coinspace.feed.recorded import label

ROWS = 50_000
METADATA = b"coinspace-feed"


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise FeedError("Parquet: expected pyarrow, `pip install coinspace[arrow]`") from None
    return pyarrow


def to_parquet(reader: FeedReader, target: Path) -> int:
    """Write a feed as Parquet; return its rows."""
    arrow = _arrow()
    schema = arrow.schema(
        [
            ("received_ns", arrow.int64()),
            ("direction", arrow.dictionary(arrow.int8(), arrow.string())),
            ("path", arrow.string()),
            ("kind", arrow.dictionary(arrow.int16(), arrow.string())),
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
    """Write a feed from what `to_parquet` wrote; return its records.

    Raises: FeedError when the file is no Parquet file or not from a feed.
    """
    arrow = _arrow()
    try:
        file = arrow.parquet.ParquetFile(source)
    except (OSError, arrow.ArrowInvalid) as error:
        raise FeedError(f"{source}: expected a Parquet file, {error}") from None
    header = (file.schema_arrow.metadata or {}).get(METADATA)
    if header is None:
        raise FeedError(f"{source}: expected metadata {METADATA.decode()!r} with a feed's header")
    with (
        progress_bar(f"convert {source.name}", file.metadata.num_rows) as done,
        FeedWriter(target, orjson.loads(header)) as writer,
    ):
        for batch in file.iter_batches(
            ROWS, columns=["received_ns", "direction", "path", "payload"]
        ):
            for row in batch.to_pylist():
                payload = row["payload"]
                writer.write(row["received_ns"], row["direction"], row["path"] or "", payload)
            done(writer.records)
        return writer.records
