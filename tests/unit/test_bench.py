"""`coinspace bench` and `profile`: real stages on a simulated feed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import orjson
import pytest
from click.testing import CliRunner

from benchmarks import report
from benchmarks.chart import chart
from benchmarks.conditions import told
from benchmarks.measure import Result, Timing
from coinspace.cli import coinspace
from coinspace.errors import CoinSpaceError
from coinspace.observe import bench, profile, runs
from coinspace.observe.runs import simulated
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
    # a frame that is also kept as a book and published costs more than one that is only parsed
    assert results["end-to-end"]["ns"] > results["parse"]["ns"]
    # every pass does the work of the first: index values are made each time
    whole = {name: one["ns"] * one["events"] for name, one in results.items()}
    assert whole["end-to-end"] > 0.5 * whole["index"]


def test_compare_tells_the_change_and_fails_on_request(tmp_path: Path) -> None:
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


def test_results_that_cannot_be_written_are_not_measured(
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
    arguments = ("profile", "parse", "--seconds", "1", "--json", "--flame", str(flame))
    # a build with checks spends its time in C that a build for speed inlines
    found = CliRunner().invoke(coinspace, [*arguments, "--top", "100", *options(feeds)])
    assert found.exit_code == 0, found.output
    body = orjson.loads(found.stdout)
    assert body["samples"] > 10
    assert any("(upbit." in one["function"] for one in body["hottest"])
    assert "upbit" in flame.read_text()


def test_profile_without_its_sampler_says_what_to_install(
    feeds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    found = CliRunner().invoke(coinspace, ["profile", "parse", "--seconds", "1", *options(feeds)])
    assert isinstance(found.exception, CoinSpaceError)
    assert str(found.exception).startswith("py-spy: expected it to be installed")


def test_profile_leaves_out_what_starts_python() -> None:
    ours = "main (cli.py:3);repeat (coinspace/observe/profile.py:61);run (a/b/runs.py:9);f (x.so)"
    other = "main (cli.py:3);communicate (subprocess.py:1)"
    read = profile.stacks_of(f"{ours} 7\n{other} 5\n{ours} 2\n\nnonsense\n")
    assert read == {("run (runs.py:9)", "f (x.so)"): 9}


def test_report_says_what_was_missed_and_why(tmp_path: Path) -> None:
    checks = [
        {"what": "× faster than x", "value": 12.0, "gate": 10.0, "goal": 20.0, "obstacle": "y"},
        {"what": "× faster than z", "value": 1.0, "gate": 10.0, "goal": None, "obstacle": ""},
    ]
    row = {
        "stage": "parse",
        "case": "Upbit",
        "unit": "ns/frame",
        "input": "generated",
        "checks": [{**check, "better": "higher", "slack": 0.15} for check in checks],
        "limits": [],
        "same": {},
        "figures": {},
        "note": "",
        "command": "make bench",
        "date": "2026-11-22 00:00",
        "ns": {"CoinSpace": 10.0, "x": 120.0},
        "medians": {"CoinSpace": 11.0, "x": 132.0},
        "ratios": {"CoinSpace": 1.0, "x": 12.0},
        "rounds": 5,
        "clock": "thread",
    }
    (tmp_path / "row.json").write_bytes(orjson.dumps(row))
    text = report.results(report.load_rows(tmp_path))
    assert "| parse | Upbit | × faster than x | 12.0 | ≥ 10 | ≥ 20 | gate |" in text
    assert "| parse | Upbit | × faster than z | 1.00 | ≥ 10 |  | **missed** |" in text
    assert "* parse, Upbit, × faster than x: 12.0, goal ≥ 20. y" in text
    assert "* parse, Upbit, × faster than z: 1.00, gate ≥ 10." in text
    assert "| x | 132 | 120 | 12.0 |" in text
    ElementTree.fromstring(chart([row]))


def test_report_fails_where_nobody_looked_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RESULTS", "CHART", "README"):
        monkeypatch.setattr(report, name, tmp_path / name)
    readme = Path("README.md").read_bytes()
    (tmp_path / "README").write_text("no marks")
    result = Result("x", "case", "ns", "made")
    result.check("speed", 1.0, gate=0.5, goal=2.0, obstacle="measured: y")
    for reason, code in (("measured: y", 0), ("", 1)):
        result.checks[0].obstacle = reason
        monkeypatch.setattr(report, "load_rows", lambda: [row_of(result, tmp_path)])
        assert report.main() == code
    assert "why? x, case, speed: say it in obstacles.py" in capsys.readouterr().err
    assert Path("README.md").read_bytes() == readme


def test_a_reason_quotes_the_rows_own_figures(tmp_path: Path) -> None:
    result = Result("x", "case", "ns", "made", Timing({"CoinSpace": [5.0], "x, y": [1234.0]}))
    text = "ours {CoinSpace}, theirs {x, y}, {load} and {speed}; {other}"
    result.check("speed", 1.5, goal=2.0, obstacle=text)
    result.figures["load"] = 2
    row = row_of(result, tmp_path)
    found = report.reason(row, report.checks_of(row)[0])
    assert found == "ours 5.00, theirs 1,234, 2 and 1.50; (not measured)"


def test_report_tells_a_missed_gate_and_an_unusual_slack(tmp_path: Path) -> None:
    result = Result("x", "case", "ns", "made")
    result.check("speed", 15.0, gate=18, goal=40, obstacle="y")
    result.check("exponent", 1.28, gate=1.1, better="lower", slack=0.05, obstacle="y")
    result.check("allocations", 0, gate=0, better="lower", slack=0)
    lines = report.summary([row_of(result, tmp_path)])
    assert "| x | case | speed | 15.0 | ≥ 18 | ≥ 40 | **missed** |" in lines
    assert "| x | case | exponent | 1.28 | ≤ 1.1 (noise 5%) |  | **missed** |" in lines
    assert "| x | case | allocations | 0 | ≤ 0 (exact) |  | gate |" in lines


def test_summary_shows_the_same_work_and_what_else_was_compared(tmp_path: Path) -> None:
    ns = {"CoinSpace": [10.0], "CoinSpace, parser": [2.0], "a": [300.0], "a, more": [400.0]}
    result = Result("parse", "Binance", "ns", "made", Timing(ns))
    result.check("× faster than a (parse)", 150.0, gate=95)
    result.check("× faster than a, more, both", 80.0)
    result.check("× faster than a, more", 40.0)
    lines = report.headline([row_of(result, tmp_path)])
    assert (
        lines[-1]
        == "| parse | Binance | 10.0 ns | 40.0× a, more (80.0 both), 30.0× a (150 parse) |"
    )


def test_conditions_are_told_once_where_rows_agree(tmp_path: Path) -> None:
    rows = [row_of(Result("x", f"case {i}", "ns", "made"), tmp_path) for i in range(4)]
    [same] = {row["conditions"]["machine"] for row in rows}
    assert "processors" in same
    for row in rows:
        row["conditions"] |= {"commit": "abc", "load": 1.0}
    rows[2]["conditions"] |= {"commit": "abc-dirty", "load": 2.5}
    del rows[3]["conditions"]
    lines = told(rows)
    assert lines.count(f"* machine: {same}") == 1
    assert "* commit: abc" in lines
    assert "* commit of x, case 2: abc-dirty" in lines
    assert "* load when a row was saved: 1.0 to 2.5" in lines
    assert "* not known of x, case 3" in lines
    assert not any("case 0" in line for line in lines)
    assert "load 2.5." in "\n".join(report.details(rows[2]))


def row_of(result: Result, folder: Path) -> report.Row:
    row: report.Row = orjson.loads(result.save(folder).read_bytes())
    return row


def test_report_needs_measurements(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="found none; run `make bench` first"):
        report.load_rows(tmp_path)


def test_readme_is_changed_only_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n")
    assert report.write_readme([], path)
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("after\n")
    assert "old" not in path.read_text()
    path.write_text("no marks")
    assert not report.write_readme([], path)
