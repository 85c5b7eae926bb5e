"""The chart of RESULTS.md and the README: each stage's cost, ours beside the peers'."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

from coinspace.bench.measure import OURS

WIDTH = 860
LABEL = 250  # pixels left of the bars
BAR = 15
GAP = 4
TITLE = 30
TOP = 46
# bars shown of a case: ours, limits, the fastest peers and the slowest
SHOWN = 6
# read on white and on black
COLOURS = {"ours": "#0a9e73", "limit": "#9aa0a6", "peer": "#d9822b"}
# the cases of the chart: stage and the beginning of the case
CASES = (
    ("end to end", "socket → parse"),
    ("parse", "Upbit"),
    ("parse", "Binance"),
    ("receive", "upbit"),
    ("book", "24 levels"),
    ("bus", "1 KB"),
    ("index", "merge +"),
    ("endpoint", "latest"),
)


def chosen(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the case with the most candidates for each place of the chart."""
    found = []
    for stage, begin in CASES:
        fitting = [
            row
            for row in rows
            if row["stage"] == stage
            and row["case"].startswith(begin)
            and OURS in (row.get("ns") or {})
            and len(row["ns"]) > 1
        ]
        if fitting:
            found.append(max(fitting, key=lambda row: len(row["ns"])))
    return found


def costs(row: dict[str, Any]) -> dict[str, float]:
    """Return each candidate's median cost, which the ratios are of as well."""
    found: dict[str, float] = row.get("medians", {})
    return found


def bars(row: dict[str, Any]) -> list[tuple[str, float, str]]:
    """Return (name, ns, kind) of a case's bars, cheapest first."""
    kinds = {
        name: "ours" if name.startswith(OURS) else "limit" if name in row["limits"] else "peer"
        for name in costs(row)
    }
    ordered = sorted(costs(row).items(), key=lambda item: item[1])
    peers = [name for name, _ in ordered if kinds[name] == "peer"]
    room = SHOWN - (len(ordered) - len(peers))
    kept = set(peers if len(peers) <= room else [*peers[: max(room - 1, 0)], peers[-1]])
    return [(n, ns, kinds[n]) for n, ns in ordered if kinds[n] != "peer" or n in kept]


def cost(ns: float) -> str:
    return f"{ns / 1000:,.1f} µs" if ns >= 1000 else f"{ns:,.0f} ns"


def chart(rows: list[dict[str, Any]]) -> str:
    """Return the SVG. Each case has its own logarithmic scale, from a third of its least cost."""
    parts: list[str] = []
    y = TOP
    for row in chosen(rows):
        shown = bars(row)
        low = log10(min(ns for _, ns, _ in shown) / 3)
        high = log10(max(ns for _, ns, _ in shown))
        scale = (WIDTH - LABEL - 190) / (high - low)
        title = f"{row['stage']}: {row['case']}, {row['unit']}"
        parts.append(f'<text x="0" y="{y + 14}" class="title">{escape(title)}</text>')
        y += TITLE - 8
        for name, ns, kind in shown:
            width = (log10(ns) - low) * scale
            ratio = row["ratios"].get(name)
            times = "" if name == OURS or not ratio else f"  {ratio:,.1f}×"
            parts.append(
                f'<text x="{LABEL - 8}" y="{y + 12}" class="name">{escape(name)}</text>'
                f'<rect x="{LABEL}" y="{y}" width="{width:.0f}" height="{BAR}" rx="2"'
                f' fill="{COLOURS[kind]}"/>'
                f'<text x="{LABEL + width + 6:.0f}" y="{y + 12}">{cost(ns)}{times}</text>'
            )
            y += BAR + GAP
        y += 14
    legend = "".join(
        f'<rect x="{x}" y="8" width="12" height="12" rx="2" fill="{COLOURS[kind]}"/>'
        f'<text x="{x + 18}" y="18">{text}</text>'
        for x, kind, text in (
            (0, "ours", OURS),
            (110, "peer", "others, same frames, same run"),
            (330, "limit", "limit: the bare step"),
        )
    )
    legend += '<text x="560" y="18">logarithmic: shorter is better</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}"'
        f' viewBox="0 0 {WIDTH} {y}" role="img">'
        "<title>Cost of each stage, logarithmic; shorter is better</title>"
        "<style>text{font:12px system-ui,sans-serif;fill:#57606a}"
        ".title{font-weight:600;fill:#1f2328}"
        ".name{text-anchor:end}@media(prefers-color-scheme:dark){text{fill:#9198a1}"
        ".title{fill:#f0f6fc}}</style>"
        f"{legend}{''.join(parts)}</svg>\n"
    )
