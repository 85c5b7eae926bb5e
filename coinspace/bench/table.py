"""The table that `coinspace bench` and `make bench` end with: our cost beside the best peer's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

Verdict = Literal["", "ok", "goal missed", "GATE MISSED"]
STYLES = {"ok": "green", "goal missed": "yellow", "GATE MISSED": "bold red"}


@dataclass(frozen=True, slots=True)
class Line:
    """A measurement: costs in words, and how many times ours the peer's cost is."""

    stage: str
    ours: str
    peer: str = ""
    ratio: float | None = None
    gate: float | None = None
    goal: float | None = None
    verdict: Verdict = ""


def cost(ns: float) -> str:
    """Write a duration with three digits: 544 ns, 49.5 µs, 1.27 ms."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < 999.5 * size:
            return f"{digits(ns / size) if size > 1 else f'{ns:.0f}'} {unit}"
    return f"{digits(ns / 1e9)} s"


def digits(value: float) -> str:
    """Write a number with three significant digits, a large one with all before the point."""
    if value >= 99.95 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def judged(ratio: float, gate: float | None, goal: float | None, slack: float = 0.0) -> Verdict:
    """Return the verdict on a ratio of which more is better; without gate and goal none."""
    if gate is not None and ratio < gate * (1 - slack):
        return "GATE MISSED"
    if goal is not None and ratio < goal:
        return "goal missed"
    return "" if gate is None and goal is None else "ok"


def table(lines: Iterable[Line], caption: str | None = None) -> Table:
    """Return the table, a row a line."""
    made = Table(caption=caption, caption_justify="left")
    made.add_column("stage")
    made.add_column("CoinSpace", justify="right")
    made.add_column("best peer")
    for name in ("ratio", "gate", "goal"):
        made.add_column(name, justify="right")
    made.add_column("verdict")
    for one in lines:
        style = STYLES.get(one.verdict, "")
        made.add_row(
            one.stage,
            one.ours,
            one.peer,
            "" if one.ratio is None else f"{digits(one.ratio)} ×",
            "" if one.gate is None else f"{one.gate:g}",
            "" if one.goal is None else f"{one.goal:g}",
            f"[{style}]{one.verdict}[/]" if style else one.verdict,
        )
    return made
