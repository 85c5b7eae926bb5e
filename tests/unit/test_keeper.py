"""The private server's keeper: a server that hangs long is killed, a full disk kills none."""

from pathlib import Path
from typing import Any

import pytest

from coinspace.config import Settings
from coinspace.process import Process
from coinspace.storage.questdb import keeper


class Server:
    """A server that may run and may answer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address: Any = "where it is"
        self.answers = True
        self.code: int | None = None
        self.kills = 0
        self.spawns = 0
        self.unwritten: str | None = None

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.kills += 1
        self.code = -9

    def spawn(self) -> None:
        self.spawns += 1
        self.code = None

    def wait_ready(self) -> Any:
        return self.address

    def announce(self) -> str | None:
        return self.unwritten


class Bench:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        # the loop's clock stops as well
        monkeypatch.setattr(keeper, "FIRST_BACKOFF_S", 0.0)
        (tmp_path / "run").mkdir()
        self.process = Process("questdb", Settings(data=tmp_path))
        self.server = Server(tmp_path)
        self.keeper = keeper._Keeper(self.process, self.server)  # type: ignore[arg-type]
        monkeypatch.setattr("coinspace.storage.questdb.keeper.time.monotonic", lambda: self.seconds)
        monkeypatch.setattr(keeper, "is_private_server", lambda found: self.server.answers)
        self.keeper.announce()

    @property
    def state(self) -> str:
        return self.process.state

    async def run(self, seconds: float) -> None:
        end = self.seconds + seconds
        while self.seconds < end:
            self.seconds += keeper.PROBE_INTERVAL_S
            await self.keeper.check()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def test_a_server_that_hangs_is_killed_and_started_again(bench: Bench) -> None:
    bench.server.answers = False
    await bench.run(keeper.HUNG_S - 10)
    assert bench.state == "degraded"
    assert bench.server.kills == 0
    await bench.run(20)
    assert bench.server.kills == 1
    bench.server.answers = True
    await bench.run(10)
    assert bench.server.spawns == 1
    assert bench.state == "ready"
    assert bench.keeper.counters()["killed"] == 1


async def test_a_pause_is_no_hang(bench: Bench) -> None:
    for _ in range(3):
        bench.server.answers = False
        await bench.run(keeper.HUNG_S - 20)
        bench.server.answers = True
        await bench.run(10)
    assert bench.server.kills == 0
    assert bench.state == "ready"


async def test_an_address_that_cannot_be_written_kills_no_server(bench: Bench) -> None:
    bench.server.unwritten = "the address is not written: no space"
    bench.server.code = 1
    await bench.run(30)
    assert (bench.server.spawns, bench.server.kills) == (1, 0)
    assert bench.state == "degraded"
    bench.server.unwritten = None
    await bench.run(10)
    assert bench.state == "ready"
