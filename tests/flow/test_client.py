"""The Python client and `coinspace query` against a real endpoint."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from coinspace.cli import coinspace
from coinspace.client import ApiError, AsyncClient, Client, ConnectionLost
from coinspace.client.events import EventParser
from coinspace.client.table import Table
from coinspace.config import Settings
from coinspace.endpoint.worker import Endpoint
from coinspace.errors import CoinSpaceError, EndpointError, StorageError
from coinspace.listing import columns, text_of
from coinspace.query import LISTS, _all_rows
from coinspace.storage.questdb.address import address
from tests.flow.endpoint_stage import Stage, running, served, settings
from tests.flow.stored_history import ASSET, START_MS, history_site, store_history
from tests.waiting import free_port, until


def test_synchronous_client(tmp_path: Path) -> None:
    with served(tmp_path) as url, Client(url) as client:
        assert client.index("BTC")["asset"] == "BTC"
        assert len(client.indices()) == 4
        with pytest.raises(ApiError) as refused:
            client.index("DOGE")
        assert (refused.value.status, refused.value.kind) == (404, "unknown-asset")
        events = client.stream(indices=["BTC"])
        values = [next(events).data["value"] for _ in range(5)]
        assert len(set(values)) == 5
        events.close()  # type: ignore[attr-defined]
    with Client(url, timeout_s=2) as gone, pytest.raises(ConnectionLost):
        gone.index("BTC")


# routes for people, streams, and those that only a monitor asks
WITHOUT_METHOD = {"/", "/docs", "/openapi.json", "/metrics", "/livez", "/v1/stream", "/v1/ws"}
CALLS: list[Callable[[Client], Any]] = [
    lambda client: client.index("btc"),
    lambda client: client.indices(),
    lambda client: client.premium("BTC", size=1),
    lambda client: client.premiums(min=-1, sort="asset"),
    lambda client: client.premiums("BTC", spark=True, basis="coin", search="b", limit=1),
    lambda client: client.premium_stats("usdt"),
    lambda client: client.premium_stats("BTC"),
    lambda client: client.premium_values("BTC"),
    lambda client: client.premium_ohlc("BTC", "1h", basis="fiat"),
    lambda client: client.assets(),
    lambda client: client.markets("upbit", quote="KRW"),
    lambda client: client.explain("BTC"),
    lambda client: client.orderbook("BTC", levels=1, within=1),
    lambda client: client.orderbook("upbit", "BTC/KRW"),
    lambda client: client.orderbooks("upbit", "BTC/KRW"),
    lambda client: client.values("BTC"),
    lambda client: client.ohlc("BTC"),
    lambda client: client.trades("upbit"),
    lambda client: client.tickers("upbit", "BTC/KRW"),
    lambda client: client.venues(),
    lambda client: client.gaps("upbit"),
    lambda client: client.usd_krw(),
    lambda client: client.quotations("dunamu"),
    lambda client: client.methodology(),
    lambda client: client.pipeline(),
    lambda client: client.ready(),
]


def test_every_route_has_a_method_with_a_readable_answer(
    questdb: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    chunks = AsyncClient.chunks

    def listening(self: AsyncClient, path: str, *args: Any, **more: Any) -> Any:
        asked.append(path)
        return chunks(self, path, *args, **more)

    monkeypatch.setattr(AsyncClient, "chunks", listening)
    with served(tmp_path, questdb=questdb) as url, Client(url) as client:
        assert repr(client) == f"<Client {url}>"
        for call in CALLS:
            answer = call(client)
            assert " object at 0x" not in repr(answer)
            assert len(repr(answer)) < 5000
            assert answer._repr_html_()
            frames = answer.to_pandas(), answer.to_polars()
            assert len({len(frame) for frame in frames}) == 1
        documented = client.json("/openapi.json")["paths"]
    patterns = {
        path: re.compile(re.sub(r"{\w+}", "[^/]+", path))
        for path in documented.keys() - WITHOUT_METHOD
    }
    missing = [path for path, one in patterns.items() if not any(map(one.fullmatch, asked))]
    assert not missing


async def test_stream_resumes_without_a_gap_after_a_cut(tmp_path: Path) -> None:
    async with (
        running(settings(tmp_path)) as (stage, endpoint),
        AsyncClient(endpoint.server.url) as client,
    ):
        events = client.stream(indices=["BTC"])
        await anext(events)
        stage.publish_index("BTC", 1.5)
        while (await anext(events)).data["value"] != "1.5":
            pass
        for stream in tuple(endpoint.hub.clients):
            stream.connection.transport.abort()
        await until(lambda: not endpoint.hub.clients)
        for value in (2.5, 3.5, 4.5):
            stage.publish_index("BTC", value)
        async with asyncio.timeout(60):
            found = [await anext(events) for _ in range(3)]
        assert [(one.name, one.data["value"]) for one in found] == [
            ("index", "2.5"),
            ("index", "3.5"),
            ("index", "4.5"),
        ]
        assert endpoint.hub.resumed == 1
        await events.aclose()  # type: ignore[attr-defined]


async def test_stream_goes_on_when_the_endpoint_restarts(tmp_path: Path) -> None:
    # the second endpoint listens where the first one did
    chosen = settings(tmp_path, port=free_port())
    stage = Stage(chosen)
    first = Endpoint(chosen)
    await first.start()
    second = None
    try:
        await stage.heard_by(first)
        async with AsyncClient(first.server.url) as client:
            events = client.stream(indices=["BTC"])
            assert (await anext(events)).name == "index"
            reading = asyncio.create_task(_until_gap(events))
            await asyncio.sleep(0.05)
            await first.stop()
            second = Endpoint(chosen)
            await second.start()
            async with asyncio.timeout(60):
                while not reading.done():
                    stage.publish_index("BTC", 555.5)
                    await asyncio.wait([reading], timeout=0.1)
            # values may still have been on their way
            names = list(itertools.dropwhile(lambda name: name == "index", reading.result()))
            assert names[0] == "shutdown"
            assert names[-2:] == ["gap", "index"]
            await events.aclose()  # type: ignore[attr-defined]
    finally:
        if second is not None:
            await second.stop()
        stage.close()


async def _until_gap(events: Any) -> list[str]:
    names: list[str] = []
    async for event in events:
        names.append(event.name)
        if names[-2:] == ["gap", "index"]:
            return names
    return names


def test_events_are_complete_for_any_split_of_the_bytes() -> None:
    data = (
        b'retry: 250\n\nid: a-1\nevent: index\ndata: {"v":1}\n\n: note\n\nevent: gap\ndata: {}\n\n'
    )
    for size in (1, 2, 3, 7, len(data)):
        parser = EventParser()
        found = [
            event
            for start in range(0, len(data), size)
            for event in parser.feed(data[start : start + size])
        ]
        assert [(one.name, one.id, one.data) for one in found] == [
            ("index", "a-1", {"v": 1}),
            ("gap", "", {}),
        ]
        assert parser.retry_s == 0.25


def test_times_need_a_time_zone() -> None:
    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ValueError, match="with a zone"):
            client.values("BTC", start=datetime(2026, 1, 1))
        with pytest.raises(ConnectionLost):
            client.values("BTC", start=datetime(2026, 1, 1, tzinfo=UTC))


RANGE: Any = {"start": START_MS, "end": START_MS + 80_000}


@pytest_asyncio.fixture
async def history_url(questdb: Settings, tmp_path: Path) -> AsyncIterator[str]:
    stored = await asyncio.to_thread(store_history, questdb)
    async with history_site(stored, tmp_path) as (endpoint, _):
        yield endpoint.server.url


async def test_candles_become_arrow_pandas_and_polars(history_url: str) -> None:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    async with AsyncClient(history_url) as client:
        table = await client.ohlc(ASSET, "1s", **RANGE)
    arrow = table.to_arrow()
    assert arrow.schema.field("ts").type == pa.timestamp("ms", tz="UTC")
    assert arrow.schema.field("close").type == pa.float64()
    assert arrow.schema.field("ticks").type == pa.int64()
    assert len(table) == arrow.num_rows == 80
    first = datetime.fromtimestamp(START_MS / 1000, UTC)
    frame = table.to_pandas()
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert frame.index[0] == first
    assert frame["close"].iloc[9] == 1009.0
    # a gap is not a number, and not the candle before it
    assert frame["close"].iloc[60:70].isna().all()
    assert frame["close"].notna().sum() == 69
    lazy = table.to_polars()
    assert lazy.schema["ts"] == pl.Datetime("ms", "UTC")
    assert lazy["close"].null_count() == 11
    assert lazy["close"].to_list()[9] == 1009.0
    assert lazy["ts"][0] == first
    rows = table.to_pylist()
    assert rows[0]["ts"] == first
    assert rows[65]["close"] is None


async def test_values_and_trades_become_tables(history_url: str) -> None:
    async with AsyncClient(history_url) as client:
        values = (await client.values(ASSET, **RANGE)).to_pandas()
        assert values["reason"].iloc[10] == "too_few_venues"
        assert values["value"].isna().sum() == 1
        assert len(values) == 70
        trades = (await client.trades("upbit", "HST/KRW", **RANGE)).to_polars()
        assert trades["size"].to_list() == [0.00001] * 25
        assert trades["side"].unique().to_list() == ["sell"]
        whole = [part async for part in client.chunks("/v1/trades", RANGE, accept="text/csv")]
        assert b"".join(whole).count(b"HST/KRW") == 50

    def synchronous() -> int:
        with Client(history_url) as client:
            return len(client.ohlc(ASSET, "1m", **RANGE))

    assert await asyncio.to_thread(synchronous) == 2


@pytest.mark.parametrize(
    ("module", "call"), [("pandas", "to_pandas"), ("polars", "to_polars"), ("pyarrow", "to_arrow")]
)
def test_a_missing_library_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, module: str, call: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CoinSpaceError, match=rf"`pip install {module}( pyarrow)?`"):
        getattr(Table(b""), call)()


def asked(*arguments: str) -> Result:
    return CliRunner().invoke(coinspace, ["query", *arguments])


@pytest.fixture
def on_database(questdb: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a command line that has a database and no endpoint."""
    found = address(store_history(questdb))
    monkeypatch.setenv("COINSPACE_DATA", str(tmp_path))
    monkeypatch.setenv("COINSPACE_STORAGE__ILP", found.ilp)
    monkeypatch.setenv("COINSPACE_STORAGE__SQL", found.sql)
    monkeypatch.setenv("COINSPACE_STORAGE__READONLY_SQL", found.readonly_sql)
    monkeypatch.setenv("COINSPACE_INDEX__ASSETS", f'["{ASSET}"]')
    markets = '{"upbit":{"markets":["HST/KRW"]},"bithumb":{"markets":["HST/KRW"]}}'
    monkeypatch.setenv("COINSPACE_EXCHANGES", markets)


SPAN = ("--start", str(START_MS), "--end", str(START_MS + 80_000))


@pytest.mark.usefixtures("on_database")
def test_query_reads_the_database_without_an_endpoint(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = asked("ohlc", ASSET, "--database", "--interval", "1s", *SPAN)
    assert table.exit_code == 0, table.output
    assert "2026-01-01T00:00:09.000Z" in table.output
    assert "1009" in table.output
    page = orjson.loads(asked("values", ASSET, "--database", "--json", *SPAN).stdout_bytes)
    assert len(page["values"]) == 70
    lines = asked("trades", "--database", "--market", "HST/KRW", "--format", "csv", *SPAN).output
    assert len(lines.splitlines()) == 51
    file = tmp_path / "values.parquet"
    written = asked("values", ASSET, "--database", "--output", str(file), *SPAN)
    assert written.exit_code == 0, written.output
    assert pq.read_table(file).num_rows == 70
    assert [one.name for one in tmp_path.iterdir() if "part" in one.name] == []
    answer = orjson.loads(
        asked("explain", ASSET, "--database", "--json", "--ts", str(START_MS)).stdout_bytes
    )
    assert answer["index"]["value"] == "1000"
    for arguments, text in (
        (["index", ASSET], "expected one of values"),
        (["orderbook", "upbit/HST/KRW"], "expected --at"),
        (["values", "DOGE"], "expected one of HST"),
    ):
        failed = asked(*arguments, "--database")
        assert isinstance(failed.exception, EndpointError)
        assert text in str(failed.exception)


@pytest.mark.usefixtures("on_database")
@pytest.mark.parametrize("form", ["table", "json", "csv", "arrow", "parquet"])
def test_query_sql_in_every_format(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    statement = (
        "SELECT ts, asset, value, n_used, depth_limited FROM index_tick"
        f" WHERE asset = '{ASSET}' ORDER BY ts LIMIT 20"
    )
    file = tmp_path / "rows"
    done = asked("sql", statement, "--format", form, "--output", str(file))
    assert done.exit_code == 0, done.exception
    first = datetime.fromtimestamp(START_MS / 1000, UTC)
    if form in ("arrow", "parquet"):
        found = pa.ipc.open_stream(file.read_bytes()).read_all() if form == "arrow" else None
        found = pq.read_table(file) if found is None else found
        assert found.column_names == ["ts", "asset", "value", "n_used", "depth_limited"]
        assert found["ts"][0].as_py() == first
        assert found["value"].to_pylist()[9:11] == [1009.0, None]
        assert found["n_used"].type == pa.int64()
    elif form == "json":
        body = orjson.loads(file.read_bytes())
        assert len(body["rows"]) == 20
        assert body["rows"][9]["value"] == 1009.0
    else:
        text = file.read_text()
        assert "1009" in text
        assert len([line for line in text.splitlines() if ASSET in line]) == 20


@pytest.mark.usefixtures("on_database")
def test_query_sql_cannot_write_and_shows_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = asked("sql", "SELECT * FROM index_tick", "--limit", "3", "--json")
    assert orjson.loads(cut.stdout_bytes)["more"] is True
    for statement, text in (
        ("DROP TABLE index_tick", "a statement that reads"),
        ("SELECT * FROM glob('/')", "functions of tables and values"),
        ("SELEC 1", "sql: "),
        ("SELECT * FROM no_such_table", "does not exist|no such table"),
    ):
        failed = asked("sql", statement)
        assert isinstance(failed.exception, StorageError), failed.output
        assert re.search(text, str(failed.exception), re.IGNORECASE), failed.exception
    monkeypatch.delenv("COINSPACE_STORAGE__READONLY_SQL")
    failed = asked("sql", "SELECT 1")
    assert "readonly_sql" in str(failed.exception)
    monkeypatch.setenv("COINSPACE_STORAGE__READONLY_SQL", "postgresql://a:b@127.0.0.1:1/qdb")
    failed = asked("sql", "SELECT 1")
    assert "cannot be read" in str(failed.exception)
    assert "a:b" not in str(failed.exception)


def test_query_prints_tables_and_json(tmp_path: Path) -> None:
    run = CliRunner()
    with served(tmp_path) as url:
        table = run.invoke(coinspace, ["query", "index", "BTC", "--url", url])
        assert table.exit_code == 0, table.output
        assert "upbit:BTC/KRW" in table.output
        plain = run.invoke(coinspace, ["query", "indices", "--json", "--url", url])
        assert '"asset": "ETH"' in plain.output
        for arguments, text in (
            (["index"], "expected an asset"),
            (["venues", "BTC"], "expected no subject"),
            (["index", "BTC", "--levels", "5"], "--levels is not an option"),
            (["values", "BTC", "--start", "yesterday"], "--start: expected epoch"),
            (["explain", "BTC", "--format", "parquet"], "expected table or json"),
        ):
            failed = run.invoke(coinspace, ["query", *arguments, "--url", url])
            assert isinstance(failed.exception, EndpointError)
            assert text in str(failed.exception)
        refused = run.invoke(coinspace, ["query", "index", "DOGE", "--url", url])
        assert isinstance(refused.exception, ApiError)


# query -> what its table must show; the stage publishes these values
SHOWN = {
    ("indices",): ["BTC", "100004.45"],
    ("index", "ETH"): ["100004.45", "kr.value", "140006230", "premium.coin", "0.0000145"],
    ("premium", "ETH"): ["premium.coin", "0.0000145", "kr.value", "premium.executable"],
    ("premiums",): ["BTC", "0.0000145"],
    ("premium-stats", "ETH"): ["coin.premium", "0.0000145", "coin.windows", "24h"],
    ("assets",): ["BTC", "ok"],
    ("markets", "--exchange", "upbit"): ["upbit:BTC/KRW", "synced"],
    ("orderbook", "BTC"): ["bid size", "100000", "ask size", "depth"],
    ("orderbook", "upbit/BTC/KRW"): ["bid size", "139990000", "0.00000001"],
    ("explain", "ETH"): ["index.value", "used"],
    ("methodology",): ["interval_ms", "definitions"],
    ("venues",): ["upbit:BTC/KRW"],
    ("tickers",): ["140000000"],
    ("trades",): ["0.0001"],
    ("pipeline",): ["processes"],
}


def test_tables_fit_every_terminal_and_show_nested_numbers(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        for words, shown in SHOWN.items():
            done = asked(*words, "--json", "--url", url)
            assert done.exit_code == 0, done.exception
            body = orjson.loads(done.stdout_bytes)
            for width in (20, 40, 80, 100, None):
                text = text_of(body, width)
                assert text
                if width is not None:
                    assert max(map(columns, text.splitlines())) <= width, (words, width)
                if width is None or width >= 40:
                    assert [one for one in shown if one not in text] == [], (words, width)
            # a pipe has every column
            assert "not shown" not in text_of(body, None)
            piped = asked(*words, "--url", url).stdout
            assert "…" not in piped
            assert "not shown" not in piped


@pytest.mark.parametrize("width", [40, 100])
def test_a_table_on_a_terminal(tmp_path: Path, width: int) -> None:
    with served(tmp_path) as url:
        text = on_terminal(["query", "indices", "--url", url], width, {"TERM": "dumb"})
    lines = text.splitlines()
    assert any("100004.45" in line for line in lines), text
    assert max(map(columns, lines)) <= width
    assert "\x1b" not in text


def test_a_terminal_without_utf8_and_colour(tmp_path: Path) -> None:
    more = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "60"}
    with served(tmp_path) as url:
        for command in (
            ["query", "orderbook", "BTC", "--url", url],
            ["query", "venues", "--url", url],
            ["status"],
            ["doctor"],
            ["--help"],
            ["top", "--once", "--interval", "0.01"],
        ):
            text = on_terminal(command, 60, {**more, "COINSPACE_DATA": str(tmp_path)})
            assert text.isascii(), text
            assert "\x1b" not in text
            assert "Traceback" not in text


def on_terminal(command: list[str], width: int, environment: dict[str, str]) -> str:
    """Run a command on a terminal of its own, and return what it wrote there."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: one for name, one in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "coinspace", *command],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**kept, **environment},
    )
    os.close(inner)
    parts = []
    try:
        while part := os.read(outer, 65_536):
            parts.append(part)
    except OSError:
        # the other end is closed
        pass
    finally:
        os.close(outer)
        process.wait(60)
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_premiums_on_a_terminal_and_through_a_pipe(tmp_path: Path) -> None:
    with served(tmp_path) as url:
        for width in (40, 80):
            text = on_terminal(["premium", "--url", url], width, {"TERM": "dumb"})
            lines = text.splitlines()
            assert max(map(len, lines)) <= width
            assert [line.split()[0] for line in lines] == ["asset", "BTC", "ETH", "XRP", "SOL"]
            assert "\x1b" not in text
        piped = CliRunner().invoke(coinspace, ["premium", "eth", "--url", url])
        assert [line.split()[0] for line in piped.stdout.splitlines()] == ["asset", "ETH"]
        refused = CliRunner().invoke(coinspace, ["premium", "NONE", "--url", url])
        assert isinstance(refused.exception, ApiError)
        watching = subprocess.Popen(
            [sys.executable, "-m", "coinspace", "premium", "--watch", "--url", url],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert watching.stdout is not None
            seen = [watching.stdout.readline().split("\t") for _ in range(4)]
        finally:
            watching.terminate()
            watching.communicate(timeout=60)
        assert {line[1] for line in seen} == {"BTC", "ETH", "SOL", "XRP"}
        assert {line[2] for line in seen} == {"+0.0014"}


@pytest.mark.parametrize(
    "what", ["indices", "tickers", "venues", "pipeline", "premiums", "assets", "markets"]
)
def test_lists_come_in_every_format(tmp_path: Path, what: str) -> None:
    import polars as pl

    with served(tmp_path) as url:
        count = len(orjson.loads(asked(what, "--json", "--url", url).stdout_bytes)[LISTS[what]])
        text = asked(what, "--format", "csv", "--url", url)
        assert text.exit_code == 0, text.exception
        assert len(text.stdout.splitlines()) == 1 + count
        for ending, read in (("parquet", pl.read_parquet), ("arrow", pl.read_ipc_stream)):
            file = tmp_path / f"list.{ending}"
            assert asked(what, "--output", str(file), "--url", url).exit_code == 0
            assert len(read(file)) == count


@pytest.mark.usefixtures("on_database")
def test_gaps_come_whole_as_csv() -> None:
    question = ("gaps", "--database", "--market", "HST/KRW", "--format", "csv", *SPAN)
    whole = asked(*question)
    assert whole.exit_code == 0, whole.exception
    assert len(whole.stdout.splitlines()) == 1 + 7
    few = asked(*question, "--limit", "2")
    assert len(few.stdout.splitlines()) == 1 + 2


def test_every_page_of_a_list_is_read_once() -> None:
    pages = {None: ([1, 2], "/v1/gaps?start=1&cursor=a"), "a": ([3], None)}

    def ask(given: dict[str, Any]) -> Iterator[bytes]:
        rows, following = pages[given.get("cursor")]
        yield orjson.dumps({"gaps": [{"first": one} for one in rows], "next": following})

    assert [one["first"] for one in _all_rows("gaps", {}, ask)] == [1, 2, 3]
    assert [one["first"] for one in _all_rows("gaps", {"limit": 2}, ask)] == [1, 2]
