"""The premiums of the endpoint: coins that are not the same, ranks, trades, the live channel."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace._ext.message import AGGREGATE, FACT, INDEX
from coinspace.aggregator.consolidate import Consolidator
from coinspace.aggregator.venue import Venue
from coinspace.client import merged_premiums
from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import load
from coinspace.endpoint.http.api import encode
from coinspace.endpoint.live import premium as module
from coinspace.endpoint.live import premium_stats
from coinspace.endpoint.live.feeder import Feeder
from coinspace.endpoint.live.hub import Channel, Client
from coinspace.endpoint.live.premium import TRADE_NS
from coinspace.endpoint.live.premium_stats import Series
from coinspace.endpoint.live.premium_trades import BookSide, left, nothing_left
from coinspace.endpoint.models import PremiumTrade, PremiumVenue, RankedPremium
from coinspace.endpoint.routes.premium import PremiumsQuery, ranked
from coinspace.errors import ConfigError, DatabaseUnavailable
from coinspace.exchanges.facts import Facts, Notice, encode_facts
from coinspace.market import Market
from coinspace.method.aggregate import FxFacts
from coinspace.method.aggregate import encode as encode_aggregate
from coinspace.storage.read import history
from tests.unit.test_endpoint_age import RECORD, Desk

RATE = 1400.0
ASSETS = ["BTC", "ABC", "DEF", "TOKAMAK"]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    found = Desk(monkeypatch)
    monkeypatch.setattr(module, "monotonic_ns", lambda: found.monotonic_ns)
    found.settings.index.assets = list(ASSETS)
    found.context.premiums = module.PremiumTable(found.live, found.settings, lambda: found.wall_ns)
    return found


def send(
    desk: Desk, asset: str, coin: float | None, fiat: float | None = None, usdt: Any = None
) -> None:
    shares = {"KR": {f"upbit:{asset}/KRW": 1.0, f"bithumb:{asset}/KRW": 0.0}}
    shares["GL"] = {f"binance:{asset}/USDT": 1.0}
    record = {
        **RECORD,
        "asset": asset,
        "ts_ms": desk.wall_ns // MILLISECOND_NS,
        "fx": RATE,
        "kr": 1.0,
        "regions": {
            region: {"currency": "KRW", "value": 2.0, "shares": one}
            for region, one in shares.items()
        },
        "venues": {
            f"upbit:{asset}/KRW": {"used": True},
            f"bithumb:{asset}/KRW": {"used": False, "reason": "deviating"},
        },
        "premium_parts": {"a": fiat, "b": coin, "c": usdt},
    }
    desk.send(f"index.{asset}.", INDEX, orjson.dumps(record))


def send_books(desk: Desk, asset: str, prices: dict[str, float], size: float = 1.0) -> None:
    """Send a summed book: a level a side and venue, in USDT, the ask 0.1 % above the bid."""
    venues = []
    for name, price in sorted(prices.items()):
        exchange, _, pair = name.partition(":")
        rate = RATE if pair.endswith("KRW") else 1.0
        venue = Venue(exchange, Market.parse(pair), state="synced")
        bids, asks = ([[one * rate], [size]] for one in (price, price * 1.001))
        venue.on_book(np.array(bids), np.array(asks), desk.wall_ns - 30 * MILLISECOND_NS)
        venues.append(venue)
    fx = FxFacts(rate=RATE, status="ok")
    found = Consolidator(asset).consolidate(desk.wall_ns, venues, fx, 10 * SECOND_NS)
    desk.send(f"aggregate.{asset}.", AGGREGATE, encode_aggregate(found)[0])


@pytest.mark.parametrize(
    ("asset", "premium", "expected"),
    [
        ("ABC", 0.5, "assumed"),
        ("ABC", 0.5001, "questioned"),
        ("ABC", -1 / 3 + 1e-4, "assumed"),
        ("ABC", -0.334, "questioned"),
        ("ABC", 1e9, "questioned"),
        ("ABC", -1.0, "questioned"),
        # the registry says what this name means, everybody knows this coin
        ("TOKAMAK", 2.0, "known"),
        ("BTC", 2.0, "known"),
    ],
)
def test_not_the_same_coin(desk: Desk, asset: str, premium: float, expected: str) -> None:
    for bases in ((premium, None), (None, premium)):
        send(desk, asset, *bases)
        latest = desk.context.premiums.latest(asset)
        assert latest is not None
        assert module.same_coin(asset, latest) == expected


def test_a_questioned_coin_has_no_rank_and_comes_last(desk: Desk) -> None:
    for asset, coin, fiat in (
        ("BTC", 0.01, None),
        ("ABC", 7.0, 7.1),
        ("DEF", -0.02, 0.03),
        ("TOKAMAK", None, 0.02),
    ):
        send(desk, asset, coin, fiat)
    table = desk.context.premiums

    def order(**given: Any) -> list[tuple[str, int | None]]:
        found = [
            table.summary(cast(Any, table.latest(asset)), RankedPremium, rank=None)
            for asset in ASSETS
        ]
        return [(one.asset, one.rank) for one in ranked(found, PremiumsQuery(**given))]

    assert order() == [("BTC", 1), ("DEF", 2), ("TOKAMAK", None), ("ABC", None)]
    assert order(order="asc") == [("DEF", 1), ("BTC", 2), ("TOKAMAK", None), ("ABC", None)]
    assert order(basis="fiat") == [("DEF", 1), ("TOKAMAK", 2), ("BTC", None), ("ABC", None)]
    assert order(sort="asset", order="desc") == [
        ("TOKAMAK", 1), ("DEF", 2), ("BTC", 3), ("ABC", None),
    ]  # fmt: skip
    assert order(sort="percentile", window="90d", basis="fiat", limit=1) == [("DEF", 1)]
    # nothing is known of an hour ago
    assert {rank for _, rank in order(sort="change_1h")} == {None}
    assert len(order(sort="age")) == 4


async def test_what_may_be_two_coins_is_no_sample(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One exchange makes a thousand units of one at midnight, the other one an hour later."""
    send(desk, "ABC", 0.01, 0.02)
    desk.pass_time(1)
    send(desk, "ABC", 1009.0, 1019.0)
    answer = desk.context.premiums.stats.of("ABC")["fiat"].all()
    assert answer.premium is None
    assert {one.samples for one in answer.windows} == {0}
    desk.pass_time(3600)
    send(desk, "ABC", 0.011, 0.021)

    async def stored(_: Any, asset: str, step_ms: int, start_ms: int, end_ms: int) -> Any:
        now = desk.wall_ns // MILLISECOND_NS // step_ms
        return [
            {"ns": (now - back) * step_ms * MILLISECOND_NS, "coin": coin, "fiat": fiat, "usdt": 9.0}
            for back, coin, fiat in ((3, 0.01, 0.02), (2, 1009.0, 1019.0), (1, None, 1019.0))
        ]

    monkeypatch.setattr(history, "premium_samples", stored)
    await desk.context.premiums.stats.load(cast(Any, None))
    for basis, high in (("coin", 0.011), ("fiat", 0.021)):
        found = desk.context.premiums.stats.of("ABC")[cast(Any, basis)].statistics("90d")
        assert (found.samples, found.high, found.percentile) == (2, high, 1.0)
    # a coin that everybody knows, and USDT, have all their samples
    assert desk.context.premiums.stats.of("BTC")["coin"].statistics("90d").samples == 2
    assert desk.context.premiums.stats.of("USDT")["fiat"].statistics("90d").high == 9.0


def test_changes_and_the_curve_of_a_day() -> None:
    series = Series()
    start_ms = 1_790_000_000_000 // 1_800_000 * 1_800_000
    for minute in range(25 * 60):
        series.add(start_ms + minute * 60_000, minute / 1e5)
    assert series.changes() == ("0.00001", "0.00005", "0.0006", "0.0144")
    # each half hour has 30 minutes; the last premium of the running one is the newest
    curve = series.curve()
    assert len(curve) == 48
    assert curve[-1] == pytest.approx(1499 / 1e5)
    assert curve[0] == pytest.approx((1499 - 47 * 30) / 1e5)
    assert series.moves().percentile_24h == "1"
    assert Series().curve() == [None] * 48


def test_as_high_is_the_minute_of_this_day_or_else_the_hour() -> None:
    series = Series()
    start_ms = 1_790_000_000_000 // 3_600_000 * 3_600_000
    premiums = {0: 0.05, 30 * 60: 0.01, 60 * 60: 0.03, 60 * 60 + 5: 0.03, 61 * 60: 0.02}
    for minute, premium in premiums.items():
        series.add(start_ms + minute * 60_000, premium)
    found = series.all()
    assert found.as_high_ts == start_ms + (60 * 60 + 5) * 60_000
    assert found.as_low_ts == start_ms + 30 * 3_600_000
    series.add(start_ms + 62 * 3_600_000, 0.04)
    assert series.all().as_high_ts == start_ms
    series.add(start_ms + 63 * 3_600_000, 0.06)
    assert series.all().as_high_ts is None
    # no premium now: what was stays known, its place does not
    series.add(start_ms + 64 * 3_600_000, None)
    found = series.all()
    assert (found.premium, found.as_low_ts, found.change_24h) == (None, None, None)
    assert found.windows[-1].samples == 6
    assert found.windows[-1].percentile is None


def test_after_ninety_days_without_rows_a_premium_begins_anew() -> None:
    series = Series()
    day_ms = 24 * 3_600_000
    start_ms = 1_790_000_000_000 // day_ms * day_ms
    series.add(start_ms, 0.05)
    series.add(start_ms + day_ms, 0.01)
    # the oldest hour is still one of the newest 90 days
    series.add(start_ms + 90 * day_ms - 1, 0.02)
    window = series.statistics("90d")
    assert (window.samples, window.high, window.low) == (3, 0.05, 0.01)
    assert series.all().as_high_ts == start_ms
    series.add(start_ms + 90 * day_ms, 0.02)
    assert series.statistics("90d").high == 0.02
    assert series.all().as_high_ts == start_ms + 90 * day_ms - 60_000
    for basis in (series, Series()):
        # nothing from before is left, and what a database still had is as old
        last_ms = start_ms + 181 * day_ms
        basis.add(last_ms, 0.03)
        for samples in basis.sampled:
            old = (last_ms - 91 * day_ms) // samples.step_ms
            samples.fill({old: 9_000_000, old - 1: -9_000_000})
        found = basis.all()
        assert [one.samples for one in found.windows] == [1] * 5
        assert [one.percentile for one in found.windows] == ["1"] * 5
        assert (found.as_high_ts, found.as_low_ts, found.change_24h) == (None, None, None)


async def test_stored_premiums_wait_for_the_database_and_leave_live_ones(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(desk, "BTC", 0.01, 0.02, 0.0099)
    asked: list[tuple[str, int, int]] = []

    async def stored(_: Any, asset: str, step_ms: int, start_ms: int, end_ms: int) -> Any:
        asked.append((asset, step_ms, (end_ms - start_ms) // step_ms))
        if len(asked) < 3:
            raise DatabaseUnavailable("not yet")
        now = desk.wall_ns // MILLISECOND_NS // step_ms
        # the running step has a live premium, a clock that was wrong stored one of the future
        return [
            {"ns": (now + back) * step_ms * MILLISECOND_NS, "coin": coin, "fiat": None, "usdt": 0.5}
            for back, coin in ((-2, 0.03), (-1, None), (0, 0.9), (1, 0.9))
        ]

    monkeypatch.setattr(history, "premium_samples", stored)
    monkeypatch.setattr(premium_stats, "RETRY_S", 0)
    await desk.context.premiums.stats.load(cast(Any, None))
    # bounded questions: three of each asset, and those that failed
    assert len(asked) == 3 * len(ASSETS) + 2
    assert asked[2:5] == [("BTC", 5000, 62), ("BTC", 60_000, 1441), ("BTC", 3_600_000, 2161)]
    bases = desk.context.premiums.stats.of("BTC")
    for window in ("1h", "90d"):
        found = bases["coin"].statistics(cast(Any, window))
        assert (found.samples, found.high, found.low, found.percentile) == (2, 0.03, 0.01, 0.5)
        assert bases["fiat"].statistics(cast(Any, window)).samples == 1
    # the premium of USDT is that of the first asset's records
    usdt = desk.context.premiums.stats.of("USDT")["fiat"].statistics("24h")
    assert (usdt.samples, usdt.high, usdt.low) == (3, 0.5, 0.0099)


class Views:
    """A database whose views of the premium are younger than those of the index."""

    FIRST_NS = 1_790_000_000 // 3600 * 3600 * SECOND_NS

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def rows(self, sql: str, values: tuple[str, int, int]) -> list[dict[str, Any]]:
        self.asked.append(sql)
        _, start_ns, end_ns = values
        names = ("coin", "fiat", "usdt", "open", "close")
        premium = "premium_" in sql.partition("WHERE")[0].partition("FROM")[2]
        row = dict.fromkeys(names, 0.02) if premium else {"premium": 0.01, "ticks": 9}
        times = [self.FIRST_NS + (0 if premium else -3600) * SECOND_NS]
        return [{**row, "ns": ns} for ns in times if start_ns <= ns < end_ns]


async def test_before_the_views_of_the_premium_those_of_the_index_are_read() -> None:
    views: Any = Views()
    first_ms = Views.FIRST_NS // MILLISECOND_NS
    day_ms = 86_400_000
    found = await history.premium_samples(
        views, "BTC", 3_600_000, first_ms - day_ms, first_ms + day_ms
    )
    assert [(one["coin"], one["fiat"]) for one in found] == [(0.01, None), (0.02, 0.02)]
    span = ((first_ms - day_ms) * MILLISECOND_NS, (first_ms + day_ms) * MILLISECOND_NS)
    found = await history.premium_candles(views, "BTC", "coin", "1h", *span)
    assert [(one["open"], one["close"]) for one in found] == [(None, 0.01), (0.02, 0.02)]
    found = await history.premium_candles(views, "BTC", "fiat", "1h", *span)
    assert len(found) == 1
    # a range that the views cover needs one question
    views.asked.clear()
    await history.premium_candles(views, "BTC", "coin", "1h", Views.FIRST_NS, span[1])
    assert len(views.asked) == 1


def test_trades_take_the_best_pair_after_fees(desk: Desk) -> None:
    desk.settings.endpoint.trade_sizes = [1e6, 1e7, 1e12]
    prices = {"upbit:ABC/KRW": 102.0, "bithumb:ABC/KRW": 102.1, "binance:ABC/USDT": 100.0}
    send_books(desk, "ABC", prices, size=1000.0)
    send(desk, "ABC", 0.02, 0.04, 0.02)
    latest = desk.live.indices["ABC"]
    found = desk.context.premiums.value(latest).trades
    assert found is not None
    sell_kr, buy_kr = found.directions
    fees = desk.settings.endpoint.taker_fees
    expected = {
        name: prices[name] * (1 - fees[name.partition(":")[0]]) / (100.1 * (1 + fees["binance"]))
        for name in prices
    }
    # bithumb pays more, upbit takes less
    assert sell_kr.sizes[0].buy == "binance:ABC/USDT"
    assert sell_kr.sizes[0].sell == "upbit:ABC/KRW"
    coin = expected["upbit:ABC/KRW"] - 1
    assert float(sell_kr.sizes[1].coin or 0) == pytest.approx(coin, abs=1e-8)
    assert float(sell_kr.sizes[1].fiat or 0) == pytest.approx((1 + coin) * 1.02 - 1, abs=1e-8)
    assert float(sell_kr.sizes[1].left_krw or 0) == pytest.approx(coin * 1e7, abs=1)
    assert (sell_kr.sizes[2].buy, sell_kr.sizes[2].coin) == (None, None)
    # every size that the books have leaves something
    assert sell_kr.book_end
    assert sell_kr.buy == "binance:ABC/USDT"
    money = 1000 * 100.1 * (1 + fees["binance"]) * RATE
    assert float(sell_kr.none_left_krw) == pytest.approx(money, rel=1e-9)
    loss = 100 * (1 - fees["binance"]) / (102 * 1.001 * (1 + fees["upbit"]))
    assert float(buy_kr.sizes[0].coin or 0) == pytest.approx(loss - 1, abs=1e-8)
    assert float(buy_kr.sizes[0].fiat or 0) == pytest.approx(loss / 1.02 - 1, abs=1e-8)
    assert (buy_kr.none_left_krw, buy_kr.book_end, buy_kr.buy) == ("0", False, None)
    # the names of what may be two coins are not traded against each other
    send(desk, "ABC", 0.6)
    questioned = desk.context.premiums.value(desk.live.indices["ABC"])
    assert (questioned.trade, questioned.trades) == (None, None)
    by_name = {one.venue: one for one in found.venues}
    assert by_name["bithumb:ABC/KRW"].suspect == "deviating"
    assert by_name["upbit:ABC/KRW"].suspect is None
    assert by_name["upbit:ABC/KRW"].age_ms == 30
    assert by_name["upbit:ABC/KRW"].wallet == by_name["upbit:ABC/KRW"].caution == "unknown"
    assert found.fees["binance"] == "0.001"


def test_wallets_and_warnings_beside_what_is_left_until_they_are_old(desk: Desk) -> None:
    for name, market in (("upbit", "*/KRW"), ("bithumb", "*/KRW"), ("binance", "*/USDT")):
        desk.settings.exchanges[name].markets.append(market)
    said = {
        "upbit:ABC/KRW": Facts(
            warning="caution", flags=("GLOBAL_PRICE_DIFFERENCES",), delisting="2027-01-05"
        ),
        "bithumb:ABC/KRW": Facts(
            deposit="open",
            withdraw="closed",
            warning="none",
            notices=(Notice(1, "a", "ABC", "https://example.com"),),
        ),
        "binance:ABC/USDT": Facts(trading="open"),
    }
    prices = {"upbit:ABC/KRW": 102.0, "bithumb:ABC/KRW": 101.0, "binance:ABC/USDT": 100.0}
    latest = {}

    def say(**changed: Facts) -> None:
        for venue, facts in {**said, **changed}.items():
            exchange, _, market = venue.partition(":")
            payload = encode_facts(facts)
            desk.send(f"fact.{exchange}.{market}.", FACT, payload, received_ns=desk.wall_ns)

    def shown() -> tuple[PremiumTrade, dict[str, PremiumVenue]]:
        send(desk, "ABC", 0.01)
        send_books(desk, "ABC", prices, 1000.0)
        latest["ABC"] = desk.live.indices["ABC"]
        found = desk.context.premiums.value(latest["ABC"])
        assert found.trade is not None
        assert found.trades is not None
        return found.trade, {one.venue: one for one in found.trades.venues}

    say()
    trade, venues = shown()
    # the exchange that is bought from says nothing of its wallets
    assert (trade.buy, trade.sell, trade.transfer) == (
        *("binance:ABC/USDT", "upbit:ABC/KRW"),
        "unknown",
    )
    assert trade.cautions == ["upbit:ABC/KRW GLOBAL_PRICE_DIFFERENCES"]
    upbit, bithumb, binance = (venues[name] for name in prices)
    assert (upbit.wallet, upbit.caution, upbit.trading) == ("unknown", "caution", "unknown")
    assert (bithumb.wallet, bithumb.deposit, bithumb.withdraw) == ("closed", "open", "closed")
    assert (bithumb.caution, binance.caution, binance.trading) == ("none", "unknown", "open")
    assert (upbit.delisting, upbit.notices) == ("2027-01-05", None)
    assert bithumb.notices is not None
    assert [one.title for one in bithumb.notices] == ["ABC"]
    # one closed side is enough
    say(**{"upbit:ABC/KRW": Facts(deposit="closed")})
    trade, _ = shown()
    assert (trade.transfer, trade.cautions) == ("closed", [])
    say(**{"upbit:ABC/KRW": Facts(deposit="open"), "binance:ABC/USDT": Facts(withdraw="open")})
    assert shown()[0].transfer == "open"
    premium = desk.context.premiums.summary(latest["ABC"]).premium
    # none of it changes a price; without messages for five minutes nothing is known
    desk.pass_time(299)
    assert shown()[0].transfer == "open"
    desk.pass_time(2)
    trade, venues = shown()
    assert desk.context.premiums.summary(latest["ABC"]).premium == premium
    assert (trade.transfer, trade.cautions) == ("unknown", [])
    assert {(one.wallet, one.caution, one.trading) for one in venues.values()} == {("unknown",) * 3}


@pytest.mark.parametrize(
    "prices",
    [
        {},
        {"upbit:ABC/KRW": 100.0},
        {"binance:ABC/USDT": 1e-9},
        {"upbit:ABC/KRW": 1e-9, "binance:ABC/USDT": 1e-9},
        {"upbit:ABC/KRW": 1e12, "binance:ABC/USDT": 1e-9},
    ],
)
def test_trades_of_one_side_and_of_extreme_prices(desk: Desk, prices: dict[str, float]) -> None:
    send(desk, "ABC", 0.01)
    latest = desk.live.indices["ABC"]
    assert desk.context.premiums.value(latest).trades is None
    send_books(desk, "ABC", prices)
    found = desk.context.premiums.value(latest).trades
    assert found is not None
    answer = orjson.loads(encode(found))
    assert [one["direction"] for one in answer["directions"]] == ["sell_kr", "buy_kr"]
    if len(prices) < 2:
        assert all(size["coin"] is None for one in answer["directions"] for size in one["sizes"])


LEVELS = st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(1e-3, 10.0)), min_size=1, max_size=8)


@given(LEVELS, LEVELS, st.floats(1e-6, 200.0))
def test_what_is_left_equals_a_walk_through_the_levels(
    asks: list[tuple[float, float]], bids: list[tuple[float, float]], money: float
) -> None:
    asks.sort()
    bids.sort(reverse=True)

    def book(levels: list[tuple[float, float]]) -> BookSide:
        prices, sizes = np.array(levels).T
        zero = np.zeros(1)
        return BookSide(
            np.concatenate((zero, np.cumsum(sizes))),
            np.concatenate((zero, np.cumsum(sizes * prices))),
        )

    def walked(spent: float) -> float | None:
        amount, rest = 0.0, spent
        for price, size in asks:
            taken = min(size, rest / price)
            amount, rest = amount + taken, rest - taken * price
        if rest > 1e-9 * spent:
            return None
        gained = 0.0
        for price, size in bids:
            sold = min(size, amount)
            amount, gained = amount - sold, gained + sold * price
        return None if amount > 1e-9 else gained

    bought, sold = book(asks), book(bids)
    found, expected = left(bought, sold, money), walked(money)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected / money - 1, rel=1e-6, abs=1e-6)
    size, ended = nothing_left(bought, sold)
    if size == 0:
        assert bids[0][0] <= asks[0][0] * (1 + 1e-12)
    elif ended:
        # the rounding of the last level decides whether it is still in the books
        last = walked(size * (1 - 1e-9))
        assert last is not None
        assert last >= size * (1 - 1e-6)
    else:
        at = walked(size)
        assert at is not None
        assert at == pytest.approx(size, rel=1e-6)


def test_trades_of_lists_are_made_while_they_are_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = desk.context.premiums
    for asset in ASSETS:
        send(desk, asset, 0.02)
        prices = {f"upbit:{asset}/KRW": 102.0, f"binance:{asset}/USDT": 100.0}
        send_books(desk, asset, prices, size=1000.0)
    latest = desk.live.indices["ABC"]
    assert table.make_trades(10) == 0
    assert table.summary(latest).trade is None
    monkeypatch.setattr(module, "FIRST_TRADES", 1)
    table.asked()
    table.asked()
    assert len(table._trades) == 1
    assert table.make_trades(2) == 2
    assert table.make_trades(2) == 1
    assert table.make_trades(2) == 0
    trade = table.summary(latest).trade
    assert trade.direction == "sell_kr"
    assert (trade.buy, trade.sell) == ("binance:ABC/USDT", "upbit:ABC/KRW")
    assert trade.size_krw == "10000000"
    desk.pass_time(TRADE_NS / SECOND_NS)
    assert table.make_trades(10) == 4
    desk.pass_time(100)
    assert table.make_trades(10) == 0
    assert table.summary(latest).trade is None


def test_changes_applied_to_a_snapshot_are_the_next_snapshot(desk: Desk) -> None:
    table = desk.context.premiums
    for asset in ("BTC", "ABC"):
        send(desk, asset, 0.01, 0.02, 0.0099)
    known = merged_premiums({}, orjson.loads(table.snapshot()))
    # made once for all clients that join before the next event
    assert table.snapshot() is table.snapshot()
    assert set(known) == {"BTC", "ABC"}
    assert set(known["BTC"]) == set(msgspec.structs.asdict(table._sent["BTC"][1]))  # type: ignore[index]
    premiums: list[tuple[str, float | None, float | None]] = [
        ("BTC", 0.011, 0.02), ("BTC", 0.011, None), ("ABC", None, None), ("DEF", 0.7, None),
        ("ABC", 0.01, 0.03), ("TOKAMAK", -0.01, 0.0),
    ]  # fmt: skip
    for asset, coin, fiat in premiums:
        desk.pass_time(61)
        send(desk, asset, coin, fiat, 0.0099)
        send_books(desk, asset, {f"upbit:{asset}/KRW": 102.0, f"binance:{asset}/USDT": 100.0}, 1e3)
        table.make_trades(10)
        data = table.delta()
        assert data is not None
        event = orjson.loads(data)
        assert not event["full"]
        known = merged_premiums(known, event)
        whole = orjson.loads(table.snapshot())
        assert whole["full"]
        assert known == merged_premiums({}, whole)
    # only what has changed is sent
    assert table.delta() is None
    send(desk, "BTC", 0.011, None, 0.0099)
    table.delta()
    desk.pass_time(1)
    send(desk, "BTC", 0.011, None, 0.0099)
    (row,) = orjson.loads(table.delta() or b"")["premiums"]
    assert set(row) <= {"asset", "ts", "stats"}


class Socket:
    """A connection whose socket is full on demand."""

    finished = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.transport = self
        self.client_stream: Any = None

    def write(self, data: bytes) -> None:
        self.sent.append(data)


async def test_a_slow_client_gets_all_premiums_and_not_some_of_the_changes(desk: Desk) -> None:
    feeder, hub, table = Feeder(desk.context), desk.context.hub, desk.context.premiums
    send(desk, "BTC", 0.01)
    socket: Any = Socket()
    client: Client = hub.join(socket, "sse", {"premiums"})
    known = merged_premiums({}, orjson.loads(table.snapshot()))
    for number in range(4):
        desk.pass_time(1)
        if number == 1:
            client.pause()
        if number == 3:
            client.resume()
        send(desk, "BTC", 0.01 + number / 1000)
        # the first change after a pause is not in the last event
        if number < 2:
            send(desk, "ABC", 0.02 + number / 1000)
        feeder._premiums()
    events = [
        orjson.loads(frame.partition(b"data: ")[2].partition(b"\n")[0]) for frame in socket.sent
    ]
    assert [event["full"] for event in events] == [False, True, False]
    for event in events:
        known = merged_premiums(known, event)
    assert known == merged_premiums({}, orjson.loads(table.snapshot()))
    assert known["ABC"]["coin"] == "0.021"


async def test_without_clients_the_channel_forgets_what_it_has_sent(desk: Desk) -> None:
    feeder, hub = Feeder(desk.context), desk.context.hub
    send(desk, "BTC", 0.01)
    hub.channels["premiums"] = Channel(1)
    feeder._premiums()
    assert hub.events == 1
    del hub.channels["premiums"]
    feeder._premiums()
    assert desk.context.premiums._sent is None


def test_fees_are_the_public_ones_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_ENDPOINT__TAKER_FEES", '{"upbit": 0.0004}')
    fees = load().endpoint.taker_fees
    assert fees["upbit"] == 0.0004
    assert fees["binance"] == 0.001
    monkeypatch.setenv("COINSPACE_ENDPOINT__TAKER_FEES", '{"upbitt": 0.0004}')
    with pytest.raises(ConfigError, match=r"endpoint\.taker_fees.*upbit"):
        load()
