"""A crisis modelled on Korea, 2024-12-03: won prices fall by a third, venues stall.

Once second by second with the books made here, and once as recordings of the simulated exchanges,
played through collectors, aggregator and calculator.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coinspace.config import Settings
from coinspace.market import Market
from coinspace.recompute.feeds import from_feeds
from coinspace.simulator.markets.scenario import CRISIS
from coinspace.simulator.simulated_feed import write_feeds
from tests.unit.index_books import Run, book

SECONDS = 1260
WON, DOLLAR, RATE = Market("BTC", "KRW"), Market("BTC", "USDT"), Market("USDT", "KRW")
# (exchange or rate, first second, last second) of its silence
STALLS = (("bithumb", 330, 350), ("upbit", 375, 405), ("bithumb", 430, 460), ("fx", 620, 626))
# scenario seconds per second: its longest stalls still exceed the 10 s of a delayed book
COMPRESS = 2


def silent(name: str, second: int) -> bool:
    return any(name == who and since <= second < until for who, since, until in STALLS)


@pytest.fixture(scope="module")
def records() -> list[Any]:
    run = Run()
    found, last = [], dict[str, dict[str, Any]]()
    for second in range(SECONDS):
        now_ms = run.now_ms + 1000
        wiggle = 1 + 1e-6 * (second % 7)
        fresh = {
            "binance": book("binance", 86_500 * CRISIS.factor("binance", DOLLAR, second) * wiggle)
        }
        for name in ("upbit", "bithumb"):
            won = 116_500_000 * CRISIS.factor(name, WON, second) * wiggle
            fresh[name] = book(name, won)
            rate = 1345 * CRISIS.factor(name, RATE, second) * wiggle
            if not silent("fx", second):
                fresh[f"{name}-rate"] = book(name, rate, market="USDT/KRW")
        for name, one in fresh.items():
            # a silent exchange sends no USDT/KRW book either
            if not silent(name.removesuffix("-rate"), second):
                last[name] = {**one, "recv_ms": now_ms}
        books = [one for name, one in last.items() if name in fresh]
        found.append(run.tick(*books, step_ms=1000))
    return found


def test_the_korean_value_and_the_premium_continue(records: list[Any]) -> None:
    assert all(one.kr is not None for one in records)
    assert all(one.gl is not None for one in records)
    assert all(one.premium is not None for one in records)
    assert min(one.premium for one in records) < -0.15
    assert min(one.kr for one in records) < 0.75 * 116_500_000


def test_no_wrong_composite_is_published(records: list[Any]) -> None:
    for one in records:
        if one.value is not None:
            low, high = sorted((one.gl, one.kr / one.fx))
            assert low * 0.999 <= one.value <= high * 1.001
            assert abs(one.premium) < 0.06
        else:
            assert one.reason == "regime_split"
    # calm before and after, a split in between
    assert records[30].status == records[-1].status == "ok"
    assert sum(one.split for one in records) > 300


def test_stalls_are_detected_and_the_last_rate_is_kept(records: list[Any]) -> None:
    reasons = {(name, venue.reason) for one in records for name, venue in one.venues.items()}
    assert ("upbit:BTC/KRW", "delayed") in reasons
    assert ("bithumb:BTC/KRW", "delayed") in reasons
    assert {"ok", "held", "suspect", "none"} == {one.fx_status for one in records}
    # no rate: nothing is converted, and a premium is marked unjudged
    for one in records:
        if one.fx is None:
            assert {venue.mid for name, venue in one.venues.items() if "KRW" in name} == {None}
            assert one.value is None
            assert one.premium_unjudged is True
            assert one.fx_doubted is not None


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("crisis")
    markets = {
        "upbit": ["BTC/KRW", "USDT/KRW"],
        "bithumb": ["BTC/KRW", "USDT/KRW"],
        "binance": ["BTC/USDT"],
    }
    feeds = write_feeds(
        folder / "crisis.feed.zst",
        5,
        {name: [str(Market.parse(text)) for text in found] for name, found in markets.items()},
        duration_s=SECONDS / COMPRESS,
        rate=0.1,
        scenario=replace(CRISIS, compress=COMPRESS),
    )
    paths = tuple(Path(one["path"]) for one in feeds)
    settings = Settings(data=folder)
    settings.index.interval_ms = 500
    found: list[Any] = []
    from_feeds(
        paths, settings, settings.index.parameters_of, lambda record, _: found.append(record)
    )
    return found


def test_the_korean_value_continues_from_recordings_too(played: list[Any]) -> None:
    assert len(played) > 2 * SECONDS / COMPRESS - 5
    # the first tick comes before the first books, Binance's snapshot a quarter of a second later
    alive = played[2:]
    assert [one.ts_ms for one in alive if one.kr is None] == []
    assert [one.ts_ms for one in alive if one.premium is None] == []
    assert min(one.premium for one in alive) < -0.15
    assert any(venue.reason == "delayed" for one in alive for venue in one.venues.values())
    for one in alive:
        if one.value is not None:
            low, high = sorted((one.gl, one.kr / one.fx))
            assert low * 0.999 <= one.value <= high * 1.001
    assert sum(one.split for one in alive) > 300
    # only values that could not be judged are marked
    marked = [one for one in alive if one.regions["KR"].unjudged]
    assert marked
    for one in alive:
        korean = {name for name in one.venues if "KRW" in name}
        clean = any(one.venues[name].reason in (None, "no_fx") for name in korean)
        if one.regions["KR"].unjudged:
            assert not any(one.venues[name].used for name in korean)
        else:
            assert clean
