"""`coinspace record` against the simulated exchanges, and the recordings replayed."""

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from click.testing import CliRunner

from coinspace.collector.commands import books
from coinspace.collector.tools import capture as capture_module
from coinspace.collector.tools.capture import Capture, capture, streams_of
from coinspace.config import load
from coinspace.errors import ConfigError
from coinspace.exchanges import binance
from coinspace.exchanges.exchange import Channel
from coinspace.exchanges.settings import ExchangeSettings
from coinspace.recording.format import FeedReader, Record
from coinspace.recording.frames import label, snapshot_symbol
from coinspace.simulator.playback import Playback
from coinspace.simulator.server import ExchangeServer
from tests.flow.certificates import make_certificates
from tests.flow.platform import environment
from tests.waiting import until

EVERYTHING: tuple[Channel, ...] = ("orderbook", "ticker", "trade")


def settings_of(server: ExchangeServer) -> dict[str, ExchangeSettings]:
    settings = load().exchanges
    for name, urls in server.urls.items():
        settings[name].websocket, settings[name].rest = urls["websocket"], urls["rest"]
    return {name: section for name, section in settings.items() if section.markets}


def recorded(folder: Path, name: str) -> tuple[Path, list[Record]]:
    [path] = folder.glob(f"{name}-2*.feed.zst")
    with FeedReader(path) as reader:
        records = list(reader)
        assert not reader.torn
    return path, records


def kinds(exchange: str, records: list[Record]) -> Counter[str]:
    return Counter(
        found.kinds[0]
        for record in records
        if record.direction == "<" and (found := label(exchange, record.payload)).kinds
    )


Counters = dict[str, int | float]


async def capture_until(
    enough: Callable[[dict[str, Counters]], bool],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, ExchangeSettings],
    folder: Path,
    channels: tuple[Channel, ...],
) -> dict[str, Counters]:
    """Record until a condition on the counters of all recordings is true."""
    made: list[Capture] = []

    class Kept(Capture):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(capture_module, "Capture", Kept)
    stopping = asyncio.Event()
    task = asyncio.create_task(
        capture(settings, folder, channels, stopping, max_bytes=1 << 30, segment_s=3600)
    )

    def counted() -> dict[str, Counters]:
        return {one.name: one.counters() for one in made}

    await until(
        lambda: task.done() or (made and all(counted().values()) and enough(counted())),
        shown=counted,
    )
    stopping.set()
    return await task


async def reached(one: Capture, condition: Callable[[Counters], bool]) -> None:
    await until(lambda: one.counters() and condition(one.counters()), shown=one.counters)


async def test_recording_all_exchanges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def enough(counted: dict[str, Counters]) -> bool:
        books = counted["binance-orderbook"]
        return (
            all(one["frames"] > 10 for one in counted.values())
            and books["snapshots"] == 4
            and books["applied"] > 60
        )

    async with ExchangeServer() as server:
        settings = settings_of(server)
        counters = await capture_until(enough, monkeypatch, settings, tmp_path, EVERYTHING)
    assert len(counters) == 6
    for exchange in ("upbit", "bithumb", "binance"):
        for name in (f"{exchange}-orderbook", f"{exchange}-ticker-trade"):
            _, records = recorded(tmp_path, name)
            counted = counters[name]
            assert counted["frames"] > 10, name
            assert counted["record_dropped"] == counted["record_lost"] == 0
            assert sum(r.direction == "<" for r in records) == counted["frames"]
            marks = [r.mark()["mark"] for r in records if r.direction == "!"]
            assert marks == ["connect", "disconnect"]
    path, records = recorded(tmp_path, "binance-orderbook")
    snapshots = [r for r in records if r.direction == "GET" and "limit=5000" in r.path]
    assert len(snapshots) == counters["binance-orderbook"]["snapshots"] == 4
    assert set(kinds("binance", records)) == {"depth@100ms", "bookTicker"}
    # the recording passes `verify` …
    checked = await asyncio.to_thread(CliRunner().invoke, books, [str(path), "--check", "--quiet"])
    result = orjson.loads(checked.stdout)
    assert checked.exit_code == 0, checked.output
    assert result["matches"] > 20
    # … and can be collected again
    await replay_continues(path)


async def replay_continues(path: Path) -> None:
    source = Playback([path], speed=math.inf, settle_s=0.1)
    async with ExchangeServer(source) as server, aiohttp.ClientSession() as client:
        urls = server.urls["binance"]
        url = f"{urls['websocket']}/ws/ethusdt@depth@100ms"
        async with client.ws_connect(url) as socket:
            depth = f"{urls['rest']}/api/v3/depth?symbol=ETHUSDT&limit=5000"
            async with client.get(depth) as answer:
                last = (await answer.json())["lastUpdateId"]
            applied = 0
            while applied < 10:
                diff = orjson.loads((await socket.receive(timeout=60)).data)
                if diff["u"] > last:
                    assert diff["U"] <= last + 1
                    last, applied = diff["u"], applied + 1


async def test_an_interruption_and_a_gap_are_marked_and_healed(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    async with ExchangeServer() as server:
        one = Capture(
            "binance",
            settings_of(server)["binance"].model_copy(update={"markets": ["BTC/USDT"]}),
            "orderbook",
            ("orderbook",),
            tmp_path,
            stopping,
            max_bytes=1 << 30,
            segment_s=3600,
        )
        task = asyncio.create_task(one.run())
        # without an update the snapshot may be ahead of the stream, and the drop has no effect
        await reached(one, lambda counted: counted["synced"] == 1 and counted["applied"] > 0)
        server.disorder.add("drop:binance:BTCUSDT:count=1")
        await reached(one, lambda counted: counted["resyncs"] == 1 and counted["synced"] == 1)
        for connection in server.all_connections():
            connection.abort()
        await reached(one, lambda counted: counted["connects"] == 2 and counted["synced"] == 1)
        await asyncio.sleep(0.3)
        stopping.set()
        await task
    _, records = recorded(tmp_path, "binance-orderbook")
    marks = [record.mark() for record in records if record.direction == "!"]
    names = [mark["mark"] for mark in marks if mark["mark"] != "connect"]
    assert names == ["gap", "disconnect", "disconnect"]
    assert marks[1]["symbol"] == "BTCUSDT"
    assert marks[1]["found"] > marks[1]["expected"]
    # one snapshot at first, one after each loss
    assert sum("limit=5000" in record.path for record in records) == 3


async def test_a_replaced_connection_leaves_no_gap_in_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two connections overlap, the newer one ahead of the older one; the feed has one order."""
    monkeypatch.setattr(binance, "LIFETIME_S", 601.0)
    stopping = asyncio.Event()
    async with ExchangeServer() as server:
        settings = settings_of(server)["binance"]
        one = Capture(
            "binance",
            settings,
            "orderbook",
            ("orderbook", "top"),
            tmp_path,
            stopping,
            max_bytes=1 << 30,
            segment_s=3600,
        )
        task = asyncio.create_task(one.run())
        await reached(
            one,
            lambda counted: (
                counted["synced"] == 4 and counted["replacements"] >= 2 and counted["applied"] > 60
            ),
        )
        await asyncio.sleep(0.3)
        stopping.set()
        await task
    path, records = recorded(tmp_path, "binance-orderbook")
    marks = [record.mark()["mark"] for record in records if record.direction == "!"]
    assert marks == ["connect", "disconnect"]
    checked = await asyncio.to_thread(CliRunner().invoke, books, [str(path), "--check", "--quiet"])
    assert checked.exit_code == 0, checked.output
    assert orjson.loads(checked.stdout)["matches"] > 20


async def test_each_connection_has_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binance, "STREAMS_PER_CONNECTION", 4)
    async with ExchangeServer() as server:
        counters = await capture_until(
            lambda counted: (
                counted["binance-orderbook"]["synced"] == 4
                and counted["binance-orderbook"]["applied"] > 40
            ),
            monkeypatch,
            {"binance": settings_of(server)["binance"]},
            tmp_path,
            ("orderbook",),
        )
    counted = counters["binance-orderbook"]
    assert (counted["markets"], counted["snapshots"]) == (4, 4)
    symbols: list[str] = []
    for name in ("binance-orderbook", "binance-orderbook2"):
        _, records = recorded(tmp_path, name)
        # two streams a market, and each market's snapshot beside its frames
        theirs = {label("binance", r.payload).symbol.upper() for r in records if r.direction == "<"}
        fetched = {symbol for r in records if (symbol := snapshot_symbol("binance", r))}
        assert len(theirs) == 2
        assert theirs == fetched
        symbols += theirs
    assert sorted(symbols) == ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]


async def test_patterns_over_tls_with_a_private_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca_file, context = make_certificates(tmp_path)
    async with ExchangeServer(tls=context) as server:
        settings = settings_of(server)["upbit"]
        settings.markets, settings.ca_file = ["*/KRW"], ca_file
        await capture_until(
            lambda counted: counted["upbit-trade"]["frames"] > 10,
            monkeypatch,
            {"upbit": settings},
            tmp_path,
            ("trade",),
        )
    _, records = recorded(tmp_path, "upbit-trade")
    symbols = {label("upbit", r.payload).symbol for r in records if r.direction == "<"}
    assert symbols == {f"KRW-{base}" for base in ("BTC", "ETH", "XRP", "SOL", "USDT")}
    assert set(kinds("upbit", records)) == {"trade"}


async def test_a_pattern_that_nothing_matches_is_a_clear_error(tmp_path: Path) -> None:
    async with ExchangeServer() as server:
        settings = settings_of(server)["upbit"]
        settings.markets = ["*/JPY"]
        with pytest.raises(ConfigError, match="expected markets that upbit offers"):
            await capture(
                {"upbit": settings},
                tmp_path,
                EVERYTHING,
                asyncio.Event(),
                max_bytes=1 << 30,
                segment_s=3600,
            )


async def test_the_command_takes_patterns(tmp_path: Path) -> None:
    async with ExchangeServer() as server:
        urls = server.urls["bithumb"]
        env = environment(tmp_path, 1) | {
            "COINSPACE_EXCHANGES__BITHUMB__WEBSOCKET": urls["websocket"],
            "COINSPACE_EXCHANGES__BITHUMB__REST": urls["rest"],
        }
        options = ["--exchange", "bithumb", "--market", "*/KRW", "--duration", "6"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "coinspace", "record", "--channel", "orderbook", *options),
            env=env,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    counters = orjson.loads(output)["bithumb-orderbook"]
    assert counters["markets"] == 5
    _, records = recorded(tmp_path / "archive", "bithumb-orderbook")
    assert sum(r.direction == "<" for r in records) == counters["frames"] > 10


def test_channels_are_sorted_into_streams() -> None:
    assert streams_of(["trade"]) == {"ticker": ("trade",)}
    assert streams_of(["trade", "orderbook", "ticker"]) == {
        "orderbook": ("orderbook", "top"),
        "ticker": ("ticker", "trade"),
    }
