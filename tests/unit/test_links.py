"""Two links of one market: the first arrival counts, the other is compared; one may end."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinspace._ext.links import WAIT_NS, Links
from coinspace._ext.sink import ListSink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector.collection import make_stage
from coinspace.collector.orderbook import OrderBookStage
from coinspace.collector.pairs import FRAMES, MUTE_NS, Pair
from coinspace.collector.ticker import TickerStage
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.session import session_of

UNKNOWN: int = 0
SAME: int = 1
DIFFERENT: int = 2
OWN: int = 3
MARKET, SYMBOL = "BTC/USDT", "BTCUSDT"
ONE, TWO = 1, 2
MARKETS = {"binance": (MARKET, SYMBOL), "upbit": ("BTC/KRW", "KRW-BTC")}
Frames = list[tuple[int, bytes]]


def unused(*arguments: object) -> None:
    raise AssertionError(arguments)


def made(exchange: str, kind: str, seconds: float) -> tuple[Frames, list[bytes]]:
    """Return (time, frame) of one simulated market; snapshots of its start and of each frame."""
    market, symbol = MARKETS[exchange]
    frames: Frames = []
    session, _, requests = session_of(exchange).recorded([symbol], "t", unused, unused)
    for request in requests:
        session.on_text(request, 0.0)

    def on_event(event: Event) -> None:
        if event.kind == kind:
            frames.extend((event.time_ns, frame) for frame in session.frames(event))
            snapshots.append((event.market.snapshot_text(1000) or "").encode())

    engine = Engine(3, {exchange: [market]}, rate=5, on_event=on_event)
    snapshots = [(engine.markets[exchange][symbol].snapshot_text(1000) or "").encode()]
    engine.advance(START_NS + int(seconds * SECOND_NS))
    return frames, snapshots


UPDATES, SNAPSHOTS = made("binance", "depth@100ms", 6.0)


def stage_of(exchange: str = "binance", links: int = 2) -> OrderBookStage:
    market, symbol = MARKETS[exchange]
    chosen = ExchangeSettings(
        websocket="ws://x", rest="http://x", markets=[market], depth=20, links=links
    )
    stage = make_stage(
        exchange_named(exchange), "orderbook", chosen, [(symbol, market)], ListSink()
    )
    assert isinstance(stage, OrderBookStage)
    for link in range(1, links + 1):
        stage.on_connected(link, (symbol,), START_NS)
    return stage


def loaded(stage: OrderBookStage, now_ns: int) -> None:
    """Answer the requests for a snapshot with that of the start."""
    stage.on_timer(now_ns)
    for request in stage.take_requests():
        if request.purpose == "snapshot":
            stage.on_answer(request, SNAPSHOTS[0], now_ns)


def arrivals(
    frames: Frames, rng: random.Random, *, jitter_ms: float, links: int = 2
) -> Iterator[tuple[int, int, int]]:
    """Yield (time of arrival, link, index of the frame); each link keeps its order."""
    found = []
    for link in range(1, links + 1):
        last_ns = 0
        for index, (at_ns, _) in enumerate(frames):
            delay_ns = int((5 + rng.expovariate(1 / jitter_ms)) * MILLISECOND_NS)
            last_ns = max(last_ns, at_ns + delay_ns)
            found.append((last_ns, link, index))
    yield from sorted(found)


def ids_of(frame: bytes) -> tuple[int, int]:
    parser = exchange_named("binance").parser(10)
    parser.parse(frame)
    return parser.first_update_id, parser.final_update_id


def assert_whole(stage: OrderBookStage) -> None:
    """Check that the book is the exchange's, and that no update was lost on the way."""
    (market,) = stage.markets
    assert market.book is not None
    assert not stage.counts["gaps"]
    assert stage.counts["snapshots"] == 1
    other = stage_of(links=1)
    other.on_frame(UPDATES[0][1], START_NS, 1)
    other.on_timer(START_NS)
    for request in other.take_requests():
        other.on_answer(request, SNAPSHOTS[0], START_NS)
    for at_ns, frame in UPDATES[1:]:
        other.on_frame(frame, at_ns, 1)
    (expected,) = other.markets
    assert expected.book is not None
    assert market.update_id == expected.update_id == ids_of(UPDATES[-1][1])[1]
    for ours, theirs in zip(market.book.levels(), expected.book.levels(), strict=True):
        assert ours.tolist() == theirs.tolist()


@settings(max_examples=40)
@given(
    st.integers(min_value=0, max_value=2**32),
    st.sampled_from([1.0, 20.0, 300.0]),
    st.integers(min_value=2, max_value=len(UPDATES) - 1),
    st.sampled_from([ONE, TWO]),
)
def test_no_update_is_missing_when_a_link_ends(
    seed: int, jitter_ms: float, ends_at: int, dying: int
) -> None:
    rng = random.Random(seed)
    stage = stage_of()
    again_at = ends_at + rng.randrange(1, 30)
    is_open = True
    for at_ns, link, index in arrivals(UPDATES, rng, jitter_ms=jitter_ms):
        if is_open and link == dying and index >= ends_at:
            is_open = False
            stage.on_disconnected(dying, "lost", at_ns)
        if link == dying and not is_open:
            if index < again_at:
                continue
            if index == again_at:
                # a new link, which knows nothing of the updates before
                stage.on_connected(3, (SYMBOL,), at_ns)
            link = 3
        stage.on_frame(UPDATES[index][1], at_ns, link)
        loaded(stage, at_ns)
    assert_whole(stage)
    links = stage.markets[0].links
    assert links is not None
    assert not links.disagreed
    published = [message for message in stage.sink.messages if message.kind_name == "orderbook"]  # type: ignore[attr-defined]
    assert [message.id for message in published] == sorted({one.id for one in published})


def test_the_slower_link_confirms_and_the_faster_one_is_published() -> None:
    latencies = {}
    for links in (1, 2):
        stage = stage_of(links=links)
        rng = random.Random(7)
        for at_ns, link, index in arrivals(UPDATES, rng, jitter_ms=20.0, links=links):
            stage.on_frame(UPDATES[index][1], at_ns, link)
            loaded(stage, at_ns)
        assert_whole(stage)
        delays = [
            message.received_ns - message.exchange_ns
            for message in stage.sink.messages  # type: ignore[attr-defined]
            if message.kind_name == "orderbook" and message.exchange_ns
        ]
        latencies[links] = sum(delays) / len(delays) / MILLISECOND_NS
        if links == 2:
            found = stage.counters()
            # but for updates before the snapshot, each one came twice
            assert found["links_confirmed"] > 0.9 * len(UPDATES)
            assert not found["links_disagreed"]
    # the least of two exponential delays is half of one
    assert latencies[2] < 0.75 * latencies[1]


def test_links_that_disagree_lead_to_a_new_snapshot_once() -> None:
    stage = stage_of()
    for at_ns, frame in UPDATES[:20]:
        stage.on_frame(frame, at_ns, ONE)
        loaded(stage, at_ns)
        stage.on_frame(frame, at_ns, TWO)
    market = stage.markets[0]
    assert market.usable
    for number, (at_ns, frame) in enumerate(UPDATES[20:24]):
        stage.on_frame(frame, at_ns, ONE)
        other = frame.replace(b'"b":[["', b'"b":[["1', 1)
        assert other != frame
        stage.on_frame(other, at_ns, TWO)
        if number == 0:
            assert stage.statuses[0].state == "buffering"
            assert stage.statuses[0].reason == "two links disagree"
            stage.on_timer(at_ns)
            (request,) = (one for one in stage.take_requests() if one.purpose == "snapshot")
            stage.on_answer(request, SNAPSHOTS[21], at_ns)
            assert market.usable
    reasons = [
        message.json()["reason"]
        for message in stage.sink.messages  # type: ignore[attr-defined]
        if message.kind_name == "state"
    ]
    assert reasons.count("two links disagree") == 1
    assert stage.counts["resyncs"] == 1
    assert stage.counters()["links_disagreed"] == 4


def test_a_gap_of_both_links_is_a_gap() -> None:
    stage = stage_of()
    for at_ns, frame in UPDATES[:10]:
        for link in (ONE, TWO):
            stage.on_frame(frame, at_ns, link)
            loaded(stage, at_ns)
    # 10 is lost on both
    at_ns, frame = UPDATES[11]
    found = []
    for link in (TWO, ONE):
        stage.on_frame(frame, at_ns, link)
        found.append(stage.counts["gaps"])
    assert found == [0, 1]


def test_a_gap_of_one_link_is_filled_by_the_other() -> None:
    stage = stage_of()
    for at_ns, frame in UPDATES[:10]:
        for link in (ONE, TWO):
            stage.on_frame(frame, at_ns, link)
            loaded(stage, at_ns)
    stage.on_frame(UPDATES[11][1], UPDATES[11][0], TWO)
    for at_ns, frame in UPDATES[10:]:
        stage.on_frame(frame, at_ns + MILLISECOND_NS, ONE)
    assert_whole(stage)


def test_rules() -> None:
    links = Links()
    links.taken(1, 5, 100, ONE)
    assert links.leader == ONE
    assert links.compared(1, 5, 100, TWO) == SAME
    assert links.compared(1, 5, 101, TWO) == DIFFERENT
    assert links.compared(1, 4, 100, TWO) == UNKNOWN
    assert links.compared(1, 5, 101, ONE) == OWN
    assert (links.confirmed, links.disagreed, links.unmatched) == (1, 1, 1)
    for number in range(64):
        links.taken(number, number, 0, TWO)
    assert links.compared(1, 5, 100, TWO) == UNKNOWN
    assert links.waiting(ONE, 10)
    assert links.waiting(ONE, 10 + WAIT_NS - 1)
    assert not links.waiting(ONE, 10 + WAIT_NS)
    assert not links.waiting(TWO, 11)
    links.taken(64, 64, 0, ONE)
    assert links.waiting(TWO, 12)


def test_whole_books_are_published_once() -> None:
    frames, _ = made("upbit", "orderbook", 4.0)
    published = []
    for links in (1, 2):
        stage = stage_of("upbit", links=links)
        order = arrivals(frames, random.Random(1), jitter_ms=30.0, links=links)
        for at_ns, link, index in order:
            stage.on_frame(frames[index][1], at_ns, link)
        messages = stage.sink.messages  # type: ignore[attr-defined]
        published.append(
            [
                (one.exchange_ns, one.bids.tolist(), one.asks.tolist())
                for one in messages
                if one.kind_name == "orderbook"
            ]
        )
    assert published[0] == published[1]
    assert stage.counters()["links_confirmed"] > 0.9 * len(frames)


def test_trades_are_compared() -> None:
    stage = TickerStage(exchange_named("binance"), [(SYMBOL, MARKET)], ListSink())
    for link in (ONE, TWO):
        stage.on_connected(link, (SYMBOL,), START_NS)
    (frames, _) = made("binance", "trade", 2.0)
    for number, (at_ns, frame) in enumerate(frames):
        stage.on_frame(frame, at_ns, ONE)
        other = frame.replace(b'"p":"', b'"p":"1') if number % 5 == 0 else frame
        stage.on_frame(other, at_ns, TWO)
    found = stage.counters()
    assert found["trades"] == found["duplicates"] == len(frames)
    assert found["differing"] == -(-len(frames) // 5)


class Socket:
    """Stands for a connection with one link."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.listener = self
        self.frames = 0
        self.links = [self]
        self.replaced: list[int] = []

    def replace(self, number: int, reason: str) -> None:
        self.replaced.append(number)


@pytest.mark.parametrize("mute", [True, False])
def test_a_mute_link_is_replaced(mute: bool) -> None:
    one, two = Socket(1), Socket(2)
    pair = Pair([one, two])  # type: ignore[list-item]
    now_ns = START_NS
    for number in range(2 * FRAMES):
        now_ns += MUTE_NS // FRAMES
        one.frames += 1
        two.frames += not mute or number < 1
        pair.on_timer(now_ns)
    assert bool(two.replaced) == mute
    assert not one.replaced
    one.links = []
    assert pair.missing == 1
