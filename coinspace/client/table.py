"""A table as the API sent it, with conversions for other libraries, each an extra."""

from __future__ import annotations

import importlib
import io
from typing import Any

from coinspace.errors import CoinSpaceError

ARROW = "application/vnd.apache.arrow.stream"
EXTRAS = {"pyarrow": "arrow", "pandas": "pandas", "polars": "polars"}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise CoinSpaceError(
            f"{name} is not installed: `pip install coinspace[{EXTRAS[name]}]`"
        ) from None


class Table:
    """Rows of a range as an Arrow stream.

    Attributes: data, the bytes as received.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def to_arrow(self) -> Any:
        """Return a pyarrow.Table: `ts` timestamp[ms, UTC], numbers float64, words string."""
        _library("pyarrow")
        return importlib.import_module("pyarrow.ipc").open_stream(io.BytesIO(self.data)).read_all()

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame indexed by `ts`."""
        _library("pandas")
        return self.to_arrow().to_pandas().set_index("ts")

    def to_polars(self) -> Any:
        """Return a polars.DataFrame."""
        return _library("polars").from_arrow(self.to_arrow())

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return a list of dicts."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows

    def __len__(self) -> int:
        return int(self.to_arrow().num_rows)
