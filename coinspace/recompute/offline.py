"""A replay of several exchanges' recordings, merged by receive time, through the live stages.

The first record after a tick triggers the tick, so that it contains everything received until
then. Nothing depends on the wall clock or on the speed of reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Protocol

from coinspace._ext.sink import ListSink
from coinspace.aggregator.stage import OrderbookAggregator
from coinspace.aggregator.venue import Input
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector.tools.offline import Replay
from coinspace.config import IndexParameters, Settings
from coinspace.index.calculator import IndexCalculator
from coinspace.method.aggregate import Aggregate
from coinspace.method.record import IndexRecord
from coinspace.rates.replay import RECORDED, RateReplay
from coinspace.recording.format import FeedReader
from coinspace.recording.merge import merge

# a longer time without a record is a pause of the recording: its ticks are skipped
PAUSE_NS = 600 * SECOND_NS
Emit = Callable[[IndexRecord, Aggregate | None], None]


class Guide(Protocol):
    """The stored records of the ticks that a replay makes again."""

    def inputs(self, ts_ns: int) -> Mapping[str, Input]:
        """Return venue -> input in the tick's record; empty without a record."""
        ...

    def missed(self, asset: str, ts_ns: int) -> bool:
        """Return whether the calculator missed the tick."""
        ...


class FeedReplay:
    """Feeds in, index records out.

    Args:
        settings: markets, interval, parameters.
        make_source: a feed and a sink -> its collector.
        parameters_of: asset -> parameters.
        emit: called with each record and its aggregate, whose ladders are overwritten afterwards.
        start_ns, end_ns: ticks in [start, end); earlier records only build the books.
        guide: stored records; each tick is made from the messages named in its stored record.
        since: asset -> its first tick, for assets that were listed later than others.
    """

    def __init__(
        self,
        settings: Settings,
        make_source: Callable[[FeedReader, ListSink], Replay | RateReplay],
        parameters_of: Callable[[str], IndexParameters],
        emit: Emit,
        *,
        start_ns: int = 0,
        end_ns: int | None = None,
        guide: Guide | None = None,
        since: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._since = since
        self.interval_ns = settings.index.interval_ms * MILLISECOND_NS
        depths = settings.depths
        index = settings.index
        self.calculator = IndexCalculator(
            parameters_of,
            emit,
            interval_ns=self.interval_ns,
            intervals={one: index.interval_ms_of(one) * MILLISECOND_NS for one in index.assets},
            depths=depths,
        )
        self.aggregator = OrderbookAggregator(
            settings, on_aggregate=self._on_aggregate, heartbeats=False
        )
        self._make_source = make_source
        self._start_ns = start_ns
        self._end_ns = end_ns
        self._guide = guide
        self._next_ns = 0
        # the aggregator's memory before ticks that were missed live, None outside of such ticks
        self._before: dict[str, Any] | None = None
        self.records = 0
        self.pauses = 0

    def run(self, readers: list[FeedReader]) -> None:
        """Play all feeds, and close them."""
        with ExitStack() as stack:
            self._run([stack.enter_context(reader) for reader in readers])

    def _run(self, readers: list[FeedReader]) -> None:
        replays: dict[int, Replay | RateReplay] = {}
        sink = ListSink(1, clock=lambda: 0)
        last_ns = 0
        for reader, record in merge(readers):
            if self._end_ns is not None and record.received_ns >= self._end_ns:
                break
            self.records += 1
            if reader.exchange != RECORDED:
                # ticks are those of the books' recordings
                self._advance(record.received_ns, last_ns)
                last_ns = max(last_ns, record.received_ns)
            replay = replays.get(id(reader))
            if replay is None:
                replay = replays[id(reader)] = self._make_source(reader, sink)
            replay.feed(record)
            for message in sink.messages:
                self.aggregator.on_message(message)
            sink.clear()
        if last_ns and self.interval_ns:
            end_ns = last_ns + 1 if self._end_ns is None else self._end_ns
            self._advance(end_ns, last_ns)

    def _advance(self, now_ns: int, last_ns: int) -> None:
        # tick k contains all that was received up to k * interval: the first later record makes it
        step = self.interval_ns
        if not step:
            return
        first_ns = -(-max(now_ns, self._start_ns) // step) * step
        if not self._next_ns:
            self._next_ns = first_ns
        elif last_ns and now_ns - last_ns > PAUSE_NS and self._guide is None:
            self.pauses += 1
            self._next_ns = first_ns
        if now_ns < self._start_ns:
            # otherwise all messages before the first tick would wait for it
            self.aggregator.absorb(now_ns)
        while self._next_ns < now_ns:
            self._tick(self._next_ns, in_pause=self._next_ns - last_ns > PAUSE_NS)
            self._next_ns += step

    def _tick(self, ts_ns: int, *, in_pause: bool) -> None:
        guide = self._guide
        assets = [one for one in self.aggregator.due(ts_ns) if self._since.get(one, 0) <= ts_ns]
        if guide is None or not assets:
            self.aggregator.tick(ts_ns)
            return
        inputs = guide.inputs(ts_ns)
        if all(guide.missed(asset, ts_ns) for asset in assets):
            if self._before is None:
                self._before = self.aggregator.state()
            if in_pause:
                # neither the calculator nor the recorder ran
                for asset in assets:
                    self.calculator.miss(asset, ts_ns)
                return
        elif self._before is not None:
            if self.aggregator.lacks(inputs):
                # it had been started again, from the memory that its predecessor left
                self.aggregator.restore(self._before)
            self._before = None
        self.aggregator.tick(ts_ns, inputs)

    def _on_aggregate(self, aggregate: Aggregate) -> None:
        if aggregate.ts_ns < max(self._start_ns, self._since.get(aggregate.asset, 0)):
            return
        if self._guide is not None and self._guide.missed(aggregate.asset, aggregate.ts_ns):
            self.calculator.miss(aggregate.asset, aggregate.ts_ns)
        else:
            self.calculator.on_aggregate(aggregate)
