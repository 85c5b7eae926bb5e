"""Premiums sampled in steps of equal length, and their statistics over windows of steps.

The sample of a step is the last premium of the step. The running step counts with its last premium
so far. Samples are whole multiples of 1e-8, as the API shows premiums: so sums are exact, and no
statistic depends on how long this process has run. A new sample costs the same at any length of the
window, and a question never reads the samples.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from typing import NamedTuple

from coinspace.method.digits import RATIO_PLACES

UNIT: int = 10**RATIO_PLACES
# larger ones are not premiums; their units still fit into 64 bits
LARGEST = 1e9
# a step without a sample
NONE = -(1 << 63)


def units(premium: float | None) -> int | None:
    """Return a premium in whole units; None for None, NaN, and what cannot be a premium."""
    if premium is None or not abs(premium) <= LARGEST:
        return None
    return round(round(premium, RATIO_PLACES) * UNIT)


class Statistics(NamedTuple):
    """Statistics of one window, as fractions; None = not defined.

    Attributes:
        percentile: share of the samples that are at or below the premium now, 0 to 1.
        deviation: the population's standard deviation.
    """

    samples: int
    percentile: float | None = None
    mean: float | None = None
    deviation: float | None = None
    z: float | None = None
    high: float | None = None
    low: float | None = None


class SampleWindow:
    """The closed samples of the newest steps, in order of size, with their sums."""

    __slots__ = ("ordered", "squares", "steps", "total")

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.fill([])

    def fill(self, samples: list[int]) -> None:
        """Replace all samples."""
        self.ordered = array("q", sorted(samples))
        self.total = sum(samples)
        self.squares = sum(one * one for one in samples)

    def add(self, sample: int) -> None:
        """Add a sample."""
        insort(self.ordered, sample)
        self.total += sample
        self.squares += sample * sample

    def remove(self, sample: int) -> None:
        """Remove a sample that was added."""
        del self.ordered[bisect_left(self.ordered, sample)]
        self.total -= sample
        self.squares -= sample * sample

    def percentile(self, now: int) -> float:
        """Return the share of samples at or below a running sample, which counts too."""
        return (bisect_right(self.ordered, now) + 1) / (len(self.ordered) + 1)

    def statistics(self, running: int | None, *, current: bool) -> Statistics:
        """Return all statistics. Args: current: whether the running sample is the premium now."""
        ordered = self.ordered
        n, total, squares = len(ordered), self.total, self.squares
        ends = [ordered[0], ordered[-1]] if n else []
        if running is not None:
            n, total, squares = n + 1, total + running, squares + running * running
            ends.append(running)
        if not n:
            return Statistics(0)
        deviation = math.sqrt(n * squares - total * total) / n
        percentile = z = None
        if running is not None and current:
            percentile = self.percentile(running)
            z = (n * running - total) / n / deviation if deviation else None
        return Statistics(
            n, percentile, total / n / UNIT, deviation / UNIT, z, max(ends) / UNIT, min(ends) / UNIT
        )


class Reached:
    """Finds the latest step whose sample was at or below a level.

    It keeps only samples that are below all later ones: no other one can be the answer.
    """

    __slots__ = ("samples", "steps")

    def __init__(self) -> None:
        self.steps = array("q")
        self.samples = array("q")

    def add(self, step: int, sample: int) -> None:
        """Add the sample of a later step."""
        while self.samples and self.samples[-1] >= sample:
            self.samples.pop()
            self.steps.pop()
        self.steps.append(step)
        self.samples.append(sample)

    def forget(self, first: int) -> None:
        """Forget the steps before `first`."""
        if self.steps and self.steps[0] < first:
            gone = bisect_left(self.steps, first)
            del self.steps[:gone]
            del self.samples[:gone]

    def last(self, level: int) -> int | None:
        """Return the latest step with a sample at or below the level; None = there is none."""
        place = bisect_right(self.samples, level)
        return self.steps[place - 1] if place else None


class Samples:
    """The samples of the newest steps, in a ring; step = ms since 1970 // step_ms.

    Args: windows: their lengths in steps. kept: steps before the running one that are kept.
    """

    def __init__(self, step_ms: int, windows: tuple[int, ...], kept: int) -> None:
        self.step_ms = step_ms
        self.windows = [SampleWindow(one) for one in windows]
        self.newest: int | None = None
        self._ring = array("q", [NONE]) * (max(kept, *windows, 0) + 1)
        self._lows, self._highs = Reached(), Reached()

    def at(self, back: int) -> int | None:
        """Return the sample so many steps before the running one; None = it has none."""
        if self.newest is None or not 0 <= back < len(self._ring):
            return None
        found = self._ring[(self.newest - back) % len(self._ring)]
        return None if found == NONE else found

    def newest_of(self, spans: list[int]) -> list[int | None]:
        """Return the newest sample of each of the spans, which end with the running step.

        Args: spans: their lengths in steps, the oldest span first.
        """
        if self.newest is None:
            return [None] * len(spans)
        start = (self.newest + 1) % len(self._ring)
        ordered = self._ring[start:] + self._ring[:start]
        found: list[int | None] = []
        end = len(ordered)
        for length in reversed(spans):
            span = ordered[max(end - length, 0) : end]
            while span and span[-1] == NONE:
                span.pop()
            found.append(span[-1] if span else None)
            end = max(end - length, 0)
        return found[::-1]

    def add(self, ts_ms: int, sample: int | None) -> None:
        """Take the newest premium, None = there is none now; one of an earlier step is ignored."""
        step = ts_ms // self.step_ms
        if self.newest is None or step > self.newest:
            self._advance(step)
        if sample is not None and step == self.newest:
            self._ring[step % len(self._ring)] = sample

    def _advance(self, step: int) -> None:
        ring, before = self._ring, self.newest
        size = len(ring)
        if before is None or step - before >= size:
            ring[:] = array("q", [NONE]) * size
            self.newest = step
            self._rebuild()
            return
        closed = ring[before % size]
        if closed != NONE and self.windows:
            self._lows.add(before, closed)
            self._highs.add(before, -closed)
        for window in self.windows:
            if closed != NONE:
                window.add(closed)
            first = before - window.steps + 1
            for gone in range(first, min(first + step - before, before + 1)):
                if ring[gone % size] != NONE:
                    window.remove(ring[gone % size])
        for opened in range(before + 1, step + 1):
            ring[opened % size] = NONE
        self.newest = step
        self._lows.forget(step - size + 2)
        self._highs.forget(step - size + 2)

    def fill(self, stored: Mapping[int, int]) -> None:
        """Take stored samples by their steps, for steps that have no live one."""
        if not stored:
            return
        if self.newest is None:
            self.newest = max(stored)
        ring, size = self._ring, len(self._ring)
        for step, sample in stored.items():
            if self.newest - size < step <= self.newest and ring[step % size] == NONE:
                ring[step % size] = sample
        self._rebuild()

    def _rebuild(self) -> None:
        assert self.newest is not None
        known = [
            (step, self._ring[step % len(self._ring)])
            for step in range(self.newest - len(self._ring) + 1, self.newest)
        ]
        known = [one for one in known if one[1] != NONE]
        for window in self.windows:
            first = self.newest - window.steps + 1
            window.fill([sample for step, sample in known if step >= first])
        self._lows, self._highs = Reached(), Reached()
        if self.windows:
            for step, sample in known:
                self._lows.add(step, sample)
                self._highs.add(step, -sample)
            self._lows.forget(self.newest - len(self._ring) + 2)
            self._highs.forget(self.newest - len(self._ring) + 2)

    def reached(self, level: int, *, high: bool) -> int | None:
        """Return the begin, in ms, of the latest closed step at least as high (or low) as a level.

        None: no step that is kept is.
        """
        found = self._highs.last(-level) if high else self._lows.last(level)
        return None if found is None else found * self.step_ms
