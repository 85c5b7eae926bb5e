"""`coinspace cluster`: three servers on this machine, one of which is killed under the bus."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from coinspace.bus import transport
from coinspace.bus.nats import link
from coinspace.bus.nats.commands import cluster
from coinspace.bus.nats.server import Cluster
from coinspace.bus.publisher import open_publisher
from coinspace.config import load
from coinspace.errors import ConfigError
from coinspace.observe import doctor
from tests.flow.bus_stage import PROCESS, joined, listen, next_epoch, settings_in
from tests.flow.platform import environment
from tests.flow.test_nats import accounted, send
from tests.waiting import free_port, until, wait_for

COMMAND = [sys.executable, "-m", "coinspace"]


class Up:
    """A running `coinspace cluster up --nodes 3`."""

    def __init__(self, data: Path) -> None:
        self.environment = environment(data, free_port())
        self.folder = data / "nats"
        self.process = subprocess.Popen(
            [*COMMAND, "cluster", "up", "--nodes", "3"],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def servers(self) -> dict[str, int]:
        """Return node -> pid of the servers that run."""
        found: dict[str, int] = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            config = Path(os.fsdecode(words[-2])) if len(words) > 2 else Path()
            if config.name == "server.json" and config.parent.parent == self.folder:
                found[config.parent.name] = int(path.parent.name)
        return found

    def whole(self) -> bool:
        """Return whether all three nodes serve."""
        found = Cluster.of(self.folder)
        try:
            return found is not None and all(
                found.monitor(name, "healthz")["status"] == "ok" for name in found.names
            )
        except (OSError, ValueError):
            return False


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    try:
        wait_for(running.whole, "three servers")
        yield running
    finally:
        running.process.terminate()
        running.process.wait(30)


def run(*words: str) -> Result:
    """Run `coinspace cluster` in this process. Raises: what it raises."""
    done = CliRunner().invoke(cluster, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def in_use() -> dict[str, Any]:
    """Return the server that the process's own connection uses now."""
    client = next(iter(link._shared.links.values())).client
    assert client is not None
    return dict(client._server_info)


async def test_a_killed_server_costs_nothing(up: Up, tmp_path: Path) -> None:
    servers = Cluster.of(up.folder)
    assert servers is not None
    settings = settings_in(tmp_path, url=servers.url)
    publisher = open_publisher(PROCESS, settings, next_epoch())
    listener = listen(publisher, [b"orderbook."])
    try:
        await joined(publisher, listener)
        before = up.servers()
        assert len(before) == 3
        used = in_use()["server_name"]
        os.kill(before[used], signal.SIGKILL)
        send(publisher, 200)
        await until(lambda: not transport.problems(), "another server")
        await until(
            lambda: len(up.servers()) == 3 and up.servers() != before,
            "the killed one again",
        )
        await until(up.whole, "three servers")
        send(publisher, 1)
        last = publisher.topic(b"orderbook.upbit.BTC/KRW.").sequence

        def settled() -> bool:
            publisher.heartbeat()
            return accounted(listener) >= set(range(1, last + 1))

        await until(settled, "each message received or known as missing")
        assert publisher.counters()["journal_written"] == last
    finally:
        listener.close()
        publisher.close()


@pytest.mark.slow
async def test_a_server_that_stands_still_is_left(up: Up, tmp_path: Path) -> None:
    """More is published meanwhile than the client may keep for it."""
    servers = Cluster.of(up.folder)
    assert servers is not None
    settings = settings_in(tmp_path, url=servers.url)
    publisher = open_publisher(PROCESS, settings, next_epoch())
    listener = listen(publisher, [b"orderbook."])
    try:
        await joined(publisher, listener)
        pid = up.servers()[in_use()["server_name"]]
        os.kill(pid, signal.SIGSTOP)
        try:
            send(publisher, 10_000, 100)

            def back() -> bool:
                send(publisher, 1)
                publisher.heartbeat()
                last = publisher.topic(b"orderbook.upbit.BTC/KRW.").sequence
                return accounted(listener) >= set(range(1, last))

            await until(back, "each message received or known as missing")
        finally:
            os.kill(pid, signal.SIGCONT)
    finally:
        listener.close()
        publisher.close()


def test_the_commands_say_what_is_wrong(up: Up, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSPACE_DATA", str(up.folder.parent))
    url = run("url").output.strip()
    monkeypatch.setenv("COINSPACE_BUS__URL", url)
    done = run("status", "--json")
    facts = orjson.loads(done.output)
    assert done.exit_code == 0
    assert facts["nodes"].keys() == {"n1", "n2", "n3"}
    assert facts["bus"]["version"]
    with pytest.raises(ConfigError, match="expected no other process"):
        run("up", "--nodes", "3")
    settings = load(None)
    assert [one.level for one in doctor._servers(settings)] == ["ok"]
    up.process.terminate()
    up.process.wait(30)
    assert up.servers() == {}
    done = run("status")
    assert done.exit_code == 2
    assert "refused" in done.output
    [finding] = doctor._servers(settings)
    assert finding.level == "problem"
    assert "expected a NATS server that answers" in finding.text
