"""Reconciling without a database: ranges are sets, memory does not grow with time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.clock import SECOND_NS
from coinspace.config import StoragePolicy
from coinspace.storage import reconcile, schema
from coinspace.storage.policy import Policies
from coinspace.storage.questdb.address import Address
from coinspace.storage.reconcile import Ranges, Report, _Comparison, _Fact

TOPIC = b"orderbook.upbit.BTC/KRW."
PUBLISHER = "orderbook-collector-upbit"
START_NS = 1_700_000_000 * SECOND_NS
ADDRESS = Address("", "", "", "", "", "")

ranges = st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda one: (one[0], sum(one)))


def members(found: list[tuple[int, int]]) -> list[int]:
    return [sequence for first, last in found for sequence in range(first, last + 1)]


@given(st.lists(ranges, max_size=20), ranges)
def test_ranges_are_sets(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    made = Ranges()
    for one in added:
        made.add(*one)
    expected = set(members(added))
    assert [i for i in range(80) if i in made] == sorted(expected)
    inside, outside = made.split(*asked)
    assert members(inside) == [i for i in members([asked]) if i in expected]
    assert members(outside) == [i for i in members([asked]) if i not in expected]
    assert len(made) == len(Ranges(added))


class Database:
    """Rows of `gap`, as the server returns them, and no trades."""

    def __init__(self, gaps: list[tuple[Any, ...]]) -> None:
        self._gaps = gaps

    def cursor(self) -> Database:
        return self

    def stream(self, query: str, values: Any) -> Iterator[tuple[Any, ...]]:
        yield from self._gaps


def compare(
    monkeypatch: pytest.MonkeyPatch,
    facts: Iterator[_Fact],
    rows: Iterator[_Fact],
    gaps: list[tuple[Any, ...]] = [],  # noqa: B006 (never changed)
    policy: list[StoragePolicy] = [],  # noqa: B006
    from_ns: int = START_NS,
) -> Report:
    @contextmanager
    def connect(found: Address) -> Iterator[Database]:
        yield Database(gaps)

    monkeypatch.setattr(schema, "connect", connect)
    report = Report(from_ns, START_NS + 86_400 * SECOND_NS)
    _Comparison(report, ADDRESS, PUBLISHER, Policies(policy, 30)).run([facts], [rows])
    return report


def fact(sequence: int, at_ns: int, *, repeat: bool = False, before: int = 0) -> _Fact:
    return _Fact(TOPIC, 7, sequence, at_ns, before, repeat)


def at(sequence: int) -> int:
    return START_NS + sequence * 50_000_000


def row(sequence: int, at_ns: int = 0, before: int = 0) -> _Fact:
    return _Fact(TOPIC, 7, sequence, at_ns or at(sequence), before)


def test_memory_does_not_grow_with_the_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "LINES_LIMIT", 10)

    def peak(n: int) -> int:
        missing = {9, 5000}
        facts = (fact(i, at(i), repeat=i % 10 == 0) for i in range(1, n + 1))
        rows = (row(i) for i in range(1, n + 1) if i % 10 and i not in missing)
        tracemalloc.start()
        report = compare(monkeypatch, facts, rows)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        total = report.total
        assert (total.published, total.repeats) == (n, n // 10)
        assert total.stored == n - n // 10 - 1
        assert [one[3] for one in report.unexplained] == [9]
        assert len(report.lines) <= 10
        return size

    small = peak(10_000)
    assert peak(40_000) < 1.5 * small


def test_a_lost_range_of_any_size_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = 1 << 50
    gap = ("orderbook", "upbit", "BTC/KRW", 7, 3, huge, huge - 2, "lost", START_NS + 5)
    report = compare(monkeypatch, iter([fact(1, at(1))]), iter([row(1), row(2)]), [gap, gap])
    total = report.total
    assert (total.stored, total.lost, total.published) == (2, huge - 2, huge)
    assert (total.gaps, total.unexplained) == (huge - 2, 0)


def test_a_huge_gap_is_counted_as_unexplained(monkeypatch: pytest.MonkeyPatch) -> None:
    last = 1 << 50
    report = compare(monkeypatch, iter([]), iter([row(1), row(last, at(2))]))
    assert report.total.unexplained == last - 2
    assert len(report.unexplained) == 1000


def test_a_row_is_found_although_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # written in this order; the database sorts by time
    times = [at(1), at(2), START_NS + 600 * SECOND_NS, at(3), at(4)]
    facts = [fact(i + 1, times[i]) for i in range(5)]
    rows = sorted((row(i + 1, times[i]) for i in range(5)), key=lambda one: one.published_ns)
    total = compare(monkeypatch, iter(facts), iter(rows)).total
    assert (total.published, total.stored, total.journalled) == (5, 5, 5)
    assert total.unexplained == 0


def test_rows_say_how_many_repeats_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = iter([row(1), row(4, before=2), row(5), row(7)])
    report = compare(monkeypatch, iter([]), rows)
    total = report.total
    assert (total.stored, total.repeats, total.unexplained) == (4, 2, 1)
    assert report.unexplained == [(PUBLISHER, TOPIC.decode(), 7, 6)]


def test_messages_that_the_policy_leaves_out_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = [StoragePolicy(markets=["*"], books_per_second=1)]
    # 20 messages a second; the first of each second has a row, but that of the third is missing
    sequences = range(1, 2001)
    first = {i for i in sequences if i == 1 or at(i) // SECOND_NS != at(i - 1) // SECOND_NS}
    third = sorted(first)[3]
    kept = [row(i) for i in sorted(first - {third})]
    report = compare(monkeypatch, (fact(i, at(i)) for i in sequences), iter(kept), policy=policy)
    total = report.total
    assert (total.stored, total.thinned) == (len(kept), 2000 - len(kept) - 20)
    # a second without a row is not explained
    assert total.unexplained == 20
    assert [one[3] for one in report.unexplained] == list(range(third, third + 20))
    # a row that was fetched late: a later message of that second
    late = [row(third + 19), *kept]
    late.sort(key=lambda one: one.published_ns)
    report = compare(monkeypatch, (fact(i, at(i)) for i in sequences), iter(late), policy=policy)
    assert (report.total.unexplained, report.total.thinned) == (0, 2000 - len(late))
    # without the journal, all between two rows counts as left out
    report = compare(monkeypatch, iter(()), iter(kept), policy=policy)
    assert report.total.unexplained == 0
    assert report.total.thinned == max(first) - len(kept)
    # a time that begins within an interval: its row was published before
    middle = [fact(i, at(i)) for i in sequences if i > 8]
    report = compare(monkeypatch, iter(middle), iter(kept[1:]), policy=policy, from_ns=at(9))
    assert report.total.unexplained == 20
    # a market that is not thinned
    report = compare(monkeypatch, (fact(i, at(i)) for i in sequences), iter(kept))
    assert report.total.unexplained == 2000 - len(kept)
