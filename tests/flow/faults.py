"""A storage side under faults: feeders, both workers and QuestDB as processes of their own.

The truth is what the feeders' journals hold, since a message is written there before it is
published; rows are compared with it value by value.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from coinspace._ext.message import ORDERBOOK, REPEAT, TICKER, TRADE
from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import read_journal
from coinspace.config import JournalSettings, Settings
from coinspace.errors import StorageError
from coinspace.process import read_health
from coinspace.storage import schema
from coinspace.storage.address import address

BOOKS = "orderbook-collector-upbit"
TICKERS = "ticker-collector-upbit"
FEEDERS = (BOOKS, TICKERS)
WORKERS = ("orderbook-storage-worker", "ticker-storage-worker")
QUESTDB = "questdb"
TABLES = ("orderbook", "ticker", "trade", "state")
# a restarted collector is sent the last trades once more
OVERLAP = 5


class Faults:
    """All processes on one data folder; `close` ends them.

    Attributes: figures = what was measured, by name.
    """

    def __init__(self, folder: Path, rate: float, **environment: str) -> None:
        self.settings = Settings(data=folder, journal=JournalSettings(max_bytes=1 << 30))
        self.rate = rate
        self.environment = {
            **os.environ,
            "COINSPACE_DATA": str(folder),
            "COINSPACE_STORAGE__TTL": "off",
            "COINSPACE_STORAGE__BATCH_MS": "50",
            "COINSPACE_STORAGE__REQUEST_TIMEOUT_MS": "1500",
            "COINSPACE_STORAGE__SERVER_OPTIONS": '{"QDB_DEV_MODE_ENABLED": "true"}',
            "COINSPACE_JOURNAL__MAX_BYTES": str(1 << 30),
            **environment,
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.figures: dict[str, Any] = {"rate_per_topic": rate, "worker_rss_mb": {}}
        self._log = (folder / "processes.log").open("ab")

    def start(self, timeout_s: float = 90) -> None:
        """Start everything and wait until it works."""
        self.spawn(QUESTDB)
        self.until(lambda: self.state(QUESTDB) == "ready", timeout_s)
        for name in (*WORKERS, *FEEDERS):
            self.spawn(name)
        self.until(lambda: all(self.state(name) == "ready" for name in WORKERS), timeout_s)

    def spawn(self, name: str) -> None:
        """Start a process; a feeder goes on where it was."""
        if name in FEEDERS:
            health = read_health(self.settings, name)
            sent = int(health["counters"].get("sent", 0)) if health else 0
            # what was sent after the last health file was written is not known: skip over it
            first = max(0, sent - OVERLAP) if health is None or self.ended(name) else sent
            command = ["-m", "tests.flow.feeder_process", name, str(self.rate), str(first)]
        elif name == QUESTDB:
            command = ["-m", "coinspace", "questdb", "start", "--foreground"]
        else:
            command = ["-m", "coinspace", name]
        self.processes[name] = subprocess.Popen(
            [sys.executable, *command], env=self.environment, stdout=self._log, stderr=self._log
        )

    def ended(self, name: str) -> bool:
        """Tell whether a process is not running."""
        process = self.processes.get(name)
        return process is None or process.poll() is not None

    def kill(self, name: str) -> None:
        """kill -9, and wait for the end."""
        self.processes[name].kill()
        self.processes[name].wait(10)

    def restart(self, name: str) -> None:
        """kill -9 and start again."""
        self.kill(name)
        self.spawn(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal."""
        self.processes[name].send_signal(number)

    def server_pid(self) -> int:
        """Return the database server's own process id."""
        return address(self.settings).pid

    def pause_server(self, seconds: float) -> None:
        """SIGSTOP the database for a while; notes the workers' event-loop lag meanwhile."""
        pid = self.server_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
            self.figures["loop_lag_ms_while_hung"] = {
                name: {
                    "p99": self.counter(name, "loop_lag_p99_ms"),
                    "max": self.counter(name, "loop_lag_max_ms"),
                }
                for name in WORKERS
            }
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_server(self) -> float:
        """kill -9 the database; its keeper starts it. Returns: seconds back to first new row."""
        before = self.server_pid()
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self._server_back(before), 90)
        back, rows = time.monotonic(), self.counter(WORKERS[0], "rows_stored")
        self.until(lambda: self.counter(WORKERS[0], "rows_stored") > rows, 60)
        return time.monotonic() - back

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

    def until(self, condition: Callable[[], object], timeout_s: float) -> None:
        """Wait; notes the workers' memory meanwhile."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.note_memory()
            assert time.monotonic() < deadline, f"not within {timeout_s} s; {self.explain()}"
            time.sleep(0.1)

    def note_memory(self) -> None:
        """Keep the highest resident size of each worker."""
        for name in WORKERS:
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    continue
                sizes = [line.split()[1] for line in status.splitlines() if "VmRSS" in line]
                worst = self.figures["worker_rss_mb"]
                worst[name] = max([worst.get(name, 0), *(int(size) >> 10 for size in sizes)])

    def explain(self) -> str:
        """Return the processes' states and counters, for a failed wait."""
        return json.dumps({name: read_health(self.settings, name) for name in self.processes})

    def sql(self, text: str) -> list[Any]:
        """Run a statement."""
        with schema.connect(address(self.settings)) as connection:
            cursor = connection.execute(text)
            return list(cursor.fetchall()) if cursor.description else []

    def is_heard(self, name: str) -> bool:
        """Tell whether something of a publisher's present epoch is stored."""
        health = read_health(self.settings, name)
        if self.state(name) != "ready" or not health:
            return False
        table = "orderbook" if name.startswith("orderbook") else "trade"
        rows = self.sql(f"select count() from {table} where epoch = {int(health['started_ns'])}")
        return bool(rows[0][0])

    def stop_feeders(self) -> None:
        """Stop publishing, orderly."""
        # a publisher that ends before anybody has connected to it is only known to its journal,
        # which workers read when that publisher, or they themselves, start again
        self.until(lambda: all(self.is_heard(name) for name in FEEDERS), 60)
        for name in FEEDERS:
            self.processes[name].terminate()
        for name in FEEDERS:
            code = self.processes[name].wait(60)
            assert code == 0, f"{name} ended with {code}: {self.explain()}"

    def settled(self) -> bool:
        """Tell whether nothing is pending, no hole open and all rows visible."""
        for name in WORKERS:
            if self.state(name) != "ready":
                return False
            if self.counter(name, "rows_pending") or self.counter(name, "messages_missing"):
                return False
        try:
            rows = self.sql("select sum(sequencerTxn - writerTxn) from wal_tables()")
            open_rows = self.sql("select count() from gap where status='open' and kind != 'venue'")
        except (psycopg.Error, StorageError):
            return False
        return rows[0][0] == 0 and open_rows[0][0] == 0 and self._complete()

    def mended(self) -> bool:
        """Tell whether a change of columns was undone and what it damaged is being stored again."""
        wrong = schema.differences(address(self.settings), ttl=False)
        again = self.sql("select count() from gap where reason like 'schema changed%'")
        return not wrong and again[0][0] > 0

    def _complete(self) -> bool:
        expected = self.expected()
        return all(
            self.sql(f"select count() from {table}")[0][0] >= len(expected[table])
            for table in TABLES
        )

    def expected(self) -> dict[str, dict[Any, Any]]:
        """Return the rows that the journals make, by table and key."""
        rows: dict[str, dict[Any, Any]] = defaultdict(dict)
        for name in FEEDERS:
            for message in read_journal(journal_folder(self.settings, name)):
                key = (message.market, message.epoch, message.sequence)
                if message.kind == ORDERBOOK and not message.flags & REPEAT:
                    rows["orderbook"][key] = message.payload.tobytes()
                elif message.kind == TICKER:
                    rows["ticker"][key] = message.values[0].item()
                elif message.kind == TRADE:
                    trade = (message.market, message.exchange_ns, message.id)
                    rows["trade"][trade] = message.values.tolist()
                elif message.kind_name == "state":
                    rows["state"][(name, *key)] = message.json()["state"]
        return rows

    def compare(self) -> dict[str, int]:
        """Compare every row with the truth. Returns: lost, duplicated and wrong rows."""
        expected = self.expected()
        found: dict[str, list[tuple[Any, Any]]] = {
            "orderbook": [
                ((market, epoch, seq), np.concatenate([*bids, *asks]).tobytes())
                for market, epoch, seq, bids, asks in self.sql(
                    "select market, epoch, seq, bids, asks from orderbook"
                )
            ],
            "ticker": [
                (tuple(key), last)
                for *key, last in self.sql("select market, epoch, seq, last from ticker")
            ],
            "trade": [
                (tuple(key), [price, size])
                for *key, price, size in self.sql(
                    "select market, ts::long, trade_id, price, size from trade"
                )
            ],
            "state": [
                (tuple(key), state)
                for *key, state in self.sql(
                    "select publisher, market, epoch, seq, state from state"
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
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
