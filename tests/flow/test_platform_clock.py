"""The whole platform while the wall clock of its host is set forward and back."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.clock import WallClock
from tests.flow.platform import Platform, platform, query
from tests.waiting import wait_for

STEP_NS = 200_000_000


class Host:
    """A platform, and the clock of the host that it runs on."""

    def __init__(self, running: Platform, clock: WallClock) -> None:
        self.running = running
        self.clock = clock
        self.offset_s = 0.0

    def set_clock(self, offset_s: float) -> None:
        self.offset_s = offset_s
        self.clock.step(offset_s)

    @property
    def now_ns(self) -> int:
        return time.time_ns() + int(self.offset_s * 1e9)

    def value(self) -> dict[str, Any]:
        return self.running.get("/v1/indices/BTC") or {}

    def fresh(self) -> bool:
        """Return whether the newest value is current and not marked as stale."""
        one = self.value()
        age_ms = self.now_ns / 1e6 - one.get("ts", 0)
        return bool(one.get("value")) and abs(age_ms) < 3000 and one["stale"] is False

    def honest(self) -> bool:
        """Return whether the newest value is current or marked as stale."""
        asked_ms = self.now_ns / 1e6
        one = self.value()
        oldest_ms, newest_ms = asked_ms - 5000, self.now_ns / 1e6 + 5000
        return not one or one["stale"] or oldest_ms < one["ts"] < newest_ms

    def problems(self) -> list[str]:
        answer = self.running.get("/readyz", any_status=True)
        return list(answer["reasons"]) if answer else ["no answer"]

    def goes_on(self, what: str) -> None:
        """Wait until values are fresh; meanwhile no old value may be served as fresh."""

        def done() -> bool:
            assert self.honest(), f"{what}: {self.value()}"
            return self.fresh()

        wait_for(done, f"fresh values after {what}", limit_s=90)


@pytest.mark.timeout(900)
def test_the_clock_is_set_while_everything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = WallClock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    clock.step(7200)
    with platform(tmp_path) as running:
        host = Host(running, clock)
        host.set_clock(7200)
        wait_for(host.fresh, "a fresh value", limit_s=200)
        ahead_ns = host.now_ns
        for what, offset_s in (
            ("a clock that was two hours ahead is set right", 0),
            ("it is set back by an hour", -3600),
            ("it is set forward by an hour", 0),
        ):
            host.set_clock(offset_s)
            host.goes_on(what)
        # ticks of the wrong clock lie in the future, and readiness reports them with a remedy
        shown_reasons = wait_for(
            lambda: [p for p in host.problems() if "future" in p], "the reason", limit_s=90
        )
        assert "index-reset-clock" in shown_reasons[0]
        shown = running.run("index-reset-clock")
        assert "BTC" in shown.stdout, shown
        done = running.run("index-reset-clock", "--operator", "test", "--because", "a test")
        assert done.returncode == 0, done
        wait_for(lambda: not host.problems(), "nothing in the future", limit_s=90)
        present_ns = host.now_ns
        wait_for(lambda: host.now_ns - present_ns > 6 * 10**9, "some seconds of ticks")
        span = f"ts > {present_ns}::timestamp_ns and ts < {host.now_ns - 3 * 10**9}::timestamp_ns"
        found = f"select ts::long from index_tick where asset = 'BTC' and {span}"

        def steps() -> set[int]:
            ticks = sorted(row[0] for row in query(tmp_path, found))
            return {later - before for before, later in itertools.pairwise(ticks)}

        # a tick that a busy machine missed is calculated later
        wait_for(lambda: steps() == {STEP_NS}, "every tick", shown=steps)
        # what the wrong clock published is kept
        void = f"select count() from index_recalc where ts < {ahead_ns + 10**11}::timestamp_ns"
        wait_for(lambda: query(tmp_path, void)[0][0] > 0, "the void ticks")
        logged = "select count() from operator_log where action = 'clock_stepped'"
        wait_for(lambda: query(tmp_path, logged)[0][0] > 0, "the step in the operator's log")
