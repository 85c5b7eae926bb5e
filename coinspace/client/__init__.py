"""Python client of the HTTP API: `Client` for scripts and notebooks, `AsyncClient` for programs.

with Client("http://127.0.0.1:8080") as client:
    client.index("BTC").value
    client.orderbooks("upbit", "BTC/KRW", start="2026-01-01T00:00:00Z").to_pandas()
    for event in client.stream(indices=["BTC"]):
        ...
"""

from coinspace.client.answers import Answer, Rows
from coinspace.client.asynchronous import AsyncClient
from coinspace.client.errors import ApiError, BadAnswer, ConnectionLost, InvalidArgument
from coinspace.client.events import Event, merged_premiums
from coinspace.client.synchronous import Client
from coinspace.client.table import Books, Table

__all__ = [
    "Answer",
    "ApiError",
    "AsyncClient",
    "BadAnswer",
    "Books",
    "Client",
    "ConnectionLost",
    "Event",
    "InvalidArgument",
    "Rows",
    "Table",
    "merged_premiums",
]
