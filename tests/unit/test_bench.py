"""`coinspace bench` and `profile`: real stages on a simulated feed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from benchmarks import history
from benchmarks.headlines import headlines
from coinspace.bench import commands as bench
from coinspace.bench import profile, runs
from coinspace.bench.runs import simulated
from coinspace.bench.table import cost, judged
from coinspace.cli import coinspace
from coinspace.errors import CoinSpaceError
from coinspace.recording.format import FeedWriter


@pytest.fixture(scope="module")
def feeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return simulated(tmp_path_factory.mktemp("feeds"), seconds=1.0)


def options(feeds: list[Path]) -> list[str]:
    return [part for feed in feeds for part in ("--feed", str(feed))]


def test_bench_measures_every_stage(feeds: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    found = CliRunner().invoke(
        coinspace, ["bench", "--rounds", "1", "--json", str(path), *options(feeds)]
    )
    assert found.exit_code == 0, found.output
    results = {one["stage"]: one for one in orjson.loads(path.read_bytes())["results"]}
    assert list(results) == ["receive", "parse", "book", "bus", "index", "encode", "end-to-end"]
    assert all(one["events"] > 0 and one["ns"] > 0 for one in results.values())
    # a library did the same work beside it, and the table shows it
    assert [name for name, one in results.items() if one["peer"]] == ["parse"]
    assert "orjson" in found.output
    # a frame that also becomes a published book costs more than one that is only parsed
    assert results["end-to-end"]["ns"] > results["parse"]["ns"]
    # every pass does the same work as the first: index values are computed each time
    whole = {name: one["ns"] * one["events"] for name, one in results.items()}
    assert whole["end-to-end"] > 0.5 * whole["index"]


def test_a_peer_that_cannot_read_every_event_is_left_out() -> None:
    runs = [runs_of("parse", events) for events in (64, 64, 63)]
    assert bench.measure(runs[0], 1, runs[1]).peer == "orjson.loads"
    assert not bench.measure(runs[0], 1, runs[2]).peer


def runs_of(stage: str, events: int) -> runs.Run:
    return runs.Run(stage, "", "frame", events, lambda: sum(range(1000)))


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(8.4, "GATE MISSED"), (8.6, "goal missed"), (20.0, "ok")]
)
def test_a_verdict_allows_the_gate_its_noise(ratio: float, verdict: str) -> None:
    assert judged(ratio, 10, 15, 0.15) == verdict
    assert judged(ratio, None, None) == ""


def test_costs_have_three_digits() -> None:
    shown = [cost(ns) for ns in (7.2, 543.6, 999.6, 49_453, 999_600, 10_266_759, 2.5e9)]
    assert shown == ["7 ns", "544 ns", "1.00 µs", "49.5 µs", "1.00 ms", "10.3 ms", "2.50 s"]


def test_history_names_what_became_worse_than_in_the_run_before(tmp_path: Path) -> None:
    machine = "AMD EPYC, 2 processors, 24 GiB, Linux 6.1"
    assert history.path_of(machine, tmp_path).name == "amd-epyc-2-processors.jsonl"

    def run(commit: str, faster: float, allocated: float, cost: float) -> list[history.Entry]:
        checks = {"× faster than a": [faster, "higher"], "allocations": [allocated, "lower"]}
        rows = [("parse", "book", checks), ("index", "growth", {})]
        facts = {"commit": commit, "date": "", "cost": cost}
        return [{**facts, "stage": one, "case": two, "checks": three} for one, two, three in rows]

    first, same = run("1", 10.0, 1.0, 100.0), run("2", 9.2, 1.05, 109.0)
    worse = run("3", 8.0, 1.0, 150.0)
    assert not list(history.regressions(first + same))
    found = list(history.regressions(first + same + worse))
    # the ratio shows it; the cost counts only where there is none
    assert [one.split(",")[0] for one in found] == ["parse", "index"]
    assert "since 2" in found[0]


def test_the_report_begins_with_the_lines_of_what_was_measured() -> None:
    row: dict[str, Any] = {
        "stage": "parse",
        "case": "upbit-book",
        "medians": {"CoinSpace": 500.0, "orjson.loads": 6000.0},
        "ratios": {"CoinSpace": 1.0, "orjson.loads": 12.0},
        "checks": [],
    }
    lines = [line for line in headlines([row]) if line.startswith("| ")][1:]
    assert lines == ["| parse an Upbit book | 500 ns | orjson.loads, 6.00 µs | 12.0 × | 11.0 × |"]


def test_compare_shows_the_change_and_fails_on_request(tmp_path: Path) -> None:
    for name, ns in (("a", 100.0), ("b", 150.0)):
        body = {"results": [{"stage": "parse", "ns": ns, "input": "x"}]}
        (tmp_path / f"{name}.json").write_bytes(orjson.dumps(body))
    arguments = ["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    found = CliRunner().invoke(coinspace, arguments)
    assert found.exit_code == 0
    assert "+50.0%" in found.output
    failed = CliRunner().invoke(coinspace, [*arguments, "--fail", "10"])
    assert "slower by more than 10 %: parse" in str(failed.exception)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"results":[{"stage":"parse"}]}',
        '{"results":[{"stage":"parse","input":"x","ns":0}]}',
        '{"results":[{"stage":"parse","input":"x","ns":"fast"}]}',
        "",
    ],
)
def test_compare_refuses_other_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    found = CliRunner().invoke(coinspace, ["bench", "compare", str(path), str(path)])
    assert isinstance(found.exception, CoinSpaceError)
    assert "expected a file of `coinspace bench --json`" in str(found.exception)


def test_compare_needs_the_same_stages(tmp_path: Path) -> None:
    paths = []
    for name, stages in (("a", ["parse", "book"]), ("b", ["parse", "bus"]), ("c", ["bus"])):
        results = [{"stage": stage, "ns": 100.0, "input": "x"} for stage in stages]
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_bytes(orjson.dumps({"results": results}))
    some, other, none = map(str, paths)
    found = CliRunner().invoke(coinspace, ["bench", "compare", some, none])
    assert isinstance(found.exception, CoinSpaceError)
    assert "expected a stage that both files have, was parse, book in" in str(found.exception)
    shown = CliRunner().invoke(coinspace, ["bench", "compare", some, other])
    assert shown.exit_code == 0
    assert "not measured" in shown.output
    assert "new" in shown.output
    failed = CliRunner().invoke(coinspace, ["bench", "compare", some, other, "--fail", "10"])
    assert isinstance(failed.exception, CoinSpaceError)
    assert str(failed.exception).endswith("no book")


def test_nothing_is_measured_when_results_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("measured before the file was looked at")

    for module in (bench, profile):
        monkeypatch.setattr(module, "prepare", measured)
    for arguments in (["bench", "--json"], ["profile", "parse", "--flame"]):
        for path in (tmp_path / "none" / "x.svg", tmp_path):
            found = CliRunner().invoke(coinspace, [*arguments, str(path)])
            assert isinstance(found.exception, CoinSpaceError)
            assert str(found.exception).startswith(f"{path}: expected a file to write, ")
    runs.check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("stage", runs.STAGES)
def test_a_feed_without_frames_is_refused(tmp_path: Path, stage: str) -> None:
    path = tmp_path / "empty.feed.zst"
    FeedWriter(path, {"exchange": "upbit", "url": "wss://x", "started_ns": 1}).close()
    feed = ["--feed", str(path)]
    for arguments in (["profile", stage, *feed], ["bench", "--stage", stage, *feed]):
        found = CliRunner().invoke(coinspace, arguments)
        assert isinstance(found.exception, CoinSpaceError)
        assert "found none" in str(found.exception)


def test_profile_lists_at_least_one_function() -> None:
    found = CliRunner().invoke(coinspace, ["profile", "parse", "--top", "-1"])
    assert found.exit_code == 2
    assert "-1 is not in the range" in found.output


def test_profile_names_compiled_functions(feeds: list[Path], tmp_path: Path) -> None:
    flame = tmp_path / "flame.svg"
    arguments = ("profile", "parse", "--seconds", "3", "--json", "--flame", str(flame))
    # a build with checks spends its time in C functions that a release build inlines
    found = CliRunner().invoke(coinspace, [*arguments, "--top", "100", *options(feeds)])
    assert found.exit_code == 0, found.output
    body = orjson.loads(found.stdout)
    assert body["samples"] > 10
    assert any("(upbit." in one["function"] for one in body["hottest"])
    assert "upbit" in flame.read_text()


def test_profile_without_its_sampler_names_the_package_to_install(
    feeds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    found = CliRunner().invoke(coinspace, ["profile", "parse", "--seconds", "1", *options(feeds)])
    assert isinstance(found.exception, CoinSpaceError)
    assert str(found.exception).startswith("py-spy: expected it to be installed")


def test_profile_counts_the_lines_of_a_function_together() -> None:
    begin = "repeat (coinspace/bench/profile.py:61);run (a/b/runs.py:9);"
    frames = {"f (upbit.pyx:12)": 1, "f (upbit.pyx:13)": 2, "f (x/upbit.pyx:14)": 4, "f (b.so)": 8}
    read = profile.hottest_of("\n".join(f"{begin}{name} {n}" for name, n in frames.items()))
    assert read == {"f (upbit.pyx)": 7, "f (b.so)": 8}


def test_profile_leaves_out_what_starts_python() -> None:
    ours = "main (cli.py:3);repeat (coinspace/bench/profile.py:61);run (a/b/runs.py:9);f (x.so)"
    other = "main (cli.py:3);communicate (subprocess.py:1)"
    read = profile.hottest_of(f"{ours} 7\n{other} 5\n{ours} 2\n\nnonsense\n")
    assert read == {"f (x.so)": 9}
