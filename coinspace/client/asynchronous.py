"""The asynchronous client."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NoReturn, Self, TypedDict, TypeVar, Unpack, overload
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import orjson

from coinspace.client import ranges
from coinspace.client.answers import (
    Answer,
    Asset,
    Book,
    ConsolidatedBook,
    Explanation,
    Gap,
    IndexValue,
    Market,
    Methodology,
    PremiumStatistics,
    PremiumValue,
    ProcessHealth,
    RankedPremium,
    Readiness,
    Rows,
    StoredQuotation,
    Ticker,
    UsdKrw,
    Venue,
)
from coinspace.client.errors import ApiError, BadAnswer, ConnectionLost, InvalidArgument
from coinspace.client.events import Event, EventParser
from coinspace.client.progress import Progress, progress_bar
from coinspace.client.ranges import Time, milliseconds
from coinspace.client.table import ARROW, Books, Table
from coinspace.connector import Connector
from coinspace.text import shown_address

A = TypeVar("A", bound=Answer)

DEFAULT_URL = "http://127.0.0.1:8080"
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


# length of a candle, ms
INTERVALS_MS = {"1s": 1000, "1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}
# most rows of a page
PAGE_ROWS = 1000
# most pages of a list: a server must not keep the client asking for ever
PAGES_LIMIT = 1000
# 1970 to 2200
LATEST_MS = 7_258_118_400_000


class Channels(TypedDict, total=False):
    """The channels of a stream: names of each kind; the premiums of all assets."""

    indices: Iterable[str]
    books: Iterable[str]
    tickers: Iterable[str]
    trades: Iterable[str]
    premiums: bool
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
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = self._loop = None

    async def _opened(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            if not self._loop.is_closed():
                raise InvalidArgument(
                    "client: expected the event loop of its first use, was another; make an"
                    " AsyncClient in each, or use Client"
                )
            # asyncio.run was called again, as by a cell of a notebook
            await self.close()
        if self._session is None:
            self._loop = loop
            # the API has no cookies, and those of each answer would add up
            self._session = aiohttp.ClientSession(
                headers=self._headers, connector=Connector(), cookie_jar=aiohttp.DummyCookieJar()
            )
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
        begun = False
        try:
            async with (await self._opened()).get(
                self.url + path,
                params=given,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answer:
                await _check(answer, path, accept)
                begun = True
                async for part in answer.content.iter_any():
                    yield part
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionLost(self._lost(path, error), begun=begun) from error

    async def json(self, path: str, **parameters: Any) -> Any:
        """Return the decoded JSON of any route. Raises: ApiError, ConnectionLost, BadAnswer."""
        body = await self.get(path, parameters)
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise BadAnswer(f"GET {path}: expected JSON, was {body[:60]!r}") from None

    async def _answer(self, kind: type[A], path: str, /, **parameters: Any) -> A:
        found = await self.json(path, **parameters)
        if not isinstance(found, dict):
            raise BadAnswer(f"GET {path}: expected a JSON object, was {_shown(found)}")
        return kind(found)

    async def _rows(self, kind: type[A], path: str, name: str, /, **parameters: Any) -> Rows[A]:
        answer = await self.json(path, **parameters)
        try:
            return Rows(kind(one) for one in answer[name])
        except (KeyError, TypeError, ValueError):
            raise BadAnswer(f"GET {path}: expected {name}, was {_shown(answer)}") from None

    async def index(self, asset: str) -> IndexValue:
        """Return the newest value of an index."""
        return await self._answer(IndexValue, f"/v1/indices/{_part(asset)}")

    async def indices(self) -> Rows[IndexValue]:
        """Return the newest value of every index."""
        return await self._rows(IndexValue, "/v1/indices", "indices")

    async def premium(self, asset: str, *, size: float | None = None) -> PremiumValue:
        """Return the kimchi premium now. Args: size: what a trade of it leaves of the premium."""
        return await self._answer(PremiumValue, f"/v1/premium/{_part(asset)}", size=size)

    async def premiums(
        self,
        *assets: str,
        min: float | None = None,
        max: float | None = None,
        stale: bool = True,
        sort: str | None = None,
        order: str | None = None,
        basis: str | None = None,
        window: str | None = None,
        search: str | None = None,
        limit: int | None = None,
        spark: bool = False,
    ) -> Rows[RankedPremium]:
        """Return the kimchi premium of all assets that have one, or of those named.

        Args:
            min, max: bounds as fractions; 0.01 is 1 %.
            stale: False leaves out values that are too old.
            sort: premium, asset, age, change_1m, change_5m, change_1h, change_24h, percentile or
                left (after a trade). order: asc or desc. window: of the percentile.
            basis: coin (against USDT) or fiat (against USD), for bounds, order and spark.
            search: a part of the asset's name. spark: also a curve of the last 24 h.
        """
        given: dict[str, Any] = {
            "assets": ",".join(assets) or None,
            "min": min,
            "max": max,
            "stale": None if stale else "false",
            "sort": sort,
            "order": order,
            "basis": basis,
            "window": window,
            "search": search,
            "limit": limit,
            "spark": "true" if spark else None,
        }
        return await self._rows(RankedPremium, "/v1/premiums", "premiums", **given)

    async def premium_stats(self, asset: str) -> PremiumStatistics:
        """Return how unusual a premium is, on both bases; of USDT on basis fiat."""
        return await self._answer(PremiumStatistics, f"/v1/premium/{_part(asset)}/stats")

    async def premium_values(
        self,
        asset: str,
        start: Time | None = None,
        end: Time | None = None,
        *,
        progress: Progress = None,
    ) -> Table:
        """Return the premium of every tick of [start, end) on every basis."""
        path = f"/v1/premium/{_part(asset)}/values"
        found = await self._range(path, start, end, progress)
        return Table(*found, name=f"premiums of {asset}")

    async def premium_ohlc(
        self,
        asset: str,
        interval: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        basis: str | None = None,
        progress: Progress = None,
    ) -> Table:
        """Return the candles of a premium. Args: interval: 1m, 5m, 1h or 1d."""
        path = f"/v1/premium/{_part(asset)}/ohlc"
        step = INTERVALS_MS.get(interval, 1)
        found = await self._range(path, start, end, progress, step, interval=interval, basis=basis)
        return Table(*found, name=f"{interval} premiums of {asset}")

    async def assets(self) -> Rows[Asset]:
        """Return every asset with its markets, and whether it has an index."""
        return await self._rows(Asset, "/v1/assets", "assets")

    async def markets(
        self, exchange: str | None = None, *, asset: str | None = None, quote: str | None = None
    ) -> Rows[Market]:
        """Return every market that is collected: its state and the times of its newest messages."""
        return await self._rows(
            Market, "/v1/markets", "markets", exchange=exchange, asset=asset, quote=quote
        )

    async def explain(self, asset: str, ts: Time | None = None) -> Explanation:
        """Return one tick in full: the newest, or the one at or just before `ts`."""
        at = None if ts is None else milliseconds(ts, "ts")
        return await self._answer(Explanation, f"/v1/indices/{_part(asset)}/explain", ts=at)

    @overload
    async def orderbook(
        self, asset: str, /, *, levels: int | None = None, within: float | None = None
    ) -> ConsolidatedBook: ...

    @overload
    async def orderbook(
        self,
        exchange: str,
        market: str,
        /,
        *,
        levels: int | None = None,
        at: Time | None = None,
    ) -> Book: ...

    async def orderbook(
        self,
        name: str,
        market: str | None = None,
        /,
        *,
        levels: int | None = None,
        within: float | None = None,
        at: Time | None = None,
    ) -> ConsolidatedBook | Book:
        """Return a book now: the merged one of an asset, or one exchange's of a market.

        Args:
            within: also the depth within this percentage of the mid price, of a merged book.
            at: an instant of the past, of one exchange's book.
        """
        if market is None:
            if at is not None:
                raise InvalidArgument(
                    f'at: expected an exchange and a market with it, such as ("upbit", "BTC/KRW"),'
                    f" was {name!r} alone; merged books are not stored"
                )
            path = f"/v1/orderbooks/{_part(name)}"
            return await self._answer(ConsolidatedBook, path, levels=levels, within=within)
        if within is not None:
            raise InvalidArgument("within: expected an asset alone with it, was a market")
        instant = None if at is None else milliseconds(at, "at")
        return await self._answer(Book, _venue_path(name, market), levels=levels, at=instant)

    async def usd_krw(self) -> UsdKrw:
        """Return USD/KRW now, with its source and status, and what each source says."""
        return await self._answer(UsdKrw, "/v1/usd-krw")

    async def quotations(
        self,
        source: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        limit: int = PAGE_ROWS,
    ) -> Rows[StoredQuotation]:
        """Return the newest stored quotations of USD/KRW of [start, end), by default of a day."""
        return await self._rows(
            StoredQuotation,
            "/v1/usd-krw/quotations",
            "quotations",
            source=source,
            start=None if start is None else milliseconds(start, "start"),
            end=None if end is None else milliseconds(end, "end"),
            limit=limit,
        )

    async def tickers(self, exchange: str | None = None, market: str | None = None) -> Rows[Ticker]:
        """Return the newest ticker of every market, or of those chosen."""
        return await self._rows(Ticker, "/v1/tickers", "tickers", exchange=exchange, market=market)

    async def venues(self) -> Rows[Venue]:
        """Return every venue: state and reason, age, share in the index."""
        return await self._rows(Venue, "/v1/venues", "venues")

    async def gaps(
        self,
        exchange: str | None = None,
        market: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        kind: str | None = None,
        status: str | None = None,
    ) -> Rows[Gap]:
        """Return the losses and outages of [start, end), newest first; by default of the last day.

        Args: kind: orderbook, ticker, trade, state or venue; status: open, filled, lost or dead.
        """
        given: dict[str, Any] = {
            "exchange": exchange,
            "market": market,
            "kind": kind,
            "status": status,
            "start": None if start is None else milliseconds(start, "start"),
            "end": None if end is None else milliseconds(end, "end"),
            "limit": PAGE_ROWS,
        }
        found: Rows[Gap] = Rows()
        for _ in range(PAGES_LIMIT):
            page = await self._answer(Answer, "/v1/gaps", **given)
            try:
                found += [Gap(one) for one in page.get("gaps", ())]
                if not page.get("cursor"):
                    return found
                # the bounds that the first page chose
                query = parse_qs(urlsplit(str(page["next"])).query)
            except (KeyError, TypeError, ValueError):
                raise BadAnswer(f"GET /v1/gaps: expected gaps, was {_shown(page)}") from None
            given |= {name: query[name][0] for name in ("start", "end", "cursor") if name in query}
        raise BadAnswer(
            f"GET /v1/gaps: expected at most {PAGES_LIMIT:,} pages of {PAGE_ROWS:,}; take a"
            " shorter range"
        )

    async def methodology(self) -> Methodology:
        """Return how the indices are computed, and every announced definition."""
        return await self._answer(Methodology, "/v1/methodology")

    async def pipeline(self) -> Rows[ProcessHealth]:
        """Return the state and counters of every process (for operators, where keys are needed)."""
        return await self._rows(ProcessHealth, "/v1/pipeline", "processes")

    async def ready(self) -> Readiness:
        """Return whether live values are served and stored, and the reasons when they are not."""
        try:
            return await self._answer(Readiness, "/readyz")
        except ApiError as error:
            if error.kind != "not-ready":
                raise
            return Readiness(error.problem)

    async def values(
        self,
        asset: str,
        start: Time | None = None,
        end: Time | None = None,
        *,
        progress: Progress = None,
    ) -> Table:
        """Return every value of [start, end); the last minute without a start."""
        path = f"/v1/indices/{_part(asset)}/values"
        found = await self._range(path, start, end, progress)
        return Table(*found, name=f"values of {asset}")

    async def ohlc(
        self,
        asset: str,
        interval: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        *,
        progress: Progress = None,
    ) -> Table:
        """Return the candles of [start, end); intervals without values have nulls."""
        path = f"/v1/indices/{_part(asset)}/ohlc"
        step = INTERVALS_MS.get(interval, 1)
        found = await self._range(path, start, end, progress, step, interval=interval)
        return Table(*found, name=f"{interval} candles of {asset}")

    async def trades(
        self,
        exchange: str | None = None,
        market: str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        *,
        progress: Progress = None,
    ) -> Table:
        """Return the stored trades of [start, end); the newest ones without a range."""
        found = await self._range(
            "/v1/trades", start, end, progress, exchange=exchange, market=market
        )
        chosen = " ".join(filter(None, (exchange, market))) or "all markets"
        return Table(*found, name=f"trades of {chosen}")

    async def orderbooks(
        self,
        exchange: str,
        market: str,
        start: Time | None = None,
        end: Time | None = None,
        *,
        levels: int | None = None,
        progress: Progress = None,
    ) -> Books:
        """Return the stored books of [start, end); the last minute without a start.

        `bids` and `asks` are [[prices], [sizes]], best first; `.levels()` has a row per level.
        """
        path = f"{_venue_path(exchange, market)}/history"
        found = await self._range(path, start, end, progress, levels=levels)
        return Books(*found, name=f"books of {exchange} {market}")

    async def _range(
        self,
        path: str,
        start: Time | None,
        end: Time | None,
        progress: Progress,
        step: int = 1,
        **more: Any,
    ) -> list[bytes]:
        """Return a range as Arrow streams, fetched in parts. Args: step: of its rows, ms."""
        last = None if end is None else milliseconds(end, "end")
        if start is None:
            return [await self.get(path, {"end": last, **more}, accept=ARROW)]
        first = milliseconds(start, "start") // step * step
        if last is None:
            # by the server's clock
            ts = (await self._answer(Answer, "/v1/venues")).get("ts") or 0
            if not isinstance(ts, int) or not 0 <= ts <= LATEST_MS:
                raise BadAnswer(f"GET /v1/venues: expected ts in ms, was {_shown(ts)}")
            last = ts
        if first >= last:
            # the server says what is wrong with the range
            given = {"start": first, "end": None if end is None else last, **more}
            return [await self.get(path, given, accept=ARROW)]

        async def fetch(begin: int, until: int) -> bytes:
            return await self.get(path, {"start": begin, "end": until, **more}, accept=ARROW)

        with progress_bar(path, progress) as done:
            return [part async for part in ranges.parts(fetch, first, last, step, done)]

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
        given = {
            name: "true" if words is True else ",".join(words)  # type: ignore[arg-type]
            for name, words in chosen.items()
            if words
        }
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
        if isinstance(error, aiohttp.ClientConnectorError):
            reason = f"no connection, {error.strerror or error}"
        else:
            reason = str(error)[:300] or "no answer in time"
        return f"GET {self.url}{path}: {reason}; is an endpoint running there (`coinspace up`)?"

    async def _events(
        self, given: dict[str, str], last_id: str, parser: EventParser
    ) -> AsyncIterator[Event]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        async with (await self._opened()).get(
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


def _part(name: str) -> str:
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise InvalidArgument(f"name: expected text in UTF-8, was {name[:40]!r}") from None


def _shown(answer: Any) -> str:
    # not the text of the whole answer, which can have a gigabyte
    if isinstance(answer, int | float):
        return str(answer)[:40]
    if not isinstance(answer, dict):
        return type(answer).__name__
    return f"an object of {', '.join(map(repr, itertools.islice(answer, 8))) or 'nothing'}"


def _venue_path(exchange: str, market: str) -> str:
    base, slash, quoted = market.partition("/")
    if not slash:
        raise InvalidArgument(f"market: expected BASE/QUOTE such as BTC/KRW, was {market[:40]!r}")
    return f"/v1/orderbooks/{_part(exchange)}/{_part(base)}/{_part(quoted)}"


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
