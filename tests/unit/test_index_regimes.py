"""Deviation with memory, regions, FX and its guard, restart: the composite in a crisis."""

from __future__ import annotations

from typing import Any

import pytest

from coinspace.clock import MILLISECOND_NS
from coinspace.index.calculator import Index
from coinspace.index.memory import Memory
from coinspace.method.record import PremiumRecord
from tests.unit.index_books import Record, Run, book, rate_books, reason

UPBIT, BITHUMB, BINANCE = "upbit:BTC/KRW", "bithumb:BTC/KRW", "binance:BTC/USDT"


def test_korea_alone_falls_by_ten_per_cent() -> None:
    run = Run()
    assert run.prices(100_000, 100_000, 100_000).status == "ok"
    record = run.prices(100_000, 90_000, 90_000)
    assert record.split is True
    assert (record.value, record.reason) == (None, "regime_split")
    # no region flags the other one, and both regions have values
    assert record.flagged == []
    assert record.kr == pytest.approx(126_000_000)
    assert record.gl == pytest.approx(100_000)
    assert record.premium == pytest.approx(-0.1)
    # still split between P/2 and P, one market within P/2 of one pair
    assert run.prices(100_000, 95_500, 97_400).reason == "regime_split"
    record = run.prices(100_000, 96_000, 97_600)
    assert record.split is False
    assert record.value is not None


def test_within_a_split_each_region_judges_its_own_venues() -> None:
    run = Run()
    run.prices(100_000, 90_000, 90_000)
    record = run.prices(100_000, 90_000, 80_000)
    assert record.flagged == [BITHUMB, UPBIT]
    # both are suspect and neither can be confirmed: the value is marked unjudged
    assert 80_000 < record.kr / 1400 < 90_000
    assert record.regions["KR"].unjudged is True
    assert record.value is None
    assert record.gl == pytest.approx(100_000)


def test_without_regions_korea_excludes_the_other_venue() -> None:
    run = Run(regions="off")
    record = run.prices(100_000, 90_000, 90_000)
    assert record.flagged == [BINANCE]
    assert record.value == pytest.approx(90_000)


def test_one_korean_venue_alone_rises_by_ten_per_cent() -> None:
    run = Run()
    run.prices(100_000, 100_000, 100_000)
    record = run.prices(100_000, 110_000, 100_000)
    assert record.split is False
    assert record.flagged == [UPBIT]
    assert reason(record, "upbit") == "deviating"
    assert record.value == 100_000
    assert record.status == "degraded"


def test_re_entry_at_half_the_limit() -> None:
    run = Run()
    run.prices(100_000, 106_000, 100_000)
    # the limit that excluded it does not readmit it
    assert run.prices(100_000, 104_000, 100_000).flagged == [UPBIT]
    assert run.prices(100_000, 102_500, 100_000).flagged == [UPBIT]
    assert run.prices(100_000, 102_400, 100_000).flagged == []


def test_exactly_at_the_limit_stays() -> None:
    assert Run().prices(100_000, 105_000, 100_000).flagged == []
    assert Run().prices(100_000, 105_001, 100_000).flagged == [UPBIT]


def test_two_venues_judge_each_other_and_both_are_flagged() -> None:
    run = Run(regions="off")
    record = run.tick(book("upbit", 100.0, fx=1), book("bithumb", 106.0, fx=1))
    assert record.flagged == [BITHUMB, UPBIT]
    assert record.reason == "too_few_venues"
    # all flagged: compared with the nearest other, back within half the limit
    assert run.tick(book("upbit", 100.0, fx=1), book("bithumb", 103.0, fx=1)).flagged
    record = run.tick(book("upbit", 100.0, fx=1), book("bithumb", 102.0, fx=1))
    assert record.flagged == []
    assert record.value is not None


def test_a_lone_flagged_venue_keeps_its_flag() -> None:
    run = Run(regions="off", min_venues=1)
    run.prices(100_000, 110_000, 100_000)
    record = run.tick(book("upbit", 154_000_000, fx=1400))
    assert record.flagged == [UPBIT]
    assert record.reason == "too_few_venues"
    # back at the right price, but no other venue confirms it
    assert run.tick(book("upbit", 140_000_000, fx=1400)).flagged == [UPBIT]
    # an absent venue keeps its flag too, until it is compared with others
    assert run.tick(book("binance", 100_000, fx=1)).flagged == [UPBIT]
    assert run.prices(100_000, 100_000, 100_000).flagged == []


def test_one_unflagged_venue_stays() -> None:
    run = Run(regions="off", min_venues=1)
    run.prices(100_000, 110_000, 100_000)
    record = run.tick(book("binance", 50_000, fx=1), book("upbit", 154_000_000, fx=1400))
    assert record.flagged == [UPBIT]
    assert record.value == 50_000


def test_comparisons_use_the_flags_from_before_the_tick() -> None:
    run = Run(regions="off")
    run.prices(100_000, 110_000, 100_000)
    # both others deviate in this tick: the flagged one is still compared with their median
    record = run.prices(100_000, 103_000, 106_000)
    assert record.flagged == [BINANCE, BITHUMB]


def with_fx(run: Run, upbit: float | None, bithumb: float | None, **line: int) -> Record:
    return run.tick(
        book("binance", 100_000),
        book("upbit", 140_000_000),
        book("bithumb", 140_000_000),
        *rate_books(upbit, bithumb),
        **line,
    )


def test_fx_comes_from_the_books_of_the_line() -> None:
    record = with_fx(Run(), 1400, 1402)
    assert record.fx == pytest.approx(1401, rel=1e-3)
    assert record.fx_status == "ok"
    assert set(record.fx_venues) == {"upbit:USDT/KRW", "bithumb:USDT/KRW"}
    assert record.value_krw == pytest.approx(record.value_raw * record.fx)


def test_the_last_rate_is_kept_for_ten_seconds() -> None:
    run = Run()
    with_fx(run, 1400, 1400)
    for second in range(1, 11):
        record = with_fx(run, None, None, step_ms=1000)
        assert (record.fx_status, record.fx) == ("held", 1400), second
        assert record.status == "degraded"
        assert record.value is not None
    record = with_fx(run, None, None, step_ms=1)
    assert (record.fx_status, record.fx) == ("none", None)
    assert reason(record, "upbit") == reason(record, "bithumb") == "no_fx"
    assert record.reason == "too_few_venues"
    assert record.premium is None
    # the Korean value needs no rate
    assert record.kr == pytest.approx(140_000_000)
    assert with_fx(run, 1400, None).fx_status == "ok"


def test_a_jump_is_suspect_until_both_books_agree_for_two_seconds() -> None:
    run = Run()
    for _ in range(10):
        with_fx(run, 1400, 1400)
    seen = []
    for _ in range(12):
        record = with_fx(run, 1610, 1612)
        seen.append((record.fx_status, record.fx))
    assert seen[:10] == [("suspect", 1400.0)] * 10
    assert seen[10][0] == "ok"
    assert seen[10][1] == pytest.approx(1611, rel=2e-3)
    # the old level is now the jump
    assert with_fx(run, 1400, 1400).fx_status == "suspect"


def test_a_jump_of_one_book_is_never_confirmed() -> None:
    run = Run()
    for _ in range(10):
        with_fx(run, 1400, 1400)
    # two books that differ by more than 1 % flag each other: there is no rate
    for second in range(1, 11):
        assert with_fx(run, 1610, 1400, step_ms=1000).fx_status == "held", second
    assert with_fx(run, 1610, 1400, step_ms=1000).fx_status == "none"
    # alone at the new level: suspect, and the last rate is too old
    for _ in range(30):
        record = with_fx(run, 1610, None)
        assert record.fx is None


def test_a_small_move_of_fx_is_not_a_jump() -> None:
    run = Run()
    rate = 1400.0
    for _ in range(200):
        rate *= 1.001
        assert with_fx(run, rate, rate, step_ms=5000).fx_status == "ok"


def test_premium_parts_agree() -> None:
    record = Run().tick(
        book("binance", 100_000),
        book("upbit", 143_000_000),
        book("bithumb", 143_000_000),
        *rate_books(1400, 1400),
        usd_krw=1380,
    )
    parts = record.premium_parts
    assert parts.b == pytest.approx(143 / 140 - 1)
    assert parts.c == pytest.approx(1400 / 1380 - 1)
    assert (1 + parts.a) == pytest.approx((1 + parts.b) * (1 + parts.c))
    assert Run().prices(1e5, 1e5, 1e5).premium_parts.a is None
    # a rate in the line replaces the configured one
    run = Run(usd_krw=1400)
    assert run.prices(1e5, 1e5, 1e5).premium_parts == PremiumRecord(0.0, 0.0, 0.0)
    assert run.prices(1e5, 1e5, 1e5, usd_krw=1372).premium_parts.a == pytest.approx(7 / 343)


def dollar_book(bid: float, ask: float) -> dict[str, Any]:
    levels = {"bids": [[bid, 5000.0]], "asks": [[ask, 5000.0]]}
    return {"exchange": "coinbase", "market": "USDT/USD", "recv_ms": None} | levels


def test_a_book_of_usdt_in_usd_prices_the_premium_against_usd() -> None:
    run = Run()
    books = (
        book("binance", 100_000),
        book("upbit", 143_000_000),
        book("bithumb", 143_000_000),
        *rate_books(1400, 1400),
    )
    plain = run.tick(*books, usd_krw=1380)
    assert (plain.usdt_usd, plain.usdt_usd_status, plain.value_usd) == (None, "assumed", None)
    assert run.tick(*books).usdt_usd_status is None
    record = run.tick(*books, dollar_book(0.9979, 0.9981), usd_krw=1380)
    parts = record.premium_parts
    assert (record.usdt_usd, record.usdt_usd_status) == (pytest.approx(0.998), "ok")
    assert record.value_usd == pytest.approx(record.value_raw * 0.998)
    assert parts.b == plain.premium_parts.b
    assert parts.a == pytest.approx(143e6 / (100e3 * 0.998 * 1380) - 1)
    assert (1 + parts.a) == pytest.approx((1 + parts.b) * (1 + parts.c))
    venue = record.fx_venues["coinbase:USDT/USD"]
    assert (venue.used, venue.mid) == (True, pytest.approx(0.998))
    assert "coinbase:USDT/USD" in record.inputs
    # a missing rate is held for 10 s; after that there is none, and USDT no longer counts as USD
    held = run.tick(*books, dollar_book(0.9, 0.8), usd_krw=1380, step_ms=9000)
    assert (held.usdt_usd, held.usdt_usd_status) == (record.usdt_usd, "held")
    assert held.fx_venues["coinbase:USDT/USD"].reason == "crossed"
    gone = run.tick(*books, dollar_book(0.9, 0.8), usd_krw=1380, step_ms=2000)
    assert (gone.usdt_usd, gone.usdt_usd_status) == (None, "none")
    assert gone.premium_parts == PremiumRecord(None, plain.premium_parts.b, None)
    # a jump is not believed
    run.tick(*books, dollar_book(0.9979, 0.9981), usd_krw=1380)
    assert run.tick(*books, dollar_book(0.899, 0.901), usd_krw=1380).usdt_usd_status == "suspect"


@pytest.mark.parametrize(
    ("upbit", "bithumb", "world", "known"),
    [
        # trading is halted in Korea, or outside: one side alone is no premium
        ("halted", "halted", "ok", False),
        ("ok", "ok", "halted", False),
        ("halted", "ok", "ok", True),
        # listed on one side only
        (None, None, "ok", False),
        ("ok", "ok", None, False),
    ],
)
def test_a_premium_needs_a_live_book_of_both_sides(
    upbit: str | None, bithumb: str | None, world: str | None, known: bool
) -> None:
    prices = {"upbit": 143e6, "bithumb": 143e6, "binance": 1e5}
    states = {"upbit": upbit, "bithumb": bithumb, "binance": world}
    books = [
        {**book(name, price), "state": states[name]}
        for name, price in prices.items()
        if states[name] is not None
    ]
    record = Run().tick(*books, *rate_books(1400, 1400), usd_krw=1380)
    parts = record.premium_parts
    assert (parts.a is not None, parts.b is not None) == (known, known)
    assert (record.kr is None) == ({upbit, bithumb} <= {"halted", None})
    assert (record.gl is None) == (world != "ok")
    # that of USDT itself needs no coin
    assert parts.c == pytest.approx(1400 / 1380 - 1)


def test_executable_premium_pays_both_fees() -> None:
    free = Run(sizes=[1.0]).prices(100_000, 103_000, 103_000).premium_executable
    paid = Run(sizes=[1.0], taker_fees={"upbit": 0.0005, "bithumb": 0.0005, "binance": 0.001})
    with_fees = paid.prices(100_000, 103_000, 103_000).premium_executable
    kr_bid, gl_ask = 103_000 * 0.9999, 100_000 * 1.0001
    assert free[0].sell_kr == pytest.approx(kr_bid / gl_ask - 1)
    expected = kr_bid * 0.9995 / (gl_ask * 1.001) - 1
    assert with_fees[0].sell_kr == pytest.approx(expected)


def test_liquidity_weighted_prices() -> None:
    record = Run(sizes=[1.0, 6.0, 1000.0]).prices(100_000, 100_000, 100_000)
    one, six, many = record.liquidity
    assert (one.bid, one.ask) == pytest.approx((99_990, 100_010))
    # three units at the best price, three at the next
    assert (six.bid, six.ask) == pytest.approx((99_985, 100_015))
    assert (many.bid, many.ask) == (None, None)


def test_confidence_and_capped_median() -> None:
    record = Run().prices(100_000, 100_000, 103_000)
    # mids 100000, 100000, 103000: the last one is clamped to 0.5 %
    assert record.median_capped == pytest.approx((200_000 + 100_500) / 3)
    # votes sorted: 99990 99990 100000 100000 100010 100010 102989.7 103000 103010.3
    assert record.confidence == pytest.approx(102_989.7 - 100_010)
    assert record.regions["KR"].alarm is False


def test_alarm_when_value_and_capped_median_differ() -> None:
    thin = book("bithumb", 141_400_000, fx=1400)
    thin["bids"] = [[price, 0.001] for price, _ in thin["bids"]]
    thin["asks"] = [[price, 0.001] for price, _ in thin["asks"]]
    deep = book("upbit", 140_000_000, fx=1400)
    record = Run(depth="full").tick(book("binance", 100_000, fx=1), deep, thin)
    korean = record.regions["KR"]
    assert korean.median_capped == pytest.approx(140_700_000, rel=1e-5)
    assert korean.value_raw == pytest.approx(140_000_000, rel=1e-4)
    assert korean.alarm is True


def test_average_needs_nine_tenths_of_a_minute() -> None:
    run = Run()
    values = [run.prices(100_000 + i, 100_000 + i, 100_000 + i, step_ms=1000) for i in range(60)]
    averages = [one.twap for one in values]
    assert averages[:54] == [None] * 54
    assert averages[54] == pytest.approx(100_000 + 53 / 2)
    for _ in range(6):
        assert run.tick(step_ms=1000).twap is not None
    # seven seconds of the minute without a value
    assert run.tick(step_ms=1000).twap is None or run.tick(step_ms=1000).twap is None


def test_restart_with_restored_state() -> None:
    run, twin = Run(), Run()
    prices = [(100_000, 110_000, 100_000)] + [(100_000 + i, 104_000, 100_000) for i in range(70)]
    ticks: list[tuple[int, float | None, float | None, float | None]] = []
    for one in prices:
        record = run.prices(*one, step_ms=1000)
        twin.prices(*one, step_ms=1000)
        ts_ns = record.ts_ms * MILLISECOND_NS
        ticks.append((ts_ns, record.value_raw, record.kr, record.gl))
    restarted = Index("BTC", run.parameters)
    Memory(ticks[-1][0], record.flagged, record.split, None, ticks).give(restarted)
    run.index = restarted
    for i in range(5):
        again = run.prices(100_000 + i, 103_000, 100_000, step_ms=1000)
        assert again == twin.prices(100_000 + i, 103_000, 100_000, step_ms=1000)
        assert again.flagged == [UPBIT]
        assert again.twap is not None
    # without the memory, the flagged venue would count at once
    forgotten = Run()
    assert forgotten.prices(100_000, 103_000, 100_000).flagged == []


@pytest.mark.parametrize(("bid", "ask", "value"), [(99, 102, 100), (100, 103, 102), (97, 100, 98)])
def test_values_are_rounded_half_to_even(bid: float, ask: float, value: float) -> None:
    run = Run(regions="off")
    run.parameters.max_spread, run.parameters.decimals = 0.02, 0
    run.index = Index("BTC", run.parameters)
    sides = {"bids": [[bid, 1]], "asks": [[ask, 1]]}
    record = run.tick(*({**book(name, 1, fx=1), **sides} for name in ("binance", "upbit")))
    assert (record.value_raw, record.value) == ((bid + ask) / 2, value)


def test_a_value_of_suspect_venues_is_marked_and_never_in_the_composite() -> None:
    run = Run()
    run.prices(100_000, 100_000, 100_000)
    # flagged by the others, then alone in its region without a comparison
    assert run.prices(100_000, 106_000, 100_000).regions["KR"].unjudged is False
    record = run.tick(book("binance", 100_000, fx=1), book("upbit", 145_600_000, fx=1400))
    assert record.flagged == [UPBIT]
    assert record.kr == pytest.approx(145_600_000)
    assert record.regions["KR"].unjudged is record.premium_unjudged is True
    assert (record.value, record.reason) == (None, "too_few_venues")
    # no rate was confirmed: the premium is marked, and no price is converted
    run = Run()
    for _ in range(60):
        record = with_fx(run, 1400, 1430)
    assert (record.fx, record.fx_status) == (None, "none")
    assert 1400 < record.fx_doubted < 1430
    assert record.premium == pytest.approx(1400 / record.fx_doubted - 1)
    assert record.premium_unjudged is True
    assert record.venues[UPBIT].mid is None
    assert record.premium_executable == []
    record = with_fx(run, 1400, 1401)
    assert (record.fx_doubted, record.premium_unjudged) == (None, False)
