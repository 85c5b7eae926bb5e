"""Whole ranges as CSV, Arrow or Parquet, read and encoded page by page.

A download of any length needs memory for one page of rows and for the bytes that the socket has
not taken yet. Numbers are decimal strings in CSV and float64 in the binary formats. Arrays are JSON
in CSV and lists of float64 in the binary formats. A side of a book is [[prices], [sizes]].
"""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, get_origin, get_type_hints
from urllib.parse import quote

import orjson
from blacksheep.contents import StreamedContent
from blacksheep.messages import Request, Response
from msgspec import Struct

from coinspace.endpoint.http.connection import connection
from coinspace.endpoint.http.problem import Problem, retry_later
from coinspace.endpoint.values import EpochMs, Side, decimal

CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
JSON = "application/json"
FORMATS = (JSON, CSV, ARROW, PARQUET)
PAGE_ROWS = 5000
# a download waits this long for its turn; then the client is asked to retry after `RETRY_S`
WAIT_S = 5.0
RETRY_S = 10

# time: int ms; instant: a datetime
Kind = Literal[
    "time", "instant", "number", "text", "integer", "flag", "array", "array1", "array2", "array3"
]
Columns = Mapping[str, Kind]
Rows = list[dict[str, Any]]
Pages = AsyncIterator[Rows]


# type of a model's field -> kind of column
_KINDS: dict[Any, Kind] = {
    EpochMs: "time",
    EpochMs | None: "time",
    int: "integer",
    str: "text",
    str | None: "text",
    Side: "array2",
}


def columns_of(model: type[Struct], *without: str) -> Columns:
    """Return the columns of rows of a model, without some of its fields."""
    return {
        name: "text" if _is_word(kind) else _KINDS.get(kind, "number")
        for name, kind in get_type_hints(model, include_extras=True).items()
        if name not in without
    }


def _is_word(kind: Any) -> bool:
    return any(get_origin(one) is Literal for one in (kind, *get_args(kind)))


class Encoder(Protocol):
    """Rows in, bytes out; `end` returns the last bytes of the file."""

    def rows(self, rows: Rows) -> bytes: ...

    def end(self) -> bytes: ...


def accepted(request: Request) -> str:
    """Return the format that the client prefers.

    Raises: Problem 406 when the client accepts none of `FORMATS`.
    """
    header = request.get_first_header(b"accept")
    if header is None:
        return JSON
    found: list[tuple[float, int, str]] = []
    for number, part in enumerate(header.decode("latin-1").split(",")):
        words = [word.strip().lower() for word in part.split(";")]
        weight = 1.0
        for word in words[1:]:
            if word.startswith("q="):
                try:
                    weight = float(word[2:])
                except ValueError:
                    weight = 0.0
        chosen = _match(words[0])
        if chosen and weight > 0:
            found.append((-weight, number, chosen))
    if not found:
        raise Problem(
            "not-acceptable",
            f"accept: expected one of {', '.join(FORMATS)}, was {header.decode('latin-1')[:100]!r}",
        )
    return min(found)[2]


def _match(media: str) -> str | None:
    if media in ("*/*", "application/*"):
        return JSON
    if media == "text/*":
        return CSV
    return media if media in FORMATS else None


def encoder(media: str, columns: Columns) -> Encoder:
    """Return the encoder of a format. Raises: Problem 406 without pyarrow."""
    if media == CSV:
        return CsvEncoder(columns)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise Problem(
            "not-acceptable",
            f"{media} needs pyarrow on the server (pip install pyarrow); text/csv works",
        ) from None
    return BinaryEncoder(media, columns)


class CsvEncoder:
    """RFC 4180 with a header line."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._begun = False

    def rows(self, rows: Rows) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text)
        if not self._begun:
            writer.writerow(self._columns)
            self._begun = True
        for row in rows:
            writer.writerow([_text(row[name], kind) for name, kind in self._columns.items()])
        return text.getvalue().encode()

    def end(self) -> bytes:
        return b"" if self._begun else self.rows([])


def _text(value: Any, kind: Kind) -> Any:
    if value is None:
        return ""
    if kind == "instant":
        return value.isoformat()
    if isinstance(value, list):
        return orjson.dumps(value).decode()
    return decimal(value) if kind == "number" else value


class _Sink(io.RawIOBase):
    """Collects the bytes that an encoder writes, until `take`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._position += len(part)
        return len(part)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _schema(columns: Columns) -> Any:
    import pyarrow as pa

    types = {
        "time": pa.timestamp("ms", tz="UTC"),
        "instant": pa.timestamp("us", tz="UTC"),
        "number": pa.float64(),
        "text": pa.string(),
        "integer": pa.int64(),
        "flag": pa.bool_(),
        "array1": (vector := pa.list_(pa.float64())),
        "array2": (matrix := pa.list_(vector)),
        "array3": pa.list_(matrix),
    }
    return pa.schema([(name, types[kind]) for name, kind in columns.items()])


class BinaryEncoder:
    """An Arrow IPC stream with a record batch per page, or Parquet (zstd) with a row group."""

    def __init__(self, media: str, columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = _schema(columns)
        self._sink = _Sink()
        self._table = pa.Table.from_pylist
        if media == ARROW:
            self._writer = pa.ipc.new_stream(self._sink, self._schema)
        else:
            self._writer = pq.ParquetWriter(self._sink, self._schema, compression="zstd")

    def rows(self, rows: Rows) -> bytes:
        self._writer.write_table(self._table(rows, schema=self._schema))
        return self._sink.take()

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.take()


class Downloads:
    """Limits how many whole ranges are sent at the same time, and how long each may take.

    A client that reads slowly occupies a place here, but no connection of the database.
    """

    def __init__(self, most: int, timeout_s: float) -> None:
        self.most = most
        self.timeout_s = timeout_s
        self._room = asyncio.Semaphore(most)

    async def begin(self, request: Request) -> None:
        """Take a place; the end of the request's task frees it.

        Raises: Problem 503 when none becomes free.
        """
        try:
            await asyncio.wait_for(self._room.acquire(), WAIT_S)
        except TimeoutError:
            raise retry_later(
                "too-many-downloads", f"{self.most} ranges are being sent", RETRY_S
            ) from None
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._room.release())
        client = connection(request.scope)
        if client is not None:
            client.limit_answer(self.timeout_s)


async def answer(
    downloads: Downloads, request: Request, media: str, columns: Columns, pages: Pages, name: str
) -> Response:
    """Stream pages in a format; a problem with the first page is answered as a problem.

    Raises: Problem 503 when too many ranges are being sent.
    """
    await downloads.begin(request)
    chosen = await asyncio.to_thread(encoder, media, columns)
    first = await anext(pages, None)
    headers = [
        (b"cache-control", b"no-store"),
        (b"vary", b"Accept"),
        (b"content-disposition", f'attachment; filename="{name}"'.encode()),
    ]

    async def body() -> AsyncIterator[bytes]:
        rows = first
        while rows is not None and not request.scope.get("coinspace.head"):
            part = await asyncio.to_thread(chosen.rows, rows)
            if part:
                yield part
            rows = await anext(pages, None)
        if last := await asyncio.to_thread(chosen.end):
            yield last

    return Response(200, headers, StreamedContent(media.encode(), body))


async def paged(
    read: Callable[[Any, int], Any],
    key: Callable[[Rows, Any], Any],
    after: Any = None,
    limit: int | None = None,
    size: int = PAGE_ROWS,
) -> Pages:
    """Yield pages of at most `size` rows until one is not full, or until `limit` rows.

    Args: read(after, rows) -> rows; key(rows, after) -> after.
    """
    left = sys.maxsize if limit is None else limit
    while left:
        wanted = min(size, left)
        rows: Rows = await read(after, wanted)
        if rows:
            after = key(rows, after)
            yield rows
        if len(rows) < wanted:
            return
        left -= wanted


def file_name(words: Sequence[str], media: str) -> str:
    """Return a file name for a download; letters beyond ASCII are percent-encoded."""
    ending = {CSV: "csv", ARROW: "arrow", PARQUET: "parquet"}[media]
    return quote("-".join(word.replace("/", "") for word in words), safe="$:+") + "." + ending
