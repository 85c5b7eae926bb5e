"""The filter of venues: it excludes frozen and deviating ones, per region while regions are split.

The rules are those of methodology 2 and 3; `aggregator.venue` has the reasons that concern a venue
alone. All comparisons of one tick use the flags from before the tick. An absent venue keeps its
flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from coinspace.clock import SECOND_NS
from coinspace.config import IndexParameters

# "more than" a limit means more by at least this: exact ties must not depend on rounding
TOLERANCE = 1e-12
FROZEN, DEVIATING = "frozen", "deviating"
# limit of remembered venues; an index has dozens, only a faulty publisher sends more
VENUES_KEPT = 10_000


@dataclass(slots=True)
class Candidate:
    """A venue that passed every rule about a single venue."""

    name: str
    region: str
    quote: str
    mid: float | None
    native_mid: float
    changed_ns: int


# name -> (mid, native mid, quote) of all venues at the first tick with one venue's current book
Mids = Mapping[str, tuple[float | None, float | None, str]]


class VenueFilter:
    """The filter's memory.

    Attributes: flags: names of flagged venues. references: venue -> time of its book's last change,
    and all mids of that moment.
    """

    def __init__(self, parameters: IndexParameters, *, fx: bool = False) -> None:
        self.limit = parameters.fx_max_deviation if fx else parameters.max_deviation
        self.back = self.limit * parameters.reentry
        self.by_region = parameters.regions == "default" and not fx
        self.frozen_ns = int(parameters.frozen_s * SECOND_NS)
        self.frozen_move = parameters.frozen_move
        self.flags: set[str] = set()
        self.split = False
        self.references: dict[str, tuple[int, Mids]] = {}

    def apply(self, ts_ns: int, candidates: list[Candidate]) -> dict[str, str]:
        """Judge the candidates of one tick and update the memory.

        Returns: name -> `frozen` or `deviating`.
        """
        if not candidates:
            return {}
        if len(self.references) > VENUES_KEPT or len(self.flags) > VENUES_KEPT:
            self._forget_absent(candidates)
        reasons = dict.fromkeys(self._frozen(ts_ns, candidates), FROZEN)
        present = [one for one in candidates if one.name not in reasons]
        priced = {one.name: one.mid for one in present if one.mid is not None}
        regions = {one.name: one.region for one in present}
        if self.by_region:
            self._update_split(priced, regions)
        before = frozenset(self.flags)
        groups: dict[str, dict[str, float]] = {}
        for name, mid in priced.items():
            groups.setdefault(regions[name] if self.split else "", {})[name] = mid
        for mids in groups.values():
            self._settle(judge(mids, before, self.limit, self.back), mids)
        out = self.flags | self._judge_unpriced(present, before)
        for one in present:
            if one.name in out:
                reasons[one.name] = DEVIATING
        return reasons

    def _forget_absent(self, candidates: list[Candidate]) -> None:
        names = {one.name for one in candidates}
        self.flags &= names
        self.references = {name: one for name, one in self.references.items() if name in names}

    def _settle(self, flagged: set[str], judged: Mapping[str, float]) -> None:
        self.flags = (self.flags - set(judged)) | flagged

    def _judge_unpriced(self, present: list[Candidate], before: frozenset[str]) -> set[str]:
        # a venue without a rate is judged in its own currency against the others of its region, for
        # this tick only, because flags are about prices in index currency
        unpriced = [one for one in present if one.mid is None]
        out: set[str] = set()
        for key in {(one.region, one.quote) for one in unpriced}:
            mids = {one.name: one.native_mid for one in present if (one.region, one.quote) == key}
            names = {one.name for one in unpriced if (one.region, one.quote) == key}
            out |= judge(mids, before, self.limit, self.back) & names
        return out

    def _update_split(self, mids: Mapping[str, float], regions: Mapping[str, str]) -> None:
        # split: every KR venue is further than P from every GL venue; united: some pair is within
        # P/2; when a region has no venue, the state does not change
        korean = [mid for name, mid in mids.items() if regions[name] == "KR"]
        others = [mid for name, mid in mids.items() if regions[name] != "KR"]
        if not korean or not others:
            return
        nearest = min(distance(a, b) for a in korean for b in others)
        if nearest > self.limit + TOLERANCE:
            self.split = True
        elif nearest <= self.back + TOLERANCE:
            self.split = False

    def _frozen(self, ts_ns: int, candidates: list[Candidate]) -> list[str]:
        # unchanged for 60 s while the median of the others moved by more than 0.2 %; each is
        # compared with its own mid then, so that a new or absent venue is not a movement
        now: Mids = {one.name: (one.mid, one.native_mid, one.quote) for one in candidates}
        frozen = []
        for one in candidates:
            changed_ns, then = self.references.get(one.name, (None, now))
            if changed_ns != one.changed_ns:
                self.references[one.name] = (one.changed_ns, now)
            elif (
                ts_ns - one.changed_ns >= self.frozen_ns
                and self._moved(one, now, then) > self.frozen_move + TOLERANCE
            ):
                frozen.append(one.name)
        return frozen

    def _moved(self, one: Candidate, now: Mids, then: Mids) -> float:
        new, old = [], []
        for name, (mid, native_mid, quote) in now.items():
            if name == one.name or name in self.flags or name not in then:
                continue
            before, native_before, _ = then[name]
            if one.mid is None:
                # compared in its own currency, because it has no rate
                mid, before = (native_mid, native_before) if quote == one.quote else (None, None)
            if mid is not None and before is not None:
                new.append(mid)
                old.append(before)
        return abs(median(new) / median(old) - 1.0) if new else 0.0

    def restore(
        self, flagged: list[str], split: bool, references: Mapping[str, tuple[int, Mids]]
    ) -> None:
        """Restore the memory of the last stored value."""
        self.flags = set(flagged)
        self.split = split
        self.references = dict(references)


def distance(a: float, b: float) -> float:
    """Relative distance of two mids, the same in both directions."""
    return max(a, b) / min(a, b) - 1.0


def judge(mids: Mapping[str, float], flags: frozenset[str], limit: float, back: float) -> set[str]:
    """Return the venues of `mids` flagged after this tick, given the flags before it."""
    free = [mid for name, mid in mids.items() if name not in flags]
    flagged = set()
    middle = median(free) if free else 0.0
    for name, mid in mids.items():
        if name not in flags:
            if len(free) >= 3:
                out = abs(mid / middle - 1.0) > limit + TOLERANCE
            else:
                # two are compared with each other, and a single one stays unflagged
                out = len(free) == 2 and distance(*free) > limit + TOLERANCE
        elif free:
            # back within P/2 of the unflagged ones, or else of the nearest other one
            out = not abs(mid / middle - 1.0) < back - TOLERANCE
        else:
            others = [other for key, other in mids.items() if key != name]
            nearest = min(others, key=lambda other: (abs(other - mid), -other), default=None)
            out = nearest is None or not abs(mid / nearest - 1.0) < back - TOLERANCE
        if out:
            flagged.add(name)
    return flagged
