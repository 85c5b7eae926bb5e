"""Finds problems that acknowledgements hide: suspended tables, a hung server, a full disk, clocks.

Each finding is one line: what is wrong and how to repair it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
import structlog

from coinspace.backoff import Backoff
from coinspace.clock import SECOND_NS, now_ns
from coinspace.config import Settings
from coinspace.errors import CoinSpaceError
from coinspace.storage import position, retention, schema
from coinspace.storage.disk import disk_problems, no_room
from coinspace.storage.gaps import Damage
from coinspace.storage.questdb.address import Address, address
from coinspace.tasks import Tasks

T = TypeVar("T")
INTERVAL_S = 2.0
# looks between two comparisons of columns: damage is stored again from the journals, so a delay of
# some seconds does no harm
LOOKS_PER_SCHEMA = 5
QUERY_TIMEOUT_S = 5.0
# a table with a larger lag behind its acknowledged rows does not keep up
APPLY_LAG_TRANSACTIONS = 1000
CLOCK_LIMIT_S = 1.0
# running queries, including those that timed out on a hung server
MAX_QUERIES = 10
FIRST_RESUME_S = 4.0
MAX_RESUME_S = 300.0

log = structlog.get_logger("watch")


@dataclass
class Findings:
    """The results of one look.

    Attributes:
        problems: one line each.
        drift: differences of the schema.
        views: invalid views.
        damages: tables that `owner` has to store again.
        suspended: tables that the server itself has suspended. The cause may be over, which the
            server's error does not show.
    """

    problems: list[str] = field(default_factory=list)
    drift: list[schema.Difference] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    suspended: list[str] = field(default_factory=list)


async def look(settings: Settings, *, columns: bool = True, owner: str = "") -> Findings:
    """Look once; takes some seconds at most, even when the server hangs.

    Args:
        columns: whether to compare the schema too, with a query per table.
        owner: the worker whose damages are read, "" = none.
    """
    found = Findings()
    try:
        retention.check(settings.storage)
        where = address(settings)
        found = await _within(QUERY_TIMEOUT_S, _ask(where, owner))
        if columns:
            differences = asyncio.to_thread(schema.differences, where, settings.storage)
            found.drift = await _within(QUERY_TIMEOUT_S, differences)
    except TimeoutError:
        found.problems.append(
            f"QuestDB accepts connections but does not answer within {QUERY_TIMEOUT_S:.0f} s:"
            " see its log and load; `coinspace questdb stop` and `start` restart it"
        )
    except CoinSpaceError as error:
        found.problems.append(f"QuestDB: {error}")
    found.problems += [
        # a storage worker creates a missing table: no statement for the user
        f"schema: {one.text}" + ("" if one.missing else f": {one.repair}")
        for one in found.drift
    ]
    found.problems += disk_problems(settings)
    return found


async def _within(timeout_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Await work with a time-out. Raises: TimeoutError.

    Unlike wait_for it does not wait until the work is cancelled: psycopg sends the cancellation to
    the hung server.
    """
    if len(_queries) >= MAX_QUERIES:
        work.close()
        raise TimeoutError
    task = _queries.spawn("look at the database", work, ends=True)
    done, _ = await asyncio.wait({task}, timeout=timeout_s)
    if not done:
        await _queries.end(task, 0)
        raise TimeoutError
    result: T = task.result()
    return result


# errors are ignored here: `_within` returns them to the caller, except after a time-out
_queries = Tasks(lambda name, error: None)


async def _ask(where: Address, owner: str) -> Findings:
    found = Findings()
    async with position.connect(where) as connection:
        late, suspended = await position.unapplied(connection)
        for table in suspended:
            found.problems.append(
                f"table {table.table} is suspended ({table.reason}): rows are kept but not shown;"
                f" remove the cause, then run `coinspace questdb resume`"
                f" ({schema.resuming(table.table)})"
            )
            if table.by_server:
                found.suspended.append(table.table)
        found.problems += [
            f"table {name} shows rows {lag} transactions late: the server is overloaded"
            for name, lag in late.items()
            if lag > APPLY_LAG_TRANSACTIONS
        ]
        found.problems += await _clock(connection)
        cursor = await connection.execute(
            "SELECT view_name, invalidation_reason FROM materialized_views()"
            f" WHERE view_status = 'invalid' AND view_name IN ({schema.OWN_TABLES})"
        )
        for name, reason in await cursor.fetchall():
            found.views.append(name)
            found.problems.append(
                f"view {name} is invalid ({reason}): run `coinspace questdb resume`"
                f" ({schema.refreshing(name)})"
            )
        if owner:
            found.damages = await position.damages(connection, owner)
    return found


async def _clock(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    before = now_ns()
    cursor = await connection.execute("SELECT systimestamp()::long")
    row = await cursor.fetchone()
    after = now_ns()
    server_ns = int(row[0]) * 1000 if row else before
    # the server read its clock between the two times
    off_ns = max(before - server_ns, server_ns - after, 0)
    if off_ns / SECOND_NS <= CLOCK_LIMIT_S:
        return []
    word = "behind" if server_ns < before else "ahead of"
    return [
        f"QuestDB's clock is {off_ns / SECOND_NS:.1f} s {word} this host's clock:"
        " synchronise both hosts (chrony or systemd-timesyncd)"
    ]


class StorageWatch:
    """Looks every two seconds and keeps the last findings.

    Args:
        tables: that the owner stores.
        on_drift: called when the schema of these tables differs, or a view of them is invalid.
        on_damage: called with the owner's damages at each look, until they are repaired.
    """

    def __init__(
        self,
        settings: Settings,
        tables: set[str],
        *,
        on_drift: Callable[[], Awaitable[None]],
        on_damage: Callable[[list[Damage]], object],
    ) -> None:
        self._settings = settings
        self._tables = tables
        self._on_drift = on_drift
        self._on_damage = on_damage
        # the worker whose damages are read, "" before it has started
        self.owner = ""
        self.findings = Findings()
        self.looks = 0
        self._resume_at = 0.0
        self._resumes = Backoff(FIRST_RESUME_S, MAX_RESUME_S)

    async def run(self) -> None:
        while True:
            # storing again has to wait for correct columns
            columns = self.looks % LOOKS_PER_SCHEMA == 0 or bool(self.findings.damages)
            self.findings = await look(self._settings, columns=columns, owner=self.owner)
            self.looks += 1
            try:
                await self._resume()
                wrong = [one.table for one in self.findings.drift] + self.findings.views
                if any(schema.root_of(name) in self._tables for name in wrong):
                    await self._on_drift()
                elif self.findings.damages and columns:
                    # only now the columns are known to be correct again
                    self._on_damage(self.findings.damages)
            except CoinSpaceError as error:
                self.findings.problems.append(str(error))
            await asyncio.sleep(INTERVAL_S)

    async def _resume(self) -> None:
        """Resume tables that the server suspended, with growing pauses.

        While the cause lasts, the server suspends the table again; no row is lost.
        """
        suspended = self.findings.suspended
        if not suspended:
            self._resumes.reset()
            return
        if time.monotonic() < self._resume_at or no_room(self._settings):
            return
        self._resume_at = time.monotonic() + self._resumes.next()
        done = await asyncio.to_thread(schema.resume, address(self._settings), suspended)
        log.info("tables resumed", statements=done)
