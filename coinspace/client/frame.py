"""What every result of the client has: conversions for other libraries, and a readable form."""

from __future__ import annotations

import html
import importlib
from typing import Any

from coinspace.errors import CoinSpaceError

# rows that a notebook shows at each end of a long table
SHOWN_ROWS = 5


def library(name: str) -> Any:
    """Import a library that is no dependency. Raises: CoinSpaceError naming its package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        # a table is Arrow before it becomes anything else
        wanted = " ".join(dict.fromkeys((name, "pyarrow")))
        raise CoinSpaceError(f"{name} is not installed: `pip install {wanted}`") from None


class Frame:
    """Rows with named columns; `to_arrow` is all that a kind of rows has to define."""

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table: times timestamp[ms, UTC], numbers float64, words string."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame, indexed by `ts` where there is that column."""
        library("pandas")
        frame = self.to_arrow().to_pandas()
        return frame.set_index("ts") if "ts" in frame.columns else frame

    def to_polars(self) -> Any:
        """Return a polars.DataFrame."""
        return library("polars").from_arrow(self.to_arrow())

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return a list of dicts."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows


def html_table(names: list[str], rows: list[list[Any]], title: str = "", total: int = 0) -> str:
    """Return a table for a notebook. Args: total: number of all rows, of which `rows` are some."""
    head = "".join(f"<th>{_escaped(name)}</th>" for name in names)
    lines = ["<tr>" + "".join(f"<td>{_escaped(one)}</td>" for one in row) + "</tr>" for row in rows]
    if total > len(rows):
        middle = f'<tr><td colspan="{len(names)}">… {total - len(rows):,} rows …</td></tr>'
        lines.insert(len(lines) // 2, middle)
    caption = f'<caption style="text-align:left">{_escaped(title)}</caption>' if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _escaped(value: Any) -> str:
    return html.escape("–" if value is None else str(value))
