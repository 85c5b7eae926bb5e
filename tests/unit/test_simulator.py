"""The simulated market: same seed, same bytes; correct books; every quirk of the exchanges."""

import gc
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.config import Settings
from coinspace.errors import ConfigError
from coinspace.recording.format import FeedReader
from coinspace.simulator.faults import altered, parse
from coinspace.simulator.markets import binance, korean, spelling
from coinspace.simulator.markets.binance import BinanceMarket
from coinspace.simulator.markets.engine import DEFAULT_MARKETS, START_NS, Engine
from coinspace.simulator.markets.market import Event
from coinspace.simulator.markets.offer import offer
from coinspace.simulator.markets.scenario import CRISIS
from coinspace.simulator.markets.spelling import Spelling, fixed, pointed, scientific, short, terse
from coinspace.simulator.simulated_feed import write_feeds

SECONDS = 20


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    folder = tmp_path_factory.mktemp("feeds")
    result = {}
    for line in write_feeds(folder / "sim.feed.zst", 7, DEFAULT_MARKETS, duration_s=SECONDS):
        with FeedReader(line["path"]) as reader:
            result[reader.exchange] = [r.payload for r in reader if r.direction == "<"]
    return result


def of(frames: list[bytes], kind: str, code: str = "KRW-BTC") -> list[dict[str, Any]]:
    head = f'{{"type":"{kind}","code":"{code}"'.encode()
    return [orjson.loads(frame) for frame in frames if frame.startswith(head)]


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from coinspace.simulator.simulated_feed import write_feeds;"
        "from coinspace.simulator.markets.engine import DEFAULT_MARKETS;"
        "list(write_feeds(Path(sys.argv[1]), 3, DEFAULT_MARKETS, duration_s=3))"
    )
    contents = []
    for hash_seed in ("1", "2"):
        folder = tmp_path / hash_seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program, str(folder / "x.feed.zst")]
        subprocess.run(command, env=environment, check=True, timeout=60)
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert len(contents[0]) == 3
    assert contents[0] == contents[1]


def test_another_seed_gives_other_frames_and_a_longer_run_begins_equally(tmp_path: Path) -> None:
    def payloads(seed: int, duration_s: float) -> list[bytes]:
        path = tmp_path / f"{seed}-{duration_s}.feed.zst"
        list(write_feeds(path, seed, {"upbit": ["BTC/KRW"]}, duration_s=duration_s))
        with FeedReader(path) as reader:
            return [record.payload for record in reader]

    assert payloads(1, 2.0) == payloads(1, 4.0)[: len(payloads(1, 2.0))]
    assert payloads(1, 2.0) != payloads(2, 2.0)


def test_frames_do_not_depend_on_how_time_advances_or_on_other_markets() -> None:
    def frames_of(step_ns: int, markets: dict[str, list[str]]) -> list[bytes]:
        found: list[bytes] = []

        def on_event(event: Event) -> None:
            if event.market.symbol == "BTCUSDT" and event.kind == "depth@100ms":
                found.append(event.frame(binance.Variant("btcusdt@depth@100ms")))

        engine = Engine(9, markets, on_event=on_event)
        for now_ns in range(START_NS, START_NS + 3 * 10**9 + 1, step_ns):
            engine.advance(now_ns)
        return found

    alone = frames_of(3 * 10**9, {"binance": ["BTC/USDT"]})
    assert len(alone) > 25
    assert alone == frames_of(7_500_000, {"binance": ["BTC/USDT"]})
    assert alone == frames_of(10**9, {"binance": ["ETH/USDT", "BTC/USDT"], "upbit": ["SOL/KRW"]})


def test_upbit_books_are_whole_and_use_every_number_format(frames: dict[str, list[bytes]]) -> None:
    raw = [f for f in frames["upbit"] if b'"code":"KRW-BTC"' in f and b"orderbook_units" in f]
    text = b"".join(raw)
    assert re.search(rb'"ask_price":1\.\d+E8', text)
    assert re.search(rb'"ask_price":\d{9}\.0[,}]', text)
    assert re.search(rb'"ask_price":\d{9}[,}]', text)
    assert re.search(rb'_size":0\.\d{7}0[,}]', text)
    assert re.search(rb'_size":\d\.\d+E-\d', text)
    books = [orjson.loads(frame) for frame in raw]
    assert [book["stream_type"] for book in books[:2]] == ["SNAPSHOT", "REALTIME"]
    times = [book["timestamp"] for book in books]
    assert times == sorted(times)
    assert len(str(times[0])) == 13
    for book in books:
        units = book["orderbook_units"]
        assert len(units) == 30
        bids = [unit["bid_price"] for unit in units if unit["bid_size"] > 0]
        asks = [unit["ask_price"] for unit in units if unit["ask_size"] > 0]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
        total = sum(unit["ask_size"] for unit in units)
        assert book["total_ask_size"] == pytest.approx(total)


def test_upbit_pads_thin_sides(frames: dict[str, list[bytes]]) -> None:
    books = of(frames["upbit"], "orderbook", "KRW-SOL")
    last = [book["orderbook_units"][-1] for book in books]
    assert any(unit["bid_price"] == 0 == unit["bid_size"] for unit in last)
    assert all(len(book["orderbook_units"]) == 30 for book in books)


def test_upbit_trades(frames: dict[str, list[bytes]]) -> None:
    trades = of(frames["upbit"], "trade")
    assert trades[0]["stream_type"] == "SNAPSHOT"
    assert all(len(str(trade["sequential_id"])) == 17 for trade in trades)
    assert {"best_ask_price", "best_bid_size", "trade_date"} <= set(trades[0])
    assert trades[0]["trade_date"] == "2026-11-02"
    everything = [
        trade["sequential_id"]
        for code in ("KRW-BTC", "KRW-ETH", "KRW-XRP", "KRW-SOL", "KRW-USDT")
        for trade in of(frames["upbit"], "trade", code)
    ]
    falls = sum(after < before for before, after in pairwise(everything))
    assert falls > 5  # four of these are between two markets


def test_bithumb_books_repeat_and_contain_dust(frames: dict[str, list[bytes]]) -> None:
    books = of(frames["bithumb"], "orderbook")
    assert all(len(book["orderbook_units"]) == 15 and book["level"] == 1 for book in books)
    times = [book["timestamp"] for book in books]
    assert times == sorted(times)
    assert all(len(str(time)) == 16 for time in times)
    pairs = pairwise(books)
    repeats = sum(
        before["orderbook_units"] == after["orderbook_units"] for before, after in pairs
    ) / len(books)
    assert 0.35 < repeats < 0.55
    units = [unit for book in books for unit in book["orderbook_units"]]
    assert sum(unit["ask_size"] == 0 < unit["ask_price"] for unit in units) > 10
    sizes = re.findall(rb'_size":([\d.]+)', b"".join(frames["bithumb"][:500]))
    assert all(len(size.partition(b".")[2]) <= 4 for size in sizes)


def test_bithumb_times_are_korean(frames: dict[str, list[bytes]]) -> None:
    trade, ticker = of(frames["bithumb"], "trade")[0], of(frames["bithumb"], "ticker")[0]
    assert (trade["trade_date"], trade["trade_time"]) == ("2026-11-02", "09:00:00")
    assert (ticker["trade_date"], ticker["trade_time"]) == ("20261102", "090000")
    assert trade["trade_timestamp"] == START_NS // 10**6
    assert len(str(trade["sequential_id"])) == 19
    assert trade["sequential_id"] < 1 << 63
    assert len(ticker) == 33


def test_binance_diffs_build_the_book_of_the_exchange() -> None:
    book: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    last = {"id": 0, "deletes": 0, "levels": 0, "more_ids": 0, "checked": 0}
    top: dict[str, Any] = {}

    def on_event(event: Event) -> None:
        if event.market.symbol != "ETHUSDT":
            return
        if event.kind == "bookTicker":
            top.update(orjson.loads(event.frame(binance.Variant("x", combined=False))))
        if event.kind != "depth@100ms":
            return
        diff = orjson.loads(event.frame(binance.Variant("x", combined=False)))
        assert diff["U"] == last["id"] + 1
        last["id"] = diff["u"]
        changed = len(diff["b"]) + len(diff["a"])
        last["more_ids"] += diff["u"] - diff["U"] + 1 > changed
        for side in ("b", "a"):
            for price, size in diff[side]:
                last["levels"] += 1
                if float(size):
                    book[side][price] = size
                else:
                    last["deletes"] += 1
                    book[side].pop(price, None)
        bids, asks = sorted(map(float, book["b"])), sorted(map(float, book["a"]))
        assert bids[-1] < asks[0]
        if top:
            assert top["u"] <= diff["u"]
            assert (float(top["b"]), float(top["a"])) == (bids[-1], asks[0])
            last["checked"] += 1

    engine = Engine(11, {"binance": ["ETH/USDT"]}, on_event=lambda event: None)
    market = engine.markets["binance"]["ETHUSDT"]
    assert isinstance(market, BinanceMarket)
    snapshot = orjson.loads(market.snapshot_text(5000))
    assert len(snapshot["bids"]) == 1500
    book["b"], book["a"] = dict(snapshot["bids"]), dict(snapshot["asks"])
    last["id"] = snapshot["lastUpdateId"]
    engine.on_event = on_event
    engine.advance(START_NS + SECONDS * 10**9)
    after = orjson.loads(market.snapshot_text(5000))
    # only changes since the last window may differ
    assert len(set(map(tuple, after["bids"])) ^ set(book["b"].items())) < 20
    assert last["checked"] > 150
    assert 0.03 < last["deletes"] / last["levels"] < 0.4
    assert last["more_ids"] > 10


def test_binance_trades_have_contiguous_ids(frames: dict[str, list[bytes]]) -> None:
    ids = defaultdict(list)
    for frame in frames["binance"]:
        if b"@trade" in frame[:40]:
            trade = orjson.loads(frame)["data"]
            ids[trade["s"]].append(trade["t"])
            assert re.fullmatch(r"\d+\.\d{8}", trade["p"])
    assert set(ids) == {"BTCUSDT", "ETHUSDT", "XRPUSDT", "SOLUSDT"}
    for one in ids.values():
        assert one == list(range(one[0], one[0] + len(one)))


def test_prices_agree_across_exchanges() -> None:
    engine = Engine(5)
    engine.advance(START_NS + 60 * 10**9)
    for base in ("BTC", "ETH", "XRP", "SOL"):
        usdt = engine.markets["binance"][f"{base}USDT"].worth()
        for exchange in ("upbit", "bithumb"):
            markets = engine.markets[exchange]
            in_usdt = markets[f"KRW-{base}"].worth() / markets["KRW-USDT"].worth()
            assert abs(in_usdt / usdt - 1) < 0.005


def test_a_crisis_moves_prices_and_never_crosses_a_book() -> None:
    lows = {"upbit": 1e18, "rate_high": 0.0, "rate_low": 1e18}
    crossed = 0

    def on_event(event: Event) -> None:
        nonlocal crossed
        market = event.market
        bid = market.bids.best()
        crossed += bid >= market.asks.best()
        if market.symbol == "KRW-BTC" and market.exchange == "upbit":
            lows["upbit"] = min(lows["upbit"], bid * 1000)
        if market.symbol == "KRW-USDT":
            lows["rate_high"] = max(lows["rate_high"], bid)
            lows["rate_low"] = min(lows["rate_low"], bid)

    markets = {"upbit": ["BTC/KRW", "USDT/KRW"], "binance": ["BTC/USDT"]}
    scenario = replace(CRISIS, compress=20.0)
    engine = Engine(5, markets, scenario=scenario, on_event=on_event)
    before = engine.markets["upbit"]["KRW-BTC"].worth()
    engine.advance(START_NS + 60 * 10**9)
    assert crossed == 0
    assert 0.31 < 1 - lows["upbit"] / before < 0.37
    assert lows["rate_high"] > 1343 * 1.13
    assert lows["rate_low"] < 1343 * 0.87
    assert abs(engine.markets["upbit"]["KRW-BTC"].worth() / before - 1) < 0.02


@pytest.mark.parametrize(
    ("spell", "n", "decimals", "expected"),
    [
        (fixed, 10047300000000000, 8, "100473000.00000000"),
        (fixed, -5, 3, "-0.005"),
        (short, 153990, 4, "15.399"),
        (short, 0, 4, "0"),
        (short, 100, 0, "100"),
        (pointed, 109950000, 0, "109950000.0"),
        (scientific, 116539000, 0, "1.16539E8"),
        (scientific, 79276, 8, "7.9276E-4"),
        (scientific, 50000, 8, "5.0E-4"),
        (scientific, 3715000, 0, "3715000.0"),
        (scientific, 100000, 8, "0.001"),
        (scientific, 0, 8, "0.0"),
        (terse, 6, 8, "6E-8"),
        (terse, 99, 8, "9.9E-7"),
        (terse, 116606000, 0, "116606000"),
    ],
)
def test_spellings(spell: Any, n: int, decimals: int, expected: str) -> None:
    assert spell(n, decimals) == expected
    assert float(expected) == n / 10**decimals


def test_korean_formats_and_grouping() -> None:
    engine = Engine(2, {"upbit": ["BTC/KRW"], "bithumb": ["BTC/KRW"]})
    engine.advance(START_NS + 2 * 10**9)
    for exchange in ("upbit", "bithumb"):
        market = engine.markets[exchange]["KRW-BTC"]
        assert isinstance(market, korean.KoreanMarket)
        event = market.snapshot("orderbook")
        assert event is not None
        listed = orjson.loads(event.frame(korean.Variant(simple=True, listed=True, units=5)))
        assert len(listed[0]["obu"]) == 5
        level = market.levels_supported()[2]
        grouped = orjson.loads(event.frame(korean.Variant(level=level, units=market.depth)))
        prices = [unit["ask_price"] for unit in grouped["orderbook_units"] if unit["ask_price"]]
        assert all(price % level == 0 for price in prices)
        assert len(set(prices)) == len(prices) > 2


def test_a_recorded_crisis_shows_the_stalls(tmp_path: Path) -> None:
    scenario = replace(CRISIS, compress=20.0)
    [line] = write_feeds(
        tmp_path / "x.feed.zst", 1, {"upbit": ["BTC/KRW"]}, duration_s=30, scenario=scenario
    )
    with FeedReader(line["path"]) as reader:
        times = [record.received_ns for record in reader]
    longest_s = max(after - before for before, after in pairwise(times)) / 1e9
    # 30 s of the scenario at 20 x
    assert 1.4 < longest_s < 2.0


def test_the_caches_of_spellings_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # markets of earlier tests are cycles: collected later, they would be counted here
    gc.collect()
    monkeypatch.setattr(spelling, "ALL_ENTRIES", 2_000)
    monkeypatch.setattr(spelling, "LEAST_ENTRIES", 50)
    monkeypatch.setattr(Spelling, "alive", 0)
    few = [Spelling(short, 2) for _ in range(4)]
    for cache in few:
        for n in range(5_000):
            assert cache(n) == short(n, 2)
    assert sum(map(len, few)) <= 2_000
    many = [Spelling(short, 2) for _ in range(100)]
    for cache in many:
        for n in range(500):
            cache(n)
    assert max(map(len, many)) <= 50
    del few, many, cache
    assert Spelling.alive == 0


@pytest.mark.parametrize(
    ("markets", "expected"),
    [
        (["DOGE/KRW", "BTC/KRW"], ["DOGE/KRW", "BTC/KRW"]),
        # of a pattern, the markets of the index and the default ones
        (
            ["*/KRW"],
            ["DOGE/KRW", "USDT/KRW", "BTC/KRW", "ETH/KRW", "XRP/KRW", "SOL/KRW"],
        ),
        (["ETH/BTC", "BTC/*"], ["ETH/BTC", "BTC/KRW"]),
        ([], None),
    ],
)
def test_the_configured_markets_are_offered(markets: list[str], expected: list[str] | None) -> None:
    settings = Settings()
    settings.index.assets = ["DOGE"]
    settings.exchanges["upbit"].markets = markets
    assert offer(settings).get("upbit") == expected


def test_the_default_markets_are_simulated() -> None:
    assert offer(Settings()) == DEFAULT_MARKETS


@pytest.mark.parametrize("market", ["KRW/USDT", "BTC/BTC", "USDT/USDT"])
def test_impossible_markets_are_named(market: str) -> None:
    settings = Settings()
    settings.exchanges["bithumb"].markets.append(market)
    with pytest.raises(ConfigError, match=f"exchanges.bithumb.markets: .* cannot offer {market}"):
        offer(settings)


def test_every_possible_market_can_be_simulated() -> None:
    markets = ["BTT/KRW", "PEPE/BTC", "USDT/BTC", "BTC/EUR", "USDC/USDT", "A/B", "1000SATS/USDT"]
    for exchange in DEFAULT_MARKETS:
        settings = Settings()
        settings.exchanges[exchange].markets = list(markets)
        engine = Engine(7, offer(settings))
        engine.advance(engine.start_ns + 2_000_000_000)
        for simulated in engine.markets[exchange].values():
            assert simulated.bids.ticks, simulated.symbol
            assert simulated.asks.ticks, simulated.symbol


@pytest.mark.parametrize(
    "frame",
    [
        b'{"ask_size":1.25,"bid_size":3.5}',
        b'{"b":[["100.5","2.25"]],"a":[]}',
        b'{"a":[{"p":"1362","q":"31.5"}],"b":[{"p":"1361","q":"70.25"}]}',
        b'{"asks":[{"price":"1362","qty":"31.5"}],"bids":[]}',
        b'{"changes":[["buy","10101.80","0.162567"]]}',
    ],
)
def test_a_changed_digit_is_in_the_size_of_a_level(frame: bytes) -> None:
    changed = altered(parse("digit:*"), frame)
    different = [at for at, (old, new) in enumerate(zip(frame, changed, strict=True)) if old != new]
    assert len(different) == 1
    # a price and its side stay
    assert re.search(rb'(_size":|"q":"|"qty":"|",")[0-9.]+$', frame[: different[0]])


def test_a_changed_digit_leaves_trades_alone() -> None:
    trade = b'{"price":"1362","qty":"31.5","is_seller_maker":true}'
    assert altered(parse("digit:*"), trade) == trade
