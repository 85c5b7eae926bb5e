"""A whole platform under random faults: processes, disk, clock, network, exchanges, database.

A seed chooses every fault, its target, its moment and its duration. The simulated exchanges run
beside the platform, outside its clock and its disk. Each fault undoes itself; the platform must
then recover without an operator.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.storage.questdb.address import address
from tests.flow.clock import WallClock
from tests.flow.host import MIB, Disk, Network
from tests.flow.platform import Platform, alive, environment, query
from tests.waiting import free_port, wait_for

ASSETS = ("BTC", "ETH")
MARKETS = {
    "upbit": ["BTC/KRW", "ETH/KRW", "USDT/KRW"],
    "bithumb": ["BTC/KRW", "ETH/KRW", "USDT/KRW"],
    "binance": ["BTC/USDT", "ETH/USDT"],
}
INTERVAL_NS = 200 * MILLISECOND_NS
# faults of the exchange in the simulator's syntax, without the exchange and the time
EXCHANGE_FAULTS = (
    "drop:{}:p=0.2",
    "duplicate:{}:p=0.3",
    "reorder:{}:p=0.3",
    "truncate:{}:p=0.1",
    "garbage:{}:p=0.1",
    "flip:{}:p=0.1",
    "digit:{}:p=0.05",
    "delay:{}:ms=900",
    "huge:{}:p=0.02",
    "split:{}:n=3",
    "chop:{}:n=4:ms=20",
    "coalesce:{}:n=10",
    "stall:{}",
    "mute:{}",
    "rest:{}:status=429:retry=2",
    "rest:{}:status=503",
    "rest:{}:ms=3000:status=0",
    "handshake:{}:status=503",
    "stale:{}",
    "clock:{}:by=3h",
    "clock:{}:by=-3h",
)
# the markets and error texts of each exchange
MARKET_FAULTS = (
    "halt:upbit:KRW-ETH",
    "delist:bithumb:KRW-ETH",
    "halt:binance:ETHUSDT",
    "delist:binance:ETHUSDT",
    "shutdown:binance",
)
NETWORK_FAULTS = (
    "reset:{}",
    "halfopen:{}",
    "cut:{}",
    "close:{}:code=1001",
    "close:{}:code=1006",
    "error:{}",
    "handshake:{}:status=0",
    "handshake:{}:ms=4000:status=0",
    "request-close:{}",
    "request-reset:{}",
    "request-hang:{}",
    "half-header:{}",
    "half-header-close:{}",
    "wrong-key:{}",
)
# all faults, before an exchange is chosen
PORT_FAULTS = ("refuse:*", "accept-close:*", "accept-reset:*", "accept-hang:*")
USER_STATEMENTS = (
    "create table if not exists notes (ts timestamp, what varchar) timestamp(ts) partition by day"
    " ttl 1 month wal",
    "alter table trade set ttl 2 months",
    "alter table orderbook set ttl 3 days",
    "alter table orderbook drop column asks",
    "alter table ticker alter column last type varchar",
)


@dataclass
class Limits:
    """How long faults last, and how long the end of the run has none, in seconds."""

    gap_s: tuple[float, float] = (2.0, 12.0)
    short_s: tuple[float, float] = (1.0, 8.0)
    hang_s: tuple[float, float] = (35.0, 50.0)
    outage_s: tuple[float, float] = (5.0, 40.0)


@dataclass
class Sample:
    """One process's size at one moment."""

    at_s: float
    name: str
    pid: int
    anonymous_kb: int
    descriptors: int


@dataclass
class Chaos:
    """The platform, the simulated exchanges and the faults between them.

    Attributes:
        done: fault -> how often it was applied.
        stepped: wall-clock windows (from, to) in ns in which the platform's clock was wrong.
    """

    folder: Path
    disk: Disk
    network: Network
    seed: int
    rate: float = 0.5
    limits: Limits = field(default_factory=Limits)
    done: Counter[str] = field(default_factory=Counter)
    stepped: list[tuple[int, int]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.disk.place / "data"
        self.data.mkdir()
        self.clock = WallClock(self.folder)
        self.port = free_port()
        self.exchange_port = free_port()
        self.config = self.folder / "coinspace.toml"
        self._simulator: subprocess.Popen[bytes] | None = None
        self._up: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._log = (self.folder / "chaos.log").open("a")
        self._began = time.monotonic()

    # the platform

    def start(self) -> None:
        """Start the exchanges and the platform; wait until the platform is healthy."""
        self.start_exchanges()
        self.write_config()
        command = ["up", "--config", str(self.config)]
        self._up = self._spawn("up.log", command, self.environment)
        wait_for(self.healthy, "a healthy platform", limit_s=400)

    @property
    def environment(self) -> dict[str, str]:
        """The platform's environment: its disk and its clock."""
        return environment(self.data, self.port) | self.clock.environment

    @property
    def platform(self) -> Platform:
        """The platform, for requests to its API."""
        assert self._up is not None
        return Platform(self.data, self.port, self._up)

    def write_config(self) -> None:
        """Write the configuration that all processes read."""
        lines = [
            "[index]",
            f"assets = {json.dumps(ASSETS)}",
            "[journal]",
            f"max_bytes = {256 * MIB}",
        ]
        for exchange, markets in MARKETS.items():
            base = f"{self.network.link}:{self.exchange_port}/{exchange}"
            path = {"upbit": "/websocket/v1", "bithumb": "/websocket/v1"}.get(exchange, "")
            lines += [
                f"[exchanges.{exchange}]",
                f'websocket = "ws://{base}{path}"',
                f'rest = "http://{base}"',
                f"markets = {json.dumps(markets)}",
            ]
            if exchange == "binance":
                lines.append("depth = 100")
        self.config.write_text("\n".join(lines) + "\n")

    def start_exchanges(self) -> None:
        """Start the simulated exchanges, always at the same port."""
        markets = [f"--market={name}:{one}" for name, some in MARKETS.items() for one in some]
        listen = ["--host", "0.0.0.0", "--port", str(self.exchange_port)]
        command = ["simulate", *listen, "--rate", str(self.rate), *markets]
        # never with the platform's clock
        plain = environment(self.folder, self.port)
        self._simulator = self._spawn("simulate.log", command, plain, self.network.command)
        wait_for(lambda: self.control("GET", "") is not None, "the exchanges")

    def _spawn(
        self, log: str, command: list[str], variables: dict[str, str], place: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as output:
            return subprocess.Popen(
                [*place, sys.executable, "-m", "coinspace", *command],
                env=variables,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def control(self, method: str, path: str, content: object = None) -> Any:
        """Send a request to the simulated exchanges' control address; None without an answer."""
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            f"http://{self.network.whole}:{self.exchange_port}/control{path}", body, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
            return None

    def status(self) -> subprocess.CompletedProcess[str]:
        """Run `coinspace status --json` as an operator on this host."""
        return self.command("status", "--json")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `coinspace` command with the platform's configuration, disk and clock."""
        return subprocess.run(
            [sys.executable, "-m", "coinspace", *arguments, "--config", str(self.config)],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def stop(self) -> int:
        """Stop the platform as Ctrl-C does. Returns: its exit code."""
        return self.platform.stop()

    def healthy(self) -> bool:
        """Return whether `status` and `/readyz` both report a healthy platform."""
        # `/readyz` first: it is the cheaper one, and callers poll
        return self.platform.get("/readyz") is not None and self.status().returncode == 0

    def close(self) -> None:
        """End everything that was started."""
        self.clock.step(0)
        for process in (self._up, self._simulator):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        # unmounting the disk removes its files
        shutil.copytree(self.data / "logs", self.folder / "logs", dirs_exist_ok=True)
        self._log.close()

    # the faults

    def run(self, seconds: float) -> None:
        """Apply faults for a time, one of each lane at once, then undo the remaining ones.

        No lane has two faults at a time: two faults of one disk or clock would undo each other.
        """
        lanes: tuple[tuple[Callable[[random.Random], None], ...], ...] = (
            (self.kill, self.kill, self.end, self.pause, self.hang, self.kill_exchanges),
            (
                self.disturb_exchange,
                self.disturb_exchange,
                self.disturb_connections,
                self.disturb_connections,
                self.disturb_link,
                self.break_config,
            ),
            (
                self.disturb_disk,
                self.disturb_disk,
                self.step_clock,
                self.kill_server,
                self.pause_server,
                self.user,
            ),
        )
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(len(lanes) + 1) as threads:
            watching = threads.submit(self._watch)
            running = [
                threads.submit(self._lane, faults, random.Random(self.seed * 100 + n), until)
                for n, faults in enumerate(lanes)
            ]
            try:
                for one in running:
                    one.result()
            finally:
                self._over.set()
                watching.result()
        wait_for(lambda: self.control("DELETE", "/faults") is not None, "the exchanges")

    def _lane(
        self, faults: tuple[Callable[[random.Random], None], ...], draw: random.Random, until: float
    ) -> None:
        while True:
            time.sleep(draw.uniform(*self.limits.gap_s))
            if time.monotonic() > until:
                return
            fault = draw.choice(faults)
            # a process may have ended already, the database may refuse the statement now
            with suppress(ProcessLookupError, psycopg.Error, CoinSpaceError):
                fault(draw)

    def note(self, fault: str, detail: object = "") -> None:
        """Count a fault and log it with its time."""
        self.done[fault] += 1
        print(f"{time.monotonic() - self._began:8.1f} {fault} {detail}", file=self._log, flush=True)

    def _victim(self, draw: random.Random) -> tuple[str, int]:
        pids = {name: pid for name, pid in self.platform.pids().items() if alive(pid)}
        if not pids:
            raise ProcessLookupError
        name = draw.choice(sorted(pids))
        return name, pids[name]

    def kill(self, draw: random.Random) -> None:
        """End a process by kill -9."""
        name, pid = self._victim(draw)
        self.note("kill -9", name)
        os.kill(pid, signal.SIGKILL)

    def end(self, draw: random.Random) -> None:
        """End a process by SIGTERM."""
        name, pid = self._victim(draw)
        self.note("SIGTERM", name)
        os.kill(pid, signal.SIGTERM)

    def pause(self, draw: random.Random) -> None:
        """Stop a process for some seconds."""
        self._pause("stopped for seconds", *self._victim(draw), draw.uniform(*self.limits.short_s))

    def hang(self, draw: random.Random) -> None:
        """Stop a process for so long that its supervisor replaces it."""
        self._pause(
            "stopped until replaced", *self._victim(draw), draw.uniform(*self.limits.hang_s)
        )

    def _pause(self, fault: str, name: str, pid: int, seconds: float) -> None:
        self.note(fault, name)
        os.kill(pid, signal.SIGSTOP)
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and alive(pid):
                time.sleep(0.2)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill_exchanges(self, draw: random.Random) -> None:
        """End the exchanges by kill -9 and start them again later."""
        assert self._simulator is not None
        self.note("exchanges killed")
        self._simulator.kill()
        self._simulator.wait()
        time.sleep(draw.uniform(*self.limits.outage_s))
        self.start_exchanges()

    def disturb_exchange(self, draw: random.Random) -> None:
        """Let an exchange send wrong frames or answers, or trade no market, for a while."""
        self._disturb("exchange", EXCHANGE_FAULTS + MARKET_FAULTS, draw)

    def disturb_connections(self, draw: random.Random) -> None:
        """Disturb the connections to an exchange for a while."""
        self._disturb("connections", NETWORK_FAULTS + PORT_FAULTS, draw)

    def _disturb(self, family: str, faults: tuple[str, ...], draw: random.Random) -> None:
        exchange = draw.choice([*MARKETS, "*"])
        spec = draw.choice(faults).format(exchange)
        seconds = draw.uniform(*self.limits.short_s)
        if self.control("POST", "/faults", {"fault": f"{spec}:for={seconds:.1f}s"}) is None:
            # killed just now, or its port is closed
            return
        self.note(f"{family}: {spec.partition(':')[0]}", spec)
        time.sleep(seconds)

    def disturb_link(self, draw: random.Random) -> None:
        """Cut the link between the platform and the exchanges, or make it narrow, for a while."""
        seconds = draw.uniform(*self.limits.outage_s)
        how = draw.choice(("cut here", "cut there", "narrow"))
        self.note(f"link {how}", f"{seconds:.0f} s")
        if how == "narrow":
            self.network.narrow(seconds, draw)
        else:
            self.network.cut(seconds, far=how == "cut there")

    def disturb_disk(self, draw: random.Random) -> None:
        """Fill the disk, refuse writes or delay them, for a while."""
        seconds = draw.uniform(*self.limits.short_s)
        how = draw.choice(("full", "read-only", "hangs"))
        self.note(f"disk {how}", f"{seconds:.0f} s")
        if how == "full":
            self.disk.fill(seconds)
        elif how == "read-only":
            self.disk.refuse_writes(self.data, seconds)
        else:
            self.disk.hang(seconds)

    def step_clock(self, draw: random.Random) -> None:
        """Set the platform's wall clock wrong for a while, then right again."""
        # ticks further ahead block new ones until their time or until an operator voids them
        by_s = draw.choice((-7200, -600, -30, -3, 3, 30))
        self.note("clock stepped", f"{by_s} s")
        began = time.time_ns()
        self.clock.step(by_s)
        try:
            time.sleep(draw.uniform(*self.limits.short_s) + 5)
        finally:
            self.clock.step(0)
            self.stepped.append((began, time.time_ns()))

    def _server_pid(self) -> int:
        return address(Settings(data=self.data)).pid

    def kill_server(self, draw: random.Random) -> None:
        """End the database server by kill -9."""
        pid = self._server_pid()
        self.note("database killed")
        os.kill(pid, signal.SIGKILL)

    def pause_server(self, draw: random.Random) -> None:
        """Stop the database server for a while."""
        pid = self._server_pid()
        self._pause("database stopped", "server", pid, draw.uniform(*self.limits.outage_s))

    def user(self, draw: random.Random) -> None:
        """Run a statement in the database as users do."""
        statement = draw.choice(USER_STATEMENTS)
        self.note("user's statement", statement)
        query(self.data, statement)

    def break_config(self, draw: random.Random) -> None:
        """Break the configuration file, kill a process that then reads it, and repair the file."""
        name, pid = self._victim(draw)
        self.note("configuration broken", name)
        self.config.write_text("[index\nassets = ")
        try:
            os.kill(pid, signal.SIGKILL)
            time.sleep(draw.uniform(*self.limits.short_s))
        finally:
            self.write_config()

    # what was seen

    def _watch(self) -> None:
        while not self._over.wait(5):
            self.sample()

    def sample(self) -> None:
        """Record the size of every process."""
        at_s = time.monotonic() - self._began
        for name, pid in self.platform.pids().items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
            rows = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            kilobytes = int(rows["RssAnon"].split()[0]) if "RssAnon" in rows else 0
            self.samples.append(Sample(at_s, name, pid, kilobytes, descriptors))

    def growth(self) -> dict[str, tuple[float, float]]:
        """Return process -> the most anonymous MB in the run's first and in its last third."""
        if not self.samples:
            return {}
        end = max(one.at_s for one in self.samples)
        found: dict[str, tuple[float, float]] = {}
        for name in {one.name for one in self.samples}:
            mine = [one for one in self.samples if one.name == name]
            first = [one.anonymous_kb for one in mine if one.at_s <= end / 3]
            last = [one.anonymous_kb for one in mine if one.at_s >= end * 2 / 3]
            if first and last:
                found[name] = (max(first) / 1024, max(last) / 1024)
        return found

    def descriptors(self) -> dict[str, int]:
        """Return process -> the most descriptors that it had open."""
        most: dict[str, int] = {}
        for one in self.samples:
            most[one.name] = max(most.get(one.name, 0), one.descriptors)
        return most

    def tick_counts(self, asset: str, start_ns: int, end_ns: int) -> Counter[int]:
        """Return tick -> how many records an asset has of it, between two instants."""
        rows = query(
            self.data,
            f"select ts::long, count() from index_tick where asset = '{asset}'"
            f" and ts >= {start_ns}::timestamp_ns and ts < {end_ns}::timestamp_ns group by ts",
        )
        return Counter({int(ts): int(count) for ts, count in rows})

    def expected_ticks(self, start_ns: int, end_ns: int) -> Iterator[int]:
        """Yield each tick between two instants at which the platform's clock was right."""
        first = -(-start_ns // INTERVAL_NS)
        for number in range(first, end_ns // INTERVAL_NS):
            at_ns = number * INTERVAL_NS
            if not any(
                from_ns - SECOND_NS <= at_ns <= to_ns + SECOND_NS for from_ns, to_ns in self.stepped
            ):
                yield at_ns

    def reconcile(self) -> dict[str, Any]:
        """Run `coinspace reconcile --json` over everything."""
        # messages of a clock that was ahead as well
        until = str(time.time_ns() // MILLISECOND_NS + 4 * 3_600_000)
        done = self.command("reconcile", "--from", "1", "--to", until, "--json")
        assert done.stdout, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report
