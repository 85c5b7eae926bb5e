"""The synchronous client: the asynchronous one on a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from typing import Any, Self, TypeVar

from coinspace.client.asynchronous import DEFAULT_URL, TIMEOUT_S, AsyncClient, Time
from coinspace.client.events import Event
from coinspace.client.table import Table

T = TypeVar("T")


class Client:
    """Talks to one endpoint from code without a loop; use it as a context manager.

    Methods, errors and results are those of AsyncClient.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(url, key=key, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._run(self._client.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def get(self, path: str, *, accept: str = "", **parameters: Any) -> bytes:
        """Return the body of any route."""
        return self._run(self._client.get(path, parameters, accept=accept))

    def chunks(self, path: str, *, accept: str = "", **parameters: Any) -> Iterator[bytes]:
        """Yield the body of any route as it arrives, for ranges larger than memory."""
        yield from self._iterate(self._client.chunks(path, parameters, accept=accept))

    def json(self, path: str, **parameters: Any) -> Any:
        """Return the decoded JSON of any route."""
        return self._run(self._client.json(path, **parameters))

    def index(self, asset: str) -> dict[str, Any]:
        """Return the newest value of an index."""
        return self._run(self._client.index(asset))

    def indices(self) -> list[dict[str, Any]]:
        """Return the newest value of every index."""
        return self._run(self._client.indices())

    def values(self, asset: str, start: Time | None = None, end: Time | None = None) -> Table:
        """Return every value of [start, end); the last minute without a start."""
        return self._run(self._client.values(asset, start, end))

    def ohlc(
        self,
        asset: str,
        interval: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
    ) -> Table:
        """Return the candles of [start, end); intervals without values have nulls."""
        return self._run(self._client.ohlc(asset, interval, start, end))

    def trades(
        self,
        exchange: str | None = None,
        market: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
    ) -> Table:
        """Return the trades of [start, end)."""
        return self._run(self._client.trades(exchange, market, start, end))

    def stream(
        self,
        *,
        indices: Iterable[str] = (),
        books: Iterable[str] = (),
        tickers: Iterable[str] = (),
        trades: Iterable[str] = (),
        platform: Iterable[str] = (),
        reconnect: bool = True,
    ) -> Iterator[Event]:
        """Yield live events, reconnecting and resuming."""
        yield from self._iterate(
            self._client.stream(
                indices=indices,
                books=books,
                tickers=tickers,
                trades=trades,
                platform=platform,
                reconnect=reconnect,
            )
        )

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    # only the wait runs on the loop: the caller's code does not
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            self._run(items.aclose())  # type: ignore[attr-defined]


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)
