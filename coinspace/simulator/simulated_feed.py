"""Write the feeds that a collector of every channel would record from the simulated exchanges."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from coinspace.exchanges import exchange as exchange_named
from coinspace.recording.format import FeedWriter
from coinspace.recording.progress import progress_bar
from coinspace.simulator.faults import Fault, parse
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.markets.korean import KoreanMarket
from coinspace.simulator.markets.market import MILLISECOND_NS, Event, SimulatedMarket
from coinspace.simulator.markets.scenario import Scenario
from coinspace.simulator.session import Session, session_of

# base and random part of the delay until a frame is received: 4 to 12 ms
LATENCY_MS = (4.0, 8.0)
SNAPSHOT_AFTER_NS = 250 * MILLISECOND_NS
SNAPSHOT_LEVELS = 1000
# faults of a scenario that a recording can show: no frame is received during them
SILENT_FAULTS = {"mute", "stall", "halfopen"}


class _Tape:
    # one exchange's connection, recorded to a feed
    now_ns = 0

    def __init__(self, path: Path, exchange: str, symbols: list[str], engine: Engine) -> None:
        self.path = path
        self.exchange = exchange
        self._draw = random.Random(f"{engine.seed}/{exchange}/latency").random
        self._last_ns = engine.start_ns
        self.session, added, requests = session_of(exchange).recorded(
            symbols, f"coinspace-{engine.seed}", self.receive, _never
        )
        header = {
            "exchange": exchange,
            "url": exchange_named(exchange).SETTINGS.websocket + added,
            "started_ns": engine.start_ns,
            "simulated": {"seed": engine.seed, "rate": engine.rate},
        }
        self.writer = FeedWriter(path, header)
        for request in requests:
            self.writer.write(engine.start_ns, ">", "", request)
            self.session.on_text(request, 0.0)

        # sessions of price groups, one for each market
        self.grouped: list[Session] = []

    def group(self, market: SimulatedMarket) -> None:
        """Subscribe to the price groups that a collector would choose for a market."""
        module = exchange_named(self.exchange)
        if module.GROUPING is None:
            return
        settings = module.SETTINGS
        level = module.GROUPING.finest(
            cast("KoreanMarket", market).levels_supported()[1:],
            market.worth(),
            module.STREAM_DEPTH,
            settings.group_reach,
        )
        if level is not None:
            session = session_of(self.exchange)(self.receive_group, _never)
            session.on_text(module.GROUPING.frame(settings, market.symbol, level), 0.0)
            self.grouped.append(session)

    def receive_group(self, frame: bytes) -> None:
        # at once, so that the other frames of the feed keep their times
        self._last_ns = max(self._last_ns, self.now_ns)
        self.writer.write(self._last_ns, "<", "", frame)

    def receive(self, frame: bytes, path: str = "") -> None:
        delay_ns = int((LATENCY_MS[0] + LATENCY_MS[1] * self._draw()) * MILLISECOND_NS)
        self._last_ns = max(self._last_ns, self.now_ns + delay_ns)
        self.writer.write(self._last_ns, "GET" if path else "<", path, frame)


def _never(code: int, reason: str, delay_s: float) -> None:
    raise AssertionError(f"a simulated session closed itself: {code} {reason}")


def write_feeds(
    path: Path,
    seed: int,
    markets: Mapping[str, Iterable[str]],
    *,
    duration_s: float,
    start_ns: int = START_NS,
    rate: float = 1.0,
    scenario: Scenario | None = None,
    groups: bool = False,
) -> Iterator[dict[str, Any]]:
    """Write one feed per exchange; yield {"path", "exchange", "records"} of each.

    The bytes depend only on the arguments.

    Args: groups: also write price groups, where the exchange has them.
    """
    tapes: dict[str, _Tape] = {}
    silences = _silences(scenario, start_ns)

    def on_event(event: Event) -> None:
        tape = tapes.get(event.market.exchange)
        if tape is not None:
            tape.now_ns = event.time_ns
            if any(
                begin_ns <= event.time_ns < end_ns
                and fault.matches(event.market.exchange, event.market.symbol, event.kind)
                for begin_ns, end_ns, fault in silences
            ):
                return
            for frame in tape.session.frames(event):
                tape.receive(frame)
            for session in tape.grouped:
                for frame in session.frames(event):
                    tape.receive_group(frame)

    engine = Engine(
        seed, markets, start_ns=start_ns, rate=rate, scenario=scenario, on_event=on_event
    )
    paths = feed_paths(path, engine.markets)
    for exchange, listed in engine.markets.items():
        target = paths[exchange]
        tape = tapes[exchange] = _Tape(target, exchange, list(listed), engine)
        tape.now_ns = start_ns
        for market in listed.values():
            if groups:
                tape.group(market)
            if market.snapshot_text(1) is not None:
                engine.at(start_ns + SNAPSHOT_AFTER_NS, _snapshot(tape, market))
            for frame, _, _ in tape.session.first_frames(None, {market.symbol: market}):
                tape.receive(frame)
    with progress_bar("simulate", duration_s) as update:
        for second in range(int(duration_s) + 1):
            engine.advance(start_ns + int(min(second, duration_s) * 1e9))
            update(second)
        engine.advance(start_ns + int(duration_s * 1e9))
    for tape in tapes.values():
        tape.writer.close()
        yield {
            "path": str(tape.path),
            "exchange": tape.exchange,
            "records": tape.writer.records,
        }


def _silences(scenario: Scenario | None, start_ns: int) -> list[tuple[int, int, Fault]]:
    found = []
    for at_s, spec in scenario.faults if scenario else ():
        fault = parse(spec)
        if scenario and fault.kind in SILENT_FAULTS:
            begin_ns = start_ns + int((at_s + fault.after_s) / scenario.compress * 1e9)
            end_ns = begin_ns + int(fault.for_s / scenario.compress * 1e9)
            found.append((begin_ns, end_ns, fault))
    return found


def _snapshot(tape: _Tape, market: SimulatedMarket) -> Callable[[int], None]:
    request = exchange_named(tape.exchange).snapshot_request(market.symbol, SNAPSHOT_LEVELS)

    def take(now_ns: int) -> None:
        tape.now_ns = now_ns
        tape.receive((market.snapshot_text(SNAPSHOT_LEVELS) or "").encode(), request.path)

    return take


def feed_paths(path: Path, exchanges: Collection[str]) -> dict[str, Path]:
    """Return exchange -> the file of its feed; a single exchange gets the path itself."""
    if len(exchanges) == 1:
        return dict.fromkeys(exchanges, path)
    name = path.name
    suffix = next((one for one in (".feed.zst", ".zst") if name.endswith(one)), "")
    stem = name.removesuffix(suffix)
    return {one: path.with_name(f"{stem}-{one}{suffix or '.feed.zst'}") for one in exchanges}
