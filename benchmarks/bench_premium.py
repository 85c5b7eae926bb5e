"""The cost of the premiums of all shared assets: statistics, one list, one event of the channel.

The peer computes the same statistics from the same samples with numpy for each question, as a
query over stored rows would, without the database.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.measure import Bench, Result, gated
from coinspace._ext.message import INDEX
from coinspace._ext.sink import ListSink
from coinspace.bench.measure import OURS, interleaved
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import Settings
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.premium_samples import Samples
from coinspace.endpoint.live.premium_stats import HOURS, MINUTES, WINDOWS
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.models import Premiums, RankedPremium

Array = NDArray[np.float64]
ASSETS = 264
# step -> steps before the running one
KEPT = {5000: 60, 60_000: 1440, 3_600_000: 2160}
ROUNDS = 9
SCAN = "numpy over the samples"
START_NS = 1_790_000_000 * SECOND_NS


class Market:
    """An endpoint without sockets, whose 264 premiums move each second."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.wall_ns = START_NS
        self.settings = Settings()
        self.assets = self.settings.index.assets = [f"A{number:03}" for number in range(ASSETS)]
        self.live = Live(lambda: self.wall_ns, self.settings)
        hub = Hub(max_streams=1, stall_s=1, resume_s=1, boot="b")
        clock = lambda: self.wall_ns  # noqa: E731
        nothing = cast(Any, None)
        self.context = Context(self.settings, self.live, hub, nothing, clock, Path())
        self.table = self.context.premiums
        self.sink = ListSink(1, clock=clock)
        # all assets have the same past
        first = self.table.stats.of(self.assets[0])["coin"]
        stored = [self._stored(samples) for samples in first.sampled]
        for asset in self.assets:
            for series in self.table.stats.of(asset).values():
                for samples, one in zip(series.sampled, stored, strict=True):
                    samples.fill(one)

    def _stored(self, samples: Samples) -> dict[int, int]:
        newest = self.wall_ns // MILLISECOND_NS // samples.step_ms
        steps = range(newest - KEPT[samples.step_ms], newest + 1)
        return {step: round(self.random.gauss(1e6, 3e5)) for step in steps}

    def second(self) -> None:
        """Send a record of each asset."""
        self.wall_ns += SECOND_NS
        for asset in self.assets:
            coin = self.random.gauss(0.01, 0.003)
            record = {
                "asset": asset, "status": "ok", "ts_ms": self.wall_ns // MILLISECOND_NS,
                "value": 100.0, "fx": 1400.0, "kr": 1.0, "gl": 1.0, "venues": {},
                "premium_parts": {"a": coin + 0.01, "b": coin, "c": 0.01},
            }  # fmt: skip
            topic = self.sink.topic(f"index.{asset}.".encode())
            self.sink.publish(topic, INDEX, orjson.dumps(record))
            self.live.on_message(self.sink.messages[-1])
            self.sink.clear()

    def list(self) -> bytes:
        """Return the answer of `/v1/premiums`."""
        found = [
            self.table.summary(self.live.indices[asset], RankedPremium, rank=None)
            for asset in self.assets
        ]
        usdt = self.table.usdt()
        return encode(Premiums(ts=0, premiums=found, missing=[], usdt=usdt, fees=self.table.fees))


def scan(now: int, minutes: Array, hours: Array) -> list[tuple[float, float, float]]:
    """Return share, mean and deviation of each window, from all its samples."""
    found = []
    for samples, windows in ((minutes, MINUTES), (hours, HOURS)):
        for steps in windows.values():
            inside = samples[-steps:]
            known = inside[~np.isnan(inside)]
            found.append((float((known <= now).mean()), float(known.mean()), float(known.std())))
    return found


def timed(work: Callable[[], object], count: int) -> float:
    before = time.process_time_ns()
    work()
    return (time.process_time_ns() - before) / count


def test_premiums(bench: Bench) -> None:
    def measure() -> Result:
        market = Market()
        market.second()
        every = [one for asset in market.assets for one in market.table.stats.of(asset).values()]

        minutes, hours = (
            np.array(samples.newest_of([1] * samples.windows[-1].steps), np.float64)
            for samples in every[0].sampled[1:]
        )

        def ours() -> None:
            for series in every:
                for window in WINDOWS:
                    series.statistics(window)

        def peer() -> None:
            for series in every:
                scan(series.now or 0, minutes, hours)

        count = len(every)
        timing = interleaved(
            {OURS: lambda: timed(ours, count), SCAN: lambda: timed(peer, count)}, ROUNDS
        )
        case = f"statistics of {ASSETS} premiums on both bases"
        result = Result("endpoint", case, "CPU ns/premium", "random premiums", timing)
        result.ratio(SCAN, gate=3)
        market.table.snapshot()
        events, lists, sizes = [], [], []
        for _ in range(ROUNDS):
            market.second()
            event = market.table.delta() or b""
            sizes.append(len(event))
            market.second()
            events.append(timed(market.table.delta, 1) / 1e6)
            lists.append(timed(market.list, 1) / 1e6)
        result.figures = {
            "channel, CPU ms a second": min(events),
            "channel, KB of an event": sorted(sizes)[ROUNDS // 2] / 1e3,
            "/v1/premiums, CPU ms": min(lists),
            "/v1/premiums, KB": len(market.list()) / 1e3,
        }
        return result

    gated(bench, measure)
