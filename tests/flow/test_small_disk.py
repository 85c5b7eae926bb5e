"""The whole platform on a file system that fills and has room again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.flow.host import Disk
from tests.flow.platform import Database, Platform, alive, platform
from tests.waiting import wait_for

# the database takes some hundred MB at once, of which most stay empty
DISK_MB = 3000
FULL_S = 30.0
SETTINGS = """
[storage]
disk_low_mb = 100
[journal]
segment_bytes = 1048576
max_bytes = 67108864
min_free_bytes = 16777216
"""


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # sockets' paths must stay short
    made = Disk(tmp_path_factory.mktemp("d"), DISK_MB)
    try:
        made.__enter__()
    except PermissionError as error:
        pytest.skip(f"no small disk can be mounted here, which needs root: {error}")
    try:
        (made.place / "coinspace.toml").write_text(SETTINGS)
        yield made.place
    finally:
        made.__exit__()


def fill(disk: Path) -> Path:
    """Leave no byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, free - (2 << 20))
        file.seek(0, os.SEEK_END)
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler


def reasons(running: Platform) -> list[str]:
    """Return the reasons why `/readyz` reports the platform as not ready."""
    answer = running.get("/readyz", any_status=True)
    return list(answer["reasons"]) if answer else ["no answer"]


def value_age_ms(running: Platform) -> float:
    one: dict[str, Any] = running.get("/v1/indices/BTC") or {}
    return time.time() * 1000 - one["ts"] if one.get("value") else float("inf")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_platform_continues_after_its_disk_was_full(disk: Path) -> None:
    with platform(disk) as running:
        wait_for(lambda: reasons(running) == [], "a healthy platform", limit_s=200)
        began = running.pids()
        filler = fill(disk)
        full = time.monotonic()
        wait_for(
            lambda: any(str(disk) in one for one in reasons(running)),
            "health to name the disk",
            shown=lambda: reasons(running),
        )
        status = running.run("status")
        assert status.returncode == 1
        assert "MB free, was 0" in status.stdout, status.stdout
        while time.monotonic() - full < FULL_S:
            # live values need no disk
            assert value_age_ms(running) < 10_000
            time.sleep(0.5)
        assert running.process.poll() is None
        assert all(map(alive, began.values())), "nothing dies of a full disk"
        filler.unlink()
        wait_for(lambda: reasons(running) == [], "a healthy platform without a hand", limit_s=180)
        assert {**running.pids(), **began} == running.pids(), "nothing was restarted"
        wait_for(lambda: value_age_ms(running) < 3000, "a fresh value")
        assert running.stop() == 0
    with Database(disk):
        done = Platform(disk, 0, running.process).run(
            "reconcile", "--from", "1", "--to", str(time.time_ns() // 1_000_000), "--json"
        )
        report = orjson.loads(done.stdout)
    assert report["total"]["stored"] > 1000
    assert report["total"]["unexplained"] == 0, report["unexplained"][:10]
