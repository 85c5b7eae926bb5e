"""Plays a recording of answers into the stage, with the times of the recording."""

from __future__ import annotations

from coinspace._ext.sink import Sink
from coinspace.config import RatesSettings
from coinspace.rates.stage import RateStage
from coinspace.recording.format import Record

# in the header of a feed, in the place of an exchange
RECORDED = "rates"


class RateReplay:
    """Plays the answers of a feed; those of sources that are not configured are left out."""

    def __init__(self, settings: RatesSettings, sink: Sink) -> None:
        self._stage = RateStage(settings, sink)

    def feed(self, record: Record) -> None:
        """Take the next record."""
        source, slash, path = record.path.removeprefix("/").partition("/")
        if record.direction == "GET" and source in self._stage.sources:
            self._stage.on_answer(source, record.payload, slash + path, record.received_ns)
