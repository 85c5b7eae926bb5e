"""Asks each source at its interval; every request ends in an answer or in a counted refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from coinspace.backoff import Backoff
from coinspace.clock import Clock, now_ns
from coinspace.config import RatesSettings
from coinspace.connector import Connector
from coinspace.rates.sources import SOURCES, RefusedError
from coinspace.rates.stage import RateStage
from coinspace.tasks import within
from coinspace.text import printable

TIMEOUT_S = 10.0
# the largest answer, of yahoo, has 100 kB
MOST_BYTES = 1 << 20
# longest pause after refusals, also when a source asks for more
LAST_BACKOFF_S = 900.0
# in the place of a key, in recordings and logs
MASK = "***"
# called with path and body of an answer
Record = Callable[[int, str, bytes], None]


class Poller:
    """Asks the sources of a stage.

    Args: record: called with (received_ns, path below the source's name, answer).
    """

    def __init__(
        self,
        settings: RatesSettings,
        stage: RateStage,
        record: Record = lambda at_ns, path, body: None,
        clock: Clock = now_ns,
    ) -> None:
        self._settings = settings
        self._stage = stage
        self._record = record
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        # source -> ETag and body of its last answer
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._wake = {name: asyncio.Event() for name in stage.sources}

    def has_tag(self, source: str) -> bool:
        """Return whether the last answer of a source has an ETag."""
        return source in self._kept

    def wake(self) -> None:
        """Ask all sources now."""
        for one in self._wake.values():
            one.set()

    async def run(self, source: str) -> None:
        """Ask one source for ever."""
        interval_s = self._settings.interval_s(source)
        backoff = Backoff(min(interval_s, LAST_BACKOFF_S), LAST_BACKOFF_S)
        wake = self._wake[source]
        while True:
            wake.clear()
            wait_s = await self.ask(source)
            if source in self._stage.failing:
                wait_s = max(wait_s, backoff.next())
            else:
                backoff.reset()
                wait_s = interval_s
            await within(wait_s, wake)

    async def ask(self, source: str) -> float:
        """Ask a source once. Returns: the seconds that it asks to wait, 0 = it does not."""
        key = self._settings.key(source)
        path = SOURCES[source].path(key, self._clock())
        try:
            body = await self._get(source, path)
        except RefusedError as error:
            detail = error.detail.replace(key, MASK) if key else error.detail
            self._stage.on_refused(source, error.reason, detail)
            return error.wait_s if isinstance(error, _BusyError) else 0.0
        at_ns = self._clock()
        shown = path.replace(key, MASK) if key else path
        if key:
            # a source may send back what it was sent
            body = body.replace(key.encode(), MASK.encode())
        self._record(at_ns, f"/{source}{shown}", body)
        self._stage.on_answer(source, body, shown, at_ns)
        return 0.0

    async def _get(self, source: str, path: str) -> bytes:
        """Return the body of an answer. Raises: RefusedError."""
        kept = self._kept.get(source)
        headers = {"If-None-Match": kept[0]} if kept else {}
        try:
            async with self._open().get(
                # a redirect could name any host
                self._settings.url(source) + path,
                headers=headers,
                allow_redirects=False,
            ) as response:
                if response.status == 304 and kept:
                    return kept[1]
                _check(response)
                body = await _read(response)
                etag = response.headers.get("ETag", "")
        except TimeoutError:
            raise RefusedError("timeout", f"expected an answer within {TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = printable(str(error) or type(error).__name__, 200)
            raise RefusedError("unreachable", text) from None
        self._kept.pop(source, None)
        if etag and len(etag) <= 200 and etag.isprintable():
            self._kept[source] = (etag, body)
        return body

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=Connector(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                headers={
                    "Accept": "application/json",
                    # an answer is read as it is sent: nothing can inflate
                    "Accept-Encoding": "identity",
                    "User-Agent": "Mozilla/5.0 (compatible; CoinSpace)",
                },
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                requote_redirect_url=False,
            )
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class _BusyError(RefusedError):
    """The source asks for fewer requests. Attributes: wait_s."""

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__("busy", detail)
        self.wait_s = wait_s


def _check(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 429:
        text = response.headers.get("Retry-After", "")
        asked_s = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
        raise _BusyError("HTTP 429", min(asked_s, LAST_BACKOFF_S))
    if 300 <= status < 400:
        raise RefusedError("redirect", f"HTTP {status}, expected no redirect")
    if status != 200:
        raise RefusedError("status", f"HTTP {status}")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusedError("encoding", f"expected no Content-Encoding, was {encoding[:40]!r}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MOST_BYTES:
            raise RefusedError("oversized", f"an answer of more than {MOST_BYTES} bytes")
    return bytes(body)
