"""Every reason for a missing venue or value, and every bad input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.errors import CoinSpaceError
from coinspace.recompute.snapshots import SnapshotError
from tests.unit.index_books import NOW_MS, Run, book, rate_books, reason


def others() -> list[dict[str, Any]]:
    return [book("binance", 100_000, fx=1), book("bithumb", 140_000_000, fx=1400)]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"state": "operator"}, "operator"),
        ({"state": "disconnected"}, "disconnected"),
        ({"state": "halted"}, "halted"),
        ({"state": "resyncing"}, "resyncing"),
        ({"recv_ms": NOW_MS + 200 - 10_000}, "delayed"),
        ({"recv_ms": NOW_MS + 200 + 1}, "delayed"),
        ({"fx": None}, "no_fx"),
        ({"fx": 0}, "no_fx"),
        ({"fx": -1400}, "no_fx"),
        ({"fx": "inf"}, "no_fx"),
        ({"fx": "nan"}, "no_fx"),
        ({"fx": 1e-308}, "empty"),
        ({"bids": []}, "empty"),
        ({"asks": [["nan", 1], [1, "inf"], [-5, 1], [1, 0], [1, -1], [0, 1]]}, "empty"),
        ({"bids": [[140_000_000, 1]], "asks": [[140_000_000, 1]]}, "crossed"),
        ({"bids": [[140_000_001, 1]], "asks": [[140_000_000, 1]]}, "crossed"),
    ],
)
def test_reason_of_a_venue(facts: dict[str, Any], expected: str) -> None:
    record = Run().tick(*others(), {**book("upbit", 140_000_000, fx=1400), **facts})
    assert reason(record, "upbit") == expected
    assert record.venues["upbit:BTC/KRW"].used is False
    assert record.venues["upbit:BTC/KRW"].share == 0.0
    assert record.status == "degraded"
    assert record.value == 100_000


def test_first_match_wins() -> None:
    worst = {"state": "disconnected", "recv_ms": 0, "fx": None, "bids": []}
    record = Run().tick(*others(), {**book("upbit", 1, fx=1), **worst})
    assert reason(record, "upbit") == "disconnected"
    record = Run().tick(*others(), {**book("upbit", 1, fx=1), **worst, "state": "ok"})
    assert reason(record, "upbit") == "delayed"


def test_age_just_below_the_limit_counts() -> None:
    fresh = {**book("upbit", 140_000_000, fx=1400), "recv_ms": NOW_MS + 200 - 9_999}
    record = Run().tick(*others(), fresh)
    assert reason(record, "upbit") is None
    assert record.venues["upbit:BTC/KRW"].age_ms == 9_999
    assert record.status == "ok"


def test_frozen_while_the_others_move() -> None:
    run = Run()
    still = book("upbit", 140_000_000, fx=1400)
    for second in range(61):
        mid = 100_000 * (1.0021 if second >= 30 else 1)
        record = run.tick(
            book("binance", mid, fx=1),
            book("bithumb", mid * 1400 + second, fx=1400),
            still,
            step_ms=1000,
        )
        # 60 s after its last change, not before
        assert reason(record, "upbit") == ("frozen" if second >= 60 else None)
    assert reason(record, "binance") is None
    record = run.tick(
        book("binance", mid, fx=1),
        book("bithumb", mid * 1400, fx=1400),
        book("upbit", mid * 1400, fx=1400),
    )
    assert reason(record, "upbit") is None


def test_quiet_is_not_frozen() -> None:
    run = Run()
    for second in range(100):
        moved = 100_000 * (1.0019 if second > 20 else 1)
        record = run.tick(
            book("binance", moved + second * 0.01, fx=1),
            book("bithumb", 140_000_000 + second, fx=1400),
            book("upbit", 140_000_000, fx=1400),
            step_ms=1000,
        )
        assert reason(record, "upbit") is None


@pytest.mark.parametrize("names", [(), ("binance",), ("upbit",), ("upbit", "bithumb")])
def test_too_few_venues(names: tuple[str, ...]) -> None:
    prices = {"binance": (100_000, 1), "upbit": (140_000_000, 1400), "bithumb": (140_000_000, 1400)}
    record = Run().tick(*(book(name, prices[name][0], fx=prices[name][1]) for name in names))
    assert (record.value, record.reason) == (None, "too_few_venues")
    assert record.status == "null"
    # a region's value needs one venue
    korean = sum(name != "binance" for name in names)
    assert record.kr == (140_000_000 if korean else None)
    assert record.regions["KR"].single_source == (korean == 1 if korean else None)


def test_regions_off_needs_only_the_count() -> None:
    run = Run(regions="off")
    record = run.tick(book("upbit", 140_000_000, fx=1400), book("bithumb", 140_000_000, fx=1400))
    assert record.value == 100_000
    assert Run(regions="off", min_venues=1).tick(book("binance", 5.0, fx=1)).value == 5


def test_insufficient_depth() -> None:
    wide = {"bids": [[99_000, 1]], "asks": [[101_000, 1]]}
    record = Run().tick(
        {**book("binance", 100_000, fx=1), **wide},
        {**book("upbit", 100_000, fx=1), **wide},
    )
    assert record.reason == "insufficient_depth"
    assert record.value is None
    assert record.value_raw is None
    # on the grid, the first point always counts
    record = Run(mode="grid").tick(
        {**book("binance", 100_000, fx=1), **wide}, {**book("upbit", 100_000, fx=1), **wide}
    )
    assert record.value == 100_000
    # except without a first point
    record = Run(mode="grid", spacing=100).tick(*others(), book("upbit", 140_000_000, fx=1400))
    assert record.reason == "insufficient_depth"


@pytest.mark.parametrize("size", [1e-300, 1e-12, 1e12, 1e160, 1e300, 1e308])
def test_extreme_sizes_give_a_value(size: float) -> None:
    huge = book("upbit", 140_000_000, fx=1400)
    huge["bids"] = [[price, size] for price, _ in huge["bids"]]
    huge["asks"] = [[price, size] for price, _ in huge["asks"]]
    for changes in ({}, {"mode": "grid"}, {"depth": "full"}):
        record = Run(**changes).tick(*others(), huge)
        assert record.value == pytest.approx(100_000, rel=1e-6)
        shares = [one.share for one in record.venues.values()]
        assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("price", [1e-300, 1e300, 1.7e308])
def test_extreme_prices_do_not_crash(price: float) -> None:
    record = Run().tick(
        *others(), {**book("upbit", 1, fx=1), "asks": [[price, 1]], "bids": [[price / 2, 1]]}
    )
    assert reason(record, "upbit") in ("deviating", "empty")
    assert record.value == 100_000 or record.reason is not None


def test_duplicate_prices_within_a_venue_add_up() -> None:
    double = book("upbit", 140_000_000, fx=1400)
    double["bids"] = [one for level in double["bids"] for one in (level, level)]
    double["asks"] = [one for level in double["asks"] for one in (level, level)]
    whole = book("upbit", 140_000_000, fx=1400)
    whole["bids"] = [[price, 2.0] for price, _ in whole["bids"]]
    whole["asks"] = [[price, 2.0] for price, _ in whole["asks"]]
    a, b = Run(cap_sigmas=1000).tick(*others(), double), Run(cap_sigmas=1000).tick(*others(), whole)
    assert a.value_raw == pytest.approx(b.value_raw, rel=1e-12)
    assert a.utilised_depth == pytest.approx(b.utilised_depth)


def test_one_level_books() -> None:
    one = {"bids": [[99_990, 1]], "asks": [[100_010, 1]]}
    record = Run().tick({**book("binance", 1, fx=1), **one}, {**book("upbit", 1, fx=1), **one})
    assert record.value == 100_000
    assert record.curve_end == "exhausted"
    assert record.depth_limited is True


def test_clock_steps_back_without_a_crash() -> None:
    run = Run()
    books = [*others(), book("upbit", 140_000_000, fx=1400)]
    assert run.tick(*books).value == 100_000
    assert run.tick(*books, step_ms=-3_600_000).value == 100_000
    fx = [book("upbit", 140_000_000), *rate_books(1400, 1400), book("binance", 100_000)]
    assert run.tick(*fx).fx_status == "ok"
    assert run.tick(*fx, step_ms=-3_600_000).value == 100_000


def test_a_venue_that_appears_mid_run() -> None:
    run = Run()
    assert run.tick(*others()).value == 100_000
    record = run.tick(*others(), book("upbit", 140_000_000, fx=1400))
    assert record.venues["upbit:BTC/KRW"].used is True
    assert record.status == "ok"


def test_fails_after_a_minute_of_nulls_until_the_first_value() -> None:
    run = Run()
    states = [run.tick(step_ms=1000).failed for _ in range(62)]
    assert states == [False] * 60 + [True] * 2
    assert run.tick(*others()).failed is False
    assert run.tick().failed is False


BAD_FACTS: list[tuple[dict[str, Any], str]] = [
    ({"market": "BTCKRW"}, "expected BASE/QUOTE"),
    ({"market": None}, "market: expected"),
    ({"recv_ms": None}, "recv_ms: expected"),
    ({"state": "fine"}, "state: expected one of"),
    ({"bids": 5}, "bids: expected a list"),
    ({"bids": [[1]]}, "bids[0]: expected [price, size]"),
    ({"asks": [[1, "x"]]}, "asks[0] size: expected a number"),
    ({"asks": [[True, 1]]}, "asks[0] price: expected a number"),
    ({"fx": "many"}, "fx: expected a number"),
    ({"fx": []}, "fx: expected a number"),
]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "expected a JSON object"),
        ("[]", "expected a line as a JSON object"),
        ('{"asset":"BTC","books":[]}', "now_ms: expected"),
        ('{"now_ms":"x","asset":"BTC","books":[]}', "now_ms: expected a number"),
        ('{"now_ms":-1,"asset":"BTC","books":[]}', "now_ms: expected ms"),
        ('{"now_ms":1e300,"asset":"BTC","books":[]}', "now_ms: expected ms"),
        ('{"now_ms":NaN,"asset":"BTC","books":[]}', "now_ms: expected ms"),
        ('{"now_ms":1,"books":[]}', "asset: expected a name"),
        ('{"now_ms":1,"asset":"b t c","books":[]}', "expected BASE/QUOTE"),
        ('{"now_ms":1,"asset":"BTC"}', "books: expected a list"),
        ('{"now_ms":1,"asset":"BTC","books":[1]}', "books[0]: expected a book"),
        (
            json.dumps({"now_ms": 1, "asset": "BTC", "books": [{"exchange": 5}]}),
            "exchange: expected",
        ),
        *(
            (
                json.dumps(
                    {
                        "now_ms": 1,
                        "asset": "BTC",
                        "books": [{**book("upbit", 1.0, recv_ms=1), **change}],
                    }
                ),
                words,
            )
            for change, words in BAD_FACTS
        ),
    ],
)
def test_a_bad_line_is_named(line: str, words: str) -> None:
    good = json.dumps({"now_ms": 1, "asset": "BTC", "books": []})
    result = CliRunner().invoke(
        coinspace, ["compute-index", "--snapshots", "-"], input=f"{good}\n{line}\n"
    )
    assert isinstance(result.exception, CoinSpaceError), result.output
    assert isinstance(result.exception, SnapshotError)
    assert "line 2: " in str(result.exception)
    assert words in str(result.exception)
    # earlier records are already written
    assert json.loads(result.stdout)["reason"] == "too_few_venues"


@pytest.mark.parametrize(
    "line",
    [
        '{"now_ms":' + "9" * 5000 + "}",
        '{"now_ms":1,"asset":"BTC","books":[{"exchange":"upbit","market":"BTC/KRW","recv_ms":1,'
        '"state":[],"bids":[],"asks":[]}]}',
    ],
    ids=["a number of thousands of digits", "a list as state"],
)
def test_values_of_any_kind_are_named(line: str) -> None:
    result = CliRunner().invoke(coinspace, ["compute-index", "--snapshots", "-"], input=line)
    assert isinstance(result.exception, SnapshotError), result.exception


def test_a_second_book_of_a_venue_is_refused() -> None:
    with pytest.raises(SnapshotError, match="one book per venue"):
        Run().tick(*others(), *others())


def test_numbers_beyond_float64_are_not_finite() -> None:
    text = json.dumps({"now_ms": 1, "asset": "BTC", "books": [book("upbit", 1.0, recv_ms=1)]})
    run = Run()
    aggregate = run.reader.read(text.replace("1.0001", "1" + "0" * 400), 1)
    assert aggregate.venues[0].n_asks == 4
