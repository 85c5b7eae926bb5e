"""One subscription kept alive: dial, subscribe, watch, replace before it ends.

A `Link` is one WebSocket; a `Connection` keeps one Link open, and for a moment two when it
replaces one (make before break). All decisions about time are in `limits`; all data goes from the
listener straight into the stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from picows import WSAutoPingStrategy, WSError, WSHandshakeError, WSMsgType, WSTransport, ws_connect

from coinspace._ext.collector_listener import FrameListener
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.limits import Dialer, Window
from coinspace.config import TuningSettings
from coinspace.exchanges.exchange import Exchange, Refusal, Subscription
from coinspace.feed.recorder import Recorder
from coinspace.tuning import tune_socket

HANDSHAKE_TIMEOUT_S = 10.0
PONG_TIMEOUT_S = 10.0
MAX_FRAME = 16 << 20
# an open connection that delivers nothing at all for so long is replaced
MUTE_NS = 30 * SECOND_NS
# how long both connections live when one replaces the other
OVERLAP_S = 10.0
OVERLAP_POLL_S = 0.05
# replaced this long before its known end, so that the overlap is not cut short
LIFETIME_MARGIN_S = 600.0
# no permission to connect before then, when 418 comes without a time
BAN_S = 120.0
# what a handshake is answered while the exchange is not in service
MAINTENANCE = 503


class Link:
    """One WebSocket connection and what became of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.transport: WSTransport | None = None
        self.listener: FrameListener | None = None
        self.opened_ns = 0
        self.closed = asyncio.Event()
        self.reason = "connection lost"
        # frames that wait to be recorded behind those of the link before
        self.held: list[tuple[int, bytes]] = []
        self.on_opened: Callable[[], None] = lambda: None
        self.on_failed_frame: Callable[[Exception, bytes], None] = lambda error, frame: None

    def on_open(self, transport: WSTransport) -> None:
        self.transport = transport
        self.opened_ns = monotonic_ns()
        self.on_opened()

    def on_close(self, code: int, reason: str) -> None:
        self.reason = f"closed by the exchange: {code} {reason}".rstrip()

    def on_lost(self) -> None:
        self.closed.set()

    def on_failure(self, error: Exception, frame: bytes) -> None:
        self.on_failed_frame(error, frame)

    def hold(self, received_ns: int, frame: bytes) -> None:
        """Keep a frame for the recorder."""
        self.held.append((received_ns, frame))

    def end(self, reason: str) -> None:
        """Close from our side."""
        self.reason = reason
        if self.transport is not None and not self.transport.is_disconnected:
            self.transport.send_close()
            self.transport.disconnect(False)


class Receiver(Protocol):
    """What a connection needs of a stage, besides being a compiled collector."""

    def on_connecting(self, symbols: tuple[str, ...], now_ns: int) -> None: ...
    def on_connect_failed(self, symbols: tuple[str, ...], reason: str, now_ns: int) -> None: ...
    def on_connected(self, connection: int, symbols: tuple[str, ...], now_ns: int) -> None: ...
    def on_disconnected(self, connection: int, reason: str, now_ns: int) -> None: ...
    def caught_up(self, connection: int) -> bool: ...
    def take_refusal(self, connection: int) -> Refusal | None: ...
    def on_failed_frame(self, error: Exception, frame: bytes, now_ns: int) -> None: ...


class Connection:
    """Keeps one subscription delivering until `stop`."""

    # numbers of links count up over all connections of the process: a newer one is larger
    _numbers = 0

    def __init__(
        self,
        exchange: Exchange,
        subscription: Subscription,
        stage: Receiver,
        connects: Window,
        *,
        ssl_context: ssl.SSLContext | None = None,
        recorder: Recorder | None = None,
        tuning: TuningSettings | None = None,
        seed: int | None = None,
    ) -> None:
        self.exchange = exchange
        self.subscription = subscription
        self.stage = stage
        self.dialer = Dialer(seed)
        self.links: list[Link] = []
        self.fatal: Refusal | None = None
        self.connect_failures = 0
        self.replacements = 0
        self._connects = connects
        self._messages = [Window(limit) for limit in exchange.MESSAGE_LIMITS]
        self._ssl = ssl_context
        self._recorder = recorder
        self._tuning = tuning or TuningSettings()
        self._stopping = asyncio.Event()
        self._replace = ""
        self._wake = asyncio.Event()
        self.log = structlog.get_logger(f"connection-{exchange.NAME}")

    async def run(self) -> None:
        """Dial, watch and dial again until stopped or refused for good."""
        while not self._stopping.is_set() and self.fatal is None:
            try:
                link = await self._dial()
                if link is not None:
                    await self._keep(link)
            except Exception as error:
                # a fault of ours must not end the collection of these markets
                self.log.exception("connection failed by an error of ours", error=repr(error))
                self.dialer.lost(monotonic_ns())

    async def stop(self) -> None:
        """Close all links; `run` returns."""
        self._stopping.set()
        self._wake.set()
        for link in self.links:
            link.end("stopped")

    def replace(self, reason: str) -> None:
        """Ask for a new link in place of the present one, made before that is given up."""
        self._replace = self._replace or reason
        self._wake.set()

    def _check_refusal(self, link: Link) -> None:
        refusal = self.stage.take_refusal(link.number)
        if refusal is not None:
            link.reason = f"refused: {refusal.text}"
            if refusal.fatal:
                self.fatal = refusal

    # dialling

    async def _dial(self) -> Link | None:
        """Make a link and send its subscription; None when that failed, after which the dialer
        waits.
        """
        if not self.links:
            self.stage.on_connecting(self.subscription.symbols, monotonic_ns())
        await self._pause(self.dialer.wait_ns(monotonic_ns()) / SECOND_NS)
        while (wait_ns := self._connects.wait_ns(monotonic_ns())) > 0:
            await self._pause(wait_ns / SECOND_NS)
            if self._stopping.is_set():
                break
        if self._stopping.is_set():
            return None
        Connection._numbers += 1
        link = Link(Connection._numbers)
        link.on_failed_frame = lambda error, frame: self.stage.on_failed_frame(
            error, frame, monotonic_ns()
        )
        link.on_opened = lambda: self._opened(link)
        self._connects.take(monotonic_ns())
        try:
            await self._open(link)
        except (TimeoutError, OSError, WSError) as error:
            self._failed(error)
            return None
        await self._subscribe(link)
        return link

    def _opened(self, link: Link) -> None:
        # the first frames may stand in the same buffer as the handshake: the stage must know the
        # link by then
        self.dialer.opened(link.opened_ns)
        if self._recorder is not None and not self.links:
            self._recorder.mark("connect")
        self.links.append(link)
        self.stage.on_connected(link.number, self.subscription.symbols, link.opened_ns)

    async def _open(self, link: Link) -> None:
        recorder = None
        if self._recorder is not None:
            # of two links the newer one may be ahead, which would pass for a gap in the feed
            recorder = link.hold if self.links else self._recorder.frame

        def listener() -> FrameListener:
            link.listener = FrameListener(
                self.stage,  # type: ignore[arg-type]
                link.number,
                link,
                recorder,
            )
            return link.listener

        # no Origin header: picows sends only what it is given
        transport, _ = await ws_connect(
            listener,
            self.subscription.url,
            ssl_context=self._ssl,
            websocket_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            enable_auto_ping=True,
            auto_ping_idle_timeout=self.exchange.PING_INTERVAL_S,
            auto_ping_reply_timeout=min(PONG_TIMEOUT_S, self.exchange.PING_INTERVAL_S),
            auto_ping_strategy=WSAutoPingStrategy.PING_PERIODICALLY,
            disconnect_on_exception=False,
            max_frame_size=MAX_FRAME,
            max_redirects=0,
        )
        tune_socket(transport.underlying_transport.get_extra_info("socket"), self._tuning)

    def _failed(self, error: Exception) -> None:
        self.connect_failures += 1
        now, retry_after = monotonic_ns(), 0.0
        status = 0
        response = error.response if isinstance(error, WSHandshakeError) else None
        if response is not None:
            status = int(response.status)
            retry_after = _seconds(response.headers.get("Retry-After"))
            if status in (418, 429):
                retry_after = retry_after or (BAN_S if status == 418 else 10.0)
                self._connects.block(now + int(retry_after * SECOND_NS))
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"certificate not trusted: {error.verify_message}"
        else:
            reason = f"HTTP {status}" if status else str(error) or type(error).__name__
            if status == MAINTENANCE:
                reason = f"maintenance: {reason}"
        self.stage.on_connect_failed(self.subscription.symbols, reason, now)
        wait = self.dialer.lost(now, retry_after)
        self.log.warning(
            "connection failed",
            url=self.subscription.url[:80],
            reason=reason,
            retry_in_s=round(wait, 1),
        )

    async def _subscribe(self, link: Link) -> None:
        for frame in self.subscription.frames:
            while (wait := max(w.wait_ns(monotonic_ns()) for w in self._messages)) > 0:
                await self._pause(wait / SECOND_NS)
            if link.closed.is_set() or link.transport is None:
                return
            for window in self._messages:
                window.take(monotonic_ns())
            link.transport.send(WSMsgType.TEXT, frame)
            if self._recorder is not None:
                self._recorder.sent(now_ns(), frame)

    # watching

    async def _keep(self, link: Link) -> None:
        """Watch a link until it is gone; replace it when that is due."""
        while not link.closed.is_set() and not self._stopping.is_set() and self.fatal is None:
            self._wake.clear()
            if self._due(link):
                link = await self._succeed(link)
                continue
            await self._either(link, 1.0)
            self._check_refusal(link)
        if self.fatal is not None:
            link.end(f"refused: {self.fatal.text}")
        if self._stopping.is_set():
            link.end("stopped")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(link.closed.wait(), 2.0)
        self._gone(link)
        if not self._stopping.is_set() and self.fatal is None:
            # the first dial after a loss is made at once when the connection had been a good one
            self.dialer.lost(monotonic_ns())

    def _due(self, link: Link) -> bool:
        now = monotonic_ns()
        life_ns = int((self.exchange.LIFETIME_S - LIFETIME_MARGIN_S) * SECOND_NS)
        if self._replace:
            return True
        if self.exchange.LIFETIME_S and now - link.opened_ns > life_ns:
            self._replace = "lifetime"
        elif (
            link.listener is not None
            and now - max(link.listener.received_ns, link.opened_ns) > MUTE_NS
        ):
            self._replace = f"no data for {MUTE_NS // SECOND_NS} s"
        return bool(self._replace)

    async def _succeed(self, old: Link) -> Link:
        """Make a new link before the old one is given up; return the one that stays."""
        reason, self._replace = self._replace, ""
        self.log.info("replacing connection", reason=reason)
        new = await self._dial()
        if new is None:
            if not old.closed.is_set() and not self._stopping.is_set():
                self._replace = reason
                # the dialer has a wait now; the old link goes on meanwhile
                await self._either(old, 0.2)
            return old
        self.replacements += 1
        deadline = monotonic_ns() + int(OVERLAP_S * SECOND_NS)
        while monotonic_ns() < deadline and not self._stopping.is_set() and not old.closed.is_set():
            if self.stage.caught_up(new.number):
                break
            await asyncio.sleep(OVERLAP_POLL_S)
        old.end(f"replaced: {reason}")
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(old.closed.wait(), 2.0)
        self._gone(old)
        self._record_held(new)
        return new

    def _record_held(self, link: Link) -> None:
        if self._recorder is None or link.listener is None:
            return
        link.listener.recorder = self._recorder.frame
        for received_ns, frame in link.held:
            self._recorder.frame(received_ns, frame)
        link.held.clear()

    def _gone(self, link: Link) -> None:
        if link in self.links:
            self.links.remove(link)
            if self._recorder is not None and not self.links:
                # a replay takes this for the loss of all markets, so not when another link goes on
                self._recorder.mark("disconnect", reason=link.reason)
            self.stage.on_disconnected(link.number, link.reason, monotonic_ns())

    async def _either(self, link: Link, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(link.closed.wait()),
            asyncio.ensure_future(self._wake.wait()),
        ]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def counters(self) -> dict[str, int | float]:
        """Return what this connection counted."""
        return {
            "connect_failures": self.connect_failures,
            "replacements": self.replacements,
            "links": len(self.links),
        }


def _seconds(text: Any) -> float:
    # Retry-After in seconds; its date form is not sent by these exchanges
    try:
        return max(0.0, float(text))
    except (TypeError, ValueError):
        return 0.0
