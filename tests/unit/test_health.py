"""Health files and what `coinspace status` makes of them."""

import os
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.clock import now_ns
from coinspace.config import Settings, load
from coinspace.observe.health import health_of
from coinspace.process import health_path

NAME = "index-calculator"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    loaded = load()
    health_path(loaded, NAME).parent.mkdir()
    return loaded


def write(settings: Settings, name: str = NAME, **change: object) -> None:
    health = {
        "process": name,
        "pid": os.getpid(),
        "started_ns": now_ns(),
        "updated_ns": now_ns(),
        "state": "ready",
        "reason": None,
        "counters": {'frames{market="BTC/KRW"}': 2, "frames": 3, "dropped": 1},
    }
    health_path(settings, name).write_bytes(orjson.dumps(health | change))


def gone_pid() -> int:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_ready_process(settings: Settings) -> None:
    write(settings)
    health = health_of(settings, NAME)
    assert health.ok
    assert health.total("frames") == 5
    assert health.total("frames", "dropped") == 6


def test_process_that_is_gone_is_down(settings: Settings) -> None:
    write(settings, pid=gone_pid())
    assert health_of(settings, NAME).state == "down"


def test_process_that_stopped_writing_is_silent(settings: Settings) -> None:
    write(settings, updated_ns=now_ns() - 60 * 10**9)
    health = health_of(settings, NAME)
    assert (health.state, health.reason) == ("silent", "no sign of life for 60 s")


def test_half_written_file_is_no_crash(settings: Settings) -> None:
    health_path(settings, NAME).write_bytes(b'{"process"')
    assert health_of(settings, NAME).state == "down"


def test_status_exit_codes(settings: Settings) -> None:
    def code() -> int:
        return CliRunner().invoke(coinspace, ["status"]).exit_code

    assert code() == 2
    write(settings)
    assert code() == 1
    for name, _ in settings.processes():
        write(settings, name)
    assert code() == 0
    write(settings, state="degraded", reason="QuestDB is away")
    assert code() == 1


def test_status_as_json_names_state_and_reason(settings: Settings) -> None:
    write(settings, state="degraded", reason="QuestDB is away")
    body = orjson.loads(CliRunner().invoke(coinspace, ["status", "--json"]).output)
    assert body["status"] == "degraded"
    states = {one["process"]: (one["state"], one["reason"]) for one in body["processes"]}
    assert states[NAME] == ("degraded", "QuestDB is away")
    assert states["index-endpoint"] == ("down", "never started")
