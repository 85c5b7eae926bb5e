"""The fork server's processes are the caller's own, whatever happens to the fork server."""

import asyncio
import ctypes
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from coinspace import forkserver
from coinspace.forkserver import PR_SET_CHILD_SUBREAPER, Forked, ForkServer
from tests.waiting import until

# what a process of these tests runs in place of `coinspace`
PROGRAM = """
import os, subprocess, sys, time, types
cli = types.ModuleType("coinspace.cli")
def main():
    word = sys.argv[1]
    if word == "shown":
        print(sys.argv[1:], os.getsid(0) == os.getpid(), os.getppid(), dict(os.environ))
        print("an error", file=sys.stderr)
        raise SystemExit(3)
    if word == "orphan":
        # ends after its parent
        print(subprocess.Popen(["sleep", "0.3"]).pid)
        return
    print(word, flush=True)
    time.sleep(600)
cli.main = main
sys.modules["coinspace.cli"] = cli
from coinspace import forkserver
forkserver.MODULES = ()
forkserver.main()
"""
ENVIRONMENT = {"A": "1", "PATH": os.environ["PATH"]}


class Recorded(ForkServer):
    """Ends what a failed test leaves."""

    made: list[Forked]

    async def fork(self, arguments: Sequence[str], environment: dict[str, str]) -> Forked:
        process = await super().fork(arguments, environment)
        self.made.append(process)
        return process


@pytest.fixture
async def forks() -> AsyncIterator[ForkServer]:
    server = Recorded([sys.executable, "-P", "-c", PROGRAM])
    server.made = []
    yield server
    await server.end()
    for process in server.made:
        process.close()
        await process.wait()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def server_pid(forks: ForkServer) -> int:
    assert forks._server is not None
    return forks._server.pid


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0")


async def line(process: Forked) -> str:
    return (await process.stdout.readline()).decode().strip()


async def end(process: Forked) -> int:
    process.kill()
    code = await process.wait()
    process.close()
    return code


async def test_a_process_is_a_child_with_its_own_arguments_and_environment(
    forks: ForkServer,
) -> None:
    # bytes that are no UTF-8, as in names of files
    arguments, environment = ["shown", "--x=ü", "--y=\udcff"], {**ENVIRONMENT, "B": "\udcfe"}
    process = await forks.fork(arguments, environment)
    shown = await line(process)
    assert shown == f"{arguments} True {os.getpid()} {environment}"
    assert await process.stderr.read() == b"an error\n"
    assert await process.wait() == process.returncode == 3
    # both are no errors, and reach no other process
    process.send_signal(signal.SIGTERM)
    process.close()


async def test_processes_outlive_the_fork_server_and_the_next_one_gets_a_new_one(
    forks: ForkServer,
) -> None:
    first = await forks.fork(["one"], ENVIRONMENT)
    assert await line(first) == "one"
    before = server_pid(forks)
    os.kill(before, signal.SIGKILL)
    second = await forks.fork(["two"], ENVIRONMENT)
    assert await line(second) == "two"
    assert server_pid(forks) != before
    assert first.returncode is None
    assert [await end(first), await end(second)] == [-signal.SIGKILL] * 2


async def test_a_renewed_fork_server_is_another_process(forks: ForkServer) -> None:
    processes = [await forks.fork(["one"], ENVIRONMENT)]
    before = server_pid(forks)
    await forks.end()
    processes.append(await forks.fork(["two"], ENVIRONMENT))
    assert server_pid(forks) != before
    assert [await end(process) for process in processes] == [-signal.SIGKILL] * 2


async def test_processes_asked_for_at_once_get_their_own_pipes(forks: ForkServer) -> None:
    words = [f"word{i}" for i in range(8)]
    processes = await asyncio.gather(*(forks.fork([word], ENVIRONMENT) for word in words))
    assert [await line(process) for process in processes] == words
    assert len({process.pid for process in processes}) == len(words)
    for process in processes:
        await end(process)


async def test_no_descriptor_is_left(forks: ForkServer) -> None:
    await end(await forks.fork(["one"], ENVIRONMENT))

    def opened() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", server_pid(forks))]

    before = opened()
    for _ in range(5):
        await end(await forks.fork(["one"], ENVIRONMENT))
    # what earlier tests have left may be closed meanwhile
    await until(
        lambda: all(now <= then for now, then in zip(opened(), before, strict=True)),
        "no more descriptors than before",
        shown=lambda: (before, opened()),
    )


async def test_a_fork_server_that_cannot_start_says_why() -> None:
    forks = ForkServer([sys.executable, "-c", "raise SystemExit('no room')"])
    with pytest.raises(OSError, match="it ended: no room"):
        await forks.fork(["one"], ENVIRONMENT)
    await forks.end()


async def test_a_refused_fork_is_an_error_and_the_next_one_succeeds(forks: ForkServer) -> None:
    await end(await forks.fork(["one"], ENVIRONMENT))
    pid, number = server_pid(forks), resource.RLIMIT_NOFILE
    before = resource.prlimit(pid, number)
    # no room for the four descriptors of the two pipes
    resource.prlimit(pid, number, (8, before[1]))
    with pytest.raises(OSError, match="Too many open files"):
        await forks.fork(["two"], ENVIRONMENT)
    resource.prlimit(pid, number, before)
    await end(await forks.fork(["three"], ENVIRONMENT))
    assert server_pid(forks) == pid


async def test_orphans_are_reaped(forks: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forkserver, "REAP_INTERVAL_S", 0.05)
    reaping = asyncio.ensure_future(forks.reap_orphans())
    process = await forks.fork(["orphan"], ENVIRONMENT)
    orphan = Path("/proc", await line(process))
    assert await process.wait() == 0
    await until(lambda: not orphan.exists(), "the orphan to be reaped")
    process.close()
    reaping.cancel()


async def test_the_fork_server_of_the_product_has_one_thread_and_all_modules() -> None:
    forks = ForkServer()
    process = await forks.fork(["--version"], dict(os.environ))
    assert re.fullmatch(r"coinspace, version \S+", await line(process))
    assert await process.wait() == 0
    process.close()
    assert len(os.listdir(f"/proc/{server_pid(forks)}/task")) == 1
    assert title(server_pid(forks)) == "coinspace fork server"
    await forks.end()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
