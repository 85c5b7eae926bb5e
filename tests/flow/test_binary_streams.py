"""The binary streams of a simulated exchange: books, trades, a refused key, odd frames, replay."""

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import structlog

from benchmarks.frames import frames
from coinspace.collector.tools.capture import capture
from coinspace.config import load
from coinspace.exchanges import exchange as exchange_named
from coinspace.recording.format import FeedReader
from coinspace.recording.frames import RecordedBooks
from coinspace.simulator.connection import BINARY, TEXT, encode_frame
from coinspace.simulator.playback import Playback
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.session import SIMULATED_KEY
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import Collecting, Truth, collecting
from tests.waiting import until

MARKETS = ["BTC/USDT", "ETH/USDT"]
SYMBOLS = {"BTCUSDT": "BTC/USDT", "ETHUSDT": "ETH/USDT"}
SBE: dict[str, Any] = {"format": "sbe", "api_key": SIMULATED_KEY}


def simulated() -> ExchangeServer:
    return ExchangeServer(Simulation(5, {"binance": MARKETS}), limits=False)


async def test_books_are_right_and_a_revoked_key_leads_to_json() -> None:
    with structlog.testing.capture_logs() as logs:
        async with (
            simulated() as server,
            collecting(server, "binance", **SBE, markets=MARKETS) as c,
        ):
            truth = Truth(c, SYMBOLS)
            watching = asyncio.create_task(truth.watch())
            try:
                await c.synced()
                await binary_then_json(c, server)
            finally:
                watching.cancel()
            assert truth.check() > 10
    refused = [line for line in logs if "API key" in line["event"]]
    assert len(refused) == 1
    assert refused[0]["reason"] == "API key refused: HTTP 401"
    assert SIMULATED_KEY not in repr(logs)


async def binary_then_json(c: Collecting, server: ExchangeServer) -> None:
    applied = c.count("applied")
    await c.until(lambda: c.count("applied") > applied + 60, "binary updates")
    assert all(one.session.is_binary for one in server.connections["binance"])
    # parts of a message keep its opcode
    split = c.fault("split:binance:n=3")
    await c.until(lambda: split.hits > 5, "messages in parts")
    server.disorder.clear()
    assert not c.count("malformed")
    await odd_frames(c, server)
    c.fault("revoke:binance")
    await c.until(lambda: c.count("keys_refused"), "the refused key")
    await c.synced()
    applied = c.count("applied")
    await c.until(lambda: c.count("applied") > applied + 20, "updates in JSON")
    assert not any(one.session.is_binary for one in server.connections["binance"])


async def odd_frames(c: Collecting, server: ExchangeServer) -> None:
    """Send frames whose opcode does not fit; the opcode decides, and the books stay right."""
    (connection,) = server.connections["binance"]
    diff, text = frames("binance-sbe-diff", 1)[0], frames("binance-diff", 1)[0]
    connection.write(encode_frame(TEXT, diff) + encode_frame(BINARY, text))
    connection.write(encode_frame(TEXT, b'{"result":null,"id":1}'))
    await c.until(lambda: c.count("acks"), "the acknowledgement")
    # binary content as text is no JSON; JSON as binary is of an unknown schema
    assert c.count("malformed") == 1
    assert c.count('frames_refused{reason="schema"}') == 1
    assert set(c.states.values()) == {"synced"}


@pytest.mark.parametrize("key", [SIMULATED_KEY, "another-key"])
async def test_trades_and_tickers(key: str) -> None:
    options = {**SBE, "api_key": key}
    async with (
        simulated() as server,
        collecting(server, "binance", "ticker", markets=MARKETS, **options) as c,
    ):
        await c.synced()
        await c.until(
            lambda: c.count("trades") > 5 and c.count("tickers") > 2, "trades and tickers"
        )
        binary = [one.session.is_binary for one in server.connections["binance"]]
        assert sorted(binary) == [False, key == SIMULATED_KEY]
        assert c.count("keys_refused") == (key != SIMULATED_KEY)
        assert not c.count("malformed")
        ids = [message.id for message in c.trades("BTC/USDT")]
        assert ids == list(range(ids[0], ids[-1] + 1))
        # the end of the connection for tickers changes no state, and it is opened again
        (tickers,) = c.worker.connections[1].links
        number = tickers.number
        for one in server.connections["binance"]:
            if any(kind == "ticker" for kind, _ in one.session.subscription):
                one.reset()
        await c.until(
            lambda: any(link.number > number for link in c.worker.connections[1].links),
            "another connection for tickers",
        )
        assert set(c.states.values()) == {"synced"}


def recordings(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.feed.zst"))


async def test_a_recording_is_played_to_a_client(tmp_path: Path) -> None:
    async with simulated() as server:
        settings = load().exchanges["binance"]
        settings.websocket = server.urls["binance"]["websocket"]
        settings.rest = server.urls["binance"]["rest"]
        settings.markets = MARKETS
        for name, value in SBE.items():
            setattr(settings, name, value)
        stopping = asyncio.Event()
        recording = asyncio.create_task(
            capture(
                {"binance": settings},
                tmp_path,
                ["orderbook", "trade"],
                stopping,
                max_bytes=1 << 30,
                segment_s=60,
            )
        )
        await until(lambda: sum(one.sent for one in server.connections["binance"]) > 150, "frames")
        stopping.set()
        await recording
    path, trades = recordings(tmp_path)
    recorded = RecordedBooks()
    binance = exchange_named("binance")
    with FeedReader(path) as reader:
        assert SIMULATED_KEY not in repr(reader.header)
        for record in reader:
            recorded.take(binance, record)
            assert SIMULATED_KEY.encode() not in record.payload
    wanted = {symbol: recorded.books["binance", symbol].id for symbol in SYMBOLS}
    async with (
        ExchangeServer(Playback([path, trades], speed=math.inf)) as server,
        collecting(server, "binance", markets=MARKETS, **SBE) as c,
    ):
        await c.until(
            lambda: all(c.worker.stage.entry(s).update_id == last for s, last in wanted.items()),
            "the end of the recording",
        )
        assert not c.count("gaps")
        assert not c.count("malformed")
        for symbol, market in SYMBOLS.items():
            book = recorded.books["binance", symbol]
            last = c.books(market)[-1]
            n = min(20, last.bids.shape[1])
            prices = sorted(map(float, book.bids), reverse=True)[:n]  # type: ignore[attr-defined]
            assert last.bids[0, :n].tolist() == prices
