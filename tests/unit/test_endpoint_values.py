"""Numbers and times at the API's edge."""

from __future__ import annotations

import math
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from coinspace.endpoint.values import decimal, decimals, price
from coinspace.method.digits import significant


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
