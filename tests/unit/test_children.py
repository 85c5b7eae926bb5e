"""The supervisor keeps its children under control in spite of hangs, full disks and clock steps."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from coinspace import child as children
from coinspace import restart
from coinspace.child import Child, LogFile
from coinspace.config import Settings, load
from coinspace.errors import ConfigError
from coinspace.observe.health import health_of
from coinspace.supervisor import (
    STANDBY_SUFFIX,
    Supervisor,
    last_reason,
    start_exchanges,
)
from tests.waiting import until

SCRIPT = str(Path(__file__).with_name("supervised.py"))


@pytest.fixture
async def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    root = str(Path(SCRIPT).parent.parent.parent)
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setattr(Child, "COMMAND", (sys.executable, SCRIPT))
    settings = Settings(data=tmp_path)
    found = Supervisor(settings, {}, {})
    yield found
    await found.stop()
    assert not [child for child in found.children if child.running]


def launch(watching: Supervisor, mode: str, name: str = "one") -> Child:
    return watching.launch(name, [name, mode, str(watching.settings.data)])


async def again(child: Child) -> int:
    """Wait for a working second run of the process; return its pid."""
    await until(lambda: child.restarts and child.ready, "a restart")
    assert child.pid is not None
    return child.pid


async def test_a_child_whose_log_cannot_be_written_is_drained_and_restarted(
    watching: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "one.log").symlink_to("/dev/full")
    child = launch(watching, "talk")
    await until(lambda: child.log.lost > 200, "lines")
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await again(child)
    lost = child.log.lost
    await until(lambda: child.log.lost > lost + 200, "more lines")


def end_holders(folder: Path) -> None:
    for path in folder.glob("holder.*"):
        os.kill(int(path.suffix[1:]), signal.SIGKILL)


def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        # the listing's own descriptor is gone
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return found


async def test_a_dead_child_is_restarted_although_its_pipes_are_open(
    watching: Supervisor, tmp_path: Path
) -> None:
    before = open_files()
    child = launch(watching, "pipe holder")
    await until(lambda: child.restarts, "a restart")
    await watching.stop()
    end_holders(tmp_path)
    await until(lambda: open_files() <= before, "closed pipes", shown=open_files)
    assert last_reason(tmp_path / "logs" / "one.log") == "OSError: [Errno 24] Too many open files"


async def test_a_failed_start_does_not_show_the_reason_of_an_earlier_run(
    watching: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "logs" / "one.log"
    log.parent.mkdir()
    log.write_text("coinspace: of an earlier start\n")
    child = launch(watching, "crash")
    await until(lambda: child.restarts, "a restart")
    assert watching._not_ready(child, 1.0).count("it wrote nothing") == 1

    async def no_process(*arguments: object, **options: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_process)
    await until(lambda: child.refusal, "a failed start")
    assert "Too many open files" in watching._not_ready(child, 1.0)
    # a log that was started again
    assert last_reason(log, 10**6) == "of an earlier start"


async def test_a_child_that_hangs_is_ended_and_restarted(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "WATCH_INTERVAL_S", 0.1)
    watching.settings.supervisor.hang_s = 5.0
    child = launch(watching, "hang")
    first = await until(lambda: child.ready and child.pid, "readiness")
    assert await again(child) != first
    assert child.hangs == 1


async def test_a_stopped_child_is_restarted_only_after_the_limit(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "HANG_TERM_S", 0.2)
    watching.settings.supervisor.hang_s = 8.0
    child = launch(watching, "good")
    pid = await until(lambda: child.ready and child.pid, "readiness")
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2.5)
    os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(2.5)
    assert child.pid == pid
    os.kill(pid, signal.SIGSTOP)
    assert await again(child) != pid
    assert child.hangs == 1


async def test_pauses_before_restarts_grow(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.wait_for

    async def wait(what: Any, seconds: float) -> Any:
        if seconds in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0):
            pauses.append(seconds)
            seconds = 0.0
        return await real(what, seconds)

    monkeypatch.setattr(Child, "COMMAND", ("/bin/false",))
    monkeypatch.setattr("coinspace.supervisor.asyncio.wait_for", wait)
    child = launch(watching, "crash")
    await until(lambda: len(pauses) >= 8, "restarts")
    assert pauses[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert child.restarts >= 7


async def test_a_process_that_cannot_be_created_is_tried_again(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "COMMAND", ("/nonexistent",))
    child = launch(watching, "good")
    await until(lambda: child.restarts >= 2, "tries")
    monkeypatch.setattr(Child, "COMMAND", (sys.executable, SCRIPT))
    await until(lambda: child.ready, "readiness")


async def test_stop_ends_every_child_though_one_cannot_be_stopped_in_order(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["orderbook-collector-upbit", "index-calculator", "unknown-kind"]
    children = [launch(watching, "good", name) for name in names]
    for child in children:
        await until(partial(getattr, child, "ready"), "readiness")

    async def broken(timeout_s: float = 0) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(children[0], "stop", broken)
    await watching.stop()
    for child in children:
        assert not child.running


async def test_a_child_that_ignores_sigterm_is_killed(watching: Supervisor) -> None:
    child = launch(watching, "stubborn")
    await until(lambda: child.ready, "readiness")
    await child.stop(0.3)
    assert not child.running


async def test_a_step_of_the_clock_during_the_start_changes_nothing(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = launch(watching, "good")
    monkeypatch.setattr("time.time_ns", lambda: 4 * 10**18)
    await watching._ready(child)


async def test_a_fault_of_the_supervisor_stops_everything(watching: Supervisor) -> None:
    async def broken() -> None:
        raise ValueError("broken")

    watching.tasks.spawn("part", broken())
    await asyncio.wait_for(watching.stopping.wait(), 60)
    assert isinstance(watching.failure, ValueError)


def test_a_log_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "one.log"
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    log = LogFile(path)
    for _ in range(3):
        log.write(b"lost\n")
    path.unlink()
    log.write(b"written\n")
    log.write(b"too\n")
    log.close()
    lines = path.read_bytes().splitlines()
    assert lines == [b"(3 lines lost: not writable, or too long)", b"written", b"too"]
    assert log.lost == 3


async def test_a_line_that_is_too_long_is_counted(watching: Supervisor, tmp_path: Path) -> None:
    reader = asyncio.StreamReader(limit=100)
    reader.feed_data(b"x" * 1000 + b"\nafter\n")
    reader.feed_eof()
    child = Child("one", [], watching.settings, watching.tasks)
    await child._pump(reader)
    child.log.close()
    lines = (tmp_path / "logs" / "one.log").read_bytes().splitlines()
    assert lines == [b"(1 lines lost: not writable, or too long)", b"after"]
    assert child.log.lost == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\ncoinspace: port 1: expected 2\n", "port 1: expected 2"),
        (
            "Traceback (most recent call last):\n  x\n    ^^^\nOSError: [Errno 24] Too many open"
            " files\n  File x\n         ^\n",
            "OSError: [Errno 24] Too many open files",
        ),
        ("zmq.error.ZMQError: Too many open files\n^\n", "zmq.error.ZMQError: Too many open files"),
        ("started\n", "started"),
        ("", "it wrote nothing"),
    ],
)
def test_the_reason_is_the_error_and_not_the_last_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "one.log"
    path.write_text(text)
    assert last_reason(path) == reason
    assert last_reason(tmp_path / "none.log") == "it wrote nothing"


async def test_simulated_exchanges_that_died_come_back_at_their_addresses(tmp_path: Path) -> None:
    found = Supervisor(Settings(data=tmp_path), {}, {})
    try:
        arguments = ["simulate", "--exchange", "upbit", "--market", "BTC/KRW"]
        urls = await start_exchanges(found, arguments)
        port = urlsplit(urls["COINSPACE_EXCHANGES__UPBIT__REST"]).port
        (child,) = found.children
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await until(lambda: not child.running, "the end")

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await until(listens, "simulated exchanges at the same port")
    finally:
        await found.stop()


async def test_a_replaced_process_ends_when_its_successor_waits(watching: Supervisor) -> None:
    old = launch(watching, "serve")
    await until(lambda: old.ready, "a ready process")
    before = old.pid
    await watching.replace("one")
    [new] = watching.children
    assert new.ready
    assert new.pid != before
    assert not old.running
    assert health_of(watching.settings, "one").pid == new.pid


async def test_a_process_goes_on_when_its_successor_fails(watching: Supervisor) -> None:
    old = launch(watching, "serve")
    await until(lambda: old.ready, "a ready process")
    before = old.pid
    old.arguments = ["one", "crash at once", str(watching.settings.data)]
    with pytest.raises(ConfigError, match="the old process goes on"):
        await watching.replace("one")
    assert watching.children == [old]
    assert old.pid == before


async def test_a_process_that_is_killed_during_its_start_leaves_nothing(
    watching: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, started, go_on = open_files(), asyncio.Event(), asyncio.Event()
    real = Child._spawn

    async def slow(child: Child, listener: Any) -> Any:
        started.set()
        await go_on.wait()
        return await real(child, listener)

    monkeypatch.setattr(Child, "_spawn", slow)
    child = launch(watching, "good")
    await asyncio.wait_for(started.wait(), 60)
    killing = asyncio.ensure_future(child.kill())
    await until(child._stopping.is_set, "the request to end")
    go_on.set()
    await killing
    assert child._process is not None
    assert not child.running
    await until(lambda: open_files() <= before, "closed pipes", shown=open_files)


async def test_of_two_processes_of_one_name_each_becomes_the_standby_of_the_other(
    watching: Supervisor,
) -> None:
    name = "index-calculator"
    watching.processes[name] = [name, "serve", str(watching.settings.data)]
    watching.doubled.add(name)
    pair = [watching._launch(name)]
    await until(lambda: pair[0].ready, "a process that works")
    pair.append(watching._launch(name, STANDBY_SUFFIX))
    await until(lambda: pair[1].standby, "its standby")
    before = {child.pid for child in pair}
    await watching.replace(name)
    assert watching.children == pair
    assert before.isdisjoint({child.pid for child in pair})
    [leader] = [child for child in pair if child.ready]
    [standby] = [child for child in pair if child.standby and not child.ready]
    assert health_of(watching.settings, name).pid == leader.pid
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGKILL)
    await until(lambda: standby.ready, "the standby works")


async def test_restart_reports_each_process_and_refuses_what_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, stopping = Settings(data=tmp_path), asyncio.Event()
    (tmp_path / "run").mkdir()
    asked: list[list[str]] = []

    async def replaced(roles: list[str]) -> AsyncIterator[str]:
        asked.append(roles)
        if roles == ["none"]:
            raise ConfigError("role 'none': expected another")
        yield "index-endpoint"

    async def answers(*roles: str) -> list[dict[str, str]]:
        return await asyncio.to_thread(
            lambda: list(restart._asked(settings, {"restart": list(roles)}))
        )

    serving = asyncio.ensure_future(restart.serve(settings, replaced, stopping))
    await until((tmp_path / "run" / "supervisor.sock").exists, "the socket")
    assert await answers("endpoint") == [{"replaced": "index-endpoint"}, {"done": ""}]
    assert await answers("none") == [{"error": "role 'none': expected another"}]
    [refused] = await answers(*["*"] * 5000)
    assert "error" in refused
    assert asked == [["endpoint"], ["none"]]
    with monkeypatch.context() as newer:
        newer.setattr(restart, "MESSAGES", restart.MESSAGES + 1)
        request = orjson.dumps({"restart": [], "messages": restart.MESSAGES})
    [refused] = [one async for one in restart._answers(request, replaced)]
    for wrong in (b"[]", b"{", b"7", b'{"restart": 3}'):
        [refused_too] = [one async for one in restart._answers(wrong, replaced)]
        assert "error" in refused_too
    assert "expected messages of version 1" in refused["error"]
    assert "the installed release has 2: stop `up` and start it again" in refused["error"]
    assert len(asked) == 2
    monkeypatch.setattr(restart, "REQUEST_S", 0.1)
    with restart._place(settings) as place, socket.socket(socket.AF_UNIX) as silent:
        silent.connect(place)
        # the server ends a connection without a request
        assert await asyncio.wait_for(asyncio.to_thread(silent.recv, 1), 60) == b""
    stopping.set()
    await serving
    with pytest.raises(ConfigError, match="expected a running `coinspace up`"):
        await answers()


RULE = '[alerts.rules.high]\nkind = "premium"\nover = {level}\n'


async def test_reload_applies_alerts_and_names_what_needs_a_restart(
    watching: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "coinspace.toml"
    monkeypatch.setenv("COINSPACE_CONFIG", str(path))
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    path.write_text("")
    watching.settings = load()
    monkeypatch.setattr(watching, "_launch", lambda name: launch(watching, "reload", name))

    async def reloaded() -> list[str]:
        return [one async for one in watching.reloaded()]

    assert await reloaded() == []
    # the first rule starts the alerter
    path.write_text(RULE.format(level=0.05))
    assert await reloaded() == ["alerts.rules.high"]
    assert watching.processes == {"alerter": ["alerter"]}
    assert [child.name for child in watching.children] == ["alerter"]
    path.write_text(RULE.format(level=0.06))
    assert await reloaded() == ["alerts.rules.high.over"]
    assert health_of(watching.settings, "alerter").counters["reloads"] == 1
    # a wrong file changes nothing
    path.write_text(RULE.format(level='"x"'))
    with pytest.raises(ConfigError, match=r"alerts\.rules\.high\.over: .* valid number"):
        await reloaded()
    path.write_text(RULE.format(level=0.06) + 'assets = ["BTX"]\n')
    with pytest.raises(ConfigError, match="there is no index of 'BTX'"):
        await reloaded()
    # the rest is named
    path.write_text(
        RULE.format(level=0.07) + "[endpoint]\nheartbeat_s = 7\n[supervisor]\nhang_s = 30\n"
    )
    with pytest.raises(ConfigError) as caught:
        await reloaded()
    assert str(caught.value) == (
        "endpoint.heartbeat_s: `coinspace restart` applies this;"
        " supervisor.hang_s: stop `coinspace up` and start it again to apply this"
    )
    assert watching.settings.alerts.rules["high"].over == 0.07
    assert health_of(watching.settings, "alerter").counters["reloads"] == 2


READERS = ["index-calculator", "orderbook-aggregator", "index-endpoint"]
UPBIT = ["orderbook-collector-upbit", "ticker-collector-upbit"]


@pytest.fixture
def reloading(
    watching: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Awaitable[tuple[list[str], list[str], str]]]:
    """Return a function that reloads a configuration.

    It returns the applied settings, the replaced processes, and the error. A process is replaced
    unless its name is in `failing`.
    """
    path = tmp_path / "coinspace.toml"
    monkeypatch.setenv("COINSPACE_CONFIG", str(path))
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    path.write_text("")
    watching.settings = load()
    watching.processes = dict(watching.settings.processes())

    async def reloaded(text: str, failing: str = "") -> tuple[list[str], list[str], str]:
        replaced: list[str] = []

        async def replace(name: str) -> None:
            if name == failing:
                raise ConfigError(f"{name}: expected it to be synced; the old process goes on")
            replaced.append(name)

        monkeypatch.setattr(watching, "replace", replace)
        path.write_text(text)
        applied: list[str] = []
        try:
            applied += [one async for one in watching.reloaded()]
        except ConfigError as error:
            return applied, replaced, str(error)
        return applied, replaced, ""

    return reloaded


async def test_reload_applies_markets_depths_and_assets_by_their_readers(
    reloading: Any, watching: Supervisor
) -> None:
    text = '[exchanges.upbit]\nmarkets = ["BTC/KRW", "USDT/KRW", "DOGE/KRW"]\n'
    assert await reloading(text) == (["exchanges.upbit.markets"], [*UPBIT, *READERS], "")
    # nothing has changed since
    assert await reloading(text) == ([], [], "")
    text += '[exchanges.bithumb]\ndepth = 15\n[index]\nassets = ["BTC", "DOGE"]\n'
    assert await reloading(text) == (
        ["exchanges.bithumb.depth", "index.assets"],
        ["orderbook-collector-bithumb", *READERS],
        "",
    )
    assert watching.settings.index.assets == ["BTC", "DOGE"]
    # an asset that a pattern has brought in is no change of the configuration
    watching.settings.index._patterns = ("*",)
    watching.settings.index.admit("NEW")
    watching.settings.index._patterns = ()
    assert await reloading(text) == ([], [], "")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ('markets = ["BTC/KRW"]\nformat = "DEFAULT"', "upbit.format: `coinspace restart`"),
        ('markets = ["BTC/KRW"]\n[bus]\nhigh_water_mark = 5000', "bus.high_water_mark: stop"),
        (
            'markets = ["BTC/KRW"]\n[exchanges.coinone]\nmarkets = ["BTC/KRW"]',
            "exchanges.coinone.markets: stop",
        ),
        ('markets = ["BTC/KRW"]\n[exchanges.binance]\nmarkets = []', "binance.markets: stop"),
        ('markets = ["BTC-KRW"]', "exchanges.upbit.markets"),
        ('market = ["BTC/KRW"]', "did you mean 'exchanges.upbit.markets'"),
        ('markets = ["BTC/KRW"]\n[index]\noverrides.NEW.decimals = 3', "no index of that asset"),
        ("markets = [", "coinspace.toml"),
    ],
)
async def test_a_reload_that_cannot_be_applied_changes_nothing(
    reloading: Any, watching: Supervisor, more: str, error: str
) -> None:
    before = watching.settings.model_dump()
    applied, replaced, found = await reloading(f"[exchanges.upbit]\n{more}\n")
    assert (applied, replaced) == ([], [])
    assert error in found
    assert watching.settings.model_dump() == before


async def test_a_collector_that_cannot_take_over_comes_before_any_change(
    reloading: Any, watching: Supervisor
) -> None:
    text = '[exchanges.upbit]\nmarkets = ["BTC/KRW", "NOSUCH/KRW"]\n'
    before = watching.settings.model_dump()
    applied, replaced, found = await reloading(text, failing=UPBIT[0])
    assert (applied, replaced) == ([], [])
    assert found.endswith("the old process goes on, nothing was applied")
    assert watching.settings.model_dump() == before
    _, replaced, found = await reloading(text, failing=READERS[1])
    assert found.endswith(f"applied by {', '.join(replaced)}")


async def test_a_reload_is_asked_for_by_the_socket_of_restart(tmp_path: Path) -> None:
    settings, stopping = Settings(data=tmp_path), asyncio.Event()
    (tmp_path / "run").mkdir()

    async def replaced(roles: list[str]) -> AsyncIterator[str]:
        yield "nothing"

    async def reloaded() -> AsyncIterator[str]:
        yield "alerts.rules.high"
        raise ConfigError("endpoint.port: restart")

    serving = asyncio.ensure_future(restart.serve(settings, replaced, stopping, reloaded))
    await until((tmp_path / "run" / "supervisor.sock").exists, "the socket")
    found = await asyncio.to_thread(lambda: list(restart._asked(settings, {"reload": True})))
    assert found == [{"applied": "alerts.rules.high"}, {"error": "endpoint.port: restart"}]
    stopping.set()
    await serving
