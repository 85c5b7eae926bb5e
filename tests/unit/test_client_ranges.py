"""Long ranges of the client: parts, restarts of the endpoint, progress, older endpoints."""

from __future__ import annotations

import asyncio
import io
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from aiohttp import web

from coinspace.client import (
    ApiError,
    AsyncClient,
    BadAnswer,
    Client,
    ConnectionLost,
    InvalidArgument,
    ranges,
)
from coinspace.client.progress import progress_bar
from coinspace.client.ranges import HOUR_MS, milliseconds
from coinspace.client.table import ARROW, Books, Table

BEGIN = 1_767_225_600_000
DAYS = 30
STEP_MS = 60_000
END = BEGIN + DAYS * 24 * HOUR_MS
Ask = Callable[[web.Request, int], Any]


def arrow(start: int, end: int) -> bytes:
    """Return a row a minute of [start, end)."""
    times = list(range(-(-start // STEP_MS) * STEP_MS, end, STEP_MS))
    values = pa.array([float(t) for t in times], pa.float64())
    table = pa.table({"ts": pa.array(times, pa.timestamp("ms", tz="UTC")), "value": values})
    with pa.ipc.new_stream(sink := io.BytesIO(), table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


class Endpoint:
    """Answers ranges; `fault(request, n)` may answer the n-th request instead, or abort it."""

    def __init__(self, fault: Ask) -> None:
        self._fault = fault
        self.asked: list[tuple[int, int]] = []

    async def answer(self, request: web.Request) -> Any:
        if request.path == "/v1/venues":
            return web.json_response({"ts": END, "venues": []})
        start, end = (int(request.query.get(name, 0)) for name in ("start", "end"))
        self.asked.append((start, end))
        if (other := await self._fault(request, len(self.asked))) is not None:
            return other
        return web.Response(body=arrow(start, end), content_type=ARROW)


async def no_fault(request: web.Request, number: int) -> None:
    return None


@asynccontextmanager
async def serving(fault: Ask = no_fault) -> AsyncIterator[tuple[AsyncClient, Endpoint]]:
    endpoint = Endpoint(fault)
    app = web.Application()
    app.router.add_get("/{path:.*}", endpoint.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:
            yield client, endpoint
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(ranges, "LONGEST_PAUSE_S", 0.01)


def times(table: Table) -> list[int]:
    found: list[int] = table.to_arrow()["ts"].cast(pa.int64()).to_pylist()
    return found


WHOLE = list(range(BEGIN, END, STEP_MS))


async def test_a_long_range_comes_in_parts_without_a_seam() -> None:
    async with serving() as (client, endpoint):
        done: list[float] = []
        found = await client.values("BTC", BEGIN, END, progress=done.append)
    assert times(found) == WHOLE
    assert len(endpoint.asked) > 3
    assert endpoint.asked[0][0] == BEGIN
    assert endpoint.asked[-1][1] == END
    assert [end for _, end in endpoint.asked[:-1]] == [start for start, _ in endpoint.asked[1:]]
    assert done == sorted(done)
    assert done[-1] == 1.0
    # one stream of all parts
    assert pa.ipc.open_stream(found.data).read_all().num_rows == len(WHOLE)


async def test_the_parts_follow_the_size_of_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SMALL_BYTES", 2000)
    monkeypatch.setattr(ranges, "LARGE_BYTES", 4000)
    async with serving() as (client, endpoint):
        assert times(await client.values("BTC", BEGIN, END)) == WHOLE
    widths = [end - start for start, end in endpoint.asked]
    assert max(widths) <= 8 * HOUR_MS
    assert min(widths[:-1]) < max(widths)


async def test_candles_are_cut_only_between_candles() -> None:
    async with serving() as (client, endpoint):
        found = await client.ohlc("BTC", "5m", BEGIN + 123, END)
    assert all(start % 300_000 == 0 for start, _ in endpoint.asked)
    assert len(set(times(found))) == len(times(found))


async def test_a_range_without_an_end_ends_by_the_clock_of_the_server() -> None:
    async with serving() as (client, endpoint):
        assert times(await client.values("BTC", BEGIN)) == WHOLE
        assert endpoint.asked[-1][1] == END


async def cut(request: web.Request, part: int) -> web.StreamResponse:
    """Send a part of the answer in percent, then drop the connection."""
    body = arrow(int(request.query["start"]), int(request.query["end"]))
    answer = web.StreamResponse(headers={"Content-Type": ARROW})
    answer.content_length = len(body)
    await answer.prepare(request)
    await answer.write(body[: len(body) * part // 100])
    assert request.transport is not None
    request.transport.abort()
    return answer


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("part", [0, 50, 99])
async def test_a_connection_lost_in_mid_range_loses_and_doubles_nothing(
    first: int, part: int
) -> None:
    async def fault(request: web.Request, number: int) -> Any:
        return await cut(request, part) if first <= number < first + 3 else None

    async with serving(fault) as (client, endpoint):
        assert times(await client.values("BTC", BEGIN, END)) == WHOLE
        assert endpoint.asked[first - 1] == endpoint.asked[first] == endpoint.asked[first + 2]


async def test_an_endpoint_that_starts_again_is_waited_for() -> None:
    async def fault(request: web.Request, number: int) -> Any:
        problem = {"type": "urn:coinspace:problem:database-unavailable", "detail": "starting"}
        return web.json_response(problem, status=503) if number in (2, 3) else None

    async with serving(fault) as (client, _):
        assert times(await client.values("BTC", BEGIN, END)) == WHOLE


async def test_an_endpoint_that_stays_away_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranges, "PATIENCE_S", 0.1)

    async def fault(request: web.Request, number: int) -> Any:
        return await cut(request, 50) if number > 1 else None

    async with serving(fault) as (client, endpoint):
        with pytest.raises(
            ConnectionLost, match=r"rows before 2026-01-01T01:00:00\.000Z had arrived"
        ):
            await client.values("BTC", BEGIN, END)
        assert {start for start, _ in endpoint.asked[1:]} == {BEGIN + HOUR_MS}


async def test_errors_that_no_attempt_changes_are_raised_at_once() -> None:
    async def fault(request: web.Request, number: int) -> Any:
        if number < 2:
            return None
        return web.json_response({"type": "x:unknown-asset", "detail": "no"}, status=404)

    async with serving(fault) as (client, endpoint):
        with pytest.raises(ApiError, match="unknown-asset"):
            await client.values("BTC", BEGIN, END)
        assert len(endpoint.asked) == 2
    with pytest.raises(ConnectionLost, match=r"no connection, .*coinspace up"):
        async with AsyncClient("http://127.0.0.1:1") as nobody:
            await nobody.values("BTC", BEGIN, END)


async def test_a_busy_endpoint_refuses_the_first_part_at_once() -> None:
    async def fault(request: web.Request, number: int) -> Any:
        problem = {"type": "x:too-many-downloads", "detail": "busy"}
        return web.json_response(problem, status=503, headers={"Retry-After": "7"})

    async with serving(fault) as (client, _):
        with pytest.raises(ApiError, match="try again in 7 s"):
            await client.values("BTC", BEGIN, END)


# times


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01T00:00:00Z",
        "2026-01-01T09:00:00+09:00",
        str(BEGIN),
        BEGIN,
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 9, tzinfo=timezone(timedelta(hours=9))),
    ],
)
def test_a_time_in_every_form(value: Any) -> None:
    assert milliseconds(value) == BEGIN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2026, 1, 1), "no zone"),
        ("2026-01-01T00:00:00", "no zone"),
        ("2026-01-01", "no zone"),
        ("yesterday", "it is neither"),
        ("", "it is neither"),
        (BEGIN // 1000, f"did you mean milliseconds, {BEGIN}"),
        (str(BEGIN // 1000), f"did you mean milliseconds, {BEGIN}"),
        (date(2026, 1, 1), "was a date"),
        (1.5, "was a float"),
        (True, "was a bool"),
    ],
)
def test_a_time_that_nothing_says_names_its_parameter(value: Any, text: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidArgument) as refused:
        client.values("BTC", start=value)
    assert str(refused.value).startswith("start: expected ")
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda c: c.orderbook("BTC", at=BEGIN), "at: expected an exchange and a market"),
        (lambda c: c.orderbook("upbit", "BTC/KRW", within=1), "within: expected an asset alone"),
        (lambda c: c.orderbooks("upbit", "BTC"), "market: expected BASE/QUOTE"),
        (lambda c: c.explain("BTC", "soon"), "ts: expected"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call: Callable[[Client], Any], text: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(InvalidArgument, match=text):
        call(client)


# older endpoints


async def test_an_older_endpoint_is_named_as_the_cause() -> None:
    async def fault(request: web.Request, number: int) -> Any:
        if request.path.endswith(("/history", "/premiums", "/markets", "/assets")):
            problem = {"type": "urn:coinspace:problem:unknown-route", "detail": "no such route"}
            return web.json_response(problem, status=404)
        problem = {
            "type": "urn:coinspace:problem:invalid-parameter",
            "detail": "levels: no such parameter, expected: start",
            "parameter": "levels",
        }
        return web.json_response(problem, status=400)

    async with serving(fault) as (client, _):
        with pytest.raises(ApiError, match=r"BTC/KRW/history: 404 .*endpoint may be older"):
            await client.orderbooks("upbit", "BTC/KRW", BEGIN, END)
        for question in (client.premiums(), client.markets("upbit"), client.assets()):
            with pytest.raises(ApiError, match=r"GET /v1/\w+: 404 .*endpoint may be older"):
                await question
        with pytest.raises(ApiError, match=r"400 .*endpoint may be older"):
            await client.ohlc("BTC", "1m", BEGIN, END)


# a program that runs twice


def test_one_client_in_two_loops() -> None:
    """A cell with asyncio.run that is run again uses the client of the first run."""
    client = AsyncClient("http://127.0.0.1:1")

    async def cell(last: bool) -> int:
        async with serving() as (other, _):
            client.url = other.url
            found: int = (await client.json("/v1/venues"))["ts"]
            if last:
                await client.close()
            return found

    assert [asyncio.run(cell(last)) for last in (False, False, True)] == [END] * 3


async def test_one_client_in_two_running_loops_is_refused() -> None:
    async with serving() as (client, _):
        await client.json("/v1/venues")
        with pytest.raises(InvalidArgument, match="make an AsyncClient in each"):
            await asyncio.to_thread(lambda: asyncio.run(client.json("/v1/venues")))


async def test_a_cell_that_runs_twice_leaves_one_client() -> None:
    async with serving() as (other, _):
        space: dict[str, Any] = {"Client": Client, "url": other.url}
        cell = "client = Client(url); found = client.values('BTC', start, end, progress=False)"
        space |= {"start": BEGIN, "end": BEGIN + HOUR_MS}
        before = threading.active_count()
        for _ in range(3):
            await asyncio.to_thread(exec, cell, space)
        assert len(space["found"]) == 60
        space["client"].close()
        assert sum(t.name == "coinspace-client" for t in threading.enumerate()) == 0
        assert threading.active_count() <= before + 1


# progress


def test_a_bar_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (None, False):
        with progress_bar("values", wanted) as done:
            done(0.5)
    assert capsys.readouterr().err == ""
    with progress_bar("values", True) as done:
        done(0.5)
        done(1.0)
    assert "values" in capsys.readouterr().err


def test_a_notebook_shows_one_bar_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, page: Any) -> None:
            shown.append(page.data)

    def display(page: Any, display_id: bool) -> Handle:
        shown.append(f"new {page.data}")
        return Handle()

    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setattr("IPython.display.display", display)
    with progress_bar("values", None) as done:
        # a short download shows nothing
        done(0.1)
    with progress_bar("values", True) as done:
        done(0.25)
        done(0.5)
    assert [one.split()[0] for one in shown] == ["new", "values", "values:"]
    assert 'value="0.2500"' in shown[0]
    assert 'value="0.5000"' in shown[1]


async def test_gaps_of_several_pages_are_one_list() -> None:
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        page = int(request.query.get("cursor", 0))
        link = f"/v1/gaps?start=5&end={END}&limit=1000&cursor={page + 1}"
        rows = [{"ts": END - page, "first": page}]
        more = page < 2
        return web.json_response(
            {
                "gaps": rows,
                "cursor": str(page + 1) if more else None,
                "next": link if more else None,
            }
        )

    app = web.Application()
    app.router.add_get("/v1/gaps", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with AsyncClient(f"http://127.0.0.1:{runner.addresses[0][1]}") as client:
            found = await client.gaps("upbit", kind="trade", status="lost")
    finally:
        await runner.cleanup()
    assert [one.first for one in found] == [0, 1, 2]
    # later pages have the bounds that the first one chose
    assert [one.get("end") for one in asked] == [None, str(END), str(END)]
    assert {(one["exchange"], one["kind"], one["status"]) for one in asked} == {
        ("upbit", "trade", "lost")
    }


# tables


def test_a_table_describes_itself() -> None:
    table = Table(arrow(BEGIN, BEGIN + HOUR_MS), arrow(BEGIN + HOUR_MS, END), name="values of BTC")
    assert repr(table) == (
        f"<Table values of BTC: {len(WHOLE):,} rows, 2026-01-01 00:00:00 to 2026-01-30 23:59:00"
        " UTC; ts, value>"
    )
    page = table._repr_html_()
    assert page.count("<tr>") == 1 + 10 + 1
    assert f"… {len(WHOLE) - 10:,} rows …" in page
    empty = Table(arrow(BEGIN, BEGIN))
    assert "0 rows" in repr(empty)
    assert "<table>" in empty._repr_html_()
    assert "3 bytes" in repr(Table(b"abc"))


def test_books_become_rows_of_levels() -> None:
    books = pa.table(
        {
            "ts": pa.array([BEGIN, BEGIN, BEGIN + 1], pa.timestamp("ms", tz="UTC")),
            "exchange": ["upbit"] * 3,
            "market": ["A/B", "A/B", "A/B"],
            "bids": [[[10.0, 9.0], [1.0, 2.0]], [[], []], [[8.0], [3.0]]],
            "asks": [[[11.0], [4.0]], [[12.0, 13.0], [5.0, 6.0]], [[], []]],
        }
    )
    with pa.ipc.new_stream(sink := io.BytesIO(), books.schema) as writer:
        writer.write_table(books)
    found = Books(sink.getvalue(), sink.getvalue()).levels().to_pylist()
    once = [
        (0, "bid", 0, 10.0, 1.0),
        (0, "bid", 1, 9.0, 2.0),
        (0, "ask", 0, 11.0, 4.0),
        (0, "ask", 0, 12.0, 5.0),
        (0, "ask", 1, 13.0, 6.0),
        (1, "bid", 0, 8.0, 3.0),
    ]
    rows = [
        (int(row["ts"].timestamp() * 1000) - BEGIN, row["side"], row["level"], row["price"],
         row["size"])
        for row in found
    ]  # fmt: skip
    assert rows == once * 2


async def test_a_table_that_is_not_arrow_is_refused() -> None:
    async def fault(request: web.Request, number: int) -> Any:
        return web.Response(text="<html>", content_type="text/html")

    async with serving(fault) as (client, _):
        with pytest.raises(BadAnswer, match=re.escape(f"expected {ARROW}, was text/html")):
            await client.trades("upbit", "BTC/KRW", BEGIN, END)
