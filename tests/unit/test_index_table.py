"""`compute-index` into files: the same records as JSON lines, Parquet and Arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import polars as pl
import pytest
from click.testing import CliRunner, Result

from coinspace.cli import coinspace
from coinspace.simulator.markets.engine import DEFAULT_MARKETS
from coinspace.simulator.simulated_feed import write_feeds


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("feeds")
    list(write_feeds(folder / "day.feed.zst", 4, DEFAULT_MARKETS, duration_s=4))
    return sorted(map(str, folder.glob("*.feed.zst")))


def computed(*arguments: str) -> Result:
    return CliRunner().invoke(coinspace, ["compute-index", *arguments])


def lists(value: Any, key: str = "venue") -> Any:
    """Return a part of a record as its column has it."""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return [{key: name, **{k: lists(v) for k, v in one.items()}} for name, one in value.items()]
    if isinstance(value, dict) and value and key == "venue":
        return [{"venue": name, "share": share} for name, share in value.items()]
    return [] if value == {} else value


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_file_has_the_records_of_the_lines(feeds: list[str], tmp_path: Path, ending: str) -> None:
    plain = computed(*feeds)
    lines = [orjson.loads(line) for line in plain.stdout_bytes.splitlines()]
    file = tmp_path / f"index.{ending}"
    done = computed(*feeds, "--output", str(file))
    assert done.exit_code == 0, done.exception
    polars = pl.read_parquet(file) if ending == "parquet" else pl.read_ipc_stream(file)
    assert polars.columns == ["ts", *(name for name in lines[0] if name != "ts_ms")]
    assert polars["ts"].dt.epoch("ms").to_list() == [line["ts_ms"] for line in lines]
    assert {"BTC", "ETH"} <= set(polars["asset"])
    assert polars["value"].null_count() < len(lines)
    for row, line in zip(polars.drop("ts").to_dicts(), lines, strict=True):
        expected = {name: one for name, one in line.items() if name != "ts_ms"}
        expected |= {
            name: lists(expected[name], "region" if name == "regions" else "venue")
            for name in ("venues", "fx_venues", "inputs", "regions")
        }
        assert row == expected
    if ending == "parquet":
        pandas = pd.read_parquet(file)
        assert pandas["status"].isin(["ok", "degraded", "null"]).all()
        assert pandas["ts"].dt.tz is not None
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_lines_go_into_a_file(feeds: list[str], tmp_path: Path) -> None:
    plain, file = computed(*feeds), tmp_path / "index.jsonl"
    assert computed(*feeds, "--output", str(file)).exit_code == 0
    assert file.read_bytes() == plain.stdout_bytes


def test_a_failed_computation_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "index.parquet"
    (tmp_path / "empty.jsonl").write_text("")
    done = computed("--snapshots", str(tmp_path / "empty.jsonl"), "--output", str(file))
    assert "no tick" in str(done.exception)
    assert [one.name for one in tmp_path.iterdir()] == ["empty.jsonl"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--format", "parquet"], "expected --output FILE"),
        (["--output", "x.parquet", "--hash"], "expected neither --hash nor --explain"),
        (["--output", "x.jsonl", "--explain", "1"], "expected neither --hash nor --explain"),
    ],
)
def test_options_that_exclude_each_other(feeds: list[str], options: list[str], text: str) -> None:
    done = computed(*feeds, *options)
    assert done.exit_code == 2
    assert text in done.output


def test_a_folder_that_is_not_there_is_one_line(feeds: list[str], tmp_path: Path) -> None:
    done = computed(*feeds, "--output", str(tmp_path / "none" / "index.parquet"))
    assert "expected a writable file" in str(done.exception)
