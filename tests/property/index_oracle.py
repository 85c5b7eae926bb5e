"""The index in exact arithmetic, written only from the methodology's text.

Slow and literal on purpose: fractions for every price, size and comparison, brute force where the
text says "for every". Only the exponentials and one square root are floating point.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from fractions import Fraction as F
from typing import Any, NamedTuple

TOLERANCE = F(1, 10**12)
REGIONS = {"upbit": "KR", "bithumb": "KR", "binance": "GL"}


@dataclass
class Rules:
    mode: str = "integral"
    spacing: F = F(1)
    max_spread: F = F(5, 1000)
    max_deviation: F = F(5, 100)
    lag_ms: int = 10_000
    min_venues: int = 2
    regions: bool = True
    depth: str = "coverage"
    cap_band: F = F(5, 100)
    cap_min_per_side: int = 50


@dataclass
class State:
    flags: set[str] = field(default_factory=set)
    split: bool = False
    fx_flags: set[str] = field(default_factory=set)
    fx: F | None = None


Level = tuple[F, F, str]


def median(values: list[F]) -> F:
    ordered = sorted(values)
    n = len(ordered)
    return ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2


@functools.cache
def _exact(text: str) -> F | None:
    if text.strip().lower() in ("nan", "inf", "-inf", "infinity"):
        return None
    return F(text)


def number(text: Any) -> F | None:
    """Read a number; None if it is not finite."""
    return _exact(str(text))


def clean(levels: list[Any], best_last: bool) -> list[tuple[F, F]]:
    kept = []
    for price, size in levels:
        p, s = number(price), number(size)
        if p is not None and s is not None and p > 0 and s > 0:
            kept.append((p, s))
    return sorted(kept, key=lambda level: level[0], reverse=best_last)


def size_cap(bids: list[Level], asks: list[Level], rules: Rules) -> F:
    sample = []
    for side, sign in ((bids, -1), (asks, 1)):
        best = side[0][0]
        limit = best * (1 + sign * (rules.cap_band + TOLERANCE))
        near = [s for p, s, _ in side if sign * p <= sign * limit]
        nearest = [s for _, s, _ in side[: rules.cap_min_per_side]]
        sample += near if len(near) >= len(nearest) else nearest
    sample.sort()
    n = len(sample)
    k = n // 100
    mean = sum(sample[k : n - k], F(0)) / (n - 2 * k)
    capped = [min(max(s, sample[k]), sample[n - k - 1]) for s in sample]
    middle = sum(capped, F(0)) / n
    variance = sum(((s - middle) ** 2 for s in capped), F(0)) / (n - 1) if n > 1 else F(0)
    return mean + 5 * F(math.sqrt(variance))


class Side(list[Level]):
    """A sorted side; keeps what every volume needs: cumulative sizes, levels of a price."""

    def __init__(self, levels: list[Level]) -> None:
        super().__init__(levels)
        self.totals = list(itertools.accumulate(size for _, size, _ in levels))
        # tuples of integers, which hash faster than fractions
        self._equal: dict[tuple[int, int], list[Level]] = {}
        for level in levels:
            self._equal.setdefault(level[0].as_integer_ratio(), []).append(level)

    def equal(self, level: Level) -> list[Level]:
        return self._equal[level[0].as_integer_ratio()]

    def at(self, v: F) -> Level | None:
        i = bisect_left(self.totals, v * (1 - TOLERANCE))
        return self[i] if i < len(self) else None


def breakpoints(bids: Side, asks: Side, rules: Rules) -> tuple[list[F], bool]:
    """Volumes at which midPV must be checked, up to the end of the shorter side."""
    end = min(bids.totals[-1], asks.totals[-1])
    if rules.mode == "grid":
        n = math.floor(end / rules.spacing / (1 - TOLERANCE))
        return [rules.spacing * k for k in range(1, n + 1)], n > 0
    merged: list[F] = []
    for v in sorted(bids.totals + asks.totals):
        if v > end * (1 + TOLERANCE):
            break
        if not merged or v - merged[-1] > TOLERANCE * v:
            merged.append(v)
    return merged, True


def weights(points: list[F], depth: F, rules: Rules) -> list[float]:
    rate = 1 / (0.3 * float(depth))
    out, before = [], F(0)
    for v in points:
        if rules.mode == "grid":
            out.append(math.exp(-rate * float(v)) if v <= depth * (1 + TOLERANCE) else 0.0)
            continue
        a, b = min(before, depth), min(v, depth)
        out.append(math.exp(-rate * float(a)) - math.exp(-rate * float(b)) if b > a else 0.0)
        before = v
    return out


class Point(NamedTuple):
    """A volume of the curve: the levels that it reaches, and their mid."""

    v: F
    bid: Level
    ask: Level
    mid: F


def curve(bids: Side, asks: Side, points: list[F]) -> list[Point]:
    found = []
    for v in points:
        bid, ask = bids.at(v), asks.at(v)
        if bid is None or ask is None:
            break
        found.append(Point(v, bid, ask, (bid[0] + ask[0]) / 2))
    return found


def value_at(
    bids: Side, asks: Side, points: list[Point], depth: F, rules: Rules
) -> tuple[F, dict[str, float]]:
    w = weights([point.v for point in points], depth, rules)
    total = math.fsum(w)
    parts, shares = [], dict[str, float]()
    first = points[0].mid
    for point, weight in zip(points, w, strict=True):
        if weight == 0.0:
            continue
        parts.append(float(point.mid - first) * weight)
        for side, level in ((bids, point.bid), (asks, point.ask)):
            same = side.equal(level)
            size = sum((one[1] for one in same), F(0))
            for _, s, venue in same:
                shares[venue] = shares.get(venue, 0.0) + 0.5 * weight / total * float(s / size)
    return first + F(math.fsum(parts) / total), shares


def valuation(books: dict[str, tuple[list[Any], list[Any]]], rules: Rules) -> dict[str, Any]:
    """Sections 4 to 7 and 10 over the used venues' cleaned, converted books."""
    ordered = [
        sorted(
            ((p, s, name) for name, sides in books.items() for p, s in sides[i]),
            key=lambda level: (-level[0] if i == 0 else level[0], level[2]),
        )
        for i in (0, 1)
    ]
    cap = size_cap(ordered[0], ordered[1], rules)
    bids = Side([(p, min(s, cap), name) for p, s, name in ordered[0]])
    asks = Side([(p, min(s, cap), name) for p, s, name in ordered[1]])
    shallow_bid = max(side[-1][0] for side, _ in books.values())
    shallow_ask = min(side[-1][0] for _, side in books.values())
    coverage = min(
        sum((s for p, s, _ in bids if p >= shallow_bid), F(0)),
        sum((s for p, s, _ in asks if p <= shallow_ask), F(0)),
    )
    volumes, any_point = breakpoints(bids, asks, rules)
    points = curve(bids, asks, volumes)
    passing: list[F] = []
    ended = "exhausted"
    for point in points:
        if point.ask[0] / point.mid - 1 > rules.max_spread + TOLERANCE:
            ended = "D"
            break
        passing.append(point.v)
    found: dict[str, Any] = {"size_cap": cap, "coverage_depth": coverage, "curve_end": ended}
    if not any_point or (not passing and rules.mode == "integral"):
        return {**found, "reason": "insufficient_depth"}
    full = (
        max(rules.spacing, passing[-1] if passing else F(0))
        if rules.mode == "grid"
        else passing[-1]
    )
    depth = full
    if rules.depth == "coverage":
        cut = coverage
        if rules.mode == "grid":
            last = rules.spacing * math.floor(coverage / rules.spacing / (1 - TOLERANCE))
            cut = max(rules.spacing, last)
        depth = min(full, cut)
    value, shares = value_at(bids, asks, points, depth, rules)
    value_full = value if depth == full else value_at(bids, asks, points, full, rules)[0]
    mids = [point.mid for point in points if point.v <= full * (1 + TOLERANCE)]
    return {
        **found,
        "reason": None,
        "value_raw": value,
        "value_full": value_full,
        "utilised_depth": depth,
        "lambda": 1 / (F(3, 10) * depth),
        "depth_limited": full > coverage * (1 + TOLERANCE) or ended == "exhausted",
        "shares": shares,
        "best_bid": bids[0][0],
        "best_ask": asks[0][0],
        "lowest": min(mids),
        "highest": max(mids),
    }


def far(a: F, b: F, limit: F) -> bool:
    return max(a, b) / min(a, b) - 1 > limit


def filtered(mids: dict[str, F], flags: set[str], limit: F) -> set[str]:
    """Section 3 for one group of venues: the flags after the tick, from the flags before it."""
    free = {name: mid for name, mid in mids.items() if name not in flags}
    after = set()
    for name, mid in mids.items():
        if name in free:
            if len(free) >= 3:
                flagged = abs(mid / median(list(free.values())) - 1) > limit
            elif len(free) == 2:
                first, second = free.values()
                flagged = far(first, second, limit)
            else:
                flagged = False
        elif free:
            flagged = not abs(mid / median(list(free.values())) - 1) < limit / 2
        else:
            others = [other for one, other in mids.items() if one != name]
            flagged = True
            if others:
                nearest = min(others, key=lambda other: abs(other - mid))
                flagged = not abs(mid / nearest - 1) < limit / 2
        if flagged:
            after.add(name)
    return after


def rate(line: dict[str, Any], state: State, rules: Rules) -> tuple[F | None, F | None]:
    """Section 1: KRW per USDT, and the rate of suspect books while there is none.

    Lines lie within the 10 s for which the last rate is kept, and no rate jumps here.
    """
    books = {}
    for book in line["books"]:
        if book["market"] == "USDT/KRW":
            books[book["exchange"]] = clean(book["bids"], True), clean(book["asks"], False)
    mids = {name: (bids[0][0] + asks[0][0]) / 2 for name, (bids, asks) in books.items()}
    state.fx_flags = (state.fx_flags - set(mids)) | filtered(mids, state.fx_flags, F(1, 100))
    own = replace(rules, max_spread=F(1, 100), spacing=F(1))
    used = {name: book for name, book in books.items() if name not in state.fx_flags}
    found = valuation(used, own).get("value_raw") if used else None
    if found is not None:
        state.fx = found
    if state.fx is not None or not books:
        return state.fx, None
    suspected = {name: book for name, book in books.items() if name in state.fx_flags}
    return None, valuation(suspected, own).get("value_raw") if suspected else None


def average(levels: list[Level], size: F) -> F | None:
    """Section 11: average price of `size` into one side."""
    left, total = size, F(0)
    for price, available, _ in levels:
        taken = min(available, left)
        total += taken * price
        left -= taken
        if left <= 0:
            return total / size
    return None


def quantile(values: list[F], share: F) -> F:
    ordered = sorted(values)
    at = (len(ordered) - 1) * share
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def siblings(used: dict[str, tuple[list[Any], list[Any]]]) -> dict[str, Any]:
    """Section 11, over the used venues: capped median, confidence, prices of 1 and 10 units."""
    if not used:
        return {"median_capped": None, "confidence": None}
    touches = [(bids[0][0], asks[0][0]) for bids, asks in used.values()]
    mids = [(bid + ask) / 2 for bid, ask in touches]
    middle = median(mids)
    low, high = middle * F(995, 1000), middle * F(1005, 1000)
    clamped = [min(max(mid, low), high) for mid in mids]
    votes = mids + [price for touch in touches for price in touch]
    center = quantile(votes, F(1, 2))
    levels = [
        sorted(
            ((p, s, name) for name, sides in used.items() for p, s in sides[i]),
            key=lambda level: -level[0] if i == 0 else level[0],
        )
        for i in (0, 1)
    ]
    return {
        "median_capped": sum(clamped, F(0)) / len(clamped),
        "confidence": max(center - quantile(votes, F(1, 4)), quantile(votes, F(3, 4)) - center),
        "liquidity": [
            (average(levels[0], F(size)), average(levels[1], F(size))) for size in (1, 10)
        ],
    }


def tick(line: dict[str, Any], state: State, rules: Rules) -> dict[str, Any]:
    """One snapshot: reasons, flags, value, siblings. No book is ever frozen here."""
    reasons: dict[str, str] = {}
    krw, suspected = rate(line, state, rules)
    books: dict[str, tuple[list[Any], list[Any]]] = {}
    native: dict[str, tuple[list[Any], list[Any]]] = {}
    for book in line["books"]:
        if book["market"] == "USDT/KRW":
            continue
        name = f"{book['exchange']}:{book['market']}"
        bids, asks = clean(book["bids"], True), clean(book["asks"], False)
        fx: F | None = krw if book["market"].endswith("/KRW") else F(1)
        if "fx" in book:
            fx = None if book["fx"] is None else number(book["fx"])
        if book["state"] != "ok":
            reasons[name] = book["state"]
        elif line["now_ms"] - book["recv_ms"] >= rules.lag_ms:
            reasons[name] = "delayed"
        elif fx is None or fx <= 0:
            reasons[name] = "no_fx"
            if bids and asks and bids[0][0] < asks[0][0]:
                # a Korean value needs no rate
                native[name] = (bids, asks)
        elif not bids or not asks:
            reasons[name] = "empty"
        elif bids[0][0] >= asks[0][0]:
            reasons[name] = "crossed"
        else:
            books[name] = ([(p / fx, s) for p, s in bids], [(p / fx, s) for p, s in asks])
            native[name] = (bids, asks)
    mids = {name: (bids[0][0] + asks[0][0]) / 2 for name, (bids, asks) in books.items()}
    region = {name: REGIONS[name.split(":")[0]] for name in mids}
    if rules.regions:
        pairs = [
            (a, b)
            for x, a in mids.items()
            for y, b in mids.items()
            if region[x] == "KR" and region[y] == "GL"
        ]
        if pairs and all(far(a, b, rules.max_deviation) for a, b in pairs):
            state.split = True
        elif pairs and any(not far(a, b, rules.max_deviation / 2) for a, b in pairs):
            state.split = False
    groups = [mids]
    if rules.regions and state.split:
        groups = [{n: m for n, m in mids.items() if region[n] == r} for r in ("KR", "GL")]
    before = set(state.flags)
    for group in groups:
        state.flags = (state.flags - set(group)) | filtered(group, before, rules.max_deviation)
    for name in mids:
        if name in state.flags:
            reasons[name] = "deviating"
    used = {name: book for name, book in books.items() if name not in reasons}
    regions = {region[name] for name in used}
    if rules.regions and state.split:
        found: dict[str, Any] = {"reason": "regime_split"}
    elif len(used) < rules.min_venues or (rules.regions and regions != {"KR", "GL"}):
        found = {"reason": "too_few_venues"}
    else:
        found = valuation(used, rules)
    regional: dict[str, dict[str, Any]] = {}
    for name, quote in (("KR", "KRW"), ("GL", "USDT")):
        own = {n: book for n, book in native.items() if n.endswith(f"/{quote}")}
        middles = {n: (bids[0][0] + asks[0][0]) / 2 for n, (bids, asks) in own.items()}
        without_fx = {n for n, reason in reasons.items() if reason == "no_fx"}
        alone = filtered(middles, before, rules.max_deviation)
        own = {
            n: book
            for n, book in own.items()
            if n in used or (quote == "KRW" and n in without_fx - alone - state.flags)
        }
        # a region with only suspect venues: its value is marked
        unjudged = not own
        if unjudged:
            own = {n: book for n, book in native.items() if n.endswith(f"/{quote}")}
        regional[name] = valuation(own, rules) if own else {"reason": "too_few_venues"}
        regional[name]["unjudged"] = unjudged and bool(own)
    texts = [book.get("fx") for book in line["books"] if book["market"].endswith("/KRW")]
    given = [fx for text in texts if text is not None and (fx := number(text)) is not None]
    known = [fx for fx in given if fx > 0]
    per_usdt = (median(known) if known else krw) or suspected
    korean, world = (regional[name].get("value_raw") for name in ("KR", "GL"))
    premium = None
    if isinstance(korean, F) and isinstance(world, F) and per_usdt is not None:
        premium = korean / (world * per_usdt) - 1
    return {
        **found,
        **siblings(used),
        "reasons": reasons,
        "flagged": sorted(state.flags),
        "regional": regional,
        "premium": premium,
    }
