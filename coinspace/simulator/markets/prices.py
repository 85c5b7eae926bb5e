"""The worth of assets in USDT and of USDT in KRW: a correlated random walk in 100 ms steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

STEP_NS = 100_000_000
# worth at the start, in USDT; other assets get a worth from their names
WORTH = {
    **{"BTC": 86_700.0, "ETH": 2_770.0, "XRP": 1.54, "SOL": 118.0, "USDC": 1.0, "FDUSD": 1.0},
    # one asset for every size of price that exchanges quote
    **{"DOGE": 0.0831, "SHIB": 0.0000119, "PEPE": 0.00000843, "BTT": 0.00000043},
}
KRW_PER_USDT = 1343.5
# standard deviation of one step, as a fraction: 60 % a year is 3.4e-5
MARKET_STEP = 2.6e-5
OWN_STEP = 2.2e-5
RATE_STEP = 4e-6
# pulls back to the start within about a day, so that long runs stay in range
PULL = 1e-6
# activity factor in quiet, normal and busy phases, and cumulative probabilities
ACTIVITY = ((0.25, 0.25), (1.0, 0.85), (2.5, 1.0))
PHASE_STEPS = (100, 500)
SQRT3 = 1.7320508075688772


def bell(draw: Callable[[], float]) -> float:
    """Return a draw with mean 0 and deviation 1, from sums only: equal on every machine."""
    return (draw() + draw() + draw() + draw() - 2.0) * SQRT3


class Prices:
    """Current worth of every asset; `step` moves all of them.

    Args: worth: asset -> worth at the start in USDT, of assets without a known one.
    """

    def __init__(self, seed: int, assets: Sequence[str], worth: Mapping[str, float]) -> None:
        known = {**worth, **WORTH}
        self.worth = {asset: known.get(asset) or _worth(asset) for asset in assets}
        self.rate = KRW_PER_USDT
        self.activity = 1.0
        self._start = dict(self.worth)
        self._common = random.Random(f"{seed}/common").random
        self._own = {asset: random.Random(f"{seed}/{asset}").random for asset in assets}
        self._rate = random.Random(f"{seed}/rate").random
        self._phase = random.Random(f"{seed}/phase").random
        self._left = 300

    def step(self) -> None:
        """Move by one step of STEP_NS."""
        self._left -= 1
        if self._left <= 0:
            pick = self._phase()
            self.activity = next(level for level, upto in ACTIVITY if pick < upto)
            self._left = int(PHASE_STEPS[0] + self._phase() * PHASE_STEPS[1])
        common = bell(self._common) * MARKET_STEP * self.activity
        for asset, worth in self.worth.items():
            own = bell(self._own[asset]) * OWN_STEP * self.activity
            pull = PULL * (1.0 - worth / self._start[asset])
            self.worth[asset] = worth * (1.0 + common + own + pull)
        # the won moves slightly against the market, as in a sell-off
        drift = bell(self._rate) * RATE_STEP - 0.05 * common
        self.rate *= 1.0 + drift + PULL * (1.0 - self.rate / KRW_PER_USDT)


def _worth(asset: str) -> float:
    number = random.Random(asset).random()
    return 0.02 + 20.0 * number * number * number
