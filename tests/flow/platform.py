"""A whole platform in a folder of its own, started by the command that a user types."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from coinspace.config import Settings
from tests.flow import database
from tests.waiting import free_port


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and awaits its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


class Platform:
    """A running `coinspace up` and requests to it."""

    def __init__(
        self,
        data: Path,
        port: int,
        process: subprocess.Popen[bytes],
        more: dict[str, str] | None = None,
    ) -> None:
        self._more = more or {}
        self._control: http.client.HTTPConnection | None = None
        self.data = data
        self.port = port
        self.process = process

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.data, self.port) | self._more

    def get(self, path: str, *, any_status: bool = False) -> Any:
        """Return the API's JSON answer, None without an answer or when it is an error."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=60
            ) as response:
                return orjson.loads(response.read())
        except urllib.error.HTTPError as error:
            return orjson.loads(error.read()) if any_status else None
        except (OSError, http.client.HTTPException):
            return None

    def run(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a `coinspace` command beside the platform."""
        return subprocess.run(
            [sys.executable, "-m", "coinspace", *arguments],
            env=self.environment,
            cwd=self.data,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def control(self, method: str, path: str = "", content: object = None) -> Any:
        """Send a request to the simulated exchanges' control address.

        The connection is kept: a fault of new connections would be spent on another one.
        """
        if self._control is None:
            log = (self.data / "logs" / "simulate.log").read_bytes()
            line = next(one for one in log.splitlines() if b'"control"' in one)
            place = urllib.parse.urlsplit(orjson.loads(line)["control"]).netloc
            self._control = http.client.HTTPConnection(place, timeout=60)
        body = None if content is None else orjson.dumps(content)
        self._control.request(method, f"/control{path}", body)
        response = self._control.getresponse()
        answer = orjson.loads(response.read())
        assert response.status < 400, answer
        return answer

    def pids(self) -> dict[str, int]:
        return {
            path.stem: orjson.loads(path.read_bytes())["pid"]
            for path in (self.data / "run").glob("*.json")
        }

    def stop(self, timeout_s: float = 60.0) -> int:
        if self._control is not None:
            self._control.close()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s)


def environment(data: Path, port: int) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("COINSPACE_")}
    kept = {
        k: os.environ[k] for k in ("COINSPACE_CACHE", "COINSPACE_QUESTDB_JAR") if k in os.environ
    }
    root = str(Path(__file__).resolve().parent.parent.parent)
    return {
        **inherited,
        **kept,
        "PYTHONPATH": root,
        "COINSPACE_DATA": str(data),
        "COINSPACE_ENDPOINT__PORT": str(port),
    }


@contextmanager
def platform(data: Path, *arguments: str, **more: str) -> Iterator[Platform]:
    """Run `coinspace up`, by default on simulated exchanges; its output goes to data/up.log.

    Args: more: environment variables.
    """
    port = free_port()
    exchanges = () if "--replay" in arguments else ("--simulate",)
    with (data / "up.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "coinspace", "up", *exchanges, *arguments],
            env=environment(data, port) | more,
            cwd=data,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    started = Platform(data, port, process, more)
    try:
        yield started
    finally:
        if process.poll() is None:
            try:
                started.stop()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def query(data: Path, text: str) -> list[tuple[Any, ...]]:
    """Run a query in the platform's database."""
    return database.query(Settings(data=data), text)


class Database:
    """The platform's private server alone, to read the rows of an ended run."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._environment = environment(data, free_port())

    def _run(self, command: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "coinspace", "questdb", command],
            env=self._environment,
            cwd=self._data,
            check=True,
            timeout=200,
            capture_output=True,
        )

    def __enter__(self) -> None:
        self._run("start")

    def __exit__(self, *exception: object) -> None:
        self._run("stop")
