"""The process of the private server: starts, restarts and stops it."""

from __future__ import annotations

import asyncio
import time

from coinspace.backoff import Backoff
from coinspace.errors import CoinSpaceError
from coinspace.process import Process
from coinspace.storage.questdb.runtime import unknown_jar
from coinspace.storage.questdb.server import ManagedServer, is_private_server
from coinspace.tasks import within

PROCESS_NAME = "questdb"
WATCH_INTERVAL_S = 0.25
PROBE_INTERVAL_S = 5.0
# A server that has not answered `select 1` for this long is killed and restarted. Compaction and
# long queries block answers for two minutes at most. The journals have far more than five minutes
# of messages, and the server keeps all acknowledged rows.
HUNG_S = 300.0
# less than the supervisor waits before it kills a process
STOP_TIMEOUT_S = 14.0
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 15.0
# after this run time a failure counts as a new one: the back-off starts again
SETTLED_S = 60.0


async def keep(process: Process) -> None:
    """Run the private server until the process is asked to stop.

    Raises: ConfigError or StorageError when its first start fails.
    """
    server = ManagedServer(process.settings)
    keeper = _Keeper(process, server)
    process.counters = keeper.counters
    if (text := unknown_jar()) is not None:
        process.log.warning("questdb jar of unknown checksum", jar=text)
    # in this thread: the server is tied to the thread that starts it
    server.spawn()
    try:
        await asyncio.to_thread(server.wait_ready)
        keeper.announce()
        while not process.stopping.is_set():
            await within(WATCH_INTERVAL_S, process.stopping)
            await keeper.check()
    finally:
        code = await asyncio.to_thread(server.stop, STOP_TIMEOUT_S)
        if code:
            process.log.error("questdb did not stop cleanly", exit_code=code)


class _Keeper:
    def __init__(self, process: Process, server: ManagedServer) -> None:
        self._process = process
        self._server = server
        self._restarts = 0
        self._backoff = Backoff(FIRST_BACKOFF_S, MAX_BACKOFF_S)
        self._ready_at = time.monotonic()
        self._probe_at = 0.0
        self._hung = 0
        self._hung_since: float | None = None
        self._killed = 0

    def counters(self) -> dict[str, int | float]:
        return {"restarts": self._restarts, "hung_probes": self._hung, "killed": self._killed}

    def announce(self) -> None:
        self._ready_at = time.monotonic()
        self._process.log.info("questdb ready", server=repr(self._server.address))
        self._report_ready()

    def _report_ready(self) -> None:
        problem = self._server.announce()
        if problem:
            self._process.degraded(problem)
        else:
            self._process.ready()

    async def check(self) -> None:
        if self._process.stopping.is_set():
            return
        if self._server.poll() is not None:
            await self._restart()
        elif time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + PROBE_INTERVAL_S
            await self._probe()

    async def _probe(self) -> None:
        found = self._server.address
        if found is None:
            return
        if await asyncio.to_thread(is_private_server, found):
            self._hung_since = None
            self._report_ready()
        elif self._server.poll() is None:
            await self._does_not_answer()

    async def _does_not_answer(self) -> None:
        now = time.monotonic()
        self._hung += 1
        if self._hung_since is None:
            self._hung_since = now
        self._process.degraded(
            f"QuestDB runs but does not answer: see its log and load; it is restarted after"
            f" {HUNG_S:.0f} s; `coinspace questdb stop` and `start` restart it at once"
        )
        if now - self._hung_since >= HUNG_S:
            self._hung_since = None
            self._killed += 1
            self._process.log.error("questdb killed: no answer", seconds=HUNG_S)
            # SIGKILL: a stopped or hung process does not handle SIGTERM
            await asyncio.to_thread(self._server.kill)

    async def _restart(self) -> None:
        self._restarts += 1
        self._process.degraded(f"QuestDB ended with exit code {self._server.poll()}; restarting it")
        if time.monotonic() - self._ready_at > SETTLED_S:
            self._backoff.reset()
        try:
            self._server.spawn()
            await asyncio.to_thread(self._server.wait_ready)
        except (CoinSpaceError, OSError) as error:
            self._process.degraded(str(error))
            await within(self._backoff.next(), self._process.stopping)
        else:
            self.announce()
