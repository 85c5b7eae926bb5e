"""Record exchanges with the collectors themselves, with recorders and without a bus.

A recording therefore has everything that a collector gets: subscriptions, frames, snapshots,
comparisons and trades by REST, and marks of reconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from coinspace._ext.sink import ListSink
from coinspace.clock import now_ns
from coinspace.collector.collection import Collection, numbered
from coinspace.config import TuningSettings
from coinspace.exchanges.exchange import CHANNELS, Channel, Stream
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.recording.recorder import Recorder
from coinspace.text import without_numbers

CLEAR_S = 0.25


class CollectionHealth:
    """Receives the state of a collection in place of a process."""

    def __init__(self, name: str, stopping: asyncio.Event) -> None:
        self.stopping = stopping
        self._log = structlog.get_logger(f"record-{name}", connection=name)
        self._reason: str | None = None
        # the error that ended a task of the collection, None while all tasks run
        self.failure: BaseException | None = None

    def failed(self, name: str, error: BaseException) -> None:
        """End the recording, because a task of the collection has failed."""
        self._log.error("task failed", task=name, error=repr(error), exc_info=error)
        self.failure = self.failure or error
        self.stopping.set()

    def ready(self) -> None:
        if self._reason is not None:
            self._reason = None
            self._log.info("data complete")

    def degraded(self, reason: str, kind: str | None = None) -> None:
        kind = without_numbers(kind or reason)
        if kind != self._reason:
            self._reason = kind
            self._log.warning("data missing", reason=reason)


def streams_of(channels: Iterable[Channel]) -> dict[Stream, tuple[Channel, ...]]:
    """Return stream -> chosen channels; best prices are recorded with the books."""
    wanted = set(channels)
    if "orderbook" in wanted:
        wanted.add("top")
    parts: dict[Stream, tuple[Channel, ...]] = {
        "orderbook": ("orderbook", "top"),
        "ticker": CHANNELS["ticker"],
    }
    return {
        stream: tuple(channel for channel in part if channel in wanted)
        for stream, part in parts.items()
        if wanted.intersection(part)
    }


class Capture:
    """Records one stream of one exchange until stopped."""

    def __init__(
        self,
        exchange: str,
        settings: ExchangeSettings,
        stream: Stream,
        channels: tuple[Channel, ...],
        folder: Path,
        stopping: asyncio.Event,
        *,
        max_bytes: int,
        segment_s: float,
        tuning: TuningSettings | None = None,
    ) -> None:
        name = "-".join(channel for channel in channels if channel != "top")
        self.name = f"{exchange}-{name}"
        # the messages are dropped; the stage only has to know what to request
        self._sink = ListSink(now_ns())
        self._watch = CollectionHealth(self.name, stopping)
        self.collection = Collection(
            settings,
            exchange,
            stream,
            self._sink,
            self._watch,
            channels=channels,
            tuning=tuning,
            recorders=lambda number: Recorder(
                folder,
                exchange,
                numbered(name, number),
                settings.websocket,
                max_bytes=max_bytes,
                segment_s=segment_s,
            ),
        )
        self._stopping = stopping

    async def run(self) -> None:
        """Record until the event is set.

        Raises: ConfigError when no market is left to record; the error of a task that failed.
        """
        try:
            await self.collection.start()
            while not self._stopping.is_set():
                self._sink.clear()
                await asyncio.sleep(CLEAR_S)
        finally:
            # the end of one recording ends all of them: no part may be missing
            self._stopping.set()
            await self.collection.stop()
        if self._watch.failure is not None:
            raise self._watch.failure

    def counters(self) -> dict[str, int | float]:
        """Return all counters, without those of single markets."""
        if self.collection.stage is None:
            return {}
        found = self.collection.counters()
        return {name: count for name, count in found.items() if "{" not in name}


async def capture(
    settings: dict[str, ExchangeSettings],
    folder: Path,
    channels: Iterable[Channel],
    stopping: asyncio.Event,
    *,
    max_bytes: int,
    segment_s: float,
    tuning: TuningSettings | None = None,
) -> dict[str, dict[str, int | float]]:
    """Record several exchanges until `stopping` is set; return the counters by recording.

    Raises: ConfigError when an exchange offers none of its markets.
    """
    streams = streams_of(channels)
    captures = [
        Capture(
            exchange,
            one,
            stream,
            part,
            folder,
            stopping,
            max_bytes=max_bytes // (len(settings) * len(streams)),
            segment_s=segment_s,
            tuning=tuning,
        )
        for exchange, one in settings.items()
        for stream, part in streams.items()
    ]
    outcomes = await asyncio.gather(*(one.run() for one in captures), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return {one.name: one.counters() for one in captures}
