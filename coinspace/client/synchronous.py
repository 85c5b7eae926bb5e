"""The synchronous client: the asynchronous one on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from coinspace.client.answers import Book, ConsolidatedBook
from coinspace.client.asynchronous import DEFAULT_URL, TIMEOUT_S, AsyncClient, Channels
from coinspace.client.errors import InvalidArgument
from coinspace.client.events import Event
from coinspace.client.ranges import Time

P = ParamSpec("P")
T = TypeVar("T")


def _waiting(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return the method of Client that waits for that of AsyncClient."""

    def call(self: Client, /, *args: P.args, **given: P.kwargs) -> T:
        return self._run(method(self._client, *args, **given))

    functools.update_wrapper(call, method)
    return call


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

    def __repr__(self) -> str:
        return f"<Client {self._client.url}>"

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

    index = _waiting(AsyncClient.index)
    indices = _waiting(AsyncClient.indices)
    premium = _waiting(AsyncClient.premium)
    premiums = _waiting(AsyncClient.premiums)
    premium_stats = _waiting(AsyncClient.premium_stats)
    premium_values = _waiting(AsyncClient.premium_values)
    premium_ohlc = _waiting(AsyncClient.premium_ohlc)
    assets = _waiting(AsyncClient.assets)
    markets = _waiting(AsyncClient.markets)
    explain = _waiting(AsyncClient.explain)
    usd_krw = _waiting(AsyncClient.usd_krw)
    quotations = _waiting(AsyncClient.quotations)
    tickers = _waiting(AsyncClient.tickers)
    venues = _waiting(AsyncClient.venues)
    gaps = _waiting(AsyncClient.gaps)
    methodology = _waiting(AsyncClient.methodology)
    pipeline = _waiting(AsyncClient.pipeline)
    ready = _waiting(AsyncClient.ready)
    values = _waiting(AsyncClient.values)
    ohlc = _waiting(AsyncClient.ohlc)
    trades = _waiting(AsyncClient.trades)
    orderbooks = _waiting(AsyncClient.orderbooks)

    @overload
    def orderbook(
        self, asset: str, /, *, levels: int | None = None, within: float | None = None
    ) -> ConsolidatedBook: ...

    @overload
    def orderbook(
        self,
        exchange: str,
        market: str,
        /,
        *,
        levels: int | None = None,
        at: Time | None = None,
    ) -> Book: ...

    def orderbook(self, *names: str, **given: Any) -> ConsolidatedBook | Book:
        """Return a book now: the merged one of an asset, or one exchange's of a market."""
        found: ConsolidatedBook | Book = self._run(self._client.orderbook(*names, **given))
        return found

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
