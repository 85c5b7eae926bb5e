"""The state of every process, read from the health files that they write each second."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings
from coinspace.process import HEALTH_INTERVAL_S, read_health

# a process that has missed this many writes hangs or is overloaded
STALE_NS = int(5 * HEALTH_INTERVAL_S * SECOND_NS)


@dataclass(frozen=True, slots=True)
class Health:
    """One process as last heard of.

    state: starting, ready, degraded, stopping, silent (health file too old), down.
    """

    process: str
    state: str
    reason: str | None = None
    pid: int | None = None
    started_ns: int = 0
    updated_ns: int = 0
    counters: dict[str, int | float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.state == "ready"

    def total(self, *names: str) -> int | float:
        """Sum the counters of these names over their labels."""
        return sum(
            value for name, value in self.counters.items() if name.partition("{")[0] in names
        )


def alive(pid: int) -> bool:
    """Tell whether a process of this number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def health_of(settings: Settings, name: str) -> Health:
    """Return what is known of one process."""
    raw = read_health(settings, name)
    if raw is None:
        return Health(name, "down", "never started")
    pid, updated_ns = raw["pid"], raw["updated_ns"]
    state, reason = raw["state"], raw["reason"]
    if not alive(pid):
        state, reason = "down", f"process {pid} is gone"
    elif now_ns() - updated_ns > STALE_NS:
        age_s = (now_ns() - updated_ns) / SECOND_NS
        state, reason = "silent", f"no sign of life for {age_s:.0f} s"
    return Health(name, state, reason, pid, raw["started_ns"], updated_ns, raw["counters"])


def all_health(settings: Settings) -> list[Health]:
    """Return the state of every process that the settings call for, in flow order."""
    return [health_of(settings, name) for name, _ in settings.processes()]


def exit_code(healths: list[Health]) -> int:
    """Return 0 when all are ready, 2 when none runs, 1 for anything between."""
    if all(health.ok for health in healths):
        return 0
    if all(health.state == "down" for health in healths):
        return 2
    return 1
