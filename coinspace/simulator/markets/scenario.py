"""Scenarios: price curves and a timetable of faults, on the simulator's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from coinspace.market import Market

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scenario:
    """A course of prices and faults.

    curves: ("exchange" or "*", market or "*") -> points (seconds, factor), linear between them.
    faults: (seconds, fault specification). compress: seconds of the scenario per simulated second.
    """

    name: str
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    faults: tuple[tuple[float, str], ...] = ()
    compress: float = 1.0

    def factor(self, exchange: str, market: Market, elapsed_s: float) -> float:
        now = elapsed_s * self.compress
        result = 1.0
        for (venue, name), curve in self.curves.items():
            if venue in ("*", exchange) and name in ("*", str(market), f"*/{market.quote}"):
                result *= _value(curve, now)
        return result


def _all(points: Curve, exchange: str) -> dict[tuple[str, str], Curve]:
    return {(exchange, f"{base}/KRW"): points for base in ("BTC", "ETH", "XRP", "SOL")}


# modelled on Korea, 2024-12-03: won prices fell by a third on Upbit within minutes, KRW-USDT swung
# both ways, venues stalled and refused requests, and all recovered within the hour
CRISIS = Scenario(
    "crisis",
    {
        **_all(
            (
                (60, 1.0),
                (180, 0.93),
                (300, 0.82),
                (390, 0.67),
                (450, 0.72),
                (540, 0.8),
                (720, 0.91),
                (960, 0.97),
                (1200, 1.0),
            ),
            "upbit",
        ),
        **_all(
            (
                (75, 1.0),
                (200, 0.94),
                (330, 0.84),
                (420, 0.73),
                (480, 0.76),
                (570, 0.83),
                (750, 0.92),
                (990, 0.98),
                (1200, 1.0),
            ),
            "bithumb",
        ),
        ("*", "USDT/KRW"): (
            (90, 1.0),
            (270, 1.15),
            (360, 1.1),
            (480, 0.85),
            (600, 0.94),
            (780, 1.03),
            (1200, 1.0),
        ),
        ("binance", "*/USDT"): ((180, 1.0), (390, 0.975), (720, 0.99), (1200, 1.0)),
    },
    (
        (330.0, "stall:bithumb:for=20"),
        (375.0, "mute:upbit:for=30"),
        (380.0, "rest:upbit:status=503:for=60"),
        (430.0, "halfopen:bithumb:for=30"),
        (500.0, "reset:upbit:count=4"),
        (505.0, "handshake:upbit:status=429:for=10"),
        (620.0, "mute:bithumb:KRW-USDT:for=25"),
    ),
)
SCENARIOS = {"crisis": CRISIS}


def _value(curve: Curve, now: float) -> float:
    before_s, before = curve[0]
    if now <= before_s:
        return before
    for at_s, value in curve[1:]:
        if now < at_s:
            return before + (value - before) * ((now - before_s) / (at_s - before_s))
        before_s, before = at_s, value
    return before
