"""Local books under all network faults at once, against an exchange on sortedcontainers.

The stage gets the exchange's updates and answers through a bad network. Each published book must be
the exchange's own book as of that update. Each update must follow the one before unless a change of
state lies between them.
"""

import random
from collections import deque
from itertools import islice

import orjson
import pytest
from sortedcontainers import SortedDict

from coinspace._ext.message import ORDERBOOK
from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.orderbook import OrderBookStage
from coinspace.exchanges import exchange
from coinspace.exchanges.exchange import Refusal, Request

STEPS = 100_000
T0 = 1_790_000_000 * SECOND_NS
STEP_NS = 30_000_000
DEPTH = 8
# levels of a REST answer; the books are about twice as deep
ANSWER = 25
# the frames of the last one have no faults
SYMBOLS = ("AUSDT", "BUSDT", "CUSDT")
QUIET = "CUSDT"
Top = tuple[list[list[float]], list[list[float]]]


class Truth:
    """One symbol at the exchange."""

    def __init__(self, symbol: str, draw: random.Random) -> None:
        self.symbol = symbol
        self.draw = draw
        self.id = 1000
        self.mid = 10_000
        self.sides = (SortedDict(), SortedDict())
        for tick in range(1, 50):
            self.sides[0][self.mid - tick] = 1.0
            self.sides[1][self.mid + tick] = 1.0
        self.tops: dict[int, Top] = {}
        self.tops[self.id] = self.top()
        # id -> the update after it
        self.after: dict[int, int] = {}

    def top(self) -> Top:
        bids, asks = self.sides
        return (
            [[price / 100, size] for price, size in islice(reversed(bids.items()), DEPTH)],
            [[price / 100, size] for price, size in islice(asks.items(), DEPTH)],
        )

    def update(self) -> bytes:
        """Trade and quote for a moment; return the update."""
        draw = self.draw
        before, first = self.id, self.id + 1
        changed: tuple[dict[int, float], dict[int, float]] = ({}, {})
        self.id += draw.randint(1, 4)
        self.after[before] = self.id
        self.mid += draw.choice((-2, -1, 0, 0, 0, 0, 0, 1, 2))
        for side, sign in ((0, -1), (1, 1)):
            levels = self.sides[side]
            for _ in range(draw.randint(0, 3)):
                tick = self.mid + sign * draw.randint(1, 45)
                size = 0.0 if draw.random() < 0.45 else draw.randint(1, 999) / 100
                changed[side][tick] = size
            # levels that the mid has crossed are traded away
            touch = -1 if side == 0 else 0
            while levels and sign * (levels.peekitem(touch)[0] - self.mid) <= 0:
                changed[side][levels.popitem(touch)[0]] = 0.0
            # no side is ever empty
            changed[side][self.mid + sign] = changed[side].get(self.mid + sign) or 1.0
            for tick, size in changed[side].items():
                if size:
                    levels[tick] = size
                else:
                    levels.pop(tick, None)
        self.tops[self.id] = self.top()
        if len(self.tops) > 5000:
            del self.tops[next(iter(self.tops))]
        data = {
            "e": "depthUpdate",
            "E": T0 // 1_000_000 + self.id,
            "s": self.symbol,
            "U": first,
            "u": self.id,
            "b": [[f"{tick / 100:.2f}", f"{size:.8f}"] for tick, size in changed[0].items()],
            "a": [[f"{tick / 100:.2f}", f"{size:.8f}"] for tick, size in changed[1].items()],
        }
        return orjson.dumps({"stream": f"{self.symbol.lower()}@depth@100ms", "data": data})

    def answer(self, limit: int) -> bytes:
        bids, asks = self.sides
        spelled = [
            [[f"{tick / 100:.2f}", f"{size:.8f}"] for tick, size in islice(levels, limit)]
            for levels in (reversed(bids.items()), asks.items())
        ]
        return orjson.dumps({"lastUpdateId": self.id, "bids": spelled[0], "asks": spelled[1]})


class Network:
    """The network between the exchange and the stage."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.sink = ListSink()
        entries = [(symbol, f"{symbol[0]}/USDT") for symbol in SYMBOLS]
        self.stage = OrderBookStage(
            exchange("binance"), entries, self.sink, depth=DEPTH, snapshot_depth=ANSWER
        )
        self.truths = {symbol: Truth(symbol, self.draw) for symbol in SYMBOLS}
        self.now = T0
        self.connection = 0
        # connection -> frames on their way, and how many of them the older one delays
        self.pipes: dict[int, deque[bytes]] = {}
        self.lag = 0
        self.swapped: dict[tuple[int, str], bytes] = {}
        # (due step, request, payload)
        self.answers: deque[tuple[int, Request, bytes]] = deque()
        self.cached: dict[tuple[str, int], bytes] = {}
        self.connect()
        self.published = 0
        # the last update published of each market, None after a change of state
        self.last: dict[str, int | None] = {}
        self.synced: dict[str, bool] = {}

    def connect(self) -> None:
        self.connection += 1
        self.pipes[self.connection] = deque()
        self.stage.on_connected(self.connection, SYMBOLS, self.now)

    def disconnect(self, connection: int) -> None:
        del self.pipes[connection]
        self.stage.on_disconnected(connection, "lost", self.now)

    def step(self, n: int) -> None:
        self.now += STEP_NS
        symbol = SYMBOLS[n % 3]
        frame = self.truths[symbol].update()
        for connection, pipe in self.pipes.items():
            pipe.extend(self.befallen(connection, symbol, frame))
        for connection, pipe in list(self.pipes.items()):
            # the newer of two connections may be ahead
            while len(pipe) > (self.lag if connection != self.connection else 0):
                self.stage.on_frame(pipe.popleft(), self.now, connection)
        self.connections()
        if n % 8 == 0:
            self.stage.on_timer(self.now)
            self.stage.take_reconnects()
        self.requests(n)
        self.check()

    def befallen(self, connection: int, symbol: str, frame: bytes) -> list[bytes]:
        held = self.swapped.pop((connection, symbol), None)
        after = [held] if held is not None else []
        luck = 1.0 if symbol == QUIET else self.draw.random()
        if luck < 0.002:
            return after
        if luck < 0.004:
            return [frame, frame, *after]
        if luck < 0.006:
            self.swapped[connection, symbol] = frame
            return after
        if luck < 0.008:
            return [frame[: self.draw.randrange(len(frame))], *after]
        return [frame, *after]

    def connections(self) -> None:
        luck = self.draw.random()
        if len(self.pipes) == 2:
            if luck < 0.05:
                # the older connection closes once the newer one delivers everything
                older = min(self.pipes)
                if self.stage.caught_up(self.connection):
                    self.disconnect(older)
        elif luck < 0.003:
            self.lag = self.draw.randint(0, 15)
            self.connect()
        elif luck < 0.0035:
            self.disconnect(self.connection)
            self.connect()

    def requests(self, n: int) -> None:
        draw = self.draw
        for request in self.stage.take_requests():
            truth = self.truths[request.symbols[0]]
            limit = ANSWER if request.purpose == "snapshot" else 99
            # the current book with a delay; sometimes the book of a server that is behind
            if draw.random() < 0.9:
                self.cached[request.symbols[0], limit] = truth.answer(limit)
            payload = self.cached.get((request.symbols[0], limit)) or truth.answer(limit)
            self.answers.append((n + draw.randint(1, 40), request, payload))
        while self.answers and self.answers[0][0] <= n:
            _, request, payload = self.answers.popleft()
            luck = draw.random()
            if luck < 0.05:
                refusal = Refusal("HTTP 503", fatal=False)
                self.stage.on_refused(request, refusal, self.now)
            elif luck < 0.08:
                self.stage.on_answer(request, payload[: len(payload) // 2], self.now)
            else:
                self.stage.on_answer(request, payload, self.now)

    def check(self) -> None:
        for message in self.sink.messages:
            if message.kind != ORDERBOOK:
                synced = message.json()["state"] == "synced"
                self.last[message.market] = self.last.get(message.market) if synced else None
                self.synced[message.market] = synced
                continue
            self.published += 1
            truth = self.truths[f"{message.market[0]}USDT"]
            bids, asks = truth.tops[message.id]
            # the known range may end before the published depth does
            assert message.bids.T.tolist() == bids[: message.n_bids], message
            assert message.asks.T.tolist() == asks[: message.n_asks], message
            assert message.n_bids
            assert message.n_asks
            if not message.flags:
                last = self.last.get(message.market)
                assert last is None or message.id == truth.after[last], "none left out, none twice"
            self.last[message.market] = message.id if self.synced[message.market] else None
        self.sink.clear()


@pytest.mark.timeout(240)
def test_a_hundred_thousand_steps_of_a_bad_network() -> None:
    network = Network(20261125)
    for n in range(STEPS):
        network.step(n)
    counted = network.stage.counters()
    # every fault has happened often
    assert network.published > STEPS // 2
    assert counted["gaps"] > 100
    assert counted["resyncs"] > 100
    assert counted["stale_snapshots"] > 20
    assert counted["refreshes"] > 20
    assert counted["ranges_left"] > 5
    assert counted["overlap_skipped"] > 100
    assert counted["malformed"] > 50
    assert counted["unreadable_answers"] > 10
    assert counted["confirmed"] > 10
    # and no published book was wrong
    assert counted["drifts"] == 0
    assert counted["impossible_changes"] == 0
    assert counted["crossed"] == 0
    assert counted["failures"] == 0
