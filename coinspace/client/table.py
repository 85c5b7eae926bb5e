"""A range of rows as the API sent it."""

from __future__ import annotations

import io
from typing import Any

from coinspace.client.arrow import read, readable
from coinspace.client.frame import SHOWN_ROWS, Frame, html_table, library

ARROW = "application/vnd.apache.arrow.stream"


class Table(Frame):
    """Rows of a range as Arrow streams, one for each part that was fetched.

    Attributes: parts, the bytes as received; name, what the rows are.
    """

    def __init__(self, *parts: bytes, name: str = "rows") -> None:
        self.parts = list(parts)
        self.name = name

    @property
    def data(self) -> bytes:
        """All rows as one Arrow stream."""
        if len(self.parts) == 1:
            return self.parts[0]
        table, sink = self.to_arrow(), io.BytesIO()
        with library("pyarrow.ipc").new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table: `ts` timestamp[ms, UTC], numbers float64, words string."""
        with readable():
            return library("pyarrow").concat_tables([read(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.to_arrow().num_rows)

    def __repr__(self) -> str:
        try:
            arrow = self.to_arrow()
        except Exception:
            # such as without pyarrow: the bytes are there nevertheless
            size = sum(map(len, self.parts))
            return f"<{type(self).__name__} {self.name}: {size:,} bytes of Arrow>"
        text = f"<{type(self).__name__} {self.name}: {arrow.num_rows:,} rows"
        if arrow.num_rows and "ts" in arrow.column_names:
            first, last = (arrow["ts"][n].as_py() for n in (0, arrow.num_rows - 1))
            text += f", {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
        return f"{text}; {', '.join(arrow.column_names)}>"

    def _repr_html_(self) -> str:
        arrow = self.to_arrow()
        count = arrow.num_rows
        if count > 2 * SHOWN_ROWS:
            concat = library("pyarrow").concat_tables
            ends = concat([arrow.slice(0, SHOWN_ROWS), arrow.slice(count - SHOWN_ROWS)])
        else:
            ends = arrow
        rows = [[_short(one) for one in row.values()] for row in ends.to_pylist()]
        return html_table(arrow.column_names, rows, f"{self.name}: {count:,} rows", count)


class Books(Table):
    """Stored books; `bids` and `asks` are [[prices], [sizes]], best first."""

    def levels(self) -> Levels:
        """Return one row per level instead of one per book."""
        return Levels(*self.parts, name=f"levels of {self.name}")


class Levels(Table):
    """The levels of stored books: ts, exchange, market, side, level (0 = best), price, size."""

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table with a row per level, in order of the books."""
        books = super().to_arrow()
        with readable():
            return self._levels(books)

    def _levels(self, books: Any) -> Any:
        arrow, compute, numpy = library("pyarrow"), library("pyarrow.compute"), library("numpy")
        found = []
        for side in ("bids", "asks"):
            whole = books[side].combine_chunks()
            prices = compute.list_element(whole, 0)
            book = compute.list_parent_indices(prices).to_numpy()
            counts = numpy.bincount(book, minlength=len(books))
            level = numpy.arange(len(book)) - numpy.repeat(numpy.cumsum(counts) - counts, counts)
            columns = {name: books[name].take(book) for name in ("ts", "exchange", "market")}
            columns["side"] = arrow.array([side[:-1]] * len(book), arrow.string())
            columns["level"] = arrow.array(level, arrow.int64())
            columns["price"] = prices.flatten()
            columns["size"] = compute.list_element(whole, 1).flatten()
            found.append((arrow.table(columns), book))
        order = numpy.argsort(numpy.concatenate([book for _, book in found]), kind="stable")
        return arrow.concat_tables([table for table, _ in found]).take(order)


def _short(value: Any) -> Any:
    # a side of a book has up to a thousand levels
    if isinstance(value, list):
        text = str(value)
        return text if len(text) < 60 else text[:57] + "…"
    return value
