"""The worked example of the methodology, through the command as users run it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from coinspace.recompute.commands import compute_index

NOW_MS = 1_700_000_000_000
LINE = {
    "now_ms": NOW_MS,
    "asset": "BTC",
    "books": [
        {
            "exchange": "binance",
            "market": "BTC/USDT",
            "recv_ms": NOW_MS,
            "fx": 1,
            "state": "ok",
            "bids": [[99990, 1], [99970, 2], [99940, 3]],
            "asks": [[100010, 1], [100030, 2], [100060, 3]],
        },
        {
            "exchange": "upbit",
            "market": "BTC/KRW",
            "recv_ms": NOW_MS,
            "fx": 1400,
            "bids": [["140000000", "1"], [139930000, 1]],
            "asks": [[140028000, 1], [140070000, "1.0"]],
        },
        {
            "exchange": "bithumb",
            "market": "BTC/KRW",
            "recv_ms": NOW_MS,
            "fx": "1400",
            "bids": [[139972000, 1]],
            "asks": [[140056000, 1]],
        },
    ],
}


def run(*options: str, line: dict[str, Any] = LINE) -> dict[str, Any]:
    result = CliRunner().invoke(
        compute_index, ["--snapshots", "-", *options], input=json.dumps(line)
    )
    assert result.exit_code == 0, result.output
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@pytest.mark.parametrize("mode", ["integral", "grid"])
def test_full_depth(mode: str) -> None:
    record = run("--mode", mode, "--max-spread", "0.0005", "--depth", "full")
    assert record["value_raw"] == pytest.approx(100004.445156, abs=5e-7)
    assert record["value"] == 100004.45
    assert record["value_full"] == record["value_raw"]
    assert record["size_cap"] == pytest.approx(1.5 + 5 * math.sqrt(7 / 11), rel=1e-12)
    assert record["utilised_depth"] == pytest.approx(6)
    assert record["lambda"] == pytest.approx(1 / 1.8)
    assert record["coverage_depth"] == pytest.approx(3)
    assert record["depth_limited"] is True
    assert record["curve_end"] == "D"
    shares = {name: venue["share"] for name, venue in record["venues"].items()}
    assert shares["binance:BTC/USDT"] == pytest.approx(0.528001, abs=5e-7)
    assert shares["upbit:BTC/KRW"] == pytest.approx(0.375294, abs=5e-7)
    assert shares["bithumb:BTC/KRW"] == pytest.approx(0.096704, abs=5e-7)


@pytest.mark.parametrize("mode", ["integral", "grid"])
def test_cut_at_the_coverage_depth(mode: str) -> None:
    record = run("--mode", mode, "--max-spread", "0.0005")
    assert record["utilised_depth"] == pytest.approx(3)
    # midPV is 100005 on all of (0, 3]
    assert record["value_raw"] == pytest.approx(100005, abs=1e-9)
    assert record["value_full"] == pytest.approx(100004.445156, abs=5e-7)


def test_explain_shows_the_curve_of_the_example(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    options = ["--snapshots", str(path), "--max-spread", "0.0005", "--depth", "full"]
    result = CliRunner().invoke(compute_index, [*options, "--explain", str(NOW_MS)])
    curve = json.loads(result.stdout)["curve"]
    assert [row["bid"] for row in curve] == [100000, 99990, 99980, 99970, 99970, 99950]
    assert [row["ask"] for row in curve] == [100010, 100020, 100030, 100030, 100040, 100050]
    weights = [0.442015, 0.253608, 0.145508, 0.083486, 0.047900, 0.027483]
    assert [row["weight"] for row in curve] == pytest.approx(weights, abs=5e-7)
