"""What `status` keeps of the settings is used only while they are the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from coinspace.config import load
from coinspace.errors import ConfigError
from coinspace.files import read_regular
from coinspace.health_file import health_path, read_health
from coinspace.observe import watched as module
from coinspace.observe.watched import KEPT, watched

CONFIG = """
data = "{}"
[storage]
disk_low_mb = {}
"""


class Host:
    """A configuration file and a data folder; counts how often all settings are read."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "coinspace.toml"
        self.data = folder / "data"
        (self.data / "run").mkdir(parents=True)
        self.write(100)
        self.read = 0

    def write(self, low_mb: Any) -> None:
        self.file.write_text(CONFIG.format(self.data, low_mb))

    def low_mb(self) -> int:
        found = watched(str(self.file))
        settings = load(self.file)
        assert found.data == settings.data
        assert found.names == [name for name, _ in settings.processes()]
        assert found.disk_low_mb == settings.storage.disk_low_mb
        return found.disk_low_mb


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    read = module._read

    def counted(config_path: str | None) -> module.Watched:
        found.read += 1
        return read(config_path)

    monkeypatch.setattr(module, "_read", counted)
    monkeypatch.delenv("COINSPACE_DATA", raising=False)
    return found


def test_the_settings_are_read_once(host: Host) -> None:
    assert [host.low_mb() for _ in range(3)] == [100, 100, 100]
    assert host.read == 1


def test_a_change_of_the_file_counts_at_once(host: Host) -> None:
    assert host.low_mb() == 100
    host.write(200)
    assert host.low_mb() == 200
    host.write(100)
    assert host.low_mb() == 100


def test_a_change_of_the_environment_counts_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.low_mb() == 100
    monkeypatch.setenv("COINSPACE_EXCHANGES__UPBIT__MARKETS", "[]")
    assert host.low_mb() == 100
    assert "orderbook-collector-upbit" not in watched(str(host.file)).names
    monkeypatch.setenv("coinspace_storage__disk_low_mb", "7")
    assert host.low_mb() == 7


def test_an_added_exchange_counts_at_once(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.low_mb()
    added = tmp_path / "coinspace_exchanges" / "nowhere.py"
    added.parent.mkdir()
    added.write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    host.low_mb()
    assert host.read == 2


def test_invalid_settings_are_reported_each_time(host: Host) -> None:
    host.low_mb()
    host.write("'much'")
    for _ in range(2):
        with pytest.raises(ConfigError, match="disk_low_mb"):
            watched(str(host.file))


def test_a_configuration_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a readable file"):
        watched("/dev/zero")


def test_a_folder_that_is_nobodys_is_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_DATA", "~no-such-user/x")
    with pytest.raises(ConfigError, match="without ~"):
        watched(str(host.file))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"digest": 1}', b"\xff", b'{"digest": "DIGEST", "names": 7}'],
)
def test_a_damaged_file_is_written_anew(host: Host, content: bytes) -> None:
    digest = module._digest(str(host.file)).encode()
    (host.data / "run" / KEPT).write_bytes(content.replace(b"DIGEST", digest))
    assert [host.low_mb() for _ in range(2)] == [100, 100]
    assert host.read == 1


def test_nothing_is_kept_where_nothing_has_run(host: Host) -> None:
    (host.data / "run").rmdir()
    assert [host.low_mb() for _ in range(2)] == [100, 100]
    assert host.read == 2
    assert not host.data.joinpath("run").exists()


@pytest.mark.parametrize("kind", ["device", "nested", "not TOML", "not UTF-8"])
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("COINSPACE_DATA", raising=False)
    path = tmp_path / "coinspace.toml"
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        text = {"nested": b"a = " + b"[" * 100_000, "not TOML": b"=", "not UTF-8": b"\xff"}
        path.write_bytes(text[kind])
    with pytest.raises(ConfigError, match=r"coinspace\.toml"):
        watched(str(path))


def test_what_is_kept_is_private_and_may_fail(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest covers passwords; a path may be no text."""
    host.low_mb()
    assert (host.data / "run" / KEPT).stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / "\udcff"))
    assert watched(None).data == tmp_path / "\udcff"


def test_a_pipe_in_place_of_a_file_is_not_waited_for(host: Host) -> None:
    os.mkfifo(host.data / "run" / KEPT)
    os.mkfifo(health_path(load(host.file), "questdb"))
    (host.data / "run" / "folder").mkdir()
    assert host.low_mb() == 100
    assert read_health(load(host.file), "questdb") is None
    for name, error in (("questdb.json", "expected a regular file"), ("folder", "directory")):
        with pytest.raises(OSError, match=error):
            read_regular(host.data / "run" / name)
