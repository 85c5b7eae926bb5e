"""Run the platform on simulated exchanges for minutes or an hour, measure it, give a verdict.

    python -m tests.soak --minutes 10              whole exchanges, undisturbed
    python -m tests.soak --minutes 60 --faults     the same under random kills, pauses and faults

The figures go to build/bench, where `make report` finds them. The exit code is 1 when a gate is
missed; a goal may be missed. The simulated exchanges run as one of the platform's processes; their
figures stand apart.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg

from benchmarks.measure import Result, print_result
from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import load
from coinspace.errors import CoinSpaceError
from coinspace.health_file import read_health
from coinspace.simulator.markets.offer import whole_markets
from tests.flow.platform import Platform, platform, query
from tests.waiting import wait_for

SIMULATOR = "simulate"
TICKS_S = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 2.0
DAY_S = 86_400
NEWEST = "SELECT max(ts)::long FROM orderbook WHERE ts > dateadd('m', -10, now())"
# every market has a book: whole exchanges have hundreds of snapshots
READY_S = 300.0
STORED_S = 60.0
# counters of messages that were lost on their way
LOST = (
    *("dropped", "missed", "bus_missed", "rows_refused", "records_refused", "waiting_overflow"),
)
PSS_MB = 600.0
LAG_S = 2.0
FEWEST_ASSETS = 250
# part of its ticks that have a value, so that an asset counts
VALUED = 0.95
# seconds between faults, and their usual length
FAULT_EVERY_S = 60.0
FAULT_S = 10.0
EXCHANGE_FAULTS = ("drop:{}:p=0.2", "reorder:{}:p=0.3", "reset:{}", "mute:{}", "garbage:{}:p=0.1")


@dataclass
class Use:
    """What one process used: CPU seconds, and samples of memory (bytes) and descriptors."""

    cpu_s: float = 0.0
    pss: list[int] = field(default_factory=list)
    anonymous: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    _last: tuple[int, float] = (0, 0.0)

    def sample(self, pid: int) -> None:
        """Read the process; a new pid goes on where the earlier process ended."""
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used_s = (int(stat[11]) + int(stat[12])) / TICKS_S
            before, last_s = self._last
            if before:
                self.cpu_s += used_s - (last_s if before == pid else 0.0)
            self._last = pid, used_s
            sizes = dict(_sizes(pid))
            self.pss.append(sizes["Pss"])
            self.anonymous.append(sizes["Anonymous"])
            self.descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))


def _sizes(pid: int) -> Iterator[tuple[str, int]]:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        yield name.rstrip(":"), int(size) * 1024


class Soak:
    """A running platform and its figures."""

    def __init__(self, running: Platform, seed: int) -> None:
        self.running = running
        self.random = random.Random(seed)
        os.environ.update(
            (name, value)
            for name, value in running.environment.items()
            if name.startswith("COINSPACE_")
        )
        os.environ.update(whole_markets(load()))
        self.settings = load()
        self.used: dict[str, Use] = defaultdict(Use)
        self.lags_s: list[float] = []
        self.errors = 0
        self.faults: list[str] = []
        self.began_ns = self.ended_ns = 0
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._bytes: dict[str, int] = {}

    # processes

    def pids(self) -> dict[str, int]:
        """Return process -> pid of everything below `coinspace up`, and of itself."""
        found = {"up": self.running.process.pid}
        for pid in _descendants(self.running.process.pid):
            found[_name(pid)] = pid
        return found

    def health(self) -> dict[str, dict[str, Any]]:
        names = [name for name, _ in self.settings.processes()]
        return {name: read_health(self.settings, name) or {} for name in names}

    def ready(self) -> bool:
        """Return whether every process is ready, each market of the collectors included."""
        states = [one.get("state") for one in self.health().values()]
        return all(state == "ready" for state in states)

    def counts(self) -> Iterator[tuple[str, str, int]]:
        for process, health in self.health().items():
            for name, value in health.get("counters", {}).items():
                if isinstance(value, int) and name.partition("{")[0] in LOST:
                    yield process, name, value

    # the time that is measured

    def run(self, seconds: float, *, faults: bool) -> None:
        """Measure for some time."""
        self.began_ns = now_ns()
        self._bytes = sizes_of(self.settings.data)
        self.sample()
        for process, name, value in self.counts():
            self._counts[process, name] = [value]
        end_s = time.monotonic() + seconds
        fault_s = time.monotonic() + FAULT_EVERY_S
        while time.monotonic() < end_s:
            time.sleep(SAMPLE_S)
            self.sample()
            if faults and fault_s < time.monotonic() < end_s - 2 * FAULT_EVERY_S:
                fault_s = time.monotonic() + FAULT_EVERY_S
                self.fault()
        self.ended_ns = now_ns()

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.began_ns) / SECOND_NS

    def sample(self) -> None:
        for name, pid in self.pids().items():
            self.used[name].sample(pid)
        try:
            [(newest_ns,)] = query(self.settings.data, NEWEST)
            self.lags_s.append((now_ns() - newest_ns) / SECOND_NS)
        except (CoinSpaceError, psycopg.Error):
            # a fault may have killed the database
            self.errors += 1

    def fault(self) -> None:
        """Kill or stop a process, or disturb an exchange."""
        pids = {name: pid for name, pid in self.pids().items() if name not in ("up", SIMULATOR)}
        name = self.random.choice(sorted(pids))
        kind = self.random.choice(("kill", "stop", "exchange"))
        if kind == "exchange":
            exchange = self.random.choice(sorted(self.settings.exchanges))
            text = self.random.choice(EXCHANGE_FAULTS).format(exchange) + f":for={FAULT_S:g}"
            self._disturb(text)
        elif kind == "kill":
            text = f"kill {name}"
            os.kill(pids[name], signal.SIGKILL)
        else:
            text = f"stop {name} for {FAULT_S:g} s"
            os.kill(pids[name], signal.SIGSTOP)
            time.sleep(FAULT_S)
            with suppress(ProcessLookupError):
                os.kill(pids[name], signal.SIGCONT)
        self.faults.append(text)
        print(f"  {time.strftime('%H:%M:%S')} {text}", flush=True)

    def _disturb(self, fault: str) -> None:
        # the collectors' environment says where the simulated exchanges are
        pid = next(pid for name, pid in self.pids().items() if "-collector-" in name)
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        rest = dict(one.split("=", 1) for one in variables if one)[
            "COINSPACE_EXCHANGES__UPBIT__REST"
        ]
        request = urllib.request.Request(
            f"{rest.removesuffix('/upbit')}/control/faults",
            orjson.dumps({"fault": fault}),
            method="POST",
        )
        urllib.request.urlopen(request, timeout=10).close()

    # the verdict

    def lost(self) -> dict[str, int]:
        """Return process.counter -> what was lost while it was measured."""
        found = {}
        for process, name, value in self.counts():
            before = self._counts.get((process, name), [0])[0]
            if value > before:
                found[f"{process}.{name}"] = value - before
        return found

    def ticks(self) -> dict[int, list[tuple[float, float]]]:
        """Return interval in ms -> the parts of each asset's ticks that are stored and valued."""
        # whole seconds inside of the time that was measured
        first, last = self.began_ns // SECOND_NS + 2, self.ended_ns // SECOND_NS - 2
        rows = query(
            self.settings.data,
            "SELECT asset, count(), count(value) FROM index_tick"
            f" WHERE ts >= {first * SECOND_NS} AND ts < {last * SECOND_NS}",
        )
        counts = {asset: (stored, valued) for asset, stored, valued in rows}
        index = load().index
        found: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for asset in index.assets:
            interval_ms = index.interval_ms_of(asset)
            expected = (last - first) * 1000 / interval_ms
            stored, valued = counts.get(asset, (0, 0))
            found[interval_ms].append((stored / expected, valued / expected))
        return found

    def unexplained(self) -> int:
        """Return how many received messages are neither stored nor explained."""
        done = self.running.run(
            "reconcile", "--json", "--from", str(self.began_ns // 10**6), "--to", _ms(self.ended_ns)
        )
        try:
            return int(orjson.loads(done.stdout)["total"]["unexplained"])
        except (ValueError, KeyError) as error:
            raise CoinSpaceError(
                f"reconcile: expected its report, {error!r}: {done.stderr}"
            ) from None

    def result(self, *, faults: bool) -> Result:
        """Return all figures with their gates."""
        minutes = self.seconds / 60
        case = f"whole exchanges, {minutes:.0f} min" + (", random faults" if faults else "")
        result = Result("whole exchanges", case, "", "simulated at real rates")
        result.command = f"python -m tests.soak --minutes {minutes:.0f}"
        own = {name: use for name, use in self.used.items() if name not in (SIMULATOR, "questdb")}
        java = {name: use for name, use in self.used.items() if name == "questdb"}
        if not faults:
            result.check(
                "messages lost", sum(self.lost().values()), gate=0, better="lower", slack=0
            )
            worst = max(self.lags_s, default=float("inf"))
            result.check("storage lag, s, worst", worst, gate=LAG_S, better="lower", slack=0)
        ticks = self.ticks()
        for interval_ms, parts in sorted(ticks.items()):
            stored = 100 * statistics.mean(part for part, _ in parts)
            what = f"{len(parts)} assets each {interval_ms} ms"
            result.check(f"ticks stored, {what}, %", stored, gate=100, slack=0)
        if not faults:
            valued = [one >= VALUED for parts in ticks.values() for _, one in parts]
            result.check("assets with an index", sum(valued), gate=FEWEST_ASSETS, slack=0)
        if faults:
            unexplained = self.unexplained()
            result.check("messages unexplained", unexplained, gate=0, better="lower", slack=0)
            for name, use in own.items():
                grown = _slope(use.anonymous, self.seconds) * 3600 / 2**20
                result.figures[f"memory growth, {name}, MB/h"] = grown
                result.figures[f"descriptors growth, {name}, 1/h"] = (
                    _slope(use.descriptors, self.seconds) * 3600
                )
            result.figures["faults"] = len(self.faults)
        pss = sum(statistics.median(use.pss) for use in own.values() if use.pss) / 2**20
        result.check("PSS without the database, MB", pss, goal=PSS_MB, better="lower", slack=0)
        result.figures["PSS of the database, MB"] = (
            sum(statistics.median(use.pss) for use in java.values() if use.pss) / 2**20
        )
        for name, use in sorted(self.used.items()):
            result.figures[f"CPU, {name}, %"] = 100 * use.cpu_s / self.seconds
        result.figures["CPU without the simulator, %"] = (
            100 * sum(use.cpu_s for name, use in self.used.items() if name != SIMULATOR)
        ) / self.seconds
        for name, use in sorted(self.used.items()):
            if use.pss:
                result.figures[f"PSS, {name}, MB"] = statistics.median(use.pss) / 2**20
        for folder, size in sizes_of(self.settings.data).items():
            per_day = (size - self._bytes.get(folder, 0)) / self.seconds * DAY_S / 1e9
            # journals grow only up to their bound
            if per_day > 0.01 and folder != "journal":
                result.figures[f"disk, {folder}, GB/day"] = per_day
        result.note = "; ".join(f"{name} {count}" for name, count in self.lost().items())
        return result


def _ms(at_ns: int) -> str:
    return str(at_ns // 10**6)


def _slope(values: list[int], seconds: float) -> float:
    """Return the growth per second, without the first third, in which caches fill."""
    late = values[len(values) // 3 :]
    if len(late) < 4:
        return 0.0
    step_s = seconds / len(values)
    return statistics.linear_regression([at * step_s for at in range(len(late))], late).slope


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from _descendants(child)


def _name(pid: int) -> str:
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if title.startswith("coinspace fork server"):
            return "fork server"
        # a fork has one text in place of its arguments
        words = title.replace("\0", " ").split()
        if "coinspace" in words:
            command, *rest = words[words.index("coinspace") + 1 :]
            if command == "questdb":
                return "questdb keeper"
            exchange = rest[0] if rest and command.endswith("-collector") else ""
            return f"{command}-{exchange}" if exchange else command
        if "java" in words[0]:
            return "questdb"
    return f"other {pid}"


def sizes_of(folder: Path) -> dict[str, int]:
    """Return folder below `folder` -> bytes that its files take on the disk."""
    found: dict[str, int] = defaultdict(int)
    for path in folder.rglob("*"):
        with suppress(OSError):
            found[path.relative_to(folder).parts[0]] += path.lstat().st_blocks * 512
    return found


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="soak") as made:
        yield Path(made)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--faults", action="store_true", help="kill, stop and disturb at random")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--data", type=Path, default=None, help="data folder; a new one is empty")
    chosen = parser.parse_args()
    with _folder(chosen.data) as data, platform(data, "--markets", "all") as running:
        soak = Soak(running, chosen.seed)
        print("waiting until each market has a book …", flush=True)
        wait_for(soak.ready, "everything is ready", limit_s=READY_S, shown=soak.health)
        print(f"measuring for {chosen.minutes:g} minutes …", flush=True)
        soak.run(chosen.minutes * 60, faults=chosen.faults)
        # rows on their way
        time.sleep(15)
        result = soak.result(faults=chosen.faults)
    print_result(result)
    for name, value in result.figures.items():
        print(f"  {name:60} {value:8.2f}")
    result.save()
    print(f"  lost: {result.note or 'nothing'}")
    print("passed" if not result.failures else "FAILED: " + "; ".join(result.failures))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
