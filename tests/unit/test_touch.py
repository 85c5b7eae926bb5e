"""Best prices between two updates correct what is published, and never the local book."""

import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.frames import as_sbe
from coinspace._ext.message import TOUCH, Message
from coinspace._ext.sink import ListSink
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.collector.collection import make_stage
from coinspace.collector.orderbook import OrderBookStage
from coinspace.config import load
from coinspace.errors import ConfigError
from coinspace.exchanges import exchange as exchange_named
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.session import session_of

MARKET, SYMBOL = "BTC/USDT", "BTCUSDT"
DEPTH = 20
KINDS = ("depth@100ms", "bookTicker")
# kind, time, frame, and what the best prices were: bid, its size, ask, its size
Frame = tuple[str, int, bytes, tuple[float, ...]]


def unused(*arguments: object) -> None:
    raise AssertionError(arguments)


def made() -> tuple[list[Frame], bytes]:
    """Return the frames of one simulated market, and the snapshot of its start."""
    found: list[Frame] = []
    session, _, _ = session_of("binance").recorded([SYMBOL], "t", unused, unused)
    parser = exchange_named("binance").parser(10)

    def on_event(event: Event) -> None:
        for frame in session.frames(event) if event.kind in KINDS else ():
            best: tuple[float, ...] = ()
            if event.kind == "bookTicker":
                (one,) = parser.decode(frame)
                best = one["bid"], one["bid_size"], one["ask"], one["ask_size"]
            found.append((event.kind, event.time_ns, frame, best))

    engine = Engine(9, {"binance": [MARKET]}, rate=5, on_event=on_event)
    snapshot = (engine.markets["binance"][SYMBOL].snapshot_text(1000) or "").encode()
    engine.advance(START_NS + 4 * SECOND_NS)
    return found, snapshot


FRAMES, SNAPSHOT = made()


class Side:
    """One stage and its last message."""

    def __init__(self, *, corrects: bool) -> None:
        self.sink = ListSink()
        chosen = ExchangeSettings(
            websocket="ws://x",
            rest="http://x",
            markets=[MARKET],
            depth=DEPTH,
            correct_touch=corrects,
        )
        exchange = exchange_named("binance")
        stage = make_stage(exchange, "orderbook", chosen, [(SYMBOL, MARKET)], self.sink)
        assert isinstance(stage, OrderBookStage)
        self.stage = stage
        stage.on_connected(1, (SYMBOL,), START_NS)

    def feed(self, frame: bytes, now_ns: int) -> Message | None:
        """Take a frame; return the book that was published."""
        before = len(self.sink.messages)
        self.stage.on_frame(frame, now_ns, 1)
        self.stage.on_timer(now_ns)
        for request in self.stage.take_requests():
            if request.purpose == "snapshot":
                self.stage.on_answer(request, SNAPSHOT, now_ns)
        books = [one for one in self.sink.messages[before:] if one.kind_name == "orderbook"]
        return books[-1] if books else None

    @property
    def market(self) -> Any:
        return self.stage.markets[0]


def levels(message: Message) -> tuple[list[list[float]], list[list[float]]]:
    return message.bids.tolist(), message.asks.tolist()


def id_of(frame: bytes) -> int:
    parser = exchange_named("binance").parser(10)
    parser.parse(frame)
    return int(parser.final_update_id)


@settings(max_examples=40)
@given(
    st.integers(min_value=0, max_value=2**32),
    st.floats(min_value=0.0, max_value=1.0),
    st.booleans(),
)
def test_the_next_update_publishes_what_it_would_have_published(
    seed: int, kept: float, binary: bool
) -> None:
    rng = random.Random(seed)
    plain, ours = Side(corrects=False), Side(corrects=True)
    newest = 0
    for kind, at_ns, frame, best in FRAMES:
        sent = as_sbe(frame) if binary else frame
        if kind == "bookTicker":
            if rng.random() > kept:
                continue
            message = ours.feed(sent, at_ns)
            newest = max(newest, id_of(frame))
            if message is not None:
                assert message.flags & TOUCH
                bids, asks = levels(message)
                assert (bids[0][0], bids[1][0], asks[0][0], asks[1][0]) == best
                for (prices, _), sign in ((bids, -1), (asks, 1)):
                    assert prices == sorted(set(prices), key=lambda price: sign * price)
                # what is behind the best prices is of the last update
                known = ours.market.top()
                for side, before in zip((message.bids, message.asks), known, strict=True):
                    assert {*map(tuple, side.T[1:].tolist())} <= {*map(tuple, before.T.tolist())}
            continue
        expected, message = plain.feed(sent, at_ns), ours.feed(sent, at_ns)
        assert (expected is None) == (message is None)
        if message is None or expected is None:
            continue
        # the local book is that of the updates alone
        for mine, theirs in zip(ours.market.book.levels(), plain.market.book.levels(), strict=True):
            assert mine.tolist() == theirs.tolist()
        assert message.id == expected.id
        assert bool(message.flags & TOUCH) == (newest > message.id)
        if not message.flags & TOUCH:
            assert levels(message) == levels(expected)


def test_best_prices_are_right_between_updates() -> None:
    ours = Side(corrects=True)
    last: Message | None = None
    wrong = checked = 0
    for kind, at_ns, frame, best in FRAMES:
        last = ours.feed(frame, at_ns) or last
        if kind == "bookTicker" and last is not None and ours.market.usable:
            checked += 1
            wrong += (last.bids[0, 0], last.asks[0, 0]) != (best[0], best[2])
    assert checked > 100
    assert not wrong
    assert ours.market.corrected > 50


@pytest.mark.parametrize(
    "change",
    [
        {"b": "-1"},
        {"b": "0"},
        {"a": "1"},
        {"B": "0"},
        {"A": "-2"},
        {"u": -5},
        {"u": 1 << 62},
    ],
    ids=str,
)
def test_best_prices_that_cannot_be_true_are_refused(change: dict[str, Any]) -> None:
    ours = Side(corrects=True)
    for kind, at_ns, frame, _ in FRAMES[:200]:
        if kind == "depth@100ms":
            ours.feed(frame, at_ns)
    published = ours.market.published
    frame, at_ns = next((f, t) for kind, t, f, _ in reversed(FRAMES) if kind == "bookTicker")
    content = orjson.loads(frame)
    content["data"].update(change)
    ours.feed(orjson.dumps(content), at_ns)
    assert ours.stage.bad_tops == 1
    assert ours.market.published == published


def test_best_prices_are_forgotten_when_no_update_follows() -> None:
    # an id far ahead must not correct books for ever
    ours = Side(corrects=True)
    updates = [(t, f) for kind, t, f, _ in FRAMES if kind == "depth@100ms"]
    for at_ns, frame in updates[:10]:
        ours.feed(frame, at_ns)
    frame = next(f for kind, _, f, _ in FRAMES if kind == "bookTicker")
    content = orjson.loads(frame)
    content["data"]["u"] += 10**9
    ours.feed(orjson.dumps(content), updates[9][0])
    message = ours.feed(updates[10][1], updates[10][0])
    assert message is not None
    assert message.flags & TOUCH
    message = ours.feed(updates[11][1], updates[9][0] + SECOND_NS + MILLISECOND_NS)
    assert message is not None
    assert not message.flags & TOUCH


def test_it_is_off_by_default_and_for_whole_books(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not any(one.correct_touch for one in load().exchanges.values())
    ours = Side(corrects=False)
    for _, at_ns, frame, _ in FRAMES[:200]:
        ours.feed(frame, at_ns)
    assert not ours.market.corrected
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__CORRECT_TOUCH", "true")
    with pytest.raises(ConfigError, match=r"exchanges\.upbit\.correct_touch"):
        load()
