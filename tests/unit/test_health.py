"""Health files and how `coinspace status` reads them."""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from click.testing import CliRunner

from coinspace.cli import coinspace
from coinspace.clock import monotonic_ns, now_ns
from coinspace.config import Settings, load
from coinspace.endpoint.context import Context
from coinspace.endpoint.live import health as live_health
from coinspace.endpoint.live.state import Latest
from coinspace.health_file import health_path
from coinspace.index.pulse import Pulse
from coinspace.method.record import IndexRecord
from coinspace.observe import health as observed
from coinspace.observe.health import Health, health_of, reasons
from coinspace.process import InternalErrors, Process

NAME = "index-calculator"
# more than the kernel gives: the number of an ended process may belong to another one
NO_PID = (1 << 22) + 1


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    # a nearly full disk of this machine fails no test
    monkeypatch.setenv("COINSPACE_STORAGE__DISK_LOW_MB", "1")
    # a pause of the tests is no silence of a process
    monkeypatch.setattr(observed, "STALE_NS", 30 * 10**9)
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


def test_ready_process(settings: Settings) -> None:
    write(settings)
    health = health_of(settings, NAME)
    assert health.ok
    assert health.total("frames") == 5
    assert health.total("frames", "dropped") == 6


def test_process_that_is_gone_is_down(settings: Settings) -> None:
    write(settings, pid=NO_PID)
    assert health_of(settings, NAME).state == "down"


def test_process_that_stopped_writing_is_silent(settings: Settings) -> None:
    write(settings, updated_ns=now_ns() - 60 * 10**9)
    health = health_of(settings, NAME)
    assert health.state == "silent"
    assert health.reason is not None
    assert re.match(r"no sign of life for 6\d s", health.reason)


def test_steps_of_the_wall_clock_neither_hide_nor_invent_a_hang(settings: Settings) -> None:
    hour_ns = 3600 * 10**9
    for step_ns in (-hour_ns, hour_ns):
        write(settings, updated_ns=now_ns() + step_ns, beat_ns=monotonic_ns())
        assert health_of(settings, NAME).ok
        write(settings, updated_ns=now_ns() + step_ns, beat_ns=monotonic_ns() - 60 * 10**9)
        assert health_of(settings, NAME).state == "silent"


def test_a_file_from_before_this_host_was_started_is_no_running_process(
    settings: Settings,
) -> None:
    write(settings, beat_ns=monotonic_ns() + 3600 * 10**9)
    assert health_of(settings, NAME).state == "down"


def test_after_a_clean_stop_the_time_is_shown(settings: Settings) -> None:
    for name, _ in settings.processes():
        write(settings, name, pid=NO_PID, state="stopped", updated_ns=1_790_000_000 * 10**9)
    result = CliRunner().invoke(coinspace, ["status"])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert all("stopped at 2026-09-21 14:13:20 UTC" in line for line in lines[:-1])
    assert lines[-1] == "down"


def test_a_failed_process_shows_why(settings: Settings) -> None:
    write(settings, pid=NO_PID, state="degraded", reason="ticks failed: ValueError('x')")
    reason = health_of(settings, NAME).reason
    assert reason is not None
    assert reason.endswith(": ticks failed: ValueError('x')")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"pid":1e30}', b"\x00", b'{"counters":3}'])
def test_a_damaged_file_is_no_crash(settings: Settings, content: bytes) -> None:
    health_path(settings, NAME).write_bytes(content)
    assert not health_of(settings, NAME).ok


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["top", "--once"]])
def test_the_content_of_a_health_file_is_shown_as_text(
    settings: Settings, command: list[str]
) -> None:
    bad = "[/x] \x1b[31mRED\nINJECTED\r\u202e" + "A" * (1 << 20)
    write(settings, process=bad, state=bad, reason=bad, counters={"a": "b", bad: 5, "c": [1]})
    shown = CliRunner().invoke(coinspace, command, color=True).output
    assert not [one for one in shown if not one.isprintable() and one != "\n"]
    assert "\nINJECTED" not in shown
    assert "Error" not in shown
    assert NAME[:10] in shown
    assert max(map(len, shown.splitlines())) < 2000


def test_a_full_disk_is_not_healthy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _ in settings.processes():
        write(settings, name)
    monkeypatch.setenv("COINSPACE_STORAGE__DISK_LOW_MB", str(1 << 40))
    result = CliRunner().invoke(coinspace, ["status"])
    assert result.exit_code == 1
    assert "MB free" in result.output


COLLECTOR = "orderbook-collector-upbit"


@pytest.mark.parametrize(
    ("one", "counts"),
    [
        (Health(NAME, "ready"), False),
        (Health(NAME, "degraded", "no index value", unwell_s=0.1), True),
        (Health(NAME, "down", "stopped at noon", stopped=True), False),
        (Health("orderbook-storage-worker", "silent", "no sign of life"), True),
        (Health(COLLECTOR, "degraded", "1 of 5 not synced", unwell_s=59), False),
        (Health(COLLECTOR, "degraded", "1 of 5 not synced", unwell_s=61), True),
        (Health(COLLECTOR, "down", "process 5 is gone", unwell_s=61), True),
        (Health(COLLECTOR, "starting", unwell_s=61), True),
        (Health(COLLECTOR, "stopping", unwell_s=61), False),
        (Health("alerter", "degraded", "target ops: HTTP 500", unwell_s=61), False),
    ],
)
def test_which_processes_make_the_platform_unhealthy(one: Health, counts: bool) -> None:
    found = reasons([one])
    assert bool(found) == counts
    assert all(one.process in line for line in found)


def record(asset: str, value: float | None, **more: Any) -> IndexRecord:
    return IndexRecord(asset=asset, ts_ms=1, status="", value=value, **more)


def test_an_index_fails_after_the_time_of_the_method() -> None:
    seconds = [0.0]
    pulse = Pulse(["BTC", "ETH"], lambda _: 60.0, lambda: int(seconds[0] * 1e9))

    def tick(asset: str, value: float | None) -> None:
        reason = None if value is not None else "too_few_venues"
        pulse.tick(record(asset, value, reason=reason))

    while seconds[0] < 59:
        seconds[0] += 1
        tick("BTC", 1.0)
        tick("ETH", None)
        assert pulse.problem() is None
    seconds[0] = 60
    tick("BTC", 1.0)
    assert pulse.problem() == (
        "no index value of ETH for 60 s (too_few_venues):"
        " see the states of its venues and collectors"
    )
    counters = pulse.counters()
    assert counters['index_null_age_s{asset="ETH"}'] == 60
    assert counters['index_null_age_s{asset="BTC"}'] == 0
    tick("ETH", 1.0)
    assert pulse.problem() is None
    seconds[0] = 121
    assert "BTC for 61 s" in str(pulse.problem())
    assert pulse.counters()['index_tick_age_s{asset="BTC"}'] == 61


def test_the_endpoint_knows_an_index_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0]
    monkeypatch.setattr("coinspace.endpoint.live.state.monotonic_ns", lambda: seconds[0] * 10**9)
    first = Latest(record("BTC", None))
    seconds[0] = 59
    assert not first.failed(60.0)
    second = Latest(record("BTC", None), first)
    seconds[0] = 60
    assert first.failed(60.0)
    assert second.failed(60.0)
    valued = Latest(record("BTC", 1.0), second)
    assert not valued.failed(60.0)
    assert not Latest(record("BTC", None), valued).failed(60.0)
    assert Latest(record("BTC", None, failed=True), valued).failed(60.0)


def test_internal_errors_are_shown_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [1000]
    monkeypatch.setattr("coinspace.process.monotonic_ns", lambda: seconds[0] * 10**9)
    errors = InternalErrors()
    assert errors.trouble({"callback_errors": 0, "frames": 5}) is None
    assert "callback_errors 2" in str(errors.trouble({"callback_errors": 2}))
    seconds[0] += 59
    assert "callback_errors 2" in str(errors.trouble({"callback_errors": 2}))
    seconds[0] += 1
    assert errors.trouble({"callback_errors": 2}) is None


async def test_a_clock_that_was_set_once_is_shown_but_is_not_a_fault(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall_ns, later_ns = [0], [0]
    monkeypatch.setattr("coinspace.process.now_ns", lambda: now_ns() + wall_ns[0])
    for module in ("process", "observe.health"):
        later = f"coinspace.{module}.monotonic_ns"
        monkeypatch.setattr(later, lambda: monotonic_ns() + later_ns[0])
    process = Process("index-calculator", settings)
    process.ready()

    def step(by_s: int) -> Health:
        wall_ns[0] += by_s * 10**9
        process.clock.look()
        process.write_health()
        return health_of(settings, "index-calculator")

    assert step(0).ok
    # values are fresh again at once: the step is named with its direction and size
    health = step(-3600)
    assert health.ok
    assert "clock was set back by 3600." in str(health.reason)
    assert not reasons([health])
    assert health.counters["host_clock_steps"] == 1
    # a wrong step and its correction
    assert step(3600).ok
    # set repeatedly: the right time is unknown
    health = step(-3600)
    assert health.state == "degraded"
    assert reasons([health]) == [f"index-calculator: {health.reason}"]
    # a fault of the process itself is reported first
    process.degraded("no aggregate arrives")
    assert str(step(0).reason).startswith("no aggregate arrives; this host's clock")
    process.ready()
    later_ns[0] += 61 * 10**9
    wall_ns[0] += 61 * 10**9
    health = step(0)
    assert (health.state, health.reason) == ("ready", None)
    assert health.counters["host_clock_steps"] >= 3


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


@pytest.mark.parametrize(
    "damage", [{"counters": []}, {"updated_ns": "now"}, {"started_ns": None}, {"counters": 1}]
)
def test_the_endpoint_leaves_damaged_files_out(tmp_path: Path, damage: dict[str, Any]) -> None:
    context = cast(Context, SimpleNamespace(settings=Settings(data=tmp_path), remote=None))
    (tmp_path / "run").mkdir()
    whole: dict[str, Any] = {"counters": {}, "updated_ns": 1, "started_ns": 1}
    (tmp_path / "run" / "good.json").write_bytes(orjson.dumps(whole))
    (tmp_path / "run" / "bad.json").write_bytes(orjson.dumps({**whole, **damage}))
    (tmp_path / "run" / "list.json").write_bytes(b"[1]")
    assert [one["process"] for one in live_health.files(context)] == ["good"]
