"""Prices of any size keep the digits that exchanges quote: in records, answers and columns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import replace

from coinspace.cli import coinspace
from coinspace.config import IndexParameters
from coinspace.endpoint.records import index_value, served
from coinspace.endpoint.routes.history import points
from coinspace.endpoint.values import decimal, price
from coinspace.method.digits import rounded, significant
from coinspace.method.parameters import parameter_hash
from coinspace.method.record import IndexRecord, decode
from coinspace.recompute.verify import RecordComparison, Verification
from coinspace.storage.records import comparable, tick_row

NOW_MS = 1_700_000_000_000

# a price and its price step, as exchanges quote them
QUOTED = [
    (0.00000043, 1e-8),
    (0.00000843, 1e-8),
    (0.0000119, 1e-8),
    (0.0006, 1e-6),
    (0.0118, 1e-4),
    (0.08312, 1e-5),
    (1.5314, 1e-4),
    (152.37, 0.01),
    (3012.55, 0.01),
    (123456.78, 0.01),
    (98_012_000.0, 1000.0),
]


@given(st.floats(min_value=1e-12, max_value=1e15))
def test_eight_digits_stay_and_no_price_becomes_zero(value: float) -> None:
    found = significant(value)
    assert found > 0
    assert math.isclose(found, value, rel_tol=5.1e-8)
    assert significant(found) == found
    text = decimal(found) or ""
    assert len(text.replace(".", "").strip("0")) <= max(8, len(text.partition(".")[0]))


@pytest.mark.parametrize(("value", "tick"), QUOTED)
def test_every_tick_of_an_exchange_is_kept(value: float, tick: float) -> None:
    assert significant(value) == value
    assert significant(value + tick) != value
    # noise of a division or a sum is not kept
    assert price(value * (1 + 1e-12)) == decimal(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.0, -0.0])
def test_zero_and_infinity_do_not_change(value: float) -> None:
    assert significant(value) == value
    assert math.isnan(significant(math.nan))


def test_explicit_decimals_win_unless_the_result_is_zero() -> None:
    assert rounded(86410.127, 2) == 86410.13
    assert rounded(1.6, 0) == 2.0
    assert rounded(0.00000843, 4) == 0.00000843
    assert rounded(-0.2, 0) == -0.2
    assert rounded(0.0, 4) == 0.0


def test_parameters_that_name_their_decimals_keep_their_hash() -> None:
    # published under this hash before decimals could be left out
    assert parameter_hash(IndexParameters(decimals=4)) == "24eb93e5d5224b6d"
    assert parameter_hash(IndexParameters()) != parameter_hash(IndexParameters(decimals=4))


def book(exchange: str, market: str, mid: float) -> dict[str, Any]:
    step = mid * 1e-4
    return {
        "exchange": exchange,
        "market": market,
        "recv_ms": NOW_MS - 100,
        "bids": [[mid - step * i, 1e6] for i in range(1, 16)],
        "asks": [[mid + step * i, 1e6] for i in range(1, 16)],
    }


def record(tmp_path: Path, usd: float, *options: str) -> Any:
    books = [
        book("upbit", "TINY/KRW", usd * 1400),
        book("bithumb", "TINY/KRW", usd * 1401),
        book("binance", "TINY/USDT", usd),
        book("upbit", "USDT/KRW", 1400.0),
    ]
    path = tmp_path / "books.jsonl"
    path.write_text(json.dumps({"now_ms": NOW_MS, "asset": "TINY", "books": books}) + "\n")
    command = ["compute-index", "--snapshots", str(path), *options]
    result = CliRunner().invoke(coinspace, command)
    assert result.exit_code == 0, result.output
    return decode(result.stdout.encode())


@pytest.mark.parametrize("usd", [price for price, _ in QUOTED])
def test_an_index_has_the_digits_of_its_venues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usd: float
) -> None:
    monkeypatch.chdir(tmp_path)
    found = record(tmp_path, usd)
    assert found.status in ("ok", "degraded")
    for value, raw in (
        (found.value, found.value_raw),
        (found.regions["KR"].value, found.kr),
        (found.regions["GL"].value, found.gl),
    ):
        assert value == pytest.approx(raw, rel=1e-7)
        assert value == significant(raw)
    # four decimals were the default: they still work, but never give zero
    coarse = record(tmp_path, usd, "--decimals", "4")
    assert coarse.value == (round(found.value_raw, 4) or found.value)


def test_a_live_record_and_its_stored_row_show_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for usd, decimals in ((0.00000843, None), (86_410.37, 2)):
        options = [] if decimals is None else ["--decimals", str(decimals)]
        one = record(tmp_path, usd, *options)
        live: Any = index_value(one)
        row = {**to_builtins(one), "ns": NOW_MS * 1_000_000, "n_used": 3}
        (point,) = points([row], decimals)
        whole = served(row, decimals)
        assert point.gl == decimal(whole["gl"])
        assert point.premium == decimal(whole["premium"])
        for name in ("value", "value_krw", "best_bid", "best_ask", "fx"):
            assert getattr(point, name) == getattr(live, name)
        assert point.premium == live.premium.coin
        assert (point.kr, point.gl) == (live.kr.value, live.gl.value)


def test_stored_figures_have_eight_digits_and_memory_keeps_every_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = record(tmp_path, 86_410.37)
    columns = tick_row(replace(one, confidence=0.005000000004656613, premium=1 / 3)).columns
    assert columns["confidence"] == 0.005
    assert columns["premium"] == 0.33333333
    assert columns["best_bid"] == significant(one.best_bid)
    for name in ("value", "value_raw", "kr", "gl", "fx"):
        assert columns[name] == getattr(one, name)


def compared(one: IndexRecord, **stored_as: Any) -> Verification:
    """Compare a record with its stored row, in which some columns differ."""
    ts_ns = NOW_MS * 1_000_000
    comparison = RecordComparison(None, ["TINY"], ts_ns, ts_ns + 1, ts_ns + 1)  # type: ignore[arg-type]
    comparison.stored.ticks["TINY", ts_ns] = {**comparable(one), **stored_as}
    comparison.stored.venues["TINY", ts_ns] = one.venues
    comparison.stored.venues["USDT", ts_ns] = one.fx_venues
    comparison.take(one)
    return comparison.verdict


def test_older_and_newer_stored_records_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = record(tmp_path, 86_410.37)
    assert compared(one).equal == 1
    assert compared(one, best_bid=one.best_bid, premium=one.premium).equal == 1
    for wrong in (
        {"best_bid": one.best_bid * (1 + 1e-9)},
        {"best_bid": None},
        {"value_raw": significant(one.value_raw)},
        {"kr": one.kr * (1 + 1e-15)},
    ):
        verdict = compared(one, **wrong)
        assert verdict.different == 1
        assert set(verdict.differences[0]["fields"]) == set(wrong)


def test_noise_of_float64_is_not_served() -> None:
    assert price(0.005000000004656613) == "0.005"
    assert price(86525.92327310126) == "86525.923"
    assert price(116004954.37687257) == "116004954"
    assert price(0.9275014999999999) == "0.9275015"
    assert price(4.3e-07) == "0.00000043"
