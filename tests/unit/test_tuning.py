"""Latency settings reach the process: pins, priority, spinning, garbage collection, sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.config import TuningSettings, load
from coinspace.observe.doctor import check_host
from coinspace.tuning import cpus_of, spins, tune_socket

REPORT = """
import asyncio, gc, json, os, sys
from pathlib import Path
from coinspace.config import load
from coinspace.process import run

async def main(process):
    process.degraded("waits for something")
    process.ready()
    before = os.times()
    await asyncio.sleep(2.0)
    busy = sum(os.times()[:2]) - sum(before[:2])
    print(json.dumps({
        "cpus": sorted(os.sched_getaffinity(0)),
        "nice": os.nice(0),
        "frozen": gc.get_freeze_count(),
        "enabled": gc.isenabled(),
        "busy_s": busy,
    }))

run(sys.argv[1], load(sys.argv[2]), main)
"""


def report(folder: Path, name: str, tuning: str) -> dict[str, object]:
    path = folder / "coinspace.toml"
    path.write_text(f'data = "{folder / "data"}"\n[tuning]\n{tuning}\n')
    done = subprocess.run(
        [sys.executable, "-c", REPORT, name, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_by_default_only_the_objects_of_the_start_are_frozen(tmp_path: Path) -> None:
    found = report(tmp_path, "index-calculator", "")
    assert found["cpus"] == sorted(os.sched_getaffinity(0))
    assert found["frozen"] > 1000  # type: ignore[operator]
    assert found["enabled"] is True
    assert found["busy_s"] < 0.4  # type: ignore[operator]


def test_a_tuned_process_is_pinned_spins_and_does_not_collect(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    found = report(
        tmp_path,
        "orderbook-collector-upbit",
        f"cpus = {{'orderbook-collector-*' = [{cpu}]}}\nspin = ['orderbook-*']\n"
        "nice = 1\ngc = 'off'",
    )
    assert found["cpus"] == [cpu]
    assert found["nice"] == os.nice(0) + 1
    assert found["frozen"] > 1000  # type: ignore[operator]
    assert found["enabled"] is False
    # it never slept; other processes may have had the processor for a part of the time
    assert found["busy_s"] > 0.05  # type: ignore[operator]


def test_other_processes_keep_their_defaults(tmp_path: Path) -> None:
    found = report(tmp_path, "index-calculator", "spin = ['orderbook-*']\ngc = 'on'")
    assert found["enabled"] is True
    assert found["frozen"] == 0
    assert found["busy_s"] < 0.4  # type: ignore[operator]


def test_the_first_pattern_that_matches_counts() -> None:
    settings = TuningSettings(cpus={"ticker-*": [1], "*": [0]}, spin=["index-*"])
    assert cpus_of("ticker-collector-upbit", settings) == [1]
    assert cpus_of("index-calculator", settings) == [0]
    assert spins("index-calculator", settings)
    assert not spins("ticker-collector-upbit", settings)


def test_socket_options() -> None:
    with socket.socket() as sock:
        before = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        tune_socket(sock, TuningSettings())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
        tune_socket(sock, TuningSettings(receive_buffer=32_768))
        # Linux doubles what is asked for
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 65_536


def test_a_bad_value_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_TUNING__GC", "sometimes")
    with pytest.raises(Exception, match=r"tuning\.gc"):
        load()


def test_doctor_names_what_this_host_cannot_do(tmp_path: Path) -> None:
    path = tmp_path / "coinspace.toml"
    path.write_text(
        f'data = "{tmp_path / "data"}"\n[tuning]\nspin = ["*"]\nreceive_buffer = 1073741824\n'
        "cpus = {'index-*' = [9999], 'collector-*' = [0]}\n"
    )
    found = [
        (one.subject, one.level, one.text)
        for one in check_host(load(path))
        if one.subject in ("pinning", "spinning", "socket buffers")
    ]
    for subject, level, text in (
        ("pinning", "problem", "was 9999"),
        ("pinning", "problem", "no process is called 'collector-*'"),
        ("spinning", "problem", "never sleep"),
        ("socket buffers", "advice", "rmem_max"),
    ):
        assert any(one[:2] == (subject, level) and text in one[2] for one in found), text


def test_doctor_has_no_findings_about_defaults(tmp_path: Path) -> None:
    path = tmp_path / "coinspace.toml"
    path.write_text(f'data = "{tmp_path / "data"}"\n')
    subjects = {one.subject for one in check_host(load(path))}
    assert not subjects & {"pinning", "spinning", "priority", "socket buffers"}


@pytest.mark.parametrize("below", ["", "data/here"])
def test_doctor_names_a_data_folder_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path / "file" / below))
    found = CliRunner().invoke(coinspace, ["doctor"])
    assert found.exit_code == 1, found.output
    assert f"PROBLEM data folder: expected a folder, {tmp_path / 'file'} is a file" in found.output
    # no process runs there, and none could have
    assert CliRunner().invoke(coinspace, ["status"]).exit_code == 2
