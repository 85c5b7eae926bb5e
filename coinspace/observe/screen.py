"""The live status that `coinspace up` shows: index values, rates per process, rows stored."""

from __future__ import annotations

import asyncio
import sys
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
PLAIN_EVERY_S = 10.0  # one line a second is too much for a log file

WAITING = "waiting for the first index value"
# index values of one line
SHOWN_VALUES = 8

# a process's output: the first of these counters that is not zero
OUTPUT = ("published", "rows_stored", "requests", "frames")


class Rates:
    """Output per second of each process, from two readings of its counters."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def of(self, health: Health) -> float:
        name = next((name for name in OUTPUT if health.total(name)), OUTPUT[0])
        now = (health.updated_ns, float(health.total(name)))
        before = self._last.get(health.process, now)
        self._last[health.process] = now
        elapsed_s = (now[0] - before[0]) / SECOND_NS
        return max(0.0, now[1] - before[1]) / elapsed_s if elapsed_s > 0 else 0.0


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
    """Shows the platform's state until everything stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rates = Rates()
        self._url = settings.endpoint.url

    async def run(self, stopping: asyncio.Event) -> None:
        """Print the addresses, then the state: a table on a terminal, else a line every 10 s."""
        try:
            await self._show(stopping)
        except OSError as error:
            # the platform goes on without a reader
            log.warning("status not shown any more", error=str(error))

    async def _show(self, stopping: asyncio.Event) -> None:
        print(f"page  {self._url}/\nAPI   {self._url}/v1/indices\ndocs  {self._url}/docs")
        sys.stdout.flush()
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if not sys.stdout.isatty():
                while not await within(PLAIN_EVERY_S, stopping):
                    print(self._line(all_health(self._settings), await self._indices(session)))
                    sys.stdout.flush()
                return
            with Live(console=Console(), auto_refresh=False) as live:
                while not stopping.is_set():
                    indices = await self._indices(session)
                    live.update(self._table(all_health(self._settings), indices), refresh=True)
                    await within(REFRESH_S, stopping)

    async def _indices(self, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
        try:
            async with session.get(f"{self._url}/v1/indices") as response:
                body = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return []
        return list(body.get("indices", body) if isinstance(body, dict) else body)

    def _line(self, healths: list[Health], indices: list[dict[str, Any]]) -> str:
        values = printable(" ".join(map(" ".join, _values(indices))) or WAITING)
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
        table = Table(title=title if title else WAITING, caption=self._url)
        table.add_column("process")
        table.add_column("state")
        for column in ("out/s", "rows stored", "dropped", "gaps"):
            table.add_column(column, justify="right")
        for health in healths:
            style = "green" if health.ok else "red" if health.state == "down" else "yellow"
            state = health.state + (f": {health.reason}" if health.reason else "")
            table.add_row(
                cell(health.process),
                cell(state, style),
                f"{self._rates.of(health):,.0f}",
                f"{health.total('rows_stored'):,}" if health.total("rows_stored") else "",
                f"{health.total('dropped'):,}",
                f"{health.total('gaps'):,}",
            )
        return table
