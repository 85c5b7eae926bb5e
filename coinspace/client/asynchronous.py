"""The asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn, Self, TypedDict, Unpack
from urllib.parse import quote, urlsplit

import aiohttp
import orjson

from coinspace.client.errors import ApiError, BadAnswer, ConnectionLost, InvalidArgument
from coinspace.client.events import Event, EventParser
from coinspace.client.table import ARROW, Table
from coinspace.text import shown_address

DEFAULT_URL = "http://127.0.0.1:8080"
Time = datetime | int | str

TIMEOUT_S = 30.0
# the server sends a heartbeat every 5 s by default
SILENCE_S = 15.0
LONGEST_PAUSE_S = 10.0
# statuses for which a retry is useless
FINAL = frozenset((400, 401, 403, 404, 405, 406, 414, 421, 431))
EVENT_STREAM = "text/event-stream"
# limit of an answer that is kept in memory; `chunks` has no limit
ANSWER_BYTES = 1 << 30
PROBLEM_BYTES = 64 * 1024


def time_text(value: Time | None) -> str | None:
    """Write a time as the API reads it. Raises: InvalidArgument for a datetime without a zone."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument(f"time: expected a datetime with a zone, was {value!r}")
        return value.isoformat()
    return str(value)


class Channels(TypedDict, total=False):
    """The channels of a stream: names of each kind."""

    indices: Iterable[str]
    books: Iterable[str]
    tickers: Iterable[str]
    trades: Iterable[str]
    platform: Iterable[str]


class AsyncClient:
    """Talks to one endpoint; use it as an asynchronous context manager.

    Args:
        key: an API key, where the endpoint requires one.
        timeout_s: how long the server may be silent; a long answer may take longer.
    Raises: InvalidArgument unless the URL is http://HOST:PORT or https://HOST:PORT.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, key: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = _checked_url(url)
        self._headers = {"Authorization": f"Bearer {_checked_key(key)}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session

    async def get(
        self, path: str, parameters: Mapping[str, Any] | None = None, *, accept: str = ""
    ) -> bytes:
        """Return the body of any route. Raises: ApiError, ConnectionLost, BadAnswer."""
        parts, size = [], 0
        async for part in self.chunks(path, parameters, accept=accept):
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES:
                raise BadAnswer(
                    f"GET {path}: expected at most {ANSWER_BYTES} bytes; take a shorter range,"
                    " or read it in parts with `chunks`"
                )
        return b"".join(parts)

    async def chunks(
        self, path: str, parameters: Mapping[str, Any] | None = None, *, accept: str = ""
    ) -> AsyncIterator[bytes]:
        """Yield the body of any route as it arrives, for ranges larger than memory.

        Raises: ApiError, BadAnswer, ConnectionLost (also when the body ends too early).
        """
        given = {k: str(v) for k, v in (parameters or {}).items() if v is not None}
        headers = {"Accept": accept} if accept else {}
        try:
            async with self._opened().get(
                self.url + path,
                params=given,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answer:
                await _check(answer, path, accept)
                async for part in answer.content.iter_any():
                    yield part
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionLost(self._lost(path, error)) from error

    async def json(self, path: str, **parameters: Any) -> Any:
        """Return the decoded JSON of any route. Raises: ApiError, ConnectionLost, BadAnswer."""
        body = await self.get(path, parameters)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise BadAnswer(f"GET {path}: expected JSON, was {body[:60]!r}") from None

    async def index(self, asset: str) -> dict[str, Any]:
        """Return the newest value of an index."""
        found: dict[str, Any] = await self.json(f"/v1/indices/{quote(asset, safe='')}")
        return found

    async def indices(self) -> list[dict[str, Any]]:
        """Return the newest value of every index."""
        answer = await self.json("/v1/indices")
        try:
            found: list[dict[str, Any]] = answer["indices"]
        except (KeyError, TypeError):
            raise BadAnswer(f"GET /v1/indices: expected indices, was {str(answer)[:60]}") from None
        return found

    async def values(self, asset: str, start: Time | None = None, end: Time | None = None) -> Table:
        """Return every value of [start, end); the last minute without a start."""
        return await self._table(
            f"/v1/indices/{quote(asset, safe='')}/values", start=start, end=end
        )

    async def ohlc(
        self,
        asset: str,
        interval: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
    ) -> Table:
        """Return the candles of [start, end); intervals without values have nulls."""
        path = f"/v1/indices/{quote(asset, safe='')}/ohlc"
        return await self._table(path, start=start, end=end, interval=interval)

    async def trades(
        self,
        exchange: str | None = None,
        market: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
    ) -> Table:
        """Return the trades of [start, end)."""
        return await self._table(
            "/v1/trades", start=start, end=end, exchange=exchange, market=market
        )

    async def _table(
        self, path: str, *, start: Time | None, end: Time | None, **more: Any
    ) -> Table:
        given = {"start": time_text(start), "end": time_text(end), **more}
        return Table(await self.get(path, given, accept=ARROW))

    async def stream(
        self, *, reconnect: bool = True, **chosen: Unpack[Channels]
    ) -> AsyncIterator[Event]:
        """Yield live events; a lost connection is reopened and resumed after the last event.

        A `gap` event reports events that could not be resumed. Heartbeats are left out.
        Raises: ApiError for a refusal that a retry cannot change; BadAnswer for an answer that is
        not a stream; ConnectionLost without `reconnect`.
        """
        for name in chosen.keys() - Channels.__annotations__.keys():
            raise InvalidArgument(
                f"stream: expected {', '.join(Channels.__annotations__)}, was {name}"
            )
        given = {name: ",".join(words) for name, words in chosen.items() if words}  # type: ignore[arg-type]
        last_id, attempts = "", 0
        while True:
            parser = EventParser()
            try:
                async for event in self._events(given, last_id, parser):
                    attempts = 0
                    last_id = event.id or last_id
                    if event.name != "heartbeat":
                        yield event
            except ApiError as error:
                if error.status in FINAL or not reconnect:
                    raise
                await asyncio.sleep(error.retry_after_s or parser.retry_s)
                continue
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                if not reconnect:
                    raise ConnectionLost(self._lost("/v1/stream", error)) from error
            if not reconnect:
                return
            await asyncio.sleep(min(parser.retry_s * 2**attempts, LONGEST_PAUSE_S))
            attempts = min(attempts + 1, 8)

    def _lost(self, path: str, error: Exception) -> str:
        reason = str(error)[:300] or "no answer in time"
        return f"GET {self.url}{path}: {reason}; is an endpoint running there (`coinspace up`)?"

    async def _events(
        self, given: dict[str, str], last_id: str, parser: EventParser
    ) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        async with self._opened().get(
            f"{self.url}/v1/stream",
            params=given,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
        ) as answer:
            await _check(answer, "/v1/stream", EVENT_STREAM)
            async for data in answer.content.iter_any():
                for event in parser.feed(data):
                    yield event


async def _check(answer: aiohttp.ClientResponse, path: str, accept: str) -> None:
    """Raise the problem of an answer, or that the answer is not one of the API."""
    if answer.status >= 400:
        _refuse(answer, path, await answer.content.read(PROBLEM_BYTES))
    if answer.status >= 300:
        # following it would send the key to another server
        place = answer.headers.get("Location", "")[:200]
        raise BadAnswer(
            f"GET {path}: expected an answer, was a redirect to {place!r}, which is not followed;"
            " use that server's own url"
        )
    if accept and answer.content_type != accept:
        raise BadAnswer(f"GET {path}: expected {accept}, was {answer.content_type[:100]}")


def _refuse(answer: aiohttp.ClientResponse, path: str, body: bytes) -> NoReturn:
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        # the answer is not the API's but a proxy's
        problem = {"detail": body[:200].decode("utf-8", "replace")}
    raise ApiError(answer.status, problem, answer.headers.get("Retry-After"), f"GET {path}")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidArgument(f"url: expected http://HOST:PORT, was {shown_address(url)[:200]!r}")
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    if not (key.isascii() and key.isprintable()):
        # a key is not shown
        raise InvalidArgument("key: expected one line of ASCII, was other text")
    return key
