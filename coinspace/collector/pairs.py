"""Connections of the same markets: one that brings nothing while the other does is mute.

Pings prove that a connection is alive, but not that its stream delivers. Beside another connection
of the same subscription a mute one shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coinspace.clock import SECOND_NS
from coinspace.collector.connection import Connection

# frames of the other connection, and time, after which a connection without a frame is mute
FRAMES = 3
MUTE_NS = 10 * SECOND_NS


@dataclass(slots=True)
class Heard:
    """Newest link of a connection: its number, its frames, and since when it has so many.

    others: frames of the other connections at that time.
    """

    number: int = 0
    frames: int = 0
    since_ns: int = 0
    others: int = 0


class Pair:
    """The connections of one subscription."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = tuple(connections)
        self._heard = [Heard() for _ in self.connections]
        # frames of each connection, over all of its links
        self._totals = [0] * len(self.connections)

    def on_timer(self, now_ns: int) -> None:
        """Replace mute links; called a few times a second."""
        for index, connection in enumerate(self.connections):
            self._count(index, connection, now_ns)
        for index, connection in enumerate(self.connections):
            heard = self._heard[index]
            others = sum(self._totals) - self._totals[index]
            if heard.since_ns == now_ns:
                heard.others = others
            elif (
                heard.number
                and now_ns - heard.since_ns > MUTE_NS
                and others - heard.others >= FRAMES
            ):
                connection.replace(heard.number, "mute beside the other connection")
                heard.since_ns, heard.others = now_ns, others

    def _count(self, index: int, connection: Connection, now_ns: int) -> None:
        heard = self._heard[index]
        newest = connection.links[-1] if connection.links else None
        if newest is None or newest.listener is None:
            heard.number = 0
            return
        frames = newest.listener.frames
        if newest.number != heard.number:
            heard.number, heard.frames, heard.since_ns = newest.number, 0, now_ns
        if frames != heard.frames:
            self._totals[index] += frames - heard.frames
            heard.frames, heard.since_ns = frames, now_ns

    @property
    def missing(self) -> int:
        """Number of connections without an open link."""
        return sum(not connection.links for connection in self.connections)
