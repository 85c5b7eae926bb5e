"""Slow clients of a stream: received and missed events add up to all events."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import orjson
from hypothesis import given
from hypothesis import strategies as st

from coinspace.client.events import EventParser
from coinspace.endpoint.live.hub import Client, Hub
from coinspace.endpoint.models import StreamGap

CHANNELS = ("trade.a", "trade.b", "gaps", "index.a", "venues")


class Connection:
    """A socket that takes `room` bytes before it is full, and is emptied when it is read."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.client_stream: Client | None = None
        self.transport = self
        self.written: list[bytes] = []
        self.waiting = 0
        # nothing may be written any more
        self.finished = False

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.waiting += len(data)
        if self.waiting > self.room and self.client_stream is not None:
            self.client_stream.pause()

    def read(self) -> None:
        full, self.waiting = self.waiting > self.room, 0
        if full and self.client_stream is not None:
            self.client_stream.resume()

    def abort(self) -> None:
        pass

    def events(self) -> list[tuple[str, Any]]:
        parser, found = EventParser(), []
        for chunk in self.written:
            text = chunk.split(b"\r\n", 1)[1][:-2]
            found += [(one.name, one.data) for one in parser.feed(text)]
        return found


step = st.one_of(
    st.sampled_from(CHANNELS),
    st.sampled_from(["read", "resume"]),
)


@given(st.lists(step, max_size=120), st.sampled_from([0, 60, 200, 1000]))
def test_received_and_missed_are_all_that_was_published(steps: list[str], room: int) -> None:
    asyncio.run(_check(steps, room))


async def _check(steps: list[str], room: int) -> None:
    hub = Hub(max_streams=5, stall_s=10, resume_s=10, boot="b")
    connection = Connection(room)
    client = hub.join(cast(Any, connection), "sse", set(CHANNELS))
    published: Counter[str] = Counter()
    resumes = 0
    for what in steps:
        if what == "read":
            connection.read()
        elif what == "resume":
            resumes += 1
            client.send(hub.gap_event(StreamGap(channel="*", reason="resume")))
        else:
            published[what] += 1
            name = what.partition(".")[0]
            data = orjson.dumps({"channel": what, "number": published[what]})
            hub.publish(what, name, data)
        # one event and one count per channel, and one gap
        assert len(client.pending) <= len(CHANNELS) + 1
        assert len(client.missed) <= 3
    for _ in range(3 * len(CHANNELS)):
        connection.read()
    assert not client.pending
    assert not client.missed
    numbers: dict[str, list[int]] = {}
    missed: Counter[str] = Counter()
    announced = 0
    for name, data in connection.events():
        if name != "gap":
            numbers.setdefault(data["channel"], []).append(data["number"])
            # events missed before an event are reported before it
            if name in ("trade", "gaps"):
                channel = data["channel"]
                assert data["number"] == len(numbers[channel]) + missed[channel]
        elif data["reason"] == "slow":
            missed[data["channel"]] += data["missed"]
        else:
            announced += 1
    for channel, count in published.items():
        # in order, and always with the newest
        assert numbers[channel] == sorted(numbers[channel])
        assert numbers[channel][-1] == count
        if channel.startswith(("trade", "gaps")):
            assert len(numbers[channel]) + missed[channel] == count
        else:
            assert missed[channel] == 0
    assert (announced > 0) == (resumes > 0)
