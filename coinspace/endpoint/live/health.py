"""Health files of all processes: as JSON for the page and as Prometheus text."""

from __future__ import annotations

import re
from typing import Any

import orjson

from coinspace.clock import MILLISECOND_NS, SECOND_NS
from coinspace.endpoint.context import Context
from coinspace.endpoint.models import Pipeline, ProcessHealth
from coinspace.observe.health import judge, reasons
from coinspace.storage.disk import disk_problems

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("starting", "ready", "degraded", "stopping", "stopped")
_NAME = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)(?:\{(.*)\})?")
# gauges among the counters: they can also go down
# fmt: off
_GAUGES = frozenset((
    "streams", "lag", "age", "pending", "queue", "depth", "books", "indices", "connections",
    "unsynced", "synced", "links", "usable", "open", "missing", "stopped", "step", "latency",
))
# fmt: on


def files(context: Context) -> list[dict[str, Any]]:
    """Return every process's health, sorted by name; unreadable files are left out."""
    found = []
    for path in sorted((context.settings.data / "run").glob("*.json")):
        try:
            health = orjson.loads(path.read_bytes())
            health["process"], health["counters"], health["updated_ns"], health["started_ns"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found.append(health)
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
                state=str(health.get("state")),
                reason=health.get("reason"),
                age_ms=max(0, (now - health["updated_ns"]) // MILLISECOND_NS),
                uptime_s=max(0, (now - health["started_ns"]) // SECOND_NS),
                latency_us=context.live.latency_us(str(health["process"])),
                counters=counters,
            )
        )
    return Pipeline(now // MILLISECOND_NS, listed)


def platform_problems(context: Context) -> list[str]:
    """Return the problems of this host's processes and its disk."""
    folder = context.settings.data / "run"
    if not folder.is_dir():
        return [f"{folder}: expected a folder of health files, found none"]
    healths = (judge(one, context.clock()) for one in files(context))
    # the caller already has the problems of this process
    found = reasons(one for one in healths if one.process != "index-endpoint")
    known = "; ".join(found)
    return found + [one for one in disk_problems(context.settings) if one not in known]


def exposition(context: Context) -> str:
    """Return the counters of all processes in Prometheus' text format."""
    families: dict[str, list[str]] = {}
    now = context.clock()

    def add(name: str, labels: str, value: float) -> None:
        families.setdefault(name, []).append(f"{name}{{{labels}}} {value!r}")

    for health in files(context):
        process = f'process="{_escape(str(health["process"]))}"'
        add("coinspace_health_age_seconds", process, (now - health["updated_ns"]) / SECOND_NS)
        add("coinspace_start_time_seconds", process, health["started_ns"] / SECOND_NS)
        for state in STATES:
            labels = f'{process},state="{state}"'
            add("coinspace_state", labels, float(health.get("state") == state))
        for name, value in health["counters"].items():
            match = _NAME.fullmatch(name)
            if match is None or not isinstance(value, (int, float)):
                continue
            labels = f"{process},{match[2]}" if match[2] else process
            add(f"coinspace_{match[1]}", labels, value)
    lines = []
    for name, samples in families.items():
        kind = "gauge" if _is_gauge(name) else "counter"
        lines += [f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _is_gauge(name: str) -> bool:
    short = name.removeprefix("coinspace_")
    return short in ("state", "health_age_seconds", "start_time_seconds") or any(
        part in short.split("_") for part in _GAUGES
    )


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
