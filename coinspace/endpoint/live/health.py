"""Health of all processes: as JSON for the page and as Prometheus text."""

from __future__ import annotations

from typing import Any, get_args

import orjson

from coinspace.clock import MILLISECOND_NS, SECOND_NS, monotonic_ns
from coinspace.endpoint.context import Context
from coinspace.endpoint.models import Pipeline, ProcessHealth
from coinspace.files import read_regular
from coinspace.health_file import is_whole
from coinspace.metrics import exposition
from coinspace.observe.health import judge, reasons
from coinspace.process import State
from coinspace.storage.disk import disk_problems

STATES = get_args(State)


def files(context: Context) -> list[dict[str, Any]]:
    """Return every process's health: this host's, without unreadable files, then other hosts'."""
    found = []
    for path in sorted((context.settings.data / "run").glob("*.json")):
        try:
            health = orjson.loads(read_regular(path))
        except (OSError, ValueError):
            continue
        if isinstance(health, dict) and is_whole(health):
            # a damaged name could be another process's
            found.append({**health, "process": path.stem})
    if context.remote is not None:
        here = {health["process"] for health in found}
        elsewhere = context.remote.read().items()
        found += [health for name, health in elsewhere if name not in here]
    return found


def processes(context: Context) -> Pipeline:
    """Return the health of all processes."""
    now = context.clock()
    listed = []
    for health in files(context):
        counters = {
            name: float(value)
            for name, value in health["counters"].items()
            if isinstance(value, (int, float))
        }
        listed.append(
            ProcessHealth(
                process=str(health["process"]),
                state=health["state"] if health.get("state") in STATES else "unknown",
                reason=health.get("reason"),
                age_ms=max(0, (now - health["updated_ns"]) // MILLISECOND_NS),
                uptime_s=max(0, (now - health["started_ns"]) // SECOND_NS),
                latency_us=context.live.latency_us(str(health["process"])),
                counters=counters,
            )
        )
    return Pipeline(now // MILLISECOND_NS, listed)


def platform_problems(context: Context) -> list[str]:
    """Return the problems of all processes and of this host's disk."""
    folder = context.settings.data / "run"
    if not folder.is_dir():
        return [f"{folder}: expected a folder of health files, found none"]
    healths = (judge(one, context.clock()) for one in files(context))
    # the caller already has the problems of this process
    found = reasons(one for one in healths if one.process != "index-endpoint")
    known = "; ".join(found)
    return found + [one for one in disk_problems(context.settings) if one not in known]


def host_metrics(context: Context) -> bytes:
    """Return the metrics of all processes; made once a second at most."""
    made_ns, text = context.metrics
    if not text or monotonic_ns() - made_ns >= SECOND_NS:
        text = exposition(files(context), context.clock())
        context.metrics = (monotonic_ns(), text)
    return text
