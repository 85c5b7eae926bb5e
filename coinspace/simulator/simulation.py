"""The simulated market as a server's source: virtual time follows the wall clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from coinspace.clock import now_ns
from coinspace.exchanges.binance import trimmed
from coinspace.exchanges.exchange import number
from coinspace.simulator.connection import Connection
from coinspace.simulator.faults import MARKET_FACTS, Fault, parse
from coinspace.simulator.markets.engine import DEFAULT_MARKETS, Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.markets.scenario import Scenario
from coinspace.simulator.markets.whole import Whole
from coinspace.simulator.rest import Answer, Rest, answer, rest_of
from coinspace.simulator.source import Host, Source

# frames are sent in batches this far apart: far below the exchanges' grid of 100 ms
PUMP_S = 0.01
# longest part of virtual time that is made at once
PART_NS = 50_000_000
# after a longer pause (a suspended machine) virtual time jumps instead of catching up
JUMP_S = 30.0
KEPT_LEVELS = 5000


class Simulation(Source):
    """Serve the markets of an Engine.

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
        whole: Whole | None = None,
    ) -> None:
        self.exchanges = tuple(markets)
        self.seed = seed
        self.markets = markets
        self.rate = rate
        self.scenario = scenario
        self.whole = whole
        self._next_fault = 0
        self._kept: dict[str, bytes] = {}

    async def start(self, server: Host) -> None:
        await super().start(server)
        self.engine = Engine(
            self.seed,
            self.markets,
            # whole windows: virtual and wall clock differ by less than one pump
            start_ns=now_ns() // 100_000_000 * 100_000_000,
            rate=self.rate,
            scenario=self.scenario,
            on_event=self._on_event,
            whole=self.whole,
        )
        self.rests: dict[str, Rest] = {
            name: rest_of(name)(self.engine, name, limits=server.limits) for name in self.exchanges
        }
        server.tasks.spawn("market", self._pump())

    async def _pump(self) -> None:
        offset_ns = 0
        while True:
            behind_ns = now_ns() - offset_ns - self.engine.now_ns
            if behind_ns > JUMP_S * 1e9 or behind_ns < -JUMP_S * 1e9:
                offset_ns += behind_ns
            # in parts: requests are answered while a late market catches up
            now = now_ns() - offset_ns
            self.engine.advance(min(now, self.engine.now_ns + PART_NS))
            self._follow_timetable()
            await asyncio.sleep(PUMP_S if self.engine.now_ns == now else 0)

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
        markets = self.engine.markets[connection.exchange]
        session = connection.session
        session.attach(markets)

        def changed(added: Any) -> None:
            for frame, kind, symbol in session.first_frames(added, markets):
                connection.deliver(frame, kind, symbol)

        session.changed = changed

    async def rest(
        self,
        exchange: str,
        path: str,
        query: dict[str, str],
        *,
        stale: bool = False,
        micro: bool = False,
    ) -> Answer:
        kept = self._kept.get(query.get("symbol", ""))
        if stale and kept is not None:
            return answer(trimmed(kept, number(query.get("limit"), 100, 5000)))
        now_s = asyncio.get_running_loop().time()
        return self.rests[exchange].get(path, query, now_s, micro=micro)

    def keep_snapshots(self, symbol: str) -> None:
        for markets in self.engine.markets.values():
            for name, market in markets.items():
                text = market.snapshot_text(KEPT_LEVELS) if symbol in ("", name) else None
                if text is not None:
                    self._kept[name] = text.encode()

    def now_ns(self) -> int:
        return self.engine.now_ns

    def apply(self, fault: Fault, *, on: bool) -> None:
        if fault.kind == "budget":
            for rest in self.rests.values():
                rest.others = int(fault.values["used"]) if on else 0
            return
        for exchange, markets in self.engine.markets.items():
            for symbol, market in markets.items():
                if not fault.matches(exchange, symbol):
                    continue
                if fault.kind == "clock":
                    market.clock_ms = int(fault.values["by"] * 1000) if on else 0
                elif fault.kind in MARKET_FACTS:
                    (market.facts.add if on else market.facts.discard)(fault.kind)
                else:
                    market.status = fault.kind if on else "active"
