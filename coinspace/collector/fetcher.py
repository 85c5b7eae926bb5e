"""REST requests within the exchange's limits, one after the other per group."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import structlog

from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.limits import Window
from coinspace.exchanges.exchange import Exchange, Limit, Refusal, Request

TIMEOUT_S = 10.0
# answers beyond this are no market data
MAX_ANSWER = 32 << 20
# wait when 429 or 418 come without Retry-After
BLOCK_S = 10.0
BAN_S = 120.0
# wishes kept per group: older comparisons are worthless, snapshots are asked for again by the stage
QUEUE_LIMIT = 2000

Answer = Callable[[Request, bytes, int], None]
Refused = Callable[[Request, Refusal, int], None]


class Fetcher:
    """Fulfils a stage's requests.

    Args:
        limits: by group, the exchange's own by default.
        recorder: None, or called with (request, received_ns, payload).
    """

    def __init__(
        self,
        exchange: Exchange,
        base: str,
        on_answer: Answer,
        on_refused: Refused,
        *,
        limits: Mapping[str, Limit] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        recorder: Callable[[Request, int, bytes], None] | None = None,
    ) -> None:
        self.exchange = exchange
        self.base = base.rstrip("/")
        self.recorder = recorder
        self.counts = {"rest_answers": 0, "rest_refusals": 0, "rest_failures": 0, "rest_dropped": 0}
        self._on_answer, self._on_refused = on_answer, on_refused
        self._ssl = ssl_context
        limits = limits or exchange.REST_LIMITS
        self._windows = {name: Window(limit) for name, limit in limits.items()}
        self._queues: dict[str, deque[Request]] = {name: deque() for name in self._windows}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self.log = structlog.get_logger(f"rest-{exchange.NAME}")

    def submit(self, request: Request) -> None:
        """Queue a request; snapshots go before comparisons."""
        queue = self._queues[request.group]
        if len(queue) >= QUEUE_LIMIT:
            self.counts["rest_dropped"] += 1
            refusal = Refusal("too many requests queued", fatal=False)
            self._on_refused(request, refusal, monotonic_ns())
            return
        if request.purpose == "snapshot":
            position = sum(waiting.purpose == "snapshot" for waiting in queue)
            queue.insert(position, request)
        else:
            queue.append(request)
        task = self._tasks.get(request.group)
        if task is None or task.done():
            self._tasks[request.group] = asyncio.create_task(self._drain(request.group))

    async def close(self) -> None:
        """Give up what is queued."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def get(self, request: Request) -> bytes:
        """Fetch one answer now, within the limits.

        Raises: RefusedError when the exchange refuses or cannot be reached.
        """
        window = self._windows[request.group]
        while (wait_ns := window.wait_ns(monotonic_ns(), request.weight)) > 0:  # noqa: ASYNC110
            await asyncio.sleep(wait_ns / SECOND_NS)
        window.take(monotonic_ns(), request.weight)
        try:
            async with self._open().get(self.base + request.path) as response:
                payload = await response.content.read(MAX_ANSWER)
                while not response.content.at_eof() and len(payload) < MAX_ANSWER:
                    payload += await response.content.read(MAX_ANSWER - len(payload))
                status, headers = response.status, response.headers
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self.counts["rest_failures"] += 1
            raise RefusedError(Refusal(str(error) or type(error).__name__, fatal=False)) from None
        refusal = self.exchange.refusal_of_answer(status, payload)
        if refusal is None:
            self.counts["rest_answers"] += 1
            return payload
        self.counts["rest_refusals"] += 1
        if status in (418, 429):
            retry_after = _retry_after(headers.get("Retry-After")) or (
                BAN_S if status == 418 else BLOCK_S
            )
            refusal = Refusal(refusal.text, fatal=False, retry_after_s=retry_after)
            # a ban is for the address, whatever was asked
            for name, other in self._windows.items():
                if status == 418 or name == request.group:
                    other.block(monotonic_ns() + int(retry_after * SECOND_NS))
        self.log.warning("refused", path=request.path[:120], text=refusal.text)
        raise RefusedError(refusal)

    async def _drain(self, group: str) -> None:
        queue = self._queues[group]
        while queue:
            request = queue.popleft()
            try:
                payload = await self.get(request)
            except RefusedError as error:
                self._on_refused(request, error.refusal, monotonic_ns())
                continue
            if self.recorder is not None:
                self.recorder(request, now_ns(), payload)
            self._on_answer(request, payload, monotonic_ns())

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: Any = aiohttp.TCPConnector(ssl=self._ssl or True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                headers={"Accept": "application/json"},
                requote_redirect_url=False,
            )
        return self._session


class RefusedError(Exception):
    """A request did not succeed. Attributes: refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def _retry_after(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
