"""Scenarios: curves over prices and a timetable of faults, on the simulator's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from coinspace.market import Market

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scenario:
    """What happens to prices and venues.

    curves: ("exchange" or "*", market or "*") -> points (seconds, factor), linear between them.
    faults: (seconds, fault specification). compress: seconds of the scenario per simulated second.
    """

    name: str
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    faults: tuple[tuple[float, str], ...] = ()
    compress: float = 1.0

    def factor(self, exchange: str, market: Market, elapsed_s: float) -> float:
        """Return what a market's price is multiplied with."""
        now = elapsed_s * self.compress
        result = 1.0
        for (venue, name), curve in self.curves.items():
            if venue in ("*", exchange) and name in ("*", str(market), f"*/{market.quote}"):
                result *= _value(curve, now)
        return result


def _value(curve: Curve, now: float) -> float:
    before_s, before = curve[0]
    if now <= before_s:
        return before
    for at_s, value in curve[1:]:
        if now < at_s:
            return before + (value - before) * ((now - before_s) / (at_s - before_s))
        before_s, before = at_s, value
    return before
