"""REST requests within the exchange's limits.

The stages decide what to request and in which order. The fetcher sends the requests. An answer is
read and inflated up to a bound in bytes and refused beyond it.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime

import aiohttp
import structlog

from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.limits import (
    BAN_S,
    BLOCK_S,
    Budget,
    LogGate,
    Window,
    plausible_s,
    retry_after_s,
)
from coinspace.connector import Connector
from coinspace.exchanges.exchange import (
    Exchange,
    Limit,
    Purpose,
    Refusal,
    Request,
    block_s,
    country_refusal,
    plain,
)
from coinspace.tasks import Tasks

TIMEOUT_S = 10.0
# largest answer in bytes, as sent and inflated: several times what the exchanges send, and small
# enough to be read as JSON within 50 ms
ANSWER_BYTES: dict[Purpose, int] = {
    "snapshot": 4 << 20,
    "compare": 4 << 20,
    "trades": 4 << 20,
    "markets": 8 << 20,
    "facts": 4 << 20,
    "groups": 1 << 20,
}
# most lists and objects in an answer, several times what the exchanges send: each costs as much
# time and memory as dozens of characters
ANSWER_PARTS: dict[Purpose, int] = {
    "snapshot": 100_000,
    "compare": 100_000,
    "trades": 100_000,
    "markets": 250_000,
    "facts": 250_000,
    "groups": 10_000,
}
INFLATED_AT_ONCE = 1 << 20
# requests per group that are queued or sent: more are a fault, because the stages limit their
# requests themselves
QUEUE_LIMIT = 512
# requests of one group that wait for an answer at a time
PARALLEL = 4
# an exchange counts the used weight per minute; its `Date` is up to a second late
MINUTE_S = 60.0
MINUTE_SLACK_S = 1.0
USED_DIGITS = 9

Answer = Callable[[Request, bytes, int], Awaitable[None] | None]
Refused = Callable[[Request, Refusal, int], None]


class Fetcher:
    """Sends a stage's requests.

    Args:
        on_answer, on_refused: called with (request, payload or refusal, monotonic ns); one of both
            is called once for each submitted request.
        limits: by group; the exchange's limits by default.
        recorder: None, or called with (request, received_ns, payload).
    """

    def __init__(
        self,
        exchange: Exchange,
        base: str,
        on_answer: Answer = lambda request, payload, now_ns: None,
        on_refused: Refused = lambda request, refusal, now_ns: None,
        *,
        limits: Mapping[str, Limit] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        recorder: Callable[[Request, int, bytes], None] | None = None,
    ) -> None:
        self.exchange = exchange
        self.base = base.rstrip("/")
        self.recorder = recorder
        names = ("answers", "refusals", "failures", "dropped", "repeated", "oversized", "errors")
        self.counts = {f"rest_{name}": 0 for name in (*names, "budget_waits")}
        self._on_answer, self._on_refused = on_answer, on_refused
        self._ssl = ssl_context
        limits = limits or exchange.REST_LIMITS
        self._windows = {name: Window(limit) for name, limit in limits.items()}
        # shared by all programs of this address
        self._budgets = {
            name: Budget(limit.count) for name, limit in exchange.ADDRESS_LIMITS.items()
        }
        # group -> requests that are queued or sent
        self._pending: dict[str, set[Request]] = {name: set() for name in self._windows}
        self._slots = {name: asyncio.Semaphore(PARALLEL) for name in self._windows}
        self._tasks = Tasks(self._failed)
        self._gate = LogGate()
        self._session: aiohttp.ClientSession | None = None
        self.log = structlog.get_logger(f"rest-{exchange.NAME}")

    def submit(self, request: Request) -> None:
        """Queue a request, unless the same request is queued or sent already."""
        pending = self._pending[request.group]
        if request in pending:
            self.counts["rest_repeated"] += 1
            return
        if len(pending) >= QUEUE_LIMIT:
            self.counts["rest_dropped"] += 1
            self._refuse(request, Refusal("too many requests queued", fatal=False))
            return
        pending.add(request)
        self._tasks.spawn(f"rest-{request.group}", self._work(request), ends=True)

    def counters(self) -> dict[str, int | float]:
        """Return the counts, and how much of each limit is used."""
        found: dict[str, int | float] = dict(self.counts)
        now = monotonic_ns()
        for name, window in self._windows.items():
            found[f'rest_used{{group="{name}"}}'] = window.used(now)
            found[f'rest_limit{{group="{name}"}}'] = window.limit.count
        for name, budget in self._budgets.items():
            found[f'rest_address_used{{group="{name}"}}'] = budget.used_now(now)
            found[f'rest_address_limit{{group="{name}"}}'] = budget.count
        return found

    async def close(self) -> None:
        """Drop all queued requests."""
        await self._tasks.cancel()
        if self._session is not None:
            await self._session.close()

    async def get(self, request: Request) -> bytes:
        """Fetch one answer now, within the limits.

        Raises: RefusedError when the exchange refuses or cannot be reached.
        """
        while (wait_ns := self._wait_ns(request)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait_ns / SECOND_NS)
        self._windows[request.group].take(monotonic_ns(), request.weight)
        budget = self._budgets.get(request.group)
        if budget is None:
            return await self._get(request)
        budget.take(request.weight)
        try:
            return await self._get(request)
        finally:
            budget.done(request.weight)

    def _wait_ns(self, request: Request) -> int:
        now = monotonic_ns()
        wait_ns = self._windows[request.group].wait_ns(now, request.weight)
        budget = self._budgets.get(request.group)
        if wait_ns or budget is None:
            return wait_ns
        wait_ns = budget.wait_ns(now, request.weight)
        if wait_ns:
            self.counts["rest_budget_waits"] += 1
            text = (
                f"all programs of this address have used {budget.used} of {budget.count} in this"
                " minute: requests wait for the next minute"
            )
            self._warn("rest budget", request, text)
        return wait_ns

    def _read_budget(self, group: str, headers: Mapping[str, str]) -> None:
        budget = self._budgets.get(group)
        if budget is None:
            return
        text = headers.get(self.exchange.ADDRESS_LIMITS[group].header, "")
        if text.isascii() and text.isdigit() and len(text) <= USED_DIGITS:
            left_s = MINUTE_S - _exchange_s(headers) % MINUTE_S + MINUTE_SLACK_S
            budget.report(int(text), monotonic_ns(), left_s)

    async def _get(self, request: Request) -> bytes:
        limit, parts = ANSWER_BYTES[request.purpose], ANSWER_PARTS[request.purpose]
        try:
            # a redirect is not followed: the answer could name any host
            async with self._open().get(
                self.base + request.path, allow_redirects=False
            ) as response:
                status, headers = response.status, response.headers
                self._read_budget(request.group, headers)
                payload = await self._read(response, limit)
                if payload.count(b"[") + payload.count(b"{") > parts:
                    raise OversizedError
        except OversizedError:
            self.counts["rest_oversized"] += 1
            text = f"an answer of more than {limit} bytes, or {parts} lists and objects"
            self._warn("refused", request, text)
            raise RefusedError(Refusal(text, fatal=False)) from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, zlib.error) as error:
            self.counts["rest_failures"] += 1
            text = plain(str(error) or type(error).__name__)
            raise RefusedError(Refusal(text, fatal=False)) from None
        if 300 <= status < 400:
            refusal: Refusal | None = Refusal(f"HTTP {status}, expected no redirect", fatal=False)
        else:
            refusal = country_refusal(
                status, payload, self.exchange.MIRRORS
            ) or self.exchange.refusal_of_answer(status, payload)
        if refusal is None:
            self.counts["rest_answers"] += 1
            return payload
        self.counts["rest_refusals"] += 1
        if status in (418, 429):
            # the header is exact; Upbit, and Binance for bans, name the time in the body
            wait_s = retry_after_s(headers.get("Retry-After")) or plausible_s(
                block_s(payload, _exchange_s(headers))
            )
            self._block(status, request.group, wait_s)
        self._warn("refused", request, refusal.text)
        raise RefusedError(refusal)

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > limit:
                raise OversizedError
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return bytes(body)
        return await asyncio.to_thread(inflate, bytes(body), encoding, limit)

    def _block(self, status: int, group: str, wait_s: float) -> None:
        wait_s = wait_s or (BAN_S if status == 418 else BLOCK_S)
        # a ban (418) covers all requests of the address
        for name, window in self._windows.items():
            if status == 418 or name == group:
                window.block(monotonic_ns() + int(wait_s * SECOND_NS))

    async def _work(self, request: Request) -> None:
        try:
            # the requests that wait here are sent in their order
            async with self._slots[request.group]:
                await self._fulfil(request)
        finally:
            self._pending[request.group].discard(request)

    async def _fulfil(self, request: Request) -> None:
        try:
            payload = await self.get(request)
        except RefusedError as error:
            self._refuse(request, error.refusal)
            return
        except Exception as error:
            self._error(request, error)
            self._refuse(request, Refusal(plain(repr(error)), fatal=False))
            return
        if self.recorder is not None:
            try:
                self.recorder(request, now_ns(), payload)
            except Exception as error:
                # a failed recording does not spoil the answer
                self._error(request, error)
        try:
            taken = self._on_answer(request, payload, monotonic_ns())
            if taken is not None:
                await taken
        except Exception as error:
            # an error in one answer must not end the requests behind it
            self._error(request, error)
            self._refuse(request, Refusal("internal error in an answer", fatal=False))

    def _refuse(self, request: Request, refusal: Refusal) -> None:
        try:
            self._on_refused(request, refusal, monotonic_ns())
        except Exception as error:
            self._error(request, error)

    def _error(self, request: Request, error: Exception) -> None:
        self.counts["rest_errors"] += 1
        if self._gate.opens("error", monotonic_ns()):
            self.log.error(
                "internal error in answer",
                path=request.path[:120],
                error=plain(repr(error)),
                exc_info=error,
            )

    def _failed(self, name: str, error: BaseException) -> None:
        self.counts["rest_errors"] += 1
        self.log.error("request task failed", task=name, error=plain(repr(error)))

    def _warn(self, event: str, request: Request, text: str) -> None:
        if self._gate.opens(text[:40], monotonic_ns()):
            self.log.warning(event, path=request.path[:120], text=text)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = Connector(ssl=self._ssl or True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "gzip, deflate",
                    **self.exchange.REST_HEADERS,
                },
                requote_redirect_url=False,
                # `inflate` bounds the size
                auto_decompress=False,
                # cookies of each answer would add up
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class RefusedError(Exception):
    """A request did not succeed. Attributes: refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class OversizedError(Exception):
    """An answer has more bytes, lists or objects than any answer of its kind."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding; inflate at most a little more than `limit` bytes.

    Raises: OversizedError beyond `limit` bytes; ValueError for an encoding that was not requested
        or a body that is cut short; zlib.error for a damaged body.
    """
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"Content-Encoding: expected gzip or deflate, was {encoding[:40]!r}")
    # deflate comes with or without zlib's head
    raw = encoding == "deflate" and body[:1] and body[0] & 0x0F != 8
    inflater = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    out = bytearray()
    while body and not inflater.eof:
        out += inflater.decompress(body, INFLATED_AT_ONCE)
        if len(out) > limit:
            raise OversizedError
        body = inflater.unconsumed_tail
    if not inflater.eof:
        raise ValueError("answer: expected a whole compressed body, was cut short")
    return bytes(out)


def _exchange_s(headers: Mapping[str, str]) -> float:
    # the clock of this host may be wrong
    try:
        return parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return now_ns() / SECOND_NS
