"""REST requests of the order book stages: virtual time, real limits of the exchange."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import orjson
import pytest

from coinspace._ext.sink import ListSink
from coinspace.clock import SECOND_NS
from coinspace.collector.demand import IN_FLIGHT, Demand, Value, budget
from coinspace.collector.limits import Window
from coinspace.collector.orderbook import OrderBookStage
from coinspace.exchanges import binance, exchange
from coinspace.exchanges.exchange import Limit, Listing, Request
from coinspace.market import Market, market_of_dashed

S = SECOND_NS
T0 = 1_790_000_000 * S
STEP_NS = S // 4


@dataclass
class Exchange:
    """Binance markets and a REST server as fast as the limits allow."""

    count: int
    quiet: int
    snapshot_depth: int = 1000
    levels: int = 2000
    needed: frozenset[str] = frozenset()
    now: int = T0
    link: int = 1
    weights: deque[tuple[int, int]] = field(default_factory=deque)
    stale: int = 0
    longest: int = 0
    synced_ns: dict[str, int] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    reconnects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [f"C{i:03d}USDT" for i in range(self.count)]
        self.busy = self.names[self.quiet :]
        self.ids = dict.fromkeys(self.names, 1000)
        entries = [(name, f"{name[:-4]}/USDT") for name in self.names]
        self.sink = ListSink()
        self.stage = OrderBookStage(
            exchange("binance"),
            entries,
            self.sink,
            depth=20,
            snapshot_depth=self.snapshot_depth,
            needed=self.needed,
        )
        self.window = Window(budget(exchange("binance"), "orderbook")["weight"])
        self.queue: deque[Request] = deque()
        self.stage.on_connected(1, tuple(self.names), self.now)

    def run(
        self, seconds: float, answers: Callable[[Request], bool] = lambda request: True
    ) -> None:
        for _ in range(int(seconds * 4)):
            self.now += STEP_NS
            for name in self.busy:
                first = self.ids[name] + 1
                self.ids[name] += 2
                update = {
                    "e": "depthUpdate",
                    "E": self.now // 1_000_000,
                    "s": name,
                    "U": first,
                    "u": self.ids[name],
                    "b": [["100", str(self.ids[name] % 9 + 1)]],
                    "a": [],
                }
                self.stage.on_frame(orjson.dumps(update), self.now, self.link)
            self.stage.on_timer(self.now)
            taken = self.stage.take_requests()
            self.asked += taken
            self.queue.extend(taken)
            self.longest = max(self.longest, len(self.queue))
            # a comparison and a snapshot at most
            assert len(self.stage.demand) <= 2 * self.count
            while self.queue and not self.window.wait_ns(self.now, self.queue[0].weight):
                request = self.queue.popleft()
                self.window.take(self.now, request.weight)
                self.weights.append((self.now, request.weight))
                if answers(request):
                    self.stage.on_answer(request, self.book(request), self.now)
            self.reconnects += self.stage.take_reconnects().values()
            for status in self.stage.statuses:
                self.stale += status.state == "stale"
                if status.state == "synced":
                    self.synced_ns.setdefault(status.symbol, self.now)
            self.sink.clear()

    def book(self, request: Request) -> bytes:
        (name,) = request.symbols
        n = min(self.levels, int(request.path.partition("limit=")[2].split("&")[0]))
        best = str(self.ids[name] % 9 + 1) if name in self.busy else "1"
        return orjson.dumps(
            {
                "lastUpdateId": self.ids[name],
                "bids": [[f"{100 - i * 0.01:.2f}", "1" if i else best] for i in range(n)],
                "asks": [[f"{100.01 + i * 0.01:.2f}", "1"] for i in range(n)],
            }
        )

    def heaviest_minute(self) -> int:
        """Return the highest weight within any minute."""
        most = total = 0
        recent: deque[tuple[int, int]] = deque()
        for at_ns, weight in self.weights:
            recent.append((at_ns, weight))
            total += weight
            while at_ns - recent[0][0] >= 60 * S:
                total -= recent.popleft()[1]
            most = max(most, total)
        return most


LIMIT = budget(exchange("binance"), "orderbook")["weight"].count


@pytest.mark.parametrize(("count", "quiet"), [(400, 350), (120, 20), (450, 450)])
def test_hundreds_of_markets_run_steadily_within_the_budget(count: int, quiet: int) -> None:
    world = Exchange(count, quiet)
    world.run(200)
    assert world.heaviest_minute() <= LIMIT
    assert (world.stale, world.reconnects) == (0, [])
    assert world.longest <= sum(IN_FLIGHT.values())
    assert set(world.stage.states.values()) == {"synced"}
    # every market is compared
    compared = Counter(r.symbols[0] for r in world.asked if r.purpose == "compare")
    assert min(compared[name] for name in world.names) >= 1


@pytest.mark.parametrize("quiet", [200, 450])
def test_450_books_are_complete_within_90_s_and_deeper_later(quiet: int) -> None:
    world = Exchange(450, quiet)
    world.run(90)
    assert len(world.synced_ns) == 450
    assert world.heaviest_minute() <= LIMIT
    deep = world.stage.counts["deepened"]
    world.run(120)
    assert world.stage.counts["deepened"] > deep + 20


def test_markets_of_the_index_come_first_and_deep() -> None:
    needed = frozenset({"C449/USDT", "C448/USDT"})
    world = Exchange(450, 300, needed=needed)
    world.run(1)
    first = [request.symbols[0] for request in world.asked[:2]]
    assert set(first) == {"C449USDT", "C448USDT"}
    assert {request.context for request in world.asked[:2]} == {1000}
    assert world.asked[5].context == 100


def test_a_lost_book_overtakes_every_comparison_that_waits() -> None:
    world = Exchange(400, 350)
    world.run(120)
    assert len(world.stage.demand) > 50
    world.stage.take_requests()
    # a gap
    world.ids["C399USDT"] += 5
    world.asked.clear()
    world.run(0.5)
    assert [r.symbols for r in world.asked if r.purpose == "snapshot"][:1] == [("C399USDT",)]
    world.run(1)
    assert world.stage.states["C399/USDT"] == "synced"


def test_rest_that_never_answers_makes_no_market_stale_and_no_queue() -> None:
    world = Exchange(200, 150)
    world.run(60)
    world.run(300, answers=lambda request: False)
    assert (world.stale, world.reconnects) == (0, [])
    assert world.longest <= sum(IN_FLIGHT.values())


def test_a_silent_connection_is_stale_as_a_whole_and_replaced() -> None:
    world = Exchange(20, 15)
    world.run(30)
    world.busy = []
    world.run(18, answers=lambda request: False)
    assert world.stale == 0
    world.run(8, answers=lambda request: False)
    assert set(world.stage.states.values()) == {"stale"}
    assert world.reconnects


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_wanted_requests_stays_within_the_limit_and_loses_none(seed: int) -> None:
    rng = random.Random(seed)
    demand = Demand({"weight": Limit(1200, 60.0)})
    window = Window(Limit(1200, 60.0))
    now, got = T0, []
    wished: set[tuple[str, str]] = set()
    for _ in range(4000):
        now += rng.randrange(S)
        if rng.random() < 0.7:
            name = f"S{rng.randrange(40)}"
            value = rng.choice(list(Value))
            request = binance.snapshot_request(name, rng.choice((100, 500, 1000)))
            if value == Value.COMPARE:
                (request,) = binance.compare_requests([name])
            if demand.add(request, value, rng.random() < 0.2, now):
                assert (request.purpose, name) not in wished
                wished.add((request.purpose, name))
        assert len(demand) == len(wished) <= 80
        for request in demand.take(now):
            wished.discard((request.purpose, request.symbols[0]))
            assert window.wait_ns(now, request.weight) == 0
            window.take(now, request.weight)
            got.append(request)
            if rng.random() < 0.8:
                demand.done(request)
    for _ in range(2000):
        now += 6 * S
        for request in demand.take(now):
            wished.discard((request.purpose, request.symbols[0]))
    assert not wished
    assert len(got) > 100


def test_a_wanted_request_takes_the_higher_of_two_ranks() -> None:
    demand = Demand({"weight": Limit(100, 60.0)})
    demand.add(binance.snapshot_request("A", 100), Value.REPAIR, False, T0)
    demand.add(binance.snapshot_request("B", 100), Value.DEEPEN, False, T0)
    assert not demand.add(binance.snapshot_request("B", 500), Value.FIRST, False, T0)
    assert [(*r.symbols, r.context) for r in demand.take(T0)] == [("B", 500), ("A", 100)]


# one bad member of a batch


@dataclass
class Korean:
    """A Korean exchange whose REST refuses a call that names a market it does not know."""

    name: str
    symbols: list[str]
    gone: set[str] = field(default_factory=set)
    now: int = T0
    refused: int = 0
    calls: int = 0
    reconnects: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exchange = exchange(self.name)
        entries = [(symbol, str(market_of_dashed(symbol))) for symbol in self.symbols]
        self.stage = OrderBookStage(self.exchange, entries, ListSink(), depth=15)
        self.stage.on_connected(1, tuple(self.symbols), self.now)
        for symbol in self.symbols:
            self.frame(symbol)

    def entry(self, key: str, symbol: str, ms: int) -> dict[str, object]:
        unit = {"ask_price": 101.0, "bid_price": 100.0, "ask_size": 1.0, "bid_size": 1.0}
        return {key: symbol, "timestamp": ms, "orderbook_units": [unit]}

    def frame(self, symbol: str) -> None:
        book = {"type": "orderbook", "stream_type": "SNAPSHOT", "level": 0}
        book |= self.entry("code", symbol, T0 // 1_000_000)
        self.stage.on_frame(orjson.dumps(book), self.now, 1)

    def run(self, seconds: float, busy: Iterable[str] = ()) -> None:
        for _ in range(int(seconds * 4)):
            self.now += STEP_NS
            for symbol in busy:
                self.frame(symbol)
            self.stage.on_timer(self.now)
            for request in self.stage.take_requests():
                self.answer(request)
            self.reconnects += self.stage.take_reconnects().values()

    def answer(self, request: Request) -> None:
        self.calls += 1
        status, body = (
            200,
            orjson.dumps(
                [self.entry("market", symbol, T0 // 1_000_000) for symbol in request.symbols]
            ),
        )
        if self.gone & set(request.symbols):
            # Bithumb's errors come with status 200
            status = 404 if self.name == "upbit" else 200
            body = b'{"error":{"name":404,"message":"Code not found"}}'
        refusal = self.exchange.refusal_of_answer(status, body)
        if refusal is not None:
            self.refused += 1
            self.stage.on_refused(request, refusal, self.now)
        else:
            self.stage.on_answer(request, body, self.now)

    def confirmed(self, symbol: str) -> int:
        """Return the seconds since REST last agreed."""
        (status,) = self.stage.of((symbol,))
        return (self.now - status.confirmed_ns) // S


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
@pytest.mark.parametrize("bad", [1, 3])
def test_bad_markets_are_found_and_the_others_stay_confirmed(name: str, bad: int) -> None:
    symbols = [f"KRW-M{i:02d}" for i in range(40)]
    world = Korean(name, symbols)
    world.run(20)
    world.gone = set(symbols[5 : 5 + bad])
    world.run(120)
    good = [symbol for symbol in symbols if symbol not in world.gone]
    assert max(world.confirmed(symbol) for symbol in good) <= 6
    assert world.stage.counters()["absent_markets"] == bad
    assert {world.stage.states[str(market_of_dashed(symbol))] for symbol in good} == {"synced"}
    assert world.reconnects == []
    # found by halving, then asked alone at growing intervals
    assert world.refused < 14 * bad
    refused = world.refused
    world.run(600)
    assert world.refused - refused < 6 * bad


@pytest.mark.parametrize("name", ["upbit", "bithumb"])
def test_a_market_that_comes_back_is_found_again(name: str) -> None:
    world = Korean(name, ["KRW-AAA", "KRW-BBB"], gone={"KRW-BBB"})
    world.run(60)
    assert world.stage.counters()["absent_markets"] == 1
    # without a change of the list of markets, when its wait is over
    world.gone = set()
    world.run(120)
    assert world.stage.counters()["absent_markets"] == 0
    assert world.confirmed("KRW-BBB") < 10
    # with the list at once
    world.gone = {"KRW-BBB"}
    world.run(60)
    listing = Listing("KRW-BBB", Market("BBB", "KRW"), True)
    world.stage.on_listing("delisted", listing, world.now)
    world.gone = set()
    world.stage.on_listing("listed", listing, world.now)
    world.run(10)
    assert world.confirmed("KRW-BBB") < 10


def test_a_refusal_that_passes_by_itself_makes_no_market_suspected() -> None:
    world = Korean("upbit", ["KRW-AAA", "KRW-BBB"])
    world.exchange = exchange("upbit")
    world.run(10)
    (request,) = exchange("upbit").compare_requests(["KRW-AAA", "KRW-BBB"])
    refusal = exchange("upbit").refusal_of_answer(429, b"{}")
    assert refusal is not None
    world.stage.on_refused(request, refusal, world.now)
    assert world.stage.take_requests() == []
    assert world.stage.counters()["absent_markets"] == 0


def test_a_binance_market_that_rest_does_not_know_is_requested_less_and_less() -> None:
    world = Exchange(3, 3)
    gone = "C001USDT"
    refusal = binance.refusal_of_answer(400, b'{"code":-1121,"msg":"Invalid symbol."}')
    assert refusal is not None

    def answers(request: Request) -> bool:
        if gone in request.symbols:
            world.stage.on_refused(request, refusal, world.now)
            return False
        return True

    world.run(1200, answers)
    asked = [request for request in world.asked if gone in request.symbols]
    assert 3 <= len(asked) <= 8
    assert world.stage.states["C001/USDT"] == "quarantined"
    assert world.stage.states["C002/USDT"] == "synced"
