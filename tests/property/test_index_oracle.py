"""The index compared with exact arithmetic, on seeded random books with many ties."""

from __future__ import annotations

import json
import random
from fractions import Fraction as F
from typing import Any

import msgspec
import pytest

from coinspace.config import IndexParameters
from coinspace.index.calculator import Index
from coinspace.recompute.snapshots import SnapshotReader
from tests.property.index_oracle import Rules, State, tick

NOW_MS = 1_700_000_000_000
VENUES = (("binance", "BTC/USDT"), ("bithumb", "BTC/KRW"), ("upbit", "BTC/KRW"))
EXACT = ("value_raw", "value_full", "utilised_depth", "lambda", "size_cap", "coverage_depth")
# 10,000 ticks in all
SEEDS, SEQUENCES, TICKS = 10, 250, 4


def make_side(rng: random.Random, mid: int, sign: int, tick_size: int, n: int) -> list[Any]:
    """Levels on a coarse lattice of prices and sizes, so that many sums and prices are equal."""
    grain = rng.choice(("0.1", "0.25", "1", "0.3"))
    price = mid + sign * tick_size * rng.randint(1, 3)
    levels = []
    for _ in range(n):
        size = F(grain) * rng.randint(1, 6)
        if rng.random() < 0.02:
            size *= 100
        text: Any = str(float(size))
        levels.append([price, text if rng.random() < 0.5 else float(text)])
        price += sign * tick_size * rng.choice((0, 1, 1, 2, 5))
        if price <= 0:
            break
    if rng.random() < 0.05:
        bad: list[Any] = rng.choice(
            ([0, 1], [-5, 1], [price, 0], [price, -1], ["NaN", 1], [price, "inf"])
        )
        levels.insert(rng.randint(0, len(levels)), bad)
    if rng.random() < 0.05:
        rng.shuffle(levels)
    return levels


def make_line(
    rng: random.Random, now_ms: int, fx: int, deviations: dict[str, int]
) -> dict[str, Any]:
    books = []
    deep = rng.random() < 0.025
    for exchange, market in VENUES:
        if rng.random() < 0.08:
            continue
        korean = market.endswith("KRW")
        scale = fx if korean else 1
        mid = 100_000 * (1000 + deviations[exchange]) // 1000
        # the same lattice in both currencies: levels of different venues are exactly equal
        tick_size = 10 * scale
        sides = [
            make_side(rng, mid * scale, sign, tick_size, rng.randint(1, 60 if deep else 5))
            for sign in (-1, 1)
        ]
        if rng.random() < 0.02:
            sides[rng.randint(0, 1)] = []
        if rng.random() < 0.02:
            sides.reverse()
        books.append(
            {
                "exchange": exchange,
                "market": market,
                "recv_ms": now_ms - rng.choice((0, 0, 0, 5, 9_999, 10_000, 20_000))
                if rng.random() < 0.2
                else now_ms,
                "fx": rng.choice((None, 0, str(fx))) if korean and rng.random() < 0.03 else scale,
                "state": rng.choice(("disconnected", "resyncing")) if rng.random() < 0.03 else "ok",
                "bids": sides[0],
                "asks": sides[1],
            }
        )
    return {"now_ms": now_ms, "asset": "BTC", "books": books}


def with_rate_books(rng: random.Random, line: dict[str, Any], fx: int) -> dict[str, Any]:
    """Take rates from USDT/KRW books of the same line, which sometimes disagree."""
    for book in line["books"]:
        del book["fx"]
    for exchange in ("upbit", "bithumb"):
        mid = fx + rng.choice((0, 0, 1, -1, 6, 20))
        sides = [make_side(rng, mid, sign, 1, rng.randint(2, 6)) for sign in (-1, 1)]
        line["books"].append(
            {
                "exchange": exchange,
                "market": "USDT/KRW",
                "recv_ms": line["now_ms"],
                "bids": sorted(sides[0], key=lambda level: -float(level[0])),
                "asks": sides[1],
            }
        )
    return line


def make_rules(rng: random.Random) -> Rules:
    return Rules(
        mode=rng.choice(("integral", "grid")),
        spacing=F(rng.choice(("1", "2", "0.5"))),
        # limits on the lattice: askPV/midPV - 1 equals them exactly
        max_spread=F(rng.choice(("0.0005", "0.0001", "0.0002", "0.005"))),
        max_deviation=F(rng.choice(("0.05", "0.01"))),
        min_venues=rng.choice((1, 2, 2, 3)),
        regions=rng.random() < 0.6,
        depth=rng.choice(("coverage", "full")),
        cap_min_per_side=rng.choice((50, 50, 2)),
        cap_band=F(rng.choice(("0.05", "0.0002"))),
    )


def parameters_of(rules: Rules) -> IndexParameters:
    return IndexParameters(
        mode=rules.mode,  # type: ignore[arg-type]
        spacing=float(rules.spacing),
        max_spread=float(rules.max_spread),
        max_deviation=float(rules.max_deviation),
        min_venues=rules.min_venues,
        regions="default" if rules.regions else "off",
        depth=rules.depth,  # type: ignore[arg-type]
        cap_min_per_side=rules.cap_min_per_side,
        cap_band=float(rules.cap_band),
        decimals=2,
    )


def compare(record: Any, exact: dict[str, Any], where: str) -> None:
    assert record.reason == exact["reason"], where
    reasons = {name: venue.reason for name, venue in record.venues.items()}
    assert {n: r for n, r in reasons.items() if r} == exact["reasons"], where
    assert record.flagged == exact["flagged"], where
    if exact["reason"] is None:
        written = msgspec.to_builtins(record)
        for name in EXACT:
            assert written[name] == pytest.approx(float(exact[name]), rel=1e-9), (name, where)
        assert record.curve_end == exact["curve_end"], where
        assert record.depth_limited is exact["depth_limited"], where
        assert record.best_bid == pytest.approx(float(exact["best_bid"]), rel=1e-14)
        assert record.best_ask == pytest.approx(float(exact["best_ask"]), rel=1e-14)
        shares = {n: v.share for n, v in record.venues.items() if v.used}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
        for name, share in shares.items():
            assert share == pytest.approx(exact["shares"].get(name, 0.0), abs=1e-9), (name, where)
        low, high = float(exact["lowest"]), float(exact["highest"])
        assert low * (1 - 1e-14) <= record.value_full <= high * (1 + 1e-14), where
    else:
        assert record.value is None
        assert record.status == "null"
    for region, field in (("KR", "kr"), ("GL", "gl")):
        agree(
            getattr(record, field), exact["regional"][region].get("value_raw"), f"{field} {where}"
        )
        unjudged = record.regions[region].unjudged
        assert unjudged is exact["regional"][region]["unjudged"], where
    # relative to the price: the premium may be almost zero
    premium = None if record.premium is None else 1 + record.premium
    agree(premium, None if exact["premium"] is None else 1 + exact["premium"], where)
    agree(record.median_capped, exact["median_capped"], where)
    if exact["confidence"] is None:
        assert record.confidence is None, where
    else:
        scale = 1e-9 * float(exact["median_capped"])
        assert abs(record.confidence - float(exact["confidence"])) <= scale, where
    if exact["reason"] is None:
        for row, prices in zip(record.liquidity, exact["liquidity"], strict=True):
            agree(row.bid, prices[0], where)
            agree(row.ask, prices[1], where)


def agree(found: float | None, exact: F | None, where: str) -> None:
    if exact is None:
        assert found is None, where
    else:
        assert found == pytest.approx(float(exact), rel=1e-9), where


@pytest.mark.parametrize("seed", range(SEEDS))
def test_agrees_with_exact_arithmetic(seed: int) -> None:
    rng = random.Random(seed)
    values = reasons = unjudged = 0
    for sequence in range(SEQUENCES):
        rules = make_rules(rng)
        parameters = parameters_of(rules)
        reader = SnapshotReader({"BTC": parameters}.__getitem__)
        index, state = Index("BTC", parameters), State()
        # fx that divides the lattice exactly, and fx that does not
        fx = rng.choice((1400, 1371, 1333))
        rate_books = rng.random() < 0.15
        deviations = dict.fromkeys(("upbit", "bithumb", "binance"), 0)
        for step in range(TICKS):
            if rng.random() < 0.5:
                moves = (0, 0, 5, 10, 20, 24, 25, 26, 49, 50, 51, 60, -100, -25, -26, -50)
                deviations[rng.choice(list(deviations))] = rng.choice(moves)
            line = make_line(rng, NOW_MS + 200 * step, fx, deviations)
            if rate_books:
                line = with_rate_books(rng, line, fx)
            aggregate = reader.read(json.dumps(line), 1)
            record = index.compute(aggregate)
            exact = tick(line, state, rules)
            compare(record, exact, f"seed {seed} sequence {sequence} step {step}")
            values += exact["reason"] is None
            reasons += exact["reason"] is not None
            unjudged += exact["regional"]["KR"]["unjudged"]
    # the cases must be of different kinds
    assert values > 200
    assert reasons > 50
    assert unjudged > 5
