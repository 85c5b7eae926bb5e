"""Stored books as tables: arrays in every format, the same digits and rows, limits, pages."""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from coinspace.cli import coinspace
from coinspace.client import AsyncClient, Books, ranges
from coinspace.config import Settings
from coinspace.endpoint.worker import Endpoint
from coinspace.storage.questdb.address import address
from tests.flow.endpoint_stage import running
from tests.flow.stored_history import ASSET, START_MS, configured, store_history

# a market of its own: more books than a page of the server, three at each instant
MARKET, BOOKS = "BKS/KRW", 1201
ARROW, CSV = "application/vnd.apache.arrow.stream", "text/csv"
PARQUET, JSON = "application/vnd.apache.parquet", "application/json"
MEDIA = (JSON, CSV, ARROW, PARQUET)
SPAN: dict[str, Any] = {"start": START_MS, "end": START_MS + 10_000}
PATH = f"/v1/orderbooks/upbit/{MARKET}/history"
VECTOR = pl.List(pl.Float64)
Row = dict[str, Any]


def stored_books() -> list[tuple[int, list[list[float]], list[list[float]] | None]]:
    """Return (ms after the start, bids, asks); the asks of one book are missing."""
    return [
        (
            number // 3,
            [[100.0 - number / 8, 1e-7], [1.5, 0.1 + number]],
            None if number == 5 else [[101.25], [123456789.12345679]],
        )
        for number in range(BOOKS)
    ]


@pytest.fixture(scope="module")
def stored(questdb: Settings) -> Settings:
    store_history(questdb)
    with psycopg.connect(address(questdb).sql, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO orderbook (exchange, market, bids, asks, epoch, seq, ts)"
                f" VALUES ('upbit', '{MARKET}', %s, %s, 1, %s, %s)",
                [
                    (bids, asks, seq, (START_MS + ms) * 10**6)
                    for seq, (ms, bids, asks) in enumerate(stored_books())
                ],
            )
        deadline = time.monotonic() + 60
        count = f"SELECT count() FROM orderbook WHERE market = '{MARKET}'"
        while connection.execute(count.encode()).fetchall()[0][0] != BOOKS:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return questdb


@pytest_asyncio.fixture
async def client(stored: Settings, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    chosen = configured(stored, tmp_path)
    chosen.exchanges["upbit"].markets = [*chosen.exchanges["upbit"].markets, MARKET]
    async with running(chosen) as (_, endpoint), AsyncClient(endpoint.server.url) as found:
        yield found


def rows_of(media: str, body: bytes) -> list[Row]:
    """Return the rows of an answer, numbers as the shortest text that reads back to them."""
    if media == JSON:
        answer = orjson.loads(body)
        (rows,) = [one for name, one in answer.items() if isinstance(one, list)]
        found = [{name: _columns(one) for name, one in row.items()} for row in rows]
    elif media == CSV:
        found = list(csv.DictReader(io.StringIO(body.decode())))
        for row in found:
            row |= {side: orjson.loads(row[side]) for side in ("bids", "asks") if side in row}
    else:
        arrow = (
            pa.ipc.open_stream(body).read_all()
            if media == ARROW
            else pa.parquet.read_table(io.BytesIO(body))
        )
        found = arrow.set_column(0, "ts", arrow["ts"].cast(pa.int64())).to_pylist()
    return [{name: _plain(one) for name, one in row.items() if name != "closed"} for row in found]


def _columns(value: Any) -> Any:
    """Return the levels of a side as [prices, sizes], other values as they are."""
    if not isinstance(value, list):
        return value
    return [[level[place] for level in value] for place in (0, 1)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or value == "":
        return None
    try:
        return repr(float(value))
    except ValueError:
        return value


def values_path(asset: str = ASSET) -> str:
    return f"/v1/indices/{asset}/values"


RANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "books": (PATH, SPAN),
    "values": (values_path(), {"start": START_MS, "end": START_MS + 90_000}),
    "candles": (
        f"/v1/indices/{ASSET}/ohlc",
        {"start": START_MS, "end": START_MS + 90_000, "interval": "1s"},
    ),
    "trades": ("/v1/trades", {"market": "HST/KRW", **SPAN}),
    "newest trades": ("/v1/trades", {"market": "BTC/KRW"}),
}


@pytest.mark.parametrize("name", RANGES)
async def test_every_format_has_the_same_rows_and_digits(client: AsyncClient, name: str) -> None:
    path, given = RANGES[name]
    for limit in (1, 7, 1000):
        found = [
            rows_of(media, await client.get(path, {**given, "limit": limit}, accept=media))
            for media in MEDIA
        ]
        assert 0 < len(found[0]) <= limit
        for other in found[1:]:
            assert other == found[0]


@pytest.mark.parametrize("media", [CSV, ARROW, PARQUET])
async def test_a_range_of_books_is_whole(client: AsyncClient, media: str) -> None:
    rows = rows_of(media, await client.get(PATH, SPAN, accept=media))
    assert [(int(float(row["ts"])) - START_MS, row["bids"]) for row in rows] == [
        (ms, _plain(bids)) for ms, bids, _ in stored_books()
    ]
    assert rows[5]["asks"] == [[], []]
    few = rows_of(media, await client.get(PATH, {**SPAN, "levels": 1}, accept=media))
    assert [row["bids"] for row in few] == [[side[:1] for side in row["bids"]] for row in rows]


async def test_pages_of_books_lose_and_double_nothing(client: AsyncClient) -> None:
    rows, cursor = [], None
    while True:
        page = await client.json(PATH, **SPAN, limit=100, cursor=cursor)
        rows += [float(one["bids"][0][0]) for one in page["orderbooks"]]
        if (cursor := page["cursor"]) is None:
            break
    assert rows == [bids[0][0] for _, bids, _ in stored_books()]
    # the same place in another format
    first = await client.json(PATH, **SPAN, limit=100)
    rest = await client.get(PATH, {**SPAN, "cursor": first["cursor"]}, accept=CSV)
    assert len(rows_of(CSV, rest)) == BOOKS - 100


async def test_an_endpoint_that_restarts_in_mid_download(
    stored: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "HOUR_MS", 40)
    monkeypatch.setattr(ranges, "WIDEST_MS", 40)
    chosen = configured(stored, tmp_path)
    chosen.exchanges["upbit"].markets = [*chosen.exchanges["upbit"].markets, MARKET]
    endpoints = [Endpoint(chosen)]
    await endpoints[0].start()
    chosen.endpoint.port = endpoints[0].server.port
    asked: list[float] = []

    async def fetch(begin: int, until: int) -> bytes:
        if len(asked) == 3 and not restarts:
            # it is gone while the next part is asked for
            await endpoints[0].stop()
            restarts.append(asyncio.create_task(start()))
        return await client.get(PATH, {"start": begin, "end": until}, accept=ARROW)

    async def start() -> None:
        await asyncio.sleep(0.2)
        endpoints.append(Endpoint(chosen))
        await endpoints[-1].start()

    restarts: list[asyncio.Task[None]] = []
    try:
        async with AsyncClient(endpoints[0].server.url) as client:
            first, last = SPAN["start"], SPAN["start"] + 400
            parts = [part async for part in ranges.parts(fetch, first, last, 1, asked.append)]
        rows = Books(*parts).to_arrow()["bids"].to_pylist()
        assert rows == [bids for ms, bids, _ in stored_books() if ms < 400]
        assert len(endpoints) == 2
    finally:
        for task in restarts:
            await task
        await endpoints[-1].stop()


async def test_the_client_has_books_as_frames(client: AsyncClient) -> None:
    books = await client.orderbooks("upbit", MARKET, **SPAN)
    frame = books.to_pandas()
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert len(frame) == len(books) == BOOKS
    prices, sizes = frame["bids"].iloc[7]
    assert [prices.tolist(), sizes.tolist()] == stored_books()[7][1]
    levels = books.levels().to_polars()
    assert levels.columns == ["ts", "exchange", "market", "side", "level", "price", "size"]
    assert len(levels) == 3 * BOOKS - 1
    assert levels.filter(pl.col("level") == 0, pl.col("side") == "bid")["price"].to_list() == [
        bids[0][0] for _, bids, _ in stored_books()
    ]
    best = await client.orderbooks("upbit", MARKET, **SPAN, levels=1)
    assert len(best.levels()) == 2 * BOOKS - 1
    past = await client.orderbook("upbit", MARKET, at=START_MS + 1)
    assert past.bids[0] == tuple(side[0] for side in stored_books()[5][1])


async def test_the_status_of_a_missing_value_is_text_for_pandas(client: AsyncClient) -> None:
    path, given = RANGES["values"]
    frame = pd.read_csv(io.BytesIO(await client.get(path, given, accept=CSV)))
    assert set(frame["status"]) == {"ok", "no_value"}
    assert frame["value"].isna().sum() == 1


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(coinspace, ["query", *arguments])


@pytest.fixture
def on_database(stored: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = address(stored)
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", found.ilp)
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", found.sql)
    monkeypatch.setenv("COINSPACE_STORAGE__READONLY_SQL", found.readonly_sql)
    monkeypatch.setenv("COINSPACE_EXCHANGES", f'{{"upbit":{{"markets":["{MARKET}"]}}}}')


def frames(file: Path) -> tuple[Any, Any]:
    """Return a file as pandas and as polars read it."""
    if file.suffix == ".parquet":
        return pd.read_parquet(file), pl.read_parquet(file)
    frame = pl.read_ipc_stream(file)
    return pa.ipc.open_stream(file.read_bytes()).read_pandas(), frame


@pytest.mark.usefixtures("on_database")
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_arrays_of_sql_become_lists(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"b.{ending}"
    statement = (
        "SELECT ts, bids, asks, bids[1] prices, bids[1, 1] best, (bids + 1)[2] more"
        f" FROM orderbook WHERE market = '{MARKET}' ORDER BY ts, seq"
    )
    done = asked("sql", statement, "--output", str(file))
    assert done.exit_code == 0, done.exception
    pandas, polars = frames(file)
    books = [bids for _, bids, _ in stored_books()]
    matrix = pl.List(VECTOR)
    assert (polars.schema["bids"], polars.schema["asks"]) == (matrix, matrix)
    assert polars["bids"].to_list() == books
    assert polars["asks"][5] is None
    assert polars["prices"].to_list() == [prices for prices, _ in books]
    assert polars["best"].to_list() == [prices[0] for prices, _ in books]
    assert [[list(one) for one in side] for side in pandas["bids"]] == books
    assert pandas["more"][7].tolist() == [size + 1 for size in books[7][1]]


@pytest.mark.usefixtures("on_database")
def test_sql_has_the_same_digits_and_limit_in_every_format(tmp_path: Path) -> None:
    statement = f"SELECT bids, asks, seq FROM orderbook WHERE market = '{MARKET}' ORDER BY ts, seq"
    limit = ("--limit", "40")
    rows = orjson.loads(asked("sql", statement, "--json", *limit).stdout_bytes)["rows"]
    text = asked("sql", statement, "--format", "csv", *limit).stdout
    lines = [
        {"bids": orjson.loads(row["bids"]), "asks": orjson.loads(row["asks"] or "null"),
         "seq": int(row["seq"])}
        for row in csv.DictReader(io.StringIO(text))
    ]  # fmt: skip
    assert lines == rows
    assert len(rows) == 40
    for form in ("arrow", "parquet"):
        file = tmp_path / f"b.{form}"
        asked("sql", statement, "--output", str(file), *limit)
        assert frames(file)[1].to_dicts() == rows


@pytest.mark.usefixtures("on_database")
@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT asks FROM orderbook WHERE market = 'HST/NONE'", VECTOR),
        (f"SELECT asks FROM orderbook WHERE market = '{MARKET}' AND seq = 5", VECTOR),
        (f"SELECT asks FROM orderbook WHERE market = '{MARKET}' AND seq < 7", pl.List(VECTOR)),
        ("SELECT ARRAY[[[1.0], [3.0]]] a FROM long_sequence(2)", pl.List(pl.List(VECTOR))),
    ],
)
def test_arrays_without_a_value_are_no_error(
    tmp_path: Path, statement: str, kind: pl.DataType
) -> None:
    file = tmp_path / "b.parquet"
    done = asked("sql", statement, "--output", str(file))
    assert done.exit_code == 0, done.exception
    assert frames(file)[1].dtypes == [kind]
    for form in ("csv", "json", "table"):
        assert asked("sql", statement, "--format", form).exit_code == 0


@pytest.mark.usefixtures("on_database")
def test_query_books_writes_every_format(tmp_path: Path) -> None:
    span = ("--start", str(START_MS), "--end", str(START_MS + 10_000), "--database")
    file = tmp_path / "books.parquet"
    done = asked("books", f"upbit/{MARKET}", *span, "--levels", "1", "--output", str(file))
    assert done.exit_code == 0, done.exception
    pandas, polars = frames(file)
    assert len(pandas) == len(polars) == BOOKS
    assert polars["bids"].list.get(0).list.get(0).to_list() == [
        bids[0][0] for _, bids, _ in stored_books()
    ]
    one = asked("books", f"upbit/{MARKET}", *span, "--format", "csv", "--limit", "2")
    assert len(one.stdout.splitlines()) == 3
    page = orjson.loads(asked("books", f"upbit/{MARKET}", *span, "--json").stdout_bytes)
    assert len(page["orderbooks"]) == 100


async def test_a_statement_with_only_nulls_asks_for_a_condition(
    stored: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coinspace.endpoint.history import bulk, local
    from coinspace.errors import StorageError
    from coinspace.storage.read import select

    monkeypatch.setattr(select, "UNKNOWN_ROWS", 3)
    monkeypatch.setattr(bulk, "PAGE_ROWS", 2)
    chosen = configured(stored, tmp_path)
    statement = "SELECT CASE WHEN x < 5 THEN null ELSE ARRAY[1.0] END a FROM long_sequence(9)"
    with pytest.raises(StorageError, match=r"a: expected an array .*`a != null`"):
        await asyncio.wait_for(_all(local.select(chosen, statement, CSV, None)), 60)


async def _all(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])
