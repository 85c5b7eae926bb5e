"""A process: its output blocks no work, and it ends when asked or when a task fails."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.clock import now_ns
from coinspace.config import Settings
from coinspace.health_file import read_health
from coinspace.log import Output
from coinspace.process import COMMAND, HostClock, Process
from tests.waiting import wait_for

NAME = "worker"
SCRIPT = """
import asyncio, threading, time
from pathlib import Path
from coinspace import process
from coinspace.config import Settings

{patch}

async def main(running):
    async def beat():
        while True:
            running.log.info("x" * 200)
            await asyncio.sleep(0.01)

    running.tasks.spawn("beat", beat())
{body}
    await running.stopping.wait()
{end}

process.run("worker", Settings(data=Path({data!r})), main)
"""


def indent(text: str) -> str:
    return "\n".join("    " + line for line in text.strip().splitlines())


@contextmanager
def start(
    data: Path, *prefix: str, body: str = "", end: str = "", patch: str = "", **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    options.setdefault("stderr", subprocess.DEVNULL)
    settings = body if "running.ready()" in body else body + "\nrunning.ready()"
    script = SCRIPT.format(
        patch=patch.strip(), body=indent(settings), end=indent(end), data=str(data)
    )
    with subprocess.Popen([*prefix, sys.executable, "-c", script], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def health(data: Path) -> dict[str, Any]:
    return read_health(Settings(data=data), NAME) or {}


def ready(data: Path) -> Any:
    return wait_for(lambda: health(data).get("state") == "ready", "a ready process")


def beats(data: Path, more: int = 2) -> None:
    """Wait until the health file was written `more` times."""
    seen: set[int] = set()

    def enough() -> bool:
        seen.add(health(data)["beat_ns"])
        return len(seen) > more

    wait_for(enough, "signs of life")


def test_sigterm_ends_a_process_whose_stderr_has_no_reader(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with start(tmp_path, stderr=writer) as process:
        os.close(writer)
        ready(tmp_path)
        os.close(reader)
        wait_for(lambda: health(tmp_path)["counters"]["log_lines_lost"] > 10, "lost lines")
        process.terminate()
        assert process.wait(60) == 0
    assert health(tmp_path)["state"] == "stopped"


def test_a_full_stderr_pipe_does_not_stop_the_work(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with start(tmp_path, stderr=writer) as process:
        os.close(writer)
        ready(tmp_path)
        wait_for(lambda: health(tmp_path)["counters"]["log_lines_lost"] > 10, "lost lines")
        beats(tmp_path)
        process.terminate()
        assert process.wait(60) == 0
    os.close(reader)


@pytest.mark.parametrize("what", ["full disk", "closed"])
def test_a_blocked_stderr_stops_no_work(tmp_path: Path, what: str) -> None:
    prefix = ["sh", "-c", 'exec "$0" "$@" 2>&-'] if what == "closed" else []
    with Path("/dev/full").open("wb") as full, start(tmp_path, *prefix, stderr=full) as process:
        ready(tmp_path)
        wait_for(lambda: health(tmp_path)["counters"]["log_lines_lost"] > 10, "lost lines")
        process.terminate()
        assert process.wait(60) == 0


def test_an_unwritable_health_file_stops_no_work(tmp_path: Path) -> None:
    part = tmp_path / "run" / f".{NAME}.json.part"
    part.mkdir(parents=True)
    body = "running.ready()\nPath(running.settings.data / 'alive').write_text('')"
    with start(tmp_path, body=body, stderr=subprocess.PIPE) as process:
        wait_for(lambda: (tmp_path / "alive").exists(), "the process")
        assert health(tmp_path) == {}
        part.rmdir()
        ready(tmp_path)
        assert health(tmp_path)["counters"]["health_failures"] >= 1
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read().count(b"health file not written") == 1


def test_a_run_folder_that_was_removed_is_created_again(tmp_path: Path) -> None:
    with start(tmp_path) as process:
        ready(tmp_path)
        shutil.rmtree(tmp_path / "run")
        ready(tmp_path)
        process.terminate()
        assert process.wait(60) == 0


def test_counters_that_raise_are_counted_and_logged_once(tmp_path: Path) -> None:
    with start(
        tmp_path, body="running.counters = lambda: 1 / 0", stderr=subprocess.PIPE
    ) as process:
        wait_for(lambda: health(tmp_path).get("state") == "degraded", "trouble")
        assert "counter_failures" in health(tmp_path)["reason"]
        wait_for(lambda: health(tmp_path)["counters"]["counter_failures"] >= 2, "two")
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count(b"counters not read") == 1
    assert b"ZeroDivisionError" in said


FAILING = {
    "task": "async def bad():\n    raise ValueError('broken')\nrunning.tasks.spawn('bad', bad())",
    "returned task": "async def bad():\n    pass\nrunning.tasks.spawn('bad', bad())",
    "thread": "def bad():\n    raise ValueError('broken')\n"
    "threading.Thread(target=bad, name='bad').start()",
    "repeated call": "from coinspace.tasks import Repeat\n"
    "Repeat(asyncio.get_running_loop(), 'bad', 1.0, lambda: 1 / 0)",
}


@pytest.mark.parametrize("what", FAILING)
def test_failed_work_ends_its_process_with_a_reason(tmp_path: Path, what: str) -> None:
    body = f"running.ready()\n{FAILING[what]}"
    with start(tmp_path, body=body, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 1
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count(b"task failed") == 1
    assert b"Traceback" in said or what == "returned task"
    last = health(tmp_path)
    assert last["state"] == "degraded"
    assert last["reason"].startswith("bad failed: ")


def test_an_error_that_ends_main_is_the_last_reason(tmp_path: Path) -> None:
    with start(tmp_path, end="raise OSError(24, 'Too many open files')") as process:
        ready(tmp_path)
        process.terminate()
        assert process.wait(60) == 1
    assert health(tmp_path)["reason"] == "OSError: [Errno 24] Too many open files"


def test_a_failed_callback_is_logged_and_counted(tmp_path: Path) -> None:
    body = "asyncio.get_running_loop().call_soon(lambda: 1 / 0)"
    with start(tmp_path, body=body, stderr=subprocess.PIPE) as process:
        ready(tmp_path)
        wait_for(lambda: health(tmp_path)["counters"]["loop_errors"] == 1, "the count")
        process.terminate()
        assert process.wait(60) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count(b"callback failed") == 1
    assert b"ZeroDivisionError" in said


LIMITS = "process.STOP_LIMIT_S = {}; process.THREADS_LIMIT_S = 0.5"
HANGING = {
    "coroutine": ("", "await asyncio.Event().wait()", 0.5, 1),
    "blocked loop": ("", "time.sleep(600)", 0.5, 1),
    "thread": (
        "asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)",
        "",
        15,
        0,
    ),
}


@pytest.mark.parametrize("what", HANGING)
def test_sigterm_ends_a_process_of_which_a_part_hangs(tmp_path: Path, what: str) -> None:
    body, end, limit_s, code = HANGING[what]
    with start(tmp_path, body=body, end=end, patch=LIMITS.format(limit_s)) as process:
        ready(tmp_path)
        process.terminate()
        assert process.wait(60) == code


def test_sigterm_ends_a_process_whose_loop_hangs(tmp_path: Path) -> None:
    body = "running.ready()\ntime.sleep(600)"
    with start(tmp_path, body=body, patch=LIMITS.format(0.5)) as process:
        wait_for(lambda: health(tmp_path).get("state") == "ready", "a ready process")
        process.terminate()
        assert process.wait(60) == 1


def test_repeated_work_that_hangs_ends_its_process(tmp_path: Path) -> None:
    body = "running.expect('good', 4)\nbeat = running.expect('good', 4)\nrunning.expect('bad', 6)"
    body += "\nfrom coinspace.tasks import Repeat"
    body += "\nRepeat(asyncio.get_running_loop(), 'beat', 0.1, beat)"
    with start(tmp_path, body=body) as process:
        assert process.wait(60) == 1
    assert health(tmp_path)["reason"].startswith("bad failed: TimeoutError")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 512):
            pass


def test_a_full_disk_stops_no_work_and_no_end(small_disk: Path) -> None:
    # each change of state is written, on a full disk
    changes = small_disk.with_name("changes")
    body = f"""
async def change():
    for number in range(1_000_000):
        running.degraded(str(number))
        await asyncio.sleep(0.01)
        running.ready()
        await asyncio.sleep(0.01)
        Path({str(changes)!r}).write_text(str(number))
running.tasks.spawn('change', change())
"""

    def changed() -> int:
        return int((changes.exists() and changes.read_text()) or 0)

    with start(small_disk, body=body) as process:
        ready_or_degraded = ("ready", "degraded")
        wait_for(lambda: health(small_disk).get("state") in ready_or_degraded, "a file")
        filler = small_disk / "filler"
        fill(filler)
        before, count = health(small_disk)["beat_ns"], changed()
        wait_for(lambda: changed() > count + 50)
        assert health(small_disk)["beat_ns"] == before
        assert process.poll() is None
        filler.unlink()
        wait_for(lambda: health(small_disk)["beat_ns"] > before, "a fresh file")
        assert health(small_disk)["counters"]["health_failures"] > 10
        fill(filler)
        process.terminate()
        assert process.wait(60) == 0


def test_signs_of_life_for_systemd(tmp_path: Path) -> None:
    for address in (str(tmp_path / "notify"), f"@coinspace-test-{os.getpid()}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("\0" + address[1:] if address[0] == "@" else address)
            listener.settimeout(60)
            environment = {
                **os.environ,
                "NOTIFY_SOCKET": address,
                "WATCHDOG_USEC": "200000",
            }
            body = "import os\nassert 'NOTIFY_SOCKET' not in os.environ"
            with start(tmp_path, body=body, env=environment) as process:
                said: list[str] = []
                while said.count("WATCHDOG=1") < 5 or "READY=1" not in said:
                    said += listener.recv(4096).decode().splitlines()
                os.kill(process.pid, signal.SIGSTOP)
                while select.select([listener], [], [], 0.5)[0]:
                    listener.recv(4096)
                os.kill(process.pid, signal.SIGCONT)
                said += listener.recv(4096).decode().splitlines()
                process.terminate()
                while "STOPPING=1" not in said:
                    said += listener.recv(4096).decode().splitlines()
                assert process.wait(60) == 0
            assert said.count("READY=1") == 1
            assert "STATUS=ready" in said


def test_an_argument_that_cannot_be_shown_does_not_raise(tmp_path: Path) -> None:
    body = """
class Bad:
    def __repr__(self):
        raise ValueError("no")
running.log.info("hello", what=Bad())
"""
    # a pipe that is not read fills, and more lines are lost
    with (tmp_path / "log").open("wb") as log, start(tmp_path, body=body, stderr=log) as process:
        ready(tmp_path)
        assert wait_for(lambda: health(tmp_path)["counters"]["log_lines_lost"] == 1, "count")
        process.terminate()
        assert process.wait(60) == 0
    assert b"hello" in (tmp_path / "log").read_bytes()


def test_a_cut_line_does_not_spoil_the_next_one() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "w") as target:
        output = Output(target)
        while not output.lost:
            output.write("x" * 5000 + "\n")
        os.read(reader, 1 << 20)
        output.write("whole\n")
        assert os.read(source.fileno(), 1 << 20).splitlines()[-1] == b"whole"


def test_steps_of_the_host_clock_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = [now_ns()]
    monkeypatch.setattr("coinspace.process.now_ns", lambda: wall[0])
    monkeypatch.setattr("coinspace.process.monotonic_ns", lambda: 10**12)
    clock = HostClock()
    assert clock.look() == 0.0
    assert clock.counters() == {"host_clock_steps": 0}
    wall[0] -= 3600 * 10**9
    assert clock.look() == -3600.0
    assert clock.look() == 0.0
    assert clock.counters()["host_clock_step_s"] == -3600.0
    wall[0] += 2 * 10**9
    assert clock.look() == 2.0
    assert clock.counters()["host_clock_steps"] == 2


async def test_a_task_that_ends_during_a_stop_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = Process(NAME, Settings(data=tmp_path))

    async def until_stopped() -> None:
        await process.stopping.wait()

    process.tasks.spawn("work", until_stopped())
    process.stop()
    await process.tasks.finish(60)
    assert process.failure is None
    process.ended(None)
    last = orjson.loads((tmp_path / "run" / f"{NAME}.json").read_bytes())
    assert (last["state"], last["reason"]) == ("stopped", None)


class Lines:
    """Keeps log lines with any configuration of logging by earlier tests."""

    def __init__(self) -> None:
        self.reasons: list[str | None] = []

    def info(self, event: str, *, state: str, reason: str | None) -> None:
        self.reasons.append(reason)


def test_a_reason_of_which_only_numbers_change_is_logged_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    process = Process(NAME, Settings(data=tmp_path))
    lines = Lines()
    process.log = lines  # type: ignore[assignment]
    for age_ms in range(3000, 3100):
        process.degraded(f"the index is {age_ms} ms old")
    assert process.reason == "the index is 3099 ms old"
    process.degraded("no tick arrives")
    process.ready()
    assert lines.reasons == ["the index is 3000 ms old", "no tick arrives", None]


def test_a_process_takes_no_module_of_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "structlog.py").write_text("raise SystemExit('somebody else’s module ran')")
    (tmp_path / "coinspace_exchanges").mkdir()
    (tmp_path / "coinspace_exchanges" / "other.py").write_text("raise SystemExit('ran, too')")
    done = subprocess.run(
        [*COMMAND, "config", "show"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
