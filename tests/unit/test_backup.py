"""Backup and restore of a data folder whose database does not run: nothing is overwritten."""

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import Settings
from coinspace.errors import ConfigError
from coinspace.lock import lock_file
from coinspace.storage.backup import MANIFEST, TRIGGER, Copy, make_backup, restore_backup

FILES = {
    "questdb/db/trade~10/2026-11-30/price.d": b"prices" + bytes(1 << 20) + b"end" + bytes(1 << 20),
    "questdb/conf/server.conf": b"",
    "journal/orderbook-collector-upbit/00000000000000000001-00000001.journal": b"messages",
    "spool/index-calculator.jsonl": b"records",
    "dead-letters/orderbook-storage-worker.jsonl": b"rows",
    "keys.json": b"keys",
    "outbox.json": b"alerts",
    "run/orderbook-aggregator.state": b"state",
}
RECORDING = "archive/upbit/book.feed.zst"
MADE_ANEW = ("logs/up.log", "run/supervisor.lock", "questdb/address.json", "questdb/ports.json")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    data = tmp_path / "data"
    for name in (*FILES, RECORDING, *MADE_ANEW):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES.get(name, b"another file"))
    (data / "keys.json").chmod(0o600)
    yield Settings(data=data)
    # whatever was refused, nothing half-made stays
    assert not list(tmp_path.glob(".*"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("recordings", [False, True])
def test_a_restored_folder_has_the_same_files(
    settings: Settings, tmp_path: Path, recordings: bool
) -> None:
    made = tmp_path / "backup"
    manifest = make_backup(settings, made, recordings=recordings)
    expected = FILES | ({RECORDING: b"another file"} if recordings else {})
    assert manifest["files"] == len(expected)
    assert made.stat().st_mode & 0o777 == 0o700
    restored = Settings(data=tmp_path / "new" / "data")
    assert restore_backup(restored, made) == manifest
    assert contents(restored.data) == expected
    assert (restored.data / "keys.json").stat().st_mode & 0o777 == 0o600
    # a server that did not run needs no recovery
    assert not (restored.data / TRIGGER).exists()


def test_reserved_room_takes_no_room_in_a_backup(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" + bytes(10 << 20))
    copy = Copy()
    copy.tree(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert copy.bytes < 1 << 20 > (tmp_path / "b").stat().st_blocks * 512


def test_a_backup_of_a_running_server_is_recovered_at_the_next_start(
    settings: Settings, tmp_path: Path
) -> None:
    made = tmp_path / "backup"
    make_backup(settings, made, recordings=False)
    manifest = orjson.loads((made / MANIFEST).read_bytes())
    (made / MANIFEST).write_bytes(orjson.dumps(manifest | {"checkpoint": True}))
    restored = Settings(data=tmp_path / "new")
    # an empty folder is as good as none
    restored.data.mkdir()
    restore_backup(restored, made)
    assert (restored.data / TRIGGER).exists()


def test_a_backup_overwrites_nothing(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "backup"
    made.mkdir()
    with pytest.raises(ConfigError, match="expected no such file or folder, found one"):
        make_backup(settings, made, recordings=False)
    assert list(made.iterdir()) == []
    with pytest.raises(ConfigError, match="outside the data folder"):
        make_backup(settings, settings.data / "backup", recordings=False)
    # by another way
    (tmp_path / "link").symlink_to(settings.data)
    with pytest.raises(ConfigError, match="outside the data folder"):
        make_backup(settings, tmp_path / "link" / "backup", recordings=False)


def test_a_journal_that_ends_while_it_is_copied_is_part_of_the_backup(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector removes the oldest segment of its journal at any time."""
    segment = next((settings.data / "journal").glob("*/*"))
    open_path = Path.open

    def opening(path: Path, *given: Any, **more: Any) -> Any:
        file = open_path(path, *given, **more)
        if path == segment:
            segment.unlink()
        return file

    monkeypatch.setattr(Path, "open", opening)
    made = tmp_path / "backup"
    make_backup(settings, made, recordings=False)
    restored = Settings(data=tmp_path / "new")
    restore_backup(restored, made)
    assert contents(restored.data) == FILES


def test_a_folder_without_data_is_not_backed_up(tmp_path: Path) -> None:
    empty = Settings(data=tmp_path / "empty")
    empty.data.mkdir()
    with pytest.raises(ConfigError, match="expected data, found none"):
        make_backup(empty, tmp_path / "backup", recordings=False)
    # so that a backup can still be restored there
    assert list(empty.data.iterdir()) == []


def test_a_server_or_another_backup_must_not_run_meanwhile(
    settings: Settings, tmp_path: Path
) -> None:
    for name in ("questdb/lock", "backup.lock"):
        lock_file(settings.data / name, "test")
        with pytest.raises(ConfigError, match="expected no other process"):
            make_backup(settings, tmp_path / "backup", recordings=False)
    assert not (tmp_path / "backup").exists()


def test_what_a_killed_backup_left_is_removed(settings: Settings, tmp_path: Path) -> None:
    part = tmp_path / ".backup.part"
    (part / "questdb").mkdir(parents=True)
    (part / "questdb" / "old").touch()
    make_backup(settings, tmp_path / "backup", recordings=False)
    assert contents(tmp_path / "backup").keys() == {*FILES, MANIFEST}


def test_existing_data_is_never_restored_over(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "backup"
    make_backup(settings, made, recordings=False)
    before = contents(settings.data)
    with pytest.raises(ConfigError, match="expected an empty one, found files"):
        restore_backup(settings, made)
    assert contents(settings.data) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no manifest", "expected a backup with backup.json"),
        ("not JSON", "expected a backup with backup.json"),
        ("half a manifest", "expected a backup with backup.json, 'files'"),
        ("another format", "expected a backup of format 1, was 2"),
        ("a missing file", "expected 8 files, found 7: it is not complete"),
        ("a cut file", "expected [0-9]+ bytes, found [0-9]+: a file is cut or was changed"),
    ],
)
def test_what_is_no_whole_backup_is_not_restored(
    settings: Settings, tmp_path: Path, damage: str, message: str
) -> None:
    made = tmp_path / "backup"
    make_backup(settings, made, recordings=False)
    manifest = made / MANIFEST
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "not JSON":
        manifest.write_bytes(b"{")
    elif damage == "half a manifest":
        manifest.write_bytes(b'{"format": 1}')
    elif damage == "another format":
        manifest.write_bytes(orjson.dumps({"format": 2, "version": "9"}))
    elif damage == "a cut file":
        (made / "keys.json").write_bytes(b"ke")
    else:
        (made / "keys.json").unlink()
    with pytest.raises(ConfigError, match=message):
        restore_backup(Settings(data=tmp_path / "new"), made)
    assert not (tmp_path / "new").exists()


def test_a_backup_of_an_earlier_version_is_restored(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "backup"
    manifest = make_backup(settings, made, recordings=False)
    del manifest["size"]
    (made / MANIFEST).write_bytes(orjson.dumps(manifest))
    restored = Settings(data=tmp_path / "new")
    assert restore_backup(restored, made) == manifest
    assert contents(restored.data) == FILES


def test_a_write_that_takes_only_a_part_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that is nearly full takes what it can, and raises at the next write."""

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:2])

    (tmp_path / "a").write_bytes(b"keys")
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Full(path, mode))
    with pytest.raises(OSError, match="No space left"):
        Copy().tree(tmp_path / "a", tmp_path / "b")


def test_another_server_is_not_backed_up(settings: Settings, tmp_path: Path) -> None:
    settings.storage.ilp = "http::addr=a:9000;"
    with pytest.raises(ConfigError, match="with its own tools"):
        make_backup(settings, tmp_path / "backup", recordings=False)


@pytest.mark.parametrize("place", ["journal/a", "keys.json", "questdb/db/loop"])
def test_a_backup_with_a_link_is_refused(settings: Settings, tmp_path: Path, place: str) -> None:
    """A link would copy another file of this machine, or a folder into itself without end."""
    made = tmp_path / "backup"
    make_backup(settings, made, recordings=False)
    (made / place).unlink(missing_ok=True)
    (made / place).symlink_to(".")
    restored = Settings(data=tmp_path / "new" / "data")
    with pytest.raises(ConfigError, match="found a link"):
        restore_backup(restored, made)
    assert not restored.data.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_backup_without_leaving_a_part(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setenv("COINSPACE_DATA", str(settings.data))
    monkeypatch.setattr(Copy, "_file", lambda *_: os.kill(os.getpid(), number))
    done = CliRunner().invoke(coinspace, ["backup", str(tmp_path / "backup")])
    assert done.exit_code == 128 + number
    assert not (tmp_path / "backup").exists()
    assert signal.getsignal(number) == before
