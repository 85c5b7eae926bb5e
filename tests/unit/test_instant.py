"""Times that people write, of commands and of requests."""

from __future__ import annotations

import click
import pytest

from coinspace.errors import ConfigError
from coinspace.instant import LATEST_MS, instant_ms, shown, typed_ns
from coinspace.recompute.commands import instant, verify_index
from coinspace.storage.commands import _time_ns

NOW_MS = 1_796_008_561_234
EXPECTED = "expected epoch milliseconds or ISO 8601 with a zone (2026-01-31T09:00:00Z), was "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000000", 1_700_000_000_000_000_000),
        ("1700000000000.5", 1_700_000_000_000_500_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000_000_000),
        ("2023-11-15T07:13:20+09:00", 1_700_000_000_000_000_000),
        ("2023-11-14T22:13:20.000001Z", 1_700_000_000_000_001_000),
        ("2199-12-31T23:59:59.999999Z", LATEST_MS * 1_000_000 - 1000),
        # small numbers are not a present time in any unit
        ("0", 0),
        ("5", 5_000_000),
    ],
)
def test_times_are_read_exactly(text: str, expected: int) -> None:
    assert typed_ns(text) == expected


def test_a_request_takes_whole_milliseconds_and_needs_a_zone() -> None:
    for text in (str(NOW_MS), "2026-11-30T03:16:01.2349+00:00"):
        assert instant_ms(text) == NOW_MS
    for text in ("2026-11-30", "2026-11-30T03:16:01.234"):
        with pytest.raises(ValueError, match="it has no zone"):
            instant_ms(text)
    with pytest.raises(ValueError, match="it is neither"):
        instant_ms(f"{NOW_MS}.5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # seconds, microseconds, nanoseconds
        ("1796008561", "did you mean milliseconds, 1796008561000?"),
        ("1796008561234000", "did you mean milliseconds, 1796008561234?"),
        ("1796008561234000000", "did you mean milliseconds, 1796008561234?"),
        (str(LATEST_MS + 1), "it is not between 1970 and 2200"),
        ("1969-12-31T23:59:59Z", "it is not between 1970 and 2200"),
        ("9999-12-31T23:59:59-23:59", "it is not between 1970 and 2200"),
        *((text, "it is neither") for text in ("nan", "inf", "1e400", "soon", "", "-5", "٣", "5.")),
    ],
)
def test_other_texts_are_refused_in_one_way(text: str, reason: str) -> None:
    for read in (instant_ms, typed_ns):
        with pytest.raises(ValueError, match=r"^expected") as refused:
            read(text)
        assert str(refused.value) == f"{EXPECTED}{text!r}: {reason}"


def test_commands_name_the_option() -> None:
    with pytest.raises(ConfigError, match="--to: expected epoch milliseconds"):
        _time_ns("soon", "--to")
    with pytest.raises(click.BadParameter, match="expected epoch milliseconds"):
        instant(click.Context(verify_index), verify_index.params[1], "soon")


def test_a_time_is_shown_with_milliseconds() -> None:
    assert shown(NOW_MS * 1_000_000) == "2026-11-30T03:16:01.234Z"
    assert instant_ms(shown(NOW_MS * 1_000_000)) == NOW_MS
    assert shown(1 << 70) == f"{1 << 70} ns"
