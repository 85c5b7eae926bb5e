"""`coinspace deploy systemd`: units that systemd accepts, in the order of `coinspace up`."""

from __future__ import annotations

import configparser
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from coinspace import deploy, process
from coinspace.cli import coinspace
from coinspace.config import Settings
from coinspace.deploy import TARGET, unit_name, units
from coinspace.errors import ConfigError
from coinspace.supervisor import chosen
from tests.documents import ROOT, wrong_words

MOST_EXPOSED = 3.0
ODD = (*" \t\n\r\x0b\x1b\x7f\x85\u2028\xa0\u202e\"'\\%$;#&|<>*?(){}[]!`:", "\udcff", "%%")
NO_PLACES = ("/", "/tmp", "/tmp/coins", "/var/tmp/a/b", "/var/lib/..", "/srv/../tmp/x")
NO_USERS = ("", " ", "%i", "a b", "root\nUser=x", "-", "a:b", "$USER", "kim;", "../x")
# Debian and Ubuntu have systemd, many containers do not
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
    result = run(
        "--output",
        str(tmp_path / "units"),
        "--user",
        "root",
        COINSPACE_RATES__SOURCES="frankfurter",
    )
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


def test_only_the_alerter_reads_its_configuration_again() -> None:
    names = {name: [name] for name in ("alerter", "index-endpoint")}
    found = units(names, user="root", data=Path("/srv/data"), config=None)
    reload = "ExecReload=/bin/kill -HUP $MAINPID\n"
    assert [name for name, text in found.items() if reload in text] == [unit_name("alerter")]


def test_only_some_processes(tmp_path: Path) -> None:
    result = run("--output", str(tmp_path), "--only", "index-endpoint")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {TARGET, unit_name("index-endpoint")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "index-endpiont"), "role 'index-endpiont': expected one of"),
        (("--data", "relative"), "expected an absolute path"),
        *((("--data", f"/srv/coin{one}s"), "mean something else in a unit file") for one in ODD),
        (("--data", "/var/lib/coins:links"), "mean something else in a unit file"),
        *((("--data", one), "expected a folder that outlives") for one in NO_PLACES),
        *((("--user", one), "expected the name or the number") for one in NO_USERS),
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


@pytest.mark.parametrize("odd", ODD)
def test_an_interpreter_with_an_odd_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    command = (f"/opt/coin{odd}space/bin/python", *process.COMMAND[1:])
    monkeypatch.setattr(deploy, "COMMAND", command)
    with pytest.raises(ConfigError, match=r"path of Python .* mean something else in a unit file"):
        units(chosen(Settings(), []), user="root", data=Path("/srv/coins"), config=None)


@needs_systemd
def test_systemd_takes_every_allowed_character_as_it_is(tmp_path: Path) -> None:
    data = "/srv/코인_a.b@c+d,e=f~g-h"
    result = run("--output", str(tmp_path), "--user", "root", "--data", data)
    assert result.exit_code == 0, result.output
    assert directives(tmp_path / unit_name("questdb"))["Service"]["ReadWritePaths"] == data


@pytest.mark.parametrize("way", ["option", "variable", "folder"])
def test_units_name_the_configuration_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COINSPACE_CONFIG", raising=False)
    path = tmp_path / "coinspace.toml"
    path.write_text("")
    arguments = ("--config", "coinspace.toml") if way == "option" else ()
    environment = {"COINSPACE_CONFIG": "coinspace.toml"} if way == "variable" else {}
    assert run("--output", "units", "--user", "root", *arguments, **environment).exit_code == 0
    assert f"COINSPACE_CONFIG={path}\n" in (tmp_path / "units" / unit_name("questdb")).read_text()


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Containerfile, each with its text on one line."""
    text = (ROOT / "deploy" / "Containerfile").read_text()
    whole = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    return [tuple(line.split(" ", 1)) for line in whole.splitlines() if line]  # type: ignore[misc]


def test_the_container_is_built_from_files_that_are_there() -> None:
    [copied] = [rest for name, rest in instructions() if name == "COPY"]
    *sources, target = copied.split()
    assert target.endswith("/")
    # the second is what `make dist` writes
    assert sources == ["requirements/install.txt", "dist/coinspace-*.whl"]
    assert (ROOT / sources[0]).is_file()


def test_the_container_is_built_as_the_wheel_is_tested() -> None:
    [steps] = [rest for name, rest in instructions() if name == "RUN"]
    assert subprocess.run(["sh", "-n", "-c", steps], check=False).returncode == 0
    tested = (ROOT / "tests" / "wheel.sh").read_text()
    for option in ("--only-binary :all: --require-hashes -r", "install --no-index"):
        assert option in tested
    assert "--only-binary :all: --require-hashes -r /tmp/wheel/install.txt" in steps
    assert "--no-index /tmp/wheel/coinspace-*.whl" in steps
    [code] = re.findall(r'python -P -c "(.*?)"', steps)
    module, name = re.fullmatch(r"from (\S+) import (\w+); print\(\2\(\)\)", code).groups()  # type: ignore[union-attr]
    assert callable(getattr(importlib.import_module(module), name))


def test_the_container_runs_as_a_user_of_its_own() -> None:
    names = [name for name, _ in instructions()]
    # of several of these, only the last one counts
    assert all(names.count(one) == 1 for one in ("FROM", "USER", "ENTRYPOINT", "CMD", "VOLUME"))
    assert names.index("USER") > names.index("RUN")
    found = dict(instructions())
    assert f"useradd --system --uid 10001 --home-dir {found['VOLUME']}" in found["RUN"]
    assert f"COINSPACE_DATA={found['VOLUME']}" in found["ENV"]
    command = orjson.loads(found["ENTRYPOINT"]) + orjson.loads(found["CMD"])
    health = orjson.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    assert wrong_words(command) == wrong_words(health) == []
