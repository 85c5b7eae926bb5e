"""Each task of each process fails: it is logged, shown, and ends its process or starts again."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coinspace.config import Settings
from coinspace.health_file import read_health
from coinspace.storage.questdb.address import address
from tests.flow.platform import environment
from tests.waiting import free_port, wait_for

PACKAGE = Path(__file__).resolve().parent.parent.parent / "coinspace"
COLLECTOR = "orderbook-collector upbit"
# module -> (command, tasks that end the process, tasks that start again)
TASKS: dict[str, tuple[str, list[str], list[str]]] = {
    "process.py": ("orderbook-aggregator", ["health"], []),
    "alerts/worker.py": ("alerter", [], ["earlier premiums"]),
    "aggregator/worker.py": ("orderbook-aggregator", ["ticks"], []),
    "collector/collection.py": (COLLECTOR, ["timer", "connection 1"], []),
    "endpoint/live/feeder.py": (
        "index-endpoint",
        [],
        ["tables and heartbeats", "trades of premiums"],
    ),
    "endpoint/worker.py": ("index-endpoint", [], ["stored premiums"]),
    "index/worker.py": (
        "index-calculator",
        ["watch", "records of outages", "clock resets"],
        ["hash chain", "gaps", "memory", "missed ticks"],
    ),
    "rates/worker.py": ("fx-collector", ["rates-watch"], []),
    "storage/worker.py": (
        "orderbook-storage-worker",
        ["loop lag", "catch-up", "judgement"],
        ["database watch", "storing again", "stream", "stored batches"],
    ),
}
# their owner handles their end and ends or restarts its one query or client
READ_BY_OWNER = {
    "endpoint/http/connection.py",
    "endpoint/http/websocket.py",
    "child.py",
    "storage/watch.py",
    "supervisor.py",
    "tasks.py",
    # the link restarts them on its own thread
    "bus/nats/link.py",
    "bus/nats/pumps.py",
    "bus/nats/shipment.py",
}
# these run only after an outage, a damage or a failed start, or with streams
RARE = {"memory", "missed ticks", "storing again", "stream", "stored batches"}
ENDING = [(command, task) for command, ends, _ in TASKS.values() for task in ends]
STARTING_AGAIN = [
    (command, task) for command, _, again in TASKS.values() for task in again if task not in RARE
]


def spawned(path: Path) -> set[str]:
    """Return the literal names of the tasks that a module starts."""
    return {
        str(node.args[0].value)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("spawn", "keep")
        and node.args
        # other names are made of variables
        and isinstance(node.args[0], ast.Constant)
    }


def test_every_task_is_listed_here() -> None:
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        if module in READ_BY_OWNER or module.startswith("simulator/"):
            continue
        _, ends, again = TASKS.get(module, ("", [], []))
        unknown = spawned(path) - {*ends, *again}
        assert not unknown, f"{module} starts {unknown}: say here what follows its failure"


@contextmanager
def sabotaged(
    questdb: Settings, data: Path, command: str, task: str
) -> Iterator[subprocess.Popen[bytes]]:
    found = address(questdb)
    variables = environment(data, free_port()) | {
        "COINSPACE_STORAGE__ILP": found.ilp,
        "COINSPACE_STORAGE__SQL": found.sql,
        "COINSPACE_STORAGE__TTL": "off",
        "COINSPACE_EXCHANGES__UPBIT__WEBSOCKET": "ws://127.0.0.1:9/",
        "COINSPACE_EXCHANGES__UPBIT__REST": "http://127.0.0.1:9/",
        "COINSPACE_RATES__SOURCES": "dunamu",
        "COINSPACE_RATES__URLS": "dunamu=http://127.0.0.1:9",
    }
    with (data / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.flow.saboteur", task, *command.split()],
            env={**os.environ, **variables},
            stderr=stderr,
            stdout=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def health(data: Path, command: str) -> dict[str, Any]:
    return read_health(Settings(data=data), command.replace(" ", "-")) or {}


@pytest.mark.parametrize(("command", "task"), ENDING)
def test_a_failed_task_ends_its_process(
    questdb: Settings, tmp_path: Path, command: str, task: str
) -> None:
    with sabotaged(questdb, tmp_path, command, task) as process:
        assert process.wait(60) == 1
    said = (tmp_path / "stderr").read_text()
    assert said.count("event='task failed'") == 1
    assert "Traceback" in said
    last = health(tmp_path, command)
    assert last["state"] == "degraded"
    assert last["reason"] == f"{task} failed: ValueError('sabotage')"


@pytest.mark.parametrize(("command", "task"), STARTING_AGAIN)
def test_a_failed_task_starts_again(
    questdb: Settings, tmp_path: Path, command: str, task: str
) -> None:
    with sabotaged(questdb, tmp_path, command, task) as process:

        def counted() -> Any:
            return health(tmp_path, command).get("counters", {}).get("task_restarts")

        assert wait_for(counted, "a restart of the task") == 1
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    said = (tmp_path / "stderr").read_text()
    assert said.count("event='task restarts'") == 1
    assert "Traceback" in said
