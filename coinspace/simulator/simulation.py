"""The simulated market as a server's source: virtual time follows the wall clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import cast

from coinspace.clock import now_ns
from coinspace.simulator.connection import Connection
from coinspace.simulator.faults import parse
from coinspace.simulator.markets.binance import BinanceMarket
from coinspace.simulator.markets.engine import DEFAULT_MARKETS, Engine
from coinspace.simulator.markets.korean import KoreanMarket
from coinspace.simulator.markets.market import Event
from coinspace.simulator.markets.scenario import Scenario
from coinspace.simulator.recorded_answers import (
    trimmed,
)
from coinspace.simulator.rest import REST, Answer, BinanceRest, Rest, answer, number
from coinspace.simulator.session import BithumbSession, Channel, KoreanSession
from coinspace.simulator.source import Host

# frames of one pump go out together; 10 ms is far below the 100 ms grid of the exchanges
PUMP_S = 0.01
# after a pause longer than this (a suspended machine) virtual time jumps instead of rushing
JUMP_S = 30.0


class Simulation:
    """Serve an Engine.

    Args: as Engine. Attributes: engine (made at start, so that virtual time is the wall clock).
    """

    simulated = True

    def __init__(
        self,
        seed: int = 0,
        markets: Mapping[str, Iterable[str]] = DEFAULT_MARKETS,
        *,
        rate: float = 1.0,
        scenario: Scenario | None = None,
    ) -> None:
        self.exchanges = tuple(markets)
        self.seed = seed
        self.markets = markets
        self.rate = rate
        self.scenario = scenario
        self._next_fault = 0
        self._kept: dict[str, bytes] = {}

    async def start(self, server: Host) -> None:
        self.server = server
        self.engine = Engine(
            self.seed,
            self.markets,
            # whole windows: virtual and wall clock differ by less than one pump
            start_ns=now_ns() // 100_000_000 * 100_000_000,
            rate=self.rate,
            scenario=self.scenario,
            on_event=self._on_event,
        )
        self.rests: dict[str, Rest] = {
            name: REST[name](self.engine, name, limits=server.limits) for name in self.exchanges
        }
        server.tasks.spawn("market", self._pump())

    async def stop(self) -> None:
        """Nothing is held: the server ends the task."""

    async def _pump(self) -> None:
        offset_ns = 0
        while True:
            behind_ns = now_ns() - offset_ns - self.engine.now_ns
            if behind_ns > JUMP_S * 1e9 or behind_ns < -JUMP_S * 1e9:
                offset_ns += behind_ns
            self.engine.advance(now_ns() - offset_ns)
            self._follow_timetable()
            await asyncio.sleep(PUMP_S)

    def _follow_timetable(self) -> None:
        scenario = self.scenario
        if scenario is None:
            return
        elapsed_s = (self.engine.now_ns - self.engine.start_ns) / 1e9
        while self._next_fault < len(scenario.faults):
            at_s, spec = scenario.faults[self._next_fault]
            if elapsed_s * scenario.compress < at_s:
                return
            self._next_fault += 1
            fault = parse(spec)
            if fault.exchange in self.exchanges:
                fault.for_s /= scenario.compress
                self.server.disorder.add(fault)

    def _on_event(self, event: Event) -> None:
        connections = self.server.connections[event.market.exchange]
        if not connections:
            return
        kind, symbol = event.kind, event.market.symbol
        for connection in connections:
            for frame in connection.session.frames(event):
                connection.deliver(frame, kind, symbol)

    def connected(self, connection: Connection) -> None:
        session = connection.session
        if isinstance(session, KoreanSession):
            markets = self.engine.markets[connection.exchange]

            def levels_of(code: str) -> tuple[int, ...] | None:
                market = cast("KoreanMarket | None", markets.get(code))
                return market.levels_supported() if market else None

            session.levels_of = levels_of
            session.changed = lambda channels: self._snapshots(connection, channels)

    def disconnected(self, connection: Connection) -> None:
        pass

    def _snapshots(self, connection: Connection, channels: list[Channel]) -> None:
        session = cast(KoreanSession, connection.session)
        markets = self.engine.markets[connection.exchange]
        for channel in channels:
            if channel.silent or not channel.snapshot:
                continue
            for code in channel.codes:
                market = markets.get(code)
                event = cast(KoreanMarket, market).snapshot(channel.type) if market else None
                if event is None or channel.type.startswith("candle"):
                    continue
                stream_type = "SNAPSHOT"
                if isinstance(session, BithumbSession) and session.is_simple and code[-1] == "P":
                    # seen on the wire: in SIMPLE a REALTIME may come first
                    stream_type = "REALTIME"
                frame = event.frame(session.variant(channel, code, stream_type))
                connection.deliver(frame, channel.type, code)

    async def rest(
        self, exchange: str, path: str, query: dict[str, str], *, stale: bool = False
    ) -> Answer:
        kept = self._kept.get(query.get("symbol", ""))
        if stale and kept is not None:
            return answer(trimmed(kept, number(query.get("limit"), 100, 5000)))
        return self.rests[exchange].get(path, query, asyncio.get_running_loop().time())

    def keep_snapshots(self, symbol: str) -> None:
        for name, market in self.engine.markets.get("binance", {}).items():
            if not symbol or name == symbol:
                self._kept[name] = cast(BinanceMarket, market).book_text(5000).encode()

    def now_ns(self) -> int:
        return self.engine.now_ns

    def set_market(self, exchange: str, symbol: str, status: str) -> None:
        for name, markets in self.engine.markets.items():
            if exchange in ("*", name) and symbol in markets:
                markets[symbol].status = status

    def use_budget(self, weight: int) -> None:
        rest = self.rests.get("binance")
        if isinstance(rest, BinanceRest):
            rest.others = weight

    def shift_clock(self, exchange: str, symbol: str, by_s: float) -> None:
        for name, markets in self.engine.markets.items():
            for market in markets.values():
                if exchange in ("*", name) and symbol in ("", market.symbol):
                    market.clock_ms = int(by_s * 1000)
