"""The first lines of RESULTS.md: what a stage costs, the best-known peer's cost, both machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.bench_latency import HOPS
from benchmarks.chart import costs
from benchmarks.pipeline import CRYPTOFEED, NO_JOURNAL
from coinspace.bench.measure import OURS
from coinspace.bench.table import cost, digits

Row = dict[str, Any]
# a machine of another kind, whose ratios were read there and not by `make bench` here
OTHER = "Intel, AVX-512"
OTHER_NOTE = (
    f"{OTHER}: ratios that were measured there at 04578d9, with two processors; end to end beside"
    " cryptofeed 2.4.1. numpy sorts with AVX-512 there."
)


@dataclass(frozen=True, slots=True)
class Headline:
    """A line: a case's candidates; `figure`: the check that is the ratio; `other`: elsewhere."""

    text: str
    stage: str
    case: str
    peer: str
    figure: str = ""
    ours: str = OURS
    other: float | None = None

    def of(self, row: Row) -> str:
        """Return the line of the table."""
        known = costs(row)
        ours, theirs = known[self.ours], known[self.peer]
        ratio = row["ratios"].get(self.peer)
        if self.figure:
            ratio = next(one["value"] for one in row["checks"] if one["what"] == self.figure)
        elsewhere = "" if self.other is None else f"{digits(self.other)} ×"
        cells = self.text, cost(ours), f"{self.peer}, {cost(theirs)}", f"{digits(ratio)} ×"
        return f"| {' | '.join((*cells, elsewhere))} |"


HEADLINES = (
    Headline("receive a frame of 3 KB", "receive", "upbit-book", "websockets"),
    Headline("parse an Upbit book", "parse", "upbit-book", "orjson.loads", other=11),
    Headline(
        "parse a Binance update into arrays",
        "parse",
        "binance-diff",
        "orjson → arrays",
        "× faster than orjson → arrays",
        other=36,
    ),
    Headline("handle an Upbit book", "parse", "Upbit SIMPLE book", "cryptofeed"),
    Headline("handle a Binance update", "parse", "Binance depth update", "ccxt pro"),
    Headline("send and receive 1 KB", "bus", "1 KB", "send_multipart"),
    Headline(
        "merge and value 3 × 1,000 levels", "index", "merge + index, 3 × 1000", "numpy", other=13.8
    ),
    Headline(
        "frame to subscriber, no journal",
        "end to end",
        "socket → parse → book → bus → subscriber, cryptofeed",
        CRYPTOFEED,
        f"× faster than {CRYPTOFEED}, neither with a journal",
        NO_JOURNAL,
        58,
    ),
    Headline("answer an HTTP request", "endpoint", "latest value", "FastAPI"),
)


def latency(rows: Iterable[Row]) -> list[str]:
    """Return the line of the latency, which is a multiple of hops that do nothing."""
    found = next((row for row in rows if row["stage"] == "latency"), None)
    if found is None:
        return []
    whole, bare = (found["figures"][f"{one}, p50"] for one in ("default", "bare hops"))
    cells = (
        "frame to index value, median wait",
        cost(whole * 1000),
        f"{HOPS} bare hops, {cost(bare * 1000)}",
        f"{digits(whole / bare)} times as long",
        "3.06 times as long",
    )
    return [f"| {' | '.join(cells)} |"]


def headlines(rows: list[Row]) -> list[str]:
    """Return the table, without lines whose case was not measured."""
    lines = [f"| | {OURS} | beside it | ratio | {OTHER} |", "|---|---:|---|---:|---:|"]
    for one in HEADLINES:
        row = next(
            (row for row in rows if row["stage"] == one.stage and row["case"].startswith(one.case)),
            None,
        )
        if row is not None and {one.ours, one.peer} <= costs(row).keys():
            lines.append(one.of(row))
    return [*lines, *latency(rows), "", OTHER_NOTE]
