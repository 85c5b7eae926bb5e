"""Stored records against recomputed ones: which ticks are equal to the last bit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import psycopg

from coinspace.clock import SECOND_NS
from coinspace.errors import StorageError
from coinspace.index.calculator import Index, Record
from coinspace.index.memory import read_memory
from coinspace.index.records import CONSTITUENT, NUMBERS, SIBLINGS, SYMBOLS, Row, tick_ns, tick_row

# differences printed in full
SHOWN = 20
# what a restatement may be about (methodology 8)
RESTATE_ABOVE = 0.001


@dataclass(slots=True)
class Verdict:
    """Result of a comparison.

    Attributes:
        missing: recomputed ticks that are not stored. unrepeated: stored ticks not recomputed.
        not_computed: ticks that the calculator missed when they were live.
    """

    ticks: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    unrepeated: int = 0
    not_computed: int = 0
    restated: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every tick was stored, recomputed and equal."""
        return self.ticks > 0 and not (self.different or self.missing or self.unrepeated)

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    def summary(self) -> str:
        """Return it as one line."""
        return (
            f"{self.ticks} ticks checked, {self.equal} equal, {self.different} different,"
            f" {self.missing} not stored, {self.unrepeated} not recomputed,"
            f" {self.not_computed} missed when live"
        )


class Comparison:
    """Compares recomputed records with the rows of index_tick and index_venue, asset by asset."""

    def __init__(
        self, connection: psycopg.Connection[Any], assets: list[str], start_ns: int, end_ns: int
    ) -> None:
        self.verdict = Verdict()
        self.restated: list[tuple[Record, float]] = []
        self._stored = {
            (asset, row.pop("ts")): row
            for asset in assets
            for row in _ticks(connection, asset, start_ns, end_ns)
        }
        self._venues = _venues(connection, start_ns, end_ns)
        self._bounds = start_ns, end_ns

    def take(self, record: Record) -> None:
        """Compare one recomputed record; ticks outside the range only warm the memory up."""
        ts_ns = tick_ns(record)
        start_ns, end_ns = self._bounds
        if not start_ns <= ts_ns < end_ns:
            return
        verdict = self.verdict
        verdict.ticks += 1
        stored = self._stored.pop((record["asset"], ts_ns), None)
        if stored is None:
            verdict.missing += 1
            return
        if stored["reason"] == "not_computed":
            verdict.not_computed += 1
            return
        found = comparable(record)
        venues = self._venues.get((record["asset"], ts_ns), {})
        wrong = {
            name: {"stored": stored.get(name), "recomputed": value}
            for name, value in found.items()
            if stored.get(name) != value
        }
        if venues != _venue_facts(record):
            wrong["venues"] = {"stored": venues, "recomputed": _venue_facts(record)}
        if not wrong:
            verdict.equal += 1
            return
        verdict.different += 1
        if len(verdict.differences) < SHOWN:
            verdict.differences.append(
                {"asset": record["asset"], "ts_ms": record["ts_ms"], "fields": wrong}
            )
        was, now = stored["value"], record["value"]
        if was and now and abs(now / was - 1.0) > RESTATE_ABOVE:
            self.restated.append((record, was))

    def finish(self) -> Verdict:
        """Return the verdict once all records were taken."""
        self.verdict.unrepeated = len(self._stored)
        return self.verdict


def comparable(record: Record) -> dict[str, Any]:
    """Return the columns of a record that a recomputation must give again, to the last bit."""
    row = tick_row(record)
    left_out = ("latency_ns", "epoch", "seq", "siblings")
    found = {**row.symbols, **{k: v for k, v in row.columns.items() if k not in left_out}}
    return {**found, **{name: record.get(name) for name in SIBLINGS}}


def _ticks(
    connection: psycopg.Connection[Any], asset: str, start_ns: int, end_ns: int
) -> list[dict[str, Any]]:
    names = [
        *(name for name in SYMBOLS if name != "asset"),
        *NUMBERS,
        *("depth_limited", "n_used", "n_venues", "flagged", "fx_flagged", "split", "failed"),
        "method_version",
        "siblings",
    ]
    columns = ", ".join(f'"{name}"' for name in names)
    try:
        rows = connection.execute(
            f"SELECT ts::long, {columns} FROM index_tick WHERE asset = %s"
            " AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns",
            (asset, start_ns, end_ns),
            binary=True,
        ).fetchall()
    except psycopg.Error as error:
        raise StorageError(f"records of {asset}: expected rows, {error}", "index_tick") from None
    found = []
    for row in rows:
        values = dict(zip(["ts", *names], row, strict=True))
        siblings = orjson.loads(values.pop("siblings") or "{}")
        for name in ("flagged", "fx_flagged"):
            values[name] = values[name] or ""
        found.append({"asset": asset, **values, **siblings})
    return found


def _venues(
    connection: psycopg.Connection[Any], start_ns: int, end_ns: int
) -> dict[tuple[str, int], dict[str, Any]]:
    rows = connection.execute(
        "SELECT asset, ts::long, venue, mid, used, reason, share FROM index_venue"
        " WHERE role = %s AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns",
        (CONSTITUENT, start_ns, end_ns),
        binary=True,
    ).fetchall()
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for asset, ts_ns, venue, mid, used, reason, share in rows:
        found.setdefault((asset, ts_ns), {})[venue] = [mid, used, reason, share]
    return found


def _venue_facts(record: Record) -> dict[str, Any]:
    return {
        name: [one["mid"], one["used"], one["reason"], one["share"]]
        for name, one in record["venues"].items()
    }


def warm(connection: psycopg.Connection[Any], index: Index, before_ns: int) -> None:
    """Give an index the memory that it had before a tick, from the stored records."""
    window_ns = int(index.parameters.twap_s * SECOND_NS)
    memory = read_memory(connection, index.asset, window_ns, before_ns)
    if memory is not None:
        memory.give(index)


def warm_fx(
    connection: psycopg.Connection[Any], asset: str, before_ns: int, window_ns: int
) -> dict[str, Any]:
    """Return the FX memory before a tick: the accepted rates of the window and the flags."""
    rows = connection.execute(
        "SELECT ts::long, fx, fx_status, fx_flagged FROM index_tick WHERE asset = %s"
        " AND ts >= %s::timestamp_ns AND ts < %s::timestamp_ns ORDER BY ts",
        (asset, before_ns - window_ns, before_ns),
        binary=True,
    ).fetchall()
    window = [(ts_ns, fx) for ts_ns, fx, status, _ in rows if status == "ok" and fx is not None]
    flagged = [name for name in (rows[-1][3] or "").split(",") if name] if rows else []
    return {"fx": {"window": window, "flagged": flagged}}


def recalc_row(record: Record, original: float, operator: str, because: str, recalc_id: int) -> Row:
    """Return the row of a restatement, which keeps the original."""
    row = tick_row(record, table="index_recalc")
    row.symbols["operator"] = operator
    row.columns |= {"original": original, "because": because, "recalc_id": recalc_id}
    return row
