"""Numbers and times at the API's edge."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinspace.endpoint.values import decimal, decimals, parse_instant, price
from coinspace.errors import ConfigError
from coinspace.method.digits import significant
from coinspace.recompute.commands import instant_ns, verify_index
from coinspace.storage.commands import _time_ns


@given(st.lists(st.one_of(st.none(), st.floats(width=64))))
def test_a_column_is_written_as_each_number(column: list[float | None]) -> None:
    assert decimals(column) == [decimal(one) for one in column]


@given(st.floats(width=64, allow_subnormal=False))
def test_a_price_is_written_as_its_significant_digits(value: float) -> None:
    assert price(value) == decimal(significant(value))


@given(st.floats(width=64))
def test_a_number_reads_back_as_the_same_double(value: float) -> None:
    text = decimal(value)
    if not math.isfinite(value):
        assert text is None
        return
    assert text is not None
    assert float(text) == value
    assert "e" not in text.lower()
    assert Decimal(text) == Decimal(repr(value))


NOW_MS = 1_796_008_561_234


@pytest.mark.parametrize("text", ["1796008561", "1796008561234000", "1796008561234000000"])
def test_a_time_in_another_unit_is_refused_everywhere(text: str) -> None:
    meant = NOW_MS // 1000 * 1000 if len(text) == 10 else NOW_MS
    words = re.escape(f"did you mean milliseconds, {meant}?")
    with pytest.raises(ValueError, match=words):
        parse_instant(text)
    with pytest.raises(ConfigError, match=words):
        _time_ns(text, "--from")
    context = click.Context(verify_index)
    with pytest.raises(click.BadParameter, match=words):
        instant_ns(context, verify_index.params[1], text)


def test_a_time_in_milliseconds_is_taken_everywhere() -> None:
    context = click.Context(verify_index)
    for text in (str(NOW_MS), "2026-11-30T03:16:01.234+00:00"):
        assert parse_instant(text) == NOW_MS
        assert _time_ns(text, "--from") == NOW_MS * 1_000_000
        assert instant_ns(context, verify_index.params[1], text) == NOW_MS * 1_000_000
    # small numbers are not a present time in any unit
    assert parse_instant("0") == 0
    assert parse_instant("5") == 5


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "soon", ""])
def test_invalid_times_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected ms since 1970 or ISO 8601"):
        instant_ns(click.Context(verify_index), verify_index.params[1], text)
