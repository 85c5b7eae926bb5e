"""A crisis shaped on Korea, 2024-12-03: won prices fall by a third, venues stall."""

from __future__ import annotations

from typing import Any

import pytest

from coinspace.feed.simulator.scenario import CRISIS
from coinspace.market import Market
from tests.unit.index_books import Run, book

SECONDS = 1260
WON, DOLLAR, RATE = Market("BTC", "KRW"), Market("BTC", "USDT"), Market("USDT", "KRW")
# (venue, first second, last second) without a word from it
STALLS = (("bithumb", 330, 350), ("upbit", 375, 405), ("bithumb", 430, 460), ("fx", 620, 626))


def silent(name: str, second: int) -> bool:
    return any(name == who and since <= second < until for who, since, until in STALLS)


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
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
            if not silent(name, second):
                last[name] = {**one, "recv_ms": now_ms}
        books = [one for name, one in last.items() if name in fresh]
        found.append(run.tick(*books, step_ms=1000))
    return found


def test_the_korean_value_and_the_premium_stay_alive(records: list[dict[str, Any]]) -> None:
    assert all(one["kr"] is not None for one in records)
    assert all(one["gl"] is not None for one in records)
    assert all(one["premium"] is not None for one in records)
    assert min(one["premium"] for one in records) < -0.15
    assert min(one["kr"] for one in records) < 0.75 * 116_500_000


def test_no_wrong_composite_is_published(records: list[dict[str, Any]]) -> None:
    for one in records:
        if one["value"] is not None:
            low, high = sorted((one["gl"], one["kr"] / one["fx"]))
            assert low * 0.999 <= one["value"] <= high * 1.001
            assert abs(one["premium"]) < 0.06
        else:
            assert one["reason"] == "regime_split"
    # calm before and after, a split in between
    assert records[30]["status"] == records[-1]["status"] == "ok"
    assert sum(one["split"] for one in records) > 300


def test_stalls_are_seen_and_the_rate_is_held(records: list[dict[str, Any]]) -> None:
    reasons = {(name, venue["reason"]) for one in records for name, venue in one["venues"].items()}
    assert ("upbit:BTC/KRW", "delayed") in reasons
    assert ("bithumb:BTC/KRW", "delayed") in reasons
    statuses = {one["fx_status"] for one in records}
    assert {"ok", "held"} <= statuses
    assert "none" not in statuses
