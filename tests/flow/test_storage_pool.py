"""The pool of read-only connections, on a real server and over a line that is cut."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import psycopg
import pytest

from coinspace.config import Settings
from coinspace.errors import DatabaseUnavailable, NoSuchTable, QueryTimeout, StorageError
from coinspace.storage.questdb.address import address
from coinspace.storage.read.pool import CONNECT_TIMEOUT_S, RETRY_AFTER_S, Database
from tests.flow.line import Line
from tests.waiting import until

# long enough for a loaded machine; no test waits until its end
TIMEOUT_S = 60.0
# passes in some tests
SHORT_S = 2.0
# a query that takes longer than any test
SLOW = "SELECT count() FROM long_sequence(1_000_000_000_000) WHERE rnd_double() < 0.5"


@pytest.fixture
async def line(questdb: Settings) -> AsyncIterator[Line]:
    found = Line(address(questdb).readonly_sql)
    await found.open()
    yield found
    await found.cut()


Make = Callable[..., Database]


@pytest.fixture
async def make(line: Line) -> AsyncIterator[Make]:
    made: list[Database] = []

    def one(size: int = 1, timeout_s: float = TIMEOUT_S) -> Database:
        made.append(Database(lambda: line.url, size=size, timeout_s=timeout_s))
        return made[-1]

    yield one
    for database in made:
        await database.close()


async def answers(database: Database) -> None:
    """Wait until the database answers again."""
    await until(database.ping)


async def test_a_connection_is_used_again(line: Line, make: Make) -> None:
    database = make(size=4)
    for _ in range(3):
        assert await database.rows("SELECT 1 one") == [{"one": 1}]
    assert line.made == 1
    assert (database.queries, database.failures, database.timeouts) == (3, 0, 0)


async def test_no_more_connections_than_places(line: Line, make: Make) -> None:
    database = make(size=2)
    await asyncio.gather(*(database.rows("SELECT 1 one") for _ in range(20)))
    assert line.made <= 2


async def test_values_are_bound_and_small_numbers_are_times(make: Make) -> None:
    text = "'; DROP TABLE trade; --"
    assert await make().rows("SELECT %s::varchar text", (text,)) == [{"text": text}]
    found = await make().one("SELECT %s::timestamp_ns::long ns", (7,))
    assert found == {"ns": 7}


async def test_the_user_cannot_write(make: Make) -> None:
    with pytest.raises(psycopg.Error, match=r"(?i)denied|permission|read.only"):
        await make().rows("CREATE TABLE written (ts timestamp) timestamp(ts)")


async def test_a_borrower_may_take_longer_than_the_query_time_out(make: Make) -> None:
    """The query time-out limits a query, not the time between two rows."""
    database = make(timeout_s=SHORT_S)
    await answers(database)
    async with database.connection() as connection:
        await asyncio.sleep(SHORT_S + 0.5)
        await connection.execute("SELECT 1")
    assert database.timeouts == 0


async def test_a_generator_may_stop_between_rows(line: Line, make: Make) -> None:
    """A time-out around a yield would cancel the caller's sleep."""
    database = make(timeout_s=SHORT_S)
    await answers(database)

    async def rows() -> AsyncIterator[int]:
        async with database.connection():
            yield 1
            yield 2

    found = rows()
    assert await anext(found) == 1
    await asyncio.sleep(SHORT_S + 0.5)
    assert await anext(found) == 2
    await found.aclose()  # type: ignore[attr-defined]
    # a connection whose query stopped in the middle is not used again, and its place is free
    await answers(database)
    assert line.made == 2


async def test_a_query_that_takes_too_long_ends(make: Make) -> None:
    database = make(timeout_s=SHORT_S)
    await answers(database)
    with pytest.raises(QueryTimeout, match="took more than 2 s"):
        await database.rows(SLOW)
    # this is not a failure of the database: other queries continue at once
    assert database.error is None
    assert database.timeouts == 1
    await answers(database)


async def test_waiting_for_a_connection_ends(make: Make) -> None:
    database = make(timeout_s=SHORT_S)
    await answers(database)
    async with database.connection():
        with pytest.raises(QueryTimeout, match="no connection was free for 2 s"):
            await database.rows("SELECT 1")
    await answers(database)


async def test_a_cancelled_wait_takes_no_connection(make: Make) -> None:
    database = make()
    async with database.connection():
        waiting = asyncio.ensure_future(database.rows("SELECT 1 one"))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await database.rows("SELECT 1 one") == [{"one": 1}]


async def test_a_time_out_of_the_borrower_is_no_failure_of_the_database(make: Make) -> None:
    database = make()
    with pytest.raises(TimeoutError):
        async with database.connection(), asyncio.timeout(0.01):
            await asyncio.sleep(60)
    assert (database.failures, database.error) == (0, None)


async def test_a_missing_table_keeps_the_connection(line: Line, make: Make) -> None:
    database = make()
    with pytest.raises(NoSuchTable):
        await database.rows("SELECT * FROM nobody_made_it")
    assert await database.rows("SELECT 1 one") == [{"one": 1}]
    assert line.made == 1


async def test_no_request_waits_for_a_server_that_refuses(line: Line, make: Make) -> None:
    database = make(size=2)
    await line.cut()
    started = time.monotonic()
    found = await asyncio.gather(
        *(database.rows("SELECT 1") for _ in range(5)), return_exceptions=True
    )
    assert [type(one) for one in found] == [DatabaseUnavailable] * 5
    # for a second no further connection is tried
    failures = database.failures
    with pytest.raises(DatabaseUnavailable):
        await database.rows("SELECT 1")
    assert time.monotonic() - started < TIMEOUT_S / 2
    assert database.failures >= failures >= 1
    assert database.error
    await line.open()
    await answers(database)
    assert database.error is None


async def test_a_server_that_does_not_answer_costs_the_time_of_connecting(
    line: Line, make: Make
) -> None:
    line.silent = True
    database = make(timeout_s=4 * CONNECT_TIMEOUT_S)
    with pytest.raises(DatabaseUnavailable):
        await database.rows("SELECT 1")
    assert database.timeouts == 0


async def test_no_connection_is_made_without_an_address() -> None:
    def none() -> str:
        raise StorageError("no private QuestDB runs")

    database = Database(none, size=1, timeout_s=TIMEOUT_S)
    with pytest.raises(DatabaseUnavailable):
        await database.rows("SELECT 1")
    assert database.error == "no private QuestDB runs"
    await database.close()


async def test_connections_that_fail_one_after_the_other_end_every_wait(
    line: Line, make: Make
) -> None:
    line.silent = True
    database = make(size=2)
    waits = [asyncio.ensure_future(database.rows("SELECT 1")) for _ in range(8)]
    while not database._waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(4):
        # a wait that the first failure has ended cannot be ended again
        database._connecting_failed(StorageError("no server"))
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(one) for one in outcomes} == {DatabaseUnavailable}


async def test_a_restart_of_the_server_costs_one_failure(line: Line, make: Make) -> None:
    """Idle connections to an ended server are not tried one after another."""
    database = make(size=4)
    all_lent = asyncio.Barrier(4)

    async def hold() -> None:
        async with database.connection():
            await all_lent.wait()

    await asyncio.gather(*(hold() for _ in range(4)))
    assert line.made == 4
    await line.cut()
    await line.open()
    with pytest.raises(DatabaseUnavailable):
        await database.rows("SELECT 1")
    # the event loop's timers may be early
    await asyncio.sleep(RETRY_AFTER_S + 0.2)
    found = await asyncio.gather(*(database.rows("SELECT 1 one") for _ in range(4)))
    assert found == [[{"one": 1}]] * 4
    assert database.failures == 1


async def test_a_closed_pool_refuses(make: Make) -> None:
    database = make()
    await answers(database)
    await database.close()
    with pytest.raises(psycopg.Error):
        await database.rows("SELECT 1")
