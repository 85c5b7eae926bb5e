"""Trades that are read page by page: none is lost and none is published twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.ticker import TickerStage
from coinspace.exchanges import exchange, korean
from coinspace.exchanges.exchange import Request

S = SECOND_NS
DAY_S = 86_400
MIDNIGHT = 1_790_000_000 // DAY_S * DAY_S * S
KST_NS = 9 * 3600 * S
ZONES = {"upbit": 0, "bithumb": KST_NS}
SYMBOL = "KRW-BTC"


@dataclass(frozen=True)
class Traded:
    """A trade of the exchange. id: of the stream. rest_id: of REST."""

    id: int
    rest_id: int
    ns: int

    @property
    def size(self) -> float:
        # tells trades of one time apart
        return (1 + self.id % 1_000_000) / 1000

    def streamed(self) -> dict[str, Any]:
        return {
            "type": "trade",
            "code": SYMBOL,
            "trade_price": 100.5,
            "trade_volume": self.size,
            "ask_bid": "BID",
            "trade_timestamp": self.ns // 1_000_000,
            "timestamp": self.ns // 1_000_000,
            "sequential_id": self.id,
            "stream_type": "REALTIME",
        }

    def listed(self, shift_ns: int) -> dict[str, Any]:
        return {
            "market": SYMBOL,
            "timestamp": (self.ns + shift_ns) // 1_000_000,
            "trade_price": 100.5,
            "trade_volume": self.size,
            "ask_bid": "BID",
            "sequential_id": self.rest_id,
        }


@dataclass
class Pages:
    """How the exchange might read the parameters of a page that its documents leave open.

    by_time: the order of a list. by_place: a cursor names a place of the list, not a limit of ids.
    inclusive: the list begins with the trade of the cursor. endless: a cursor leads into the days
    before. shift_ns: error of the times.
    """

    trades: list[Traded]
    size: int
    zone_ns: int = 0
    by_time: bool = False
    by_place: bool = False
    inclusive: bool = False
    endless: bool = False
    shift_ns: int = 0
    requests: int = 0

    def answer(self, request: Request, now_ns: int) -> bytes:
        self.requests += 1
        assert self.requests < 5000, "the pages have no end"
        query = {key: found[0] for key, found in parse_qs(request.path.partition("?")[2]).items()}
        days = int(query.get("days_ago", query.get("daysAgo", 0)))
        cursor = int(query.get("cursor", 0))
        day_ns = DAY_S * S
        today = (now_ns + self.zone_ns) // day_ns - days
        listed = [
            one
            for one in self.trades
            if one.ns <= now_ns
            and (
                (one.ns + self.zone_ns) // day_ns == today
                or (self.endless and cursor and (one.ns + self.zone_ns) // day_ns < today)
            )
        ]
        listed.sort(key=lambda one: (one.ns, one.rest_id) if self.by_time else one.rest_id)
        listed.reverse()
        if cursor and self.by_place:
            at = next((n for n, one in enumerate(listed) if one.rest_id == cursor), None)
            listed = [] if at is None else listed[at + (not self.inclusive) :]
        elif cursor:
            listed = [one for one in listed if one.rest_id < cursor + self.inclusive]
        return orjson.dumps([one.listed(self.shift_ns) for one in listed[: self.size]])


def filled(name: str, pages: Pages, begin_ns: int, end_ns: int, late_s: float = 1.0) -> list[int]:
    """Let the stream miss all trades between two times; return the ids published, in order.

    The stream brings the last trade before the first time and the first one after the second time.
    """
    sink = ListSink(1)
    stage = TickerStage(exchange(name), [(SYMBOL, "BTC/KRW")], sink)
    before = [one for one in pages.trades if one.ns <= begin_ns]
    after = [one for one in pages.trades if one.ns >= end_ns]
    stage.on_connected(1, (SYMBOL,), begin_ns)
    for one in before:
        stage.on_frame(orjson.dumps(one.streamed()), one.ns, 1)
    stage.on_disconnected(1, "lost", begin_ns)
    now = end_ns
    stage.on_connected(2, (SYMBOL,), now)
    for one in after:
        now = max(now, one.ns)
        stage.on_frame(orjson.dumps(one.streamed()), now, 2)
    now += 3 * S
    stage.on_timer(now)
    while requests := stage.take_requests():
        (request,) = requests
        now += int(late_s * S)
        stage.on_answer(request, pages.answer(request, now), now)
    assert not stage.counts["trades_lost"]
    return [message.id for message in sink.messages if message.kind_name == "trade"]


@st.composite
def markets(draw: st.DrawFn, zone_ns: int, own_ids: bool) -> tuple[list[Traded], int, int]:
    """Return trades around a midnight, some of one ms, and a hole in them."""
    gaps = draw(st.lists(st.sampled_from((0, 0, 0, 1, 40, 900, 60_000)), min_size=4, max_size=60))
    # trades before midnight, at least the first one
    n = draw(st.integers(1, len(gaps) - 1))
    at_ms = (MIDNIGHT - zone_ns) // 1_000_000 - sum(gaps[1:n]) - draw(st.integers(0, 2))
    trades = []
    for i, gap in enumerate(gaps):
        at_ms += gap if i else 0
        late_ms = draw(st.sampled_from((0, 0, 0, 30)))
        # ids do not give the order of trades
        id = (at_ms - late_ms) * 10_000 + i
        rest_id = at_ms * 10_000 + i if own_ids else id
        trades.append(Traded(id + 10**18 if own_ids else id, rest_id, at_ms * 1_000_000))
    first = draw(st.integers(0, len(trades) - 3))
    last = draw(st.integers(first + 2, len(trades) - 1))
    return trades, first, last


FORMS: tuple[dict[str, bool], ...] = (
    {},
    {"inclusive": True},
    {"by_place": True},
    {"by_place": True, "inclusive": True},
    {"by_time": True},
    {"by_time": True, "by_place": True},
    {"endless": True},
    {"endless": True, "by_place": True, "inclusive": True},
)


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
@settings(max_examples=200, deadline=None)
@given(form=st.sampled_from(FORMS), data=st.data())
def test_no_trade_is_lost_or_published_twice(
    name: str, form: dict[str, bool], data: st.DataObject
) -> None:
    own_ids = name == "bithumb"
    trades, first, last = data.draw(markets(ZONES[name], own_ids))
    # the stream ends and begins between two times: it never brings half of a time
    begin_ns, end_ns = trades[first].ns, trades[last].ns
    assume(begin_ns < end_ns)
    # a page of one trade with the trade of its cursor would never get further
    size = data.draw(st.integers(2, 9))
    if form.get("by_time") and not form.get("by_place"):
        # a list by time with a limit of ids is complete only if a page has more than a disorder
        size = len(trades)
    shift_ns = data.draw(st.sampled_from((0, KST_NS))) if own_ids else 0
    pages = Pages(trades, size, ZONES[name], shift_ns=shift_ns, **form)
    published = filled(name, pages, begin_ns, end_ns)
    assert len(published) == len(set(published))
    by_rest = {one.rest_id: one for one in trades}
    by_stream = {one.id: one for one in trades}
    found = [by_stream.get(id) or by_rest[id] for id in published]
    assert sorted(one.ns for one in found) == sorted(one.ns for one in trades)
    assert len({one.id for one in found}) == len(trades)


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
@pytest.mark.parametrize("late_s", [0.5, 3.0])
def test_a_hole_over_midnight_is_filled_while_the_day_changes(name: str, late_s: float) -> None:
    midnight = MIDNIGHT - ZONES[name]
    times = [midnight - 40 * S + i * S // 2 for i in range(78)]
    trades = [Traded(10**18 + ns // 100, ns // 100, ns) for ns in times]
    if name == "upbit":
        trades = [Traded(one.rest_id, one.rest_id, one.ns) for one in trades]
    # each page takes its time, so that midnight comes between two pages
    published = filled(name, Pages(trades, 5, ZONES[name]), times[1], times[-2], late_s)
    assert len(published) == len(trades)


def test_a_market_without_trades_today_is_asked_for_yesterday() -> None:
    trades = [Traded(n, n, MIDNIGHT - (10 - n) * 60 * S) for n in range(1, 10)]
    sink = ListSink(1)
    stage = TickerStage(exchange("upbit"), [(SYMBOL, "BTC/KRW")], sink)
    stage.on_connected(1, (SYMBOL,), trades[0].ns)
    stage.on_frame(orjson.dumps(trades[0].streamed()), trades[0].ns, 1)
    stage.on_disconnected(1, "lost", trades[0].ns)
    now = MIDNIGHT + 600 * S
    stage.on_connected(2, (SYMBOL,), now)
    stage.on_frame(orjson.dumps(trades[-1].streamed()), now, 2)
    stage.on_timer(now + 3 * S)
    pages = Pages(trades, korean.PAGE)
    asked = []
    while requests := stage.take_requests():
        (request,) = requests
        asked.append(request.path.partition("count=500")[2])
        stage.on_answer(request, pages.answer(request, now), now + 3 * S)
    assert asked == ["", "&days_ago=1", "&days_ago=1&cursor=1"]
    ids = [message.id for message in sink.messages if message.kind_name == "trade"]
    assert sorted(ids) == list(range(1, 10))
