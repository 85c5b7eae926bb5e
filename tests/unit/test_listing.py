"""Answers as text: nested numbers, flags, times, terminals of any width."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.listing import columns, text_of
from coinspace.observe.screen import _values

CANDLES = {
    "asset": "BTC",
    "candles": [
        {"ts": 1_767_225_600_000, "open": "1", "close": "2", "closed": True},
        {"ts": 1_767_225_660_000, "open": None, "close": None, "closed": False},
    ],
}
PREMIUM = {
    "asset": "BTC",
    "kr": {"currency": "KRW", "value": "140006230"},
    "premium": {"coin": "0.0000145", "executable": [{"size": "1", "sell_kr": "-0.002"}]},
    "inputs": {"upbit:BTC/KRW": {"sequence": "6"}},
    "flagged": [],
}
BOOK = {
    "market": "BTC/KRW",
    "bids": [["139990000", "1"], ["139989000", "2"]],
    "asks": [["139991000", "0.5"]],
}


def test_a_flag_is_no_time() -> None:
    text = text_of(CANDLES, None)
    assert "1970" not in text
    assert [line.split()[-1] for line in text.splitlines()[-2:]] == ["yes", "no"]
    assert "2026-01-01T00:01:00.000Z" in text
    assert text_of({"gaps": [{"closed": 1_767_225_600_000}]}, None).endswith("00.000Z\n")


def test_nested_numbers_are_shown() -> None:
    lines = text_of(PREMIUM, 40).splitlines()
    assert "kr.value      140006230" in lines
    assert "premium.coin  0.0000145" in text_of(PREMIUM, None)
    assert "premium.executable" in lines
    assert "size  sell_kr" in lines
    assert ["upbit:BTC/KRW", "6"] in [line.split() for line in lines]
    assert ["flagged", "none"] in [line.split() for line in lines]


def test_a_book_is_a_ladder() -> None:
    assert text_of(BOOK, None).splitlines()[-3:] == [
        "bid size        bid        ask  ask size",
        "       1  139990000  139991000       0.5",
        "       2  139989000",
    ]
    stored = {"orderbooks": [{"ts": 1_767_225_600_000, "bids": BOOK["bids"], "asks": []}]}
    assert "139990000 × 1 (+1)" in text_of(stored, None)
    merged = {"bids": [{"price": "10", "size": "3", "venues": []}], "asks": []}
    assert "3   10" in text_of(merged, None)


def test_a_wide_table_shows_what_matters_and_names_the_rest() -> None:
    rows = [{"asset": "BTC", "value": "100004.45", "confidence": "0.005", "reason": "x" * 200}]
    narrow = text_of({"indices": rows}, 40)
    assert "100004.45" in narrow
    assert "not shown: reason (--json has\nthem)" in text_of({"indices": rows}, 30)
    whole = text_of({"indices": rows}, None)
    assert "x" * 200 in whole
    assert "not shown" not in whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 4 * 10**12) | st.text(max_size=30) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(st.sampled_from(["ts", "bids", "asks", "value", "rows", "한글"]), JSON),
    st.integers(20, 120),
)
def test_no_line_is_wider_than_the_terminal(body: dict[str, Any], width: int) -> None:
    for line in text_of(body, width).splitlines():
        assert columns(line) <= width
    text_of(body, None)


@pytest.mark.parametrize(
    ("indices", "shown"),
    [
        ([], []),
        ([{"asset": "BTC", "value": None}], []),
        ([{"asset": "BTC", "value": "1"}], [("BTC", "1")]),
        (
            [{"asset": "BTC", "value": "1"}, {"asset": "ETH", "value": None}],
            [("BTC", "1"), ("…", "1 without a value")],
        ),
        (
            [{"asset": str(n), "value": "1" if n < 10 else None} for n in range(99)],
            [*((str(n), "1") for n in range(8)), ("…", "2 more, 89 without a value")],
        ),
    ],
)
def test_the_status_never_says_none(
    indices: list[dict[str, Any]], shown: list[tuple[str, str]]
) -> None:
    assert _values(indices) == shown


@pytest.mark.parametrize("ts", [10**30, -(10**30), 10**18])
def test_a_time_that_cannot_be_is_shown_as_it_is(ts: int) -> None:
    assert text_of({"ts": ts}, 80) == f"ts  {ts}000000 ns\n"
