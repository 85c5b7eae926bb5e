"""Play a feed into a stage without sockets, with the objects of the live path and feed time."""

from __future__ import annotations

from typing import Any

from coinspace.clock import SECOND_NS
from coinspace.recording.format import Record

# time between two runs of the stage's watchdogs, by the feed's clock
TIMER_NS = SECOND_NS // 4
CONNECTION = 1


class Replay:
    """Plays the records of one connection into a stage, in their order.

    The mark of a disconnect ends the connection; the next frame begins a new one.
    """

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.connection = 0
        self.live = False
        self.timer_ns = 0

    def feed(self, record: Record) -> None:
        now_ns, direction = record.received_ns, record.direction
        if direction == "!":
            if record.mark().get("mark") == "disconnect":
                self.end(now_ns)
            return
        if not self.live:
            self.begin(now_ns)
        if now_ns - self.timer_ns >= TIMER_NS:
            self.timer_ns = now_ns
            self.stage.on_timer(now_ns)
            # no requests are sent here: the feed has the answers of the recorded requests
            for request in self.stage.take_requests():
                self.stage.demand.done(request)
            self.stage.take_reconnects()
        if direction == "<":
            self.stage.on_frame(record.payload, now_ns, self.connection)
        elif direction == "GET":
            request = self.stage.exchange.request_of(record.path)
            if request is not None:
                self.stage.on_answer(request, record.payload, now_ns)

    def begin(self, now_ns: int) -> None:
        self.connection += 1
        self.live = True
        self.timer_ns = now_ns
        symbols = tuple(status.symbol for status in self.stage.statuses)
        self.stage.on_connected(self.connection, symbols, now_ns)

    def end(self, now_ns: int) -> None:
        if self.live:
            self.live = False
            self.stage.on_disconnected(self.connection, "mark in the feed", now_ns)
