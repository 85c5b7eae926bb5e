"""The private server's keeper on a full disk and without a home folder."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from coinspace.config import Settings
from coinspace.errors import ConfigError
from coinspace.storage.questdb import runtime, server
from coinspace.storage.questdb.address import Address
from coinspace.storage.questdb.server import ManagedServer

ADDRESS = Address("", "", "", "http://127.0.0.1:1", "u", "p", pid=7)


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_no_good_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ManagedServer(Settings(data=tmp_path))
    made.root.mkdir()
    made.address = ADDRESS
    with monkeypatch.context() as patched:
        patched.setattr(server, "write_private", full)
        assert "make room on the disk" in str(made.announce())
    path = made.root / "address.json"
    assert not path.exists()
    assert made.announce() is None
    assert path.exists()
    # written once
    path.unlink()
    assert made.announce() is None
    assert not path.exists()


def test_files_that_are_right_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ports.json"
    server._write_if_other(path, b"one")
    monkeypatch.setattr(Path, "write_bytes", full)
    server._write_if_other(path, b"one")
    with pytest.raises(OSError, match="No space"):
        server._write_if_other(path, b"two")
    assert path.read_bytes() == b"one"


def test_java_gets_a_locale_of_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    made = ManagedServer(Settings(data=tmp_path))
    made._prepare()
    environment = made._environment()
    assert "LC_ALL" not in environment
    assert environment["LC_CTYPE"] == "C.UTF-8"
    made._release_lock()


def test_no_home_is_one_line_naming_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("COINSPACE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="COINSPACE_CACHE"):
        runtime.cache_folder()
