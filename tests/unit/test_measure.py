"""The benchmarks' own arithmetic: a wrong ratio would make every figure wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.measure import Result, gated, growth
from coinspace.bench.measure import OURS, Timing, compare


class Fixture:
    """The part of pytest-benchmark that `gated` uses."""

    def __init__(self, disabled: bool = False) -> None:
        self.disabled = disabled
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, target: Any, *, rounds: int) -> None:
        for _ in range(rounds):
            target()


def test_ratio_is_the_median_of_the_rounds() -> None:
    # an outlier in one round of either side must not change the ratio
    timing = Timing({OURS: [1.0, 1.0, 9.0], "peer": [4.0, 40.0, 36.0]})
    assert timing.ratio("peer") == 4.0
    assert timing.least("peer") == 4.0


def test_compare_counts_work_per_event() -> None:
    def work(n: int) -> Any:
        return lambda: sum(range(n))

    timing = compare({OURS: work(2_000), "ten": work(20_000)}, events=1, rounds=25, slot_ns=200_000)
    assert 5 < timing.ratio("ten") < 20
    halves = compare(
        {OURS: work(2_000), "same": work(2_000)}, events={OURS: 1, "same": 2}, rounds=25
    )
    assert 0.3 < halves.ratio("same") < 0.8


def test_growth_finds_the_exponent() -> None:
    sizes = [10, 100, 1_000, 10_000]
    assert growth(sizes, [size**0.5 for size in sizes]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="expected at least 4 sizes, was 2"):
        growth([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("value", "gate", "better", "passed"),
    [
        (10.0, 10.0, "higher", True),
        (8.6, 10.0, "higher", True),  # within the slack
        (8.4, 10.0, "higher", False),
        (1.1, 1.0, "lower", True),
        (1.2, 1.0, "lower", False),
        (0.0, None, "higher", True),
    ],
)
def test_check(value: float, gate: float | None, better: Any, passed: bool) -> None:
    result = Result("stage", "case", "ns", "none")
    result.check("figure", value, gate=gate, better=better)
    assert (not result.failures) is passed


def test_counts_have_no_slack() -> None:
    result = Result("stage", "case", "count", "none")
    result.check("allocations", 1, gate=0, better="lower", slack=0)
    assert result.failures == ["allocations: expected ≤ 0, was 1"]


def test_gated_repeats_once_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = iter([1.0, 20.0])

    def measure(rounds: int) -> Result:
        result = Result("parse", "Upbit, 30 levels", "ns/frame", "none", Timing({OURS: [5.0]}))
        result.check("× peer", next(values), gate=10)
        return result

    gated(Fixture(), measure)
    saved = orjson.loads((tmp_path / "build/bench/parse-upbit-30-levels.json").read_bytes())
    assert saved["checks"][0]["value"] == 20.0
    assert saved["ns"] == {OURS: 5.0}


def test_a_file_of_another_case_is_kept(tmp_path: Path) -> None:
    path = Result("parse", "Bithumb book", "ns/frame", "none").save(tmp_path)
    Result("parse", "Bithumb book", "ns/frame", "again").save(tmp_path)
    with pytest.raises(ValueError, match="expected 'parse', 'bithumb-book' or no file, was"):
        Result("parse", "bithumb-book", "ns/frame", "none").save(tmp_path)
    assert orjson.loads(path.read_bytes())["input"] == "again"


def test_tables_compare_the_same_work(tmp_path: Path) -> None:
    ns = {OURS: [1.0], "ours, more": [4.0], "peer": [8.0], "peer, more": [16.0]}
    result = Result("parse", "case", "ns", "none", Timing(ns), same={"peer, more": "ours, more"})
    found = orjson.loads(result.save(tmp_path).read_bytes())["ratios"]
    assert found == {OURS: 1.0, "ours, more": 4.0, "peer": 8.0, "peer, more": 4.0}


def test_gated_fails_after_the_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tries = []

    def measure(rounds: int) -> Result:
        tries.append(rounds)
        result = Result("parse", "case", "ns/frame", "none")
        result.check("× peer", 2.0, gate=10)
        return result

    with pytest.raises(AssertionError, match="× peer: expected ≥ 10, was 2"):
        gated(Fixture(), measure)
    assert len(tries) == 2


def test_disabled_benchmarks_only_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = Result("parse", "case", "ns/frame", "none")
    result.check("× peer", 2.0, gate=10)
    assert gated(Fixture(disabled=True), lambda rounds: result) is result
    assert not (tmp_path / "build").exists()
