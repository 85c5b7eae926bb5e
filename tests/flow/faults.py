"""A storage side under faults: feeders, both workers and QuestDB as processes of their own.

The publishers' journals are the truth, since a message is written there before it is published.
Rows are compared with the journals value by value.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from coinspace._ext.message import ORDERBOOK, REPEAT, TICKER, TRADE
from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import read_journal
from coinspace.config import JournalSettings, Settings, StorageSettings
from coinspace.errors import StorageError
from coinspace.health_file import read_health
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.sender import BATCH_BYTES
from tests.flow.feeder_process import BURST, BURST_S
from tests.waiting import wait_for

BOOKS = "orderbook-collector-upbit"
TICKERS = "ticker-collector-upbit"
FEEDERS = (BOOKS, TICKERS)
WORKERS = ("orderbook-storage-worker", "ticker-storage-worker")
QUESTDB = "questdb"
TABLES = ("orderbook", "ticker", "trade", "state")
# a restarted collector receives the last trades once more
OVERLAP = 5


class Faults:
    """All processes on one data folder; `close` ends them.

    Attributes:
        publishers: whose messages are stored.
        figures: what was measured, by name.
        spared: workers that `storm` does not kill just now.
    """

    publishers: tuple[str, ...] = FEEDERS

    def __init__(self, folder: Path, rate: float, **environment: str) -> None:
        self.settings = Settings(data=folder, journal=JournalSettings(max_bytes=1 << 30))
        self.rate = rate
        # a message sent again after a restart is the same one
        self._start = str(time.time_ns())
        self.environment = {
            **os.environ,
            "COINSPACE_DATA": str(folder),
            "COINSPACE_STORAGE__TTL": "off",
            "COINSPACE_STORAGE__BATCH_MS": "50",
            "COINSPACE_STORAGE__REQUEST_TIMEOUT_MS": "1500",
            "COINSPACE_STORAGE__SERVER_OPTIONS": '{"QDB_DEV_MODE_ENABLED": "true"}',
            "COINSPACE_JOURNAL__MAX_BYTES": str(1 << 30),
            # a worker that never hears a configured publisher is not ready
            "COINSPACE_EXCHANGES__BITHUMB__MARKETS": "[]",
            "COINSPACE_EXCHANGES__BINANCE__MARKETS": "[]",
            **environment,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.figures: dict[str, float] = {}
        self.resident_mb: dict[str, int] = {}
        self.idle_mb: dict[str, int] = {}
        self.spared: set[str] = set()
        self.restarts: dict[str, int] = defaultdict(int)
        self._expected: dict[str, dict[Any, Any]] | None = None
        self._log = (folder / "processes.log").open("ab")

    @property
    def input(self) -> str:
        """Describe what is published."""
        return f"{self.rate:g} messages a second, market and topic"

    def start(self) -> None:
        """Start every process and wait until all work."""
        self.spawn(QUESTDB)
        self.until(lambda: self.state(QUESTDB) == "ready")
        for name in WORKERS:
            self.spawn(name)
        self.until(lambda: all(self.state(name) == "ready" for name in WORKERS))
        self.note_memory()
        self.idle_mb = dict(self.resident_mb)
        for name in self.publishers:
            self.spawn(name)
        self.until(self.fed)

    def fed(self) -> bool:
        """Return whether all publishers work."""
        return all(self.state(name) == "ready" for name in self.publishers)

    def spawn(self, name: str) -> None:
        """Start a process; a feeder continues where it was, with the last trades once more."""
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", *self.command(name)],
            env=self.environment,
            stdout=self._log,
            stderr=self._log,
        )

    def command(self, name: str) -> list[str]:
        """Return the command that starts a process."""
        if name in FEEDERS:
            health = read_health(self.settings, name)
            sent = int(health["counters"].get("sent", 0)) if health else 0
            first = max(0, sent - OVERLAP)
            return ["tests.flow.feeder_process", name, str(self.rate), str(first), self._start]
        if name == QUESTDB:
            return ["coinspace", "questdb", "start", "--foreground"]
        return ["coinspace", name]

    def kill(self, name: str) -> None:
        """Kill a process by SIGKILL and wait for its end."""
        self.processes[name].kill()
        self.processes[name].wait(60)

    def restart(self, name: str) -> None:
        """Kill a process by SIGKILL and start it again."""
        self.kill(name)
        self.spawn(name)
        self.restarts[name] += 1

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal."""
        self.processes[name].send_signal(number)

    def server_pid(self) -> int:
        """Return the database server's own process id."""
        return address(self.settings).pid

    def pause_server(self, seconds: float) -> None:
        """SIGSTOP the database for a while; the workers' event loops must not care."""
        pid = self.server_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
            lags = [self.counter(name, "loop_lag_p99_ms") for name in WORKERS]
            self.figures["event-loop lag p99 while the server hangs, ms"] = max(lags)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP a process for a while: its queues overflow."""
        self.signal(name, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self.signal(name, signal.SIGCONT)

    def kill_server(self) -> float:
        """Kill the database; its keeper starts it. Returns: seconds to the first new row."""
        before = self.server_pid()
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self._server_back(before))
        return self.first_row()

    def first_row(self) -> float:
        """Return the seconds from now until a new row is stored."""
        began, commits = time.monotonic(), self.commits()
        self.until(lambda: self.commits() > commits)
        return time.monotonic() - began

    def commits(self) -> int:
        """Return how many requests with books the database has acknowledged."""
        rows = self.sql("select sequencerTxn from wal_tables() where name = 'orderbook'")
        return int(rows[0][0])

    def outage(self, burst: bool = False) -> None:
        """Stop the database while messages arrive; with `burst`, the messages of ten minutes."""
        self.signal(QUESTDB, signal.SIGTERM)
        self.processes[QUESTDB].wait(60)
        if burst:
            (self.settings.data / BURST).touch()
            time.sleep(BURST_S)
            (self.settings.data / BURST).unlink()
        time.sleep(5)
        self.spawn(QUESTDB)
        self.until(lambda: self.state(QUESTDB) == "ready")

    def caught_up(self) -> bool:
        """Return whether the workers have only live messages left to store."""
        return all(
            self.state(name) == "ready"
            and self.counter(name, "messages_missing") == 0
            and self.counter(name, "oldest_pending_s") < 1
            for name in WORKERS
        )

    def change_columns(self, *statements: str) -> None:
        """Change tables under the workers."""
        for statement in statements:
            self.sql(statement)

    def suspend(self, table: str, seconds: float) -> None:
        """Let a table accept rows and show none for a while."""
        self.sql(f"alter table {table} suspend wal")
        try:
            time.sleep(seconds)
        finally:
            self.resume()

    def resume(self) -> None:
        """End every suspension."""
        for (table,) in self.sql("select name from wal_tables() where suspended"):
            self.sql(f"alter table {table} resume wal")

    def _server_back(self, before: int) -> bool:
        try:
            return self.server_pid() != before and self.state(QUESTDB) == "ready"
        except StorageError:
            return False

    def state(self, name: str) -> str:
        """Return the state of a living process, "down" of a dead one."""
        health = read_health(self.settings, name)
        process = self.processes.get(name)
        if not health or process is None or health["pid"] != process.pid:
            return "down"
        return str(health["state"])

    def reason(self, name: str) -> str:
        """Return why a process is degraded."""
        health = read_health(self.settings, name)
        return str(health["reason"]) if health else ""

    def counter(self, name: str, counter: str) -> float:
        """Return a counter of a process."""
        health = read_health(self.settings, name)
        return float(health["counters"].get(counter, 0)) if health else 0.0

    def until(self, condition: Callable[[], object], limit_s: float = 120) -> None:
        """Wait for a condition; record the workers' memory meanwhile."""

        def met() -> object:
            self.note_memory()
            return condition()

        wait_for(met, limit_s=limit_s, shown=self.explain)

    def note_memory(self) -> None:
        """Keep the highest resident size of each worker."""
        for name in WORKERS:
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    continue
                sizes = [int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line]
                worst = self.resident_mb.get(name, 0)
                self.resident_mb[name] = max([worst, *(size >> 10 for size in sizes)])

    def memory_bound_mb(self, name: str) -> float:
        """Return the MB that a worker may need: idle, waiting rows, twice the publishers' queues.

        A queue holds high_water_mark messages of a KiB; its subscriber has as many again at most.
        """
        memory = int(self.environment.get("COINSPACE_STORAGE__MEMORY_MB", "64"))
        rows = memory + (BATCH_BYTES >> 20)
        queues = 2 * len(self.publishers) / 2 * (self.settings.bus.high_water_mark >> 10)
        # the allocator's slack
        return self.idle_mb[name] + 1.5 * (rows + queues)

    def explain(self) -> str:
        """Return the processes' states and counters, for a failed wait."""
        return json.dumps({name: read_health(self.settings, name) for name in self.processes})

    def sql(self, text: str) -> list[Any]:
        """Run a statement."""
        with schema.connect(address(self.settings)) as connection:
            cursor = connection.execute(text)
            return list(cursor.fetchall()) if cursor.description else []

    def stop_feeders(self, *killed: str) -> None:
        """Stop publishing: kill these by SIGKILL, end the others by SIGTERM."""
        # SIGTERM before a process has installed its handlers would end it as a kill does
        self.until(lambda: all(self.state(name) != "down" for name in self.publishers))
        for name in self.publishers:
            if name in killed:
                self.kill(name)
            else:
                self.signal(name, signal.SIGTERM)
        for name in set(self.publishers) - set(killed):
            code = self.processes[name].wait(60)
            assert code == 0, f"{name} ended with {code}: {self.explain()}"
        self._expected = self.expected()

    def settled(self) -> bool:
        """Return whether no row is pending, no hole is open and all rows are visible."""
        for name in WORKERS:
            if self.state(name) != "ready":
                return False
            if self.counter(name, "rows_pending") or self.counter(name, "messages_missing"):
                return False
        try:
            rows = self.sql("select sum(sequencerTxn - writerTxn) from wal_tables()")
            open_rows = self.sql("select count() from gap where status='open' and kind != 'venue'")
            return rows[0][0] == 0 and open_rows[0][0] == 0 and self._complete()
        except (psycopg.Error, StorageError):
            return False

    def repaired(self) -> bool:
        """Return whether changed columns are repaired and the damaged rows are stored again."""
        if schema.differences(address(self.settings), StorageSettings(ttl="off")):
            return False
        rows = self.sql("select distinct status from gap where publisher like '%-storage-worker'")
        return rows == [("filled",)]

    def _complete(self) -> bool:
        expected = self._expected or {}
        return all(
            self.sql(f"select count() from {table}")[0][0] >= len(expected.get(table, {}))
            for table in TABLES
        )

    def expected(self) -> dict[str, dict[Any, Any]]:
        """Return the rows that the journals make, by table and key."""
        rows: dict[str, dict[Any, Any]] = defaultdict(dict)
        for name in self.publishers:
            for message in read_journal(journal_folder(self.settings, name)):
                key = (message.exchange, message.market, message.epoch, message.sequence)
                if message.kind == ORDERBOOK and not message.flags & REPEAT:
                    depth = self.settings.storage.depth
                    sides = (message.bids[:, :depth], message.asks[:, :depth])
                    rows["orderbook"][key] = b"".join(side.tobytes() for side in sides)
                elif message.kind == TICKER:
                    last = message.values[0].item()
                    # a value that the exchange does not send is null
                    rows["ticker"][key] = None if math.isnan(last) else last
                elif message.kind == TRADE:
                    trade = (message.exchange, message.market, message.exchange_ns, message.id)
                    rows["trade"][trade] = message.values.tolist()
                elif message.kind_name == "state":
                    rows["state"][(name, *key)] = message.json()["state"]
        return rows

    def compare(self) -> dict[str, int]:
        """Compare every row with the truth. Returns: lost, duplicated and wrong rows."""
        expected = self._expected or self.expected()
        found: dict[str, list[tuple[Any, Any]]] = {
            "orderbook": [
                (tuple(key), np.concatenate([*bids, *asks]).tobytes())
                for *key, bids, asks in self.sql(
                    "select exchange, market, epoch, seq, bids, asks from orderbook"
                )
            ],
            "ticker": [
                (tuple(key), last)
                for *key, last in self.sql("select exchange, market, epoch, seq, last from ticker")
            ],
            "trade": [
                (tuple(key), [price, size])
                for *key, price, size in self.sql(
                    "select exchange, market, ts::long, trade_id, price, size from trade"
                )
            ],
            "state": [
                (tuple(key), state)
                for *key, state in self.sql(
                    "select publisher, exchange, market, epoch, seq, state from state"
                )
            ],
        }
        outcome = {"published": 0, "lost": 0, "duplicated": 0, "wrong": 0, "unknown": 0}
        for table in TABLES:
            truth, rows = expected[table], found[table]
            keys = [key for key, _ in rows]
            outcome["published"] += len(truth)
            outcome["duplicated"] += len(keys) - len(set(keys))
            outcome["lost"] += len(truth.keys() - set(keys))
            outcome["unknown"] += len(set(keys) - truth.keys())
            outcome["wrong"] += sum(truth.get(key, value) != value for key, value in rows)
        return outcome

    def reconcile(self) -> dict[str, Any]:
        """Run `coinspace reconcile --json` over everything."""
        until = str(time.time_ns() // 1_000_000 + 1)
        command = ["-m", "coinspace", "reconcile", "--from", "1", "--to", until, "--json"]
        done = subprocess.run(
            [sys.executable, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        report["exit_code"] = done.returncode
        return report

    def close(self) -> None:
        """End every process."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


class Storm:
    """Every fault of a running system at the same time, each in a loop on a thread of its own."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self._seed = seed
        self._over = False

    def run(self) -> None:
        """Run from the first fault of the database to its last. Raises: the error of a thread."""
        loops = (self.kill_workers, self.stop_subscriber, self.kill_publishers, self.break_tables)
        with ThreadPoolExecutor(len(loops)) as threads:
            running = [
                threads.submit(loop, random.Random(self._seed + i)) for i, loop in enumerate(loops)
            ]
            try:
                self.break_server()
            finally:
                self._over = True
            for one in running:
                one.result()
        self.faults.resume()

    def break_server(self) -> None:
        """Kill the database in the middle of a batch, pause it, stop it for a long outage."""
        time.sleep(5)
        self.faults.kill_server()
        time.sleep(5)
        self.faults.pause_server(60)
        time.sleep(10)
        self.faults.outage(burst=True)
        time.sleep(10)

    def kill_workers(self, chance: random.Random) -> None:
        """Kill workers by SIGKILL, twenty times at least."""
        kills = 0
        while not self._over or kills < 20:
            time.sleep(chance.uniform(0.2, 8))
            name = chance.choice(WORKERS)
            if name not in self.faults.spared:
                self.faults.restart(name)
                kills += 1

    def stop_subscriber(self, chance: random.Random) -> None:
        """Pause a worker for half a minute, repeatedly."""
        while not self._over:
            time.sleep(chance.uniform(3, 10))
            name = chance.choice(WORKERS)
            self.faults.spared = {name}
            self.faults.pause(name, 30)
            self.faults.spared = set()

    def kill_publishers(self, chance: random.Random) -> None:
        """Kill and restart collectors, some before any subscriber has heard them."""
        while not self._over:
            time.sleep(chance.choice([1.2, 5, 12]))
            self.faults.restart(chance.choice(self.faults.publishers))

    def break_tables(self, chance: random.Random) -> None:
        """Suspend tables and change their columns, whenever the database answers."""
        changes = (
            "alter table orderbook alter column ask_size type boolean",
            "alter table orderbook drop column asks",
            "alter table trade alter column price type varchar",
            "alter table ticker drop column last",
            "alter table state alter column reason type symbol",
        )
        while not self._over:
            time.sleep(chance.uniform(2, 8))
            # the database is down or refuses this change: try the next one
            with suppress(psycopg.Error, StorageError):
                self.faults.sql(chance.choice(changes))
                self.faults.suspend(chance.choice(TABLES), chance.uniform(1, 6))


def highest(figures: Iterable[float]) -> float:
    """Return the highest figure, rounded for a report."""
    return round(max(figures), 2)
