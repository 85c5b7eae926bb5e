"""Arrow of a hostile endpoint: a named error, and never memory or a process beyond its size."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from coinspace.client.errors import BadAnswer
from coinspace.client.table import Books, Table

ROWS = 2_000_000


def stream(table: Any, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def whole() -> Any:
    side = pa.array([[[1.0, 2.0], [3.0, 4.0]]], pa.list_(pa.list_(pa.float64())))
    return pa.table(
        {
            "ts": pa.array([0], pa.timestamp("ms", "UTC")),
            "exchange": ["upbit"],
            "market": ["BTC/KRW"],
            "n": [1],
            "ok": [True],
            "bids": side,
            "asks": side,
        }
    )


def test_rows_of_the_api_are_read() -> None:
    assert Books(stream(whole()), stream(whole())).to_pylist() == whole().to_pylist() * 2
    assert Books(stream(whole())).levels().to_arrow()["price"].to_pylist() == [1.0, 2.0, 1.0, 2.0]
    assert Table(stream(whole().slice(0, 0))).to_pylist() == []


HOSTILE: dict[str, Callable[[], Any]] = {
    "no content": lambda: {"x": pa.nulls(ROWS)},
    "no fields": lambda: {"x": pa.array([{}] * 10, pa.struct([]))},
    "one run": lambda: {"x": pa.RunEndEncodedArray.from_arrays([ROWS], [1.0])},
    "one text": lambda: {"x": pa.array(["x" * 1000]).dictionary_encode()},
    "lists of nothing": lambda: {"x": pa.array([[None]], pa.list_(pa.null()))},
    "short lists": lambda: {"x": pa.array([[]] * 10, pa.list_(pa.float64(), 0))},
    "views": lambda: {"x": pa.array(["x"], pa.string_view())},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_types_whose_values_take_no_room_are_refused(name: str) -> None:
    with pytest.raises(BadAnswer, match="expected rows of the API, was type"):
        Table(stream(pa.table(HOSTILE[name]()))).to_arrow()


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_columns_are_refused(compression: str) -> None:
    bomb = stream(pa.table({"x": pa.array([0.0]).take([0] * ROWS)}), compression)
    before = pa.total_allocated_bytes()
    with pytest.raises(BadAnswer, match="was a compressed record batch"):
        Table(bomb).to_arrow()
    assert pa.total_allocated_bytes() - before < ROWS
    # a dictionary is a batch within a message of another kind
    words = pa.table({"x": pa.array(["x" * 1000, "y" * 1000]).dictionary_encode()})
    with pytest.raises(BadAnswer):
        Table(stream(words, compression)).to_arrow()


def test_offsets_beyond_the_content_are_refused() -> None:
    # in a process of its own: pyarrow alone reads other memory, or ends
    data = stream(pa.table({"x": ["aaaaaaaa", "bbbbbbbb", "cccccccc"]}))
    offsets = struct.pack("<iiii", 0, 8, 16, 24)
    assert offsets in data
    changed = data.replace(offsets, struct.pack("<iiii", 0, 8, 0x7FFFFF00, 0x7FFFFFF0))
    source = f"""
from coinspace.client.errors import BadAnswer
from coinspace.client.table import Table
table = Table({changed!r})
print(repr(table))
try:
    table.to_pylist()
except BadAnswer as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<Table rows: " in done.stdout
    assert "Arrow: expected rows of the API" in done.stdout


@pytest.mark.parametrize("cut", range(0, 800, 40))
def test_cut_and_changed_streams_are_named_errors(cut: int) -> None:
    data = stream(whole())
    for found in (data[:cut], data[:cut] + b"\xff\xff" + data[cut + 2 :]):
        # some changes are not of the structure
        with contextlib.suppress(BadAnswer):
            Books(found).levels().to_arrow()


def test_books_without_their_columns_are_refused() -> None:
    for table in (whole().drop_columns(["bids"]), pa.table({"bids": [1.0], "asks": [1.0]})):
        with pytest.raises(BadAnswer):
            Books(stream(table)).levels().to_arrow()
    with pytest.raises(BadAnswer):
        Table(stream(whole()), stream(pa.table({"x": [1]}))).to_arrow()
