"""`coinspace deploy systemd`: units that systemd accepts, in the order of `coinspace up`."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coinspace.cli import coinspace
from coinspace.config import Settings
from coinspace.deploy import TARGET, chosen, unit_name, units

MOST_EXPOSED = 3.0
# tests without systemd: a Debian or Ubuntu has it
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed on this machine"
)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(coinspace, ["deploy", "systemd", *arguments], env=environment)


def directives(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = run("--output", str(tmp_path / "units"), "--user", "root")
    assert result.exit_code == 0, result.output
    return tmp_path / "units"


def test_each_process_has_a_unit_and_the_target_wants_all(folder: Path) -> None:
    names = {unit_name(name) for name in chosen(Settings(), [])}
    assert {path.name for path in folder.iterdir()} == {TARGET, *names}
    assert set(directives(folder / TARGET)["Unit"]["Wants"].split()) == names


def test_readers_start_before_writers(folder: Path) -> None:
    def after(name: str) -> set[str]:
        return set(directives(folder / unit_name(name))["Unit"]["After"].split())

    assert after("questdb") == {"network-online.target"}
    assert unit_name("questdb") in after("orderbook-storage-worker")
    readers = {"orderbook-storage-worker", "index-calculator", "orderbook-aggregator"}
    assert {unit_name(name) for name in readers} <= after("orderbook-collector-upbit")
    assert unit_name("orderbook-collector-bithumb") not in after("orderbook-collector-upbit")


def test_only_some_processes(tmp_path: Path) -> None:
    result = run("--output", str(tmp_path), "--only", "index-endpoint")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {TARGET, unit_name("index-endpoint")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "index-endpiont"), "--only 'index-endpiont': expected one of"),
        (("--data", "relative"), "expected an absolute path"),
        (("--data", "/var/lib/coin space"), "expected no spaces"),
        (("--user", "%i"), "expected no spaces, quotes, backslashes, $ or %"),
        (("--output", "/proc/units"), "expected a writable folder"),
    ],
)
def test_a_value_that_cannot_stand_in_a_unit_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run("--output", str(tmp_path / "units"), *arguments)
    assert result.exit_code == 1
    assert words in str(result.exception)


def test_without_systemd_the_units_are_written_but_not_verified(tmp_path: Path) -> None:
    result = run("--output", str(tmp_path), PATH="/nonexistent")
    assert result.exit_code == 0
    assert "not verified" in result.output
    assert (tmp_path / TARGET).exists()


@needs_systemd
def test_criticism_by_systemd_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinspace.deploy.UNIT", "[Service]\nExecStart=/nonexistent/{name}\n")
    result = run("--output", str(tmp_path))
    assert result.exit_code == 1
    assert "/nonexistent/questdb" in result.output


@needs_systemd
def test_no_unit_is_more_exposed_than_systemd_calls_ok(folder: Path) -> None:
    name = unit_name("orderbook-collector-upbit")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(folder / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) <= MOST_EXPOSED


def test_units_carry_the_configuration() -> None:
    found = units(
        chosen(Settings(), ["index-endpoint"]),
        user="coinspace",
        data=Path("/srv/coins"),
        config=Path("/etc/coinspace/coinspace.toml"),
    )
    text = found[unit_name("index-endpoint")]
    assert "Environment=COINSPACE_CONFIG=/etc/coinspace/coinspace.toml\n" in text
    assert "ReadWritePaths=/srv/coins\n" in text
    # systemd makes folders below /var/lib only
    assert "StateDirectory" not in text


def test_the_data_folder_below_var_lib_is_made(tmp_path: Path) -> None:
    run("--output", str(tmp_path))
    service = directives(tmp_path / unit_name("questdb"))["Service"]
    assert (service["StateDirectory"], service["StateDirectoryMode"]) == ("coinspace", "0700")


def test_a_second_run_replaces_the_units(folder: Path) -> None:
    (folder / TARGET).write_text("old")
    assert run("--output", str(folder)).exit_code == 0
    assert "Wants=" in (folder / TARGET).read_text()
