"""The state of every process, read from the health files that they write each second.

Each process judges its own work and writes its state and reason. This module combines them for
`coinspace status`, `coinspace doctor` and the endpoint's `/readyz`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.health_file import HEALTH_INTERVAL_S, Located, alive, read_health

if TYPE_CHECKING:
    from coinspace.bus.beats import RemoteHealth
    from coinspace.config import Settings

# a process that has missed this many writes hangs or is overloaded
STALE_NS = int(5 * HEALTH_INTERVAL_S * SECOND_NS)
# a problem of these affects every client at once: no index, or rows that are not stored
AT_ONCE = ("questdb", "orderbook-storage-worker", "ticker-storage-worker", "index-calculator")
# a target of alerts that does not answer is no reason to send clients elsewhere
NO_SERVICE = ("alerter",)
# the others recover by themselves, and one missing venue is not an outage
PATIENCE_S = 60.0
# longer than the limit, so that a process without a heartbeat is known to be down
WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Health:
    """One process, by its last health file.

    state: starting, ready, degraded, stopping, silent (health file too old), down.
    age_s: of the health file. unwell_s: how long the process has not been ready.
    stopped: it ended because an operator or the supervisor stopped it.
    """

    process: str
    state: str
    reason: str | None = None
    pid: int | None = None
    started_ns: int = 0
    updated_ns: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)
    age_s: float = 0.0
    unwell_s: float = 0.0
    stopped: bool = False

    @property
    def ok(self) -> bool:
        return self.state == "ready"

    def total(self, *names: str) -> int | float:
        """Sum the counters of these names, over their labels where a name has none."""
        return sum(
            value
            for name, value in self.counters.items()
            if name in names or name.partition("{")[0] in names
        )


def health_of(settings: Located, name: str) -> Health:
    """Return what is known of one process."""
    raw = read_health(settings, name)
    # the name in the file may be damaged
    return Health(name, "down", "never started") if raw is None else judge(raw | {"process": name})


def judge(raw: dict[str, Any], wall_ns: int | None = None) -> Health:
    """Return the state of a process by its health file.

    Args: wall_ns: what the clock shows, now by default.
    """
    try:
        return _judge(raw, now_ns() if wall_ns is None else wall_ns)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        return Health(str(raw.get("process")), "down", f"its health file cannot be read: {error}")


def _judge(raw: dict[str, Any], wall_ns: int) -> Health:
    pid, updated_ns = raw.get("pid"), int(raw.get("updated_ns") or 0)
    state, reason = str(raw.get("state")), raw.get("reason")
    reason = None if reason is None else str(reason)
    age_s = _age_s(raw, wall_ns)
    stopped = False
    if host := raw.get("host"):
        state, reason, stopped = _elsewhere(str(host), state, reason, age_s, updated_ns)
    elif (pid is not None and not alive(pid)) or age_s < 0:
        stopped = state == "stopped"
        state, reason = "down", _end(pid, state, reason, updated_ns)
    elif state == "stopped":
        state = "stopping"
    elif age_s * SECOND_NS > STALE_NS and state != "stopping":
        state = "silent"
        reason = f"no sign of life for {age_s:.0f} s: it hangs, or its disk is full; see its log"
    age_s = max(age_s, 0.0)
    unwell_s = float(raw.get("unwell_s") or 0.0) + age_s
    return Health(
        str(raw.get("process")),
        state,
        reason,
        pid,
        int(raw.get("started_ns") or 0),
        updated_ns,
        _numbers(raw.get("counters")),
        age_s,
        0.0 if state == "ready" else unwell_s,
        stopped,
    )


def _elsewhere(
    host: str, state: str, reason: str | None, age_s: float, updated_ns: int
) -> tuple[str, str | None, bool]:
    """Return state and reason of a process on another host, and whether it was stopped."""
    if state == "stopped":
        return "down", _end(None, state, reason, updated_ns), True
    if age_s * SECOND_NS > STALE_NS:
        why = f"no heartbeat from host {host} for {age_s:.0f} s: check that it runs, and the link"
        return "down", why, False
    return state, reason, False


def _numbers(counters: object) -> dict[str, int | float]:
    if not isinstance(counters, dict):
        return {}
    return {name: value for name, value in counters.items() if isinstance(value, int | float)}


def _age_s(raw: dict[str, Any], wall_ns: int) -> float:
    # by the monotonic clock: a step of the wall clock must neither hide a hang nor look like one;
    # below 0 when this host was started after the file was written
    beat_ns = raw.get("beat_ns")
    if isinstance(beat_ns, int):
        return (monotonic_ns() - beat_ns) / SECOND_NS
    return max(0, wall_ns - int(raw.get("updated_ns") or 0)) / SECOND_NS


def _end(pid: int | None, state: str, reason: str | None, updated_ns: int) -> str:
    at = datetime.fromtimestamp(updated_ns / SECOND_NS, UTC)
    if state == "stopped":
        return f"stopped at {at:%Y-%m-%d %H:%M:%S} UTC"
    why = f": {reason}" if reason else ""
    return f"process {pid} is gone, last seen at {at:%Y-%m-%d %H:%M:%S} UTC{why}"


def all_health(settings: Settings, remote: RemoteHealth | None = None) -> list[Health]:
    """Return the state of every process that the settings call for, in flow order.

    Args: remote: heartbeats of other hosts; without them, the processes of this host are returned.
    """
    elsewhere = remote.read() if remote is not None else {}
    return [
        judge(elsewhere[name]) if name in elsewhere else health_of(settings, name)
        for name, _ in settings.processes()
        if name in elsewhere or settings.here(name)
    ]


def heard(settings: Settings) -> RemoteHealth | None:
    """Return the heartbeats of other hosts, None on a single host; waits some seconds for them."""
    if not settings.hosts:
        return None
    # imported here, since scripts call `coinspace status` often
    from coinspace.bus.beats import RemoteHealth

    remote = RemoteHealth(settings)
    remote.wait(STALE_NS / SECOND_NS + WAIT_S)
    return remote


def reasons(healths: Iterable[Health]) -> list[str]:
    """Return why the platform does not work as its users expect; empty when it does."""
    return [
        f"{one.process}: {one.reason or one.state}"
        for one in healths
        if not one.ok
        and not one.stopped
        and one.process not in NO_SERVICE
        and one.state != "stopping"
        and (one.process in AT_ONCE or one.unwell_s >= PATIENCE_S)
    ]


def exit_code(healths: list[Health]) -> int:
    """Return 0 when all are ready, 2 when none runs, 1 for anything between."""
    if all(health.ok for health in healths):
        return 0
    return 2 if all(health.state == "down" for health in healths) else 1
