"""A server that speaks each exchange's WebSocket and REST protocol on loopback.

    ws://127.0.0.1:PORT/EXCHANGE/…    http://127.0.0.1:PORT/EXCHANGE/…
    http://127.0.0.1:PORT/rates/SOURCE/…    (sources of USD/KRW, see `rates`)

Frames and answers come from a source: the simulated market or recordings. The paths below EXCHANGE
are the exchange's own. The rules of connections come from the exchange's module and session. Where
clients ping, the server cuts a connection that is idle for 60 s, without a close frame. Where the
server pings, it closes with 1008 after 60 s without a pong, and with 1001 after 24 h. Attempts to
connect are limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from aiohttp import WSMsgType, web

from coinspace.errors import FeedError
from coinspace.exchanges import EXCHANGES
from coinspace.exchanges import exchange as exchange_named
from coinspace.simulator.connection import Connection, reset_on_close
from coinspace.simulator.disorder import Disorder
from coinspace.simulator.rates import SIMULATED_SOURCES, SimulatedRates
from coinspace.simulator.rest import Answer, answer
from coinspace.simulator.session import SIMULATED_KEY, Session, session_of
from coinspace.simulator.simulation import Simulation
from coinspace.simulator.source import Source
from coinspace.tasks import Tasks, log_failure
from coinspace.window import Used

HOUSEKEEPING_S = 0.5
BACKLOG = 128
ACCEPT_AGAIN_S = 0.1
RECEIVED = 1 << 16
# Binance's header of a request for the unit of times
TIME_UNIT = "X-MBX-TIME-UNIT"


# tasks without which the server cannot work
NEEDED = ("accept", "keep alive", "market", "playing")


class ExchangeServer:
    """The server; an async context manager.

    Args:
        source: None = a Simulation.
        port: 0 = any free port. host: the address to listen on.
        limits: whether rates are limited as the exchanges do.
        idle_s: where clients ping. ping_s, pong_s, life_s: where the server pings.
        tls: serve wss:// and https://.
        keys: API keys that the exchanges know.
        faults: in force from the start (coinspace.simulator.faults); later ones are added by
            `disorder.add` or the control address.
    """

    def __init__(
        self,
        source: Source | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: bool = True,
        idle_s: float = 60.0,
        ping_s: float = 20.0,
        pong_s: float = 60.0,
        life_s: float = 86_400.0,
        tls: ssl.SSLContext | None = None,
        keys: Iterable[str] = (SIMULATED_KEY,),
        faults: Iterable[str] = (),
    ) -> None:
        self.source = source or Simulation()
        self.rates = SimulatedRates()
        self.host = host
        self.port = port
        self.limits = limits
        self.idle_s = idle_s
        self.ping_s = ping_s
        self.pong_s = pong_s
        self.life_s = life_s
        self.keys = set(keys)
        self.connections: dict[str, set[Connection]] = {name: set() for name in EXCHANGES}
        self.counters = {"connections": 0, "refused": 0, "requests": 0, "task_failures": 0}
        self.disorder = Disorder(self)
        self.initial_faults = list(faults)
        self._tls = tls
        self._attempts = {name: Used(session_of(name).attempts[1]) for name in EXCHANGES}
        # exchange -> time of the last answered request with an Origin header
        self._origins_s: dict[str, float] = {}
        self._runner: web.AppRunner | None = None
        self.tasks = Tasks(self._failed)
        # the failure of a task in NEEDED
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    # life

    async def start(self) -> None:
        """Bind and serve.

        Raises: FeedError when the port is taken.
        """
        app = web.Application()
        app.router.add_route("*", "/control{path:.*}", self.disorder.control)
        app.router.add_get("/rates/{source}/{path:.*}", self._get_rate)
        app.router.add_get("/{exchange}/{path:.*}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            self.open_port()
        except OSError as error:
            await self._runner.cleanup()
            raise FeedError(
                f"port {self.port} on {self.host}: expected a free port: {error}; 0 = any free port"
            ) from None
        await self.source.start(self)
        for fault in self.initial_faults:
            self.disorder.add(fault)
        self.tasks.spawn("keep alive", self._keep())

    async def stop(self) -> None:
        """Stop the source, close the connections, free the port."""
        self.close_port()
        await self.tasks.cancel()
        await self.source.stop()
        for connection in self.all_connections():
            connection.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    def _failed(self, name: str, error: BaseException) -> None:
        log_failure(name, error)
        self.counters["task_failures"] += 1
        if name in NEEDED and self.failure is None:
            self.failure = error
            self.on_failure()

    async def __aenter__(self) -> ExchangeServer:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    @property
    def is_secure(self) -> bool:
        return self._tls is not None

    @property
    def urls(self) -> dict[str, dict[str, str]]:
        """Exchange -> {"websocket", "rest"}: the addresses for a collector's settings."""
        secure = "s" if self._tls else ""
        place = f"{self.host}:{self.port}"
        return {
            name: {
                "websocket": f"ws{secure}://{place}/{name}{session_of(name).path}",
                "rest": f"http{secure}://{place}/{name}",
            }
            for name in self.source.exchanges
        }

    def all_connections(self) -> list[Connection]:
        return [one for connections in self.connections.values() for one in connections]

    def state(self) -> dict[str, Any]:
        """Return the state for the control address: connections, counters, faults."""
        return {
            "counters": self.counters,
            "connections": [
                {"exchange": one.exchange, "sent": one.sent, "age_s": one.age_s}
                for one in self.all_connections()
            ],
            "faults": [fault.facts() for fault in self.disorder.faults.values()],
            "now_ns": self.source.now_ns(),
        }

    # the port

    def open_port(self) -> None:
        """Accept connections.

        Raises: OSError when the port is taken.
        """
        if self._listening is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            self._listening = socket.create_server(
                (self.host, self.port), family=family, backlog=BACKLOG
            )
            self._listening.setblocking(False)
            self.port = self._listening.getsockname()[1]
            self._accepting = self.tasks.spawn("accept", self._accept(self._listening))

    def close_port(self) -> None:
        """Refuse new connections; open ones stay."""
        if self._listening is not None and self._accepting is not None:
            self.tasks.drop(self._accepting)
            self._listening.close()
            self._listening = self._accepting = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError:
                # the client is already gone, or no descriptor is free
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            fault = self.disorder.accepted()
            serving = self._serve(accepted) if fault is None else _spoil(accepted, fault)
            task = self.tasks.spawn("connection", serving, ends=True)
            # a task that is cancelled before its first step has closed nothing
            task.add_done_callback(partial(_close_cancelled, accepted))

    async def _serve(self, accepted: socket.socket) -> None:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                server, accepted, ssl=self._tls
            )
        except (OSError, TimeoutError):
            # the client is gone, or its TLS handshake failed
            accepted.close()

    # requests

    async def _get(self, request: web.Request) -> web.StreamResponse:
        exchange = request.match_info["exchange"]
        if exchange not in self.source.exchanges:
            return web.Response(status=404, text=f"no exchange {exchange!r} is served here")
        refused = self._refuse_origin(exchange, request)
        if refused is not None:
            return refused
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(exchange, request)
        self.counters["requests"] += 1
        path, query = "/" + request.match_info["path"], dict(request.query)
        spoiled = await self.disorder.request(exchange, path, query)
        if spoiled is not None:
            return _response(spoiled)
        stale = self.disorder.is_stale(exchange, path, query)
        micro = request.headers.get(TIME_UNIT) == "MICROSECOND"
        return _response(await self.source.rest(exchange, path, query, stale=stale, micro=micro))

    async def _get_rate(self, request: web.Request) -> web.StreamResponse:
        source = request.match_info["source"]
        self.counters["requests"] += 1
        form = self.disorder.rate_form(source)
        return _response(await self.rates.get(source, form))

    @property
    def rate_urls(self) -> dict[str, str]:
        """Source of USD/KRW -> its address, for `rates.urls`; empty for recordings."""
        if not self.source.simulated:
            return {}
        secure = "s" if self._tls else ""
        place = f"http{secure}://{self.host}:{self.port}/rates"
        return {name: f"{place}/{name}" for name in SIMULATED_SOURCES}

    def _refuse_origin(self, exchange: str, request: web.Request) -> web.Response | None:
        wait_s = session_of(exchange).origin_s
        if not self.limits or not wait_s or "Origin" not in request.headers:
            return None
        now_s = asyncio.get_running_loop().time()
        if now_s - self._origins_s.get(exchange, -wait_s) >= wait_s:
            self._origins_s[exchange] = now_s
            return None
        self.counters["refused"] += 1
        text = "Too many API requests."
        return _response(answer({"error": {"name": "too_many_requests", "message": text}}, 429))

    async def _websocket(self, exchange: str, request: web.Request) -> web.StreamResponse:
        now_s = asyncio.get_running_loop().time()
        if self._attempts[exchange].add(now_s) > session_of(exchange).attempts[0] and self.limits:
            self.counters["refused"] += 1
            return web.Response(status=429, headers={"Retry-After": "1"})
        if await self.disorder.answered(exchange, request):
            return web.Response(status=500)
        spoiled = await self.disorder.handshake(exchange, request)
        if spoiled is not None:
            return spoiled
        keys = set() if self.disorder.is_revoked(exchange) else self.keys
        path = "/" + request.match_info["path"]
        refusal = session_of(exchange).refusal(path, request.headers, keys)
        if refusal is not None:
            self.counters["refused"] += 1
            return web.Response(status=refusal[0], body=refusal[1])
        # deflate is accepted when offered; the server's frames may still be uncompressed
        socket = web.WebSocketResponse(autoping=False, compress=True, max_msg_size=1 << 20)
        connection = Connection(self.disorder, self.tasks, exchange, request)
        session = self._session(connection)
        if session is None:
            return web.Response(status=404)
        socket.headers.update(session.headers)
        await socket.prepare(request)
        connection.open(session)
        session.greet()
        self.counters["connections"] += 1
        self.connections[exchange].add(connection)
        self.source.connected(connection)
        self.disorder.connected(connection)
        try:
            await self._read(connection, socket)
        finally:
            connection.is_open = False
            self.connections[exchange].discard(connection)
            self.source.disconnected(connection)
        return socket

    def _session(self, connection: Connection) -> Session | None:
        path = "/" + connection.request.match_info["path"]
        return session_of(connection.exchange).opened(
            path, connection.request.query, connection.reply, connection.end, limits=self.limits
        )

    async def _read(self, connection: Connection, socket: web.WebSocketResponse) -> None:
        loop = asyncio.get_running_loop()
        while not socket.closed:
            message, now_s = await socket.receive(), loop.time()
            match message.type:
                case WSMsgType.TEXT:
                    connection.session.on_text(message.data.encode(), now_s)
                case WSMsgType.BINARY:
                    connection.session.on_text(message.data, now_s)
                case WSMsgType.PING:
                    if connection.session.pongs:
                        connection.pong(bytes(message.data))
                    connection.session.on_control(now_s)
                case WSMsgType.PONG:
                    connection.unanswered_s = None
                    connection.session.on_control(now_s)
                case _:
                    return
            connection.active_s = now_s

    # keep-alive

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(HOUSEKEEPING_S, self.idle_s / 4, self.ping_s / 4))
            now_s = loop.time()
            for connection in self.all_connections():
                connection.session.on_second(now_s)
                self._keep_alive(connection, now_s)

    def _keep_alive(self, connection: Connection, now_s: float) -> None:
        if connection.deaf:
            return
        if not exchange_named(connection.exchange).SERVER_PING_S:
            open_s, silent_s = now_s - connection.opened_s, now_s - connection.active_s
            if connection.session.is_idle(open_s, silent_s, self.idle_s):
                connection.abort()
            return
        if now_s - connection.opened_s > self.life_s:
            connection.session.end(1001, "", 0.0)
        elif connection.unanswered_s is not None and (
            now_s - connection.unanswered_s > self.pong_s
        ):
            connection.session.end(1008, "Pong timeout", 0.0)
        elif now_s - connection.pinged_s >= self.ping_s:
            connection.ping(now_s)


def _close_cancelled(accepted: socket.socket, task: asyncio.Task[None]) -> None:
    if task.cancelled():
        accepted.close()


async def _spoil(accepted: socket.socket, fault: str) -> None:
    """Apply a fault to a connection just accepted by TCP."""
    loop = asyncio.get_running_loop()
    step, _, then = fault.partition("-")
    with accepted, contextlib.suppress(OSError):
        accepted.setblocking(False)
        if step == "tls":
            await loop.sock_recv(accepted, RECEIVED)
        if then == "reset":
            reset_on_close(accepted)
        elif then == "hang":
            while await loop.sock_recv(accepted, RECEIVED):
                pass


def _response(found: Answer) -> web.Response:
    headers = {"Content-Type": "application/json;charset=UTF-8", **found.headers}
    return web.Response(status=found.status, body=found.body, headers=headers)


def ready_line(server: ExchangeServer) -> dict[str, Any]:
    """Return the line that a serving command prints on stdout when it is ready."""
    secure = "s" if server.is_secure else ""
    return {
        "ready": True,
        "port": server.port,
        "control": f"http{secure}://{server.host}:{server.port}/control",
        "exchanges": server.urls,
        "rates": server.rate_urls,
    }
