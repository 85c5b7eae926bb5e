"""How old the best price in a local book is, and what its updates cost: SBE beside JSON.

Both formats come from one simulated market in virtual time, so that rates and ages are the same in
every run; only the processor time is measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Bench, Result, gated
from coinspace._ext.links import Links
from coinspace._ext.sink import ListSink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector.orderbook import OrderBookStage
from coinspace.exchanges import exchange as exchange_named
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.markets.market import Event, SimulatedMarket
from coinspace.simulator.session import Session, session_of

MARKET, SYMBOL = "BTC/USDT", "BTCUSDT"
STREAMS = {"JSON": "/stream", "SBE": "/sbe/stream"}
NAMES = {"JSON": "btcusdt@depth@100ms", "SBE": "btcusdt@depth"}
WARM_S, SECONDS = 2, 60
# of orders: the best price changes about 270 times a second
RATE = 10
STEP_NS = MILLISECOND_NS
# of each frame of a link: a fixed part, and the mean of an exponential one
DELAY_MS, JITTER_MS = 5.0, 20.0


def unused(*arguments: object) -> None:
    raise AssertionError(f"the session answered: {arguments}")


class Follower:
    """One stage that follows the market in one format.

    Attributes: frames, cpu_ns; age_ns: summed over `samples`; delay_ns: from a change of the best
    price until the book has it, summed over `changes`.
    """

    def __init__(self, name: str) -> None:
        exchange = exchange_named("binance")
        query = {"streams": NAMES[name], "timeUnit": "MICROSECOND"}
        session = session_of("binance").opened(STREAMS[name], query, unused, unused, limits=False)
        assert session is not None
        self.session: Session = session
        self.sink = ListSink()
        self.stage = OrderBookStage(exchange, [(SYMBOL, MARKET)], self.sink, depth=100)
        self.stage.on_connected(1, (SYMBOL,), START_NS)
        self.frames = self.cpu_ns = self.age_ns = self.samples = self.delay_ns = self.changes = 0
        self._next = 0

    def take(self, event: Event) -> None:
        for frame in self.session.frames(event):
            self.frames += 1
            begin = time.thread_time_ns()
            self.stage.on_frame(frame, event.time_ns, 1)
            self.cpu_ns += time.thread_time_ns() - begin
            self.sink.clear()

    def answer(self, market: SimulatedMarket, now_ns: int) -> None:
        self.stage.on_timer(now_ns)
        for request in self.stage.take_requests():
            if request.purpose == "snapshot":
                payload = (market.snapshot_text(1000) or "").encode()
                self.stage.on_answer(request, payload, now_ns)

    def start(self, tops: list[tuple[int, int]]) -> None:
        self.frames = self.cpu_ns = 0
        self._next = len(tops)

    def sample(self, tops: list[tuple[int, int]], now_ns: int) -> None:
        """Note how old the best price is. Args: tops: (update id, time) of each change of it."""
        known = self.stage.markets[0].update_id
        while self._next < len(tops) and tops[self._next][0] <= known:
            self.delay_ns += now_ns - tops[self._next][1]
            self.changes += 1
            self._next += 1
        # since the first change that the book does not have
        self.age_ns += now_ns - tops[self._next][1] if self._next < len(tops) else 0
        self.samples += 1


def followed() -> dict[str, Follower]:
    """Follow one market in both formats for SECONDS of its time."""
    followers = {name: Follower(name) for name in STREAMS}
    tops: list[tuple[int, int]] = []

    def on_event(event: Event) -> None:
        if event.kind == "bookTicker":
            tops.append((event.facts.id, event.time_ns))
        for one in followers.values():
            one.take(event)

    engine = Engine(11, {"binance": [MARKET]}, on_event=on_event, rate=RATE)
    market = engine.markets["binance"][SYMBOL]
    followers["SBE"].session.attach(engine.markets["binance"])
    now_ns, end_ns = START_NS, START_NS + (WARM_S + SECONDS) * SECOND_NS
    warm_ns = START_NS + WARM_S * SECOND_NS
    while now_ns < end_ns:
        now_ns += STEP_NS
        engine.advance(now_ns)
        for one in followers.values():
            if now_ns % (250 * MILLISECOND_NS) == 0:
                one.answer(market, now_ns)
            if now_ns == warm_ns:
                one.start(tops)
            elif now_ns > warm_ns:
                one.sample(tops, now_ns)
    return followers


def test_freshness(bench: Bench) -> None:
    """SBE's best price is about five times as fresh, for a part of the cost of an update."""

    def measure() -> Result:
        found = followed()
        result = Result("parse", "freshness, SBE beside JSON", "", "simulated BTC/USDT, 60 s")
        figure: Callable[[str, Any], None] = result.figures.__setitem__
        for name, one in found.items():
            figure(f"{name}: updates a second", one.frames / SECONDS)
            figure(f"{name}: CPU µs a second", one.cpu_ns / 1000 / SECONDS)
            figure(f"{name}: CPU ns an update", one.cpu_ns / one.frames)
            figure(f"{name}: mean age of the best price, ms", one.age_ns / one.samples / 1e6)
            figure(f"{name}: changes of it a second", one.changes / SECONDS)
            figure(f"{name}: delay of a change, ms", one.delay_ns / one.changes / 1e6)
        ages = {name: one.age_ns / one.samples for name, one in found.items()}
        result.check("fresher than JSON", ages["JSON"] / ages["SBE"], gate=4, goal=5, slack=0)
        return result

    gated(bench, measure)


def delays_ms(frames: list[tuple[int, bytes]], first: bytes, links: int) -> list[float]:
    """Return the age of each published update, in order of size."""
    sink = ListSink()
    stage = OrderBookStage(exchange_named("binance"), [(SYMBOL, MARKET)], sink, depth=1)
    if links > 1:
        stage.markets[0].links = Links()
    for link in range(1, links + 1):
        stage.on_connected(link, (SYMBOL,), START_NS)
    arrivals = []
    for link in range(1, links + 1):
        rng, last_ns = random.Random(link), 0
        for number, (at_ns, _) in enumerate(frames):
            delay_ms = DELAY_MS + rng.expovariate(1 / JITTER_MS)
            # a link keeps the order of its frames
            last_ns = max(last_ns, at_ns + int(delay_ms * MILLISECOND_NS))
            arrivals.append((last_ns, link, number))
    for at_ns, link, number in sorted(arrivals):
        stage.on_frame(frames[number][1], at_ns, link)
        stage.on_timer(at_ns)
        for request in stage.take_requests():
            if request.purpose == "snapshot":
                stage.on_answer(request, first, at_ns)
    assert not stage.counts["gaps"]
    return sorted(
        (message.received_ns - message.exchange_ns) / MILLISECOND_NS
        for message in sink.messages
        if message.kind_name == "orderbook" and message.exchange_ns
    )


def test_two_links(bench: Bench) -> None:
    """Two links with independent delays: an update is as old as the faster one brings it."""

    def measure() -> Result:
        frames: list[tuple[int, bytes]] = []
        session = Follower("SBE").session

        def on_event(event: Event) -> None:
            frames.extend((event.time_ns, frame) for frame in session.frames(event))

        engine = Engine(12, {"binance": [MARKET]}, on_event=on_event)
        session.attach(engine.markets["binance"])
        market = engine.markets["binance"][SYMBOL]
        first = (market.snapshot_text(1000) or "").encode()
        engine.advance(START_NS + SECONDS * SECOND_NS)
        source = (
            f"simulated BTC/USDT in SBE, {SECONDS} s, delays {DELAY_MS:g} ms + {JITTER_MS:g} ms"
        )
        result = Result("parse", "two links, the first arrival counts", "", source)
        means = {}
        for links in (1, 2):
            found = delays_ms(frames, first, links)
            means[links] = sum(found) / len(found)
            result.figures[f"{links} link: mean age of an update, ms"] = means[links]
            result.figures[f"{links} link: p95, ms"] = found[len(found) * 95 // 100]
        result.check("fresher than one link", means[1] / means[2], gate=1.4, goal=1.6, slack=0)
        return result

    gated(bench, measure)
