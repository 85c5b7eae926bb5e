"""Only the intended software is installed and run: locked packages, the pinned jar."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from coinspace.config import Settings
from coinspace.endpoint.dashboard import build
from coinspace.errors import ConfigError
from coinspace.observe.doctor import check_host
from coinspace.storage.questdb import runtime
from tests import audit

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
LOCKS = {
    "install.txt": [*PROJECT["project"]["dependencies"], *GROUPS["build"]],
    "tools.txt": [one for name in ("test", "bench", "lint") for one in GROUPS[name]],
    **{f"{name}.txt": GROUPS[name] for name in ("uv", "audit", "page", "peers")},
}
PYTHONS = ("3.11", "3.12", "3.13")
# what fetches packages, and options without which a command could fetch an unknown one
FETCH = re.compile(
    r"(pip|PIP\)?)\S* (install|wheel|download)\b|\bnpm (ci|install)\b|\buv (pip|tool) install\b"
)
CERTAIN = (
    "--require-hashes",
    "--no-index",
    "--no-deps --editable",
    "--no-build-isolation --no-deps",
)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> list[Requirement]:
    """Requirements of a lock file, each of which must be one version with hashes."""
    found = []
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        words = line.split()
        hashes = [word for word in words if word.startswith("--")]
        assert hashes, line
        assert all(_HASH.fullmatch(word) for word in hashes), line
        one = Requirement(" ".join(word for word in words if not word.startswith("--")))
        assert re.fullmatch(r"==[0-9][^,*]*", str(one.specifier)), line
        found.append(one)
    return found


def versions(name: str, python: str) -> dict[str, Version]:
    """Return the version of each package that a Python gets on Linux."""
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    where |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    where |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    found: dict[str, Version] = {}
    for one in locked(name):
        if one.marker is None or one.marker.evaluate(where):
            assert _canonical(one.name) not in found, f"{one.name} twice for Python {python}"
            found[_canonical(one.name)] = Version(str(one.specifier)[2:])
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_every_requirement_for_every_python(name: str, python: str) -> None:
    found = versions(name, python)
    for text in LOCKS[name]:
        wanted = Requirement(text)
        version = found.get(_canonical(wanted.name))
        assert version is not None, f"{wanted.name}: not in requirements/{name}"
        assert version in wanted.specifier, f"{wanted}: requirements/{name} has {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_files_agree(python: str) -> None:
    """Tools are installed beside the platform, so neither may move the other's packages."""
    tools = versions("tools.txt", python)
    for name, version in versions("install.txt", python).items():
        assert tools.get(name, version) == version


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_no_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra|find|trusted)|\bfile:|@", text)


def test_every_lock_file_has_its_group() -> None:
    assert {path.name for path in (ROOT / "requirements").iterdir()} == set(LOCKS)


def test_no_command_fetches_a_package_without_its_hash() -> None:
    scripts = [ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / "tests").glob("*.sh")]
    found = [
        (path.name, line)
        for path in scripts
        for line in path.read_text().replace("\\\n", " ").splitlines()
        if FETCH.search(line)
    ]
    assert len(found) >= 6
    for name, line in found:
        assert any(one in re.sub(r"\s+", " ", line) for one in CERTAIN), f"{name}: {line}"


def test_npm_comes_with_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)
    build.npm()
    (command,) = commands
    assert command[-3:] == ["--require-hashes", "-r", str(ROOT / "requirements" / "page.txt")]


def test_an_audit_without_a_database_fails() -> None:
    skipped: dict[str, Any] = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
    clean: dict[str, Any] = {"name": "b", "version": "1", "vulns": []}
    advisory = {"id": "X-1", "fix_versions": ["2"]}
    bad: dict[str, Any] = {"name": "c", "version": "1", "vulns": [advisory]}
    unchecked: list[dict[str, Any]]
    assert audit.verdict([clean]) == (0, ["1 packages checked, no advisory"])
    for unchecked in ([], [skipped], [skipped, clean]):
        code, lines = audit.verdict(unchecked)
        assert code == audit.UNKNOWN
        assert "NOT CHECKED" in lines[-1]
    code, lines = audit.verdict([clean, bad, skipped])
    assert code == audit.FOUND
    assert lines[0] == "c 1: X-1, fixed in 2"
    assert "NOT CHECKED" in lines[1]


# QuestDB's jar

JAR = b"a jar\n" * 1000


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the jar in a separate cache."""
    monkeypatch.setenv("COINSPACE_CACHE", str(tmp_path))
    monkeypatch.delenv("COINSPACE_QUESTDB_JAR", raising=False)
    monkeypatch.setattr(runtime, "SHA256", hashlib.sha256(JAR).hexdigest())
    return tmp_path / f"questdb-{runtime.VERSION}.jar"


def fetching(data: bytes | None) -> Callable[[Path], Path]:
    """Return a download of these bytes; None = no network."""

    def fetch(folder: Path) -> Path:
        part = folder / "part.jar"
        if data is None:
            part.write_bytes(JAR[:100])
            raise ConnectionError("cut after 100 bytes")
        part.write_bytes(data)
        return part

    return fetch


DAMAGED = [b"", JAR[:-1], JAR + b"x", JAR[:500] + b"X" + JAR[501:], bytes(len(JAR))]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_jar_in_the_cache_is_fetched_anew(
    cached: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    cached.write_bytes(damaged)
    monkeypatch.setattr(runtime, "_fetch", fetching(JAR))
    assert runtime.jar() == cached
    assert cached.read_bytes() == JAR


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_jar_is_never_run(
    cached: Path, monkeypatch: pytest.MonkeyPatch, damaged: bytes
) -> None:
    cached.write_bytes(damaged)
    monkeypatch.setattr(runtime, "_fetch", fetching(None))
    with pytest.raises(ConfigError, match="could not be downloaded"):
        runtime.jar()


@pytest.mark.parametrize("sent", DAMAGED)
def test_a_damaged_download_never_gets_the_name(
    cached: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(runtime, "_fetch", fetching(sent))
    with pytest.raises(ConfigError, match="expected SHA-256"):
        runtime.jar()
    assert [one.name for one in cached.parent.iterdir()] == ["download.lock"]


def test_a_download_that_is_cut_leaves_nothing(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_fetch", fetching(None))
    with pytest.raises(ConfigError, match="cut after 100 bytes"):
        runtime.jar()
    assert [one.name for one in cached.parent.iterdir()] == ["download.lock"]


@pytest.mark.parametrize("given", [b"another jar", b"", None])
def test_a_jar_of_the_user_that_is_not_known_is_reported(
    cached: Path, monkeypatch: pytest.MonkeyPatch, given: bytes | None
) -> None:
    assert runtime.unknown_jar() is None
    path = cached.parent / "mine.jar"
    monkeypatch.setenv("COINSPACE_QUESTDB_JAR", str(path))
    path.write_bytes(JAR)
    assert (runtime.jar(), runtime.unknown_jar()) == (path, None)
    if given is None:
        path.unlink()
        for name in (path, path.parent, path.parent / "a:b.jar"):
            (path.parent / "a:b.jar").write_bytes(JAR)
            monkeypatch.setenv("COINSPACE_QUESTDB_JAR", str(name))
            with pytest.raises(ConfigError, match="expected a readable jar file"):
                runtime.jar()
        return
    path.write_bytes(given)
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("COINSPACE_QUESTDB_JAR", "mine.jar")
    assert runtime.jar() == path
    text = runtime.unknown_jar()
    assert text is not None
    assert text.endswith(f"was {hashlib.sha256(given).hexdigest()}")
    (finding,) = [one for one in check_host(Settings(data=cached.parent)) if one.text == text]
    assert (finding.subject, finding.level) == ("database", "advice")


def test_a_whole_jar_is_not_fetched(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached.write_bytes(JAR)
    monkeypatch.setattr(runtime, "_fetch", fetching(None))
    assert runtime.jar() == cached
