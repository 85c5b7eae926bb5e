"""The synchronous client: the asynchronous one on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Self, TypeVar, Unpack

from coinspace.client.asynchronous import DEFAULT_URL, TIMEOUT_S, AsyncClient, Channels, Time
from coinspace.client.errors import InvalidArgument
from coinspace.client.events import Event
from coinspace.client.table import Table

T = TypeVar("T")


class Client:
    """Talks to one endpoint from code that does not await; use it as a context manager.

    Its own loop runs in a thread, so that it also works inside a running loop, as in a notebook.
    Methods, errors and results are those of AsyncClient.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = AsyncClient(url, key=key, timeout_s=timeout_s)
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=self._loop.run_forever, name="coinspace-client", daemon=True
        )
        thread.start()
        # also when the client is garbage-collected, and at the end of the program
        self._end = weakref.finalize(self, _end, self._client, self._loop, thread)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._end()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._end.alive:
            work.close()
            raise InvalidArgument("client: expected an open one, was closed")
        return _wait(self._loop, work)

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

    def stream(self, *, reconnect: bool = True, **chosen: Unpack[Channels]) -> Iterator[Event]:
        """Yield live events, reconnecting and resuming."""
        yield from self._iterate(self._client.stream(reconnect=reconnect, **chosen))

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    # only the wait runs on the loop: the caller's code does not
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if self._end.alive:
                self._run(items.aclose())  # type: ignore[attr-defined]


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        # Ctrl-C must end the work, too
        future.cancel()
        raise


def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    _wait(loop, client.close())
    _wait(loop, loop.shutdown_asyncgens())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
