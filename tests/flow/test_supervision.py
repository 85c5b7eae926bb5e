"""`coinspace up` keeps its processes running, and ends all of them in every kind of failure."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.flow.platform import Platform, alive, environment, platform
from tests.waiting import free_port, wait_for

COLLECTOR = "ticker-collector-upbit"
KILLED = (COLLECTOR, "orderbook-collector-upbit", "index-calculator")
HANGING = "orderbook-aggregator"
STANDBY = "[supervisor]\nstandby = true\n"
FEWER = '[exchanges.upbit]\nmarkets = ["BTC/KRW", "ETH/KRW", "USDT/KRW"]\n'
# those that read the markets of an exchange
READERS = {
    *("orderbook-collector-upbit", "ticker-collector-upbit"),
    *("orderbook-aggregator", "index-calculator", "index-endpoint"),
}


def index_value(running: Platform) -> Any:
    indices = (running.get("/v1/indices") or {}).get("indices", [])
    return all(one["value"] is not None for one in indices) and indices


def open_outages(running: Platform) -> Any:
    found = running.get("/v1/gaps?kind=venue&status=open")
    return found is None or found["gaps"]


def restarted(running: Platform, name: str, pid: int) -> Any:
    now = running.pids().get(name)
    return now is not None and now != pid and alive(now)


def heard(systemd: socket.socket, state: str) -> bool:
    """Read all that was sent. Returns: whether the state was among it."""
    said: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            said += systemd.recv(4096).decode().splitlines()
    return state in said


def check_wrong_reloads(running: Platform) -> None:
    for text, error in (
        ('[exchanges.upbit]\nmarkets = ["BTC-KRW"]\n', "exchanges.upbit.markets"),
        (FEWER + "[index]\ninterval_ms = 400\n", "nothing was applied: index.interval_ms"),
    ):
        (running.data / "coinspace.toml").write_text(STANDBY + text)
        done = running.run("reload", timeout_s=250)
        assert (done.returncode, done.stdout) == (1, "")
        assert error in done.stderr


def up(data: Path, *prefix: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "coinspace", "up", "--simulate", "--seconds", "120"],
        env=environment(data, free_port()) | variables,
        cwd=data,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.timeout(600)
def test_dead_and_hung_processes_come_back_and_a_stop_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "logs").mkdir()
    # the log of this process cannot be written
    (tmp_path / "logs" / f"{COLLECTOR}.log").symlink_to("/dev/full")
    # the calculator and the aggregator have a standby, the collectors do not
    (tmp_path / "coinspace.toml").write_text(STANDBY)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        with platform(tmp_path) as running:
            wait_for(lambda: heard(systemd, "READY=1"), "readiness", limit_s=120)
            wait_for(lambda: heard(systemd, "WATCHDOG=1"), "a sign of life")
            wait_for(lambda: index_value(running), "index values", limit_s=120)
            pids = running.pids()
            for name in KILLED:
                os.kill(pids[name], signal.SIGKILL)
            os.kill(pids[HANGING], signal.SIGSTOP)
            for name in (*KILLED, HANGING):
                wait_for(partial(restarted, running, name, pids[name]), f"a new {name}", limit_s=90)
            wait_for(lambda: running.get("/readyz"), "a ready platform", limit_s=90)
            wait_for(lambda: running.run("status").returncode == 0, "a healthy status", limit_s=90)
            before = index_value(running)
            wait_for(lambda: index_value(running) not in (False, before), "moving values")
            before_restart = running.pids()

            def replaced() -> set[str]:
                return {one for one, pid in running.pids().items() if pid != before_restart[one]}

            check_wrong_reloads(running)
            assert not replaced()
            (tmp_path / "coinspace.toml").write_text(STANDBY + FEWER)
            done = running.run("reload", timeout_s=250)
            assert done.stdout.split() == ["exchanges.upbit.markets"], done.stderr
            assert done.returncode == 0
            # a process writes its health each second
            wait_for(lambda: replaced() == READERS, "new processes", shown=replaced)
            wait_for(lambda: index_value(running), "index values", limit_s=120)
            markets = running.get("/v1/markets?exchange=upbit")["markets"]
            assert {one["market"] for one in markets} == {"BTC/KRW", "ETH/KRW", "USDT/KRW"}
            constituents = running.get("/v1/indices/SOL")["constituents"]
            assert {one["venue"] for one in constituents} == {"bithumb:SOL/KRW", "binance:SOL/USDT"}
            children = running.pids()
            assert running.run("restart", "nobody").stderr.startswith("coinspace: role 'nobody'")
            wait_for(lambda: not open_outages(running), "closed outages", limit_s=90)
            wait_for(lambda: running.run("status").returncode == 0, "a healthy status", limit_s=90)
            # unread messages fill the socket
            heard(systemd, "")
            assert running.stop() == 0
            assert heard(systemd, "STOPPING=1")
        wait_for(lambda: not any(map(alive, {*pids.values(), *children.values()})), "no process")
    status = running.run("status")
    assert status.returncode == 2
    lines = status.stdout.splitlines()[:-1]
    assert len(lines) == 12
    assert all(" stopped at " in line for line in lines)
    doctor = running.run("doctor")
    assert "stopped at" not in doctor.stdout
    log = (tmp_path / "up.log").read_text()
    # of the process, and of the one that took over from it
    assert log.count("log not written") == 2
    assert "process hangs" in log
    for name in (HANGING, "index-calculator"):
        logs = [(tmp_path / "logs" / f"{one}.log").read_text() for one in (name, f"{name}-standby")]
        assert "took over" in "".join(logs)


def test_too_few_open_files_are_named(tmp_path: Path) -> None:
    done = up(tmp_path, "sh", "-c", 'ulimit -n 256; exec "$0" "$@"')
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("coinspace: ")
    assert "expected at least 4096, was 256" in last
    assert "^^^" not in last


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("COINSPACE_ENDPOINT__HOST", "0.0.0.0", "expected an API key"),
        ("COINSPACE_TUNING__CPUS", '{"index-*": [0, 4000]}', "expected processors"),
    ],
)
def test_permanent_errors_are_refused_before_the_start(
    tmp_path: Path, setting: str, value: str, said: str
) -> None:
    done = up(tmp_path, **{setting: value})
    assert done.returncode == 1
    assert said in done.stderr
    assert not list(tmp_path.glob("logs/*"))
