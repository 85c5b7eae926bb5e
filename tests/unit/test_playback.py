"""The REST answers of a replay: the state at its position, with or without clients."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.errors import FeedError
from coinspace.exchanges import bithumb
from coinspace.exchanges.exchange import Label
from coinspace.recording.format import FeedReader, FeedWriter, Record
from coinspace.simulator import playback
from coinspace.simulator.commands import serve
from coinspace.simulator.playback import RUNS_LIMIT, Playback, Playing
from coinspace.simulator.server import ExchangeServer
from tests.waiting import until

SECOND = 10**9
DIFF = (
    b'{"stream":"btcusdt@depth@100ms","data":{"e":"depthUpdate","s":"BTCUSDT","U":%d,"u":%d,'
    b'"b":[["%d.0","1.0"]],"a":[]}}'
)
TRADE = b'{"stream":"btcusdt@trade","data":{"t":%d,"p":"1","q":"1","T":1,"m":true}}'
BOOK = b'{"ty":"orderbook","cd":"KRW-BTC","tms":%d,"obu":[]}'
DEPTH = {"symbol": "BTCUSDT", "limit": "5000"}
KEY = ("binance", frozenset({("depth@100ms", "btcusdt")}))


def snapshot(update_id: int) -> bytes:
    levels = [[f"{price}.0", "1.0"] for price in range(update_id, 0, -1)]
    return orjson.dumps({"lastUpdateId": update_id, "bids": levels, "asks": []})


@pytest.fixture
def feeds(tmp_path: Path) -> list[Path]:
    """Update n and trade n come at second n; snapshots at 1 and 50, an error at 30."""
    paths = [tmp_path / "binance.feed.zst", tmp_path / "upbit.feed.zst"]
    path = "/api/v3/depth?symbol=BTCUSDT&limit=5000"
    with FeedWriter(paths[0], {"exchange": "binance"}) as writer:
        writer.write(SECOND, "GET", path, snapshot(1))
        for n in range(2, 101):
            writer.write(n * SECOND, "<", "", DIFF % (n, n, n))
            writer.write(n * SECOND, "<", "", TRADE % n)
            if n == 30:
                writer.write(n * SECOND, "GET", path, b'{"code":-1003,"msg":"too many"}')
                writer.write(n * SECOND, "<", "", b'{"stream":"btcusdt@depth@100ms","data":{"u":')
            if n == 50:
                writer.write(n * SECOND, "GET", path, snapshot(n))
    with FeedWriter(paths[1], {"exchange": "upbit"}) as writer:
        for n in range(1, 101):
            writer.write(n * SECOND, "<", "", BOOK % n)
    return paths


async def asked(source: Playback, query: dict[str, str] = DEPTH) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(
        (await source.rest("binance", "/api/v3/depth", query)).body
    )
    return found


async def test_after_all_clients_left_the_book_is_that_of_the_position(feeds: list[Path]) -> None:
    source = Playback(feeds)
    playing = source._playing[KEY] = Playing(source, ("binance",), KEY)
    playing.pending.clear()
    for position, last in ((1, 1), (2, 2), (21, 11), (61, 30), (99, 49), (102, 50), (202, 100)):
        playing.position = position
        book = await asked(source)
        assert book["lastUpdateId"] == last, position
        assert len(book["bids"]) == last
    await source.stop()


async def test_another_subscription_does_not_change_the_answer(feeds: list[Path]) -> None:
    source = Playback(feeds)
    playing = source._playing[KEY] = Playing(source, ("binance",), KEY)
    playing.pending.clear()
    playing.position = 21
    trades = ("binance", frozenset({("trade", "btcusdt")}))
    source._playing[trades] = Playing(source, ("binance",), trades)
    assert (await asked(source))["lastUpdateId"] == 11
    await source.stop()


@pytest.mark.parametrize(("start_s", "last"), [(20, 19), (45, 50), (51, 50), (90, 89)])
async def test_after_a_seek_no_older_state_is_answered(
    feeds: list[Path], start_s: int, last: int
) -> None:
    source = Playback(feeds, start_ns=start_s * SECOND)
    if start_s < 50:
        # a later recorded snapshot is correct: its updates wait for it
        assert (await asked(source))["lastUpdateId"] == 50
        source = Playback(feeds[:1], start_ns=start_s * SECOND, end_ns=49 * SECOND)
        last = start_s - 1
    assert (await asked(source))["lastUpdateId"] == last
    answer = await Playback(feeds, start_ns=start_s * SECOND).rest(
        "upbit", "/v1/orderbook", {"markets": "KRW-BTC"}
    )
    assert [row["timestamp"] for row in orjson.loads(answer.body)] == [start_s - 1]
    answer = await source.rest("binance", "/api/v3/trades", {"symbol": "BTCUSDT", "limit": "1"})
    assert [row["id"] for row in orjson.loads(answer.body)] == [start_s - 1]
    await source.stop()


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "x"}),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "9" * 5000}),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "²"}),
        ("/api/v3/exchangeInfo", {"symbols": "["}),
        ("/api/v3/exchangeInfo", {"symbols": '[{"a":1}]'}),
        ("/api/v3/trades", {"symbol": "BTCUSDT", "limit": "-1", "fromId": "x"}),
        ("/v1/trades/ticks", {"market": "KRW-BTC", "count": "x", "cursor": "y"}),
    ],
)
async def test_no_query_causes_a_server_error(
    feeds: list[Path], path: str, query: dict[str, str]
) -> None:
    exchange = "binance" if path.startswith("/api") else "upbit"
    answer = await Playback(feeds).rest(exchange, path, query)
    assert answer.status in (200, 400, 404)


async def test_many_late_requests_read_the_recording_once(
    feeds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Playback(feeds[:1])
    playing = source._playing[KEY] = Playing(source, ("binance",), KEY)
    playing.pending.clear()
    read = 0
    whole = FeedReader.__iter__

    def counted(reader: FeedReader) -> Iterator[Record]:
        nonlocal read
        for record in whole(reader):
            read += 1
            yield record

    monkeypatch.setattr(FeedReader, "__iter__", counted)
    for position in range(1, 203):
        playing.position = position
        for _ in range(3):
            await asked(source)
            await asked(source, {"symbol": "NOPEUSDT", "limit": "5"})
    with FeedReader(feeds[0]) as reader:
        records = sum(1 for _ in whole(reader))
    assert read <= records
    # many requests at once each get the book
    playing.position = 202
    books = await asyncio.gather(*(asked(source) for _ in range(20)))
    assert {book["lastUpdateId"] for book in books} == {100}
    await source.stop()


async def test_the_sets_of_played_subscriptions_are_bounded(feeds: list[Path]) -> None:
    source = Playback(feeds)
    for number in range(RUNS_LIMIT):
        key = ("binance", frozenset({("trade", f"x{number}")}))
        source._playing[key] = Playing(source, ("binance",), key)
    assert not source._has_room()
    # a finished run makes room
    source._playing[key].finished = True
    assert source._has_room()
    assert len(source._playing) == RUNS_LIMIT - 1


@pytest.mark.parametrize(
    ("work", "ends"), [("market", True), ("playing", True), ("fault", False), ("connection", False)]
)
async def test_a_server_ends_when_its_source_fails(work: str, ends: bool) -> None:
    async def fail() -> None:
        raise FeedError("the recording cannot be read on")

    server = ExchangeServer()
    serving = asyncio.ensure_future(serve(server, 60 if ends else 3))
    await until(lambda: server.tasks.names)
    server.tasks.spawn(work, fail())
    if ends:
        with pytest.raises(FeedError, match="cannot be read on"):
            await serving
    else:
        await serving
    assert server.counters["task_failures"] == 1


def test_frames_of_ever_new_symbols_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "KEPT_BYTES", 20_000)
    newest = playback.Newest()
    for number in range(1000):
        for kind in ("depth", "trade"):
            newest.keep(Label((kind,), f"S{number}", False), b"x" * 1000)
    kept = len(newest.last) * 1000 + sum(map(len, newest.trades.values())) * 1000
    assert 5_000 < kept <= newest.size <= 20_000
    # a symbol that is known is kept up to date
    newest.keep(Label(("depth",), "S0", False), b"y" * 1000)
    assert newest.last["depth", "S0"] == b"y" * 1000


async def test_recorded_facts_are_answered_at_their_place(tmp_path: Path) -> None:
    wallets = bithumb.FACTS[1].request.path
    feed = tmp_path / "bithumb.feed.zst"
    with FeedWriter(feed, {"exchange": "bithumb"}) as writer:
        for n, states in ((1, b"[1]"), (2, b"[2]")):
            writer.write(n * SECOND, "<", "", BOOK % n)
            writer.write(n * SECOND, "GET", wallets, states)
    source = Playback([feed])
    # nothing is known before, and a recording without these answers says nothing
    assert (await source.rest("bithumb", wallets, {})).status == 404
    playing = source._playing[None] = Playing(source, ("bithumb",))
    found = []
    for reader in source.readers(("bithumb",)):
        for record in reader:
            await playing._play("bithumb", record)
            found.append((await source.rest("bithumb", wallets, {})).body)
        reader.close()
    assert found == [b"{}", b"[1]", b"[1]", b"[2]"]
    assert (await source.rest("bithumb", "/v1/notices", {"count": "20"})).status == 404


def test_the_newest_trades_of_a_symbol_take_the_place_of_older_ones() -> None:
    newest = playback.Newest()
    for number in range(1000):
        newest.keep(Label(("trade",), "S", False), b"%d" % number)
    assert list(newest.trades["S"]) == [b"%d" % one for one in range(500, 1000)]
    assert newest.size == 3 * 500 + 3 + playback.ENTRY_BYTES
