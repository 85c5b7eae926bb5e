"""The rules by which updates and snapshots make a local book, case by case."""

import pytest

from coinspace._ext.sequence import (
    CONTAINED_NS,
    CONTAINED_ROW,
    ID_LIMIT,
    LOW_NS,
    LOW_ROW,
    OLD_NS,
    OLD_ROW,
    Sequence,
)
from coinspace.collector.stage import CHANGES, State, may_change
from coinspace.collector.sync import PHASES, Phase, Verdict

APPLY, IGNORE, GAP = Verdict.APPLY, Verdict.IGNORE, Verdict.GAP
NEED, RESTARTED, WAIT = Verdict.NEED_SNAPSHOT, Verdict.RESTARTED, Verdict.WAIT


def at(last: int) -> Sequence:
    """A sequence whose book ends with an id."""
    sequence = Sequence()
    if last:
        assert sequence.snapshot(last) == APPLY
    return sequence


# ids of the book's end, first and final id of the update, lead of its connection -> verdict
UPDATES = [
    ("no book: kept for a snapshot", 0, 5, 7, 0, NEED),
    ("next", 10, 11, 12, 0, APPLY),
    ("next, a single id", 10, 11, 11, 0, APPLY),
    ("reaches back into the book", 10, 8, 12, 0, APPLY),
    ("ends with the book", 10, 9, 10, 0, IGNORE),
    ("long past", 10, 3, 4, 0, IGNORE),
    ("one id is missing", 10, 12, 13, 0, GAP),
    ("the newer connection is ahead", 10, 12, 13, 1, IGNORE),
    ("the older connection is ahead", 10, 12, 13, -1, IGNORE),
    ("the newer connection goes on", 10, 11, 13, 1, APPLY),
    ("first after final", 10, 13, 12, 0, IGNORE),
    ("below zero", 10, -1, 12, 0, IGNORE),
    ("beyond any id", 10, 11, ID_LIMIT, 0, IGNORE),
]


@pytest.mark.parametrize(
    ("last", "first", "final", "lead", "verdict"),
    [case[1:] for case in UPDATES],
    ids=[case[0] for case in UPDATES],
)
def test_an_update(last: int, first: int, final: int, lead: int, verdict: Verdict) -> None:
    sequence = at(last)
    assert sequence.update(first, final, lead) == verdict
    assert sequence.last == (final if verdict == APPLY else last)


# book's end, floor, ids of kept updates, id of the snapshot, whether it may wait -> verdict
SNAPSHOTS = [
    ("nothing kept", 0, 0, [], 10, False, APPLY),
    ("older than the first kept update", 0, 0, [(12, 13)], 10, False, NEED),
    ("reaches the first kept update", 0, 0, [(12, 13)], 11, False, APPLY),
    ("within the kept updates", 0, 0, [(12, 13), (14, 20)], 15, False, APPLY),
    ("behind what was published", 0, 50, [], 49, False, NEED),
    ("at what was published", 0, 50, [], 50, False, APPLY),
    ("behind the book, nothing kept", 10, 0, [], 9, False, IGNORE),
    ("behind the book, kept updates bring it forward", 10, 0, [(9, 9), (10, 10)], 9, False, APPLY),
    ("ahead of the stream, may wait", 10, 0, [], 12, True, WAIT),
    ("ahead of the stream, has waited", 10, 0, [], 12, False, APPLY),
]


@pytest.mark.parametrize(
    ("last", "floor", "kept", "snapshot", "patient", "verdict"),
    [case[1:] for case in SNAPSHOTS],
    ids=[case[0] for case in SNAPSHOTS],
)
def test_a_snapshot(
    last: int,
    floor: int,
    kept: list[tuple[int, int]],
    snapshot: int,
    patient: bool,
    verdict: Verdict,
) -> None:
    sequence = at(last)
    sequence.floor = floor
    for first, final in kept:
        assert sequence.keep(first, final) == APPLY
    assert sequence.snapshot(snapshot, 0, patient) == verdict
    if verdict == APPLY:
        assert (sequence.last, sequence.kept_first, sequence.kept_last) == (snapshot, 0, 0)
    else:
        assert sequence.last == last


# an update kept behind (11, 15) -> verdict, and the kept ids after it
KEPT = [
    ("next", 16, 17, True, APPLY, (11, 17)),
    ("kept already", 12, 15, True, IGNORE, (11, 15)),
    ("one id is missing", 17, 18, True, GAP, (17, 18)),
    ("of a connection that is ahead", 17, 18, False, IGNORE, (11, 15)),
]


@pytest.mark.parametrize(
    ("first", "final", "believed", "verdict", "ids"),
    [case[1:] for case in KEPT],
    ids=[case[0] for case in KEPT],
)
def test_a_kept_update(
    first: int, final: int, believed: bool, verdict: Verdict, ids: tuple[int, int]
) -> None:
    sequence = Sequence()
    assert sequence.keep(11, 15) == APPLY
    assert sequence.keep(first, final, believed) == verdict
    assert (sequence.kept_first, sequence.kept_last) == ids


def test_a_row_of_contained_updates_means_that_ids_have_started_again() -> None:
    sequence = at(1000)
    step = CONTAINED_NS // (CONTAINED_ROW - 1)
    found = [sequence.update(n, n, 0, n * step) for n in range(1, CONTAINED_ROW + 1)]
    assert found == [IGNORE] * (CONTAINED_ROW - 1) + [RESTARTED]


def test_the_same_contained_update_again_and_again_means_nothing() -> None:
    sequence = at(1000)
    found = {sequence.update(7, 7, 0, n * CONTAINED_NS) for n in range(20)}
    assert found == {IGNORE}


def test_contained_updates_of_the_older_connection_mean_nothing() -> None:
    sequence = at(1000)
    assert {sequence.update(n, n, -1, n * CONTAINED_NS) for n in range(1, 20)} == {IGNORE}


def test_an_applied_update_ends_a_row_of_contained_ones() -> None:
    sequence = at(1000)
    for n in range(1, CONTAINED_ROW):
        assert sequence.update(n, n, 0, n * CONTAINED_NS) == IGNORE
    assert sequence.update(1001, 1001) == APPLY
    assert sequence.update(500, 500, 0, 100 * CONTAINED_NS) == IGNORE


def test_low_ids_after_a_loss_are_accepted_in_the_end() -> None:
    sequence = at(1000)
    sequence.lose()
    assert sequence.floor == 1000
    step = LOW_NS // (LOW_ROW - 1)
    found = [sequence.keep(n, n, True, n * step) for n in range(1, LOW_ROW + 1)]
    assert found == [APPLY] * (LOW_ROW - 1) + [RESTARTED]
    assert (sequence.floor, sequence.kept_first, sequence.kept_last) == (0, LOW_ROW, LOW_ROW)


def test_old_snapshots_are_accepted_in_the_end() -> None:
    sequence = Sequence()
    sequence.keep(100, 110)
    step = OLD_NS // (OLD_ROW - 1)
    found = [sequence.snapshot(50, n * step) for n in range(OLD_ROW)]
    assert found == [NEED] * (OLD_ROW - 1) + [RESTARTED]
    assert sequence.snapshot(50, OLD_NS) == APPLY


def test_dropped_updates_need_a_newer_snapshot() -> None:
    sequence = Sequence()
    sequence.keep(11, 12)
    sequence.keep(13, 14)
    sequence.dropped(13)
    assert sequence.snapshot(11) == NEED
    assert sequence.snapshot(12) == APPLY


# phases and states


def test_every_phase_is_reached_and_left() -> None:
    assert set(PHASES) == set(Phase)
    assert set().union(*PHASES.values()) == set(Phase)
    assert all(Phase.EMPTY in after for before, after in PHASES.items() if before != Phase.EMPTY)


def test_nothing_is_published_of_a_market_without_a_connection() -> None:
    assert set(CHANGES) == set(State)
    assert not may_change(State.DISCONNECTED, State.SYNCED)
    assert not may_change(State.CONNECTING, State.BUFFERING)
    assert may_change(State.SYNCED, State.DISCONNECTED)
    assert may_change(State.QUARANTINED, State.SYNCED)
