"""Typed answers of the client: the fields of the server, as Python values, readable."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime
from typing import Any, get_args, get_origin

import msgspec
import pandas as pd
import polars as pl
import pytest

from coinspace.client import Rows, answers
from coinspace.client.answers import (
    Answer,
    Book,
    ConsolidatedBook,
    Gap,
    IndexValue,
    Methodology,
    ProcessHealth,
    Ticker,
    Venue,
    fields,
)
from coinspace.endpoint import models
from coinspace.endpoint.values import EpochMs

# answers of the client by the server's name, where it has another
NAMES = {"IndexValue": "LatestIndexValue", "TickValue": "IndexValue"}
KINDS = [
    one
    for one in vars(answers).values()
    if isinstance(one, type) and issubclass(one, Answer) and one is not Answer
    and not one.__name__.startswith("_")
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_answer_has_the_fields_of_the_server(kind: type[Answer]) -> None:
    model = getattr(models, NAMES.get(kind.__name__, kind.__name__))
    served = {one.name: one.type for one in msgspec.structs.fields(model)}
    assert set(fields(kind)) == set(served)
    for name, hint in fields(kind).items():
        optional = type(None) in get_args(served[name])
        assert (type(None) in get_args(hint)) == optional, name
        times = served[name] in (EpochMs, EpochMs | None)
        assert ("datetime" in str(hint)) == times, name


INDEX = IndexValue(
    {
        "asset": "BTC",
        "ts": 1_767_225_600_200,
        "value": "100004.45",
        "currency": "USDT",
        "status": "ok",
        "stale": False,
        "kr": None,
        "premium": {"coin": "0.0000145", "fiat": None, "executable": [{"size": "1"}]},
        "constituents": [
            {"venue": "upbit:BTC/KRW", "used": True, "share": "0.3", "age_ms": 40},
            {"venue": "bithumb:BTC/KRW", "used": False, "share": "0", "reason": "delayed"},
        ],
        "of_a_newer_server": 1,
    }
)


def test_fields_are_python_values() -> None:
    assert INDEX.value == 100004.45
    assert INDEX.ts == datetime(2026, 1, 1, 0, 0, 0, 200_000, UTC)
    assert INDEX.kr is None
    assert INDEX.premium is not None
    assert INDEX.premium.coin == 0.0000145
    assert INDEX.premium.executable[0].size == 1.0
    assert INDEX.constituents[0].share == 0.3
    # as it was sent
    assert INDEX["value"] == "100004.45"
    assert INDEX["of_a_newer_server"] == 1
    assert "premium" in dir(INDEX)


def test_a_field_that_is_missing_says_why() -> None:
    with pytest.raises(AttributeError, match=r"IndexValue\.gl: the endpoint .* is older"):
        _ = INDEX.gl
    with pytest.raises(AttributeError, match="has no field 'volatility'"):
        _ = INDEX.volatility
    assert not hasattr(INDEX, "gl")


def test_an_answer_is_copied_and_pickled() -> None:
    assert pickle.loads(pickle.dumps(INDEX)) == copy.deepcopy(INDEX) == INDEX
    assert type(copy.copy(INDEX)) is type(pickle.loads(pickle.dumps(INDEX))) is IndexValue


def test_an_answer_is_readable() -> None:
    assert repr(INDEX) == (
        "IndexValue(asset=BTC, value=100004.45, currency=USDT, status=ok,"
        " ts=2026-01-01 00:00:00.200Z, premium=Premium(coin=1.45e-05, fiat=None))"
    )
    page = INDEX._repr_html_()
    assert "<td>2 × Constituent</td>" in page
    assert "100004.45" in page
    assert repr(INDEX.constituents) == (
        "[Constituent(venue=upbit:BTC/KRW, used=True, share=0.3),\n"
        " Constituent(venue=bithumb:BTC/KRW, used=False, share=0.0, reason=delayed)]"
    )
    assert "<th>venue</th>" in INDEX.constituents._repr_html_()
    hostile = Rows([Venue({"venue": "<script>", "reason": None})] * 30)
    assert "<script>" not in hostile._repr_html_()
    assert "… 20 rows …" in hostile._repr_html_()
    assert repr(hostile).endswith("… 20 more]")
    assert Rows()._repr_html_() == "none"


def test_rows_become_frames() -> None:
    frame = Rows([INDEX, INDEX]).to_pandas()
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert frame["premium.coin"].tolist() == [0.0000145] * 2
    assert frame["gl.value"].isna().all()
    polars = Rows([INDEX]).to_polars()
    assert polars.schema["premium.fiat"] == pl.Float64
    assert polars.schema["ts"] == pl.Datetime("ms", "UTC")
    assert polars["constituents"].list.len().to_list() == [2]
    assert INDEX.to_pylist()[0]["value"] == 100004.45
    venues = INDEX.constituents.to_polars()
    assert venues["reason"].to_list() == [None, "delayed"]
    health = ProcessHealth({"process": "a", "counters": {"frames": 1.0}})
    assert health.to_polars()["counters"].to_list() == [[{"name": "frames", "value": 1.0}]]
    methodology = Methodology({"definitions": [{"asset": "BTC", "parameters": {"a": [1]}}]})
    assert methodology.definitions.to_polars()["parameters"].to_list() == ['{"a":[1]}']


@pytest.mark.parametrize("kind", [Gap, Ticker, Venue, IndexValue, ProcessHealth])
def test_no_rows_are_an_empty_frame(kind: Any) -> None:
    assert len(Rows[Any]().to_pandas()) == len(Rows[Any]().to_polars()) == 0
    empty = kind({}).to_polars()
    assert [name.partition(".")[0] for name in empty.columns]
    assert empty.null_count().sum_horizontal().sum() == len(empty.columns)


def test_a_book_is_a_frame_of_levels() -> None:
    book = Book(
        {
            "exchange": "upbit",
            "market": "BTC/KRW",
            "ts": 1_767_225_600_000,
            "status": "ok",
            "bids": [["10", "1"], ["9", "2.5"]],
            "asks": [["11", "0.0000001"]],
        }
    )
    assert book.bids == [(10.0, 1.0), (9.0, 2.5)]
    assert book.to_polars().rows() == [
        ("bid", 0, 10.0, 1.0),
        ("bid", 1, 9.0, 2.5),
        ("ask", 0, 11.0, 1e-7),
    ]
    assert "bid 10.0 × 1.0 (2 levels), ask 11.0 × 1e-07 (1 levels))" in repr(book)
    merged = ConsolidatedBook(
        {
            "asset": "BTC",
            "bids": [{"price": "10", "size": "3", "venues": [{"venue": "a", "size": "3"}]}],
            "asks": [],
            "venues": [{"venue": "a"}, {"venue": "b"}],
        }
    )
    frame = merged.to_pandas()
    assert frame.columns.tolist() == ["side", "level", "price", "size", "a", "b"]
    assert frame["a"].tolist() == [3.0]
    assert frame["b"].isna().all()
    assert "ask none" in repr(merged)


def test_types_are_those_of_the_annotations() -> None:
    assert get_origin(fields(IndexValue)["constituents"]) is Rows
