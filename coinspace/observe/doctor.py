"""What this host lacks to run the platform well, and how to repair it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coinspace.bus.journal import journal_folder
from coinspace.bus.segments import horizon_s
from coinspace.bus.transport import servers, streams
from coinspace.config import Settings
from coinspace.errors import BusError, ConfigError
from coinspace.exchanges import UNUSABLE
from coinspace.observe.health import all_health, heard
from coinspace.storage.forecast import YEAR_DAYS, forecast
from coinspace.storage.questdb import runtime
from coinspace.storage.questdb.address import root
from coinspace.storage.watch import look
from coinspace.tuning import problems, spins

OPEN_FILES = 4096  # sockets, journal segments and QuestDB's column files
DISK_FREE = 5 << 30  # bytes; QuestDB suspends tables when it cannot write
DATA_FOLDER = "data folder"  # subject of the findings about a folder that cannot be used
HEADER_BYTES = 64  # of a message
LEVEL_BYTES = 16  # price and size
MEMORY = 2 << 30  # bytes; QuestDB takes about 0.8 GB of them


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing. level: ok, advice (slower or riskier than need be), problem."""

    subject: str
    level: Literal["ok", "advice", "problem"]
    text: str


def check_host(settings: Settings) -> list[Finding]:
    """Check limits, disk, memory, clock, processor settings and the processes themselves."""
    findings = [
        *check_limits(settings),
        _clock(),
        _governor(),
        _mapped_areas(),
        _sockets(settings),
        *_hosts(settings),
        *_servers(settings),
        *_tuning(settings),
        *(Finding("exchange", "problem", problem) for problem in UNUSABLE.values()),
        *_jar(settings),
    ]
    if any(finding.subject == DATA_FOLDER for finding in findings):
        # the other checks need the folder
        return findings
    return [
        *findings,
        *_storage(settings),
        *_database(settings),
        *_journals(settings),
        *_processes(settings),
    ]


def check_limits(settings: Settings) -> list[Finding]:
    """Check what keeps processes from starting: limits, disk and memory."""
    return [_open_files(), _disk(settings), _memory()]


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= OPEN_FILES:
        return Finding("open files", "ok", f"limit {soft}")
    advice = f"`ulimit -n {OPEN_FILES}`" if hard >= OPEN_FILES else "raise nofile in limits.conf"
    return Finding("open files", "problem", f"expected at least {OPEN_FILES}, was {soft}: {advice}")


def _disk(settings: Settings) -> Finding:
    folder = settings.data.absolute()
    while not os.path.exists(folder):  # Path.exists raises below a folder that cannot be entered
        folder = folder.parent
    if not folder.is_dir():
        text = f"expected a folder, {folder} is a file: set COINSPACE_DATA"
        return Finding(DATA_FOLDER, "problem", text)
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"{folder} cannot be written: set COINSPACE_DATA"
        return Finding(DATA_FOLDER, "problem", text)
    free = shutil.disk_usage(folder).free
    if free < DISK_FREE:
        return Finding(
            "disk",
            "problem",
            f"expected {DISK_FREE >> 30} GB free below {folder}, was {free / 2**30:.1f}:"
            " move `data` or shorten retention",
        )
    return Finding("disk", "ok", f"{free / 2**30:.0f} GB free below {folder}")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _memory() -> Finding:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) << 10
            text = f"{free / 2**30:.1f} GB available"
            if free < MEMORY:
                return Finding("memory", "problem", f"expected {MEMORY >> 30} GB, {text}")
            return Finding("memory", "ok", text)
    return Finding("memory", "advice", "cannot be read on this system")


def _clock() -> Finding:
    # state 5 of adjtimex (TIME_ERROR) means that no program synchronises the clock
    import ctypes

    state = ctypes.CDLL(None).adjtimex(ctypes.byref((ctypes.c_byte * 512)()))
    if 0 <= state < 5:
        return Finding("clock", "ok", "synchronised")
    return Finding(
        "clock",
        "advice",
        "not synchronised: ages of books and ticks need the wall clock, run chrony or timesyncd",
    )


def _governor() -> Finding:
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor in (None, "performance"):
        return Finding("processor", "ok", governor or "frequency not governed here")
    return Finding(
        "processor", "advice", f"governor {governor}: `cpupower frequency-set -g performance`"
    )


def _mapped_areas() -> Finding:
    limit = int(_read("/proc/sys/vm/max_map_count") or 0)
    if limit >= 1_048_576 or not limit:
        return Finding("mapped areas", "ok", str(limit or "unlimited"))
    return Finding(
        "mapped areas",
        "advice",
        f"vm.max_map_count is {limit}: QuestDB wants 1048576 for large histories,"
        " `sysctl -w vm.max_map_count=1048576`",
    )


def _sockets(settings: Settings) -> Finding:
    try:
        for name, _ in settings.processes():
            settings.bus.endpoint(name)
    except ConfigError as error:
        return Finding("bus", "problem", str(error))
    return Finding("bus", "ok", "endpoints are usable")


def _hosts(settings: Settings) -> Iterator[Finding]:
    """Check what several hosts lack; a single host gives no findings."""
    if not settings.hosts:
        return
    if not settings.bus.url and not any(host.public_key for host in settings.hosts.values()):
        yield Finding(
            "bus", "advice", "not encrypted: `coinspace keys curve` on each host gives it a key"
        )
    run = {name for name, _ in settings.processes()}
    everything = {name for name, _ in settings.model_copy(update={"hosts": {}}).processes()}
    if missing := sorted(everything - run):
        yield Finding("hosts", "advice", f"no host runs {', '.join(missing)}")


def _servers(settings: Settings) -> Iterator[Finding]:
    """Check the NATS servers of the bus; on ZMQ there are none."""
    try:
        found = servers(settings.bus)
    except BusError as error:
        yield Finding("bus", "problem", str(error))
        return
    if found is None:
        return
    yield Finding(
        "bus",
        "ok",
        f"NATS {found.version}, answers in {found.round_trip_ms} ms,"
        f" cluster of {max(1, len(found.others))}",
    )
    deepest = max((one.depth or 0 for one in settings.exchanges.values()), default=0)
    largest = HEADER_BYTES + 2 * LEVEL_BYTES * deepest
    if largest > found.max_payload:
        yield Finding(
            "bus",
            "problem",
            f"a book of {deepest} levels has {largest} bytes and the servers accept"
            f" {found.max_payload}: raise max_payload in their configuration",
        )
    yield from _streams(settings)
    if not settings.journal.enabled:
        yield Finding(
            "bus", "advice", "journal.enabled is off: what an outage of the servers loses is lost"
        )


def _streams(settings: Settings) -> Iterator[Finding]:
    """Check the streams' limits, and whether their storage workers keep up."""
    try:
        found = streams(settings)
    except BusError as error:
        yield Finding("streams", "problem", str(error))
        return
    for one in found:
        if one.problem:
            yield Finding("streams", "problem", one.problem)
        elif one.bytes > settings.streams.max_bytes // 2:
            yield Finding(
                "streams",
                "problem",
                f"{one.name} is more than half full: {one.waiting} batches wait for"
                " storage workers",
            )
        else:
            yield Finding(
                "streams",
                "ok",
                f"{one.name}: {one.replicas} replicas, {one.waiting} batches wait",
            )


def _database(settings: Settings) -> Iterator[Finding]:
    """Yield what the storage workers would report, read from the database itself."""
    if settings.private_server and not (root(settings) / "address.json").exists():
        yield Finding("database", "ok", "the private server does not run; `coinspace up` starts it")
        return
    findings = asyncio.run(look(settings))
    for problem in findings.problems:
        yield Finding("database", "problem", problem)
    if not findings.problems:
        yield Finding("database", "ok", "answers; no table is suspended, the schema is as declared")


def _storage(settings: Settings) -> Iterator[Finding]:
    """Yield how much the settings store a day, and how long the disk lasts."""
    if settings.storage.ilp:
        # the disk of another server is unknown
        return
    found = forecast(settings)
    text = f"expected {found.text()}"
    if found.days is None or found.days >= YEAR_DAYS:
        yield Finding("storage", "ok", text)
    else:
        yield Finding(
            "storage",
            "advice",
            f"{text}: store less with storage.policy, shorten storage.retention or move `data`",
        )


def _jar(settings: Settings) -> Iterator[Finding]:
    if settings.private_server and (text := runtime.unknown_jar()) is not None:
        yield Finding("database", "advice", text)


def _journals(settings: Settings) -> Iterator[Finding]:
    """Check how far back journals reach at their present rate: a longer outage loses data."""
    journal = settings.journal
    for name, _ in settings.processes() if journal.enabled else ():
        kept_s = horizon_s(journal_folder(settings, name), journal.max_bytes)
        if kept_s is None:
            continue
        text = f"{name} keeps {kept_s / 3600:.1f} h at its present rate"
        if kept_s >= journal.max_age_s:
            yield Finding("journal", "ok", text)
        else:
            yield Finding(
                "journal",
                "advice",
                f"{text}, journal.max_age_s is {journal.max_age_s / 3600:.1f} h: raise"
                " journal.max_bytes or lower the exchange's depth",
            )


def _tuning(settings: Settings) -> Iterator[Finding]:
    """Check the latency settings against this host; defaults give no findings."""
    tuning = settings.tuning
    here = os.cpu_count() or 1
    names = [name for name, _ in settings.processes()]
    for text in problems(tuning):
        yield Finding("pinning", "problem", text)
    spinning = sum(spins(name, tuning) for name in names)
    if spinning >= here:
        yield Finding(
            "spinning",
            "problem",
            f"tuning.spin: expected fewer than {here} processes on {here} processors,"
            f" was {spinning}: processes that never sleep take each other's time",
        )
    lowest = 20 - resource.getrlimit(resource.RLIMIT_NICE)[0]
    if tuning.nice < 0 and os.geteuid() and tuning.nice < lowest:
        yield Finding(
            "priority",
            "advice",
            f"tuning.nice {tuning.nice} needs permission: LimitNICE={tuning.nice} in the unit file",
        )
    most = int(_read("/proc/sys/net/core/rmem_max") or 0)
    if most and tuning.receive_buffer > most:
        yield Finding(
            "socket buffers",
            "advice",
            f"tuning.receive_buffer {tuning.receive_buffer} is cut to {most}:"
            f" `sysctl -w net.core.rmem_max={tuning.receive_buffer}`",
        )


def _processes(settings: Settings) -> Iterator[Finding]:
    for health in all_health(settings, heard(settings)):
        if health.stopped or (health.state == "down" and health.reason == "never started"):
            continue
        level: Literal["ok", "problem"] = "ok" if health.ok else "problem"
        yield Finding(health.process, level, health.reason or health.state)
