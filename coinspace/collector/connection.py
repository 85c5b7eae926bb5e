"""One subscription kept alive: dial, subscribe, watch, replace before the end.

A `Link` is one WebSocket. A `Connection` keeps one link open; while it replaces a link, two are
open for a moment (make before break). The end of a link is noticed at once, also while another
one is dialled. `limits` decides about times. Data goes from the listener straight into the stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog
from aiohappyeyeballs import start_connection
from picows import (
    WSAutoPingStrategy,
    WSCloseCode,
    WSError,
    WSHandshakeError,
    WSMsgType,
    WSProtocolError,
    WSTransport,
    ws_connect,
)
from picows.url import WSParsedURL

from coinspace._ext.collector_listener import MAX_MESSAGE, FrameListener
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.collector.limits import (
    BAN_S,
    BLOCK_S,
    Dialer,
    FailureLog,
    Window,
    retry_after_s,
)
from coinspace.collector.stage import Stage
from coinspace.config import TuningSettings
from coinspace.exchanges.exchange import Exchange, Refusal, Subscription, country_refusal, plain
from coinspace.recording.recorder import Recorder
from coinspace.text import MASK, shown_address
from coinspace.tuning import tune_socket

# for a whole dial: resolving, TCP, TLS and handshake
HANDSHAKE_TIMEOUT_S = 10.0
# an address that does not answer within this time: the next one is tried beside it
NEXT_ADDRESS_S = 0.25
PONG_TIMEOUT_S = 10.0
# how long the peer may take to end a connection after our close frame
CLOSE_TIMEOUT_S = 2.0
# longest time for which both links are open when one replaces the other
OVERLAP_S = 10.0
OVERLAP_POLL_S = 0.05
POLL_S = 1.0
# a link is replaced this long before its known end, so that the overlap is not cut short
LIFETIME_MARGIN_S = 600.0
SWITCHING_PROTOCOLS = 101
# a subscription that was refused for good is tried again after this time: a short fault of the
# exchange gives the same error
REFUSED_S = 60.0
# status of a handshake during maintenance of the exchange
MAINTENANCE = 503
# the same for a key that is wrong, revoked or not allowed at this address
KEY_REFUSED = (400, 401, 403)

# picows logs faults of the peer, some with a traceback; they are counted here instead
_SILENT = logging.getLogger("picows.coinspace")
_SILENT.setLevel(logging.CRITICAL + 1)


class DialError(Exception):
    """A dial failed because of the other side.

    Attributes: cause: a key of `Connection.failures`. retry_after_s: wait that the peer asked for.
    """

    def __init__(self, cause: str, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.cause = cause
        self.retry_after_s = retry_after_s


class Link:
    """One WebSocket connection and the reason of its end.

    Attributes:
        subscription: what it is opened for.
        step: step of the dial that is under way.
        end_reason: why CoinSpace ends the link, "" = CoinSpace does not end it.
        leaving: the link is being replaced, so its end is no new failure.
        error: internal error that ended the link.
    """

    def __init__(self, number: int, owner: Connection) -> None:
        self.number = number
        self._owner = owner
        self.subscription = owner.subscription
        self.step = ""
        self.transport: WSTransport | None = None
        self.listener: FrameListener | None = None
        self.opened_ns = 0
        self.end_reason = ""
        self.leaving = False
        self.error: Exception | None = None
        self.refused = ""
        # frames that are recorded after the last frame of the link before
        self.waiting: list[tuple[int, bytes]] = []
        self._socket: socket.socket | None = None
        self._abandoned = False
        self._close: tuple[int, str] | None = None
        self._broken: BaseException | None = None
        self._is_ending = False

    # the socket

    async def connect(self, url: WSParsedURL, rotate: int) -> socket.socket:
        """Return a socket that is connected to one of the host's addresses.

        Args: rotate: number of failed dials; the order of the addresses is rotated by it.
        """
        self.step = "address"
        found = await asyncio.get_running_loop().getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM
        )
        first = rotate % len(found)
        self.step = "TCP connection"
        self._socket = await start_connection(
            found[first:] + found[:first], happy_eyeballs_delay=NEXT_ADDRESS_S
        )
        self.step = "TLS and handshake" if url.is_secure else "handshake"
        return self._socket

    def abandon(self) -> None:
        """Give up a dial at any step."""
        self._abandoned = True
        if self.transport is not None:
            self.transport.disconnect(False)
        elif self._socket is not None:
            # picows does not give out the transport before the handshake is answered
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket = None

    # reports of the listener

    def on_open(self, transport: WSTransport) -> None:
        self.transport = transport
        self._socket = None
        self.opened_ns = monotonic_ns()
        if self._abandoned:
            transport.disconnect(False)
            return
        try:
            self._owner._opened(self)
        except Exception as error:
            self.error = error
            transport.disconnect(False)

    def on_close(self, code: int, reason: str) -> None:
        self._close = self._close or (code, plain(reason))
        self._abort_later()

    def on_lost(self, error: BaseException | None) -> None:
        self._broken = error
        self._owner._closed(self)

    def on_failure(self, error: Exception, frame: bytes) -> None:
        self._owner.stage.on_failed_frame(error, frame, monotonic_ns())

    def keep_frame(self, received_ns: int, frame: bytes) -> None:
        """Keep a frame until it can be recorded."""
        self.waiting.append((received_ns, frame))

    # the end

    @property
    def delivered(self) -> bool:
        """Whether the link brought any data."""
        return self.listener is not None and self.listener.frames > 0

    def end(self, reason: str, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Send a close frame; the peer answers with its own close frame."""
        if not self.end_reason and self.transport is not None:
            self.end_reason = reason
            self.transport.send_close(code)
            self._abort_later()

    def look(self) -> None:
        """Check whether picows has sent a close frame (broken protocol or missing pong)."""
        if self.transport is not None and self.transport.is_close_frame_sent:
            self._abort_later()

    def _abort_later(self) -> None:
        # a peer that does not close its side would keep the connection open for ever
        if not self._is_ending and self.transport is not None:
            self._is_ending = True
            loop = asyncio.get_running_loop()
            loop.call_later(CLOSE_TIMEOUT_S, self.transport.disconnect, False)

    def outcome(self) -> tuple[str, str]:
        """Return why the link ended: a cause of `failures`, and the reason as text."""
        if self.refused:
            return "refused", f"refused: {self.refused}"
        if self.end_reason:
            return "ended", self.end_reason
        if self.error is not None:
            return "internal", f"internal error: {self.error!r}"
        if self.listener is not None and self.listener.stuck:
            return "stuck", "the exchange does not read our frames"
        if isinstance(self._broken, WSProtocolError):
            return "protocol", f"protocol error {int(self._broken.code)}: {self._broken}"
        if self._broken is not None:
            return "protocol", f"protocol error: {self._broken!r}"
        if self._close is not None:
            code, text = self._close
            return "closed", f"closed by the exchange: {code} {text}".rstrip()
        if self.transport is not None and self.transport.is_close_frame_sent:
            return "no_pong", f"no pong and no frame within {PONG_TIMEOUT_S:g} s of a ping"
        return "lost", "connection lost"


class Connection:
    """Keeps one subscription alive until `stop`.

    Attributes:
        links: open links, the newest last.
        fatal: the refusal when the exchange refused the subscription for good, None once data
            comes.
        failures: failed dials and links, by cause: address, connect, timeout, tls, http, key,
            handshake; lost, closed, protocol, no_pong, stuck, refused, internal.
    """

    # number of the newest link; numbers count up over all connections of the process
    _numbers = 0

    def __init__(
        self,
        exchange: Exchange,
        subscription: Subscription,
        stage: Stage,
        connects: Window,
        *,
        ssl_context: ssl.SSLContext | None = None,
        recorder: Recorder | None = None,
        tuning: TuningSettings | None = None,
        seed: int | None = None,
        address: int = 0,
    ) -> None:
        self.exchange = exchange
        self.subscription = subscription
        self.stage = stage
        self.dialer = Dialer(seed)
        self.links: list[Link] = []
        self.fatal: Refusal | None = None
        self.connect_failures = 0
        self.replacements = 0
        self.failures: Counter[str] = Counter()
        self._connects = connects
        self._messages = [Window(limit) for limit in exchange.MESSAGE_LIMITS]
        self._ssl = ssl_context
        self.recorder = recorder
        self._tuning = tuning or TuningSettings()
        # of the host's addresses, the one that is tried first
        self._address = address
        self._stopping = False
        self._replace = ""
        # frames to send on the newest link
        self._frames: list[bytes] = []
        self._wake = asyncio.Event()
        self._failure_log = FailureLog()
        self._replacement_log = FailureLog()
        self.log = structlog.get_logger(f"connection-{exchange.NAME}")

    async def run(self) -> None:
        """Dial, watch and dial again until stopped."""
        try:
            while self._goes_on:
                await self._step()
            self._end_links()
            deadline = monotonic_ns() + int((CLOSE_TIMEOUT_S + POLL_S) * SECOND_NS)
            while self.links and (left_ns := deadline - monotonic_ns()) > 0:
                await self._sleep(left_ns / SECOND_NS)
        finally:
            for link in self.links:
                link.abandon()

    async def stop(self) -> None:
        """Close all links, so that `run` returns."""
        self.end()

    def end(self) -> None:
        """Close all links without waiting for it."""
        self._stopping = True
        self._wake.set()
        self._end_links()

    def replace(self, number: int, reason: str) -> None:
        """Replace a link of this connection; the old link ends after the new one is open."""
        if self.links and self.links[-1].number == number:
            self._want_replacement(reason)

    def send(self, number: int, frames: Sequence[bytes]) -> None:
        """Send further frames on the newest link of this connection, within the limits."""
        if self.links and self.links[-1].number == number:
            self._frames.extend(frames)
            self._wake.set()

    def subscribe(self, subscription: Subscription) -> None:
        """Deliver these markets from now on.

        For markets that the newest link does not deliver, another link replaces it, so that the
        others lose nothing. Markets that are left out are so from the next link on.
        """
        self.subscription = subscription
        self._wake.set()

    @property
    def _goes_on(self) -> bool:
        return not self._stopping

    async def _step(self) -> None:
        try:
            if not self.links:
                await self._dial()
            elif self._due(self.links[-1]):
                await self._succeed(self.links[-1])
            elif self._frames:
                frames, self._frames = self._frames, []
                await self._send(self.links[-1], frames)
            else:
                await self._sleep(POLL_S)
                self._look()
        except Exception as error:
            # an internal error must not end the collection of these markets
            self._internal(error)
        self._report()

    def _look(self) -> None:
        for link in self.links:
            self._check_refusal(link)
            if not link.refused:
                self.fatal = None if link.delivered else self.fatal
            elif self.fatal is not None:
                link.end("refused")
            link.look()

    def _check_refusal(self, link: Link) -> None:
        refusal = self.stage.take_refusal(link.number)
        if refusal is not None:
            link.refused = plain(refusal.text)
            if refusal.fatal:
                self.fatal = refusal

    def _end_links(self) -> None:
        for link in self.links:
            link.end("stopped", WSCloseCode.GOING_AWAY)

    # dialling

    async def _dial(self) -> Link | None:
        """Open a link and send its subscription; None when that failed or was stopped."""
        if not self.links:
            self.stage.on_connecting(self.subscription.symbols, monotonic_ns())
        while self._goes_on and (wait_ns := self._wait_ns()) > 0:
            await self._sleep(wait_ns / SECOND_NS)
            self._look()
        if not self._goes_on:
            return None
        Connection._numbers += 1
        link = Link(Connection._numbers, self)
        self._connects.take(monotonic_ns())
        is_ready = False
        try:
            await self._open(link)
            await self._subscribe(link)
            is_ready = True
        except DialError as error:
            self._failed(error)
            return None
        except Exception as error:
            link.error = error
            raise
        finally:
            if not is_ready:
                # no link stays open without an owner or without a subscription
                link.abandon()
        return link

    def _wait_ns(self) -> int:
        now = monotonic_ns()
        return max(self.dialer.wait_ns(now), self._connects.wait_ns(now))

    def _opened(self, link: Link) -> None:
        # the first frames may come in the same buffer as the handshake: the stage must know the
        # link before them
        self.dialer.opened(link.opened_ns)
        # this link is the replacement that was wanted; what waits was meant for the link before
        self._replace = ""
        self._frames.clear()
        if self.recorder is not None and link.listener is not None:
            if not self.links:
                self.recorder.mark("connect")
            # the newer of two links may be ahead, which would look like a gap in the feed
            link.listener.recorder = link.keep_frame if self.links else self.recorder.frame
        self.links.append(link)
        self.stage.on_connected(link.number, link.subscription.symbols, monotonic_ns())

    async def _open(self, link: Link) -> None:
        link.listener = FrameListener(
            self.stage,  # type: ignore[arg-type]
            link.number,
            link,
            ping=self.exchange.PING_FRAME,
        )
        limit = asyncio.timeout(HANDSHAKE_TIMEOUT_S)
        try:
            async with limit:
                # no Origin header: picows sends only the headers that it is given
                transport, _ = await ws_connect(
                    lambda request, response: link.listener,
                    link.subscription.url,
                    ssl_context=self._ssl,
                    # `limit` covers it
                    websocket_handshake_timeout=None,
                    socket_factory=lambda url: link.connect(
                        url, self._address + self.dialer.failures
                    ),
                    logger_name=_SILENT,
                    # aiofastnet registers a closed socket when a connection is reset at once
                    use_aiofastnet=False,
                    enable_auto_ping=True,
                    # the listener answers pings: it counts them as a sign of life
                    enable_auto_pong=False,
                    auto_ping_idle_timeout=self.exchange.PING_INTERVAL_S,
                    auto_ping_reply_timeout=min(PONG_TIMEOUT_S, self.exchange.PING_INTERVAL_S),
                    auto_ping_strategy=WSAutoPingStrategy.PING_PERIODICALLY,
                    disconnect_on_exception=False,
                    max_frame_size=MAX_MESSAGE,
                    max_redirects=0,
                    extra_headers=link.subscription.headers,
                )
        except Exception as error:
            if limit.expired():
                reason = f"no {link.step} within {HANDSHAKE_TIMEOUT_S:g} s"
                raise DialError("timeout", reason) from None
            raise self._dial_error(link, error) from error
        if link.error is not None:
            raise link.error
        if link.transport is None:
            # picows reports no error in this case
            raise DialError("handshake", "closed before the handshake was answered")
        tune_socket(transport.underlying_transport.get_extra_info("socket"), self._tuning)

    def _dial_error(self, link: Link, error: Exception) -> DialError:
        if isinstance(error, WSHandshakeError) and error.response is not None:
            status = int(error.response.status)
            if status != SWITCHING_PROTOCOLS:
                return self._refused(status, error.response.headers, error.raw_body or b"")
        if isinstance(error, ssl.SSLCertVerificationError):
            return DialError("tls", f"certificate not trusted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            return DialError("tls", plain(str(error)))
        if isinstance(error, (OSError, EOFError)):
            causes = {"address": "address", "TCP connection": "connect"}
            cause = causes.get(link.step, "tls" if self._ssl is not None else "handshake")
            return DialError(cause, plain(str(error)) or type(error).__name__)
        # any other error: picows could not read the answer, which may repeat the request's key
        text = str(error) if isinstance(error, WSError) else repr(error)
        for _, secret in link.subscription.headers:
            text = text.replace(secret, MASK)
        return DialError("handshake", f"expected a WebSocket handshake, was {plain(text)}")

    def _refused(self, status: int, headers: Any, body: bytes) -> DialError:
        country = country_refusal(status, body, self.exchange.MIRRORS)
        if country is not None:
            return DialError("http", country.text)
        if status in KEY_REFUSED and self.subscription.fallback is not None:
            return DialError("key", f"API key refused: HTTP {status}")
        retry_after = retry_after_s(headers.get("Retry-After"))
        if status in (418, 429):
            retry_after = retry_after or (BAN_S if status == 418 else BLOCK_S)
            self._connects.block(monotonic_ns() + int(retry_after * SECOND_NS))
        reason = f"maintenance: HTTP {status}" if status == MAINTENANCE else f"HTTP {status}"
        return DialError("http", reason, retry_after)

    def _failed(self, error: DialError) -> None:
        self.connect_failures += 1
        if error.cause == "key":
            self._use_fallback(str(error))
            return
        self._note(error.cause, str(error))
        self.dialer.lost(monotonic_ns(), error.retry_after_s)
        self.stage.on_connect_failed(self.subscription.symbols, str(error), monotonic_ns())

    def _use_fallback(self, reason: str) -> None:
        # the next dial follows at once: the fallback is another address, and needs no key
        assert self.subscription.fallback is not None
        self.subscription = self.subscription.fallback
        self.failures["key"] += 1
        self.stage.on_key_refused(reason)

    async def _subscribe(self, link: Link) -> None:
        await self._send(link, link.subscription.frames)

    async def _send(self, link: Link, frames: Sequence[bytes]) -> None:
        for frame in frames:
            while link in self.links and (wait_ns := self._message_wait_ns()) > 0:
                await self._sleep(wait_ns / SECOND_NS)
            if link not in self.links or link.transport is None or not self._goes_on:
                return
            for window in self._messages:
                window.take(monotonic_ns())
            link.transport.send(WSMsgType.TEXT, frame)
            if self.recorder is not None:
                self.recorder.sent(now_ns(), frame)

    def _message_wait_ns(self) -> int:
        now = monotonic_ns()
        return max(window.wait_ns(now) for window in self._messages)

    # replacing

    def _due(self, newest: Link) -> bool:
        """Return whether the newest link is to be replaced."""
        if newest.end_reason or len(self.links) > 1:
            # wait for a closing link, so that never more than two are open
            return False
        life_ns = int((self.exchange.LIFETIME_S - LIFETIME_MARGIN_S) * SECOND_NS)
        if self.exchange.LIFETIME_S and monotonic_ns() - newest.opened_ns > life_ns:
            self._want_replacement("lifetime")
        wanted = self.subscription
        if newest.subscription is not wanted and not set(wanted.symbols).issubset(
            newest.subscription.symbols
        ):
            self._want_replacement("more markets are listed")
        return bool(self._replace)

    def _want_replacement(self, reason: str) -> None:
        if self._replace:
            return
        self._replace = reason
        newest = self.links[-1]
        if not newest.leaving:
            # for the dialer the link ends now: after a short life the next dial has to wait
            newest.leaving = True
            self.dialer.lost(monotonic_ns(), delivered=newest.delivered)
        self._replacement_log.add(reason)
        self._wake.set()

    async def _succeed(self, old: Link) -> None:
        """Open a new link, then end the old one. The old link may be lost meanwhile."""
        reason = self._replace
        new = await self._dial()
        if new is None:
            return
        self.replacements += 1
        deadline = monotonic_ns() + int(OVERLAP_S * SECOND_NS)
        while self._goes_on and old in self.links and new in self.links:
            if self.stage.caught_up(new.number) or monotonic_ns() > deadline:
                old.end(f"replaced: {reason}")
                return
            await asyncio.sleep(OVERLAP_POLL_S)
        if old in self.links and self._goes_on:
            # the new link was lost before it caught up
            self._want_replacement(reason)

    # the end of a link

    def _closed(self, link: Link) -> None:
        if link not in self.links:
            return
        self.links.remove(link)
        self._wake.set()
        try:
            self._gone(link)
        except Exception as error:
            self._internal(error)

    def _gone(self, link: Link) -> None:
        self._check_refusal(link)
        cause, reason = link.outcome()
        by_us = bool(link.end_reason and not link.refused)
        if not by_us and link.error is None:
            self._note(cause, reason)
        if not self.links:
            self._replace = ""
        if not by_us and not link.leaving and self._is_newest(link):
            # the dialer dials at once when the lost link had lived long enough
            wait_s = REFUSED_S if link.refused and self.fatal is not None else 0.0
            self.dialer.lost(monotonic_ns(), wait_s, delivered=link.delivered)
        if self.recorder is not None:
            if self.links:
                self._record_waiting(self.links[0])
            else:
                # only without another link: for a replay this mark is the loss of all markets
                self.recorder.mark("disconnect", reason=reason)
        self.stage.on_disconnected(link.number, reason, monotonic_ns())

    def _is_newest(self, link: Link) -> bool:
        return all(link.number > other.number for other in self.links)

    def _record_waiting(self, link: Link) -> None:
        if self.recorder is None or link.listener is None:
            return
        link.listener.recorder = self.recorder.frame
        for received_ns, frame in link.waiting:
            self.recorder.frame(received_ns, frame)
        link.waiting.clear()

    # reports

    def _note(self, cause: str, reason: str) -> None:
        self.failures[cause] += 1
        self._failure_log.add(reason)

    def _report(self) -> None:
        """Log failures and replacements, at most once a minute."""
        now = monotonic_ns()
        if (failed := self._failure_log.take(now)) is not None:
            self.log.warning(
                "connection failed",
                url=shown_address(self.subscription.url.partition("?")[0]),
                **failed,
                retry_in_s=round(self.dialer.wait_ns(now) / SECOND_NS, 1),
            )
        if (replaced := self._replacement_log.take(now)) is not None:
            self.log.info("replacing connection", **replaced)

    def _internal(self, error: Exception) -> None:
        self.failures["internal"] += 1
        self.log.error("internal error in connection", error=repr(error), exc_info=error)
        self.dialer.lost(monotonic_ns())

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the time is over or a link has changed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def counters(self) -> dict[str, int | float]:
        counted: dict[str, int | float] = {
            "connect_failures": self.connect_failures,
            "replacements": self.replacements,
            "links": len(self.links),
        }
        for cause, count in self.failures.items():
            counted[f'connection_failures{{cause="{cause}"}}'] = count
        return counted
