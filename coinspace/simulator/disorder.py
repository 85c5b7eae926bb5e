"""The faults in force on a server: they alter frames, cut connections and refuse requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator
from typing import Any

import orjson
from aiohttp import web

from coinspace.errors import ConfigError
from coinspace.simulator.connection import Connection, reset_on_close
from coinspace.simulator.faults import (
    ACCEPT_KINDS,
    ANSWER_KINDS,
    CONNECTION_KINDS,
    FRAME_KINDS,
    NAMELESS_KINDS,
    SIMULATED_KINDS,
    Fault,
    altered,
    parse,
)
from coinspace.simulator.rates import WHOLE
from coinspace.simulator.rest import Answer, answer, fact_paths, rest_of
from coinspace.simulator.source import Host

ERROR_CLOSE_S = 0.15
# the newest ended faults are kept for their hits
KEPT_FAULTS = 1000
# limit of frames that a stall keeps for a connection
WITHHELD = 100_000
# how often a client without an answer is checked for its disconnect
GONE_POLL_S = 0.1


class Disorder:
    """All faults of a server.

    Attributes: faults (id -> fault, also ended ones, for their hits).
    """

    def __init__(self, server: Host) -> None:
        self.server = server
        self.faults: dict[int, Fault] = {}
        self.alters_frames = False
        self._draw = random.Random("disorder").random
        self._last_id = 0

    # add and remove

    def add(self, fault: str | Fault) -> Fault:
        """Put a fault in force, `after` counting from now.

        Raises: ConfigError when it is malformed or not possible on this server.
        """
        if isinstance(fault, str):
            fault = parse(fault)
        self._check(fault)
        self._last_id += 1
        fault.id = self._last_id
        loop = asyncio.get_running_loop()
        fault.begin_s = loop.time()
        self.faults[fault.id] = fault
        self._forget(fault.begin_s)
        self._update()
        if fault.kind in (*CONNECTION_KINDS, *SIMULATED_KINDS, "stale", "stall", "refuse"):
            self.server.tasks.spawn("fault", self._run(fault), ends=True)
        return fault

    def _forget(self, now_s: float) -> None:
        over = [
            number
            for number, fault in self.faults.items()
            if now_s >= fault.begin_s + fault.after_s + fault.for_s or fault.hits >= fault.count
        ]
        for number in over[: max(0, len(self.faults) - KEPT_FAULTS)]:
            del self.faults[number]

    def _check(self, fault: Fault) -> None:
        source = self.server.source
        if fault.kind in SIMULATED_KINDS and not source.simulated:
            raise ConfigError(f"fault {fault.spec!r}: expected a simulated exchange, was a replay")
        if fault.kind == "rate":
            return
        if fault.exchange != "*" and fault.exchange not in source.exchanges:
            served = ", ".join(source.exchanges)
            raise ConfigError(f"fault {fault.spec!r}: expected an exchange out of {served}")
        if fault.kind in NAMELESS_KINDS and fault.exchange != "*" and len(source.exchanges) > 1:
            raise ConfigError(
                f"fault {fault.spec!r}: expected the exchange *, because no request names one yet"
            )
        if fault.kind.startswith("tls-") and not self.server.is_secure:
            raise ConfigError(f"fault {fault.spec!r}: expected a server with TLS")

    def remove(self, number: int) -> bool:
        """End a fault; return whether it existed."""
        fault = self.faults.pop(number, None)
        if fault is not None:
            self._end(fault)
        self._update()
        return fault is not None

    def clear(self) -> None:
        for number in list(self.faults):
            self.remove(number)

    def _end(self, fault: Fault) -> None:
        fault.for_s = 0.0
        if fault.kind == "stall":
            self._release(fault)
        elif fault.kind == "halfopen":
            for connection in self._connections(fault):
                connection.set_deaf(False)
        elif fault.kind == "refuse":
            self.server.open_port()
        elif fault.kind in SIMULATED_KINDS:
            self.server.source.apply(fault, on=False)

    def _update(self) -> None:
        self.alters_frames = any(fault.kind in FRAME_KINDS for fault in self.faults.values())

    def _acting(self, kinds: Collection[str], exchange: str, *place: str) -> Iterator[Fault]:
        """Yield the faults that take effect now. Args: place: arguments of `Fault.matches`."""
        now_s = asyncio.get_running_loop().time()
        for fault in list(self.faults.values()):
            if (
                fault.kind in kinds
                and fault.matches(exchange, *place)
                and fault.is_on(now_s)
                and fault.takes_effect(self._draw)
            ):
                yield fault

    def _find(self, kind: str, exchange: str, symbol: str = "") -> Fault | None:
        return next(self._acting({kind}, exchange, symbol), None)

    def rate_form(self, source: str) -> str:
        """Return what is wrong with an answer of a source of USD/KRW, "" = nothing."""
        found = next(self._acting({"rate"}, source), None)
        return "" if found is None else found.form

    # frames

    def deliver(self, connection: Connection, payload: bytes, kind: str, symbol: str) -> None:
        payloads = [payload]
        for fault in self._acting(FRAME_KINDS, connection.exchange, symbol, kind):
            payloads = self._alter(fault, connection, payloads, (symbol, kind))
            if not payloads:
                return
        reordered = connection.data.pop(("reordered", symbol, kind), [])
        for one in [*payloads, *reordered]:
            connection.send(one)

    def _alter(
        self,
        fault: Fault,
        connection: Connection,
        payloads: list[bytes],
        stream: tuple[str, str],
    ) -> list[bytes]:
        match fault.kind:
            case "drop" | "mute":
                return []
            case "duplicate":
                return [one for payload in payloads for one in (payload, payload)]
            case "reorder":
                # swapped with the next frame of its stream
                key = ("reordered", *stream)
                if key in connection.data:
                    return payloads
                connection.data[key] = payloads
                return []
            case "stall":
                withheld = connection.data.setdefault(("stall", fault.id), [])
                withheld.extend(payloads)
                if len(withheld) > WITHHELD:
                    # the server cuts it like a client that does not read
                    connection.abort()
                return []
            case "delay":
                for payload in payloads:
                    self._delay(fault, connection, payload)
                return []
            case "split":
                for payload in payloads:
                    connection.send_split(payload, int(fault.values["n"]))
                return []
            case "chop":
                for payload in payloads:
                    gap_s = fault.values["ms"] / 1000
                    connection.send_chopped(payload, int(fault.values["n"]), gap_s)
                return []
            case "coalesce":
                for payload in payloads:
                    connection.send_together(payload, int(fault.values["n"]))
                return []
            case _:
                return [altered(fault, payload) for payload in payloads]

    def _delay(self, fault: Fault, connection: Connection, payload: bytes) -> None:
        # a connection keeps the order of its frames
        wait_ms = fault.values["ms"] + fault.values["jitter"] * self._draw()
        key = "due", fault.id
        due_s = max(connection.data.get(key, 0.0), connection.loop.time() + wait_ms / 1000)
        connection.data[key] = due_s
        connection.loop.call_at(due_s, connection.send, payload)

    # connections

    def _connections(self, fault: Fault) -> list[Connection]:
        return [c for c in self.server.all_connections() if fault.matches(c.exchange)]

    async def _run(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        if fault.kind == "stale":
            self.server.source.keep_snapshots(fault.symbol)
            return
        if fault.kind == "refuse":
            fault.hits += 1
            self.server.close_port()
        elif fault.kind in SIMULATED_KINDS:
            fault.hits += 1
            self.server.source.apply(fault, on=True)
        elif fault.kind in CONNECTION_KINDS:
            while fault.id in self.faults:
                for connection in self._connections(fault):
                    self._apply(fault, connection)
                if fault.every <= 1:
                    break
                await asyncio.sleep(fault.every)
        if fault.for_s < 1e9:
            await asyncio.sleep(fault.for_s)
            self._end(fault)

    def _apply(self, fault: Fault, connection: Connection) -> None:
        if fault.hits >= fault.count:
            return
        fault.hits += 1
        match fault.kind:
            case "halfopen":
                connection.set_deaf(True)
            case "reset":
                connection.reset()
            case "cut":
                connection.cut()
            case "close":
                connection.session.end(int(fault.values["code"]), fault.reason, 0.0)
            case "revoke" if connection.session.has_key:
                connection.session.end(1008, "Invalid API-key", 0.0)
            case "error":
                connection.reply(connection.session.error_frame)
                connection.session.end(1000, "", ERROR_CLOSE_S)
            case "shutdown":
                now_ms = self.server.source.now_ns() // 1_000_000
                announced = connection.session.shutdown_frame(now_ms)
                if announced is not None:
                    connection.reply(announced)
                end = connection.session.end
                connection.loop.call_later(fault.values["n"], end, 1001, "", 0.0)

    def accepted(self) -> str | None:
        """Return the kind of fault for a connection just accepted by TCP; None = no fault."""
        for kind in ACCEPT_KINDS:
            if self._find(kind, self.server.source.exchanges[0]) is not None:
                return kind
        return None

    async def answered(self, exchange: str, request: web.Request) -> bool:
        """Answer a WebSocket request by a fault; return whether a fault was in force."""
        for kind, (answer_, then) in ANSWER_KINDS.items():
            if self._find(kind, exchange) is None:
                continue
            transport = request.transport
            if transport is None:
                return True
            transport.write(answer_)
            if then == "reset":
                reset_on_close(transport.get_extra_info("socket"))
                transport.abort()
            elif then == "close":
                transport.close()
            else:
                await _until_gone(request)
            return True
        return False

    def connected(self, connection: Connection) -> None:
        now_s = connection.loop.time()
        for fault in list(self.faults.values()):
            if (
                fault.kind in CONNECTION_KINDS
                and fault.for_s < 1e9
                and fault.matches(connection.exchange)
                and fault.is_on(now_s)
            ):
                self._apply(fault, connection)

    def _release(self, fault: Fault) -> None:
        for connection in self._connections(fault):
            for payload in connection.data.pop(("stall", fault.id), []):
                connection.send(payload)

    # requests

    async def handshake(self, exchange: str, request: web.Request) -> web.Response | None:
        """Refuse a WebSocket handshake by a fault; None = go on."""
        fault = self._find("handshake", exchange)
        if fault is None:
            return None
        await asyncio.sleep(fault.values["ms"] / 1000)
        status = int(fault.values["status"])
        if not status:
            await _until_gone(request)
        refusal = orjson.dumps(rest_of(exchange).refusal(status or 503))
        return web.Response(status=status or 503, body=refusal, headers={"Retry-After": "1"})

    async def request(self, exchange: str, path: str, query: dict[str, str]) -> Answer | None:
        """Answer a REST request by a fault; None = go on."""
        if any(path == one.partition("?")[0] for one in fact_paths(exchange)):
            for fault in self._acting({"facts"}, exchange):
                return WHOLE[fault.form]()
        symbol = query.get("symbol") or query.get("market") or query.get("markets") or ""
        for fault in self._acting({"rest"}, exchange, symbol, "", path):
            await asyncio.sleep(fault.values["ms"] / 1000)
            status = int(fault.values["status"])
            if status:
                headers = {"Retry-After": str(int(fault.values["retry"]))}
                return answer(rest_of(exchange).refusal(status), status, headers)
        return None

    def is_revoked(self, exchange: str) -> bool:
        """Return whether API keys are refused now."""
        return self._find("revoke", exchange) is not None

    def is_stale(self, exchange: str, path: str, query: dict[str, str]) -> bool:
        """Return whether a depth request gets an old book."""
        if not path.endswith("/depth"):
            return False
        return self._find("stale", exchange, query.get("symbol", "")) is not None

    # control address

    async def control(self, request: web.Request) -> web.StreamResponse:
        """Serve /control: GET state, POST and DELETE faults."""
        # only a page in a browser sends this header
        if "Origin" in request.headers:
            return web.Response(status=403, text="the control address refuses web pages' requests")
        rest = request.match_info["path"].strip("/").split("/")
        match request.method, rest:
            case "GET", [""]:
                return _json(self.server.state())
            case "GET", ["faults"]:
                return _json([fault.facts() for fault in self.faults.values()])
            case "POST", ["faults"]:
                return await self._control_add(request)
            case "DELETE", ["faults"]:
                self.clear()
                return _json({})
            case "DELETE", ["faults", number] if number.isdigit():
                return _json({}, 200 if self.remove(int(number)) else 404)
        return _json({"error": "expected GET /control, GET|POST|DELETE /control/faults[/ID]"}, 404)

    async def _control_add(self, request: web.Request) -> web.Response:
        try:
            content = orjson.loads(await request.read())
            fault = self.add(str(content["fault"]))
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return _json({"error": 'expected {"fault": "KIND:EXCHANGE:…"}'}, 400)
        except ConfigError as error:
            return _json({"error": str(error)}, 400)
        return _json(fault.facts(), 201)


async def _until_gone(request: web.Request) -> None:
    # aiohttp has no event for it
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_POLL_S)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
