"""Trades across the death of a collector: missed ones come by REST, each trade once."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import orjson

from coinspace._ext.message import REST, TRADE, Message
from coinspace.bus.segments import read_journal
from coinspace.config import Settings
from coinspace.health_file import read_health
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.collecting import rest_trades
from tests.flow.platform import environment
from tests.waiting import free_port, until

MARKETS = {"binance": "BTC/USDT", "upbit": "BTC/KRW", "bithumb": "BTC/KRW"}


def collector(data: Path, server: ExchangeServer, exchange: str) -> subprocess.Popen[bytes]:
    prefix = f"COINSPACE_EXCHANGES__{exchange.upper()}__"
    env = environment(data, free_port()) | {
        f"{prefix}WEBSOCKET": server.urls[exchange]["websocket"],
        f"{prefix}REST": server.urls[exchange]["rest"],
        f"{prefix}MARKETS": orjson.dumps([MARKETS[exchange]]).decode(),
    }
    with (data / f"{exchange}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "coinspace", "ticker-collector", exchange],
            env=env,
            cwd=data,
            stderr=log,
        )


def journalled(data: Path, exchange: str) -> list[Message]:
    folder = data / "journal" / f"ticker-collector-{exchange}"
    return [message for message in read_journal(folder) if message.kind == TRADE]


async def until_trades(data: Path, exchange: str, epochs: int) -> None:
    """Wait for trades of so many processes; a later one than the first has filled a gap."""
    last: list[Message] = []

    async def found() -> bool:
        nonlocal last
        trades = await asyncio.to_thread(journalled, data, exchange)
        last = [one for one in trades if one.epoch == max(t.epoch for t in trades)]
        health = read_health(Settings(data=data), f"ticker-collector-{exchange}")
        filled = health["counters"].get("trades_filled", 0) if health else 0
        return (
            len({one.epoch for one in trades}) == epochs
            and len(last) > 5
            # all that it has fetched by REST
            and sum(bool(one.flags & REST) for one in last) == filled
            and (epochs == 1 or filled > 0)
        )

    log = data / f"{exchange}.log"
    shown = lambda: (len(last), log.read_text()[-2000:])  # noqa: E731
    await until(found, f"trades of {epochs} processes", shown=shown)


async def killed_and_started_again(data: Path, server: ExchangeServer, exchange: str) -> None:
    process = collector(data, server, exchange)
    try:
        await until_trades(data, exchange, 1)
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        # the market trades meanwhile
        await asyncio.sleep(4)
        process = collector(data, server, exchange)
        await until_trades(data, exchange, 2)
        known = await rest_trades(server, exchange, MARKETS[exchange])
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
    trades = journalled(data, exchange)
    filled = [one for one in trades if one.flags & REST]
    assert filled
    assert {one.epoch for one in filled} == {max(one.epoch for one in trades)}
    ids = [one.id for one in trades]
    assert len(ids) == len(set(ids))
    ours = Counter((one.exchange_ns // 10**6, *one.values.tolist(), one.side) for one in trades)
    # the first frame is the last trade before the stream, and REST may return its siblings
    first = min(one.exchange_ns for one in trades[1:])
    last = max(one.exchange_ns for one in filled)
    theirs = Counter(
        (one.exchange_ns // 10**6, one.price, one.size, "sell" if one.sell else "buy")
        for one in known
        if first < one.exchange_ns <= last
    )
    assert not theirs - ours, "trades of the exchange that were not published"
    between = [key for key in ours if first // 10**6 < key[0] <= last // 10**6]
    assert all(ours[key] == theirs[key] for key in between), "each trade once"


async def test_trades_missed_by_a_killed_collector_come_once_by_rest() -> None:
    only = {exchange: [market] for exchange, market in MARKETS.items()}
    async with ExchangeServer(Simulation(7, only, rate=3.0), limits=False) as server:
        with ExitStack() as stack:
            # short folders: socket paths are limited
            folders = {
                exchange: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cs-")))
                for exchange in MARKETS
            }
            await asyncio.gather(
                *(
                    killed_and_started_again(folder, server, exchange)
                    for exchange, folder in folders.items()
                )
            )
