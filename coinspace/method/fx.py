"""KRW per USDT: the index calculation on the USDT/KRW books, and the guard against bad rates.

USD per USDT is the same calculation on the USDT/USD books. No rate ever comes from BTC prices: the
premium would then be zero by construction.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Any

from coinspace._ext.curve import OK
from coinspace._ext.ladder import Ladder, VenueBook
from coinspace.clock import SECOND_NS
from coinspace.config import IndexParameters
from coinspace.method.aggregate import FxFacts, VenueFacts
from coinspace.method.filter import DEVIATING, TOLERANCE, Candidate, VenueFilter, distance
from coinspace.method.parameters import make_curve


class FxRate:
    """The guard: while a rate is missing or has jumped, the last rate is kept for at most 10 s.

    A jump is accepted once at least two books have confirmed it for 2 s.

    Args: apart_ns: shortest distance of the rates in the window of the jump rule, 0 = every tick.
    """

    def __init__(self, parameters: IndexParameters, *, apart_ns: int = 0) -> None:
        self.parameters = parameters
        self.apart_ns = apart_ns
        self.hold_ns = int(parameters.fx_hold_s * SECOND_NS)
        self.window_ns = int(parameters.fx_window_s * SECOND_NS)
        self.confirm_ns = int(parameters.fx_confirm_s * SECOND_NS)
        self.last: tuple[int, float] | None = None
        self.agreed_ns: int | None = None
        self._window: deque[tuple[int, float]] = deque()
        self._sorted: list[float] = []

    def update(self, ts_ns: int, rate: float | None, mids: list[float]) -> tuple[float | None, str]:
        """Take the tick's rate (None = no book) and the mids of its venues.

        Returns: the rate to use (None = none usable) and its status.
        """
        if rate is None:
            self.agreed_ns = None
            return self._held(ts_ns, "held")
        if self._jumps(ts_ns, rate):
            if not self._confirmed(ts_ns, mids):
                return self._held(ts_ns, "suspect")
            self._clear()
        self.agreed_ns = None
        self.last = (ts_ns, rate)
        if not self._window or not 0 <= ts_ns - self._window[-1][0] < self.apart_ns:
            self._window.append(self.last)
            insort(self._sorted, rate)
        return rate, "ok"

    def _jumps(self, ts_ns: int, rate: float) -> bool:
        middle = self._median(ts_ns)
        return middle is not None and abs(rate / middle - 1.0) > self.parameters.fx_jump + TOLERANCE

    def _confirmed(self, ts_ns: int, mids: list[float]) -> bool:
        agree = (
            len(mids) >= 2
            and distance(min(mids), max(mids)) <= self.parameters.fx_confirm + TOLERANCE
        )
        if not agree:
            self.agreed_ns = None
            return False
        if self.agreed_ns is None or self.agreed_ns > ts_ns:
            self.agreed_ns = ts_ns
        return ts_ns - self.agreed_ns >= self.confirm_ns

    def _held(self, ts_ns: int, status: str) -> tuple[float | None, str]:
        if self.last is not None and 0 <= ts_ns - self.last[0] <= self.hold_ns:
            return self.last[1], status
        return None, "none"

    def _median(self, ts_ns: int) -> float | None:
        window, ordered = self._window, self._sorted
        while window and not 0 <= ts_ns - window[0][0] <= self.window_ns:
            _, rate = window.popleft()
            del ordered[bisect_left(ordered, rate)]
        n = len(ordered)
        if not n:
            return None
        return ordered[n // 2] if n % 2 else 0.5 * (ordered[n // 2 - 1] + ordered[n // 2])

    def _clear(self) -> None:
        self._window.clear()
        self._sorted.clear()

    def forget(self) -> None:
        """Forget all rates: the clock was set, so their times are invalid."""
        self._clear()
        self.last = self.agreed_ns = None

    def state(self) -> dict[str, Any]:
        """Return the last good rate and the window.

        The start of a jump's confirmation is left out: a later process has not seen the books
        agree meanwhile.
        """
        return {"last": self.last, "window": list(self._window)}

    def restore(self, window: list[tuple[int, float]]) -> None:
        """Restore the accepted rates of the last minutes, oldest first."""
        self._clear()
        for ts_ns, rate in window:
            # an accepted jump was confirmed, and a confirmed jump starts a new window
            if self._jumps(ts_ns, rate):
                self._clear()
            self._window.append((int(ts_ns), float(rate)))
            insort(self._sorted, float(rate))
        self.last = self._window[-1] if self._window else None
        self.agreed_ns = None


class FxIndex:
    """The index method for FX: no regions, at least one venue, fx = 1, separate flags."""

    def __init__(self, parameters: IndexParameters, *, apart_ns: int = 0) -> None:
        self.filter = VenueFilter(parameters, fx=True)
        self.rate = FxRate(parameters, apart_ns=apart_ns)
        self._curve = make_curve(parameters, fx=True)
        self._ladder = Ladder()

    def update(self, ts_ns: int, venues: list[VenueFacts], books: list[VenueBook]) -> FxFacts:
        """Compute the rate of one tick from the venues of its market, in order of their names."""
        candidates = [
            Candidate(one.name, one.region, one.quote, mid, mid, one.changed_ns)
            for one in venues
            if one.reason is None and (mid := one.native_mid) is not None
        ]
        reasons = {one.name: one.reason for one in venues if one.reason is not None}
        reasons |= self.filter.apply(ts_ns, candidates)
        rate = self._value(books, [one.name not in reasons for one in venues])
        shares: dict[str, float] = {}
        if rate is not None:
            shares = {
                one.name: share
                for one, share in zip(venues, self._curve.shares().tolist(), strict=True)
            }
        mids = [one.mid for one in candidates if one.name not in reasons and one.mid is not None]
        value, status = self.rate.update(ts_ns, rate, mids)
        doubted = rate if value is None else None
        if value is None and doubted is None:
            doubted = self._value(books, [reasons.get(one.name) == DEVIATING for one in venues])
        flagged = sorted(self.filter.flags)
        return FxFacts(value, status, reasons, flagged, shares, doubted)

    def _value(self, books: list[VenueBook], used: list[bool]) -> float | None:
        if not any(used):
            return None
        self._ladder.merge(
            [book if use else None for book, use in zip(books, used, strict=True)],
            [1.0] * len(books),
        )
        if self._curve.compute(self._ladder, bytes(used)) != OK:
            return None
        return self._curve.value if math.isfinite(self._curve.value) else None

    def state(self) -> dict[str, Any]:
        """Return the state from which a later process goes on."""
        return {
            **self.rate.state(),
            "flagged": sorted(self.filter.flags),
            "references": dict(self.filter.references),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of an earlier process."""
        self.rate.restore(state.get("window", []))
        if state.get("last"):
            ts_ns, rate = state["last"]
            self.rate.last = (int(ts_ns), float(rate))
        self.filter.restore(state.get("flagged", []), False, state.get("references", {}))
