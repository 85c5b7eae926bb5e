"""Spans of published ticks compared with a plain set of ticks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from coinspace.index.published import SPANS_KEPT, Published

STEP = 200
tick = st.integers(min_value=1, max_value=60).map(lambda number: number * STEP)
span = st.tuples(tick, tick).map(lambda pair: (min(pair), max(pair)))
operation = st.tuples(st.sampled_from(["add", "remove"]), span)


@given(st.lists(operation, max_size=30), span)
def test_spans_equal_a_set_of_ticks(
    operations: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    published, ticks = Published(STEP), set[int]()
    for name, (first, last) in operations:
        getattr(published, name)(first, last)
        covered = set(range(first, last + 1, STEP))
        ticks = ticks | covered if name == "add" else ticks - covered
    everything = range(STEP, 62 * STEP, STEP)
    assert {one for one in everything if published.span(one) is not None} == ticks
    assert published.last_ns >= max(ticks, default=0)
    free = {
        one for first, last in published.free(*asked, STEP) for one in range(first, last + 1, STEP)
    }
    assert free == set(range(asked[0], asked[1] + 1, STEP)) - ticks
    spans = published.spans
    assert spans == sorted(spans)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@given(st.lists(tick, unique=True, max_size=60))
def test_spans_are_bounded_and_none_is_forgotten(ticks: list[int]) -> None:
    published = Published(0)
    for one in ticks:
        published.add(one * 1000)
        for number in range(200):
            published.add(10**9 + number * 7 + one * 5000)
    assert len(published.spans) <= SPANS_KEPT
    assert all(published.span(one * 1000) is not None for one in ticks)


def test_ticks_in_a_row_are_one_span() -> None:
    published = Published(STEP)
    for number in range(10_000):
        published.add(number * STEP)
    assert published.spans == [(0, 9999 * STEP)]
