"""Whole exchanges: real counts and rates, and books as consistent as those of single markets."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import Settings, load
from coinspace.exchanges import exchange
from coinspace.market import FX_MARKET, Market
from coinspace.simulator.markets import binance, korean
from coinspace.simulator.markets.engine import START_NS, Engine
from coinspace.simulator.markets.looped import LoopedMarket
from coinspace.simulator.markets.market import Event
from coinspace.simulator.markets.offer import whole_markets
from coinspace.simulator.markets.whole import COUNTS, RATES, whole_exchanges
from coinspace.simulator.session import session_of

SECOND_NS = 1_000_000_000
DIFF = binance.Variant("x@depth@100ms")
SIMPLE = korean.Variant(simple=True)


class Tape:
    """The frames of a few markets of whole exchanges."""

    def __init__(self, markets: dict[str, list[str]]) -> None:
        self.frames: list[tuple[LoopedMarket, int, Any]] = []
        self.engine = Engine(5, markets, whole=whole_exchanges(), on_event=self._on_event)
        self._last_s = 0.0

    def _on_event(self, event: Event) -> None:
        if event.kind in ("depth@100ms", "orderbook") and isinstance(event.market, LoopedMarket):
            frame = event.frame(DIFF if event.kind == "depth@100ms" else SIMPLE)
            self.frames.append((event.market, event.time_ns, orjson.loads(frame)))

    def run(self, seconds: float) -> list[Any]:
        """Return the frames of the next seconds."""
        self.frames.clear()
        self._last_s += seconds
        self.engine.advance(START_NS + int(self._last_s * SECOND_NS))
        return [frame for _, _, frame in self.frames]

    def market(self, exchange: str) -> LoopedMarket:
        [market] = self.engine.markets[exchange].values()
        assert isinstance(market, LoopedMarket)
        return market


def test_whole_exchanges_have_real_counts_and_rates_and_share_their_assets() -> None:
    whole = whole_exchanges()
    venues: Counter[str] = Counter()
    for name, markets in whole.markets.items():
        assert len(markets) == len(set(markets)) == COUNTS[name]
        venues.update({Market.parse(one).base for one in markets if one != FX_MARKET})
        books, trades = (sum(rates) for rates in zip(*_paces(name, markets), strict=True))
        assert (books, trades) == pytest.approx(RATES[name])
        assert max(one[0] for one in _paces(name, markets)) == 10.0
    assert sum(number >= 2 for number in venues.values()) == 304
    everywhere = venues.keys() & {Market.parse(one).base for one in whole.markets["binance"]}
    assert sum(venues[one] >= 2 for one in everywhere) == 264
    assert FX_MARKET in whole.markets["upbit"]
    prices = Engine(1, whole.markets, whole=whole).prices.worth.values()
    assert min(prices) < 1e-7
    assert max(prices) > 80_000
    assert whole_exchanges() == whole


def _paces(name: str, markets: list[str]) -> list[tuple[float, float]]:
    paces = whole_exchanges().paces
    return [(paces[name, one].books, paces[name, one].trades) for one in markets]


@pytest.mark.parametrize("market", ["BTC/USDT", "PEPE/USDT", "dearest", "cheapest"])
def test_updates_continue_a_snapshot_forth_and_back(market: str) -> None:
    if market in ("dearest", "cheapest"):
        worth = whole_exchanges().worth
        mine = {name: worth.get(name[:-5], 1.0) for name in whole_exchanges().markets["binance"]}
        market = (max if market == "dearest" else min)(mine, key=mine.__getitem__)
    tape = Tape({"binance": [market]})
    source = tape.market("binance")
    snapshot = orjson.loads(source.snapshot_text(5000) or "")
    last_id = snapshot["lastUpdateId"]
    sides = {key: {level[0]: level[1] for level in snapshot[name]} for key, name in SIDES}
    # the books change their direction several times
    for _ in range(40):
        for frame in tape.run(0.4):
            update = frame["data"]
            assert update["U"] == last_id + 1
            last_id = update["u"]
            for key, book in sides.items():
                for price, size in update[key]:
                    if float(size):
                        book[price] = size
                    else:
                        book.pop(price, None)
            assert max(map(float, sides["b"])) < min(map(float, sides["a"]))
        snapshot = orjson.loads(source.snapshot_text(5000) or "")
        assert snapshot["lastUpdateId"] == last_id
        for key, name in SIDES:
            assert sides[key] == {level[0]: level[1] for level in snapshot[name]}
        best = snapshot["bids"][0]
        assert best[0] == max(sides["b"], key=float)


SIDES = (("b", "bids"), ("a", "asks"))


@pytest.mark.parametrize("exchange", ["upbit", "bithumb"])
def test_korean_books_are_whole_and_their_times_rise(exchange: str) -> None:
    tape = Tape({exchange: ["ETH/KRW"]})
    source = tape.market(exchange)
    frames = tape.run(20)
    times = [frame["tms"] for frame in frames]
    assert all(before < after for before, after in pairwise(times))
    books = [frame["obu"] for frame in frames]
    for book in books:
        bids = [one["bp"] for one in book if one["bs"] > 0]
        asks = [one["ap"] for one in book if one["as"] > 0]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
    repeated = sum(before == after for before, after in pairwise(books)) / len(books)
    assert (0.2 < repeated < 0.6) if exchange == "bithumb" else repeated == 0
    # REST has the book of the newest frame
    event = source.snapshot("orderbook")
    assert event is not None
    plain = orjson.loads(event.frame(source.plain))["orderbook_units"]
    assert [one["ask_price"] for one in plain] == [one["ap"] for one in books[-1]]
    assert [one["bid_size"] for one in plain] == [one["bs"] for one in books[-1]]


def test_markets_send_as_often_as_their_pace_and_keep_a_bounded_memory() -> None:
    names = whole_exchanges().markets
    chosen = {name: [found[0], found[60], found[-1]] for name, found in names.items()}
    tape = Tape(chosen)
    tape.run(100)
    times: dict[LoopedMarket, list[int]] = defaultdict(list)
    for market, at_ns, _ in tape.frames:
        times[market].append(at_ns)
    assert len(times) == 9
    for market, sent in times.items():
        assert len(sent) / 100 == pytest.approx(market.pace.books, rel=0.2)
        assert len(market.recent) <= market.kept_trades + 100
        assert len(market._frames) <= 2 * market.count  # type: ignore[attr-defined]
        # no market counts as delayed
        assert max(after - before for before, after in pairwise(sent)) < 6 * SECOND_NS


def test_up_collects_whole_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in whole_markets(Settings()).items():
        monkeypatch.setenv(name, text)
    settings = load()
    assert settings.exchanges["upbit"].markets == ["*/KRW"]
    assert settings.exchanges["binance"].markets == ["*/USDT"]
    assert settings.exchanges["binance"].depth == 30
    assert settings.index.patterns == ("*",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "--markets", "all", "--scenario", "crisis"],
        ["simulate", "--markets", "all", "--record", "x", "--duration", "1"],
        ["up", "--markets", "all"],
    ],
)
def test_whole_exchanges_go_with_few_options(arguments: list[str]) -> None:
    result = CliRunner().invoke(coinspace, arguments)
    assert result.exit_code
    assert "--markets all" in str(result.exception) + result.output


@pytest.mark.parametrize(("name", "market"), [("coinone", "BTC/KRW"), ("coinbase", "BTC/USD")])
def test_looped_markets_of_further_exchanges_are_read(name: str, market: str) -> None:
    sent: list[bytes] = []
    engine = Engine(1, {name: [market]}, whole=whole_exchanges())
    markets = engine.markets[name]
    session, _, requests = session_of(name).recorded(
        list(markets), "t", sent.append, lambda code, reason, delay_s: None
    )
    session.attach(markets)
    session.changed = lambda added: sent.extend(
        frame for frame, _, _ in session.first_frames(added, markets)
    )
    engine.on_event = lambda event: sent.extend(session.frames(event))
    for request in requests:
        session.on_text(request, 0.0)
    engine.advance(engine.now_ns + 20 * 10**9)
    parser = exchange(name).parser(5000)
    kinds = [one["kind"] for frame in sent for one in parser.decode(frame)]
    assert {"orderbook", "trade", "ticker", "control"} == set(kinds)
    assert kinds.count("orderbook") > 10
