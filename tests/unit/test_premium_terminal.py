"""`coinspace premium` in terminals of any width, and through a pipe."""

from __future__ import annotations

from typing import Any

import pytest

from coinspace.client import merged_premiums
from coinspace.listing import columns
from coinspace.premium import QUESTIONED, changed_lines, ordered, percent, table


def row(asset: str, coin: str | None, **more: Any) -> dict[str, Any]:
    moves = {"change_1h": "0.0004", "change_24h": "-0.0018", "percentile_24h": "0.6125"}
    return {
        "asset": asset,
        "ts": 1_767_225_600_000,
        "stale": False,
        "coin": coin,
        "fiat": None,
        "same_coin": "assumed",
        "stats": {"coin": moves, "fiat": {}},
        "trade": {"buy": "binance:BTC/USDT", "sell": "upbit:BTC/KRW", "coin": "-0.0011"},
        **more,
    }


ROWS = {
    one["asset"]: one
    for one in (
        row("ABC", "7.5", same_coin="questioned"),
        row("BTC", "0.0103", trade=None),
        row("ETH", "-0.0021", stale=True),
        row("XRP", None, fiat="0.02"),
        row("한국", "0.02", stats=None),
        row("FAR", "123456789.5", same_coin="questioned"),
    )
}


def test_the_highest_come_first_and_other_coins_last() -> None:
    assert [one["asset"] for one in ordered(ROWS, "coin")] == [
        "한국", "BTC", "ETH", "XRP", "FAR", "ABC",
    ]  # fmt: skip
    assert next(one["asset"] for one in ordered(ROWS, "fiat")) == "XRP"


@pytest.mark.parametrize("width", [1, 20, 40, 80, 100, 120])
@pytest.mark.parametrize("basis", ["coin", "fiat"])
def test_lines_fit(width: int, basis: str) -> None:
    lines = table(ordered(ROWS, basis), basis, width)
    assert len(lines) == 1 + len(ROWS)
    assert max(map(columns, lines)) <= max(width, 9)
    text = "\n".join(lines)
    if width >= 40:
        assert "BTC" in text
        assert "USDT %" in text
        assert QUESTIONED in text or "ABC?" in text
    if width >= 80:
        assert QUESTIONED in text
        assert "stale" in text


def test_a_line() -> None:
    heading, _, line, *_ = table(ordered(ROWS, "coin"), "coin", 80)
    assert heading.split() == ["asset", "USDT", "%", "USD", "%", "1", "h", "24", "h", "pct", "left"]
    assert line.split() == ["BTC", "+1.03", "-", "+0.04", "-0.18", "61", "-"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.0103", "+1.03"), ("-0.00001", "-0.00"), (None, "-"), ("x", "-"), ("1e9", "+1.0e+11"),
        ({}, "-"), ("12.5", "+1,250.00"),
    ],
)  # fmt: skip
def test_percent(value: Any, expected: str) -> None:
    assert percent(value) == expected


def test_a_pipe_gets_a_line_per_changed_premium() -> None:
    first = {"full": True, "premiums": list(ROWS.values()), "missing": []}
    rows = merged_premiums({}, first)
    assert len(list(changed_lines(first, rows))) == len(ROWS)
    change = {
        "full": False,
        "premiums": [
            {"asset": "BTC", "ts": 1_767_225_601_000, "coin": "0.0104"},
            {"asset": "ETH", "ts": 1_767_225_601_000},
            {"asset": "ABC", "coin": "7.6"},
        ],
        "missing": ["XRP"],
    }
    rows = merged_premiums(rows, change)
    assert "XRP" not in rows
    assert rows["BTC"]["stats"] == ROWS["BTC"]["stats"]
    assert [line.split("\t") for line in changed_lines(change, rows)] == [
        ["2026-01-01T00:00:01.000Z", "BTC", "+1.0400", "-"],
        ["2026-01-01T00:00:00.000Z", "ABC", "+760.0000", "-", QUESTIONED],
    ]
