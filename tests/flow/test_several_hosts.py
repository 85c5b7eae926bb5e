"""The example of several hosts in docs/operations.md, run as it stands there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.bus.sockets import PING_TIMEOUT_MS
from coinspace.clock import now_ns
from tests import documents
from tests.flow.namespaces import Network, network
from tests.flow.platform import environment
from tests.waiting import free_port, wait_for

DOCUMENT = documents.ROOT / "docs" / "operations.md"
CUT = ("collect", "store")
TICK_NS = 200_000_000
LIMIT_S = 150.0
READYZ = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
"""
TICKS = """
import sys
from coinspace.config import load
from tests.flow.database import query
print(query(load(), sys.argv[1]))
"""


def example() -> tuple[str, list[str]]:
    """Return the configuration and the commands of the document."""
    blocks = documents.read(DOCUMENT).blocks
    at = next(i for i, one in enumerate(blocks) if "[hosts." in one.text)
    return blocks[at].text, blocks[at + 1].text.splitlines()


class Host:
    """One of the hosts: a data folder, and commands in its namespace."""

    def __init__(self, name: str, folder: Path, net: Network) -> None:
        self.name, self.folder = name, folder
        self._inside = net.inside(name)
        self.port = free_port()
        self.environment = environment(folder, self.port)
        folder.mkdir()

    def command(self, line: str, *more: str) -> list[str]:
        words = re.split(r"\s{2,}", line)[0].split()
        assert words[0] == "coinspace"
        return [*self._inside, sys.executable, "-m", *words, *more]

    def run(self, line: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self._run(self.command(line, *more))

    def python(self, code: str, *arguments: str) -> str:
        return self._run([*self._inside, sys.executable, "-c", code, *arguments]).stdout

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextmanager
    def up(self, line: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "up.log").open("wb") as output:
            process = subprocess.Popen(
                self.command(line, *more),
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    def readyz(self) -> dict[str, Any]:
        text = self.python(READYZ, f"http://127.0.0.1:{self.port}/readyz")
        return dict(orjson.loads(text)) if text else {}


def silent_s(found: dict[str, Any], host: str) -> int:
    """Return for how long an endpoint has heard nothing of a host."""
    ages = re.findall(rf"no heartbeat from host {host} for (\d+) s", str(found.get("reasons")))
    return max(map(int, ages), default=0)


@pytest.mark.timeout(600)
def test_a_cut_link_loses_nothing(tmp_path: Path) -> None:
    text, commands = example()
    make_keys, export, up, status = commands
    variable, _, _ = export.removeprefix("export ").partition("=")
    tables = tomllib.loads(text)["hosts"]
    with (
        network({name: one["address"] for name, one in tables.items()}) as net,
        ExitStack() as all_,
    ):
        running: list[subprocess.Popen[bytes]] = []
        hosts = {name: Host(name, tmp_path / name, net) for name in tables}
        keys = [host.run(make_keys).stdout.strip() for host in hosts.values()]
        parts = re.split(r'public_key = ".*"', text)
        assert len(parts) == len(keys) + 1
        whole = "".join(map("".join, zip(parts, [*keys, ""], strict=True)))
        for name, host in hosts.items():
            (host.folder / "coinspace.toml").write_text(whole)
            host.environment[variable] = "this-is-for-a-test-only"
            more = ["--simulate"] if name == "collect" else []
            running.append(all_.enter_context(host.up(up, *more)))

        serve, store = hosts["serve"], hosts["store"]

        def ready() -> bool:
            return serve.readyz().get("state") == "ready"

        seen: dict[str, str] = {}

        def all_healthy() -> bool:
            for name, host in hosts.items():
                done = host.run(status)
                seen[name] = done.stdout
                if done.returncode:
                    return False
            return True

        wait_for(ready, "ready", limit_s=LIMIT_S, shown=serve.readyz)
        wait_for(all_healthy, "all healthy", limit_s=LIMIT_S, shown=lambda: seen)
        begun_ns = now_ns()
        for name in CUT:
            net.link(name, "down")

        def cut_longer() -> bool:
            found = serve.readyz()
            return all(silent_s(found, name) > PING_TIMEOUT_MS / 1000 for name in CUT)

        wait_for(cut_longer, "a cut longer than the time-outs", shown=serve.readyz)
        cut = hosts["index"].run(status)
        assert cut.returncode == 1
        assert "no heartbeat from host collect" in cut.stdout
        assert "never started" not in cut.stdout
        for name in CUT:
            net.link(name, "up")
        wait_for(ready, "ready again", limit_s=LIMIT_S, shown=serve.readyz)
        wait_for(all_healthy, "healthy again", limit_s=LIMIT_S, shown=lambda: seen)
        ended_ns = now_ns()
        span = ("--from", str(begun_ns // 1_000_000), "--to", str(ended_ns // 1_000_000))

        def total() -> dict[str, int]:
            done = store.run("coinspace reconcile", "--json", *span)
            return dict(orjson.loads(done.stdout)["total"]) if done.stdout else {}

        def stored() -> dict[str, int] | None:
            found = total()
            return None if not found or found["unexplained"] or found["open"] else found

        found = wait_for(stored, "all stored", limit_s=LIMIT_S, shown=total)
        assert found["lost"] == found["dead"] == 0
        assert found["gaps"] > 0
        first, last = begun_ns // TICK_NS * TICK_NS, ended_ns // TICK_NS * TICK_NS
        ticks = (
            "SELECT count() FROM index_tick WHERE asset = 'BTC'"
            f" AND ts >= {first}::timestamp_ns AND ts < {last}::timestamp_ns"
        )
        expected = f"[({(last - first) // TICK_NS},)]"
        wait_for(
            lambda: store.python(TICKS, ticks).strip() == expected,
            "each tick has a record",
            shown=lambda: (store.python(TICKS, ticks), expected),
        )
        # all at once: the end of the block waits for one after another
        for process in running:
            process.send_signal(signal.SIGTERM)
