"""The live status that `coinspace up` shows: index values, rates per process, rows stored."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import aiohttp
import structlog
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings
from coinspace.observe.health import Health, all_health
from coinspace.tasks import within
from coinspace.text import cell, printable

log = structlog.get_logger("supervisor")

REFRESH_S = 1.0
FIRST_LINE_S = 10.0  # values and rows are there by then
PLAIN_EVERY_S = 60.0  # one line a second is too much for a log file

ENDPOINT = "index-endpoint"
WAITING = "waiting for the first index value"
# index values of one line
SHOWN_VALUES = 8

# a process's output: the first of these counters that is not zero
OUTPUT = ("published", "rows_stored", "requests", "frames")
# columns of `coinspace top` where the output is no terminal
WIDTH = 100


class Rates:
    """What processes do per second, from two readings of their counters."""

    def __init__(self) -> None:
        self._now: dict[str, Health] = {}
        self._before: dict[str, Health] = {}

    def read(self, healths: list[Health]) -> None:
        """Take a reading."""
        for health in healths:
            last = self._now.get(health.process, health)
            if health.updated_ns != last.updated_ns or health.process not in self._before:
                self._before[health.process] = last
                self._now[health.process] = health

    def of(self, health: Health, *names: str) -> float:
        """Return the growth per second of the sum of counters; 0 after a restart."""
        before = self._before.get(health.process, health)
        elapsed_s = (health.updated_ns - before.updated_ns) / SECOND_NS
        grown = max(0.0, health.total(*names) - before.total(*names))
        return grown / elapsed_s if elapsed_s > 0 else 0.0

    def output(self, health: Health) -> float:
        """Return a process's output per second."""
        return self.of(health, next((name for name in OUTPUT if health.total(name)), OUTPUT[0]))


def process_table(healths: list[Health], rates: Rates, **options: Any) -> Table:
    """Return one line per process that fits 100 columns. Args: options: of the table."""
    table = Table(box=None, pad_edge=False, expand=True, **options)
    table.add_column("process", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for column in ("cpu %", "MB", "out/s", "waiting", "dropped", "gaps"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=1)
    for health in healths:
        style = "green" if health.ok else "red" if health.state == "down" else "yellow"
        memory = health.total("resident_bytes") / 1e6
        table.add_row(
            cell(health.process),
            cell(health.state, style),
            *(
                text if health.counters else ""
                for text in (
                    f"{rates.of(health, 'cpu_s') * 100:.1f}",
                    f"{memory:,.0f}",
                    f"{rates.output(health):,.0f}",
                    f"{health.total('rows_pending', 'waiting', 'rest_waiting'):,}",
                    f"{health.total('dropped', 'streams_dropped'):,}",
                    f"{health.total('gaps', 'bus_gaps'):,}",
                )
            ),
            cell(health.reason or ""),
        )
    return table


def _values(indices: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (asset, value) of the first assets with a value, then how many others there are."""
    known = [(str(one["asset"]), str(one["value"])) for one in indices if one["value"] is not None]
    others = []
    if len(known) > SHOWN_VALUES:
        others.append(f"{len(known) - SHOWN_VALUES} more")
    if known and len(known) < len(indices):
        others.append(f"{len(indices) - len(known)} without a value")
    return known[:SHOWN_VALUES] + ([("…", ", ".join(others))] if others else [])


class StatusScreen:
    """Shows the platform's state until everything stops.

    Args: processes: those that run here.
    """

    def __init__(self, settings: Settings, processes: Collection[str]) -> None:
        self._settings = settings
        self._processes = processes
        self._rates = Rates()
        self._url = settings.endpoint.url
        self._waiting = WAITING if ENDPOINT in processes else f"host {settings.own_host or 'here'}"

    async def run(self, stopping: asyncio.Event) -> None:
        """Print the addresses, then the state: a table on a terminal, else a line a minute."""
        try:
            await self._show(stopping)
        except OSError as error:
            # the platform goes on without a reader
            log.warning("status not shown any more", error=str(error))

    async def _show(self, stopping: asyncio.Event) -> None:
        if ENDPOINT in self._processes:
            print(f"page  {self._url}/\nAPI   {self._url}/v1/indices\ndocs  {self._url}/docs")
            sys.stdout.flush()
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if not sys.stdout.isatty():
                wait_s = FIRST_LINE_S
                while not await within(wait_s, stopping):
                    print(self._line(self._healths(), await self._indices(session)))
                    sys.stdout.flush()
                    wait_s = PLAIN_EVERY_S
                return
            with Live(console=Console(), auto_refresh=False) as live:
                while not stopping.is_set():
                    indices = await self._indices(session)
                    live.update(self._table(self._healths(), indices), refresh=True)
                    await within(REFRESH_S, stopping)

    def _healths(self) -> list[Health]:
        return [one for one in all_health(self._settings) if one.process in self._processes]

    async def _indices(self, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        if ENDPOINT not in self._processes:
            return []
        try:
            async with session.get(f"{self._url}/v1/indices") as response:
                body = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return []
        return list(body.get("indices", body) if isinstance(body, dict) else body)

    def _line(self, healths: list[Health], indices: list[dict[str, Any]]) -> str:
        values = printable(" ".join(map(" ".join, _values(indices))) or self._waiting)
        rows = sum(health.total("rows_stored") for health in healths)
        troubled = [
            f"{one.process} {printable(one.state)} ({printable(one.reason)})"
            for one in healths
            if not one.ok
        ]
        state = "; ".join(troubled) or f"{len(healths)} processes ready"
        now = datetime.fromtimestamp(now_ns() / SECOND_NS, UTC)
        return f"{now:%Y-%m-%dT%H:%M:%SZ} {values} | {rows:,} rows stored | {state}"

    def _table(self, healths: list[Health], indices: list[dict[str, Any]]) -> Table:
        title = Text("   ").join(
            Text.assemble(printable(name), " ", (printable(value), "bold"))
            for name, value in _values(indices)
        )
        self._rates.read(healths)
        rows = sum(health.total("rows_stored") for health in healths)
        now = datetime.fromtimestamp(now_ns() / SECOND_NS, UTC)
        return process_table(
            healths,
            self._rates,
            title=title if title else self._waiting,
            caption=f"{now:%Y-%m-%d %H:%M:%S} UTC   {rows:,} rows stored   {self._url}",
        )
